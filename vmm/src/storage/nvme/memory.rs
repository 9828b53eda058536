//! Guest memory as the controller sees it: bytes at a physical address, or nothing there.
//!
//! The one door to DMA. It must not know what is transferred.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions, VolatileSlice};

use super::prp::Segment;

/// An address range that is not (wholly) guest memory.
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
