//! A file or block device of the host that is part of a disk image.
//!
//! It knows the host's files: locks, holes, full file systems, and files that others cut short. It must not know image
//! formats. Where somebody has cut a file short, imago's own file type reads zeroes, and a write makes the file longer
//! again with a hole where data were. Here both fail, and go on failing.
//!
//! All calls but opening, [`HostFile::resize`] and [`HostFile::has_data`] are within the system calls of a device worker
//! (`crate::storage::WORKER_THREAD`).
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vm_memory::VolatileSlice;
use vmm_sys_util::fallocate::{FallocateMode, fallocate};
use vmm_sys_util::seek_hole::SeekHole;

use super::{OpenError, file_lock, file_transfer};
use crate::storage::segments;

/// A file, locked against a second user for as long as it is open.
#[derive(Debug)]
pub(super) struct HostFile {
    file: File,
    path: PathBuf,
    /// Where the file has ended at least, in bytes; only grows.
    size: AtomicU64,
    /// Largest size that it may grow to, in bytes.
    limit: u64,
    writable: bool,
    /// Reads that begin further than this behind the end find that something is missing, in bytes.
    slack: u64,
    /// Somebody has cut the file.
    cut: AtomicBool,
    holes: Ability,
    zero_ranges: Ability,
}

/// Whether the file system can do something; tried until it says no.
#[derive(Debug, Default)]
struct Ability {
    missing: AtomicBool,
}

