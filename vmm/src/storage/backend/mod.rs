//! Where the bytes of a namespace are kept.
//!
//! A backend is a flat range of bytes. It knows files and memory; it must not know controllers, queues or guests.
//! Callers check a range against [`Backend::len`]; a backend checks it once more and refuses what does not fit.

mod file_lock;
mod file_transfer;
mod format;
mod host_file;
mod image;
mod image_file;
mod layers;
mod memory;
mod open_error;
mod parts;
mod qcow2;
mod watched;

use std::io;

use vm_memory::VolatileSlice;

use super::segments;

pub use file_lock::lock_for_writing;
pub use format::ImageFormat;
pub use image::{ImageBackend, ImageOptions};
pub use memory::MemoryBackend;
pub use open_error::OpenError;
pub use parts::image_files;
pub use watched::{HostFailures, WatchedBackend};

/// Why a backend did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The host has no room for the data (`ENOSPC`, `EDQUOT`, `EFBIG`), or a snapshot has reached its limit.
    #[error("no space left behind the backend")]
    NoSpace,
    /// The backend was opened read-only.
    #[error("the backend is read-only")]
    ReadOnly,
    /// The range does not lie within the backend.
    #[error("the range {offset:#x}+{length:#x} is outside the backend")]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Number of bytes asked for.
        length: u64,
    },
    /// Any other failure of the host.
    #[error("the backend failed: {0}")]
    Io(io::Error),
}

impl From<io::Error> for BackendError {
    fn from(error: io::Error) -> Self {
        // By kind: the number is lost where a message is put before it.
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::NoSpace,
            _ => Self::Io(error),
        }
    }
}

/// A flat range of bytes that outlives the guest's reset.
///
/// Offsets and lengths are in bytes. Ranges that were never written, were written with zeroes or were discarded read as
/// zeroes.
// `is_empty` would say nothing: a backend without a byte is refused when it is opened.
#[allow(clippy::len_without_is_empty)]
pub trait Backend: Send {
    /// Size in bytes; it never changes.
    fn len(&self) -> u64;

    /// Whether every change is refused with [`BackendError::ReadOnly`].
    fn is_read_only(&self) -> bool;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// The range does not fit, or the host failed.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError>;

    /// Stores `data` at `offset`. It is durable after the next [`flush`](Self::flush) only.
    ///
    /// # Errors
    /// Read-only, no space, the range does not fit, or the host failed.
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), BackendError>;

    /// Reads from `offset` into memory that others may access meanwhile. After a failure some of it may have been written.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn read_into(&mut self, offset: u64, target: &[VolatileSlice<'_>]) -> Result<(), BackendError> {
        let mut data = vec![0; segments::length(target) as usize];
        self.read(offset, &mut data)?;
        segments::scatter(&data, target);
        Ok(())
    }

    /// Stores at `offset` what is in memory that others may access meanwhile.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    fn write_from(&mut self, offset: u64, source: &[VolatileSlice<'_>]) -> Result<(), BackendError> {
        self.write(offset, &segments::gathered(source))
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// The host failed.
    fn flush(&mut self) -> Result<(), BackendError>;

    /// Ends the use of the backend: makes everything durable, and says in it that it was left in order. Dropping it does the
    /// same as far as it can.
    ///
    /// # Errors
    /// The host failed.
    fn close(&mut self) -> Result<(), BackendError> {
        self.flush()
    }

    /// Makes the range read as zeroes; with `deallocate` the room may be given back to the host.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    fn write_zeroes(&mut self, offset: u64, length: u64, deallocate: bool) -> Result<(), BackendError>;

    /// Gives the room of the range back to the host. The range reads as zeroes afterwards.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    fn discard(&mut self, offset: u64, length: u64) -> Result<(), BackendError> {
        self.write_zeroes(offset, length, true)
    }
}

/// Checks that `offset..offset + length` lies within `size`.
fn check_range(size: u64, offset: u64, length: u64) -> Result<(), BackendError> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(BackendError::OutOfRange { offset, length }),
    }
}

#[cfg(test)]
mod tests;
