//! What each processor does when the machine goes on, as a client says it: `vCont`, and the commands before it.
//!
//! Talks to the gdbstub crate and to the [`Debuggee`](crate::vmi::debuggee::Debuggee). It must not know why a client has
//! the machine go on.

use std::collections::HashMap;
use std::convert::Infallible;

use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::multithread::{
    MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};

use super::stub::Stub;
use crate::vmi::debuggee::ResumeAction;

/// The resume actions of one `vCont`.
#[derive(Debug, Default)]
pub(super) struct ResumeActions {
    by_processor: HashMap<u32, ResumeAction>,
    /// Processors without a resume action stay where they are.
    locked: bool,
}

impl ResumeActions {
    fn of(&self, cpu: u32) -> ResumeAction {
        let default = if self.locked {
            ResumeAction::Hold
        } else {
            ResumeAction::Run
        };
        self.by_processor.get(&cpu).copied().unwrap_or(default)
    }
}

impl Stub {
    fn set_resume_action(&mut self, tid: Tid, action: ResumeAction) {
        if let Ok(cpu) = self.cpu(tid) {
            // Each processor is named once by now.
            self.next.by_processor.insert(cpu, action);
        }
    }
}

impl MultiThreadResume for Stub {
    fn resume(&mut self) -> Result<(), Infallible> {
        let actions = (0..self.machine.processors()).map(|cpu| self.next.of(cpu)).collect();
        self.machine.resume(actions);
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Infallible> {
        self.next = ResumeActions::default();
        Ok(())
    }

    /// Signals mean nothing to a machine.
    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Infallible> {
        self.set_resume_action(tid, ResumeAction::Run);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Stub {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Infallible> {
        self.set_resume_action(tid, ResumeAction::Step { range: None });
        Ok(())
    }
}

impl MultiThreadRangeStepping for Stub {
    fn set_resume_action_range_step(&mut self, tid: Tid, start: u64, end: u64) -> Result<(), Infallible> {
        let range = Some((start, end));
        self.set_resume_action(tid, ResumeAction::Step { range });
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Stub {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Infallible> {
        self.next.locked = true;
        Ok(())
    }
}
