//! Where a finished report goes: standard output and the report directory.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::Context;

use super::run::Format;
use crate::outcome::{self, Condition};
use crate::report::render::{RENDERERS, Renderer};
use crate::report::{ConditionNote, Report, json, text};

/// Writes the report files and prints the report. Gives the exit code of the process. A report that cannot be written
/// is still printed.
#[must_use]
pub fn finish(report: &mut Report, directory: Option<&Path>, format: Format) -> u8 {
    if let Some(directory) = directory {
        let written = RENDERERS.iter().map(|format| {
            let path = directory.join(format.file_name());
            write_file(&path, |out| format.render(report, out))
        });
        let failures: Vec<String> = written.filter_map(Result::err).collect();
        for failure in failures {
            eprintln!("error: {failure}");
            report.conditions.push(ConditionNote {
                condition: Condition::Infrastructure,
                reason: failure,
            });
        }
        let held: Vec<Condition> = report.conditions.iter().map(|note| note.condition).collect();
        report.exit_code = outcome::exit_code(&held);
        report.outcome = outcome::outcome(&held);
    }
    let out = &mut io::stdout().lock();
    let printed = match format {
        Format::Text => text::Text.render(report, out),
        Format::Json => json::Json.render(report, out),
    };
    // Whoever closed standard output does not want to read more; the exit code still tells.
    let _ = printed.and_then(|()| out.flush());
    report.exit_code
}

/// Removes the reports of an earlier run, so that a run that comes to none of its own does not seem to have them.
///
/// # Errors
/// If a file is there and cannot be removed.
pub fn remove_earlier(directory: &Path) -> anyhow::Result<()> {
    for format in RENDERERS {
        let path = directory.join(format.file_name());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove the earlier report {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Prints a finished text. Whoever closed standard output does not want to read more.
pub fn print(text: &str) {
    let out = &mut io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn write_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), String> {
    let attempt = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        write(&mut file)?;
        file.flush()
    };
    attempt().map_err(|error| format!("cannot write {}: {error}", path.display()))
}
