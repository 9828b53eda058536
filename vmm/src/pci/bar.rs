//! Base address registers: what a function decodes, and where the guest put it.
//!
//! Only arithmetic on register values; `config` keeps the registers, `host` moves the ranges on the buses.

/// The kind of address space that a BAR decodes (PCI 6.2.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; occupies this BAR and the next.
    Memory64,
    /// I/O ports.
    Io,
}

/// One base address register of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// Bytes decoded: a power of two; at least 16 for memory, and at most 2 GiB for 32-bit memory; 4 to 256 for ports.
    pub size: u64,
    /// Reads have no side effects and writes may be merged.
    pub(crate) prefetchable: bool,
}

impl Bar {
    /// A 32-bit memory BAR.
    #[must_use]
    pub const fn memory32(size: u64) -> Self {
        Self {
            kind: BarKind::Memory32,
            size,
            prefetchable: false,
        }
    }

    /// A 64-bit memory BAR.
    #[must_use]
    pub const fn memory64(size: u64) -> Self {
        Self {
            kind: BarKind::Memory64,
            size,
            prefetchable: false,
        }
    }

    /// An I/O BAR.
    #[must_use]
    pub const fn io(size: u64) -> Self {
        Self {
            kind: BarKind::Io,
            size,
            prefetchable: false,
        }
    }

    /// Whether the size is one that the register can express.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        let (least, most) = match self.kind {
            BarKind::Memory32 => (16, 1 << 31),
            BarKind::Memory64 => (16, 1 << 62),
            BarKind::Io => (4, 256),
        };
        self.size.is_power_of_two() && self.size >= least && self.size <= most
    }

    /// The read-only low bits: memory or I/O, type, prefetchable.
    #[must_use]
    pub(crate) const fn type_bits(&self) -> u32 {
        let prefetchable = if self.prefetchable { 8 } else { 0 };
        match self.kind {
            BarKind::Memory32 => prefetchable,
            BarKind::Memory64 => prefetchable | 4,
            BarKind::Io => 1,
        }
    }

    /// The bits that software can write, of both registers for a 64-bit BAR: reading them back after writing all ones
    /// tells the size.
    #[must_use]
    pub(crate) const fn writable_bits(&self) -> u64 {
        let address_bits = match self.kind {
            BarKind::Memory64 => u64::MAX,
            BarKind::Memory32 | BarKind::Io => u32::MAX as u64,
        };
        address_bits & !(self.size - 1)
    }

    /// Number of 32-bit registers it takes.
    #[must_use]
    pub const fn registers(&self) -> usize {
        if matches!(self.kind, BarKind::Memory64) { 2 } else { 1 }
    }

    /// The first address that a register value decodes; `None` if it stands for "not assigned": zero, or the value
    /// that software leaves there for a moment while it finds out the size.
    #[must_use]
    pub const fn decode(&self, value: u64) -> Option<u64> {
        let base = value & self.writable_bits();
        if base == 0 || base == self.writable_bits() {
            None
        } else {
            Some(base)
        }
    }
}

/// What a BAR decodes at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarWindow {
    /// Index of the (first) register, 0 to 5.
    pub index: u8,
    /// Its declaration.
    pub bar: Bar,
    /// First guest-physical address, or first port.
    pub base: u64,
}
