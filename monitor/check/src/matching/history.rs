//! The last events of a lock.

use serde::{Deserialize, Serialize};

use crate::finding::{HistoryEntry, PriorCall, Step};

/// Events of a lock of the driver under test that are kept.
pub const HISTORY: usize = 8;
/// The same for other locks.
const OTHERS: usize = 2;

/// The last events of a lock, in a ring that grows to its limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct History {
    ring: Vec<HistoryEntry>,
    /// Where the next event goes once the ring is full.
    next: u32,
    evicted: u64,
}

impl History {
    /// Adds an event. True if an older one had to go.
    pub(crate) fn push(&mut self, call: PriorCall, step: Step, target: bool) -> bool {
        let entry = HistoryEntry { call, step };
        let limit = if target { HISTORY } else { OTHERS };
        if self.ring.len() < limit {
            // The ring may have been full at a smaller limit: then it is put in order first.
            if self.next != 0 {
                self.ring.rotate_left(self.next as usize);
                self.next = 0;
            }
            if self.ring.len() == self.ring.capacity() {
                self.ring.reserve_exact(limit - self.ring.len());
            }
            self.ring.push(entry);
            return false;
        }
        let place = self.next as usize % self.ring.len();
        self.ring[place] = entry;
        self.next = ((place + 1) % self.ring.len()) as u32;
        self.evicted += 1;
        true
    }

    /// The events kept, youngest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &HistoryEntry> {
        let (young, old) = self.ring.split_at((self.next as usize).min(self.ring.len()));
        young.iter().rev().chain(old.iter().rev())
    }

    /// Events that are no longer kept.
    pub(crate) const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Another lock begins.
    pub(crate) fn clear(&mut self) {
        self.ring.clear();
        self.next = 0;
        self.evicted = 0;
    }
}
