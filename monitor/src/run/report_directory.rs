//! The outputs of a run: the report directory, and the list of files that the run has begun to write.
//!
//! Talks to the file system. It must not know what a report says.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use storlock_vmm::host::lock_exclusively;

use super::Failure;
use super::spec::{OutputPath, RunSpec};
use crate::notices::Notices;
use crate::output::{Cut, OutputError, OutputFile, Place, is_special, partial_of, replace};
use crate::report::Format;
use crate::report::Report;
use crate::report::render::Renderer;

/// Name of the report for people in the report directory.
const TEXT_FILE: &str = "report.txt";
/// Name of the report for programs in the report directory.
pub(crate) const JSON_FILE: &str = "report.json";
/// Name of the report for a browser in the report directory.
pub(crate) const HTML_FILE: &str = "report.html";
/// Names of the reports of every run, as [`Format::OF_EVERY_RUN`] has their formats.
pub(crate) const REPORTS: [&str; 3] = [TEXT_FILE, JSON_FILE, HTML_FILE];
/// All names of a run in its report directory, the reports first.
pub(crate) const REPORT_FILES: [&str; 7] = [
    TEXT_FILE,
    JSON_FILE,
    HTML_FILE,
    SERIAL_FILE,
    TRACE_FILE,
    SCRIPT_FILE,
    SNAPSHOT_FILE,
];
/// Name of the event trace in the report directory.
pub(crate) const TRACE_FILE: &str = "events.trace";
/// Name of the guest's serial log in the report directory.
pub(crate) const SERIAL_FILE: &str = "serial.log";
/// Name of gdb's script in the report directory.
pub(crate) const SCRIPT_FILE: &str = "attach.gdb";
/// Name of the file for snapshots in the report directory.
pub(crate) const SNAPSHOT_FILE: &str = "snapshots.txt";

/// The files that a run has begun. Those of a run that never starts are removed again: an empty one says nothing.
#[derive(Debug, Default)]
pub(crate) struct Outputs(Mutex<Vec<PathBuf>>);

impl Outputs {
    /// Opens an output for writing.
    ///
    /// # Errors
    /// As [`OutputFile::open`].
    pub(crate) fn open(&self, path: &Path, patience: Duration) -> Result<OutputFile, OutputError> {
        let file = OutputFile::open(path, patience)?;
        self.add(path);
        Ok(file)
    }

    /// Counts a file that is there already.
    pub(crate) fn add(&self, path: &Path) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(path.to_owned());
    }

    /// Removes the files; never what is no regular file.
    pub(crate) fn remove(&self) {
        let files = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let places = files
            .iter()
            .map(|path| Place::of(path))
            .filter(|place| !place.is_special());
        for place in places {
            // Why the run does not start matters more than that.
            let _ = fs::remove_file(place.path());
        }
    }
}

/// A report directory, which is one run's.
#[derive(Debug)]
pub struct ReportDirectory {
    path: PathBuf,
    /// Reports that do not become files because something special has their name: a named pipe.
    special: Mutex<Vec<(&'static str, Option<OutputFile>)>>,
    /// It stays open: it holds the lock, and the limits on files know a directory by its inode, of which some file systems
    /// (9p) make a new one for a directory that nobody has open.
    _handle: File,
}

impl ReportDirectory {
    /// Locks the directory, if there is one, and removes the files `names` of an earlier run: whatever fails from here on,
    /// they are not taken for this run's.
    ///
    /// # Errors
    /// If another run has it, or a file cannot be removed.
    pub(crate) fn claim(path: &Path, names: &[&str], notices: &dyn Notices) -> anyhow::Result<Option<Self>> {
        if !path.is_dir() {
            // Making it says what is wrong with it.
            return Ok(None);
        }
        let claimed = Self::open(path, notices)?;
        for name in names {
            let file = path.join(name);
            for path in [partial_of(&file), file] {
                clear(&path)
                    .with_context(|| format!("cannot remove what an earlier run has left, {}", path.display()))?;
            }
        }
        Ok(Some(claimed))
    }

