//! What the checker remembers: plain data, so that it can be saved.

use serde::{Deserialize, Serialize};

use crate::contract::{Routine, contract};
use crate::event::{Context, DISPATCH_LEVEL, LockCall};
use crate::identity::{HandleKey, LockIdentity};
use crate::rules::{HistoryEntry, PriorCall, Step};
use crate::table::Evict;

/// Events of a lock that are kept.
pub const HISTORY: usize = 8;

/// An acquire whose release has not been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The call.
    pub call: PriorCall,
    /// Address of the handle, 0 if there is none.
    pub handle: u64,
    /// Sequence number of the event that proved the acquire to have come back with the lock; `None`: an attempt.
    pub held_since: Option<u64>,
    /// Processor on which it did.
    pub holder: u32,
    /// A conversion from shared to exclusive was tried and its result not seen.
    pub maybe_converted: bool,
    /// Sequence number of an open acquire that may have made this one to do its work. If that one ends first, it did.
    pub nested_in: Option<u64>,
}

impl Record {
    /// A new attempt.
    pub(crate) const fn new(call: PriorCall, handle: u64) -> Self {
        Self {
            call,
            handle,
            held_since: None,
            holder: call.context.processor,
            maybe_converted: false,
            nested_in: None,
        }
    }

    /// Entered at `DISPATCH_LEVEL` or above: it cannot leave its processor and belongs to that; else to the thread.
    pub(crate) const fn bound_to_processor(&self) -> bool {
        self.call.context.irql >= DISPATCH_LEVEL
    }

    /// Whether `context` can be the one that made this acquire.
    pub(crate) const fn same_agent(&self, context: &Context) -> bool {
        if self.bound_to_processor() {
            self.call.context.processor == context.processor
        } else {
            self.call.context.thread == context.thread
        }
    }

    /// Whether a call comes out of the very routine of this acquire: it is deeper in the stack, or was reached by a
    /// jump from it. A DPC that interrupts the routine can look the same, if it runs on the stack of its thread.
    fn encloses(&self, call: &LockCall) -> Nesting {
        let (outer, inner) = (&self.call.context, &call.context);
        let possible = self.held_since.is_none()
            && contract(self.call.routine).may_call.contains(call.routine)
            && outer.thread == inner.thread
            && within(outer, inner);
        let handle = HandleKey::of(&call.operand).map_or(0, HandleKey::address);
        if !possible || handle != self.handle {
            Nesting::None
        } else if handle != 0 || outer.stack_pointer - inner.stack_pointer <= SMALLEST_INTERRUPT {
            Nesting::Certain
        } else {
            Nesting::Possible(self.call.sequence)
        }
    }

    /// Whether code that runs as `context` on the record's processor proves that the acquire has come back.
    pub(crate) fn returned_by(&self, context: &Context) -> bool {
        let entered = &self.call.context;
        let leaf = contract(self.call.routine).may_call.is_empty()
            && !matches!(
                self.call.routine,
                Routine::StorPortAcquireSpinLock | Routine::StorPortAcquireMSISpinLock
            );
        context.irql >= DISPATCH_LEVEL && context.irql <= entered.irql && (leaf || !within(entered, context))
    }
}

/// An interrupt that leads to a DPC pushes more than this many bytes before the DPC can call anything: the processor's
/// frame (40), the registers that a call may change (56), and three calls with their home space (120).
pub(crate) const SMALLEST_INTERRUPT: u64 = 0x80;

/// Whether an acquire was made by another one to do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nesting {
    /// No.
    None,
    /// It may be that of the acquire with this sequence number.
    Possible(u64),
    /// Yes.
    Certain,
}

impl Nesting {
    /// The acquire that it may belong to.
    pub(crate) const fn outer(self) -> Option<u64> {
        match self {
            Self::Possible(outer) => Some(outer),
            Self::None | Self::Certain => None,
        }
    }
}

/// Whether `inner` is a frame below `outer`, or has taken its place by a tail call.
pub(crate) const fn within(outer: &Context, inner: &Context) -> bool {
    inner.stack_pointer < outer.stack_pointer
        || (inner.stack_pointer == outer.stack_pointer && inner.return_address == outer.return_address)
}

/// One lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LockState {
    /// Acquires without a release, oldest first.
    pub records: Vec<Record>,
    /// Releases that are being worked on, one a processor at most: their routines may call others to do it.
    pub releasing: Vec<PriorCall>,
    /// A wrong release has upset the lock: what its records say of who holds it is not to be trusted.
    pub disturbed: bool,
    /// The driver under test has touched it.
    pub target: bool,
    /// Last events.
    pub history: History,
}

impl Evict for LockState {
    fn idle(&self) -> bool {
        self.records.is_empty()
    }
}

