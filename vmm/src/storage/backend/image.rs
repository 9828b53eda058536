//! A backend in a disk image: raw, qcow2 or VMDK, by the imago crate.
//!
//! imago is built in its synchronous form: every call does its I/O on the thread that makes it, which is the worker of
//! the controller. So it needs no run-time and no thread, a pause finds no request in flight, and the sandbox of a
//! worker allows only reads and writes of open files. The price is one request at a time for each disk. A controller
//! has one worker, which would not use more.
//!
//! It must not know who asks.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use imago::{Mapping, StorageExt};
use vm_memory::VolatileSlice;

use super::image_file::{ImageFile, SharedOrder};
use super::layers::{self, Image};
use super::qcow2::Repaired;
use super::{Backend, BackendError, ImageFormat, OpenError, check_range};
use crate::storage::segments;

/// How an image is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageOptions {
    /// What the user says of the format; else the name of the file says it.
    pub format: Option<ImageFormat>,
    /// Refuse every change.
    pub read_only: bool,
    /// Keep changes in a temporary file that may have so many bytes, and never touch the image.
    pub snapshot: Option<u64>,
    /// Backing file of a qcow2 image instead of the one that the image names, wherever it is.
    pub backing: Option<PathBuf>,
}

/// A disk image, locked against a second user for as long as it is open.
pub struct ImageBackend {
    /// Nothing once a defect of the format's driver has shown: what it has in its buffers is not trusted then.
    image: Option<Image>,
    length: u64,
    read_only: bool,
    format: ImageFormat,
    /// For a qcow2 image that is written.
    order: Option<SharedOrder>,
    repaired: Option<Repaired>,
    /// Whether changes outlive this.
    lasting: bool,
    /// Something is to be made durable, or the mark of an image in use to be taken away.
    to_close: bool,
}

impl ImageBackend {
    /// Opens the image at `path`, whose disk's size has to be a multiple of `block_size` bytes.
    ///
    /// A writable image is locked exclusively; a read-only one, one under a snapshot and all backing files are shared
    /// with other readers. The locks are QEMU's.
    ///
    /// # Errors
    /// See [`OpenError`]; every message names the file.
    pub fn open(path: &Path, block_size: u32, options: &ImageOptions) -> Result<Self, OpenError> {
        let opened = catch_unwind(|| layers::open(path, options)).unwrap_or_else(|_| {
            Err(OpenError::Unsupported {
                path: path.to_owned(),
                what: "brings the program that reads its format to a defect of its own".to_owned(),
            })
        });
        let opened = opened?;
        let length = opened.image.size();
        if length == 0 || length % u64::from(block_size.max(1)) != 0 {
            return Err(OpenError::OddSize {
                path: path.to_owned(),
                length,
                block_size,
            });
        }
        // By its last user, or by imago on opening it.
        let marked = opened.order.as_ref().is_some_and(|order| order.lock().is_marked());
        Ok(Self {
            image: Some(opened.image),
            length,
            read_only: options.read_only,
            format: opened.format,
            order: opened.order,
            repaired: opened.repaired,
            lasting: options.snapshot.is_none(),
            to_close: marked,
        })
    }

    /// What was done to an image that its last user had not closed; nothing if he had.
    #[must_use]
    pub fn recovery(&self) -> Option<String> {
        let Repaired { raised, lowered } = self.repaired?;
        Some(match (raised, lowered) {
            (0, 0) => "it was not closed by its last user; its reference counts were checked and are right".to_owned(),
            _ => format!(
                "it was not closed by its last user; its reference counts were checked: {raised} were too low, {lowered} too \
                 high (leaked clusters, which can be used again now)"
            ),
        })
    }

    /// Before every change.
    fn check_writable(&mut self, offset: u64, length: u64) -> Result<(), BackendError> {
        if self.read_only {
            return Err(BackendError::ReadOnly);
        }
        self.to_close = self.lasting;
        check_range(self.length, offset, length)
    }

    /// Has the format's driver do something. Images are made by anybody: should one bring the driver to a panic, the
    /// disk fails from then on, and the run goes on.
    fn with(&mut self, action: impl FnOnce(&mut Image) -> io::Result<()>) -> Result<(), BackendError> {
        let gone = || BackendError::Io(io::Error::other("the driver of the image's format has failed before"));
        let image = self.image.as_mut().ok_or_else(gone)?;
        catch_unwind(AssertUnwindSafe(|| action(image))).unwrap_or_else(|_| {
            // Its buffers would be written back otherwise.
            if let Some(image) = self.image.take() {
                std::mem::forget(image);
            }
            Err(io::Error::other(
                "the driver of the image's format has failed; the disk is not touched any more",
            ))
        })?;
        Ok(())
    }
}

impl ImageBackend {
    /// Has the format's driver change a range, in pieces of which each begins within an L2 table's reach and ends there.
    fn change(
        &mut self,
        offset: u64,
        length: u64,
        mut action: impl FnMut(&mut Image, u64, u64) -> io::Result<()>,
    ) -> Result<(), BackendError> {
        self.check_writable(offset, length)?;
        let order = self.order.clone();
        self.with(|image| {
            let (mut at, end) = (offset, offset + length);
            while at < end {
                let table = order.as_ref().map(|order| order.lock().table_of(at));
                let (table_end, is_new) = table.unwrap_or((end, false));
                if is_new {
                    image.flush()?;
                }
                let piece = end.min(table_end) - at;
                action(image, at, piece)?;
                at += piece;
            }
            Ok(())
        })
    }
}

