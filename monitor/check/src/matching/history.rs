//! The last events of a lock.

use serde::{Deserialize, Serialize};

use crate::contract::Routine;
use crate::event::Context;
use crate::finding::{HistoryEntry, PriorCall, Step};

/// Events of a lock of the driver under test that are kept.
pub const HISTORY: usize = 8;
/// The same for other locks.
const OTHERS: usize = 2;

/// The last events of a lock, in a ring inside of the lock: a lock of a large table costs as few lines of memory as may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub(crate) struct History {
    /// Entries that are filled in.
    len: u8,
    /// Where the next event goes once the ring is full.
    next: u8,
    evicted: u64,
    ring: [Entry; HISTORY],
}

/// A [`HistoryEntry`] without the gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    sequence: u64,
    thread: u64,
    stack_pointer: u64,
    return_address: u64,
    processor: u32,
    routine: Routine,
    step: Step,
    irql: u8,
    interrupts: bool,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            sequence: 0,
            thread: 0,
            stack_pointer: 0,
            return_address: 0,
            processor: 0,
            routine: Routine::KeAcquireSpinLockRaiseToDpc,
            step: Step::Unknown,
            irql: 0,
            interrupts: false,
        }
    }
}

impl Entry {
    const fn new(call: &PriorCall, step: Step) -> Self {
        Self {
            sequence: call.sequence,
            thread: call.context.thread,
            stack_pointer: call.context.stack_pointer,
            return_address: call.context.return_address,
            processor: call.context.processor,
            routine: call.routine,
            step,
            irql: call.context.irql,
            interrupts: call.context.interrupts,
        }
    }

    const fn told(&self) -> HistoryEntry {
        HistoryEntry {
            call: PriorCall {
                sequence: self.sequence,
                routine: self.routine,
                context: Context {
                    processor: self.processor,
                    irql: self.irql,
                    interrupts: self.interrupts,
                    thread: self.thread,
                    stack_pointer: self.stack_pointer,
                    return_address: self.return_address,
                },
            },
            step: self.step,
        }
    }
}

impl History {
    /// Adds an event. True if an older one had to go.
    pub(crate) fn push(&mut self, call: &PriorCall, step: Step, target: bool) -> bool {
        let entry = Entry::new(call, step);
        let limit = if target { HISTORY } else { OTHERS };
        let len = usize::from(self.len).min(HISTORY);
        if len < limit {
            // The ring may have been full at a smaller limit: then it is put in order first.
            if self.next != 0 {
                self.ring[..len].rotate_left(usize::from(self.next).min(len));
                self.next = 0;
            }
            self.ring[len] = entry;
            self.len += 1;
            return false;
        }
        let place = usize::from(self.next) % len;
        self.ring[place] = entry;
        self.next = ((place + 1) % len) as u8;
        self.evicted += 1;
        true
    }

    /// The events kept, youngest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = HistoryEntry> {
        let kept = &self.ring[..usize::from(self.len).min(HISTORY)];
        let (young, old) = kept.split_at(usize::from(self.next).min(kept.len()));
        young.iter().rev().chain(old.iter().rev()).map(Entry::told)
    }

    /// Events that are no longer kept.
    pub(crate) const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Reads something of each line of memory: see `LockState::fetch`.
    pub(crate) fn fetch(&self) -> u64 {
        self.ring.iter().fold(self.evicted, |all, entry| all ^ entry.sequence)
    }

    /// Another lock begins.
    pub(crate) fn clear(&mut self) {
        (self.len, self.next, self.evicted) = (0, 0, 0);
    }
}
