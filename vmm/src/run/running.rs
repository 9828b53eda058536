//! A started machine: the owner waits for its end, pauses and resumes it, and looks at its processors.
//!
//! Talks to the coordinator's state and to the machine's handle. It must not know how a machine is built.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::coordinator::{Control, Phase, Shared};
use super::handle::MachineHandle;
use super::stop::{CpuStatistics, MachineStop};
use super::vcpu::StoppedCpu;
use crate::debug::{Breakpoint, BreakpointError, ResumeAction, StepOver, StopPoint};
use crate::memory::GuestRam;
use crate::run::Error;
use crate::sandbox::JoinHandle;

/// A started machine. Dropping it ends all its threads.
pub struct RunningMachine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    step_over: StepOver,
}

impl RunningMachine {
    /// A machine whose threads are still to be started; `threads` will be their number.
    pub(crate) fn new(shared: Arc<Shared>, threads: usize, step_over: StepOver) -> Self {
        Self {
            shared,
            threads: Vec::with_capacity(threads),
            step_over,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A thread that [`Phase::Ended`] ends.
    pub(crate) fn add_thread(&mut self, thread: JoinHandle<()>) {
        self.threads.push(thread);
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> MachineHandle {
        MachineHandle::new(Arc::clone(&self.shared))
    }

    /// Guest memory.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.shared.ram
    }

    /// The way of stepping over in force.
    #[must_use]
    pub fn step_over(&self) -> StepOver {
        self.step_over
    }

    /// Waits until the machine stops and says why; it is paused then, workers included. After `limit` of wall-clock time
    /// it is paused and the answer is [`MachineStop::TimeLimit`].
    ///
    /// If [`MachineStop::can_go_on`] the machine can be resumed and waited for again.
    #[must_use]
    pub fn wait(&self, limit: Option<Duration>) -> MachineStop {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let stopped = |control: &mut Control| {
            if control.actual == Phase::Paused || control.actual == Phase::Ended {
                next_reason(&mut control.events)
            } else {
                None
            }
        };
        let mut reason = None;
        let (control, _) = self.shared.wait_until(self.shared.lock(), deadline, |control| {
            reason = stopped(control);
            reason.is_some()
        });
        drop(control);
        if let Some(reason) = reason {
            return reason;
        }
        self.shared.request(Phase::Paused, Some(MachineStop::TimeLimit));
        let (control, _) = self.shared.wait_until(self.shared.lock(), None, |control| {
            reason = stopped(control);
            reason.is_some()
        });
        drop(control);
        reason.unwrap_or(MachineStop::TimeLimit)
    }

    /// Lets a paused machine go on by `resume actions`, as [`MachineHandle::resume_by`] does. A vCPU that stands at a
    /// [`crate::debug::StopPointKind::SoftwareBreakpoint`] which has been reported gets past it first: the instruction is put back
    /// for as long as that vCPU executes it while the others are held.
    ///
    /// If the machine stops on the way to that, within `limit`, the answer is why, as [`RunningMachine::wait`] would say.
    ///
    /// # Errors
    /// See [`MachineHandle::resume`].
    pub fn go_on(&self, actions: &[ResumeAction], limit: Duration) -> Result<Option<MachineStop>, Error> {
        let handle = self.handle();
        for cpu in 0..self.shared.cpus.len() {
            let action = actions.get(cpu).copied().unwrap_or_default();
            let Some(at) = self
                .stands_at_software_breakpoint(cpu as u32)
                .filter(|_| action != ResumeAction::Hold)
            else {
                continue;
            };
            let (_, stop_points) = handle.debug_registers();
            let (lifted, others): (Vec<StopPoint>, Vec<StopPoint>) =
                stop_points.iter().partition(|stop_point| stop_point.address == at);
            let mut alone = vec![ResumeAction::Hold; self.shared.cpus.len()];
            alone[cpu] = ResumeAction::Step { range: None };
            // Fewer stop points are always possible, and so are those that need no register.
            let _ = handle.set_stop_points(&others);
            let stepped = handle.resume_by(&alone).map(|()| self.wait(Some(limit)));
            let (_, mut stop_points) = handle.debug_registers();
            stop_points.extend(lifted);
            let _ = handle.set_stop_points(&stop_points);
            let reason = stepped?;
            if !matches!(reason, MachineStop::Stepped { .. }) {
                return Ok(Some(reason));
            }
            if let ResumeAction::Step { range } = action {
                let (start, end) = range.unwrap_or_default();
                let rip = self.inspect(cpu as u32, |cpu| cpu.registers().rip);
                if !rip.is_some_and(|rip| (start..end).contains(&rip)) {
                    return Ok(Some(reason));
                }
            }
        }
        handle.resume_by(actions)?;
        Ok(None)
    }

    /// Where a vCPU stands if that is at a reported [`crate::debug::StopPointKind::SoftwareBreakpoint`].
    fn stands_at_software_breakpoint(&self, cpu: u32) -> Option<u64> {
        let (breakpoints, stop_points) = self.handle().debug_registers();
        if !stop_points
            .iter()
            .any(|stop_point| stop_point.needs_software_breakpoint(&breakpoints))
        {
            return None;
        }
        let at = self.inspect(cpu, |cpu| cpu.reported())??;
        let there =
            |stop_point: &StopPoint| stop_point.address == at && stop_point.needs_software_breakpoint(&breakpoints);
        stop_points.iter().any(there).then_some(at)
    }

    /// See [`MachineHandle::pause`].
    pub fn pause(&self) {
        self.handle().pause();
    }

    /// See [`MachineHandle::resume`].
    ///
    /// # Errors
    /// See [`MachineHandle::resume`].
    pub fn resume(&self) -> Result<(), Error> {
        self.handle().resume()
    }

    /// See [`MachineHandle::stop`].
    pub fn stop(&self) {
        self.handle().stop();
    }

    /// See [`MachineHandle::set_breakpoints`].
    ///
    /// # Errors
    /// See [`MachineHandle::set_breakpoints`].
    pub fn set_breakpoints(&self, set: &[Breakpoint]) -> Result<(), BreakpointError> {
        self.handle().set_breakpoints(set)
    }

    /// See [`MachineHandle::inspect`].
    pub fn inspect<R: Send + 'static>(
        &self,
        cpu: u32,
        look: impl FnOnce(&mut StoppedCpu<'_>) -> R + Send + 'static,
    ) -> Option<R> {
        self.handle().inspect(cpu, look)
    }

    /// How often the guest was reset and started again.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        let restart = self.shared.restart.get();
        restart.map_or(0, |restart| restart.count.load(Ordering::Relaxed))
    }

    /// What each vCPU counted so far.
    #[must_use]
    pub fn statistics(&self) -> Vec<CpuStatistics> {
        self.shared.cpus.iter().map(|cpu| cpu.counters.read()).collect()
    }
}

/// Takes the next reason out. [`MachineStop::Interrupted`] is left out where another reason follows it: whoever interrupted
/// wanted the machine to stand still, and it does; the other reason tells more.
fn next_reason(events: &mut VecDeque<MachineStop>) -> Option<MachineStop> {
    let reason = events.pop_front()?;
    if matches!(reason, MachineStop::Interrupted) {
        return Some(events.pop_front().unwrap_or(reason));
    }
    Some(reason)
}

impl Drop for RunningMachine {
    fn drop(&mut self) {
        self.shared.request(Phase::Ended, None);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the machine panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(events: &[MachineStop]) -> Vec<String> {
        let mut events: VecDeque<MachineStop> = events.iter().cloned().collect();
        std::iter::from_fn(|| next_reason(&mut events))
            .map(|reason| format!("{reason:?}"))
            .collect()
    }

    #[test]
    fn an_interrupt_does_not_stand_before_what_else_stopped_the_machine() {
        let (breakpoint, step) = (MachineStop::Breakpoint { cpu: 1 }, MachineStop::Stepped { cpu: 0 });
        let all = told(&[MachineStop::Interrupted, breakpoint.clone(), step.clone()]);
        assert_eq!(all, [format!("{breakpoint:?}"), format!("{step:?}")]);
        assert_eq!(told(&[MachineStop::Interrupted]), ["Interrupted"]);
    }
}