impl fmt::Debug for ImageBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageBackend")
            .field("length", &self.length)
            .field("read_only", &self.read_only)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl Drop for ImageBackend {
    fn drop(&mut self) {
        // A failure leaves the image marked, so that its next user has a look at it.
        let _ = self.close();
    }
}

/// Calls `action` with each piece of the range that lies in a file that may be changed there, and the place in the file.
fn for_each_piece(
    image: &Image,
    mut offset: u64,
    length: u64,
    mut action: impl FnMut(Mapping<'_, ImageFile>, u64) -> io::Result<()>,
) -> io::Result<()> {
    let end = offset + length;
    while offset < end {
        let (mapping, length) = image.get_mapping(offset, end - offset)?;
        if length == 0 {
            break;
        }
        action(mapping, length)?;
        offset += length;
    }
    Ok(())
}

/// Zeroes the range and gives its room back, in the image and in the file below it.
fn discard(image: &mut Image, offset: u64, length: u64) -> io::Result<()> {
    // imago keeps the room of freed clusters in the file for later use. The holes come first: a cluster that is freed may
    // be taken for something else at once.
    for_each_piece(image, offset, length, |mapping, length| match mapping {
        Mapping::Raw {
            storage,
            offset,
            writable: true,
            ..
        } => storage.write_zeroes(offset, length),
        _ => Ok(()),
    })?;
    image.discard_to_zero(offset, length)
}

/// Zeroes the range of a raw image and keeps its room, so that later writes find it.
fn zero_in_place(image: &Image, offset: u64, length: u64) -> io::Result<()> {
    for_each_piece(image, offset, length, |mapping, length| match mapping {
        Mapping::Raw { storage, offset, .. } => storage.write_allocated_zeroes(offset, length),
        _ => Err(io::ErrorKind::InvalidData.into()),
    })
}

/// Reads from the files that the range lies in straight into `target`; what is in none of them as it is (compressed, say)
/// takes the way through a buffer.
fn read_into(image: &Image, offset: u64, target: &[VolatileSlice<'_>]) -> io::Result<()> {
    let mut done = 0;
    for_each_piece(image, offset, segments::length(target), |mapping, length| {
        let piece = segments::part(target, done, length);
        let at = offset + done;
        done += length;
        if let Mapping::Raw { storage, offset, .. } = mapping {
            return storage.fill_shared(&piece, offset);
        }
        let mut data = vec![0; length as usize];
        image.read(&mut data[..], at)?;
        segments::scatter(&data, &piece);
        Ok(())
    })?;
    if done < segments::length(target) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Writes straight to the file if the whole range has its place in it already.
fn write_from(image: &Image, offset: u64, source: &[VolatileSlice<'_>]) -> io::Result<()> {
    let length = segments::length(source);
    match image.get_mapping(offset, length)? {
        (
            Mapping::Raw {
                storage,
                offset,
                writable: true,
                ..
            },
            mapped,
        ) if mapped == length => storage.store_shared(source, offset),
        _ => image.write(&segments::gathered(source)[..], offset),
    }
}

impl Backend for ImageBackend {
    fn len(&self) -> u64 {
        self.length
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError> {
        check_range(self.length, offset, buffer.len() as u64)?;
        self.with(|image| image.read(buffer, offset))
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), BackendError> {
        self.change(offset, data.len() as u64, |image, at, length| {
            let start = (at - offset) as usize;
            image.write(&data[start..start + length as usize], at)
        })
    }

    fn read_into(&mut self, offset: u64, target: &[VolatileSlice<'_>]) -> Result<(), BackendError> {
        check_range(self.length, offset, segments::length(target))?;
        self.with(|image| read_into(image, offset, target))
    }

    fn write_from(&mut self, offset: u64, source: &[VolatileSlice<'_>]) -> Result<(), BackendError> {
        self.change(offset, segments::length(source), |image, at, length| {
            write_from(image, at, &segments::part(source, at - offset, length))
        })
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        if self.read_only {
            return Ok(());
        }
        // The buffers of the format to the file, then the file to the medium.
        self.with(|image| {
            image.flush()?;
            image.sync()
        })
    }

    fn close(&mut self) -> Result<(), BackendError> {
        if !std::mem::take(&mut self.to_close) {
            return Ok(());
        }
        self.flush()?;
        match &self.order {
            Some(order) => Ok(order.lock().close()?),
            None => Ok(()),
        }
    }

    fn write_zeroes(&mut self, offset: u64, length: u64, deallocate: bool) -> Result<(), BackendError> {
        let raw = self.format == ImageFormat::Raw;
        self.change(offset, length, |image, at, length| match (deallocate, raw) {
            (true, false) => discard(image, at, length),
            (false, true) => zero_in_place(image, at, length),
            // imago punches holes into a raw image, and keeps the clusters of others.
            (true, true) | (false, false) => image.write_zeroes(at, length),
        })
    }
}
