//! Why an export is watched, what is not seen where one is not, and how the debug registers are used: the plan as data of a
//! report.
//!
//! Pure. It must not choose anything, and it makes no sentences.

use storlock_check::contract::{Routine, RoutineSet, SystemModule, contract};

use super::choice::judged;
use super::{Candidate, WatchPlan, name_of};
use crate::report::{LockRoutine, PlannedRotation, PlannedTurns, Purpose, WatchChoice, WatchGap};

/// The kernel's export through which every new object goes: on its entry a debug register waits for the driver object.
pub(crate) const WITNESS: &str = "ObInsertObject";

impl WatchPlan {
    /// How the debug registers are used, and why.
    #[must_use]
    pub(crate) fn choice(&self) -> WatchChoice {
        let may_fail = self.watched.iter();
        let may_fail = may_fail.filter(|&routine| contract(routine).result.may_fail());
        let rotations = self.turns.iter().map(|rotation| PlannedRotation {
            clock: rotation.clock.clone(),
            sets: rotation.later.iter().map(Self::exports).collect(),
        });
        let rotations: Vec<PlannedRotation> = rotations.collect();
        let turns = self.turns_because.filter(|_| !rotations.is_empty());
        WatchChoice {
            imports_known: self.imports_known,
            exports: self.exports as u64,
            registers: self.registers as u64,
            driver_object_at: name_of(SystemModule::Ntoskrnl, WITNESS),
            watched: self.watches.iter().map(|watch| watch.purpose.clone()).collect(),
            may_fail: listed(may_fail),
            gaps: self.gaps.clone(),
            uses: self.uses.clone(),
            unnamed: self.unnamed.clone(),
            turns: turns.map(|because| PlannedTurns { because, rotations }),
            hooked: self.hooked,
        }
    }

    /// The names of the watched exports.
    fn exports(&self) -> Vec<String> {
        let watches = self.watches.iter();
        watches.map(|watch| watch.purpose.export.clone()).collect()
    }
}

pub(super) fn listed(routines: impl Iterator<Item = Routine>) -> Vec<LockRoutine> {
    routines.map(LockRoutine).collect()
}

/// What a chosen export is watched for.
pub(super) fn purpose(candidate: &Candidate, imported: RoutineSet, known: bool, watched: RoutineSet) -> Purpose {
    let judged = judged(watched, imported);
    let (can, cannot): (Vec<_>, Vec<_>) = candidate.releases().partition(|&release| judged.contains(release));
    Purpose {
        export: candidate.name(),
        imported: known,
        acquires: listed(candidate.acquires()),
        before: before(candidate, watched),
        judged: listed(can.into_iter()),
        suspect: listed(cannot.into_iter()),
        leads_to: None,
    }
}

/// What is not seen of an export that is left out.
pub(super) fn left_out(candidate: &Candidate, watched: RoutineSet) -> WatchGap {
    WatchGap::NoRegister {
        routine: candidate.name(),
        releases: listed(candidate.releases()),
        acquires: listed(candidate.acquires()),
        before: before(candidate, watched),
    }
}

/// The watched releases that an acquire behind the export may come before.
fn before(candidate: &Candidate, watched: RoutineSet) -> Vec<LockRoutine> {
    let feeds = |release: &Routine| !contract(*release).fed_by.intersection(candidate.routines).is_empty();
    listed(watched.iter().filter(feeds))
}
