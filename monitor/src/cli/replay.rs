//! `storlock replay`: makes a report from a recording or an event trace, without a guest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::diagnostics::StandardError;
use super::output;
use crate::report::Format;
use crate::run::report_directory::{REPORTS, ReportDirectory};
use crate::run::report_files::Reports;
use crate::run::{Failure, places, saved_report};

/// How long to wait for the reader of a report that goes into a named pipe.
const READER_PATIENCE: Duration = Duration::from_secs(600);

/// Options of `storlock replay`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A recording (`storlock run --record`) or an event trace (`events.trace` in a report directory)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How the report is printed on standard output
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Directory for report.txt and report.json
    #[arg(long, value_name = "DIR")]
    pub report_dir: Option<PathBuf>,
}

/// Replays and reports.
///
/// # Errors
/// [`Failure`] if the file cannot be read or is neither a recording nor a trace.
pub fn execute(arguments: &Arguments) -> Result<u8, Failure> {
    places::check_reports(&[&arguments.file], arguments.report_dir.as_deref(), &[])?;
    let directory = match &arguments.report_dir {
        Some(path) => Some(report_directory(path).map_err(Failure::infrastructure)?),
        None => None,
    };
    let mut report = saved_report::replay(&arguments.file).map_err(Failure::infrastructure)?;
    let reports = Reports::new(directory, Vec::new());
    Ok(output::finish(
        &mut report,
        &reports,
        arguments.format,
        output::print_report,
    ))
}

fn report_directory(path: &Path) -> anyhow::Result<ReportDirectory> {
    let claimed = ReportDirectory::claim(path, &REPORTS, &StandardError)?;
    ReportDirectory::create(path, claimed, READER_PATIENCE, &StandardError)
}
