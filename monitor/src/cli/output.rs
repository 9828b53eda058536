//! Where a finished report goes: the report directory, and standard output.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::{Context, anyhow};
use storlock_vmm::sandbox::Sandbox;

use super::diagnostics::tell;
use crate::escape;
use crate::outcome::{self, Condition};
use crate::output::{Cut, Outlet, PATIENCE, Progress, WhenFull};
use crate::report::{ConditionNote, Format, Note, Reason, Report};
use crate::run::Failure;
use crate::run::report_directory::render;
use crate::run::report_files::Reports;

/// As it is called in messages.
pub(crate) const STANDARD_OUTPUT: &str = "standard output";

/// Writes the report files and prints the report by `print`, which says what kept it from that. Gives the exit code of the
/// process. A report that cannot be written is still printed, and one that cannot be printed is in its files, which say
/// so.
#[must_use]
pub fn finish(
    report: &mut Report,
    reports: &Reports,
    format: Format,
    print: impl FnOnce(&[u8]) -> Vec<ConditionNote>,
) -> u8 {
    settle(report, Vec::new());
    let mut failures = Vec::new();
    for cut in reports.write(report) {
        match cut {
            Cut::Failure(text) => failures.push(infrastructure(text)),
            Cut::Note(text) => report.notes.push(Note::Output { text }),
        }
    }
    if settle(report, failures) {
        // The file that could be written is to say so as well; the errors are known by now.
        let _ = reports.write(report);
    }
    let printed = match render(report, format.renderer()) {
        Ok(bytes) => print(&bytes),
        Err(error) => vec![infrastructure(format!("the report cannot be printed: {error}"))],
    };
    if settle(report, printed) {
        let _ = reports.write(report);
    }
    report.exit_code
}

/// Adds conditions, also on standard error, and what follows from all of them. Says whether there was one to add.
fn settle(report: &mut Report, added: Vec<ConditionNote>) -> bool {
    let any = !added.is_empty();
    for note in added {
        if note.condition == Condition::Infrastructure {
            tell!("error: {}", note.reason);
        }
        report.conditions.push(note);
    }
    let held: Vec<Condition> = report.conditions.iter().map(|note| note.condition).collect();
    report.exit_code = outcome::exit_code(&held);
    report.outcome = outcome::outcome(&held);
    any
}

/// A failure of the host as a report has it.
#[must_use]
pub(crate) fn infrastructure(error: String) -> ConditionNote {
    ConditionNote {
        condition: Condition::Infrastructure,
        reason: Reason::Failure { error },
    }
}

/// Prints a finished text. A reader that has closed standard output does not want more.
///
/// # Errors
/// Any other reason why it cannot be printed: a full disk.
pub fn print(text: &str) -> Result<(), Failure> {
    print_bytes(escape::lines(text).as_bytes())
}

/// As [`print()`], for a rendered report, byte by byte.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    put(bytes).map_err(|reason| Failure::infrastructure(anyhow!(reason)))
}

/// Writes to standard output, or says in a sentence why not.
fn put(bytes: &[u8]) -> Result<(), String> {
    let out = &mut io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("{STANDARD_OUTPUT} is incomplete: {error}"))
        }
        _ => Ok(()),
    }
}

/// As [`print()`], for a rendered report.
#[must_use]
pub(crate) fn print_report(text: &[u8]) -> Vec<ConditionNote> {
    put(text).err().map(infrastructure).into_iter().collect()
}

/// Standard output by a thread of its own, so that a run whose report nobody reads comes to its end.
pub(crate) struct Printer(Outlet);

impl Printer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If it cannot be started or limited.
    pub(crate) fn start(sandbox: Sandbox) -> anyhow::Result<Self> {
        let start = || {
            let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            let way = (usize::MAX, u64::MAX);
            Outlet::start("stdout", out, Progress::default(), way, WhenFull::LeaveOut, sandbox)
        };
        start().map(Self).context(STANDARD_OUTPUT)
    }

    /// Prints a text. A reader that takes nothing is waited for until `deadline`, or `interrupted`.
    ///
    /// # Errors
    /// Why it was not printed whole, in a sentence. A reader that has closed standard output does not want more.
    pub(crate) fn print(
        &self,
        text: &[u8],
        deadline: Option<Instant>,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<(), String> {
        self.0.push(text);
        let late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let ending = self.0.finish(|stall| stall < PATIENCE || !(late() || interrupted()));
        match ending.cut(STANDARD_OUTPUT, u64::MAX) {
            Some(Cut::Failure(text)) => Err(text),
            _ => Ok(()),
        }
    }
}
