//! A started machine: waiting for its end, pausing, resuming, looking at its processors.
//!
//! Talks to the coordinator's state only; re-exported by [`crate::machine`]. It must not know how a machine is built.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::coordinator::{Control, Phase, Shared};
use crate::debug::{
    Breakpoint, BreakpointError, ResumeAction, StepOver, StopPoint, StopPointError, StopPointKind, StoppedCpu,
};
use crate::error::Error;
use crate::exit::{CpuStatistics, MachineStop};
use crate::memory::GuestRam;
use crate::sandbox::JoinHandle;
use crate::translate;

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

    /// Lets the guest of [`crate::machine::Machine::start_paused`] begin, unless it has been stopped already:
    /// [`RunningMachine::wait`] says so then.
    pub fn begin(&self) {
        self.shared.request(Phase::Running, None);
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
    /// [`StopPointKind::SoftwareBreakpoint`] which has been reported gets past it first: the instruction is put back
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

    /// Where a vCPU stands if that is at a reported [`StopPointKind::SoftwareBreakpoint`].
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

/// Takes the next reason out. One that asked for a stop and got another is satisfied: where something else stopped the
/// machine at the same time, it would only stand before what is to be seen.
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

/// What any thread may ask of a started machine. Cheap to clone; outliving the machine is harmless.
#[derive(Clone)]
pub struct MachineHandle {
    shared: Arc<Shared>,
}

impl MachineHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Ends the run: [`RunningMachine::wait`] answers [`MachineStop::Stopped`]. Does not wait; works on any thread,
    /// also in a [`crate::debug::DebugHandler`].
    pub fn stop(&self) {
        self.shared.request(Phase::Paused, Some(MachineStop::Stopped));
    }

    /// Ends the run because something of this program has failed: [`RunningMachine::wait`] answers
    /// [`MachineStop::Failed`] with `what`, a sentence. Does not wait; works on any thread.
    pub fn fail(&self, what: String) {
        self.shared.fail(what);
    }

    /// Whether the machine is to stand still, or does so. Works on any thread.
    #[must_use]
    pub fn is_wanted_still(&self) -> bool {
        self.shared.lock().wanted != Phase::Running
    }

    /// Pauses all vCPUs and device workers and waits until each has acknowledged. Not to be called on a vCPU's thread
    /// (in a [`crate::debug::DebugHandler`]; answer [`crate::debug::HitAction::Stop`] there).
    ///
    /// The clocks of our own devices stand still while paused; KVM's (TSC, LAPIC, PIT) go on.
    pub fn pause(&self) {
        self.shared.request(Phase::Paused, None);
        let paused = |control: &mut Control| control.wanted != Phase::Paused || control.actual == Phase::Paused;
        drop(self.shared.wait_until(self.shared.lock(), None, paused));
    }

    /// Lets a paused machine go on. While [`RunningMachine::wait`] has further stops to tell it stays paused.
    ///
    /// # Errors
    /// [`Error::Configuration`] if the guest has come to its end.
    pub fn resume(&self) -> Result<(), Error> {
        self.resume_by(&[])
    }

    /// As [`MachineHandle::resume`], with what each vCPU is to do, by number; those not named run.
    ///
    /// # Errors
    /// See [`MachineHandle::resume`].
    pub fn resume_by(&self, actions: &[ResumeAction]) -> Result<(), Error> {
        let control = self.shared.lock();
        if control.finished || control.wanted == Phase::Ended {
            return Err(Error::Configuration {
                what: "the guest has come to its end, it cannot go on".into(),
            });
        }
        let paused = control.actual == Phase::Paused;
        drop(control);
        for (cpu, action) in (0..).zip(actions).filter(|_| paused) {
            if matches!(action, ResumeAction::Step { .. }) {
                let failed = self.inspect(cpu, |cpu| cpu.take_back_interrupt().err()).flatten();
                failed.map_or(Ok(()), Err)?;
            }
        }
        self.shared.resume(actions);
        Ok(())
    }

    /// Pauses the machine: [`RunningMachine::wait`] answers [`MachineStop::Interrupted`]. Does not wait; works on any
    /// thread. Nothing happens if the machine stands still already or has something else to tell.
    pub fn interrupt(&self) {
        let control = self.shared.lock();
        let stands = control.wanted != Phase::Running || !control.events.is_empty();
        drop(control);
        if !stands {
            self.shared.request(Phase::Paused, Some(MachineStop::Interrupted));
        }
    }

    /// Replaces the stop points on every vCPU; when this returns none executes guest code under the old ones. Not to be
    /// called on a vCPU's thread.
    ///
    /// The address of a [`StopPointKind::SoftwareBreakpoint`] is looked up when it is new, by the page tables of the
    /// first vCPU that maps it.
    ///
    /// # Errors
    /// [`StopPointError`]; the old stop points then stay.
    pub fn set_stop_points(&self, stop_points: &[StopPoint]) -> Result<(), StopPointError> {
        let control = self.shared.lock();
        let new = stop_points.iter().filter(|stop_point| {
            stop_point.kind == StopPointKind::SoftwareBreakpoint && !control.has_place(stop_point.address)
        });
        let new: Vec<u64> = new.map(|stop_point| stop_point.address).collect();
        drop(control);
        if !new.is_empty() && !self.has_software_breakpoints() {
            return Err(StopPointError::NoSoftwareBreakpoints);
        }
        let mut places = HashMap::new();
        for address in new {
            let place = self.place(address).ok_or(StopPointError::NotMapped(address))?;
            places.insert(address, place);
        }
        self.shared.set_stop_points(stop_points, places)
    }

    /// Whether a [`StopPointKind::SoftwareBreakpoint`] works here; found out if the machine was made with
    /// [`crate::machine::MachineConfig::software_breakpoints`].
    #[must_use]
    pub fn has_software_breakpoints(&self) -> bool {
        self.shared.has_software_breakpoints.load(Ordering::Relaxed)
    }

    /// Where in guest-physical memory an address lies. A vCPU without paging, as one that was not started yet, is only asked
    /// where none has it: to such a one every low address is something.
    fn place(&self, address: u64) -> Option<u64> {
        let mut unpaged = None;
        let mut paging = false;
        for cpu in 0..self.shared.cpus.len() as u32 {
            let (pages, place) = self.inspect(cpu, move |cpu| {
                let space = cpu.special().address_space();
                let found = translate::translate(cpu.ram(), space, address).ok();
                let place = found.filter(|found| cpu.ram().read(found.address, &mut [0]).is_ok());
                (space.is_paged(), place.map(|found| found.address))
            })?;
            paging |= pages;
            if pages && place.is_some() {
                return place;
            }
            unpaged = unpaged.or(place);
        }
        unpaged.filter(|_| !paging)
    }

    /// The breakpoints and stop points in force.
    #[must_use]
    pub fn debug_registers(&self) -> (Vec<Breakpoint>, Vec<StopPoint>) {
        let control = self.shared.lock();
        (control.breakpoints.clone(), control.stop_points.clone())
    }

    /// For each vCPU, how long it still ran after the machine was last wanted to stop; `None` if it stood still already.
    #[must_use]
    pub fn ran_on(&self) -> Vec<Option<Duration>> {
        self.shared.lock().cpus.iter().map(|cpu| cpu.ran_on).collect()
    }

    /// Replaces the breakpoints on every vCPU; when this returns none executes guest code under the old set. Not for
    /// [`crate::debug::DebugHandler`]s: they have [`StoppedCpu::set_breakpoints`].
    ///
    /// # Errors
    /// [`BreakpointError`]; the old set then stays.
    pub fn set_breakpoints(&self, set: &[Breakpoint]) -> Result<(), BreakpointError> {
        self.shared.set_breakpoints(set, None)
    }

    /// Has `look` called with vCPU `cpu` between two of its instructions, whether the machine runs or is paused. Not to
    /// be called on a vCPU's thread. `None` if there is no such vCPU (any more).
    pub fn inspect<R: Send + 'static>(
        &self,
        cpu: u32,
        look: impl FnOnce(&mut StoppedCpu<'_>) -> R + Send + 'static,
    ) -> Option<R> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let job = move |cpu: &mut StoppedCpu<'_>| {
            // The receiver waits below; should it be gone nobody wants the answer.
            let _ = sender.send(look(cpu));
        };
        self.shared.enqueue(cpu, Box::new(job)).then(|| receiver.recv().ok())?
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
