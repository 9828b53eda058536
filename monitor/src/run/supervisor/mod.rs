//! The one loop that waits for a machine's stops until its run is over: violations, a debugger's commands, the time
//! limit, interruptions, the guest's own end.
//!
//! Talks to the machine by a trait, and to the debugger's link. The time limit counts only the time in which the
//! machine runs, not the time in which a debugger holds it or a dump is written. It must not know how a violation is
//! found, nor what a report says of an end.

use std::time::{Duration, Instant};

use storlock_vmm::run::{MachineStop, RunningMachine};

use crate::backend::kvm::debuggee::{DebuggerCommand, DebuggerLink, debuggee_stop};
use crate::notices::Notices;
use crate::vmi::debuggee::{DebuggeeStop, ResumeAction};

/// A started machine, as far as the loop needs it.
pub(super) trait SupervisedMachine {
    /// Waits for the next stop; after `limit` the machine is paused and the answer is [`MachineStop::TimeLimit`].
    fn wait(&self, limit: Duration) -> MachineStop;
    /// Lets a machine run that is paused; it stays paused if there is another stop to be waited for.
    fn resume(&self);
    /// Lets each processor of a paused machine go on by its action. Gives the stop if the machine has stopped on the way,
    /// within `limit`; `Err` if it cannot go on.
    fn resume_by(&self, actions: &[ResumeAction], limit: Duration) -> Result<Option<MachineStop>, ()>;
    /// Asks a machine that runs to stop: [`MachineStop::Interrupted`].
    fn interrupt(&self);
    /// Presses the power button of a paused machine and lets it run; `false` if it cannot go on.
    fn press_power_button(&self) -> bool;
}

/// What is to happen at a violation at which the session has stopped the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AtViolation {
    /// A debugger is to be told.
    pub(super) debugger: bool,
    /// Its dump has used up the time limit.
    pub(super) time_is_over: bool,
    /// The processor would never go on: the run is over.
    pub(super) deadlock: bool,
}

/// How the run of a machine has ended.
#[derive(Debug)]
pub(super) struct Ending {
    /// The last stop.
    pub(super) stop: MachineStop,
    /// What came of pressing the power button, if it was pressed.
    pub(super) shutdown: Option<String>,
}

/// What is done after a stop.
enum Next {
    Wait,
    /// The machine has stopped again already.
    Stopped(MachineStop),
    End,
}

/// The time in which a machine may still run.
struct RunTime {
    left: Duration,
}

impl RunTime {
    /// Counts the time that `wait` takes, and passes it the time that is left.
    fn count<R>(&mut self, wait: impl FnOnce(Duration) -> R) -> R {
        let began = Instant::now();
        let result = wait(self.left);
        self.left = self.left.saturating_sub(began.elapsed());
        result
    }
}

/// The loop, for one run.
pub(super) struct Supervisor<'a> {
    /// A machine that is started and paused before its first instruction.
    pub(super) machine: &'a dyn SupervisedMachine,
    /// How long the machine may run.
    pub(super) limit: Duration,
    /// How long the guest may take to shut down after the power button was pressed, at the time limit or at an interruption;
    /// `None`: the button is not pressed.
    pub(super) grace: Option<Duration>,
    /// Whether the user has interrupted the run.
    pub(super) interrupted: &'a dyn Fn() -> bool,
    /// The debugger that is served.
    pub(super) debugger: Option<DebuggerLink>,
    /// Called with the processor at each violation at which the session has stopped the machine.
    pub(super) at_violation: &'a mut dyn FnMut(u32) -> AtViolation,
    /// Called at each stop, unless the user has ended the run: whether the machine was interrupted since the last stop
    /// for something that is done by then. Whoever interrupts a machine that is just stopping is not told apart.
    pub(super) at_stop: &'a mut dyn FnMut() -> bool,
    /// Takes the line that says that the power button was pressed.
    pub(super) notices: &'a dyn Notices,
}

impl Supervisor<'_> {
    /// Lets the machine run to its end.
    pub(super) fn run(self) -> Ending {
        let time = RunTime { left: self.limit };
        let mut run = Run {
            supervisor: self,
            time,
            button: None,
            heard: false,
            going: Vec::new(),
        };
        let mut stopped = run.start();
        loop {
            let stop = match stopped.take() {
                Some(stop) => stop,
                None => run.time.count(|left| run.supervisor.machine.wait(left)),
            };
            match run.dispatch(&stop) {
                Next::Wait => {}
                Next::Stopped(again) => stopped = Some(again),
                Next::End => return run.end(stop),
            }
        }
    }
}

struct Run<'a> {
    supervisor: Supervisor<'a>,
    time: RunTime,
    /// When the power button was pressed, in words.
    button: Option<&'static str>,
    /// What the user's interruption asks for is done.
    heard: bool,
    /// How the debugger has let the processors go; empty: they all run.
    going: Vec<ResumeAction>,
}

