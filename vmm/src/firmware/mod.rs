//! What the machine tells its firmware and, through it, the operating system: ACPI and SMBIOS tables and the memory map.
//!
//! It only makes bytes. [`crate::boot`] decides where they go: firmware fetches them through the firmware configuration
//! device; without firmware they are put into guest memory as firmware would do it.
#![forbid(unsafe_code)]

mod acpi;
mod dsdt;
mod memory_map;
mod ports;
mod smbios;
mod table_loader;

#[cfg(test)]
mod tests;

pub(crate) use acpi::acpi_tables;
pub(crate) use memory_map::{MapEntry, MapKind, memory_map};
pub(crate) use ports::{TablePorts, table_ports};
pub(crate) use smbios::smbios;
pub(crate) use table_loader::{Placed, RSDP_FILE, TABLES_FILE};

use crate::memory::{HIGH_RAM_BASE, RamRange};

/// Guest-physical address of the local APIC of every processor.
pub(crate) const LOCAL_APIC_BASE: u32 = 0xfee0_0000;
/// Guest-physical address of the I/O APIC.
pub(crate) const IO_APIC_BASE: u32 = 0xfec0_0000;
/// First address behind the window for 32-bit base address registers.
pub(crate) const PCI_WINDOW_END: u64 = 0xfec0_0000;
/// Firmware puts 32-bit base address registers here or above, even where RAM ends earlier.
const PCI_WINDOW_LEAST: u64 = 2 << 30;
/// The window for 64-bit base address registers begins here, or behind RAM if that ends higher.
const PCI_HIGH_WINDOW_LEAST: u64 = 32 << 30;
const GIB: u64 = 1 << 30;

/// What the tables describe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Number of processors, 1 to 64, with APIC IDs from 0 up.
    pub cpus: u32,
    /// RAM in ascending order: below 4 GiB from address 0, the rest from 4 GiB.
    pub ram: Vec<RamRange>,
    /// Bits of a guest-physical address, as CPUID says it (36 to 52).
    pub(crate) address_bits: u32,
}

impl Platform {
    /// First address behind the RAM below 4 GiB.
    #[must_use]
    pub(crate) fn low_ram_end(&self) -> u64 {
        let below = self.ram.iter().filter(|range| range.base < HIGH_RAM_BASE);
        below.map(|range| range.base + range.length).max().unwrap_or(0)
    }

    /// First address behind all RAM.
    #[must_use]
    pub(crate) fn ram_end(&self) -> u64 {
        let ends = self.ram.iter().map(|range| range.base + range.length);
        ends.max().unwrap_or(0)
    }

    /// Bytes of RAM.
    #[must_use]
    pub(crate) fn ram_size(&self) -> u64 {
        self.ram.iter().map(|range| range.length).sum()
    }

    /// Addresses of 32-bit base address registers: first, and first behind.
    #[must_use]
    pub(crate) fn pci_window(&self) -> (u64, u64) {
        (self.low_ram_end().max(PCI_WINDOW_LEAST), PCI_WINDOW_END)
    }

    /// Addresses of 64-bit base address registers: first, and first behind. `None` if the address space ends before.
    /// OVMF uses the upper eighth of the address space, or 32 GiB to 64 GiB.
    #[must_use]
    pub(crate) fn pci_high_window(&self) -> Option<(u64, u64)> {
        let first = self.ram_end().next_multiple_of(GIB).max(PCI_HIGH_WINDOW_LEAST);
        let end = 1 << self.address_bits.clamp(32, 52);
        (first < end).then_some((first, end))
    }
}
