//! Guest physical memory: where RAM is, and checked access to it.
//!
//! Talks to `vm-memory` and, once, to KVM (memory slots). It must not know page tables or devices. Every address may
//! come from the guest; nothing here panics on any of them.

mod software_breakpoints;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use thiserror::Error;
use vm_memory::{
    Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _, MmapRegion,
    VolatileMemory as _,
};

use self::software_breakpoints::{INT3, SoftwareBreakpoints};
use crate::kvm::KvmError;

/// RAM below this address is "low"; the rest starts at [`HIGH_RAM_BASE`]. The hole between holds the PCI window, the
/// APICs and the firmware.
pub(crate) const LOW_RAM_LIMIT: u64 = 3 << 30;
/// Where RAM beyond [`LOW_RAM_LIMIT`] continues.
pub(crate) const HIGH_RAM_BASE: u64 = 4 << 30;
/// RAM comes in units of this many bytes, so that large pages map it exactly.
pub(crate) const RAM_GRANULARITY: u64 = 2 << 20;
/// Least RAM of a machine in bytes.
pub(crate) const MINIMUM_RAM: u64 = 16 << 20;
/// Most RAM of a machine in bytes (1 TiB).
pub(crate) const MAXIMUM_RAM: u64 = 1 << 40;

/// Why guest memory could not be set up.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// There is no machine with so much.
    #[error(
        "guest memory has to be a multiple of 2 MiB from {least} MiB to {most} MiB, not {0} bytes",
        least = MINIMUM_RAM >> 20,
        most = MAXIMUM_RAM >> 20
    )]
    Size(u64),
    /// The host has not so much.
    #[error("cannot provide {bytes} bytes of guest memory: {reason}")]
    Host {
        /// Size asked for.
        bytes: u64,
        /// Why.
        reason: String,
    },
    /// KVM does not take it.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// An access left guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("guest-physical {address:#x} with {length:#x} bytes is not RAM")]
pub struct PhysicalAccessError {
    /// First guest-physical address of the access.
    pub address: u64,
    /// Length of the access in bytes.
    pub length: u64,
}

/// A stretch of guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamRange {
    /// First guest-physical address.
    pub base: u64,
    /// Length in bytes.
    pub length: u64,
}

/// All RAM of one machine. Cloning is cheap and gives a handle to the same RAM.
#[derive(Debug, Clone)]
pub struct GuestRam {
    map: GuestMemoryMmap,
    software_breakpoints: Arc<SoftwareBreakpoints>,
    firmware: Arc<RwLock<Vec<Firmware>>>,
}

/// Memory that a processor reads and that is no RAM.
#[derive(Debug)]
struct Firmware {
    base: u64,
    memory: Arc<MmapRegion>,
}

impl GuestRam {
    /// Whether a machine can have so many bytes of RAM.
    ///
    /// # Errors
    /// [`MemoryError::Size`] if `bytes` is not a multiple of 2 MiB or out of range.
    pub(crate) fn check_size(bytes: u64) -> Result<(), MemoryError> {
        if !(MINIMUM_RAM..=MAXIMUM_RAM).contains(&bytes) || bytes % RAM_GRANULARITY != 0 {
            return Err(MemoryError::Size(bytes));
        }
        Ok(())
    }

    /// Where RAM of so many bytes ends.
    pub(crate) fn end_of(bytes: u64) -> u64 {
        match bytes.checked_sub(LOW_RAM_LIMIT) {
            None | Some(0) => bytes,
            Some(high) => HIGH_RAM_BASE.saturating_add(high),
        }
    }

    /// Reserves `bytes` of RAM; pages are provided by the host as they are touched.
    ///
    /// # Errors
    /// [`MemoryError::Size`] if `bytes` is not a multiple of 2 MiB or out of range, [`MemoryError::Host`] if the host
    /// has not that much address space.
    pub fn new(bytes: u64) -> Result<Self, MemoryError> {
        Self::check_size(bytes)?;
        let memory_error = |reason: String| MemoryError::Host { bytes, reason };
        let length = |bytes: u64| usize::try_from(bytes).map_err(|error| memory_error(error.to_string()));
        let mut ranges = vec![(GuestAddress(0), length(bytes.min(LOW_RAM_LIMIT))?)];
        if bytes > LOW_RAM_LIMIT {
            ranges.push((GuestAddress(HIGH_RAM_BASE), length(bytes - LOW_RAM_LIMIT)?));
        }
        let map = GuestMemoryMmap::from_ranges(&ranges).map_err(|error| memory_error(error.to_string()))?;
        let ram = Self {
            map,
            software_breakpoints: Arc::default(),
            firmware: Arc::default(),
        };
        ram.ask_for_large_pages();
        Ok(ram)
    }

