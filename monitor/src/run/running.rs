//! Runs a watched guest from its start to its end, and tells the session how it ended.
//!
//! Talks to the machine, the supervisor and the session. It must not know how a
//! violation is found, nor read Windows structures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use storlock_vmm::devices::ramfb::Picture;
use storlock_vmm::run::{InternalError, MachineStop, RunningMachine};
use storlock_vmm::sandbox::JoinHandle;

use super::dumps::{CutOffSeen, FirstDump};
use super::guest::HitHandler;
use super::in_flight;
use super::machine::Served;
use super::supervisor::{AtViolation, Ending, KvmMachine, Supervisor};
use crate::backend::kvm::KvmCpu;
use crate::backend::kvm::debuggee::{DebuggerLink, in_words};
use crate::dump::Plan;
use crate::notices::Notices;
use crate::report::{BugCheck, DumpReason};
use crate::session::{End, EndKind, Session};

/// How long the thread that reads hooks may take to see the end of a run.
const HOOKS_END: Duration = Duration::from_millis(300);

/// A guest that runs.
pub(super) struct RunningGuest {
    pub(super) running: RunningMachine,
    pub(super) served: Served,
    pub(super) session: Arc<Session>,
    pub(super) stops: Arc<HitHandler>,
    pub(super) cpus: u32,
    pub(super) started: Instant,
    pub(super) shutdown_grace: Option<Duration>,
    pub(super) debugger: Option<DebuggerLink>,
    pub(super) dump: Option<Plan>,
    pub(super) dump_on: Vec<DumpReason>,
    pub(super) cut_off: CutOffSeen,
    pub(super) notices: Arc<dyn Notices>,
    /// Reads what hooks write.
    pub(super) hooks: Option<JoinHandle<()>>,
}

/// How a run has ended.
pub(super) struct Ended {
    /// The end as the session is told of it.
    pub(super) end: End,
    /// What the display showed.
    pub(super) picture: Option<Picture>,
}

impl RunningGuest {
    /// Waits for the guest's end, at most `limit` and the time for its shutdown; has the session look at every processor;
    /// ends the machine. A stop counts as an interruption if `interrupted` says so then.
    #[must_use]
    pub(super) fn wait(mut self, limit: Duration, interrupted: &dyn Fn() -> bool) -> Ended {
        if let (Some(plan), Some(deadline)) = (&self.dump, self.started.checked_add(limit)) {
            plan.file.progress().give_up_at(deadline);
        }
        let debugger = self.debugger.take();
        let dump = FirstDump::new(&self, interrupted);
        let mut deadlock = None;
        let mut at_violation = |cpu| {
            let stopped_for = self.session.stopped_for(cpu);
            if let Some(subject) = stopped_for.dump {
                dump.write(cpu, &subject);
            }
            deadlock = deadlock.or(stopped_for.deadlock.then_some(cpu));
            AtViolation {
                deadlock: stopped_for.deadlock,
                debugger: stopped_for.debugger,
                time_is_over: dump.was_late(),
            }
        };
        let mut at_stop = || dump.write_at_reset();
        let machine = KvmMachine {
            running: &self.running,
            power: &self.served.power,
        };
        let supervisor = Supervisor {
            machine: &machine,
            limit,
            grace: self.shutdown_grace,
            interrupted,
            debugger,
            at_violation: &mut at_violation,
            at_stop: &mut at_stop,
            notices: &*self.notices,
        };
        let ending = supervisor.run();
        let mut end = self.describe_end(&ending, interrupted());
        if let (MachineStop::Breakpoint { .. }, Some(cpu)) = (&ending.stop, deadlock) {
            end.kind = EndKind::Deadlock;
            end.deadlocked = Some(cpu);
        }
        for cpu in order_of_last_looks(&ending.stop, self.cpus) {
            let session = Arc::clone(&self.session);
            end.activities
                .extend(activity(&ending.stop, cpu).map(|text| (cpu, text)));
            self.running
                .inspect(cpu, move |stopped| session.look(&mut KvmCpu::new(stopped)));
        }
        dump.write_at_end(&ending.stop, deadlock);
        dump.tell(&mut end);
        self.close(end)
    }

