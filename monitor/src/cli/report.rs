//! `storlock report`: gives the report of an earlier run in another format, without a guest.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;

use super::output;
use crate::outcome::Condition;
use crate::output::Cut;
use crate::report::Format;
use crate::run::report_directory::render;
use crate::run::report_files::{ReportFile, Reports};
use crate::run::spec::{FilePath, formats};
use crate::run::{Failure, places, saved_report};

/// How long to wait for the reader of a report that goes into a named pipe.
const READER_PATIENCE: Duration = Duration::from_secs(600);

/// Options of `storlock report`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A report in JSON (report.json), a report directory, a recording (`storlock run --record`) or an event trace
    /// (events.trace)
    #[arg(value_name = "FILE|DIR")]
    pub file: PathBuf,
    /// Format on standard output, and of --output files whose names do not end in one [default: text]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Write the report to this file instead of standard output, in the format of the name's ending; may be given
    /// several times
    #[arg(short, long, value_name = "FILE")]
    pub output: Vec<PathBuf>,
}

/// Converts a report. The exit code says whether that worked, not what the report says.
///
/// # Errors
/// [`Failure`] if the file cannot be read or holds no report, or an output cannot be written.
pub fn execute(arguments: &Arguments) -> Result<u8, Failure> {
    let file = saved_report::file(&arguments.file);
    let outputs: Vec<_> = arguments.output.iter().map(PathBuf::as_path).collect();
    places::check_reports(&[&file], None, &outputs)?;
    let named: Vec<FilePath> = arguments.output.iter().cloned().map(Into::into).collect();
    let default = arguments.format.filter(|_| !named.is_empty());
    let named = formats("--output", "--format", &named, default).map_err(Failure::usage)?;
    let saved = saved_report::read(&file).map_err(Failure::infrastructure)?;
    if named.is_empty() {
        let format = arguments.format.unwrap_or_default();
        if !format.is_text() && io::stdout().is_terminal() {
            return Err(Failure::usage(anyhow!(
                "the format {} is no text for a terminal: write it to a file (--output)",
                format.name()
            )));
        }
        let bytes = render(&saved.report, format.renderer()).map_err(Failure::infrastructure)?;
        output::print_bytes(&bytes)?;
    } else {
        let files = ReportFile::prepare_all(&named, READER_PATIENCE).map_err(Failure::infrastructure)?;
        let cuts = Reports::new(None, files).write(&saved.report);
        if let Some(Cut::Failure(text)) = cuts.into_iter().find(|cut| matches!(cut, Cut::Failure(_))) {
            return Err(Failure::infrastructure(anyhow!(text)));
        }
    }
    Ok(damage(&saved))
}

/// 5 if a recording or trace is damaged: the report is not all that there was.
fn damage(saved: &saved_report::Saved) -> u8 {
    let failure = Condition::Infrastructure;
    let damaged = saved.replayed && saved.report.conditions.iter().any(|note| note.condition == failure);
    for note in saved
        .report
        .conditions
        .iter()
        .filter(|note| damaged && note.condition == failure)
    {
        super::diagnostics::tell!("error: {}", note.reason);
    }
    if damaged { failure.exit_code() } else { 0 }
}
