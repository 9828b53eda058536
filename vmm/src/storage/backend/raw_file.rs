//! A backend in a raw file: byte n of the disk is byte n of the file.
//!
//! It knows the host's files: sparse files, holes and locks. It must not know what the bytes mean.

// `flock` has no safe wrapper in the standard library of the oldest compiler that is supported.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use vmm_sys_util::fallocate::{FallocateMode, fallocate};

use super::{Backend, BackendError, check_range};

/// Zeroes are written in pieces of this many bytes where the host cannot punch holes.
const ZERO_CHUNK: usize = 64 * 1024;

/// Why a raw file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened or looked at.
    #[error("cannot open the disk image {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// Somebody else holds the lock.
    #[error("the disk image {} is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is neither a regular file nor a block device.
    #[error("the disk image {} is neither a regular file nor a block device", path.display())]
    NotADisk {
        /// The file.
        path: PathBuf,
    },
    /// The size is zero or not a multiple of the block size.
    #[error("the disk image {} has {length} bytes; the size has to be a multiple of {block_size} and not 0", path.display())]
    OddSize {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        length: u64,
        /// The block size that it has to be a multiple of, in bytes.
        block_size: u32,
    },
}

/// A raw disk image, locked against a second user for as long as it is open.
#[derive(Debug)]
pub struct RawFileBackend {
    file: File,
    length: u64,
    read_only: bool,
    can_punch: bool,
}

impl RawFileBackend {
    /// Opens the image at `path`, whose size has to be a multiple of `block_size` bytes.
    ///
    /// A writable image is locked exclusively, a read-only one shared: any number of readers, or one writer.
    ///
    /// # Errors
    /// See [`OpenError`]; every message names the file.
    pub fn open(path: &Path, block_size: u32, read_only: bool) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Open {
            path: path.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::NotADisk { path: path.to_owned() });
        }
        lock(&file, read_only).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse { path: path.to_owned() },
            _ => failed(source),
        })?;
        // The metadata of a block device say 0; its end is found by seeking.
        let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if length == 0 || length % u64::from(block_size.max(1)) != 0 {
            return Err(OpenError::OddSize {
                path: path.to_owned(),
                length,
                block_size,
            });
        }
        Ok(Self::from_file(file, length, read_only))
    }

    pub(super) fn from_file(file: File, length: u64, read_only: bool) -> Self {
        Self {
            file,
            length,
            read_only,
            can_punch: true,
        }
    }

    fn check_writable(&self, offset: u64, length: u64) -> Result<(), BackendError> {
        if self.read_only {
            return Err(BackendError::ReadOnly);
        }
        check_range(self.length, offset, length)
    }

    /// Zeroes the range through the file system: a hole, or zeroed room that stays allocated.
    fn zero_by_fallocate(&mut self, offset: u64, length: u64, deallocate: bool) -> Result<bool, BackendError> {
        if !self.can_punch || length == 0 {
            return Ok(length == 0);
        }
        let mode = if deallocate {
            FallocateMode::PunchHole
        } else {
            FallocateMode::ZeroRange
        };
        match fallocate(&self.file, mode, true, offset, length) {
            Ok(()) => Ok(true),
            // No such operation on this file system (tmpfs has no ZERO_RANGE): write the zeroes.
            Err(error)
                if matches!(
                    error.errno(),
                    libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::EINVAL
                ) =>
            {
                self.can_punch = !deallocate;
                Ok(false)
            }
            Err(error) => Err(io::Error::from_raw_os_error(error.errno()).into()),
        }
    }
}

impl Backend for RawFileBackend {
    fn len(&self) -> u64 {
        self.length
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError> {
        check_range(self.length, offset, buffer.len() as u64)?;
        Ok(self.file.read_exact_at(buffer, offset)?)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), BackendError> {
        self.check_writable(offset, data.len() as u64)?;
        Ok(self.file.write_all_at(data, offset)?)
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        if self.read_only {
            return Ok(());
        }
        Ok(self.file.sync_data()?)
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, deallocate: bool) -> Result<(), BackendError> {
        self.check_writable(offset, length)?;
        if self.zero_by_fallocate(offset, length, deallocate)? {
            return Ok(());
        }
        let zeroes = vec![0; ZERO_CHUNK.min(length as usize)];
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let piece = &zeroes[..zeroes.len().min((end - at) as usize)];
            self.file.write_all_at(piece, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}

/// Takes the advisory lock of the open file description, which also keeps out a second opener in this process.
fn lock(file: &File, shared: bool) -> io::Result<()> {
    let operation = if shared { libc::LOCK_SH } else { libc::LOCK_EX };
    // SAFETY: `flock` takes no pointers, and the descriptor is open for as long as `file` is borrowed.
    match unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
