//! What a checker knows of locks at this moment, for whoever looks at a stopped guest. Changes nothing.

use crate::checker::Checker;
use crate::contract::contract;
use crate::event::{Context, DISPATCH_LEVEL, LockCall};
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

    /// Acquires of which only the thread's stack can tell whether they have come back, each with its sequence number: the
    /// thread entered them below `DISPATCH_LEVEL`, and `now` runs at or above it, deeper on the same stack. That may be an
    /// interrupt that came in before the routine raised the IRQL.
    pub fn unproved_of(&self, now: &Context) -> impl Iterator<Item = (u64, LockCall)> + use<'_> {
        let now = *now;
        let raised = now.irql >= DISPATCH_LEVEL && now.thread != 0;
        let thread = self.threads.get(&now.thread).filter(|_| raised);
        let open = thread.into_iter().flat_map(|thread| &thread.open.0);
        open.filter_map(move |(open, _)| {
            let lock = *self.locks.key_at(open.place)?;
            let mut records = self.locks.at(open.place)?.records.iter();
            let record = records.find(|record| record.call.sequence == open.call.sequence)?;
            let entered = &record.call.context;
            let asked = record.held_since.is_none()
                && !contract(record.call.routine).result.may_fail()
                && record.same_stack(&now)
                && now.stack_pointer < entered.stack_pointer;
            asked.then(|| (record.call.sequence, record.as_call(lock)))
        })
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
