//! What is remembered of locks, handles and of the agents that hold them: plain data, so that it can be saved.

use serde::{Deserialize, Serialize};

use super::history::History;
use super::order::Node;
use super::record::{Nesting, Open, Record, fits};
use super::records::Records;
use crate::contract::{RoutineSet, contract};
use crate::event::{Context, LockCall};
use crate::finding::PriorCall;
use crate::identity::LockIdentity;
use crate::table::{Evict, Rank};

/// Open acquires of a lock of other modules that are kept.
const RECORDS_OF_OTHERS: usize = 4;

/// One lock, in its present generation: that begins when nobody holds it and another module takes it into use.
///
/// Laid out in this order: most events touch what is in front, and one entry of the history.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub(crate) struct LockState {
    /// A wrong release has upset the lock: what its records say of who holds it is not to be trusted.
    pub disturbed: bool,
    /// The driver under test has touched it.
    pub target: bool,
    /// It was once free, or taken, against what was recorded of it.
    pub contradicted: bool,
    /// An acquire of it has been forgotten.
    pub lost: bool,
    /// Its word was seen to be set while it was held; `Some(false)`: seen to be clear while held.
    pub words: Option<bool>,
    /// What it is in the order of locks.
    #[serde(default)]
    pub node: Node,
    /// Sequence number of the last release, of whatever kind.
    pub(crate) last_release: u64,
    /// Whoever held it last when it was seen to be free, and has not called anything with it since.
    #[serde(default)]
    pub(crate) dispossessed: Option<Agent>,
    /// Acquires without a release, oldest first.
    pub records: Records,
    /// Last events.
    pub history: History,
}

/// Who made an acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Agent {
    /// A thread, by its address.
    Thread(u64),
    /// A processor, at `DISPATCH_LEVEL` or above.
    Processor(u32),
}

impl Agent {
    /// Whether code that runs as `context` is certainly that. A thread that could not be read (0) is none for certain.
    pub(crate) const fn is(self, context: &Context) -> bool {
        match self {
            Self::Thread(thread) => thread == context.thread && thread != 0,
            Self::Processor(processor) => processor == context.processor,
        }
    }

    /// Whether code that runs as `context` can be that.
    pub(crate) const fn may_be(self, context: &Context) -> bool {
        match self {
            Self::Thread(thread) => may_be_thread(thread, context.thread),
            Self::Processor(processor) => processor == context.processor,
        }
    }
}

/// Whether two threads can be one: 0 is a thread that could not be read.
pub(crate) const fn may_be_thread(one: u64, other: u64) -> bool {
    one == other || one == 0 || other == 0
}

impl Evict for LockState {
    fn rank(&self) -> Rank {
        Rank::of(!self.records.is_empty(), self.target)
    }
}

impl LockState {
    /// Asks for all of it at once: where the locks do not fit into the processor's caches, that is one wait in place of one
    /// after another.
    pub(crate) fn fetch(&self) {
        std::hint::black_box(self.last_release ^ self.records.len() as u64 ^ self.history.fetch());
    }

    /// Begins a new generation.
    pub(crate) fn begin(&mut self) {
        self.history.clear();
        self.disturbed = false;
        self.target = false;
        self.contradicted = false;
        self.lost = false;
        self.words = None;
        self.dispossessed = None;
        self.node = 0;
    }

    /// Drops the holds that are over although their release was not seen: all that are proved but those that `stays`.
    /// How many of them were of the driver under test.
    pub(crate) fn drop_holds(&mut self, stays: impl Fn(&Record) -> bool) -> u64 {
        let before = self.records.len();
        let lost = self.records.iter().rfind(|record| !stays(record));
        self.dispossessed = lost.map(Record::agent).or(self.dispossessed);
        let target = self.forget(stays);
        self.contradicted |= self.records.len() < before && !self.disturbed;
        target
    }

