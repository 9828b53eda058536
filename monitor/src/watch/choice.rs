//! Chooses the set of exports that is worth most, where not all fit into the debug registers.
//!
//! Pure. It must not know words.

use std::cmp::Reverse;

use storlock_check::contract::{Role, Routine, RoutineSet, contract};

use super::{Candidate, union};

/// The watched releases all of whose imported feeders are watched too.
pub(super) fn judged(watched: RoutineSet, imported: RoutineSet) -> RoutineSet {
    let is_judged = |&routine: &Routine| {
        let row = contract(routine);
        row.role == Role::Release && watched.contains_all(row.fed_by.intersection(imported))
    };
    watched.iter().filter(is_judged).collect()
}

/// The watched routines that are only half of what has to be seen: releases that cannot be judged, and acquires some of
/// whose imported releases are not watched. They give suspicions instead of verdicts.
pub(super) fn loose(watched: RoutineSet, imported: RoutineSet) -> RoutineSet {
    let judged = judged(watched, imported);
    let has_unseen_release = |acquire: Routine| {
        let unseen = imported.difference(watched);
        unseen.iter().any(|release| contract(release).fed_by.contains(acquire))
    };
    let is_loose = |&routine: &Routine| match contract(routine).role {
        Role::Release => !judged.contains(routine),
        _ => has_unseen_release(routine),
    };
    watched.iter().filter(is_loose).collect()
}

/// The routines in the text of the rule SpinLockRelease.
const RULE: RoutineSet = RoutineSet::of(&[Routine::KeAcquireSpinLockRaiseToDpc, Routine::KeReleaseSpinLock]);

/// The best set of at most `registers` candidates.
pub(super) fn choose(candidates: &[Candidate], registers: usize, imported: RoutineSet) -> Vec<Candidate> {
    if candidates.len() <= registers {
        return candidates.to_vec();
    }
    choose_by(candidates, registers, |_, watched| {
        Some((
            judged(watched, imported).len(),
            watched.intersection(RULE).len(),
            Reverse(loose(watched, imported).len()),
            watched.len(),
        ))
    })
}

/// The first set of `registers` candidates that is worth most, by trying all: there are at most some twenty thousand. `None`
/// is worth nothing; without a set that is worth anything there is none.
pub(super) fn choose_by<W: Ord>(
    candidates: &[Candidate],
    registers: usize,
    worth: impl Fn(&[Candidate], RoutineSet) -> Option<W>,
) -> Vec<Candidate> {
    let mut picked: Vec<usize> = (0..registers.min(candidates.len())).collect();
    let (mut best, mut best_worth) = (Vec::new(), None);
    loop {
        let set: Vec<Candidate> = picked
            .iter()
            .filter_map(|&index| candidates.get(index).copied())
            .collect();
        let own = worth(&set, union(&set));
        if own > best_worth {
            (best, best_worth) = (set, own);
        }
        if !next_combination(&mut picked, candidates.len()) {
            return best;
        }
    }
}

/// Steps to the next combination of indices below `count` in lexicographic order; `false` after the last one.
fn next_combination(picked: &mut [usize], count: usize) -> bool {
    let length = picked.len();
    let Some(position) = (0..length).rev().find(|&at| picked[at] + length - at < count) else {
        return false;
    };
    picked[position] += 1;
    for at in position + 1..length {
        picked[at] = picked[at - 1] + 1;
    }
    true
}
