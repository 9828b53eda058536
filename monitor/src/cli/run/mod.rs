//! `storlock run`: boots a guest with a driver under test and watches its locks.
//!
//! Talks to the run and to the terminal. It must not know how a run is carried out.

pub mod arguments;

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::Context;
use storlock_vmm::sandbox::Sandbox;

pub use self::arguments::Arguments;
use super::diagnostics::{self, StandardError, tell};
use super::interrupt::Interrupt;
use super::output::{self, Printer};
use super::progress::Progress;
use crate::escape::Escaped;
use crate::outcome::{self, Condition};
use crate::report::conformance::Conformance;
use crate::report::{ConditionNote, FaultInfo, Reason, Report, Word, render};
use crate::run::spec::RunSpec;
use crate::run::{self, Failure, Finished, Host, Prepared, UnwatchedEnd, UnwatchedRun, WatchedRun};
use crate::threads;

/// Runs the guest and reports.
///
/// # Errors
/// [`Failure`] if the guest could not be started. Once it has started there is a report, whatever happens.
pub fn execute(arguments: &Arguments) -> Result<u8, Failure> {
    let spec = arguments.spec()?;
    if arguments.print_spec {
        let checked = run::check(&spec)?;
        let text = checked.spec.to_json().map_err(Failure::infrastructure)?;
        return output::print(&text).map(|()| 0);
    }
    // What does not go together is told before anything is touched.
    let checked = match run::check(&spec) {
        Err(failure) if failure.condition == Condition::Usage => return Err(failure),
        checked => checked,
    };
    let claimed = run::claim(&spec, arguments.spec.as_deref(), &StandardError)?;
    let sandbox = sandbox(&spec)?;
    let terminal = Terminal::start(sandbox).map_err(Failure::infrastructure)?;
    let checked = checked?;
    let host = Host {
        notices: Arc::new(StandardError),
        sandbox,
        command_line: command_line(arguments, &checked.spec),
    };
    match run::prepare(checked, claimed, &host)? {
        Prepared::Watched(run) => terminal.watch(*run, sandbox),
        Prepared::Unwatched(run) => terminal.run_unwatched(*run),
    }
}

fn sandbox(spec: &RunSpec) -> Result<Sandbox, Failure> {
    if spec.no_sandbox {
        Ok(Sandbox::none())
    } else {
        Sandbox::enforced(&threads::all()).map_err(Failure::infrastructure)
    }
}

/// The command line that repeats this run: as given, with the seed that was chosen. What comes from a file is written out:
/// the file may change, and standard input is gone.
fn command_line(arguments: &Arguments, decided: &RunSpec) -> Vec<Word> {
    if arguments.spec.is_some() {
        return arguments::command_line(decided);
    }
    let chosen = decided.seed.filter(|_| arguments.seed.is_none());
    arguments::as_given(std::env::args_os().skip(2), chosen)
}

/// What a run has to do with the terminal that it was started from, from its beginning to its end.
struct Terminal {
    /// Caught from before anything can take long.
    interrupt: Interrupt,
    /// Standard output.
    printer: Printer,
}

impl Terminal {
    fn start(sandbox: Sandbox) -> anyhow::Result<Self> {
        diagnostics::start(sandbox).context("standard error")?;
        Ok(Self {
            interrupt: Interrupt::catch(sandbox).context("signals cannot be caught")?,
            printer: Printer::start(sandbox)?,
        })
    }

    fn watch(&self, run: WatchedRun, sandbox: Sandbox) -> Result<u8, Failure> {
        let checked = run.spec();
        let (limit, format) = (checked.time_limit(), checked.spec.format);
        self.interrupt.stops(run.control(), checked.shutdown_grace.is_some());
        let windows = checked.is_windows();
        let milestones = match (windows, checked.spec.explain) {
            (true, _) => Some("firmware started"),
            (false, true) => Some("kernel started"),
            (false, false) => None,
        };
        let progress = Progress::start(run.session(), limit, milestones, sandbox);
        let Finished {
            mut report,
            reports,
            deadline,
        } = run.run(&|| self.interrupt.happened())?;
        if progress.end() == Some(false) {
            let text = "the thread that shows the progress panicked; this is a defect of the program";
            report.conditions.push(output::infrastructure(text.to_owned()));
        }
        self.interrupt.reporting();
        let before = was_interrupted(&report);
        Ok(output::finish(&mut report, &reports, format, |text| {
            let interrupted = || self.interrupt.happened();
            let printed = self.printer.print(text, deadline, &interrupted);
            let mut notes: Vec<_> = printed.err().map(output::infrastructure).into_iter().collect();
            if !before && interrupted() {
                notes.push(ConditionNote {
                    condition: Condition::Interrupted,
                    reason: Reason::Interrupted { was_over: true },
                });
            }
            notes
        }))
    }

    fn run_unwatched(&self, run: UnwatchedRun) -> Result<u8, Failure> {
        let interrupt = &self.interrupt;
        interrupt.stops(run.control(), run.spec().shutdown_grace.is_some());
        let mut end = run.run(&|| interrupt.happened())?;
        let interrupted = interrupt.happened();
        interrupt.reporting();
        let printed = self
            .printer
            .print(text(&end).as_bytes(), end.deadline, &|| interrupt.happened());
        end.machine.failures.extend(printed.err());
        for reason in end.machine.faults.iter().filter_map(FaultInfo::never_injected) {
            tell!("inconclusive: {reason}");
        }
        for note in &end.machine.notes {
            tell!("note: {note}");
        }
        for failure in &end.machine.failures {
            tell!("error: {failure}");
        }
        Ok(outcome::exit_code(&end.conditions(interrupted)))
    }
}

fn was_interrupted(report: &Report) -> bool {
    let mut conditions = report.conditions.iter();
    conditions.any(|note| note.condition == Condition::Interrupted)
}

/// How a guest has ended in which nothing was watched, in a line.
fn text(end: &UnwatchedEnd) -> String {
    let restarts = match end.restarts {
        0 => String::new(),
        1 => ", started again once".to_owned(),
        more => format!(", started again {more} times"),
    };
    let shutdown = end
        .shutdown
        .as_ref()
        .map(|text| format!("; {text}"))
        .unwrap_or_default();
    let mut text = format!(
        "{} (after {:.1} s{restarts}){shutdown}\n",
        end.in_words(),
        end.duration.as_secs_f64()
    );
    if !end.is_wanted() {
        text.push_str(&machine(&end.machine.conformance));
    }
    text
}

/// The machine's side of a guest that failed.
fn machine(conformance: &Conformance) -> String {
    let mut lines = vec![format!("machine: it {}", render::machine::verdict(conformance))];
    let details = render::machine::details(conformance).into_iter();
    lines.extend(details.map(|detail| format!("  - {detail}")));
    for (heading, screen) in render::machine::screens(&conformance.screen) {
        lines.push(format!("last seen: {heading}"));
        lines.extend(screen.iter().map(|line| format!("    {line}")));
    }
    let mut text = String::new();
    for line in lines {
        // A guest has chosen some of what is in it.
        let _ = write!(Escaped(&mut text), "{line}");
        text.push('\n');
    }
    text
}
