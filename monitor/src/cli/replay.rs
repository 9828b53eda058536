//! `storlock replay`: makes a report from a recording or an event trace, without a guest.

use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::diagnostics::StandardError;
use super::output;
use crate::run::report_directory::{JSON_FILE, ReportDirectory, TEXT_FILE};
use crate::run::spec::Format;
use crate::run::{Failure, input, places};
use crate::session::replay;
use crate::vmi::recording;

/// How long the reader of a report is waited for that goes into a named pipe.
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
    places::check_replay(&arguments.file, arguments.report_dir.as_deref())?;
    let directory = match &arguments.report_dir {
        Some(path) => Some(report_directory(path).map_err(Failure::infrastructure)?),
        None => None,
    };
    let mut report = replay_file(arguments).map_err(Failure::infrastructure)?;
    let (directory, format) = (directory.as_ref(), arguments.format);
    Ok(output::finish(&mut report, directory, format, output::print_report))
}

fn report_directory(path: &Path) -> anyhow::Result<ReportDirectory> {
    let claimed = ReportDirectory::claim(path, &[TEXT_FILE, JSON_FILE], &StandardError)?;
    ReportDirectory::create(path, claimed, READER_PATIENCE, &StandardError)
}

fn replay_file(arguments: &Arguments) -> anyhow::Result<crate::report::Report> {
    let path = &arguments.file;
    let what = || format!("cannot replay {}", path.display());
    let mut file = input::open_regular(path).with_context(what)?;
    let mut magic = [0; 8];
    let whole = file.read_exact(&mut magic).is_ok();
    file.rewind().with_context(what)?;
    let file = BufReader::with_capacity(1 << 20, file);
    if whole && magic == recording::MAGIC {
        replay::recording(file).with_context(what)
    } else {
        replay::trace(file).with_context(what)
    }
}