impl LockState {
    /// Whether a release does the work of another that the same processor has begun. Ends that in either case.
    pub(crate) fn in_release(&mut self, call: &LockCall) -> bool {
        let context = &call.context;
        let Some(place) = self
            .releasing
            .iter()
            .position(|outer| outer.context.processor == context.processor)
        else {
            return false;
        };
        let outer = self.releasing.swap_remove(place);
        contract(outer.routine).may_call.contains(call.routine)
            && outer.context.thread == context.thread
            && outer.context.irql == context.irql
            && within(&outer.context, context)
            && outer.context.stack_pointer - context.stack_pointer <= SMALLEST_INTERRUPT
            && call.word != Some(0)
    }

    /// Whether an acquire does the work of another that is open.
    pub(crate) fn nesting(&self, call: &LockCall) -> Nesting {
        let mut candidates = self.records.iter().rev().map(|record| record.encloses(call));
        candidates
            .find(|nesting| *nesting != Nesting::None)
            .unwrap_or(Nesting::None)
    }

    /// Records and releases that are kept, after giving back the room of those that were.
    pub(crate) fn shrink(&mut self) -> usize {
        self.records.shrink_to_fit();
        self.releasing.shrink_to_fit();
        self.records.len() + self.releasing.len()
    }

    /// An acquire has come back or is over: those that it made are no holds of their own.
    pub(crate) fn end_nested(&mut self, outer: u64) {
        self.records.retain(|record| record.nested_in != Some(outer));
    }

    /// Place of the youngest record that a release by `context` can belong to. One that is certainly held goes first
    /// (a try before it must have failed, an attempt below it is still waiting), then one that the release belongs to.
    pub(crate) fn match_release(
        &self,
        release: Routine,
        own: impl Fn(&Record) -> bool,
        certain: impl Fn(&Record) -> bool,
    ) -> Option<usize> {
        let rank = |record: &Record| 2 * u8::from(certain(record)) + u8::from(fits(release, record));
        // Of equals, the last one.
        (0..self.records.len())
            .filter(|&place| own(&self.records[place]))
            .max_by_key(|&place| rank(&self.records[place]))
    }
}

/// Whether a release belongs to the routine of a record.
pub(crate) fn fits(release: Routine, record: &Record) -> bool {
    let feeders = contract(release).fed_by;
    feeders.contains(record.call.routine)
        || (record.maybe_converted && feeders.contains(Routine::ExTryConvertSharedSpinLockExclusive))
}

/// The last events of a lock, in a ring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct History {
    ring: [Option<HistoryEntry>; HISTORY],
    count: u64,
}

impl History {
    /// Adds an event. True if an older one had to go.
    pub(crate) fn push(&mut self, call: PriorCall, step: Step) -> bool {
        let place = (self.count % HISTORY as u64) as usize;
        self.ring[place] = Some(HistoryEntry { call, step });
        self.count += 1;
        self.count > HISTORY as u64
    }

    /// The events kept, youngest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &HistoryEntry> {
        let start = self.count % HISTORY as u64;
        (1..=HISTORY as u64)
            .map_while(move |back| self.ring[((start + HISTORY as u64 - back) % HISTORY as u64) as usize].as_ref())
    }

    /// Events that are no longer kept.
    pub(crate) const fn evicted(&self) -> u64 {
        self.count.saturating_sub(HISTORY as u64)
    }
}

/// What a handle was last used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Binding {
    /// The lock.
    pub lock: LockIdentity,
    /// Sequence number of the acquire.
    pub acquire: u64,
    /// Not released yet.
    pub open: bool,
    /// Sequence number of the release that belonged to the acquire.
    pub released: Option<u64>,
}

impl Evict for Binding {
    fn idle(&self) -> bool {
        !self.open
    }
}

/// One processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Processor {
    /// Sequence number of the last event that saw it below `DISPATCH_LEVEL`.
    pub last_low: Option<u64>,
    /// Seen below `DISPATCH_LEVEL` since the past became unknown.
    pub seen_low: bool,
    /// Acquires entered at `DISPATCH_LEVEL` or above whose return is not proved yet: the lock's place in the table, and
    /// the sequence number of the call. They nest, so there are few.
    pub attempts: Vec<(u32, u64)>,
}

impl Processor {
    /// Proofs that can be due at the same time; older ones are given up.
    const ATTEMPTS: usize = 16;

    /// Adds an acquire that will have to prove its return.
    pub(crate) fn attempt(&mut self, place: u32, sequence: u64) {
        if self.attempts.len() >= Self::ATTEMPTS {
            self.attempts.remove(0);
        }
        self.attempts.push((place, sequence));
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    pub base: u64,
    pub size: u64,
}

impl Range {
    /// Whether an address lies in it.
    pub(crate) const fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.base) < self.size
    }
}
