//! Sets of breakpoints that take turns during the run, if the driver may need more breakpoints than there are.
//!
//! A turn ends after a number of hits, not after a time, so that a recording replays the same turns. Talks to the plan.
//! It must not know how breakpoints are set, nor what the checker makes of the change.

use super::watching::Watch;
use crate::report::WatchedSet;
use crate::watch::WatchPlan;

/// Hits of one turn.
const TURN: u64 = 1024;
/// Hits of a set's first turn, so that each set has had one in a short run, too. Each later turn of it has twice as many, up
/// to [`TURN`].
const FIRST_TURN: u64 = 128;

/// The name of an export by whose calls turns are counted, and the sets after the first.
pub(crate) type Rotation = (String, Vec<(WatchPlan, Vec<Watch>)>);

/// The sets, of which one is in force.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    sets: Vec<Set>,
    /// Those that may follow the first. Empty once it is known which export of the first is called most.
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
    pub(crate) fn is_over(&self, hits: u64) -> bool {
        let Some(set) = self.sets.get(self.now) else {
            return false;
        };
        let doublings = set.turns.saturating_sub(1).min(u64::from(TURN.ilog2()));
        hits.saturating_sub(self.began) >= (FIRST_TURN << doublings).min(TURN)
    }

    /// Takes the rotation whose clock has most hits: its turns come to their end. Of equals it is the first, so that a
    /// recording takes the same.
    fn choose(&mut self, in_force: &[Watch]) {
        let hits = |(clock, _): &Rotation| {
            let clock = in_force.iter().find(|watch| watch.names.contains(clock));
            clock.map_or(0, Watch::hits)
        };
        let rotations = std::mem::take(&mut self.rotations);
        if let Some((_, later)) = rotations.into_iter().rev().max_by_key(hits) {
            self.sets.extend(later.into_iter().map(Set::new));
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