impl Run<'_> {
    fn start(&mut self) -> Option<MachineStop> {
        if self.supervisor.debugger.as_ref().is_some_and(DebuggerLink::holds_start) {
            return self.ask_debugger(DebuggeeStop::Start);
        }
        self.supervisor.machine.resume();
        None
    }

    fn dispatch(&mut self, stop: &MachineStop) -> Next {
        let by_user = !self.heard && (self.supervisor.interrupted)();
        let ends = by_user && self.supervisor.grace.is_none();
        let done = !ends && (self.supervisor.at_stop)();
        if matches!(stop, MachineStop::Interrupted) && !self.debugger_wants_stop() {
            if by_user {
                self.heard = true;
                return self.shut_down(stop);
            }
            if done {
                return self.go_on();
            }
        }
        let mut for_debugger = self.supervisor.debugger.is_some();
        let mut event = debuggee_stop(stop);
        if let MachineStop::Breakpoint { cpu } = *stop {
            let violation = (self.supervisor.at_violation)(cpu);
            if violation.time_is_over {
                self.time.left = Duration::ZERO;
            }
            for_debugger &= violation.debugger;
            if violation.deadlock && !for_debugger {
                return Next::End;
            }
            if !for_debugger {
                if !matches!(self.going.get(cpu as usize), Some(ResumeAction::Step { .. })) {
                    return self.go_on();
                }
                // The hit has ended the step that the debugger waits for.
                event = Some(DebuggeeStop::Stepped(cpu));
                for_debugger = true;
            }
        }
        let Some(event) = event.filter(|_| for_debugger) else {
            return self.shut_down(stop);
        };
        let again = self.ask_debugger(event);
        if !stop.can_go_on() {
            return Next::End;
        }
        again.map_or(Next::Wait, Next::Stopped)
    }

    /// Tells the debugger of a stop, waits for its command and obeys. Gives the stop if the machine has stopped again
    /// before it ran.
    fn ask_debugger(&mut self, stop: DebuggeeStop) -> Option<MachineStop> {
        let command = self.supervisor.debugger.as_ref().and_then(|link| link.ask(stop));
        self.going = match command {
            Some(DebuggerCommand::Resume(actions)) => actions,
            // The run was ended, or the debugger's thread is gone.
            _ => Vec::new(),
        };
        match self.go_on() {
            Next::Stopped(stop) => Some(stop),
            Next::Wait | Next::End => None,
        }
    }

    /// Lets the processors go on as the debugger has let them.
    fn go_on(&mut self) -> Next {
        let machine = self.supervisor.machine;
        if !self.going.is_empty() {
            let resumed = self.time.count(|left| machine.resume_by(&self.going, left));
            if let Ok(stopped) = resumed {
                self.interrupt_again();
                return stopped.map_or(Next::Wait, Next::Stopped);
            }
            self.going.clear();
        }
        machine.resume();
        self.interrupt_again();
        Next::Wait
    }

    fn debugger_wants_stop(&self) -> bool {
        let debugger = self.supervisor.debugger.as_ref();
        debugger.is_some_and(DebuggerLink::wants_interrupt)
    }

    /// A machine that stands still, or is about to, does not hear that it is to stop: it is told again.
    fn interrupt_again(&self) {
        if self.debugger_wants_stop() || !self.heard && (self.supervisor.interrupted)() {
            self.supervisor.machine.interrupt();
        }
    }

    /// At the time limit and at an interruption, once: has the guest shut down, if it is given the time for that.
    fn shut_down(&mut self, stop: &MachineStop) -> Next {
        let why = match stop {
            MachineStop::TimeLimit => "at the time limit",
            MachineStop::Interrupted => "when the run was interrupted",
            _ => return Next::End,
        };
        let Some(grace) = self.supervisor.grace.take() else {
            return Next::End;
        };
        self.supervisor.notices.say(&format!(
            "power button pressed {why}: the guest has {} s to shut down",
            grace.as_secs()
        ));
        self.going.clear();
        if !self.supervisor.machine.press_power_button() {
            return Next::End;
        }
        self.button = Some(why);
        self.time.left = grace;
        Next::Wait
    }

    fn end(self, stop: MachineStop) -> Ending {
        let outcome = match stop {
            MachineStop::PowerOff => "the guest shut down",
            MachineStop::TimeLimit => "the guest did not shut down in time",
            _ => "that ended otherwise",
        };
        let shutdown = self
            .button
            .map(|why| format!("the power button was pressed {why}: {outcome}"));
        Ending { stop, shutdown }
    }
}

/// A machine on KVM with its power button.
pub(super) struct KvmMachine<'a> {
    pub(super) running: &'a RunningMachine,
    pub(super) power: &'a std::sync::Arc<storlock_vmm::devices::power::PowerManagement>,
}

impl SupervisedMachine for KvmMachine<'_> {
    fn wait(&self, limit: Duration) -> MachineStop {
        self.running.wait(Some(limit))
    }

    fn resume(&self) {
        // After the guest's end waiting for the machine says so.
        let _ = self.running.resume();
    }

    fn resume_by(&self, actions: &[ResumeAction], limit: Duration) -> Result<Option<MachineStop>, ()> {
        self.running.go_on(actions, limit).map_err(drop)
    }

    fn interrupt(&self) {
        self.running.handle().interrupt();
    }

    fn press_power_button(&self) -> bool {
        // On a processor's thread, which is the kind of thread that may move interrupt lines.
        let power = std::sync::Arc::clone(self.power);
        self.running.inspect(0, move |_| power.press_power_button());
        self.running.resume().is_ok()
    }
}

#[cfg(test)]
mod tests;
