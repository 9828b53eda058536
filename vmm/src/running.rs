//! A started machine: waiting for its end, pausing, resuming, looking at its processors.
//!
//! Talks to the coordinator's state only; re-exported by [`crate::machine`]. It must not know how a machine is built.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::coordinator::{Control, Phase, Shared};
use crate::debug::{Breakpoint, BreakpointError, Motion, StepOver, StoppedCpu, Trap, TrapError, TrapKind};
use crate::error::Error;
use crate::exit::{CpuStatistics, ExitReason};
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
    /// it is paused and the answer is [`ExitReason::TimeLimit`].
    ///
    /// If [`ExitReason::can_go_on`] the machine can be resumed and waited for again.
    #[must_use]
    pub fn wait(&self, limit: Option<Duration>) -> ExitReason {
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
        self.shared.request(Phase::Paused, Some(ExitReason::TimeLimit));
        let (control, _) = self.shared.wait_until(self.shared.lock(), None, |control| {
            reason = stopped(control);
            reason.is_some()
        });
        drop(control);
        reason.unwrap_or(ExitReason::TimeLimit)
    }

    /// Lets a paused machine go on by `motions`, as [`MachineHandle::resume_by`] does. A vCPU that stands at a
    /// [`TrapKind::Patch`] which has been reported gets past it first: the instruction is put back for as long as that vCPU
    /// executes it while the others are held.
    ///
    /// If the machine stops on the way to that, within `limit`, the answer is why, as [`RunningMachine::wait`] would say.
    ///
    /// # Errors
    /// See [`MachineHandle::resume`].
    pub fn go_on(&self, motions: &[Motion], limit: Duration) -> Result<Option<ExitReason>, Error> {
        let handle = self.handle();
        for cpu in 0..self.shared.cpus.len() {
            let motion = motions.get(cpu).copied().unwrap_or_default();
            let Some(at) = self.stands_at_patch(cpu as u32).filter(|_| motion != Motion::Hold) else {
                continue;
            };
            let (_, traps) = handle.debug_registers();
            let (lifted, others): (Vec<Trap>, Vec<Trap>) = traps.iter().partition(|trap| trap.address == at);
            let mut alone = vec![Motion::Hold; self.shared.cpus.len()];
            alone[cpu] = Motion::Step { range: None };
            // Fewer traps are always possible, and so are those that need no register.
            let _ = handle.set_traps(&others);
            let stepped = handle.resume_by(&alone).map(|()| self.wait(Some(limit)));
            let (_, mut traps) = handle.debug_registers();
            traps.extend(lifted);
            let _ = handle.set_traps(&traps);
            let reason = stepped?;
            if !matches!(reason, ExitReason::Stepped { .. }) {
                return Ok(Some(reason));
            }
            if let Motion::Step { range } = motion {
                let (start, end) = range.unwrap_or_default();
                let rip = self.inspect(cpu as u32, |cpu| cpu.registers().rip);
                if !rip.is_some_and(|rip| (start..end).contains(&rip)) {
                    return Ok(Some(reason));
                }
            }
        }
        handle.resume_by(motions)?;
        Ok(None)
    }

    /// Where a vCPU stands if that is at a reported [`TrapKind::Patch`].
    fn stands_at_patch(&self, cpu: u32) -> Option<u64> {
        let (breakpoints, traps) = self.handle().debug_registers();
        if !traps.iter().any(|trap| trap.needs_patch(&breakpoints)) {
            return None;
        }
        let at = self.inspect(cpu, |cpu| cpu.reported())??;
        let there = |trap: &Trap| trap.address == at && trap.needs_patch(&breakpoints);
        traps.iter().any(there).then_some(at)
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
fn next_reason(events: &mut VecDeque<ExitReason>) -> Option<ExitReason> {
    let reason = events.pop_front()?;
    if matches!(reason, ExitReason::Interrupted) {
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

    /// Ends the run: [`RunningMachine::wait`] answers [`ExitReason::Stopped`]. Does not wait; works on any thread, also in
    /// a [`crate::debug::DebugHandler`].
    pub fn stop(&self) {
        self.shared.request(Phase::Paused, Some(ExitReason::Stopped));
    }

    /// Ends the run because something of this program has failed: [`RunningMachine::wait`] answers [`ExitReason::Failed`]
    /// with `what`, a sentence. Does not wait; works on any thread.
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
    pub fn resume_by(&self, motions: &[Motion]) -> Result<(), Error> {
        let control = self.shared.lock();
        if control.finished || control.wanted == Phase::Ended {
            return Err(Error::Configuration {
                what: "the guest has come to its end, it cannot go on".into(),
            });
        }
        let paused = control.actual == Phase::Paused;
        drop(control);
        for (cpu, motion) in (0..).zip(motions).filter(|_| paused) {
            if matches!(motion, Motion::Step { .. }) {
                let failed = self.inspect(cpu, |cpu| cpu.take_back_interrupt().err()).flatten();
                failed.map_or(Ok(()), Err)?;
            }
        }
        self.shared.resume(motions);
        Ok(())
    }

    /// Pauses the machine: [`RunningMachine::wait`] answers [`ExitReason::Interrupted`]. Does not wait; works on any
    /// thread. Nothing happens if the machine stands still already or has something else to tell.
    pub fn interrupt(&self) {
        let control = self.shared.lock();
        let stands = control.wanted != Phase::Running || !control.events.is_empty();
        drop(control);
        if !stands {
            self.shared.request(Phase::Paused, Some(ExitReason::Interrupted));
        }
    }

    /// Replaces the traps on every vCPU; when this returns none executes guest code under the old ones. Not to be called
    /// on a vCPU's thread.
    ///
    /// The address of a [`TrapKind::Patch`] is looked up when it is new, by the page tables of the first vCPU that maps it.
    ///
    /// # Errors
    /// [`TrapError`]; the old traps then stay.
    pub fn set_traps(&self, traps: &[Trap]) -> Result<(), TrapError> {
        let control = self.shared.lock();
        let new = traps
            .iter()
            .filter(|trap| trap.kind == TrapKind::Patch && !control.has_place(trap.address));
        let new: Vec<u64> = new.map(|trap| trap.address).collect();
        drop(control);
        if !new.is_empty() && !self.can_patch() {
            return Err(TrapError::CannotPatch);
        }
        let mut places = HashMap::new();
        for address in new {
            let place = self.place(address).ok_or(TrapError::NotMapped(address))?;
            places.insert(address, place);
        }
        self.shared.set_traps(traps, places)
    }

    /// Whether a [`TrapKind::Patch`] works here; found out if the machine was made with
    /// [`crate::machine::MachineConfig::patches`].
    #[must_use]
    pub fn can_patch(&self) -> bool {
        self.shared.can_patch.load(Ordering::Relaxed)
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

    /// The breakpoints and traps in force.
    #[must_use]
    pub fn debug_registers(&self) -> (Vec<Breakpoint>, Vec<Trap>) {
        let control = self.shared.lock();
        (control.breakpoints.clone(), control.traps.clone())
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

    fn told(events: &[ExitReason]) -> Vec<String> {
        let mut events: VecDeque<ExitReason> = events.iter().cloned().collect();
        std::iter::from_fn(|| next_reason(&mut events))
            .map(|reason| format!("{reason:?}"))
            .collect()
    }

    #[test]
    fn an_interrupt_does_not_stand_before_what_else_stopped_the_machine() {
        let (breakpoint, step) = (ExitReason::Breakpoint { cpu: 1 }, ExitReason::Stepped { cpu: 0 });
        let all = told(&[ExitReason::Interrupted, breakpoint.clone(), step.clone()]);
        assert_eq!(all, [format!("{breakpoint:?}"), format!("{step:?}")]);
        assert_eq!(told(&[ExitReason::Interrupted]), ["Interrupted"]);
    }
}
