//! Files that are either complete or not there: written under another name, and renamed at the end.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{OutputError, OutputFile, PARTIAL, Place, Progress};

/// The place for a file that may be written. It is locked from the start, under the name that it has until it is whole; if
/// nothing comes nothing is left.
#[derive(Debug)]
pub(crate) struct WholeFile {
    place: Place,
    partial: PathBuf,
    file: Mutex<Option<OutputFile>>,
    progress: Progress,
    /// Open as long as the file may get its name: limits on files know a directory by its inode, and some file systems
    /// (9p) make a new one for a directory that nobody has open.
    _directory: Option<File>,
}

impl WholeFile {
    /// Makes sure that a file can be written there, and removes an earlier one.
    ///
    /// # Errors
    /// [`OutputError`]
    pub(crate) fn prepare(path: &Path, patience: Duration) -> Result<Self, OutputError> {
        let place = Place::of(path);
        if place.is_special() {
            let file = OutputFile::open(path, patience)?;
            return Ok(Self {
                partial: place.path().to_owned(),
                place,
                progress: file.progress(),
                file: Mutex::new(Some(file)),
                _directory: None,
            });
        }
        if place.path().is_dir() {
            return Err(OutputError::Directory(path.display().to_string()));
        }
        let partial = partial_of(place.path());
        let file = OutputFile::open(&partial, patience)?;
        let directory = File::open(place.directory()).map_err(OutputError::file(place.directory()))?;
        let whole = Self {
            progress: file.progress(),
            file: Mutex::new(Some(file)),
            _directory: Some(directory),
            partial,
            place,
        };
        whole.place.clear()?;
        Ok(whole)
    }

    /// Where it will be.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    /// The directory that it will be in, if it gets its name there.
    #[must_use]
    pub(crate) fn renamed_in(&self) -> Option<&Path> {
        (!self.place.is_special()).then(|| self.place.directory())
    }

    /// How far it is, and the way to have a write end that waits for a reader.
    #[must_use]
    pub(crate) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Writes the whole file by `write`; it gets its name then. What is not finished is removed. Works once.
    ///
    /// # Errors
    /// What `write` or the system says.
    pub(crate) fn fill<T>(&self, write: impl FnOnce(&mut OutputFile) -> io::Result<T>) -> io::Result<T> {
        let taken = self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut file = taken.ok_or_else(|| io::Error::other("it has been written already"))?;
        let written = write(&mut file);
        if self.place.is_special() {
            return written;
        }
        let named = written.and_then(|value| {
            fs::rename(&self.partial, self.place.path())?;
            Ok(value)
        });
        if named.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&self.partial);
        }
        named
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        let unused = self.file.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if unused.is_some() && !self.place.is_special() {
            // Nobody misses it if it is gone already.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Puts a small file whole in the place of an earlier one, within a directory that is this run's.
///
/// # Errors
/// What the system says; the earlier file stays then.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = partial_of(path);
    let write = || {
        File::create(&partial)?.write_all(bytes)?;
        fs::rename(&partial, path)
    };
    write().inspect_err(|_| {
        // The first error is the one to tell.
        let _ = fs::remove_file(&partial);
    })
}

/// The name until the file is whole.
pub(crate) fn partial_of(path: &Path) -> PathBuf {
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    partial.into()
}
