//! Dumps a machine that is stopped at a violation, or for another reason for which a dump was asked for.
//!
//! Talks to the machine and to the dump's writer. It must not know what was violated.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use storlock_vmm::run::{MachineHandle, MachineStop};

use super::running::RunningGuest;
use crate::backend::kvm::KvmCpu;
use crate::dump::{Contents, DumpError, Plan, ProcessorRegisters, Subject};
use crate::output::Cut;
use crate::report::{DumpInfo, DumpReason};
use crate::session::End;

/// Whether a reset of a storage controller has cut off requests: the first one pauses the machine, if it is to be dumped.
#[derive(Debug, Clone, Default)]
pub(super) struct CutOffSeen(Arc<AtomicU8>);

/// Values of [`CutOffSeen`].
const NOT_SEEN: u8 = 0;
const SEEN: u8 = 1;
const TAKEN: u8 = 2;

impl CutOffSeen {
    /// Waits for it, if resets are among the reasons.
    pub(super) fn of(on: &[DumpReason], machine: &MachineHandle) -> Self {
        let own = Self::default();
        if on.contains(&DumpReason::Reset) {
            for ledger in machine.in_flight() {
                let (seen, machine) = (own.clone(), machine.clone());
                ledger.observe_reset(move || {
                    if seen.step(NOT_SEEN, SEEN) {
                        machine.interrupt();
                    }
                });
            }
        }
        own
    }

    /// Whether it has happened; told once.
    pub(super) fn take(&self) -> bool {
        self.step(SEEN, TAKEN)
    }

    /// There was nothing to make a dump of: the next one counts.
    fn again(&self) {
        self.step(TAKEN, NOT_SEEN);
    }

    fn step(&self, from: u8, to: u8) -> bool {
        let stepped = self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        stepped.is_ok()
    }
}

/// The result of a dump.
struct Dumped {
    info: DumpInfo,
    /// Why it is not whole.
    cut: Option<Cut>,
    /// Its reader took nothing until the time limit.
    was_late: bool,
}

/// The one dump of a run: what comes first is dumped.
pub(super) struct FirstDump<'a> {
    guest: &'a RunningGuest,
    interrupted: &'a dyn Fn() -> bool,
    dumped: RefCell<Option<Dumped>>,
    /// How long the machine stood still for it, in milliseconds.
    took_ms: Cell<u64>,
}

impl<'a> FirstDump<'a> {
    /// None so far.
    pub(super) fn new(guest: &'a RunningGuest, interrupted: &'a dyn Fn() -> bool) -> Self {
        Self {
            guest,
            interrupted,
            dumped: RefCell::default(),
            took_ms: Cell::default(),
        }
    }

    /// Dumps the machine, which is paused, as that processor sees it, unless it has been dumped already.
    pub(super) fn write(&self, cpu: u32, subject: &Subject) {
        if self.dumped.borrow().is_none() {
            let began = Instant::now();
            *self.dumped.borrow_mut() = self.guest.dump(cpu, subject, self.interrupted);
            self.took_ms.set(began.elapsed().as_millis() as u64);
        }
    }

    /// Dumps a machine, which is paused for whatever reason, if a reset of a storage controller has cut off requests since it
    /// was let go. `false`: none has.
    pub(super) fn write_at_reset(&self) -> bool {
        if !self.guest.cut_off.take() {
            return false;
        }
        match self.guest.session.dump_subject(DumpReason::Reset) {
            Some(subject) => self.write(0, &subject),
            None => self.guest.cut_off.again(),
        }
        true
    }

    /// Dumps a machine that has come to its end, if that is a reason. `deadlock`: the processor that would have waited for itself for
    /// ever.
    pub(super) fn write_at_end(&self, stop: &MachineStop, deadlock: Option<u32>) {
        let guest = self.guest;
        let late = matches!(stop, MachineStop::TimeLimit);
        let waiting = deadlock.or_else(|| guest.session.waiting_processor().filter(|_| late));
        let reason = match waiting {
            Some(_) if guest.dump_on.contains(&DumpReason::Hang) => DumpReason::Hang,
            _ if late && guest.dump_on.contains(&DumpReason::Timeout) => DumpReason::Timeout,
            _ => return,
        };
        if let Some(subject) = guest.session.dump_subject(reason) {
            self.write(waiting.unwrap_or(0), &subject);
        }
    }

    /// Its reader took nothing until the time limit.
    pub(super) fn was_late(&self) -> bool {
        self.dumped.borrow().as_ref().is_some_and(|dumped| dumped.was_late)
    }

    /// Tells the end of the run what has become of it.
    pub(super) fn tell(self, end: &mut End) {
        end.dump_ms = self.took_ms.get();
        if let Some(dumped) = self.dumped.into_inner() {
            end.dump = Some(dumped.info);
            end.note(dumped.cut);
        }
    }
}

impl RunningGuest {
    /// Dumps the machine, which is paused, as `cpu` sees it, and tells the user the result. `None` if no dump
    /// was asked for.
    fn dump(&self, cpu: u32, subject: &Subject, interrupted: &dyn Fn() -> bool) -> Option<Dumped> {
        let plan = self.dump.as_ref()?;
        self.notices.say(&format!(
            "dump: the machine stands still while its {} MiB are written to {}; Ctrl-C gives up",
            self.running.ram().size() >> 20,
            plan.file.path().display()
        ));
        let written = self.write_dump(plan, cpu, subject, interrupted);
        let cause = written.as_ref().err().and_then(DumpError::system_error);
        let info = plan.info(subject, &written);
        match &info.error {
            None => self
                .notices
                .say(&format!("dump: {} has the machine at event {}", info.file, info.event)),
            Some(error) => self.notices.say(&format!(
                "error: no dump of the machine at event {}: {error}",
                info.event
            )),
        }
        for missing in &info.missing {
            self.notices.say(&format!("dump: {missing}"));
        }
        let cut = info.error.clone().map(|error| match cause {
            Some(io::ErrorKind::BrokenPipe) => Cut::Note(format!("the dump ends early: {error}")),
            _ => Cut::Failure(error),
        });
        Some(Dumped {
            info,
            cut,
            was_late: cause == Some(io::ErrorKind::TimedOut),
        })
    }

    fn write_dump(
        &self,
        plan: &Plan,
        cpu: u32,
        subject: &Subject,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<(u64, Vec<String>), DumpError> {
        let gone = |cpu| DumpError::Processor(format!("vCPU {cpu} is gone"));
        let processors = (0..self.cpus).map(|cpu| {
            let read = self
                .running
                .inspect(cpu, |stopped| ProcessorRegisters::read(&KvmCpu::new(stopped)));
            read.unwrap_or_else(|| Err(gone(cpu)))
        });
        let processors = processors.collect::<Result<Vec<_>, _>>()?;
        let (about, symbols) = (subject.clone(), plan.symbols.clone());
        let contents = self.running.inspect(cpu, move |stopped| {
            Contents::read(&KvmCpu::new(stopped), &processors, &about, &symbols)
        });
        let contents = contents.unwrap_or_else(|| Err(gone(cpu)))?;
        let missing = contents.missing.clone();
        // The guest of a run that was interrupted before may be shutting down.
        let before = interrupted();
        let bytes = plan.write(contents, self.running.ram(), &|| before || !interrupted())?;
        Ok((bytes, missing))
    }
}
