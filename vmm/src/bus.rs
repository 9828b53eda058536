//! The port I/O and the memory-mapped I/O bus: which device answers at which address.
//!
//! A bus talks to whatever implements [`BusDevice`]. It must not know what kind of device that is, nor KVM: the vCPU
//! loop turns an exit into one [`Bus::read`] or [`Bus::write`].
//!
//! Every I/O exit of every vCPU comes through here, so a lookup takes no lock: the sorted table of ranges is immutable,
//! and a change replaces the whole table. Each device does its own locking.
//!
//! There are two layers. *Fixed* ranges are put in while the machine is built and never overlap. *Movable* ranges are
//! what PCI base address registers decode at this moment. The guest chooses them, so they may overlap; then a fixed
//! range wins over a movable one, and the first in the list over later ones.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use thiserror::Error;

use crate::tally::{Counts, Tally};

/// A device that answers reads and writes on a [`Bus`].
///
/// The guest is hostile: any offset within the range and any length from 1 to 8 bytes, aligned or not, may come, from
/// several vCPUs at once. Neither call may panic, and neither may wait for another vCPU.
pub trait BusDevice: Send + Sync {
    /// Reads `data.len()` bytes at `offset` bytes from the start of the range. Bytes the device does not define have
    /// to be set too (all ones when nothing says otherwise).
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes `data` at `offset` bytes from the start of the range.
    fn write(&self, offset: u64, data: &[u8]);

    /// Takes the device back to the state after power-on, with its interrupt line released, and what it keeps over one
    /// (flash, CMOS memory) kept. No vCPU executes and no device worker works meanwhile. May come more than once.
    fn reset(&self) {}
}

/// A stretch of addresses and the device that answers there.
#[derive(Clone)]
pub(crate) struct BusRange {
    /// First address.
    pub base: u64,
    /// Length in bytes, not zero.
    pub length: u64,
    /// Who answers.
    pub device: Arc<dyn BusDevice>,
}

impl BusRange {
    /// Last address of the range; `None` if the range is empty or leaves the 64-bit address space.
    fn last(&self) -> Option<u64> {
        self.base.checked_add(self.length.checked_sub(1)?)
    }

    fn overlaps(&self, other: &Self) -> bool {
        match (self.last(), other.last()) {
            (Some(last), Some(other_last)) => self.base <= other_last && other.base <= last,
            _ => false,
        }
    }
}

impl fmt::Debug for BusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BusRange({:#x}, {:#x} bytes)", self.base, self.length)
    }
}

/// Why a range could not be put on a bus.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BusError {
    /// The range is empty or does not fit into the bus's address space.
    #[error("{base:#x} with {length:#x} bytes is no range of the {bus} bus")]
    BadRange {
        /// Name of the bus.
        bus: &'static str,
        /// First address asked for.
        base: u64,
        /// Length asked for.
        length: u64,
    },
    /// Another fixed range is there already.
    #[error("{base:#x} with {length:#x} bytes overlaps a range at {other:#x} on the {bus} bus")]
    Overlap {
        /// Name of the bus.
        bus: &'static str,
        /// First address asked for.
        base: u64,
        /// Length asked for.
        length: u64,
        /// First address of the range that is in the way.
        other: u64,
    },
}

/// The table in force: sorted by base, free of overlaps.
#[derive(Default)]
struct Table {
    ranges: Vec<BusRange>,
}

impl Table {
    /// Index of the first range that ends at or after `address`.
    fn at_or_after(&self, address: u64) -> usize {
        self.ranges
            .partition_point(|range| range.last().is_some_and(|last| last < address))
    }

    fn collision(&self, range: &BusRange) -> Option<&BusRange> {
        self.ranges
            .get(self.at_or_after(range.base))
            .filter(|found| found.overlaps(range))
    }

    fn insert(&mut self, range: BusRange) {
        let index = self.at_or_after(range.base);
        self.ranges.insert(index, range);
    }
}

/// What was put on the bus, before the two layers are merged into the [`Table`].
#[derive(Default)]
struct Layers {
    fixed: Vec<BusRange>,
    movable: Vec<BusRange>,
}

