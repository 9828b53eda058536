//! The command line: one file a subcommand.
//!
//! Talks to the library and to the terminal. Every failure ends in one message that says what to do and in the exit
//! code that the outcome module documents.

pub mod case;
mod diagnostics;
pub mod doctor;
pub mod history;
pub mod interrupt;
pub mod merge;
pub mod options;
pub mod output;
pub mod progress;
pub mod replay;
pub mod report;
pub mod run;
pub mod stress;
pub mod symbols;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::diagnostics::tell;
use crate::escape;
use crate::outcome::Condition;
use crate::output::{PATIENCE, survive_the_file_size_limit};
use crate::run::{Failure, Lines};

/// Boots a Windows x64 guest with a Storport driver and reports every spin lock call that breaks its contract.
#[derive(Debug, Parser)]
#[command(name = "storlock", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 Completed, 1 Defect, 2 usage, 3 the guest failed (crash, hang, boot), 4 not \
applicable or inconclusive, 5 infrastructure (KVM, files), 130 interrupted with a partial report. If several hold, \
the first of 130, 2, 5, 1, 3, 4, 0 wins.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a guest with a driver under test and watch its spin locks.
    Run(Box<run::Arguments>),
    /// Report on a recording or an event trace of an earlier run, without a guest.
    Replay(replay::Arguments),
    /// Convert the report of an earlier run to another format.
    Report(report::Arguments),
    /// List the lock routines that a kernel or driver exports or imports.
    Symbols(symbols::Arguments),
    /// Run a driver many times with different seeds and faults, and report which findings are new.
    Stress(Box<stress::Arguments>),
    /// Unite the output directories of a stress job's shards.
    Merge(merge::Arguments),
    /// Show which findings of a stress job are new, open or gone, and since when.
    History(history::Arguments),
    /// Run a case of a stress job again.
    ReplayCase(case::ReplayArguments),
    /// Make a case of a stress job smaller: fewer faults, fewer vCPUs, a shorter workload.
    Minimise(case::MinimiseArguments),
    /// Find the build of a driver that introduced the finding of a stress job's case.
    Bisect(case::BisectArguments),
    /// Check whether this machine can run guests, and say how to fix what is missing.
    Doctor(doctor::Arguments),
}

/// The command line's own description, from which its manual pages and completions are made.
#[must_use]
pub fn description() -> clap::Command {
    Cli::command()
}

/// Runs the command line and gives the exit code of the process.
#[must_use]
pub fn main() -> ExitCode {
    crate::stress::runner::end_with_parent();
    diagnostics::report_panics();
    diagnostics::log();
    survive_the_file_size_limit();
    // A panic was told where it happened.
    let code = catch_unwind(AssertUnwindSafe(command)).unwrap_or(Condition::Infrastructure.exit_code());
    diagnostics::drain(PATIENCE);
    ExitCode::from(code)
}

fn command() -> u8 {
    let result = match Cli::try_parse() {
        Ok(cli) => execute(&cli.command),
        Err(error) if error.use_stderr() => {
            tell!("{}", error.render().to_string().trim_end());
            return Condition::Usage.exit_code();
        }
        // Help and version.
        Err(text) => output::print(&text.render().to_string()).map(|()| 0),
    };
    result.unwrap_or_else(|failure| {
        tell!("error: {}", with_causes(&failure.error));
        failure.condition.exit_code()
    })
}

fn execute(command: &Command) -> Result<u8, Failure> {
    match command {
        Command::Run(arguments) => run::execute(arguments),
        Command::Replay(arguments) => replay::execute(arguments),
        Command::Report(arguments) => report::execute(arguments),
        Command::Symbols(arguments) => symbols::execute(arguments),
        Command::Stress(arguments) => stress::execute(arguments),
        Command::Merge(arguments) => merge::execute(arguments),
        Command::History(arguments) => history::execute(arguments),
        Command::ReplayCase(arguments) => case::replay(arguments),
        Command::Minimise(arguments) => case::minimise(arguments),
        Command::Bisect(arguments) => case::bisect(arguments),
        Command::Doctor(arguments) => doctor::execute(arguments),
    }
}

/// An error and its causes in one line, without the causes that the text above them tells already.
fn with_causes(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(|cause| match cause.downcast_ref::<Lines>() {
            Some(lines) => escape::lines(&lines.0).into_owned(),
            None => escape::line(&cause.to_string()).into_owned(),
        })
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

    #[test]
    fn only_a_message_of_ours_has_several_lines() {
        let quoted = anyhow::Error::msg("no backing file a\nerror: b\x1b[2J").context("cannot open x");
        assert_eq!(
            with_causes(&quoted),
            r"cannot open x: no backing file a\nerror: b\x1b[2J"
        );
        let ours = anyhow::Error::from(Lines("two\nlines\x07".to_owned()));
        assert_eq!(with_causes(&ours), "two\nlines\\x07");
    }
}
