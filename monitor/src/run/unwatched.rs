//! Runs a guest that is not watched: Linux, or what firmware boots.
//!
//! Talks to the virtual machine monitor and the supervisor. It must not know what the guest does.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use storlock_vmm::run::{MachineConfig, MachineStop};

use super::guest::Control;
use super::machine::{BuiltMachine, Closed, GuestOptions, Start};
use super::report_directory::{Outputs, ReportDirectory};
use super::spec::CheckedSpec;
use super::supervisor::{AtViolation, KvmMachine, Supervisor};
use super::{Failure, Host, boot, create_directory, firmware, limit_files, machine_options, of_machine};
use crate::backend::kvm::debuggee;
use crate::notices::Notices;
use crate::outcome::Condition;
use crate::output::{Cut, WholeFile};
use crate::report::Note;
use crate::vmi::RunControl;

/// A run in which nothing is watched, ready to start.
pub struct UnwatchedRun {
    checked: CheckedSpec,
    guest: UnwatchedGuest,
    screenshot: Option<WholeFile>,
    outputs: Arc<Outputs>,
    /// Locked until the end.
    _directory: ReportDirectory,
}

impl UnwatchedRun {
    pub(super) fn prepare(
        checked: CheckedSpec,
        claimed: Option<ReportDirectory>,
        host: &Host,
        outputs: &Arc<Outputs>,
    ) -> Result<Self, Failure> {
        let notices = &*host.notices;
        let start = boot::unwatched(&checked, notices).map_err(Failure::infrastructure)?;
        let directory = create_directory(&checked, claimed, notices)?;
        let screenshot = firmware::prepare_screenshot(&checked).map_err(Failure::infrastructure)?;
        let options = machine_options(&checked, host);
        let guest = UnwatchedGuest::prepare(&options, start, outputs).map_err(of_machine)?;
        let renamed: Vec<&Path> = screenshot.iter().filter_map(WholeFile::renamed_in).collect();
        limit_files(host, &renamed).map_err(Failure::infrastructure)?;
        Ok(Self {
            checked,
            guest,
            screenshot,
            outputs: Arc::clone(outputs),
            _directory: directory,
        })
    }

    /// What is run.
    #[must_use]
    pub fn spec(&self) -> &CheckedSpec {
        &self.checked
    }

    /// By which another thread can end the run early, also before it is started.
    #[must_use]
    pub fn control(&self) -> Arc<dyn RunControl> {
        self.guest.control()
    }

    /// Runs the guest to its end.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be started.
    pub fn run(self, interrupted: &dyn Fn() -> bool) -> Result<UnwatchedEnd, Failure> {
        let deadline = Instant::now().checked_add(self.checked.time_limit());
        let ended = self.guest.run(self.checked.time_limit(), interrupted);
        let mut end = ended.map_err(|error| {
            self.outputs.remove();
            Failure::infrastructure(error)
        })?;
        end.deadline = deadline;
        if let Some(screenshot) = &self.screenshot {
            deadline.inspect(|deadline| screenshot.progress().give_up_at(*deadline));
            let cut = firmware::write_screenshot(screenshot, end.machine.picture.as_ref());
            end.note(cut);
        }
        Ok(end)
    }
}

/// A guest that is ready to start.
struct UnwatchedGuest {
    built: BuiltMachine,
    shutdown_grace: Option<Duration>,
    notices: Arc<dyn Notices>,
}

/// How it ended.
pub struct UnwatchedEnd {
    /// The last stop.
    stop: MachineStop,
    /// What came of pressing the power button, if it was pressed.
    pub shutdown: Option<String>,
    /// After which time.
    pub(crate) duration: Duration,
    /// How often it was reset and started again.
    pub(crate) restarts: u64,
    /// What is known of the machine since it has ended.
    pub(crate) machine: Closed,
    /// When nobody who reads an output is waited for any more.
    pub deadline: Option<Instant>,
}

impl UnwatchedEnd {
    /// The last stop in words.
    #[must_use]
    pub(crate) fn in_words(&self) -> String {
        debuggee::in_words(&self.stop)
    }

    /// Whether the guest ended by itself, as was wanted.
    pub(crate) fn is_wanted(&self) -> bool {
        matches!(self.stop, MachineStop::PowerOff | MachineStop::Reset)
    }

    /// What the end means; nothing if it is the one that was wanted and nothing has failed.
    pub(crate) fn conditions(&self, interrupted: bool) -> Vec<Condition> {
        let never_injected = self.machine.faults.iter().any(|fault| fault.never_injected().is_some());
        let others = [
            never_injected.then_some(Condition::Inconclusive),
            (!self.machine.failures.is_empty()).then_some(Condition::Infrastructure),
        ];
        let of_stop = self.of_stop(interrupted).into_iter();
        of_stop.chain(others.into_iter().flatten()).collect()
    }

    fn of_stop(&self, interrupted: bool) -> Option<Condition> {
        match self.stop {
            MachineStop::PowerOff | MachineStop::Stopped | MachineStop::Interrupted if interrupted => {
                Some(Condition::Interrupted)
            }
            _ if self.is_wanted() => None,
            MachineStop::Failed(_) => Some(Condition::Infrastructure),
            _ => Some(Condition::GuestFailed),
        }
    }

    fn note(&mut self, cut: Option<Cut>) {
        match cut {
            Some(Cut::Failure(text)) => self.machine.failures.push(text),
            Some(Cut::Note(text)) => self.machine.notes.push(Note::Output { text }),
            None => {}
        }
    }
}

impl UnwatchedGuest {
    /// Builds the machine and puts in what it starts with.
    ///
    /// # Errors
    /// If KVM cannot be used, there is no memory, a disk cannot be opened, or the guest cannot be loaded.
    fn prepare(options: &GuestOptions, start: Start, outputs: &Outputs) -> anyhow::Result<Self> {
        Ok(Self {
            built: BuiltMachine::new(options, MachineConfig::default(), start, outputs)?,
            shutdown_grace: options.shutdown_grace,
            notices: Arc::clone(&options.notices),
        })
    }

    /// A handle by which another thread can stop the guest.
    fn control(&self) -> Arc<dyn RunControl> {
        Arc::new(Control {
            handle: self.built.machine.handle(),
            debugger: None,
            dump: None,
        })
    }

    /// Runs the guest to its end, at most `limit` and the time for its shutdown. The calling thread is limited from here on.
    ///
    /// # Errors
    /// If its threads cannot be started, or not be limited.
    fn run(self, limit: Duration, interrupted: &dyn Fn() -> bool) -> anyhow::Result<UnwatchedEnd> {
        let (running, served) = self.built.start()?;
        let began = Instant::now();
        let supervisor = Supervisor {
            machine: &KvmMachine {
                running: &running,
                power: &served.power,
            },
            limit,
            grace: self.shutdown_grace,
            interrupted,
            debugger: None,
            // Nothing is watched.
            at_violation: &mut |_| AtViolation::default(),
            at_stop: &mut || false,
            notices: &*self.notices,
        };
        let ending = supervisor.run();
        let duration = began.elapsed();
        let restarts = running.restarts();
        let mut machine = served.close(running);
        let cuts = std::mem::take(&mut machine.cuts);
        let mut end = UnwatchedEnd {
            stop: ending.stop,
            shutdown: ending.shutdown,
            duration,
            restarts,
            machine,
            deadline: None,
        };
        for cut in cuts {
            end.note(Some(cut));
        }
        Ok(end)
    }
}