    /// Asks the host for large pages: fewer walks of page tables for the guest's accesses, and for ours to the guest.
    /// A host that has none to give leaves the small ones.
    fn ask_for_large_pages(&self) {
        for region in self.map.iter() {
            let Ok(length) = usize::try_from(region.len()) else {
                continue;
            };
            // SAFETY: the range is exactly a mapping that vm-memory has just made and that `self` keeps; the advice changes
            // neither its content nor what may be done with it.
            #[allow(unsafe_code)]
            unsafe {
                libc::madvise(region.as_ptr().cast(), length, libc::MADV_HUGEPAGE);
            }
        }
    }

    /// The underlying map, for device models that work on `vm-memory`.
    #[must_use]
    pub fn map(&self) -> &GuestMemoryMmap {
        &self.map
    }

    /// The stretches of RAM in ascending order.
    pub fn ranges(&self) -> impl Iterator<Item = RamRange> + '_ {
        self.map.iter().map(|region| RamRange {
            base: region.start_addr().0,
            length: region.len(),
        })
    }

    /// Bytes of RAM in all.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.ranges().map(|range| range.length).sum()
    }

    /// First address after the last RAM.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.map.last_addr().0 + 1
    }

    /// Reads guest-physical memory. What a stop point was written over is read as it was.
    ///
    /// # Errors
    /// [`PhysicalAccessError`] if any byte is not RAM; `data` is then undefined.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), PhysicalAccessError> {
        self.map
            .read_slice(data, GuestAddress(address))
            .map_err(|_| Self::outside(address, data.len()))?;
        if self.software_breakpoints.any() {
            self.software_breakpoints.hide(address, data);
        }
        Ok(())
    }

    /// Has memory at `base` be read by [`GuestRam::read_memory`] too.
    pub(crate) fn show_firmware(&self, base: u64, memory: Arc<MmapRegion>) {
        let mut firmware = self.firmware.write().unwrap_or_else(PoisonError::into_inner);
        firmware.push(Firmware { base, memory });
    }

    /// Reads guest-physical memory as a processor does: RAM, or firmware. What a stop point was written over is read as
    /// it was.
    ///
    /// # Errors
    /// [`PhysicalAccessError`] if not all bytes are of the one or the other; `data` is then undefined.
    pub fn read_memory(&self, address: u64, data: &mut [u8]) -> Result<(), PhysicalAccessError> {
        self.read(address, data).or_else(|outside| {
            let firmware = self.firmware.read().unwrap_or_else(PoisonError::into_inner);
            let part = firmware.iter().find_map(|part| {
                let offset = usize::try_from(address.checked_sub(part.base)?).ok()?;
                part.memory.get_slice(offset, data.len()).ok()
            });
            let part = part.ok_or(outside)?;
            part.copy_to(data);
            Ok(())
        })
    }

    /// Writes guest-physical memory.
    ///
    /// # Errors
    /// [`PhysicalAccessError`] if any byte is not RAM; some may have been written.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), PhysicalAccessError> {
        self.map
            .write_slice(data, GuestAddress(address))
            .map_err(|_| Self::outside(address, data.len()))
    }

    /// Writes guest-physical memory beneath the stop points in it, which stay.
    ///
    /// # Errors
    /// As [`GuestRam::write`].
    pub(crate) fn write_beneath(&self, address: u64, data: &[u8]) -> Result<(), PhysicalAccessError> {
        self.write(address, data)?;
        if self.software_breakpoints.any() {
            for covered in self.software_breakpoints.replace(address, data) {
                self.write(covered, &[INT3])?;
            }
        }
        Ok(())
    }

    /// Writes INT3 over a byte.
    ///
    /// # Errors
    /// [`PhysicalAccessError`] if it is not RAM.
    pub(crate) fn set_software_breakpoint(&self, address: u64) -> Result<(), PhysicalAccessError> {
        let mut original = [0];
        self.read(address, &mut original)?;
        if self.software_breakpoints.insert(address, original[0]) {
            self.write(address, &[INT3])?;
        }
        Ok(())
    }

    /// Takes INT3 out. A byte that the guest has written to since stays as it is.
    pub(crate) fn remove_software_breakpoint(&self, address: u64) {
        let Some(original) = self.software_breakpoints.remove(address) else {
            return;
        };
        let mut now = [0];
        if self.read(address, &mut now).is_ok() && now == [INT3] {
            // RAM, or INT3 could not have been made.
            let _ = self.write(address, &[original]);
        }
    }

    /// Reads one naturally aligned 64-bit value in one piece, as a processor reads a page table entry.
    ///
    /// # Errors
    /// [`PhysicalAccessError`] if it is not RAM or not aligned.
    pub fn load_u64(&self, address: u64) -> Result<u64, PhysicalAccessError> {
        self.map
            .load(GuestAddress(address), Ordering::Acquire)
            .map_err(|_| Self::outside(address, 8))
    }

    /// Writes one naturally aligned 64-bit value in one piece, after everything that this thread wrote before.
    ///
    /// # Errors
    /// As [`GuestRam::load_u64`].
    pub fn store_u64(&self, address: u64, value: u64) -> Result<(), PhysicalAccessError> {
        self.map
            .store(value, GuestAddress(address), Ordering::Release)
            .map_err(|_| Self::outside(address, 8))
    }

    /// Sets or clears bits of one naturally aligned 64-bit value, as a processor does by an instruction with LOCK.
    ///
    /// # Errors
    /// As [`GuestRam::load_u64`].
    pub fn change_bits_u64(&self, address: u64, bits: u64, set: bool) -> Result<(), PhysicalAccessError> {
        let outside = |_| Self::outside(address, 8);
        let slice = self.map.get_slice(GuestAddress(address), 8).map_err(outside)?;
        let value = slice.get_atomic_ref::<AtomicU64>(0);
        let value = value.map_err(|_| Self::outside(address, 8))?;
        if set {
            value.fetch_or(bits, Ordering::SeqCst);
        } else {
            value.fetch_and(!bits, Ordering::SeqCst);
        }
        Ok(())
    }

    /// As [`GuestRam::load_u64`], from firmware too: it may have page tables.
    pub(crate) fn load_entry_u64(&self, address: u64) -> Result<u64, PhysicalAccessError> {
        self.load_u64(address).or_else(|_| {
            let mut entry = [0; 8];
            self.read_memory(address, &mut entry)?;
            Ok(u64::from_le_bytes(entry))
        })
    }

    /// As [`GuestRam::load_entry_u64`], a 32-bit value.
    pub(crate) fn load_entry_u32(&self, address: u64) -> Result<u32, PhysicalAccessError> {
        let loaded = self.map.load::<u32>(GuestAddress(address), Ordering::Acquire);
        loaded.or_else(|_| {
            let mut entry = [0; 4];
            self.read_memory(address, &mut entry)?;
            Ok(u32::from_le_bytes(entry))
        })
    }

    fn outside(address: u64, length: usize) -> PhysicalAccessError {
        PhysicalAccessError {
            address,
            length: length as u64,
        }
    }

    /// Gives the RAM to a virtual machine as memory slots 0 and up.
    ///
    /// The caller keeps a clone of `self` alive as long as the virtual machine runs.
    pub(crate) fn register(&self, vm: &VmFd) -> Result<(), MemoryError> {
        for (slot, region) in (0..).zip(self.map.iter()) {
            let host = region
                .get_host_address(vm_memory::MemoryRegionAddress(0))
                .map_err(|error| MemoryError::Host {
                    bytes: region.len(),
                    reason: error.to_string(),
                })?;
            let slot = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: host as u64,
            };
            // SAFETY: the region was mapped by vm-memory with this length and stays mapped as long as a clone of
            // `self` lives, which outlives the virtual machine in every machine of this crate; slots do not overlap.
            #[allow(unsafe_code)]
            unsafe { vm.set_user_memory_region(slot) }.map_err(KvmError::refused("take the guest memory"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_ram_is_known_before_it_is_there() {
        for bytes in [MINIMUM_RAM, LOW_RAM_LIMIT, LOW_RAM_LIMIT + RAM_GRANULARITY, 5 << 30] {
            assert_eq!(GuestRam::new(bytes).unwrap().end(), GuestRam::end_of(bytes));
        }
    }

    #[test]
    fn ram_beyond_three_gib_continues_at_four_gib() {
        let ram = GuestRam::new((3 << 30) + (2 << 20)).unwrap();
        let ranges: Vec<_> = ram.ranges().map(|range| (range.base, range.length)).collect();
        assert_eq!(ranges, [(0, 3 << 30), (4 << 30, 2 << 20)]);
        assert_eq!(ram.end(), (4 << 30) + (2 << 20));
        assert!(ram.write(3 << 30, &[1]).is_err());
        assert!(ram.write((3 << 30) - 1, &[1, 2]).is_err());
        ram.write(4 << 30, &[1]).unwrap();
    }

    #[test]
    fn odd_sizes_are_refused() {
        for bytes in [0, 1 << 20, (16 << 20) + 4096, u64::MAX] {
            assert!(matches!(GuestRam::new(bytes), Err(MemoryError::Size(_))), "{bytes}");
        }
    }

    #[test]
    fn software_breakpoints_are_hidden_from_the_host_and_leave_what_the_guest_has_written() {
        let ram = GuestRam::new(16 << 20).unwrap();
        let seen = |address: u64| {
            let (mut byte, mut raw) = ([0], [0]);
            ram.read(address, &mut byte).unwrap();
            ram.map().read_slice(&mut raw, GuestAddress(address)).unwrap();
            (byte[0], raw[0])
        };
        ram.write(0x1000, &[1, 2, 3, 4]).unwrap();
        ram.set_software_breakpoint(0x1001).unwrap();
        ram.set_software_breakpoint(0x1001).unwrap();
        ram.set_software_breakpoint(0x1002).unwrap();
        assert_eq!(seen(0x1001), (2, INT3));
        let mut all = [0; 4];
        ram.read(0x1000, &mut all).unwrap();
        assert_eq!(all, [1, 2, 3, 4]);
        // A debugger writes beneath them.
        ram.write_beneath(0x1000, &[5, 6]).unwrap();
        assert_eq!((seen(0x1000), seen(0x1001)), ((5, 5), (6, INT3)));
        // The guest does not know of them.
        ram.write(0x1002, &[9]).unwrap();
        assert_eq!(seen(0x1002), (9, 9));
        ram.remove_software_breakpoint(0x1001);
        ram.remove_software_breakpoint(0x1002);
        ram.remove_software_breakpoint(0x1003);
        assert_eq!((seen(0x1001), seen(0x1002), seen(0x1003)), ((6, 6), (9, 9), (4, 4)));
        assert!(!ram.software_breakpoints.any());
        assert!(ram.set_software_breakpoint(16 << 20).is_err());
        assert!(!ram.software_breakpoints.any());
    }

    #[test]
    fn firmware_is_read_as_a_processor_reads_it_and_is_no_ram() {
        let ram = GuestRam::new(16 << 20).unwrap();
        let memory = MmapRegion::new(0x1000).unwrap();
        memory.as_volatile_slice().copy_from(&[0x5au8; 0x1000]);
        ram.show_firmware(0xffff_f000, Arc::new(memory));
        let mut data = [0; 16];
        ram.clone().read_memory(0xffff_fff0, &mut data).unwrap();
        assert_eq!(data, [0x5a; 16]);
        assert_eq!(ram.load_entry_u64(0xffff_fff8), Ok(0x5a5a_5a5a_5a5a_5a5a));
        assert_eq!(ram.load_entry_u32(0xffff_fffc), Ok(0x5a5a_5a5a));
        assert!(ram.read(0xffff_fff0, &mut data).is_err());
        assert!(ram.write(0xffff_fff0, &data).is_err());
        for outside in [0xffff_fff1, 0xffff_efff, 0x1_0000_0000, u64::MAX, 16 << 20] {
            assert!(ram.read_memory(outside, &mut data).is_err(), "{outside:#x}");
        }
        ram.read_memory(0, &mut data).unwrap();
    }

    #[test]
    fn bits_of_a_word_change_alone() {
        let ram = GuestRam::new(16 << 20).unwrap();
        ram.store_u64(0x1008, 5).unwrap();
        ram.change_bits_u64(0x1008, 1 << 63, true).unwrap();
        assert_eq!(ram.load_u64(0x1008), Ok(5 | 1 << 63));
        ram.change_bits_u64(0x1008, 1 << 63 | 1, false).unwrap();
        assert_eq!((ram.load_u64(0x1008), ram.load_u64(0x1000)), (Ok(4), Ok(0)));
        for outside in [0x1004, 16 << 20, u64::MAX - 7] {
            assert!(ram.store_u64(outside, 1).is_err(), "{outside:#x}");
            assert!(ram.change_bits_u64(outside, 1, true).is_err(), "{outside:#x}");
        }
    }

    #[test]
    fn the_end_of_the_address_space_is_an_error() {
        let ram = GuestRam::new(16 << 20).unwrap();
        assert!(ram.read(u64::MAX, &mut [0; 16]).is_err());
        assert!(ram.load_u64(u64::MAX - 7).is_err());
    }
}
