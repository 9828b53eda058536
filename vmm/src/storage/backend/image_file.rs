//! A file of the host as imago's `Storage`, which its formats read and write.
//!
//! Every write that imago makes to a qcow2 image goes through [`WriteOrder`] first. It must not know what is in an image.
//! All calls but [`Storage::resize`] are within the system calls of a device worker
//! (`crate::storage::WORKER_THREAD`).

// imago marks what a `Storage` does to a file as unsafe; nothing here is.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;
use vm_memory::VolatileSlice;

use super::host_file::HostFile;
use super::qcow2::{self, WriteOrder};

/// The file of an image.
#[derive(Debug)]
pub(super) struct ImageFile {
    file: Arc<HostFile>,
    /// Whether it starts with a qcow2 header, whose mark of an image in use is not imago's business.
    qcow2: bool,
    order: Option<SharedOrder>,
    blockers: CommonStorageHelper,
}

/// The order of the writes to an image, shared with whoever closes it.
#[derive(Debug, Clone)]
pub(super) struct SharedOrder(Arc<Mutex<WriteOrder>>);

impl SharedOrder {
    pub(super) fn new(order: WriteOrder) -> Self {
        Self(Arc::new(Mutex::new(order)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, WriteOrder> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ImageFile {
    /// A file in which the order of writes does not matter.
    pub(super) fn new(file: HostFile) -> Self {
        Self {
            file: Arc::new(file),
            qcow2: false,
            order: None,
            blockers: CommonStorageHelper::default(),
        }
    }

    /// A qcow2 image; with `order` if it is written.
    pub(super) fn qcow2(file: Arc<HostFile>, order: Option<SharedOrder>) -> Self {
        Self {
            file,
            qcow2: true,
            order,
            blockers: CommonStorageHelper::default(),
        }
    }

    /// Reads what the guest has at `offset` of the file straight into its memory.
    pub(super) fn fill_shared(&self, target: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.fill_shared(target, offset)
    }

    /// Writes what the guest has at `offset` of the file already. No table changes by that, so that it has no order.
    pub(super) fn store_shared(&self, source: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.store_shared(source, offset)
    }
}

impl fmt::Display for ImageFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl Storage for ImageFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.length())
    }

    /// Names stay as the image has them: who opens the files (`layers.rs`) knows what they are relative to.
    fn resolve_relative_path<P: AsRef<Path>>(&self, relative: P) -> io::Result<PathBuf> {
        Ok(relative.as_ref().to_owned())
    }

    fn get_filename(&self) -> Option<PathBuf> {
        Some(self.file.path().to_owned())
    }

    unsafe fn pure_readv(&self, buffers: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let mut at = offset;
        for mut buffer in buffers.into_inner() {
            self.file.fill(&mut buffer, at)?;
            if self.qcow2 {
                qcow2::hide_mark(&mut buffer, at);
            }
            at += buffer.len() as u64;
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, buffers: IoVector<'_>, offset: u64) -> io::Result<()> {
        let mut order = self.order.as_ref().map(SharedOrder::lock);
        let mut at = offset;
        for buffer in buffers.into_inner() {
            match &mut order {
                Some(order) => order.write(&buffer, at)?,
                None => self.file.store(&buffer, at)?,
            }
            at += buffer.len() as u64;
        }
        Ok(())
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        if let Some(order) = &self.order {
            order.lock().before_contents()?;
        }
        self.file.punch(offset, length)
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        if let Some(order) = &self.order {
            order.lock().before_contents()?;
        }
        self.file.zero_allocated(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        match &self.order {
            Some(order) => order.lock().sync(),
            None => self.file.sync(),
        }
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.blockers
    }

    /// Only done to images that are being made.
    fn resize(&self, new_size: u64, _: PreallocateMode) -> io::Result<()> {
        self.file.resize(new_size)
    }
}
