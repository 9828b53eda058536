//! Files, pipes and terminals that a run writes to. A full disk, or a reader that does not read, loses only what was
//! meant for that output.
//!
//! Talks to the file system. It must not know what is written. A regular file is locked against a second run; one that
//! must not be left incomplete is written under another name first. A named pipe, a socket or a terminal is never
//! replaced, and writing to it does not block in the kernel, so that its writer can be told to give up.

mod file;
mod outlet;
mod place;
mod progress;
mod whole;

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use storlock_vmm::host::lock_exclusively;
pub(crate) use storlock_vmm::host::survive_the_file_size_limit;

pub(crate) use self::file::OutputFile;
pub(crate) use self::outlet::{Outlet, WhenFull};
pub(crate) use self::place::is_special;
pub(crate) use self::place::{Identity, Place};
pub(crate) use self::progress::Progress;
pub(crate) use self::progress::Stall;
pub(crate) use self::whole::partial_of;
pub(crate) use self::whole::{WholeFile, replace};

/// The ending of a file's name until the file is whole.
pub(crate) const PARTIAL: &str = ".partial";
/// How long a reader may take nothing when there is nobody to wait for any more.
pub(crate) const PATIENCE: Duration = Duration::from_millis(300);
/// The same for a regular file, where not the reader but the disk is slow.
pub(crate) const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// Why an output cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Another run writes it.
    #[error("{0} is in use by another run: give each run outputs of its own")]
    InUse(String),
    /// A named pipe that nobody reads.
    #[error("nobody has opened {0} for reading in the run's time limit")]
    NoReader(String),
    /// Something that nobody can write to.
    #[error("{0} is a directory")]
    Directory(String),
    /// The system refuses.
    #[error("{0}: {1}")]
    File(String, #[source] io::Error),
}

/// Why an output ends early, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// Something was lost that the user has asked for.
    Failure(String),
    /// Its reader does not want more, or it has reached its limit.
    Note(String),
}

impl Cut {
    /// `what`, such as `the recording`, could not be written.
    #[must_use]
    pub fn by(error: &io::Error, what: &str) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::Note(format!("{what} ends early: its reader has gone"));
        }
        Self::Failure(format!("{what} is incomplete: {error}"))
    }

    /// `what` has reached its limit, in bytes.
    #[must_use]
    pub(crate) fn at_limit(what: &str, limit: u64) -> Self {
        Self::Note(format!("{what} ends early: it has reached its limit of {limit} bytes"))
    }
}

impl OutputError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |error| Self::File(path, error)
    }
}

/// Locks what is at `path`, unless the file system has no locks.
fn lock(file: &File, path: &Path) -> Result<(), OutputError> {
    match lock_exclusively(file) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(OutputError::InUse(path.display().to_string())),
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::warn!("{} cannot be locked against a second run: {error}", path.display());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
