//! The breakpoints and stop points in force on all vCPUs, and how they are changed while the guest runs.
//!
//! A change is over when no vCPU executes guest code under the old set. An INT3 is removed before that and written
//! after it, so that a vCPU that hits one always finds it in its set.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::{Control, Phase, Shared};
use crate::debug::{
    Breakpoint, BreakpointError, StopPoint, StopPointError, StopPointKind, check_breakpoints, check_stop_points,
    fitting,
};
use crate::run::stop::MachineStop;

impl Control {
    /// Where INT3 has to be for the stop points.
    fn wanted_places(&self) -> Vec<u64> {
        let software = self
            .stop_points
            .iter()
            .filter(|stop_point| stop_point.needs_software_breakpoint(&self.breakpoints));
        software
            .filter_map(|stop_point| self.places.get(&stop_point.address).copied())
            .collect()
    }

    /// Whether the place of a stop point by INT3 is known.
    pub(crate) fn has_place(&self, address: u64) -> bool {
        self.places.contains_key(&address)
    }
}

impl Shared {
    /// Puts a set of breakpoints in force and waits until no vCPU executes guest code under the old one. `caller` is the
    /// vCPU whose thread calls, if it is one.
    pub(crate) fn set_breakpoints(&self, set: &[Breakpoint], caller: Option<u32>) -> Result<(), BreakpointError> {
        check_breakpoints(set)?;
        let mut control = self.lock();
        control.breakpoints = set.to_vec();
        let kept = fitting(set, &control.stop_points);
        let lost = control.stop_points.len() - kept.len();
        control.stop_points = kept;
        self.put_in_force(control, caller);
        if lost > 0 {
            self.request(Phase::Paused, Some(MachineStop::StopPointsLost { count: lost }));
        }
        Ok(())
    }

    /// Puts stop points in force beside the breakpoints, as [`Self::set_breakpoints`] does those. `places` says where in
    /// guest-physical memory the addresses of stop points by INT3 lie that were not in force.
    pub(crate) fn set_stop_points(
        &self,
        stop_points: &[StopPoint],
        places: HashMap<u64, u64>,
    ) -> Result<(), StopPointError> {
        let mut control = self.lock();
        check_stop_points(&control.breakpoints, stop_points)?;
        control.places.extend(places);
        let software = || {
            stop_points
                .iter()
                .filter(|stop_point| stop_point.kind == StopPointKind::SoftwareBreakpoint)
        };
        if let Some(lost) = software().find(|stop_point| !control.places.contains_key(&stop_point.address)) {
            return Err(StopPointError::NotMapped(lost.address));
        }
        control
            .places
            .retain(|address, _| software().any(|stop_point| stop_point.address == *address));
        control.stop_points = stop_points.to_vec();
        self.put_in_force(control, None);
        Ok(())
    }

    /// Puts the breakpoints and stop points in `control` in force on every vCPU, and writes INT3 where it is
    /// wanted and nowhere else. A vCPU that meets one knows of it, and one that has met one that is gone sees that it
    /// is.
    fn put_in_force(&self, mut control: MutexGuard<'_, Control>, caller: Option<u32>) {
        let wanted = control.wanted_places();
        control.written.retain(|place| {
            let stays = wanted.contains(place);
            if !stays {
                self.ram.remove_software_breakpoint(*place);
            }
            stays
        });
        self.settle(control, caller);
        let mut control = self.lock();
        // Somebody else may have asked for something else meanwhile.
        for place in control.wanted_places() {
            if !control.written.contains(&place) && self.ram.set_software_breakpoint(place).is_ok() {
                control.written.push(place);
            }
        }
    }

    /// Makes the set in `control` a new one and waits until no vCPU executes guest code under an old one.
    fn settle(&self, mut control: MutexGuard<'_, Control>, caller: Option<u32>) {
        control.epoch += 1;
        let epoch = control.epoch;
        self.call_attention(&control, caller);
        if let Some(caller) = caller.and_then(|caller| self.cpus.get(caller as usize)) {
            caller.attention.store(true, Ordering::SeqCst);
        }
        let settled = |control: &mut Control| {
            self.cpus
                .iter()
                .zip(&control.cpus)
                .all(|(cpu, locked)| locked.epoch >= epoch || !cpu.in_guest.load(Ordering::SeqCst))
        };
        drop(self.wait_until(control, None, settled));
    }
}
