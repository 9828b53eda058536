//! Where an output will go, found before anything is opened: the file behind symbolic links, its kind and its identity.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{OutputError, lock};

/// Most symbolic links on the way to a file, as the kernel has it.
const MOST_LINKS: usize = 40;

/// A path with its symbolic links followed as far as they lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    path: PathBuf,
    special: bool,
}

/// Which file a path means. Two paths with the same one are the same file, or will be when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    /// A file that is there: device and inode.
    There(u64, u64),
    /// One that is not: the directory that is there, and the names below it.
    Below(u64, u64, OsString),
}

impl Identity {
    /// Of what `path` leads to; `None` if no directory on the way to it can be looked at.
    #[must_use]
    pub(crate) fn of(path: &Path) -> Option<Self> {
        if let Ok(found) = fs::metadata(path) {
            return Some(Self::There(found.dev(), found.ino()));
        }
        let path = std::path::absolute(follow(path)).ok()?;
        let mut ancestors = path.ancestors().skip(1);
        let (directory, found) = ancestors.find_map(|directory| Some((directory, fs::metadata(directory).ok()?)))?;
        let below = path.strip_prefix(directory).ok()?;
        Some(Self::Below(found.dev(), found.ino(), below.as_os_str().to_owned()))
    }
}

/// The path behind the links, also where the last one leads to a file that is not there yet.
fn follow(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(target) = fs::read_link(&path) else { break };
        // An absolute target replaces the directory.
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    path
}

/// Whether something is at `path` that is neither a regular file nor a directory. It makes one system call, which asks for
/// the file's kind.
#[must_use]
pub(crate) fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

impl Place {
    /// What `path` leads to.
    #[must_use]
    pub(crate) fn of(path: &Path) -> Self {
        let special = is_special(path);
        // The name of an open pipe below /proc leads nowhere.
        let path = if special { path.to_owned() } else { follow(path) };
        Self { path, special }
    }

    /// The file itself.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// It is there and neither a regular file nor a directory: never to be replaced or removed.
    #[must_use]
    pub(crate) fn is_special(&self) -> bool {
        self.special
    }

    /// The directory that it is in.
    #[must_use]
    pub(crate) fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// Removes what an earlier run has left there.
    ///
    /// # Errors
    /// [`OutputError::InUse`] if another run is writing it, or what the system says.
    pub(crate) fn clear(&self) -> Result<(), OutputError> {
        if self.special || fs::symlink_metadata(&self.path).is_err() {
            return Ok(());
        }
        if self.path.is_dir() {
            return Err(OutputError::Directory(self.path.display().to_string()));
        }
        // One that may not be read can still be removed, but then it is nobody's with our locks.
        if let Ok(file) = fs::File::open(&self.path) {
            lock(&file, &self.path)?;
        }
        fs::remove_file(&self.path).map_err(OutputError::file(&self.path))
    }
}
