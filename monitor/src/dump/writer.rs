//! Writes the file: the header, then the pages of physical memory run by run, a piece at a time.
//!
//! Talks to the file system and to guest memory. It must not know what is in the header or in the pages. An incomplete
//! file never has the name that was asked for.

use std::collections::BTreeMap;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::layout::{PAGE_BYTES, Run};
use crate::output::{OutputError, OutputFile, Progress, WholeFile};
use crate::vmi::PhysicalMemory;

/// How much of the guest's memory is held at once, in bytes.
const PIECE: usize = 1 << 20;
const PAGE: usize = PAGE_BYTES as usize;
static ZEROS: [u8; PAGE] = [0; PAGE];

/// Why there is no dump.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DumpError {
    /// The file system refuses; a full disk for example.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Guest memory is not where the machine says it is.
    #[error("physical page {0:#x} of the guest cannot be read")]
    Memory(u64),
    /// The guest's memory has more pieces than the format takes.
    #[error("the guest's memory has {0} runs, the format takes {max}", max = super::layout::MAX_RUNS)]
    Runs(usize),
    /// The user ended the run meanwhile.
    #[error("the run was interrupted before the dump was complete")]
    Interrupted,
    /// The violating processor is gone.
    #[error("the processors' registers cannot be read: {0}")]
    Processor(String),
}

impl DumpError {
    /// What kind of error the system had, if it had one.
    pub(crate) fn system_error(&self) -> Option<io::ErrorKind> {
        match self {
            Self::File { source, .. } => Some(source.kind()),
            _ => None,
        }
    }
}

/// What differs in the file from the guest's memory, by physical address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Patches {
    /// By page: offset in it and bytes that end in it.
    pages: BTreeMap<u64, Vec<(usize, Vec<u8>)>>,
}

impl Patches {
    /// Adds bytes at a physical address; they may cross pages.
    pub(crate) fn add(&mut self, mut address: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let offset = (address % PAGE_BYTES) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(PAGE - offset));
            let page = self.pages.entry(address / PAGE_BYTES).or_default();
            page.push((offset, now.to_vec()));
            address = address.saturating_add(now.len() as u64);
            bytes = later;
        }
    }

    /// Puts the changed bytes of the pages from `first` on into `bytes`.
    fn apply(&self, first: u64, pages: &mut [u8]) {
        let behind = first.saturating_add(pages.len() as u64 / PAGE_BYTES);
        for (page, patches) in self.pages.range(first..behind) {
            let start = ((page - first) * PAGE_BYTES) as usize;
            for (offset, bytes) in patches {
                let place = pages.get_mut(start + offset..start + offset + bytes.len());
                if let Some(place) = place {
                    place.copy_from_slice(bytes);
                }
            }
        }
    }
}

/// Writes header and pages. Pages of zeros are left out, except at the end of the file: what was never
/// written reads as zeros. `go_on` is asked before each piece. Gives the length of the file.
///
/// # Errors
/// [`io::Error`] of the file, or one that wraps a [`DumpError`].
pub(crate) fn write(
    out: &mut (impl Write + Seek),
    header: &[u8],
    (memory, runs): (&dyn PhysicalMemory, &[Run]),
    patches: &Patches,
    go_on: &dyn Fn() -> bool,
) -> io::Result<u64> {
    out.write_all(header)?;
    let mut position = header.len() as u64;
    let mut buffer = vec![0; PIECE];
    for run in runs {
        let (mut page, end) = (run.base_page, run.base_page.saturating_add(run.page_count));
        while page < end {
            if !go_on() {
                return Err(io::Error::other(DumpError::Interrupted));
            }
            let length = (end - page).saturating_mul(PAGE_BYTES).min(PIECE as u64) as usize;
            let piece = buffer.get_mut(..length).unwrap_or_default();
            let address = page.saturating_mul(PAGE_BYTES);
            if !memory.read_physical(address, piece) {
                return Err(io::Error::other(DumpError::Memory(page)));
            }
            patches.apply(page, piece);
            write_pages(out, position, piece)?;
            position += length as u64;
            page += length as u64 / PAGE_BYTES;
        }
    }
    Ok(position)
}

/// Writes the pages that are not zero, neighbouring ones in one call.
fn write_pages(out: &mut (impl Write + Seek), position: u64, piece: &[u8]) -> io::Result<()> {
    let mut offset = position;
    for (zero, pages) in stretches(piece) {
        if !zero {
            out.seek(SeekFrom::Start(offset))?;
            out.write_all(pages)?;
        }
        offset += pages.len() as u64;
    }
    Ok(())
}

/// Cuts the piece where pages of zeros and other pages meet; each part says which kind it has.
fn stretches(mut piece: &[u8]) -> impl Iterator<Item = (bool, &[u8])> {
    std::iter::from_fn(move || {
        let zero = is_zero(piece.chunks(PAGE).next()?);
        let pages = piece.chunks(PAGE).take_while(|page| is_zero(page) == zero).count();
        let (stretch, rest) = piece.split_at(piece.len().min(pages * PAGE));
        piece = rest;
        Some((zero, stretch))
    })
}

fn is_zero(page: &[u8]) -> bool {
    // The C library compares faster than a loop does, which counts where much of the memory is zero.
    ZEROS.starts_with(page)
}

/// The place for a dump that may be made.
#[derive(Debug, Clone)]
pub(crate) struct DumpFile {
    path: PathBuf,
    whole: Arc<WholeFile>,
}

impl DumpFile {
    /// Makes sure that a dump can be written there, and removes an earlier one. For the reader of a named pipe it waits as
    /// long as `patience`.
    ///
    /// # Errors
    /// [`OutputError`] if the directory is not there or cannot be written to, or something else has the name.
    pub(crate) fn prepare(path: &Path, patience: Duration) -> Result<Self, OutputError> {
        Ok(Self {
            path: path.to_owned(),
            whole: Arc::new(WholeFile::prepare(path, patience)?),
        })
    }

    /// Where the dump will be.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory in which it is renamed at the end, if it is.
    #[must_use]
    pub(crate) fn renamed_in(&self) -> Option<&Path> {
        self.whole.renamed_in()
    }

    /// By which another thread ends a write that waits for a reader.
    #[must_use]
    pub(crate) fn progress(&self) -> Progress {
        self.whole.progress()
    }

    /// Writes the whole file by `write`, which gives its length. Until it is whole it has another name; what is not
    /// finished is removed.
    ///
    /// # Errors
    /// [`DumpError`]; there is no file then.
    pub(crate) fn fill(&self, write: impl FnOnce(&mut OutputFile) -> io::Result<u64>) -> Result<u64, DumpError> {
        let filled = self.whole.fill(|file| {
            let length = write(file)?;
            file.end_at(length)?;
            Ok(length)
        });
        filled.map_err(|error| match error.downcast::<DumpError>() {
            Ok(error) => error,
            Err(error) => failed("write", &self.path)(error),
        })
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DumpError {
    let path = path.to_owned();
    move |source| DumpError::File { action, path, source }
}
