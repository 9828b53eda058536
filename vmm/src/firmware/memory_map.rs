//! The memory map: as QEMU's `etc/e820`, which firmware reads, and as Linux takes it from a boot loader (ACPI 15.1,
//! "INT 15H, E820H").

use super::Platform;

/// What a range is (ACPI table 15-374).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum MapKind {
    /// RAM.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
    /// Tables that may be overwritten once they have been read.
    AcpiReclaimable = 3,
}

/// One range of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MapEntry {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub length: u64,
    /// What it is.
    pub kind: MapKind,
}

impl MapEntry {
    /// The 20 bytes of an `etc/e820` entry.
    #[must_use]
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.base, self.length].map(u64::to_le_bytes).concat();
        bytes.extend((self.kind as u32).to_le_bytes());
        bytes
    }
}

/// All RAM of the platform, in the form for firmware.
#[must_use]
pub(crate) fn memory_map(platform: &Platform) -> Vec<MapEntry> {
    let entries = platform.ram.iter().map(|range| MapEntry {
        base: range.base,
        length: range.length,
        kind: MapKind::Ram,
    });
    entries.collect()
}