impl HostFile {
    /// Opens and locks the file at `path`: any number of readers, or one writer.
    ///
    /// # Errors
    /// It cannot be opened or locked, is in use, or is neither a regular file nor a block device.
    pub(super) fn open(path: &Path, writable: bool) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Open {
            path: path.to_owned(),
            source,
        };
        // A named pipe is to be refused below, not waited for.
        let mut flags = libc::O_NONBLOCK;
        // For a block device this is refused while it is mounted or otherwise in use (open(2)).
        if writable
            && path
                .metadata()
                .is_ok_and(|metadata| metadata.file_type().is_block_device())
        {
            flags |= libc::O_EXCL;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(writable).custom_flags(flags);
        let file = options.open(path).map_err(|source| match source.kind() {
            io::ErrorKind::ResourceBusy => OpenError::InUse { path: path.to_owned() },
            _ => failed(source),
        })?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::NotADisk { path: path.to_owned() });
        }
        file_lock::take(&file, writable).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse { path: path.to_owned() },
            _ => OpenError::Lock {
                path: path.to_owned(),
                source,
            },
        })?;
        Self::new(file, path.to_owned(), writable, u64::MAX).map_err(failed)
    }

    /// An empty file without a name, below the directory for temporary files, that holds at most `limit` bytes.
    ///
    /// # Errors
    /// There is no room for it.
    pub(super) fn temporary(limit: u64) -> io::Result<Self> {
        let name = std::env::temp_dir().join("(without a name)");
        Self::new(tempfile::tempfile()?, name, true, limit)
    }

    pub(super) fn new(file: File, path: PathBuf, writable: bool, limit: u64) -> io::Result<Self> {
        // The metadata of a block device say 0; its end is found by seeking.
        let size = (&file).seek(SeekFrom::End(0))?;
        Ok(Self {
            file,
            path,
            size: size.into(),
            limit,
            writable,
            slack: 1,
            cut: AtomicBool::new(false),
            holes: Ability::default(),
            zero_ranges: Ability::default(),
        })
    }

    /// Lets reads begin so many bytes behind the end and find zeroes there: formats that fill their last piece by and by
    /// need that.
    pub(super) fn with_slack(self, slack: u64) -> Self {
        Self { slack, ..self }
    }

    /// Reads what there is from `offset` on, at most as much as fits.
    ///
    /// # Errors
    /// The host failed.
    pub(super) fn peek(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(length) => done += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn length(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn short(&self) -> io::Error {
        self.cut.store(true, Ordering::Relaxed);
        let path = self.path.display();
        let text = format!("{path} is shorter than it has to be: somebody has cut it; it is not touched any more");
        io::Error::new(io::ErrorKind::UnexpectedEof, text)
    }

    /// Fails if somebody has cut the file.
    fn check_whole(&self) -> io::Result<()> {
        if self.cut.load(Ordering::Relaxed) || (&self.file).seek(SeekFrom::End(0))? < self.length() {
            return Err(self.short());
        }
        Ok(())
    }

    /// The end of a range that is about to change.
    fn end(&self, offset: u64, length: u64) -> io::Result<u64> {
        self.check_whole()?;
        let end = offset.checked_add(length).filter(|&end| end <= self.limit);
        end.ok_or_else(|| {
            let text = format!("{} has reached its limit of {} bytes", self.path.display(), self.limit);
            io::Error::new(io::ErrorKind::StorageFull, text)
        })
    }

    /// Reads the whole range; what lies behind the end reads as zeroes if the format allows that.
    ///
    /// # Errors
    /// The host failed, or somebody has cut the file.
    pub(super) fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(self.short());
        }
        let done = self.peek(buffer, offset)?;
        let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) else {
            return Ok(());
        };
        self.check_end(offset, done as u64)?;
        rest.fill(0);
        Ok(())
    }

    /// As [`fill`](Self::fill), into memory that others may access meanwhile.
    pub(super) fn fill_shared(&self, target: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(self.short());
        }
        let (done, length) = (
            file_transfer::read_at(&self.file, target, offset)?,
            segments::length(target),
        );
        if done < length {
            self.check_end(offset, done)?;
            let rest = segments::part(target, done, length - done);
            segments::scatter(&vec![0; (length - done) as usize], &rest);
        }
        Ok(())
    }

    /// A read from `offset` has found `done` bytes and no more. A range may reach behind the end, and begin there by as much as
    /// the format allows.
    fn check_end(&self, offset: u64, done: u64) -> io::Result<()> {
        let size = self.length();
        if offset + done < size || (done == 0 && offset >= size.next_multiple_of(self.slack)) {
            return Err(self.short());
        }
        Ok(())
    }

    /// Writes `data` at `offset`, where the file may grow to.
    ///
    /// # Errors
    /// The host failed or has no room, or somebody has cut the file.
    pub(super) fn store(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let end = self.end(offset, data.len() as u64)?;
        #[cfg(test)]
        super::tests::journal::note(|| super::tests::journal::Change::Write(offset, data.to_vec()))?;
        self.file.write_all_at(data, offset)?;
        self.size.fetch_max(end, Ordering::Relaxed);
        Ok(())
    }

    /// As [`store`](Self::store), from memory that others may access meanwhile.
    pub(super) fn store_shared(&self, source: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let end = self.end(offset, segments::length(source))?;
        #[cfg(test)]
        super::tests::journal::note(|| super::tests::journal::Change::Write(offset, segments::gathered(source)))?;
        file_transfer::write_all_at(&self.file, source, offset)?;
        self.size.fetch_max(end, Ordering::Relaxed);
        Ok(())
    }

    /// Zeroes a range by a hole.
    ///
    /// # Errors
    /// As for [`store`](Self::store). [`io::ErrorKind::Unsupported`]: zeroes have to be written instead.
    pub(super) fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(&self.holes, FallocateMode::PunchHole, offset, length)
    }

    /// Zeroes a range and keeps its room.
    ///
    /// # Errors
    /// As for [`punch`](Self::punch).
    pub(super) fn zero_allocated(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(&self.zero_ranges, FallocateMode::ZeroRange, offset, length)
    }

    /// Has the host write everything to its medium.
    ///
    /// # Errors
    /// The host failed, or somebody has cut the file.
    pub(super) fn sync(&self) -> io::Result<()> {
        if !self.writable {
            return Ok(());
        }
        self.check_whole()?;
        self.file.sync_data()?;
        #[cfg(test)]
        super::tests::journal::note(|| super::tests::journal::Change::Sync)?;
        Ok(())
    }

    /// Sets the length; only done to images that are being made.
    ///
    /// # Errors
    /// The host failed.
    pub(super) fn resize(&self, new_size: u64) -> io::Result<()> {
        self.end(0, new_size)?;
        self.file.set_len(new_size)?;
        self.size.store(new_size, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the range may hold anything but zeroes, by what the file system says of holes.
    pub(super) fn has_data(&self, offset: u64, length: u64) -> bool {
        let Ok(mut file) = self.file.try_clone() else {
            return true;
        };
        match file.seek_data(offset) {
            Ok(data) => data.is_some_and(|data| data < offset.saturating_add(length)),
            // A file system that cannot tell.
            Err(_) => true,
        }
    }

    /// Zeroes a range by the file system, and lengthens the file if it ends within.
    fn zero(&self, ability: &Ability, mode: FallocateMode, offset: u64, length: u64) -> io::Result<()> {
        let end = self.end(offset, length)?;
        let inside = end.min(self.length()).saturating_sub(offset);
        if inside > 0 {
            #[cfg(test)]
            super::tests::journal::note(|| super::tests::journal::Change::Zeroes(offset, inside))?;
            ability.attempt(|| fallocate(&self.file, mode, true, offset, inside))?;
        }
        if end > self.length() {
            self.store(&[0], end - 1)?;
        }
        Ok(())
    }
}

impl Ability {
    /// # Errors
    /// [`io::ErrorKind::Unsupported`]: zeroes have to be written instead.
    fn attempt(&self, action: impl FnOnce() -> vmm_sys_util::errno::Result<()>) -> io::Result<()> {
        if self.missing.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        action().map_err(|error| match error.errno() {
            libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV => {
                self.missing.store(true, Ordering::Relaxed);
                io::ErrorKind::Unsupported.into()
            }
            // A block device does it for its own blocks only.
            libc::EINVAL => io::ErrorKind::Unsupported.into(),
            errno => io::Error::from_raw_os_error(errno),
        })
    }
}

impl fmt::Display for HostFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}
