//! The output directory of a job. It belongs to one job, is locked while the job runs, and is bounded in size.
//!
//! Talks to the file system. `work` holds the runs in flight, `cases` the runs that are kept. A run's directory is
//! moved from `work` to `cases` before the run counts, so that a kill leaves at most a directory that nothing refers
//! to.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use storlock_vmm::host::lock_exclusively;

use super::{RunnerError, io};
use crate::output::replace;

/// The file that says whose directory it is, and that is locked.
const OWNER: &str = "job";
const WORK: &str = "work";
const CASES: &str = "cases";
/// What the file of the owner begins with.
const MARK: &str = "storlock stress job ";

/// An output directory.
#[derive(Debug)]
pub(crate) struct OutputDirectory {
    path: PathBuf,
    limit: u64,
    /// Bytes in the kept cases.
    kept: u64,
    /// It holds the lock.
    _owner: File,
}

impl OutputDirectory {
    /// Takes a directory for a job, which is made if it is not there. What was in flight when an earlier process was killed
    /// is removed.
    ///
    /// # Errors
    /// [`RunnerError`] if it is another job's, another process's, or has something else in it.
    pub(crate) fn claim(path: &Path, job: &str, limit: u64) -> Result<Self, RunnerError> {
        let shown = path.display();
        let fail = || io(shown.to_string());
        fs::create_dir_all(path).map_err(fail())?;
        let path = &path.canonicalize().map_err(fail())?;
        let marker = path.join(OWNER);
        if !marker.exists() && fs::read_dir(path).map_err(fail())?.next().is_some() {
            return Err(RunnerError::Usage(format!(
                "{shown} has something else in it: give the job an output directory of its own"
            )));
        }
        let mut owner = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(&marker)
            .map_err(fail())?;
        match lock_exclusively(&owner) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(RunnerError::Other(format!(
                    "{shown} is in use by another process: give each an output directory of its own"
                )));
            }
            // This file system has no locks; it is said where files are locked.
            _ => {}
        }
        let line = format!("{MARK}{job}\n");
        let written = fs::read_to_string(&marker).map_err(fail())?;
        if written.is_empty() {
            owner.write_all(line.as_bytes()).map_err(fail())?;
        } else if !written.starts_with(MARK) {
            return Err(RunnerError::Usage(format!("{shown} is no output directory of a job")));
        } else if written != line {
            return Err(RunnerError::Usage(format!(
                "{shown} belongs to the job {}: give this one an output directory of its own",
                written[MARK.len()..].trim_end()
            )));
        }
        let mut directory = Self {
            path: path.clone(),
            limit,
            kept: 0,
            _owner: owner,
        };
        let work = directory.path.join(WORK);
        remove(&work).map_err(fail())?;
        fs::create_dir_all(&work).map_err(fail())?;
        fs::create_dir_all(directory.path.join(CASES)).map_err(fail())?;
        directory.kept = size(&directory.path.join(CASES));
        Ok(directory)
    }

    /// Where it is.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory for a run in flight.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn begin(&self, iteration: u64, attempt: u32) -> Result<PathBuf, RunnerError> {
        let path = self.path.join(WORK).join(format!("{iteration}.{attempt}"));
        remove(&path)
            .and_then(|()| fs::create_dir(&path))
            .map_err(io(path.display().to_string()))?;
        Ok(path)
    }

    /// Keeps a run's directory as `case` (`cases/...`); gives whether there was room for it.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub(crate) fn keep(&mut self, run: &Path, case: &str, used_otherwise: u64) -> Result<bool, RunnerError> {
        let bytes = size(run);
        let target = self.path.join(case);
        if self.kept.saturating_add(bytes).saturating_add(used_otherwise) > self.limit {
            return Ok(false);
        }
        remove(&target)
            .and_then(|()| fs::rename(run, &target))
            .map_err(io(target.display().to_string()))?;
        self.kept += bytes;
        Ok(true)
    }

    /// Removes a run's directory.
    pub(crate) fn discard(run: &Path) {
        // What stays is removed at the next start.
        let _ = remove(run);
    }

    /// Removes the cases that are not to be kept (any more).
    pub(crate) fn keep_only(&mut self, wanted: &HashSet<String>) {
        let Ok(entries) = fs::read_dir(self.path.join(CASES)) else {
            return;
        };
        let mut removed = false;
        for entry in entries.flatten() {
            let name = format!("{CASES}/{}", entry.file_name().to_string_lossy());
            if !wanted.contains(&name) {
                // What stays is tried again next time.
                let _ = remove(&entry.path());
                removed = true;
            }
        }
        if removed {
            self.kept = size(&self.path.join(CASES));
        }
    }

    /// Whether a case is kept.
    #[cfg(test)]
    pub(crate) fn has(&self, case: &str) -> bool {
        self.path.join(case).is_dir()
    }

    /// Puts a report there, whole.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RunnerError> {
        let path = self.path.join(name);
        replace(&path, bytes).map_err(io(path.display().to_string()))
    }
}

