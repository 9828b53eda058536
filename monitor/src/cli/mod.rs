//! The command line: one file a subcommand.
//!
//! Talks to the library and to the terminal. Every failure ends in one message that says what to do and in the exit
//! code that the outcome module documents.

pub mod boot;
pub mod debugger;
mod disk;
pub mod doctor;
mod dump;
pub mod fault;
pub mod firmware;
pub mod images;
mod input;
pub mod interrupt;
pub mod options;
pub mod other_guest;
pub mod output;
pub mod progress;
pub mod replay;
pub mod run;
pub mod symbols;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::outcome::Condition;

/// Boots a Windows x64 guest with a Storport driver and reports every spin lock call that breaks its contract.
#[derive(Debug, Parser)]
#[command(name = "storlock", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 Completed, 1 Defect, 2 usage, 3 the guest failed (crash, hang, boot), 4 not \
applicable or inconclusive, 5 infrastructure (KVM, files), 130 interrupted with a partial report. If several hold: \
130, 2, 5, 1, 3, 4, 0; the first wins.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a guest with a driver under test and watch its spin locks.
    Run(Box<run::Arguments>),
    /// Report on a recording or an event trace of an earlier run, without a guest.
    Replay(replay::Arguments),
    /// List the lock routines that a kernel or driver exports or imports.
    Symbols(symbols::Arguments),
    /// Tell what this machine can do for a run, and what to do about the rest.
    Doctor(doctor::Arguments),
}

/// A command that could not do its work, with the exit code that says whose fault it is.
#[derive(Debug)]
pub struct Failure {
    /// What holds.
    pub condition: Condition,
    /// What happened and what to do about it.
    pub error: anyhow::Error,
}

impl Failure {
    /// The command line asked for something impossible.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self {
            condition: Condition::Usage,
            error: error.into(),
        }
    }

    /// The host failed: KVM, files.
    pub fn infrastructure(error: impl Into<anyhow::Error>) -> Self {
        Self {
            condition: Condition::Infrastructure,
            error: error.into(),
        }
    }
}

/// Runs the command line and gives the exit code of the process.
#[must_use]
pub fn main() -> ExitCode {
    // clap prints usage errors by itself and ends the process with code 2.
    let cli = Cli::parse();
    log_to_stderr();
    let result = match &cli.command {
        Command::Run(arguments) => run::execute(arguments),
        Command::Replay(arguments) => replay::execute(arguments),
        Command::Symbols(arguments) => symbols::execute(arguments),
        Command::Doctor(arguments) => doctor::execute(arguments),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("error: {}", with_causes(&failure.error));
            ExitCode::from(failure.condition.exit_code())
        }
    }
}

/// What the program has to say about itself: warnings, or what `RUST_LOG` asks for.
fn log_to_stderr() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

/// An error and its causes in one line, without the causes that the text above them tells already.
fn with_causes(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .reduce(|text, cause| {
            if text.contains(&cause) {
                text
            } else {
                format!("{text}: {cause}")
            }
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::Error::msg("no such file")
            .context("cannot open x: no such file")
            .context("nothing was run");
        assert_eq!(with_causes(&error), "nothing was run: cannot open x: no such file");
    }
}
