//! `storlock replay`: reports on a recording or an event trace, without a guest.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::run::Format;
use super::{Failure, output};
use crate::session::replay;
use crate::target::recording;

/// Options of `storlock replay`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A recording (`storlock run --record`) or an event trace (`events.trace` in a report directory)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How the report is printed on standard output
    #[arg(long, value_enum, default_value_t = Format::Text)]
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
    let mut report = replay_file(arguments).map_err(Failure::infrastructure)?;
    if let Some(directory) = &arguments.report_dir {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create the report directory {}", directory.display()))
            .map_err(Failure::infrastructure)?;
    }
    Ok(output::finish(
        &mut report,
        arguments.report_dir.as_deref(),
        arguments.format,
    ))
}

fn replay_file(arguments: &Arguments) -> anyhow::Result<crate::report::Report> {
    let path = &arguments.file;
    let what = || format!("cannot replay {}", path.display());
    let mut file = File::open(path).with_context(what)?;
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
