//! Sets of exports that take turns, if not all fit.
//!
//! Pure, like the plan. It must not know how long a turn is.

use std::cmp::Reverse;

use storlock_check::contract::RoutineSet;

use super::choice::{choose_by, judged, loose};
use super::{Candidate, union};

/// Sets at most.
const SETS: usize = 6;

/// The sets that take turns: the first is the choice that stands without turns. Each has `clock`, an export that the driver
/// calls all the time, so that a turn ends; each of the others sees most of what none before it sees.
pub(super) fn sets(
    candidates: &[Candidate],
    chosen: &[Candidate],
    registers: usize,
    imported: RoutineSet,
    clock: &Candidate,
) -> Vec<Vec<Candidate>> {
    let mut sets = vec![chosen.to_vec()];
    if registers < 2 || candidates.len() <= registers {
        return sets;
    }
    if !chosen.contains(clock) {
        // The first set, too, has to come to its end.
        sets = vec![choose_by(candidates, registers, |picked, watched| {
            picked
                .contains(clock)
                .then(|| (judged(watched, imported).len(), watched.len()))
        })];
    }
    while sets.len() < SETS {
        let seen = sets.iter().fold(RoutineSet::EMPTY, |seen, set| seen.union(union(set)));
        let known = sets.iter().fold(RoutineSet::EMPTY, |known, set| {
            known.union(judged(union(set), imported))
        });
        if candidates.iter().all(|candidate| seen.contains_all(candidate.routines)) && sets.len() > 1 {
            break;
        }
        let next = choose_by(candidates, registers, |picked, watched| {
            let new = watched.difference(seen).len();
            let worth = (
                judged(watched, imported).difference(known).len(),
                new,
                Reverse(loose(watched, imported).len()),
            );
            (picked.contains(clock) && new > 0).then_some(worth)
        });
        if next.is_empty() {
            break;
        }
        sets.push(next);
    }
    sets
}
