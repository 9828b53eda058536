//! A backend in host memory; its contents end with the process.
//!
//! Tests use it, and runs that need no disk image. It must not know who asks.
#![forbid(unsafe_code)]

use vm_memory::VolatileSlice;

use super::{Backend, BackendError, check_range};
use crate::storage::segments;

const PAGE: usize = 4096;
static ZEROES: [u8; PAGE] = [0; PAGE];

/// Bytes in host memory, all zero at first.
#[derive(Debug)]
pub struct MemoryBackend {
    // Zeroed pages that were never touched cost the host nothing.
    bytes: Vec<u8>,
}

impl MemoryBackend {
    /// Makes a backend of `length` zero bytes.
    #[must_use]
    pub fn new(length: usize) -> Self {
        Self { bytes: vec![0; length] }
    }

    fn range(&mut self, offset: u64, length: u64) -> Result<&mut [u8], BackendError> {
        check_range(self.bytes.len() as u64, offset, length)?;
        // In range of a `Vec`, hence of `usize`.
        Ok(&mut self.bytes[offset as usize..][..length as usize])
    }
}

impl Backend for MemoryBackend {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError> {
        buffer.copy_from_slice(self.range(offset, buffer.len() as u64)?);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), BackendError> {
        self.range(offset, data.len() as u64)?.copy_from_slice(data);
        Ok(())
    }

    fn read_into(&mut self, offset: u64, target: &[VolatileSlice<'_>]) -> Result<(), BackendError> {
        segments::scatter(self.range(offset, segments::length(target))?, target);
        Ok(())
    }

    fn write_from(&mut self, offset: u64, source: &[VolatileSlice<'_>]) -> Result<(), BackendError> {
        segments::gather(source, self.range(offset, segments::length(source))?);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, _deallocate: bool) -> Result<(), BackendError> {
        // Pages that are zero already are only read: the host has no memory for those that were never written.
        for page in self.range(offset, length)?.chunks_mut(PAGE) {
            if *page != ZEROES[..page.len()] {
                page.fill(0);
            }
        }
        Ok(())
    }
}
