//! Which breakpoints and traps are in force on all vCPUs, and changing them while the guest runs.
//!
//! A change is over when no vCPU executes guest code under the old set. INT3 is taken out before that and written after it, so that
//! whoever meets one knows of it.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::{Control, Phase, Shared};
use crate::debug::{Breakpoint, BreakpointError, Trap, TrapError, TrapKind, check_breakpoints, check_traps, fitting};
use crate::exit::ExitReason;

impl Control {
    /// Where INT3 has to be for the traps.
    fn wanted_patches(&self) -> Vec<u64> {
        let patches = self.traps.iter().filter(|trap| trap.needs_patch(&self.breakpoints));
        patches
            .filter_map(|trap| self.places.get(&trap.address).copied())
            .collect()
    }

    /// Whether the place of a trap by INT3 is known.
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
        let kept = fitting(set, &control.traps);
        let lost = control.traps.len() - kept.len();
        control.traps = kept;
        self.put_in_force(control, caller);
        if lost > 0 {
            self.request(Phase::Paused, Some(ExitReason::TrapsLost { count: lost }));
        }
        Ok(())
    }

    /// Puts traps in force beside the breakpoints, as [`Self::set_breakpoints`] does those. `places` says where in
    /// guest-physical memory the addresses of traps by INT3 lie that were not in force.
    pub(crate) fn set_traps(&self, traps: &[Trap], places: HashMap<u64, u64>) -> Result<(), TrapError> {
        let mut control = self.lock();
        check_traps(&control.breakpoints, traps)?;
        control.places.extend(places);
        let patches = || traps.iter().filter(|trap| trap.kind == TrapKind::Patch);
        if let Some(lost) = patches().find(|trap| !control.places.contains_key(&trap.address)) {
            return Err(TrapError::NotMapped(lost.address));
        }
        control
            .places
            .retain(|address, _| patches().any(|trap| trap.address == *address));
        control.traps = traps.to_vec();
        self.put_in_force(control, None);
        Ok(())
    }

    /// Makes the breakpoints and traps in `control` those in force on every vCPU, and writes INT3 where it is wanted and
    /// nowhere else. A vCPU that meets one knows of it, and one that has met one that is gone sees that it is.
    fn put_in_force(&self, mut control: MutexGuard<'_, Control>, caller: Option<u32>) {
        let wanted = control.wanted_patches();
        control.patched.retain(|place| {
            let stays = wanted.contains(place);
            if !stays {
                self.ram.unpatch(*place);
            }
            stays
        });
        self.settle(control, caller);
        let mut control = self.lock();
        // Somebody else may have asked for something else meanwhile.
        for place in control.wanted_patches() {
            if !control.patched.contains(&place) && self.ram.patch(place).is_ok() {
                control.patched.push(place);
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