/// Name of the job that a directory belongs to.
///
/// # Errors
/// If it is no output directory of a job.
pub(crate) fn owner(directory: &Path) -> Result<String, RunnerError> {
    let shown = directory.display();
    let text = fs::read_to_string(directory.join(OWNER))
        .map_err(|_| RunnerError::Usage(format!("{shown} is no output directory of a job")))?;
    match text.strip_prefix(MARK) {
        Some(name) => Ok(name.trim_end().to_owned()),
        None => Err(RunnerError::Usage(format!("{shown} is no output directory of a job"))),
    }
}

/// Removes an output directory that a process has left which was killed; nothing happens if there is none.
///
/// # Errors
/// If a process still has it, if it is no output directory, or it cannot be removed.
pub(crate) fn remove_left(path: &Path) -> Result<(), RunnerError> {
    let shown = path.display();
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let foreign = |_| RunnerError::Usage(format!("{shown} is in the way, and not of a merge: move it elsewhere"));
    owner(path).map_err(foreign)?;
    let marker = File::open(path.join(OWNER)).map_err(io(shown.to_string()))?;
    match lock_exclusively(&marker) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err(RunnerError::Other(format!(
            "{shown} is in use by another process: wait for its end, or name another directory"
        ))),
        // This file system may have no locks.
        _ => remove(path).map_err(io(shown.to_string())),
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Bytes of the files below a directory.
fn size(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(path: &Path, job: &str) -> Result<OutputDirectory, RunnerError> {
        OutputDirectory::claim(path, job, 100)
    }

    #[test]
    fn a_directory_is_one_jobs_and_one_processs() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let first = claim(&path, "one").unwrap();
        assert!(claim(&path, "one").unwrap_err().to_string().contains("in use"));
        drop(first);
        claim(&path, "one").unwrap();
        assert!(
            claim(&path, "two")
                .unwrap_err()
                .to_string()
                .contains("belongs to the job one")
        );
        assert_eq!(owner(&path).unwrap(), "one");
        assert!(owner(root.path()).is_err());
    }

    #[test]
    fn only_what_a_killed_process_has_left_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("whole.partial");
        remove_left(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("thesis"), "x").unwrap();
        assert!(remove_left(&path).unwrap_err().to_string().contains("in the way"));
        assert!(path.join("thesis").exists());
        fs::remove_dir_all(&path).unwrap();
        let merging = claim(&path, "one").unwrap();
        assert!(remove_left(&path).unwrap_err().to_string().contains("in use"));
        drop(merging);
        remove_left(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_ours_is_not_touched() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("work")).unwrap();
        fs::write(root.path().join("work/thesis"), "x").unwrap();
        assert!(
            claim(root.path(), "one")
                .unwrap_err()
                .to_string()
                .contains("something else")
        );
        assert!(root.path().join("work/thesis").exists());
    }

    #[test]
    fn what_was_in_flight_goes_and_cases_stay_within_their_bounds() {
        let root = tempfile::tempdir().unwrap();
        let mut output = claim(root.path(), "one").unwrap();
        let run = |output: &OutputDirectory, number, bytes: usize| {
            let path = output.begin(number, 0).unwrap();
            fs::write(path.join("report"), vec![0; bytes]).unwrap();
            path
        };
        let (small, large) = (run(&output, 1, 60), run(&output, 2, 60));
        assert!(output.keep(&small, "cases/0-1", 0).unwrap());
        assert!(
            !output.keep(&large, "cases/0-2", 0).unwrap(),
            "60 + 60 are more than 100"
        );
        assert!(output.has("cases/0-1") && !output.has("cases/0-2") && large.exists());
        drop(output);
        let mut output = claim(root.path(), "one").unwrap();
        assert!(!large.exists() && output.has("cases/0-1"));
        output.keep_only(&HashSet::new());
        assert!(!output.has("cases/0-1"));
        assert!(output.keep(&run(&output, 3, 90), "cases/0-3", 5).unwrap());
    }
}
