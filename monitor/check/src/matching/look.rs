//! What a checker knows of locks at this moment, for whoever looks at a stopped guest. Changes nothing.

use crate::checker::Checker;
use crate::finding::{HistoryEntry, PriorCall};
use crate::identity::LockIdentity;

/// An acquire without a release so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenAcquire {
    /// The lock.
    pub lock: LockIdentity,
    /// The call.
    pub call: PriorCall,
    /// The call is known to have come back with the lock; otherwise it may still be waiting for it.
    pub held: bool,
    /// Processor on which it was made, or on which it came back.
    pub processor: u32,
}

impl Checker {
    /// All open acquires, oldest first.
    #[must_use]
    pub fn open_acquires(&self) -> Vec<OpenAcquire> {
        let mut list: Vec<OpenAcquire> = self
            .locks
            .iter()
            .flat_map(|(lock, state)| {
                state.records.iter().map(|record| OpenAcquire {
                    lock: *lock,
                    call: record.call,
                    held: record.held_since.is_some(),
                    processor: record.holder,
                })
            })
            .collect();
        list.sort_by_key(|open| open.call.sequence);
        list
    }

    /// The last events of a lock, latest first.
    #[must_use]
    pub fn history_of(&self, lock: &LockIdentity) -> Vec<HistoryEntry> {
        let state = self.locks.get(lock);
        state
            .map(|state| state.history.newest_first().collect())
            .unwrap_or_default()
    }

    /// The locks that lie at an address or belong to the adapter there, each with its last events, latest first.
    #[must_use]
    pub fn history_at(&self, address: u64) -> Vec<(LockIdentity, Vec<HistoryEntry>)> {
        let there = self.locks.iter().filter(|(lock, _)| lock.address() == Some(address));
        let mut list: Vec<_> = there
            .map(|(lock, state)| (*lock, state.history.newest_first().collect()))
            .collect();
        list.sort_by_key(|(lock, _)| *lock);
        list
    }
}
