//! `storlock merge`: unites the output directories of a job's shards.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;

use super::diagnostics::tell;
use super::options::ListFormat;
use super::stress::{failure, print, read_baseline};
use crate::run::Failure;
use crate::stress::history::{self, History, HistoryError};
use crate::stress::runner::{OutputDirectory, now, owner, remove_left, write_reports};
use crate::stress::triage::{Date, triage};

/// Options of `storlock merge`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Output directories of one job
    #[arg(value_name = "DIR", required = true)]
    pub directories: Vec<PathBuf>,
    /// Directory for the result; it must not exist
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
    /// Findings that are known and accepted (TOML)
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Largest number of cases to keep for each finding
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub keep: u32,
    /// How the report of the last night is printed on standard output
    #[arg(long, value_enum, default_value_t = ListFormat::Text)]
    pub format: ListFormat,
}

/// Unites the directories and reports on the last night.
///
/// # Errors
/// [`Failure`] if they do not belong together, or files cannot be read or written.
pub fn execute(arguments: &Arguments) -> Result<u8, Failure> {
    let baseline = read_baseline(arguments.baseline.as_deref())?;
    let job = one_job(&arguments.directories)?;
    let target = &arguments.output;
    if fs::symlink_metadata(target).is_ok() {
        return Err(Failure::usage(anyhow!(
            "{} is there already: name a directory that is not",
            target.display()
        )));
    }
    let partial = crate::output::partial_of(target);
    // What an earlier merge has left that was killed.
    remove_left(&partial).map_err(failure)?;
    let report = {
        let output = OutputDirectory::claim(&partial, &job, u64::MAX).map_err(failure)?;
        let history = unite(&arguments.directories, &output)?;
        let shown = |error: HistoryError| Failure::infrastructure(error);
        let kept = history.kept_cases(&job, arguments.keep).map_err(shown)?;
        copy_cases(&arguments.directories, &output, &kept)?;
        let last = history.last_night(&job).map_err(shown)?;
        let last = last.ok_or_else(|| Failure::usage(anyhow!("no night has begun in any of the directories")))?;
        let night = history.load(&job, &last).map_err(shown)?;
        let report = triage(&night, &baseline, Date::of(now()), false);
        write_reports(&output, &report).map_err(failure)?;
        report
    };
    fs::rename(&partial, target)
        .with_context(|| format!("cannot make {}", target.display()))
        .map_err(Failure::infrastructure)?;
    print(&report, arguments.format)?;
    Ok(report.exit_code)
}

/// The job that all directories belong to.
fn one_job(directories: &[PathBuf]) -> Result<String, Failure> {
    let mut job: Option<String> = None;
    for directory in directories {
        let name = owner(directory).map_err(failure)?;
        match &job {
            Some(known) if *known != name => {
                return Err(Failure::usage(anyhow!(
                    "{} belongs to the job {name}, and others to {known}: merge one job at a time",
                    directory.display()
                )));
            }
            _ => job = Some(name),
        }
    }
    job.ok_or_else(|| Failure::usage(anyhow!("no directory is named")))
}

fn unite(directories: &[PathBuf], output: &OutputDirectory) -> Result<History, Failure> {
    let mut whole = History::open(&output.path().join(history::FILE)).map_err(Failure::infrastructure)?;
    for directory in directories {
        let path = directory.join(history::FILE);
        let part = match History::open_existing(&path) {
            Err(HistoryError::Empty) => {
                tell!("warning: no night has begun in {}", directory.display());
                continue;
            }
            part => part
                .with_context(|| format!("the history {}", path.display()))
                .map_err(Failure::infrastructure)?,
        };
        whole.merge(&part).map_err(|error| {
            let conflict = matches!(error, HistoryError::Conflict(_));
            let error = anyhow!(error).context(format!("cannot take over {}", directory.display()));
            if conflict {
                Failure::usage(error)
            } else {
                Failure::infrastructure(error)
            }
        })?;
    }
    Ok(whole)
}

fn copy_cases(directories: &[PathBuf], output: &OutputDirectory, wanted: &HashSet<String>) -> Result<(), Failure> {
    for case in wanted {
        // A shard keeps no more than its limit allows, and one that still runs may remove a case at any moment.
        for source in directories.iter().map(|directory| directory.join(case)) {
            let target = output.path().join(case);
            match copy(&source, &target) {
                Ok(()) => break,
                Err(_) if !source.is_dir() => {
                    let _ = fs::remove_dir_all(&target);
                }
                Err(error) => {
                    let error = anyhow!(error).context(format!("cannot copy {}", source.display()));
                    return Err(Failure::infrastructure(error));
                }
            }
        }
    }
    Ok(())
}

/// Copies the regular files of a case, which has no directories.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let entries = fs::read_dir(from)?;
    fs::create_dir_all(to)?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
