//! Sets of breakpoints that take turns during the run, if the driver may need more breakpoints than there are.
//!
//! A turn ends after a number of hits, not after a time, so that a recording replays the same turns. A set with a routine
//! that has not been called yet has longer turns than others: what a driver calls all the time is soon seen, and a call that
//! it makes once can only be seen if the breakpoint is there. Talks to the plan. It must not know how breakpoints are set,
//! nor what the checker makes of the change.

use std::cmp::Reverse;
use std::collections::HashSet;

use super::watching::Watch;
use crate::report::{Share, WatchedSet};
use crate::watch::WatchPlan;

/// Hits of one turn.
const TURN: u64 = 1024;
/// Hits of a set's first turn, so that each set has had one in a short run, too. Each later turn of it has twice as many, up
/// to [`TURN`].
const FIRST_TURN: u64 = 128;
/// How much longer the turn of a set is one of whose routines has not been called yet.
const PATIENCE: u64 = 4;
/// A rotation is taken if its clock has at least this part of the most frequent clock's hits.
const SLOWEST_CLOCK: u64 = 8;
/// Sets at most.
const SETS: usize = 8;

/// The name of an export by whose calls turns are counted, and the sets after the first.
pub(crate) type Rotation = (String, Vec<(WatchPlan, Vec<Watch>)>);

/// The sets, of which one is in force.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    sets: Vec<Set>,
    /// Those that may follow the first. Empty once it is known how often the exports of the first are called.
    rotations: Vec<Rotation>,
    /// The one in force.
    now: usize,
    /// Hits when its turn began.
    began: u64,
}

#[derive(Debug)]
struct Set {
    plan: WatchPlan,
    /// Its breakpoints with their hits, as they were when it was last in force.
    watches: Vec<Watch>,
    turns: u64,
    hits: u64,
}

/// The addresses of every two breakpoints.
fn pairs(watches: &[Watch]) -> impl Iterator<Item = (u64, u64)> + '_ {
    let address = |watch: &Watch| watch.breakpoint.address;
    let all = move |first: u64| watches.iter().map(move |second| (first, address(second)));
    watches.iter().flat_map(move |first| all(address(first)))
}

impl Set {
    fn new((plan, watches): (WatchPlan, Vec<Watch>)) -> Self {
        Self {
            plan,
            watches,
            turns: 0,
            hits: 0,
        }
    }
}

impl Turns {
    /// Begins with the first set in force; without rotations it is the only one.
    pub(crate) fn new(plan: &WatchPlan, watches: &[Watch], rotations: Vec<Rotation>) -> Self {
        if rotations.is_empty() {
            return Self::default();
        }
        let mut first = Set::new((plan.clone(), watches.to_vec()));
        first.turns = 1;
        Self {
            sets: vec![first],
            rotations,
            now: 0,
            began: 0,
        }
    }

    /// Whether the turn is over, after so many hits in all.
    pub(crate) fn is_over(&self, in_force: &[Watch], hits: u64) -> bool {
        let Some(set) = self.sets.get(self.now) else {
            return false;
        };
        let passed = hits.saturating_sub(self.began);
        if passed < FIRST_TURN {
            return false;
        }
        let doublings = set.turns.saturating_sub(1).min(u64::from(TURN.ilog2()));
        let turn = (FIRST_TURN << doublings).min(TURN);
        let unseen = |watches: &[Watch]| watches.iter().any(|watch| watch.hits() == 0);
        // The first turn of all only finds out what is called often.
        let is_first = self.sets.len() == 1;
        let mut others = self.sets.iter().enumerate().filter(|(index, _)| *index != self.now);
        let turn = if is_first {
            FIRST_TURN
        } else if unseen(in_force) {
            (PATIENCE * turn).min(TURN)
        } else if others.any(|(_, set)| unseen(&set.watches)) {
            FIRST_TURN
        } else {
            turn
        };
        passed >= turn
    }

    /// Takes the sets of the rotations whose clocks have about the most hits, so that their turns come to their end, if they
    /// watch two exports together that none before them does. Of equals the first goes first, so that a recording takes the
    /// same.
    fn choose(&mut self, in_force: &[Watch]) {
        let hits = |(clock, _): &Rotation| {
            let clock = in_force.iter().find(|watch| watch.names.contains(clock));
            clock.map_or(0, Watch::hits)
        };
        let mut rotations = std::mem::take(&mut self.rotations);
        rotations.sort_by_key(|rotation| Reverse(hits(rotation)));
        let most = rotations.first().map_or(0, &hits);
        rotations.retain(|rotation| most == 0 || hits(rotation) * SLOWEST_CLOCK >= most);
        if most == 0 {
            rotations.truncate(1);
        }
        let mut together: HashSet<(u64, u64)> = self.sets.iter().flat_map(|set| pairs(&set.watches)).collect();
        for (plan, watches) in rotations.into_iter().flat_map(|(_, later)| later) {
            let new = pairs(&watches).any(|pair| !together.contains(&pair));
            if new && self.sets.len() < SETS {
                together.extend(pairs(&watches));
                self.sets.push(Set::new((plan, watches)));
            }
        }
    }

