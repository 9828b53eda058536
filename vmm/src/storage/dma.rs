//! Guest memory as a controller reaches it by DMA: bytes at a physical address, or an error where there is no RAM.
//!
//! All DMA goes through here. It must not know what is transferred, or how a guest describes where its data are (PRPs,
//! scatter gather lists): the controller turns that into [`Segment`]s first.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions, VolatileSlice};

use super::segments::{self, Segment};

/// An address range that the controller cannot reach: it is not (wholly) guest memory, or bus mastering is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not guest memory")]
pub struct NotMemory;

/// Memory that the controller may read and write: guest RAM and nothing else.
pub trait DmaMemory: Send {
    /// Whether the whole range is there.
    fn contains(&self, address: u64, length: usize) -> bool;

    /// Reads the whole of `buffer` from `address`.
    ///
    /// # Errors
    /// Part of the range is not memory; `buffer` may have been filled in part.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), NotMemory>;

    /// Writes the whole of `data` to `address`.
    ///
    /// # Errors
    /// Part of the range is not memory; the part in front of it may have been written.
    fn write(&self, address: u64, data: &[u8]) -> Result<(), NotMemory>;

    /// The memory of all segments, to be accessed without a copy in between.
    ///
    /// # Errors
    /// One of them is not (wholly) memory.
    fn slices(&self, segments: &[Segment]) -> Result<Vec<VolatileSlice<'_>>, NotMemory>;

    /// Reads a naturally aligned dword; what the guest wrote before it stored that dword is visible afterwards.
    ///
    /// # Errors
    /// Not memory, or not aligned.
    fn load(&self, address: u64) -> Result<u32, NotMemory>;

    /// Writes a naturally aligned dword; what was written before becomes visible to the guest first.
    ///
    /// # Errors
    /// Not memory, or not aligned.
    fn store(&self, address: u64, value: u32) -> Result<(), NotMemory>;

    /// Copies the segments to `buffer`, as far as both go.
    ///
    /// # Errors
    /// One of them is not (wholly) memory; nothing was copied.
    fn gather(&self, segments: &[Segment], buffer: &mut [u8]) -> Result<(), NotMemory> {
        segments::gather(&self.slices(segments)?, buffer);
        Ok(())
    }

    /// Copies `data` to the segments, as far as both go.
    ///
    /// # Errors
    /// One of them is not (wholly) memory; nothing was copied.
    fn scatter(&self, segments: &[Segment], data: &[u8]) -> Result<(), NotMemory> {
        segments::scatter(data, &self.slices(segments)?);
        Ok(())
    }
}

impl<M: GuestMemory<Bitmap = ()> + Send> DmaMemory for M {
    fn contains(&self, address: u64, length: usize) -> bool {
        self.check_range(GuestAddress(address), length, Permissions::ReadWrite)
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), NotMemory> {
        self.read_slice(buffer, GuestAddress(address)).map_err(|_| NotMemory)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), NotMemory> {
        self.write_slice(data, GuestAddress(address)).map_err(|_| NotMemory)
    }

    fn slices(&self, segments: &[Segment]) -> Result<Vec<VolatileSlice<'_>>, NotMemory> {
        let mut slices = Vec::with_capacity(segments.len());
        for segment in segments {
            let (address, length) = (GuestAddress(segment.address), segment.length);
            for slice in self
                .get_slices(address, length, Permissions::ReadWrite)
                .map_err(|_| NotMemory)?
            {
                slices.push(slice.map_err(|_| NotMemory)?);
            }
        }
        Ok(slices)
    }

    fn load(&self, address: u64) -> Result<u32, NotMemory> {
        Bytes::load(self, GuestAddress(address), Ordering::Acquire)
            .map(u32::from_le)
            .map_err(|_| NotMemory)
    }

    fn store(&self, address: u64, value: u32) -> Result<(), NotMemory> {
        Bytes::store(self, value.to_le(), GuestAddress(address), Ordering::Release).map_err(|_| NotMemory)
    }
}

/// The DMA of one PCI function: guest memory while PCI COMMAND.BusMasterEnable is on, nothing while it is off.
pub struct Dma {
    memory: Box<dyn DmaMemory>,
    bus_master: bool,
}

impl Dma {
    /// The DMA of a function whose bus mastering is on.
    #[must_use]
    pub fn new(memory: Box<dyn DmaMemory>) -> Self {
        Self {
            memory,
            bus_master: true,
        }
    }

    /// PCI COMMAND.BusMasterEnable was written.
    pub fn set_bus_master(&mut self, enabled: bool) {
        self.bus_master = enabled;
    }

    /// Whether the function may reach memory and send messages.
    #[must_use]
    pub(crate) fn is_bus_master(&self) -> bool {
        self.bus_master
    }

    fn reach(&self) -> Result<&dyn DmaMemory, NotMemory> {
        if self.bus_master {
            Ok(&*self.memory)
        } else {
            Err(NotMemory)
        }
    }
}

impl DmaMemory for Dma {
    /// Also while bus mastering is off: nothing is transferred.
    fn contains(&self, address: u64, length: usize) -> bool {
        self.memory.contains(address, length)
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), NotMemory> {
        self.reach()?.read(address, buffer)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), NotMemory> {
        self.reach()?.write(address, data)
    }

    fn slices(&self, segments: &[Segment]) -> Result<Vec<VolatileSlice<'_>>, NotMemory> {
        self.reach()?.slices(segments)
    }

    fn load(&self, address: u64) -> Result<u32, NotMemory> {
        self.reach()?.load(address)
    }

    fn store(&self, address: u64, value: u32) -> Result<(), NotMemory> {
        self.reach()?.store(address, value)
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestMemoryMmap;

    use super::*;

    #[test]
    fn nothing_is_reached_while_bus_mastering_is_off() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let mut dma = Dma::new(Box::new(memory));
        let there = [Segment {
            address: 0x10,
            length: 4,
        }];
        dma.scatter(&there, &[1, 2, 3, 4]).unwrap();
        dma.set_bus_master(false);
        assert_eq!(dma.read(0x10, &mut [0]), Err(NotMemory));
        assert_eq!(dma.write(0x10, &[9]), Err(NotMemory));
        assert_eq!(dma.load(0x10), Err(NotMemory));
        assert_eq!(dma.store(0x10, 9), Err(NotMemory));
        assert_eq!(dma.scatter(&there, &[9; 4]), Err(NotMemory));
        assert!(dma.contains(0x10, 4));
        dma.set_bus_master(true);
        let mut data = [0; 4];
        dma.gather(&there, &mut data).unwrap();
        assert_eq!(data, [1, 2, 3, 4]);
    }

    #[test]
    fn a_transfer_is_done_whole_or_not_at_all() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let segments = [
            Segment {
                address: 0x20,
                length: 2,
            },
            Segment {
                address: 0xfff,
                length: 2,
            },
        ];
        assert_eq!(DmaMemory::scatter(&memory, &segments, &[5; 4]), Err(NotMemory));
        assert_eq!(memory.read_obj::<u16>(GuestAddress(0x20)).unwrap(), 0);
    }
}
