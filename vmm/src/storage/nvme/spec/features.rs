//! Features (NVMe 1.4, section 5.21.1).

/// Feature Identifiers (Figures 273 and 274).
pub(crate) mod id {
    /// Arbitration.
    pub(crate) const ARBITRATION: u8 = 0x01;
    /// Power Management.
    pub(crate) const POWER_MANAGEMENT: u8 = 0x02;
    /// Temperature Threshold.
    pub(crate) const TEMPERATURE_THRESHOLD: u8 = 0x04;
    /// Error Recovery.
    pub(crate) const ERROR_RECOVERY: u8 = 0x05;
    /// Volatile Write Cache.
    pub(crate) const VOLATILE_WRITE_CACHE: u8 = 0x06;
    /// Number of Queues.
    pub(crate) const NUMBER_OF_QUEUES: u8 = 0x07;
    /// Interrupt Coalescing.
    pub(crate) const INTERRUPT_COALESCING: u8 = 0x08;
    /// Interrupt Vector Configuration.
    pub(crate) const INTERRUPT_VECTOR_CONFIGURATION: u8 = 0x09;
    /// Write Atomicity Normal.
    pub(crate) const WRITE_ATOMICITY_NORMAL: u8 = 0x0a;
    /// Asynchronous Event Configuration.
    pub(crate) const ASYNC_EVENT_CONFIGURATION: u8 = 0x0b;
}

/// CDW10 of Set Features: SV.
pub(crate) const SAVE: u32 = 1 << 31;
/// Supported capabilities (Figure 184): namespace specific.
pub(crate) const NAMESPACE_SPECIFIC: u32 = 1 << 1;
/// Supported capabilities: changeable.
pub(crate) const CHANGEABLE: u32 = 1 << 2;
/// CDW10 of Get Features, SEL, bits 10:8 (Figure 182).
pub(crate) mod select {
    /// The current value.
    pub(crate) const CURRENT: u32 = 0;
    /// The default value.
    pub(crate) const DEFAULT: u32 = 1;
    /// The saved value.
    pub(crate) const SAVED: u32 = 2;
    /// What can be done with the feature.
    pub(crate) const CAPABILITIES: u32 = 3;
}

/// Asynchronous Event Configuration (section 5.21.1.11) and OAES: Namespace Attribute Notices.
pub(crate) const NAMESPACE_ATTRIBUTE_NOTICES: u32 = 1 << 8;