    /// Makes the directory. `patience` is how long the reader of a report is waited for that is to go into a named pipe.
    ///
    /// # Errors
    /// If it cannot be made, or another run has it.
    pub fn create(
        path: &Path,
        claimed: Option<Self>,
        patience: Duration,
        notices: &dyn Notices,
    ) -> anyhow::Result<Self> {
        let what = || format!("cannot create the report directory {}", path.display());
        let directory = if let Some(claimed) = claimed {
            claimed
        } else {
            fs::create_dir_all(path).with_context(what)?;
            Self::open(path, notices)?
        };
        for name in REPORTS {
            let place = path.join(name);
            if is_special(&place) {
                let file =
                    OutputFile::open(&place, patience).with_context(|| format!("cannot write {}", place.display()))?;
                let mut special = directory.special.lock().unwrap_or_else(PoisonError::into_inner);
                special.push((name, Some(file)));
            }
        }
        // Refuse a directory that cannot be written to now, not after the run.
        let probe = partial_of(&path.join(JSON_FILE));
        let tried = File::create(&probe).and_then(|_| fs::remove_file(&probe));
        tried.with_context(|| format!("cannot write to the report directory {}", path.display()))?;
        Ok(directory)
    }

    fn open(path: &Path, notices: &dyn Notices) -> anyhow::Result<Self> {
        let handle =
            File::open(path).with_context(|| format!("cannot open the report directory {}", path.display()))?;
        match lock_exclusively(&handle) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => bail!(
                "the report directory {} is in use by another run: give each run one of its own (--report-dir)",
                path.display()
            ),
            Ok(()) => {}
            Err(error) => notices.say(&format!(
                "note: the report directory {} cannot be locked against a second run: {error}",
                path.display()
            )),
        }
        Ok(Self {
            path: path.to_owned(),
            special: Mutex::default(),
            _handle: handle,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has reports in named pipes end when their readers take nothing any more at `deadline`.
    pub(crate) fn give_up_at(&self, deadline: Instant) {
        let special = self.special.lock().unwrap_or_else(PoisonError::into_inner);
        for file in special.iter().filter_map(|(_, file)| file.as_ref()) {
            file.progress().give_up_at(deadline);
        }
    }

    /// Writes the report in every format; gives what kept it from that.
    #[must_use]
    pub fn write(&self, report: &Report) -> Vec<Cut> {
        let formats = Format::OF_EVERY_RUN.iter().zip(REPORTS);
        let failed = formats.filter_map(|(format, name)| {
            let path = self.path.join(name);
            let written = render(report, format.renderer()).and_then(|bytes| self.write_one(name, &path, &bytes));
            written.err().map(|error| cut(&path, &error))
        });
        failed.collect()
    }

    fn write_one(&self, name: &str, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut special = self.special.lock().unwrap_or_else(PoisonError::into_inner);
        match special.iter_mut().find(|(there, _)| *there == name) {
            // Once: what is in a pipe cannot be replaced. The reader finds its end when it is closed.
            Some((_, file)) => file.take().map_or(Ok(()), |mut file| file.write_all(bytes)),
            None => replace(path, bytes),
        }
    }
}

/// Why a report did not get into its file.
pub(super) fn cut(path: &Path, error: &io::Error) -> Cut {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Cut::by(error, &path.display().to_string())
    } else {
        Cut::Failure(format!("cannot write {}: {error}", path.display()))
    }
}

/// Removes a file that has one of a run's own names; a link leads elsewhere and only goes itself.
fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(_) if is_special(path) => Ok(()),
        Ok(_) => fs::remove_file(path),
    }
}

/// Locks the run's report directory, if it is there, and removes what an earlier run has left in all its outputs.
///
/// # Errors
/// [`Failure`] if another run uses one of them, or it cannot be removed.
pub(super) fn clear_outputs(spec: &RunSpec, notices: &dyn Notices) -> Result<Option<ReportDirectory>, Failure> {
    let directory =
        ReportDirectory::claim(&spec.report_dir, &REPORT_FILES, notices).map_err(Failure::infrastructure)?;
    for OutputPath { option, path, whole } in spec.outputs() {
        let place = Place::of(&path);
        let mut cleared = Ok(());
        if whole && !place.is_special() {
            // First: it is what another run has locked.
            cleared = Place::of(&partial_of(place.path())).clear();
        }
        cleared
            .and_then(|()| place.clear())
            .with_context(|| format!("{option}: cannot remove what an earlier run has left"))
            .map_err(Failure::infrastructure)?;
    }
    Ok(directory)
}

/// Renders a report.
///
/// # Errors
/// If its renderer fails.
pub(crate) fn render(report: &Report, format: &dyn Renderer) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    format.render(report, &mut bytes)?;
    Ok(bytes)
}