    /// Whether nothing was seen since an acquire that could have ended its hold.
    pub(crate) fn is_untouched_since(&self, record: &Record) -> bool {
        self.last_release < record.call.sequence
            && !self.disturbed
            && !self.contradicted
            && !self.lost
            && self.words != Some(false)
    }

    /// Whether somebody else than `context` of the driver under test has an acquire open that cannot have failed, and that
    /// has found the lock free.
    pub(crate) fn taken_by_other(&self, context: &Context) -> bool {
        let sure = |record: &Record| record.held_since.is_some() || !contract(record.call.routine).result.may_fail();
        let mut records = self.records.iter();
        records.any(|record| record.target && record.free && !record.over && sure(record) && !record.may_be_of(context))
    }

    /// Whether somebody else than those of its open acquires finds the lock free, and none of these is known to have come
    /// back: the lock may be another one by now, in the same memory.
    pub(crate) fn is_taken_over(&self, call: &LockCall) -> bool {
        let stranger = |record: &Record| record.held_since.is_none() && !record.may_be_of(&call.context);
        call.word == Some(0) && self.records.iter().all(stranger)
    }

    /// Drops acquires that are over in a way that was not seen. How many of them were of the driver under test.
    pub(crate) fn forget(&mut self, stays: impl Fn(&Record) -> bool) -> u64 {
        let mut target = 0;
        self.records.retain(|record| {
            let stay = stays(record);
            target += u64::from(!stay && record.target);
            stay
        });
        target
    }

    /// Open acquires of the driver under test that are no part of another one.
    pub(crate) fn held_by_target(&self) -> u64 {
        let own = self
            .records
            .iter()
            .filter(|record| record.target && record.nested_in.is_none());
        own.count() as u64
    }

    /// Adds an open acquire. Returns the one that had to be forgotten for it.
    pub(crate) fn open(&mut self, record: Record, limit: usize) -> Option<Record> {
        let limit = if self.target {
            limit.max(1)
        } else {
            limit.clamp(1, RECORDS_OF_OTHERS)
        };
        let full = self.records.len() >= limit;
        let forgotten = full.then(|| self.records.remove(0));
        self.lost |= full && self.target;
        self.records.push(record);
        forgotten
    }

    /// The record of an acquire.
    pub(crate) fn record(&mut self, sequence: u64) -> Option<&mut Record> {
        self.records.iter_mut().rfind(|record| record.call.sequence == sequence)
    }

    /// The youngest open acquire of whoever runs as `context`; if none is for certain, the youngest that may be.
    pub(crate) fn record_of(&mut self, context: &Context) -> Option<&mut Record> {
        let certain = self.records.iter().rposition(|record| record.same_agent(context));
        let place = certain.or_else(|| self.records.iter().rposition(|record| record.may_be_of(context)))?;
        self.records.get_mut(place)
    }

    /// Whether an acquire does the work of another that is open.
    /// `driver`: the call returns into the driver under test.
    pub(crate) fn nesting(&self, call: &LockCall, driver: bool) -> Nesting {
        let mut candidates = self.records.iter().rev().map(|record| record.encloses(call, driver));
        candidates
            .find(|nesting| *nesting != Nesting::None)
            .unwrap_or(Nesting::None)
    }

    /// An acquire has come back or is over: those that it made are no holds of their own.
    pub(crate) fn end_nested(&mut self, outer: u64) {
        self.records.retain(|record| record.nested_in != Some(outer));
    }

    /// Place of the record that a release by `context` can belong to. One that is certainly held goes first (a try before
    /// it must have failed, an attempt below it is still waiting), then one that the release belongs to, then one from
    /// about the same place in the stack; of equals, the youngest.
    pub(crate) fn match_release(
        &self,
        release: RoutineSet,
        context: &Context,
        own: impl Fn(&Record) -> bool,
        certain: impl Fn(&Record) -> bool,
    ) -> Option<usize> {
        let rank = |record: &Record| {
            let distance = record.call.context.stack_pointer.abs_diff(context.stack_pointer);
            (
                certain(record),
                fits(release, record),
                record.same_stack(context),
                // Frames this close are taken to be the same function's.
                std::cmp::Reverse(distance / 0x400),
            )
        };
        (0..self.records.len())
            .filter(|&place| own(&self.records[place]))
            .max_by_key(|&place| rank(&self.records[place]))
    }