/// A kind of access that no device answered: where, how long, and whether a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnassignedPlace {
    /// First address of the access.
    pub address: u64,
    /// Length in bytes, 1 to 8.
    pub length: usize,
    /// A write rather than a read.
    pub write: bool,
}

/// One address space of devices: port I/O or memory-mapped I/O.
///
/// Reads that nobody answers give all ones, as on a PC, and writes that nobody takes are dropped; both are counted
/// by kind.
pub struct Bus {
    name: &'static str,
    last_address: u64,
    table: ArcSwap<Table>,
    layers: Mutex<Layers>,
    unassigned: Tally<UnassignedPlace>,
}

impl Bus {
    /// The port I/O bus: 64 KiB of ports.
    #[must_use]
    pub fn pio() -> Self {
        Self::new("port I/O", u64::from(u16::MAX))
    }

    /// The memory-mapped I/O bus: every guest-physical address that is not RAM.
    #[must_use]
    pub fn mmio() -> Self {
        Self::new("memory-mapped I/O", u64::MAX)
    }

    fn new(name: &'static str, last_address: u64) -> Self {
        Self {
            name,
            last_address,
            table: ArcSwap::default(),
            layers: Mutex::default(),
            unassigned: Tally::default(),
        }
    }

    /// Puts a device at a fixed place.
    ///
    /// # Errors
    /// [`BusError`] if the range is empty, too large, or overlaps another fixed range.
    pub fn insert(&self, base: u64, length: u64, device: Arc<dyn BusDevice>) -> Result<(), BusError> {
        let range = BusRange { base, length, device };
        if !self.holds(&range) {
            return Err(BusError::BadRange {
                bus: self.name,
                base,
                length,
            });
        }
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = layers.fixed.iter().find(|fixed| fixed.overlaps(&range)) {
            return Err(BusError::Overlap {
                bus: self.name,
                base,
                length,
                other: found.base,
            });
        }
        layers.fixed.push(range);
        self.publish(&layers);
        Ok(())
    }

