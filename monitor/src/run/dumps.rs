//! Dumps a machine that is stopped at a violation.
//!
//! Talks to the machine and to the dump's writer. It must not know what was violated.

use std::io;

use super::running::RunningGuest;
use crate::backend::kvm::KvmCpu;
use crate::dump::{Contents, DumpError, Plan, ProcessorRegisters, Subject};
use crate::output::Cut;
use crate::report::DumpInfo;

/// The result of a dump.
pub(super) struct Dumped {
    pub(super) info: DumpInfo,
    /// Why it is not whole.
    pub(super) cut: Option<Cut>,
    /// Its reader took nothing until the time limit.
    pub(super) was_late: bool,
}

impl RunningGuest {
    /// Dumps the machine, which the violation on `cpu` has paused, and tells the user the result. `None` if no dump
    /// was asked for.
    pub(super) fn dump(&self, cpu: u32, subject: &Subject, interrupted: &dyn Fn() -> bool) -> Option<Dumped> {
        let plan = self.dump.as_ref()?;
        self.notices.say(&format!(
            "dump: the machine stands still while its {} MiB are written to {}; Ctrl-C gives up",
            self.running.ram().size() >> 20,
            plan.file.path().display()
        ));
        let written = self.write_dump(plan, cpu, subject, interrupted);
        let cause = written.as_ref().err().and_then(DumpError::system_error);
        let info = plan.info(subject.event, &written);
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
