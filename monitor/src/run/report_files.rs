//! Where the report of a run is written: its report directory, and files that are named one by one (`--report`).
//!
//! Talks to the file system. It must not know what a report says.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::report_directory::{ReportDirectory, cut, render};
use super::spec::FilePath;
use crate::output::{Cut, Place, WholeFile, replace};
use crate::report::{Format, Report};

/// A file for a report in one format. It is locked from the start, and there only when it is whole.
#[derive(Debug)]
pub struct ReportFile {
    format: Format,
    /// As it was given.
    path: PathBuf,
    special: bool,
    file: WholeFile,
    written: AtomicBool,
}

impl ReportFile {
    /// Makes sure that the reports can be written, and removes earlier ones. The reader of a named pipe is waited for as
    /// long as `patience`.
    ///
    /// # Errors
    /// If one cannot be written, or another run writes it.
    pub(crate) fn prepare_all(files: &[(FilePath, Format)], patience: Duration) -> anyhow::Result<Vec<Self>> {
        let prepare = |(path, format): &(FilePath, Format)| {
            Ok(Self {
                format: *format,
                path: path.to_path_buf(),
                special: Place::of(path).is_special(),
                file: WholeFile::prepare(path, patience)?,
                written: AtomicBool::new(false),
            })
        };
        files.iter().map(prepare).collect()
    }

    /// The directory that it gets its name in, if it gets one.
    #[must_use]
    pub(crate) fn renamed_in(&self) -> Option<&Path> {
        self.file.renamed_in()
    }

    fn write(&self, report: &Report) -> Option<Cut> {
        let again = self.written.swap(true, Ordering::Relaxed);
        if again && self.special {
            // What is in a pipe cannot be replaced.
            return None;
        }
        let written = render(report, self.format.renderer()).and_then(|bytes| {
            if again {
                replace(self.file.path(), &bytes)
            } else {
                self.file.fill(|file| file.write_all(&bytes))
            }
        });
        written.err().map(|error| cut(&self.path, &error))
    }
}

/// All places of a report.
#[derive(Debug, Default)]
pub struct Reports {
    directory: Option<ReportDirectory>,
    files: Vec<ReportFile>,
}

impl Reports {
    /// In a directory, if there is one, and in the files.
    #[must_use]
    pub fn new(directory: Option<ReportDirectory>, files: Vec<ReportFile>) -> Self {
        Self { directory, files }
    }

    /// Writes the report everywhere, again in the place of what an earlier call has written; gives what kept it from that.
    #[must_use]
    pub fn write(&self, report: &Report) -> Vec<Cut> {
        let mut cuts = self
            .directory
            .as_ref()
            .map(|directory| directory.write(report))
            .unwrap_or_default();
        cuts.extend(self.files.iter().filter_map(|file| file.write(report)));
        cuts
    }

    /// Has reports in named pipes end when their readers take nothing any more at `deadline`.
    pub(crate) fn give_up_at(&self, deadline: Instant) {
        if let Some(directory) = &self.directory {
            directory.give_up_at(deadline);
        }
        for file in &self.files {
            file.file.progress().give_up_at(deadline);
        }
    }
}