    /// Ends the turn of what is in force, and gives the next.
    pub(crate) fn next(&mut self, in_force: &[Watch], hits: u64) -> (WatchPlan, Vec<Watch>) {
        self.choose(in_force);
        let turn = hits.saturating_sub(self.began);
        for set in &mut self.sets {
            for watch in &mut set.watches {
                if let Some(current) = in_force.iter().find(|current| current.names == watch.names) {
                    watch.hits.store(current.hits(), std::sync::atomic::Ordering::Relaxed);
                }
            }
        }
        if let Some(set) = self.sets.get_mut(self.now) {
            set.hits += turn;
        }
        self.began = hits;
        self.now = (self.now + 1) % self.sets.len().max(1);
        self.sets.get_mut(self.now).map_or_else(Default::default, |set| {
            set.turns += 1;
            (set.plan.clone(), set.watches.clone())
        })
    }

    /// Whether an export is watched in one of the turns.
    pub(crate) fn watch(&self, routine: &str) -> bool {
        let named = |watch: &Watch| watch.names.iter().any(|name| name == routine);
        self.sets.iter().any(|set| set.watches.iter().any(named)) || self.to_come().any(named)
    }

    /// Whether a set leaves an export out that another one watches.
    pub(crate) fn rests(&self, routine: &str) -> bool {
        let lacks = |watches: &[Watch]| {
            let mut names = watches.iter().flat_map(|watch| &watch.names);
            !names.any(|name| name == routine)
        };
        let later = self.rotations.iter().flat_map(|(_, later)| later);
        self.sets.iter().any(|set| lacks(&set.watches)) || later.into_iter().any(|(_, watches)| lacks(watches))
    }

    /// What is in the rotations of which one will be taken.
    fn to_come(&self) -> impl Iterator<Item = &Watch> {
        let sets = self.rotations.iter().flat_map(|(_, later)| later);
        sets.flat_map(|(_, watches)| watches)
    }

    /// The exports that no turn so far has watched, each once.
    pub(crate) fn not_yet(&self) -> Vec<String> {
        let (had, waiting): (Vec<&Set>, Vec<&Set>) = self.sets.iter().partition(|set| set.turns > 0);
        let waiting = waiting.into_iter().flat_map(|set| &set.watches).chain(self.to_come());
        let seen = |watch: &&Watch| {
            let mut watched = had.iter().flat_map(|set| &set.watches);
            watched.any(|other| other.breakpoint.address == watch.breakpoint.address)
        };
        let waiting = once_each(waiting.filter(|watch| !seen(watch)));
        waiting.filter_map(|watch| watch.names.first().cloned()).collect()
    }

    /// The exports that are not watched now, each once.
    pub(crate) fn resting(&self) -> impl Iterator<Item = &Watch> {
        let others = self.sets.iter().enumerate().filter(|(index, _)| *index != self.now);
        once_each(others.flat_map(|(_, set)| &set.watches))
    }

    /// What was seen in each set, for the report.
    pub(crate) fn list(&self, in_force: &[Watch]) -> Vec<WatchedSet> {
        let sets = self.sets.iter().enumerate();
        let told = sets.map(|(index, set)| {
            let watches = if index == self.now { in_force } else { &set.watches };
            WatchedSet {
                routines: watches
                    .iter()
                    .filter_map(|watch| watch.names.first().cloned())
                    .collect(),
                turns: set.turns,
                hits: set.hits,
            }
        });
        told.collect()
    }

    /// The exports that were watched in some turns only, each once, with their share of the hits; none before a turn has
    /// ended.
    pub(crate) fn shares(&self) -> Vec<Share> {
        let all: u64 = self.sets.iter().map(|set| set.hits).sum();
        let mut shares: Vec<Share> = Vec::new();
        for watch in self.sets.iter().flat_map(|set| &set.watches) {
            let (Some(routine), address) = (watch.names.first(), watch.breakpoint.address) else {
                continue;
            };
            let has = |set: &&Set| set.watches.iter().any(|other| other.breakpoint.address == address);
            let hits: u64 = self.sets.iter().filter(has).map(|set| set.hits).sum();
            if self.sets.iter().all(|set| has(&set)) || shares.iter().any(|share| share.routine == *routine) {
                continue;
            }
            shares.push(Share {
                routine: routine.clone(),
                percent: (hits * 100).checked_div(all).unwrap_or(0) as u8,
            });
        }
        shares
    }

    /// The run is over after this many hits: counts the turn that has not ended.
    pub(crate) fn end(&mut self, hits: u64) {
        if let Some(set) = self.sets.get_mut(self.now) {
            set.hits += hits.saturating_sub(self.began);
            self.began = hits;
        }
    }
}

/// The first of the exports of each name.
fn once_each<'a>(watches: impl Iterator<Item = &'a Watch>) -> impl Iterator<Item = &'a Watch> {
    let mut seen: Vec<&str> = Vec::new();
    watches.filter(move |watch| {
        let name = watch.names.first().map_or("", String::as_str);
        let new = !seen.contains(&name);
        seen.extend(new.then_some(name));
        new
    })
}
