//! A running machine that is stopped at violations and dumped there.

use std::io;
use std::time::{Duration, Instant};

use storlock_vmm::run::MachineStop;

use super::RunningGuest;
use crate::backend::kvm::KvmCpu;
use crate::dump::{Contents, DumpError, Plan, ProcessorRegisters, Subject};
use crate::output::Cut;
use crate::report::DumpInfo;

/// What has become of a dump.
pub(super) struct Dumped {
    pub(super) info: DumpInfo,
    /// Why it is not whole.
    pub(super) cut: Option<Cut>,
}

impl RunningGuest {
    /// Runs the machine to its end without a debugger; `at_violation` is called where the session has stopped it. `limit`
    /// counts the time in which it runs.
    pub(super) fn run(
        &self,
        limit: Duration,
        interrupted: &dyn Fn() -> bool,
        mut at_violation: impl FnMut(u32),
    ) -> MachineStop {
        let mut left = limit;
        loop {
            let began = Instant::now();
            let reason = self.running.wait(Some(left));
            left = left.saturating_sub(began.elapsed());
            let MachineStop::Breakpoint { cpu } = reason else {
                return reason;
            };
            let before = interrupted();
            at_violation(cpu);
            if self.dump_was_late.get() {
                left = Duration::ZERO;
            }
            // With something else to tell the machine stays paused.
            self.running.begin();
            if !before && interrupted() {
                // A machine that stands still does not hear it.
                self.running.handle().interrupt();
            }
        }
    }

    /// Dumps the machine, which the violation on `cpu` has paused, and says on standard error what has become of it.
    /// A reader of a named pipe that takes nothing until the time limit ends the run.
    pub(super) fn dump(&self, cpu: u32, subject: &Subject, interrupted: &dyn Fn() -> bool) -> Option<Dumped> {
        let plan = self.dump.as_ref()?;
        let written = self.write_dump(plan, cpu, subject, interrupted);
        let cause = written.as_ref().err().and_then(DumpError::system_error);
        self.dump_was_late.set(cause == Some(io::ErrorKind::TimedOut));
        let info = plan.info(subject.event, &written);
        match &info.error {
            None => crate::tell!("dump: {} has the machine at event {}", info.file, info.event),
            Some(error) => crate::tell!("error: no dump of the machine at event {}: {error}", info.event),
        }
        for missing in &info.missing {
            crate::tell!("dump: {missing}");
        }
        let cut = info.error.clone().map(|error| match cause {
            Some(io::ErrorKind::BrokenPipe) => Cut::Note(format!("the dump ends early: {error}")),
            _ => Cut::Failure(error),
        });
        Some(Dumped { info, cut })
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