    /// Replaces all movable ranges at once.
    ///
    /// A range that does not fit the bus or collides with a fixed range or with one earlier in the list is left out,
    /// until a later call finds its place free. Returned is, for each range in order, whether it is in force.
    ///
    /// A vCPU that looked the old table up just before may still be inside the device's call when this returns.
    pub(crate) fn set_movable(&self, ranges: Vec<BusRange>) -> Vec<bool> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.movable = ranges;
        self.publish(&layers)
    }

    /// Merges the layers and puts the result in force; says which movable ranges are in it.
    fn publish(&self, layers: &Layers) -> Vec<bool> {
        let mut table = Table::default();
        for range in &layers.fixed {
            table.insert(range.clone());
        }
        let mapped = layers.movable.iter().map(|range| {
            let free = self.holds(range) && table.collision(range).is_none();
            if free {
                table.insert(range.clone());
            } else {
                tracing::debug!(
                    bus = self.name,
                    ?range,
                    "range is not decoded: it collides or leaves the bus"
                );
            }
            free
        });
        let mapped = mapped.collect();
        self.table.store(Arc::new(table));
        mapped
    }

    fn holds(&self, range: &BusRange) -> bool {
        range.last().is_some_and(|last| last <= self.last_address)
    }

    /// Resets every device at a fixed place; what is at a movable one belongs to such a device. See [`BusDevice::reset`].
    pub fn reset(&self) {
        // A device may move the movable ranges meanwhile.
        let fixed = self.layers.lock().unwrap_or_else(PoisonError::into_inner).fixed.clone();
        for range in fixed {
            range.device.reset();
        }
    }

    /// Performs one read of 1 to 8 bytes. An access that spans several ranges is split between them.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        let table = self.table.load();
        let mut unassigned = false;
        let mut done = 0;
        while done < data.len() {
            let (found, end) = Self::piece(&table, address.wrapping_add(done as u64), done, data.len());
            let piece = &mut data[done..end];
            if let Some((range, offset)) = found {
                range.device.read(offset, piece);
            } else {
                piece.fill(0xff);
                unassigned = true;
            }
            done = end;
        }
        if unassigned {
            self.note_unassigned(address, data.len(), false);
            tracing::trace!(
                bus = self.name,
                address,
                length = data.len(),
                "read of an unassigned address"
            );
        }
    }

    /// Performs one write of 1 to 8 bytes. An access that spans several ranges is split between them.
    pub fn write(&self, address: u64, data: &[u8]) {
        let table = self.table.load();
        let mut unassigned = false;
        let mut done = 0;
        while done < data.len() {
            let (found, end) = Self::piece(&table, address.wrapping_add(done as u64), done, data.len());
            match found {
                Some((range, offset)) => range.device.write(offset, &data[done..end]),
                None => unassigned = true,
            }
            done = end;
        }
        if unassigned {
            self.note_unassigned(address, data.len(), true);
            tracing::trace!(bus = self.name, address, ?data, "write to an unassigned address");
        }
    }

    /// Finds who answers at `address`, and up to which byte (exclusive) of the access the same answer holds.
    /// The returned end is always greater than `done`, so the callers' loops come to an end.
    fn piece(table: &Table, address: u64, done: usize, length: usize) -> (Option<(&BusRange, u64)>, usize) {
        let wanted = (length - done) as u64;
        let Some(range) = table.ranges.get(table.at_or_after(address)) else {
            return (None, length);
        };
        if let Some(gap) = range.base.checked_sub(address).filter(|gap| *gap > 0) {
            return (None, done + gap.min(wanted) as usize);
        }
        let offset = address - range.base;
        (
            Some((range, offset)),
            done + (range.length - offset).min(wanted) as usize,
        )
    }

    fn note_unassigned(&self, address: u64, length: usize, write: bool) {
        self.unassigned.count(UnassignedPlace { address, length, write });
    }

    /// Which accesses nobody answered so far, and how often each came.
    #[must_use]
    pub fn unassigned(&self) -> Counts<UnassignedPlace> {
        self.unassigned.counts()
    }

    /// Whether a device answers at `address` at this moment.
    #[must_use]
    pub fn answers(&self, address: u64) -> bool {
        let table = self.table.load();
        matches!(Self::piece(&table, address, 0, 1), (Some(_), _))
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = &self.table.load().ranges;
        f.debug_struct("Bus")
            .field("name", &self.name)
            .field("ranges", ranges)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Answers with the low byte of its own name for every byte, and notes what it was asked.
    struct Named(u8, Mutex<Vec<(u64, Vec<u8>)>>);

    impl Named {
        fn new(name: u8) -> Arc<Self> {
            Arc::new(Self(name, Mutex::default()))
        }
    }

    impl BusDevice for Named {
        fn read(&self, _offset: u64, data: &mut [u8]) {
            data.fill(self.0);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.1.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    fn read<const N: usize>(bus: &Bus, address: u64) -> [u8; N] {
        let mut data = [0; N];
        bus.read(address, &mut data);
        data
    }

    #[test]
    fn unassigned_accesses_read_ones_and_are_counted() {
        let bus = Bus::pio();
        assert_eq!(read(&bus, 0x80), [0xff; 4]);
        bus.write(0x80, &[1]);
        bus.write(0x80, &[1, 2]);
        bus.write(0x80, &[1, 2]);
        let place = |length, write| UnassignedPlace {
            address: 0x80,
            length,
            write,
        };
        let expected = [(place(1, true), 1), (place(2, true), 2), (place(4, false), 1)];
        assert_eq!(bus.unassigned().kinds, expected.into());
        assert!(!bus.answers(0x80));
    }

    #[test]
    fn an_access_across_ranges_is_split() {
        let (bus, first, second) = (Bus::mmio(), Named::new(1), Named::new(2));
        bus.insert(0x100, 2, first.clone()).unwrap();
        bus.insert(0x103, 1, second.clone()).unwrap();
        assert_eq!(read(&bus, 0xff), [0xff, 1, 1, 0xff, 2, 0xff]);
        bus.write(0x101, &[10, 11, 12]);
        assert_eq!(*first.1.lock().unwrap(), [(1, vec![10])]);
        assert_eq!(*second.1.lock().unwrap(), [(0, vec![12])]);
    }

    #[test]
    fn fixed_ranges_must_not_overlap_nor_leave_the_bus() {
        let bus = Bus::pio();
        bus.insert(0x3f8, 8, Named::new(1)).unwrap();
        let overlap = bus.insert(0x3ff, 2, Named::new(2)).unwrap_err();
        assert_eq!(
            overlap,
            BusError::Overlap {
                bus: "port I/O",
                base: 0x3ff,
                length: 2,
                other: 0x3f8
            }
        );
        for (base, length) in [(0xffff, 2), (0, 0), (u64::MAX, 2)] {
            assert!(matches!(
                bus.insert(base, length, Named::new(2)),
                Err(BusError::BadRange { .. })
            ));
        }
        bus.insert(0xffff, 1, Named::new(3)).unwrap();
        assert!([0x3f8, 0x3ff, 0xffff].into_iter().all(|port| bus.answers(port)));
        assert!(![0x3f7, 0x400, 0xfffe].into_iter().any(|port| bus.answers(port)));
    }

    #[test]
    fn movable_ranges_yield_to_fixed_and_earlier_ones() {
        let bus = Bus::mmio();
        bus.insert(0x1000, 0x1000, Named::new(1)).unwrap();
        let range = |base, name| BusRange {
            base,
            length: 0x1000,
            device: Named::new(name),
        };
        let placed = bus.set_movable(vec![
            range(0x1800, 2),
            range(0x3000, 3),
            range(0x3fff, 4),
            range(u64::MAX, 5),
        ]);
        assert_eq!(placed, [false, true, false, false]);
        assert_eq!(read(&bus, 0x1fff), [1, 0xff]);
        assert_eq!(read(&bus, 0x3fff), [3, 0xff]);
        bus.set_movable(vec![range(0x3fff, 4)]);
        assert_eq!(read(&bus, 0x3ffe), [0xff, 4]);
    }

    proptest! {
        /// Whatever is on the bus, each byte is answered by the range that a linear scan finds.
        #[test]
        fn lookup_agrees_with_a_linear_scan(
            fixed in prop::collection::vec((0..200u64, 1..20u64), 0..12),
            movable in prop::collection::vec((0..200u64, 0..20u64), 0..12),
            accesses in prop::collection::vec((0..230u64, 1..9usize), 1..40),
        ) {
            let bus = Bus::mmio();
            let mut model: Vec<(u64, u64, u8)> = Vec::new();
            let free = |model: &[(u64, u64, u8)], base: u64, length: u64| {
                length > 0 && model.iter().all(|&(other, size, _)| base + length <= other || other + size <= base)
            };
            for (name, &(base, length)) in (1..).zip(&fixed) {
                let inserted = bus.insert(base, length, Named::new(name)).is_ok();
                prop_assert_eq!(inserted, free(&model, base, length));
                if inserted {
                    model.push((base, length, name));
                }
            }
            let names = || (100..).zip(movable.iter().copied());
            let placed = bus.set_movable(
                names().map(|(name, (base, length))| BusRange { base, length, device: Named::new(name) }).collect(),
            );
            for ((name, (base, length)), placed) in names().zip(placed) {
                prop_assert_eq!(placed, free(&model, base, length));
                if placed {
                    model.push((base, length, name));
                }
            }
            for (address, length) in accesses {
                let mut data = vec![0; length];
                bus.read(address, &mut data);
                for (byte, at) in data.into_iter().zip(address..) {
                    let found = model.iter().find(|&&(base, size, _)| base <= at && at < base + size);
                    prop_assert_eq!(byte, found.map_or(0xff, |found| found.2));
                }
            }
        }

        /// No address and no length makes the bus panic.
        #[test]
        fn hostile_accesses_are_harmless(address: u64, length in 0..9usize) {
            let bus = Bus::pio();
            bus.insert(0xfff0, 16, Named::new(1)).unwrap();
            let mut data = vec![0; length];
            bus.read(address, &mut data);
            bus.write(address | !15, &data);
        }
    }
}