    /// The record at a place was taken for the one that a release belongs to, and is not certain: others of the same
    /// caller may have been meant.
    pub(crate) fn doubt_others(&mut self, place: usize, context: &Context) {
        for (other, record) in self.records.iter_mut().enumerate() {
            record.doubtful |= other != place && record.held_since.is_none() && record.owned_by(context);
        }
    }
}

/// What a handle was last used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Binding {
    /// The lock.
    pub lock: LockIdentity,
    /// The acquire.
    pub acquire: PriorCall,
    /// What became of the acquire.
    pub state: Bound,
    /// Sequence number of the release that belonged to the acquire.
    pub released: Option<u64>,
    /// It is the driver's under test.
    pub target: bool,
}

/// What became of the acquire of a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Bound {
    /// Not released yet.
    Open,
    /// Over.
    Over,
    /// It was refused.
    Refused,
    /// It took nothing.
    Nothing,
}

impl Evict for Binding {
    fn rank(&self) -> Rank {
        Rank::of(self.state == Bound::Open, self.target)
    }
}

/// One processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Processor {
    /// Sequence number of the last event that saw it below `DISPATCH_LEVEL`.
    pub(crate) last_low: Option<u64>,
    /// Seen below `DISPATCH_LEVEL` since the past became unknown.
    pub seen_low: bool,
    /// Acquires entered at `DISPATCH_LEVEL` or above, and holds. They nest, so there are few.
    pub open: OpenList,
    /// The IRQL that its last release of the cancel spin lock went back to.
    #[serde(default)]
    pub(crate) cancel_irql: Option<u8>,
    /// Where its thread was found last in the table of threads: a hint.
    pub thread: u32,
    /// A release that is being worked on, and its lock: its routine may call others to do it.
    pub(crate) releasing: Option<(u32, PriorCall)>,
}

/// One thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Thread {
    /// Acquires entered below `DISPATCH_LEVEL`.
    pub open: OpenList,
    /// Where the last of them came back that was seen to, until it runs elsewhere.
    #[serde(default)]
    pub(crate) holder: Option<u32>,
}

impl Evict for Thread {
    fn rank(&self) -> Rank {
        Rank::of(!self.open.0.is_empty(), self.open.0.iter().any(|(_, target)| *target))
    }
}

/// The open acquires of one agent, each with whether it is of the driver under test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenList(pub(crate) Vec<(Open, bool)>);

impl OpenList {
    /// Acquires that are followed at the same time; older ones, those of others first, are given up.
    const LIMIT: usize = 16;

    /// Adds one.
    pub(crate) fn push(&mut self, open: Open, target: bool) {
        if self.0.len() >= Self::LIMIT {
            let other = self.0.iter().position(|(_, target)| !*target);
            self.0.remove(other.unwrap_or(0));
        } else if self.0.len() == self.0.capacity() {
            self.0.reserve_exact(self.0.len().max(2));
        }
        self.0.push((open, target));
    }

    /// Takes out the oldest that is wanted.
    pub(crate) fn take<T>(&mut self, wanted: impl Fn(&Open) -> Option<T>) -> Option<((Open, bool), T)> {
        let mut entries = self.0.iter().enumerate();
        let (place, told) = entries.find_map(|(place, (open, _))| Some((place, wanted(open)?)))?;
        Some((self.0.remove(place), told))
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, sequence: u64) {
        if let Some(place) = self.0.iter().rposition(|(open, _)| open.call.sequence == sequence) {
            self.0.remove(place);
        }
    }
}
