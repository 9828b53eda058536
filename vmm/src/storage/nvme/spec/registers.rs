//! Controller registers (NVMe 1.4, section 3.1): offsets, fields and values.

/// Offset of the first doorbell in BAR 0.
pub(crate) const DOORBELLS: u64 = 0x1000;

/// Offsets of the registers in BAR 0 (Figure 68).
pub(crate) mod offset {
    /// Controller Capabilities.
    pub(crate) const CAP: u64 = 0x00;
    /// Version.
    pub(crate) const VS: u64 = 0x08;
    /// Interrupt Mask Set.
    pub(crate) const INTMS: u64 = 0x0c;
    /// Interrupt Mask Clear.
    pub(crate) const INTMC: u64 = 0x10;
    /// Controller Configuration.
    pub(crate) const CC: u64 = 0x14;
    /// Controller Status.
    pub(crate) const CSTS: u64 = 0x1c;
    /// NVM Subsystem Reset.
    pub(crate) const NSSR: u64 = 0x20;
    /// Admin Queue Attributes.
    pub(crate) const AQA: u64 = 0x24;
    /// Admin Submission Queue Base Address.
    pub(crate) const ASQ: u64 = 0x28;
    /// Admin Completion Queue Base Address.
    pub(crate) const ACQ: u64 = 0x30;
}

/// Everything from here to the doorbells is reserved: no boot partitions, memory buffer or persistent region.
pub(crate) const DEFINED_END: u64 = 0x38;

/// VS: 1.4.0 (section 3.1.2).
pub(crate) const VERSION: u32 = 0x0001_0400;

/// What has to be written to NSSR for an NVM Subsystem Reset: "NVMe" (section 3.1.7).
pub(crate) const SUBSYSTEM_RESET: u32 = 0x4e56_4d65;

/// Controller Configuration, CC (section 3.1.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Configuration(pub u32);

impl Configuration {
    /// Bits that the host can write.
    pub(crate) const WRITABLE: u32 = 0x00ff_fff1;

    /// EN.
    #[must_use]
    pub(crate) fn enabled(self) -> bool {
        self.0 & 1 != 0
    }

    /// CSS, bits 6:4.
    #[must_use]
    pub(crate) fn command_set(self) -> u32 {
        self.0 >> 4 & 7
    }

    /// MPS, bits 10:7: the page size is 2^(12 + MPS) bytes.
    #[must_use]
    pub(crate) fn memory_page_size(self) -> u32 {
        self.0 >> 7 & 0xf
    }

    /// AMS, bits 13:11.
    #[must_use]
    pub(crate) fn arbitration(self) -> u32 {
        self.0 >> 11 & 7
    }

    /// SHN, bits 15:14: normal or abrupt shutdown, which are done alike. The reserved value asks for nothing.
    #[must_use]
    pub(crate) fn wants_shutdown(self) -> bool {
        matches!(self.0 >> 14 & 3, 1 | 2)
    }

    /// IOSQES, bits 19:16: log2 of the size of an I/O submission queue entry.
    #[must_use]
    pub(crate) fn submission_entry_size(self) -> u32 {
        self.0 >> 16 & 0xf
    }

    /// IOCQES, bits 23:20: log2 of the size of an I/O completion queue entry.
    #[must_use]
    pub(crate) fn completion_entry_size(self) -> u32 {
        self.0 >> 20 & 0xf
    }
}

/// CSTS.RDY (section 3.1.6).
pub(crate) const READY: u32 = 1;
/// CSTS.CFS: Controller Fatal Status.
pub(crate) const FATAL: u32 = 1 << 1;
/// CSTS.SHST: shutdown processing occurring.
pub(crate) const SHUTDOWN_OCCURRING: u32 = 1 << 2;
/// CSTS.SHST: shutdown processing complete.
pub(crate) const SHUTDOWN_COMPLETE: u32 = 2 << 2;
/// CSTS.SHST, bits 3:2.
pub(crate) const SHUTDOWN_MASK: u32 = 3 << 2;
/// CSTS.NSSRO: an NVM Subsystem Reset occurred; stays until the host writes a 1 to it.
pub(crate) const SUBSYSTEM_RESET_OCCURRED: u32 = 1 << 4;

/// Controller Capabilities, CAP (section 3.1.1). Bits 15:0 are MQES, 0's based.
pub(crate) mod cap {
    /// CQR.
    pub(crate) const CONTIGUOUS_QUEUES_REQUIRED: u64 = 1 << 16;
    /// TO, in units of 500 ms.
    pub(crate) const TIMEOUT_SHIFT: u32 = 24;
    /// NSSRS.
    pub(crate) const SUBSYSTEM_RESET_SUPPORTED: u64 = 1 << 36;
    /// CSS: the NVM command set.
    pub(crate) const NVM_COMMAND_SET: u64 = 1 << 37;
}

/// Admin Queue Attributes, AQA (section 3.1.8): the sizes of the admin queues, 0's based.
pub(crate) mod aqa {
    /// Bits that the host can write.
    pub(crate) const WRITABLE: u32 = 0x0fff_0fff;

    /// Entries of the submission queue (ASQS, bits 11:0).
    #[must_use]
    pub(crate) fn submission_entries(attributes: u32) -> u32 {
        (attributes & 0xfff) + 1
    }

    /// Entries of the completion queue (ACQS, bits 27:16).
    #[must_use]
    pub(crate) fn completion_entries(attributes: u32) -> u32 {
        (attributes >> 16 & 0xfff) + 1
    }
}

/// The one memory page size that the controller has (CAP.MPSMIN = CAP.MPSMAX = 0), in bytes.
pub(crate) const PAGE_SIZE: u64 = 4096;
