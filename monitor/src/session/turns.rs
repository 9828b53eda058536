//! Sets of breakpoints that take turns during the run, if the driver may need more breakpoints than there are.
//!
//! A turn ends after a number of hits, not after a time, so that a recording replays the same turns. Talks to the plan.
//! It must not know how breakpoints are set, nor what the checker makes of the change.

use super::watching::Watch;
use crate::report::WatchedSet;
use crate::watch::WatchPlan;

/// Hits of one turn.
const TURN: u64 = 1024;

/// The sets, of which one is in force.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    sets: Vec<Set>,
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

impl Turns {
    /// Begins with the first set in force; if `later` is empty it is the only one.
    pub(crate) fn new(plan: &WatchPlan, watches: &[Watch], later: Vec<(WatchPlan, Vec<Watch>)>) -> Self {
        if later.is_empty() {
            return Self::default();
        }
        let first = (plan.clone(), watches.to_vec());
        let set = |(plan, watches)| Set {
            plan,
            watches,
            turns: 0,
            hits: 0,
        };
        let mut sets: Vec<Set> = std::iter::once(first).chain(later).map(set).collect();
        if let Some(first) = sets.first_mut() {
            first.turns = 1;
        }
        Self { sets, now: 0, began: 0 }
    }

    /// Whether the turn is over, after so many hits in all.
    pub(crate) fn is_over(&self, hits: u64) -> bool {
        !self.sets.is_empty() && hits.saturating_sub(self.began) >= TURN
    }

    /// Ends the turn of what is in force, and gives the next.
    pub(crate) fn next(&mut self, in_force: &[Watch], hits: u64) -> (WatchPlan, Vec<Watch>) {
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
        self.sets.iter().any(|set| set.watches.iter().any(named))
    }

    /// The exports that are not watched now, each once.
    pub(crate) fn resting(&self) -> impl Iterator<Item = &Watch> {
        let others = self.sets.iter().enumerate().filter(|(index, _)| *index != self.now);
        let mut seen: Vec<&str> = Vec::new();
        others.flat_map(|(_, set)| &set.watches).filter(move |watch| {
            let name = watch.names.first().map_or("", String::as_str);
            let new = !seen.contains(&name);
            if new {
                seen.push(name);
            }
            new
        })
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
