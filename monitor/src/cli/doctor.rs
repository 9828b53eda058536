//! `storlock doctor`: what this machine can do for a run, what it cannot, and what to do about it.
//!
//! Talks to the library's examination and to the terminal. It must not know what is examined.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::options::ListFormat;
use super::output;
use crate::doctor::{DEFAULT_DEVICE, Diagnosis, Status};
use crate::outcome::Condition;
use crate::report::json;
use crate::run::Failure;

/// Options of `storlock doctor`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The KVM device
    #[arg(long, value_name = "PATH", default_value = DEFAULT_DEVICE)]
    kvm: PathBuf,
    /// How to print the result
    #[arg(long, value_enum, default_value = "text")]
    format: ListFormat,
}

/// Examines this machine and prints the result. The exit code is 0 if runs are possible, also with restrictions,
/// and 5 if not.
///
/// # Errors
/// [`Failure`] if the result cannot be printed.
pub fn execute(arguments: &Arguments) -> Result<u8, Failure> {
    let diagnosis = Diagnosis::of(&arguments.kvm);
    let output = match arguments.format {
        ListFormat::Text => text(&diagnosis),
        ListFormat::Json => json::text(&diagnosis).map_err(Failure::infrastructure)?,
    };
    output::print(&output)?;
    Ok(if diagnosis.usable {
        0
    } else {
        Condition::Infrastructure.exit_code()
    })
}

fn text(diagnosis: &Diagnosis) -> String {
    let mut out = String::new();
    for check in &diagnosis.checks {
        let mark = match check.status {
            Status::Good => "ok     ",
            Status::Limited => "limited",
            Status::Missing => "missing",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{mark}  {}: {}", check.subject, check.detail);
        if !check.advice.is_empty() {
            let _ = writeln!(out, "         -> {}", check.advice);
        }
    }
    let verdict = match diagnosis.checks.iter().map(|check| check.status).max() {
        Some(Status::Missing) | None => "Runs are not possible on this machine.",
        Some(Status::Limited) => "Runs are possible on this machine, with the limits above.",
        Some(Status::Good) => "Everything that runs need is there.",
    };
    let _ = writeln!(out, "\n{verdict}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_kvm_is_not_usable_and_is_told_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let diagnosis = Diagnosis::of(&directory.path().join("kvm"));
        assert_eq!((diagnosis.checks.len(), diagnosis.usable), (1, false));
        let text = text(&diagnosis);
        assert!(text.contains("modprobe") && text.contains("scripts/lab/run"), "{text}");
        let arguments = Arguments {
            kvm: directory.path().join("kvm"),
            format: ListFormat::Json,
        };
        assert_eq!(execute(&arguments).ok(), Some(5));
    }
}
