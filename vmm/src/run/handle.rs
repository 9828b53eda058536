//! What any thread may ask of a machine: pause, resume, stop, breakpoints, a look at a processor.
//!
//! Talks to the state that the threads of a machine share and, for addresses, to the page table walker. It must not
//! know how a machine is built, nor who waits for its end.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::coordinator::{Control, Phase, Shared};
use super::stop::MachineStop;
use super::vcpu::StoppedCpu;
use crate::debug::{Breakpoint, BreakpointError, ResumeAction, StopPoint, StopPointError, StopPointKind};
use crate::run::Error;
use crate::translate;

/// What any thread may ask of a started machine. Cheap to clone; outliving the machine is harmless.
#[derive(Clone)]
pub struct MachineHandle {
    shared: Arc<Shared>,
}

impl MachineHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Ends the run: [`RunningMachine::wait`] answers [`MachineStop::Stopped`]. Does not wait; works on any thread,
    /// also in a [`crate::run::DebugHandler`].
    pub fn stop(&self) {
        self.shared.request(Phase::Paused, Some(MachineStop::Stopped));
    }

    /// Pauses the machine because of what vCPU `cpu` has done: [`RunningMachine::wait`] answers
    /// [`MachineStop::Breakpoint`], as if its handler had stopped there. Does not wait; works on any thread, also in a
    /// [`crate::run::DebugHandler`]. The vCPU stands wherever it has come to.
    pub fn stop_at(&self, cpu: u32) {
        self.shared.stop_for(MachineStop::Breakpoint { cpu });
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
    /// (in a [`crate::run::DebugHandler`]; answer [`crate::debug::HitAction::Stop`] there).
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
    /// [`Error::Ended`] if the guest has come to its end.
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
            return Err(Error::Ended);
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
        self.shared.interrupt();
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
    /// [`crate::run::MachineConfig::software_breakpoints`].
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
    /// [`crate::run::DebugHandler`]s: they have [`StoppedCpu::set_breakpoints`].
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