    fn describe_end(&self, ending: &Ending, interrupted: bool) -> End {
        let (mut kind, mut detail) = describe(&ending.stop);
        if matches!(kind, EndKind::Stopped | EndKind::PowerOff | EndKind::TimeLimit) && interrupted {
            kind = EndKind::Interrupted;
        }
        if let Some(shutdown) = &ending.shutdown {
            detail = Some(detail.map_or_else(|| shutdown.clone(), |detail| format!("{detail}; {shutdown}")));
        }
        let mut end = End {
            kind,
            detail,
            duration_ms: self.started.elapsed().as_millis() as u64,
            handler_ns: self.stops.times.spread(),
            ..End::default()
        };
        if let MachineStop::Crash { parameters, .. } = ending.stop {
            let [code, parameters @ ..] = parameters;
            end.bug_check = Some(BugCheck { code, parameters });
        }
        self.count_exits(&mut end);
        end
    }

    /// Ends the machine, and adds what is known only then.
    fn close(self, mut end: End) -> Ended {
        end.in_flight = in_flight::look(&self.running.handle(), self.cpus, self.started);
        let closed = self.served.close(self.running);
        end.machine = Some(closed.conformance);
        end.notes.extend(closed.notes);
        end.failures.extend(closed.failures);
        for cut in closed.cuts {
            end.note(Some(cut));
        }
        end.faults = closed.faults;
        self.session.close(&mut end);
        if let Some(Some(Err(_))) = self.hooks.map(|hooks| hooks.join_within(HOOKS_END)) {
            let text = "the thread that reads hooks panicked; this is a defect of the program";
            end.failures.push(text.to_owned());
        }
        Ended {
            end,
            picture: closed.picture,
        }
    }

    fn count_exits(&self, end: &mut End) {
        for cpu in self.running.statistics() {
            end.kvm_runs += cpu.runs;
            end.debug_exits += cpu.debug_exits;
            end.other_exits += cpu.pio_exits + cpu.mmio_exits + cpu.msr_exits + cpu.other_exits;
            end.hit_requests += cpu.hit_requests;
            end.hits += cpu.hits;
            end.returns += cpu.returns + cpu.passes;
        }
    }
}

fn describe(reason: &MachineStop) -> (EndKind, Option<String>) {
    let kind = match reason {
        MachineStop::PowerOff => return (EndKind::PowerOff, None),
        MachineStop::Reset => EndKind::Reset,
        MachineStop::TripleFault { .. } => EndKind::TripleFault,
        MachineStop::Crash { .. } => EndKind::Crash,
        MachineStop::TimeLimit => EndKind::TimeLimit,
        MachineStop::InternalError(_) => EndKind::InternalError,
        MachineStop::Breakpoint { .. }
        | MachineStop::StopPoint { .. }
        | MachineStop::Stepped { .. }
        | MachineStop::Interrupted
        | MachineStop::StopPointsLost { .. }
        | MachineStop::Stopped => EndKind::Stopped,
        MachineStop::Failed(_) => EndKind::Failed,
    };
    (kind, Some(in_words(reason)))
}

/// The processor after a triple fault comes last: KVM may have reset it, and the first one looked at is the one by whose
/// page tables guest memory is read.
fn order_of_last_looks(reason: &MachineStop, cpus: u32) -> impl Iterator<Item = u32> {
    let last = match reason {
        MachineStop::TripleFault { cpu } => Some(*cpu),
        _ => None,
    };
    (0..cpus).filter(move |&cpu| Some(cpu) != last).chain(last)
}

/// What a machine stop says about one processor.
fn activity(reason: &MachineStop, cpu: u32) -> Option<String> {
    match reason {
        MachineStop::InternalError(error) if error.cpu == cpu => Some(match error.instruction() {
            Some((text, _)) if error.suberror == InternalError::EMULATION => {
                format!("this KVM cannot execute `{text}`")
            }
            _ => error.to_string(),
        }),
        MachineStop::TripleFault { cpu: at } if *at == cpu => {
            Some("triple fault; KVM may have reset it, then its registers say nothing".to_owned())
        }
        _ => None,
    }
}
