//! The part of the checker's state that is not about one lock: processors, the watch, what was found.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::state::{Processor, Range};
use super::{Limits, Statistics};
use crate::contract::RoutineSet;
use crate::event::{Context, WatchSet};
use crate::identity::LockIdentity;
use crate::rules::Violation;

/// What is saved besides locks and handles.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Core {
    pub(super) limits: Limits,
    pub(super) processors: Vec<Processor>,
    /// Processors that have yet to be seen below `DISPATCH_LEVEL` since the past became unknown.
    pub(super) unseen: u32,
    pub(super) watch: WatchSet,
    /// Calls older than the watch are possible.
    pub(super) late: bool,
    /// Threads that have entered a StorPort or interrupt acquire from below `DISPATCH_LEVEL`; kept only if `late`.
    pub(super) threads: HashSet<u64>,
    pub(super) targets: Vec<Range>,
    pub(super) last_sequence: Option<u64>,
    /// Lock words were seen to be set while held; `Some(false)`: seen to be clear while held.
    pub(super) words: Option<bool>,
    pub(super) recent: Recent,
    pub(super) statistics: Statistics,
    pub(super) violations: Vec<Violation>,
    pub(super) fingerprints: HashMap<u64, usize>,
    /// Records that were added to locks since what all locks hold was last counted.
    pub(super) grown: usize,
}

/// Bytes of a kernel stack: addresses this far apart are not on the same one.
pub(super) const STACK: u64 = 0x6000;

/// The youngest acquires of all locks, in a ring.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Recent {
    ring: Vec<RecentAcquire>,
    next: usize,
}

/// An acquire, open or not.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct RecentAcquire {
    pub(super) lock: LockIdentity,
    pub(super) sequence: u64,
    processor: u32,
    thread: u64,
    stack_pointer: u64,
}

impl Recent {
    const SIZE: usize = 64;

    pub(super) fn push(&mut self, lock: LockIdentity, sequence: u64, context: &Context) {
        let entry = RecentAcquire {
            lock,
            sequence,
            processor: context.processor,
            thread: context.thread,
            stack_pointer: context.stack_pointer,
        };
        if self.ring.len() < Self::SIZE {
            self.ring.push(entry);
        } else {
            self.ring[self.next] = entry;
            self.next = (self.next + 1) % Self::SIZE;
        }
    }

    /// The acquires, youngest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = &RecentAcquire> {
        let (young, old) = (&self.ring[..self.next], &self.ring[self.next..]);
        young.iter().rev().chain(old.iter().rev())
    }

    /// Whether the thread, or its processor, has certainly acquired nothing after an event from `floor` or further out
    /// on its stack. What lies deeper may be an interrupt's.
    pub(super) fn none_since(&self, sequence: u64, context: &Context, floor: u64) -> bool {
        let all_there = self.ring.len() < Self::SIZE || self.ring.iter().any(|entry| entry.sequence <= sequence);
        all_there
            && !self.ring.iter().any(|entry| {
                entry.sequence > sequence
                    && (entry.processor == context.processor || entry.thread == context.thread)
                    && entry.stack_pointer.wrapping_sub(floor) < STACK
            })
    }
}

impl Core {
    /// Locks may be held, or about to be taken, by calls that this checker has not seen or has forgotten.
    pub(super) fn past_unknown(&mut self) {
        for processor in &mut self.processors {
            processor.seen_low = false;
        }
        self.unseen = self.watch.processors.max(1);
        self.late = true;
        self.threads.clear();
    }

    /// A place of the driver under test; every place is, as long as no module was said to be it.
    pub(super) fn is_target(&self, address: u64) -> bool {
        self.targets.is_empty() || self.targets.iter().any(|range| range.contains(address))
    }

    /// A place in a module that was said to be the driver under test.
    pub(super) fn is_declared_target(&self, address: u64) -> bool {
        self.targets.iter().any(|range| range.contains(address))
    }

    /// Remembers a module of the driver under test.
    pub(super) fn add_target(&mut self, range: Range) {
        if self.targets.len() < self.limits.names.min(64) {
            self.targets.push(range);
        }
    }

    /// Every processor has been below `DISPATCH_LEVEL`: no hold is older than what the checker knows.
    pub(super) const fn known(&self) -> bool {
        self.unseen == 0
    }

    /// Whether all of `needed` are watched that can matter to a lock.
    pub(super) const fn watches(&self, needed: RoutineSet, target: bool) -> bool {
        let needed = if target {
            needed.intersection(self.watch.imported)
        } else {
            needed
        };
        self.watch.watched.contains_all(needed)
    }
}
