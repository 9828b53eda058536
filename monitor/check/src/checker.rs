//! The checker: events in, violations out.
//!
//! Keeps one state a lock, matches every release with the acquire it belongs to and asks the rules. Fed by whoever
//! watches a guest or replays a trace. Must not know where events come from.
//!
//! An acquire that was entered is an *attempt*. Entered below `DISPATCH_LEVEL` it belongs to its thread, which may
//! still be interrupted by a DPC that takes the same lock, or moved to another processor; entered at or above, to its
//! processor. An attempt is enough to make a release legal; only one that has proved to have come back with the lock (a
//! caught return, or code of the same level running on its processor) can make somebody else's call wrong.

mod acquire;
mod core;
mod look;
mod naming;
mod release;
mod report;
mod state;

use serde::{Deserialize, Serialize};

use self::core::Core;
use crate::contract::Routine;
use crate::event::{Context, DISPATCH_LEVEL, Event, EventKind, LockCall, Order, WatchSet};
use crate::identity::{HandleKey, LockIdentity};
use crate::rules::{Verdict, Violation};
use crate::table::Table;
pub use look::OpenAcquire;
pub use report::{Outcome, Statistics};
pub use state::HISTORY;
use state::{Binding, LockState, Processor, Range};

/// Processors whose events are understood, 0 to one less than this.
pub const MAX_PROCESSORS: u32 = 256;

/// Bounds of what the checker keeps. A guest cannot make it keep more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Locks (at most about 1 KiB each).
    pub locks: usize,
    /// Lock handles (64 bytes each).
    pub handles: usize,
    /// Open acquires of one lock.
    pub records: usize,
    /// Open acquires of all locks together (128 bytes each). More than half of that at once means that they are no locks:
    /// all are forgotten.
    pub open: usize,
    /// Distinct violations; more are only counted.
    pub violations: usize,
    /// Threads and modules remembered.
    pub names: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            locks: 1 << 16,
            handles: 1 << 16,
            records: 128,
            open: 1 << 18,
            violations: 4096,
            names: 1 << 14,
        }
    }
}

/// Whether the monitor should catch the return of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReturnInterest {
    /// It would tell nothing.
    None,
    /// It proves when a lock was really taken.
    Useful,
    /// Only the return tells whether the lock was taken.
    Needed,
}

/// What one event led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The rule that it broke, if any.
    pub found: Option<Found>,
    /// Whether the return of this call is wanted.
    pub interest: ReturnInterest,
}

impl Response {
    const NOTHING: Self = Self {
        found: None,
        interest: ReturnInterest::None,
    };
}

/// A verdict that an event gave rise to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// How much it weighs.
    pub verdict: Verdict,
    /// Its place in [`Checker::violations`]; `None` if there were too many to keep.
    pub index: Option<usize>,
    /// Not seen before.
    pub first: bool,
    /// Whether it concerns the driver under test.
    pub concerns_target: bool,
}

/// A checker's state as plain data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedState {
    core: Core,
    locks: Vec<(LockIdentity, LockState)>,
    handles: Vec<(HandleKey, Binding)>,
}

/// Holds lock calls against their contracts.
#[derive(Clone, Debug)]
pub struct Checker {
    core: Core,
    locks: Table<LockIdentity, LockState>,
    handles: Table<HandleKey, Binding>,
}

impl Checker {
    /// A checker that knows nothing yet. `seed` keys the hash tables: a number that the guest cannot know. It has no
    /// influence on what is found, as long as no limit is reached.
    #[must_use]
    pub fn new(limits: Limits, seed: u64) -> Self {
        let core = Core {
            limits,
            late: true,
            unseen: 1,
            ..Core::default()
        };
        Self {
            core,
            locks: Table::new(limits.locks, seed),
            handles: Table::new(limits.handles, seed.rotate_left(32)),
        }
    }

    /// The state as plain data.
    #[must_use]
    pub fn save(&self) -> SavedState {
        SavedState {
            core: self.core.clone(),
            locks: self.locks.iter().map(|(key, value)| (*key, value.clone())).collect(),
            handles: self.handles.iter().map(|(key, value)| (*key, *value)).collect(),
        }
    }

    /// Goes on where a saved checker stopped.
    #[must_use]
    pub fn resume(saved: SavedState, seed: u64) -> Self {
        let mut checker = Self::new(saved.core.limits, seed);
        checker.core = saved.core;
        for (key, value) in saved.locks {
            checker.locks.insert(key, value);
        }
        for (key, value) in saved.handles {
            checker.handles.insert(key, value);
        }
        // Places in the table do not survive; losing a proof that was due costs no more than a hit.
        for processor in &mut checker.core.processors {
            processor.attempts.clear();
        }
        checker
    }

    /// Takes one event. Never fails: what cannot be is counted in [`Statistics`].
    pub fn apply(&mut self, event: &Event) -> Response {
        let ordered = self.check_order(event);
        match &event.kind {
            EventKind::LockCall(call) => {
                if !self.observe(event.sequence, &call.context) {
                    return Response::NOTHING;
                }
                self.lock_call(event.sequence, ordered, call)
            }
            EventKind::LockReturn(returned) => {
                if self.observe(event.sequence, &returned.context) {
                    self.bound_records();
                    self.lock_return(event.sequence, returned);
                }
                Response::NOTHING
            }
            other => {
                self.other_event(event.sequence, other);
                Response::NOTHING
            }
        }
    }

    /// Events that are not lock calls.
    fn other_event(&mut self, sequence: u64, kind: &EventKind) {
        match kind {
            EventKind::LockCall(_) | EventKind::LockReturn(_) => {}
            EventKind::CallbackEnter(callback) | EventKind::CallbackLeave(callback) => {
                self.observe(sequence, &callback.context);
            }
            &EventKind::IrqlSeen { processor, irql } => self.see_irql(sequence, processor, irql),
            EventKind::ModuleLoad(module) => {
                self.core.statistics.modules += 1;
                if module.target {
                    self.core.add_target(Range {
                        base: module.base,
                        size: module.size,
                    });
                }
            }
            &EventKind::ModuleUnload { base, size } => {
                self.core.targets.retain(|range| range.base != base);
                self.forget_memory(Range { base, size });
            }
            &EventKind::MemoryFreed { address, length } => self.forget_memory(Range {
                base: address,
                size: length,
            }),
            EventKind::WatchSetChanged(watch) => self.watch_set_changed(watch),
            EventKind::FaultInjected { .. } => self.core.statistics.faults += 1,
            EventKind::Restored => {
                self.forget_locks();
                self.core.past_unknown();
            }
        }
    }

    /// Whether the event's number places it after all events seen, on any processor.
    fn check_order(&mut self, event: &Event) -> bool {
        self.core.statistics.events += 1;
        let increasing = self.core.last_sequence.is_none_or(|last| event.sequence > last);
        if increasing {
            self.core.last_sequence = Some(event.sequence);
        } else {
            self.core.statistics.out_of_order += 1;
        }
        increasing && event.order == Order::Total
    }

    /// Learns from where and how the processor runs. False if there is no such processor.
    fn observe(&mut self, sequence: u64, context: &Context) -> bool {
        if context.processor >= MAX_PROCESSORS {
            self.core.statistics.ignored += 1;
            return false;
        }
        self.see_irql(sequence, context.processor, context.irql);
        let locks = &mut self.locks;
        let attempts = &mut self.core.processors[context.processor as usize].attempts;
        if attempts.is_empty() {
            return true;
        }
        attempts.retain(|&(place, attempt)| {
            let record = locks
                .at_mut(place)
                .and_then(|lock| lock.records.iter_mut().rfind(|record| record.call.sequence == attempt));
            let Some(record) = record else { return false };
            if !record.returned_by(context) {
                return true;
            }
            record.held_since.get_or_insert(sequence);
            false
        });
        true
    }

    /// Notes the IRQL of a processor.
    fn see_irql(&mut self, sequence: u64, processor: u32, irql: u8) {
        if processor >= MAX_PROCESSORS {
            self.core.statistics.ignored += 1;
            return;
        }
        let core = &mut self.core;
        if core.processors.len() <= processor as usize {
            core.processors.resize(processor as usize + 1, Processor::default());
        }
        if irql < DISPATCH_LEVEL {
            let state = &mut core.processors[processor as usize];
            state.last_low = Some(sequence);
            state.attempts.clear();
            if !state.seen_low && processor < core.watch.processors {
                state.seen_low = true;
                core.unseen = core.unseen.saturating_sub(1);
            }
        }
    }

    /// The breakpoints are others than before: what was recorded may have ended unseen.
    fn watch_set_changed(&mut self, watch: &WatchSet) {
        let core = &mut self.core;
        if core.watch.watched == watch.watched && core.watch.processors == watch.processors {
            core.watch.imported = watch.imported;
            return;
        }
        let mut watch = *watch;
        watch.processors = watch.processors.clamp(1, MAX_PROCESSORS);
        core.watch = watch;
        core.past_unknown();
        core.late = !watch.before_target;
        self.forget_locks();
    }

    /// Forgets all locks.
    fn forget_locks(&mut self) {
        self.locks.clear();
        self.handles.clear();
    }

    /// The memory is gone, and what lay in it.
    fn forget_memory(&mut self, range: Range) {
        let inside = |address: Option<u64>| address.is_some_and(|address| range.contains(address));
        let gone: Vec<_> = self
            .locks
            .iter()
            .map(|(key, _)| *key)
            .filter(|key| inside(key.address()))
            .collect();
        for key in gone {
            if self.locks.remove(&key).is_some_and(|lock| !lock.records.is_empty()) {
                self.core.statistics.freed_while_acquired += 1;
                self.core.past_unknown();
            }
        }
        let gone: Vec<_> = self
            .handles
            .iter()
            .map(|(key, _)| *key)
            .filter(|key| range.contains(key.address()))
            .collect();
        for key in gone {
            if self.handles.remove(&key).is_some_and(|binding| binding.open) {
                self.core.past_unknown();
            }
        }
    }

    /// Keeps all locks together within their limit. Counts only after so many records were added that it could be reached,
    /// so that a call costs nothing more.
    fn bound_records(&mut self) {
        let half = self.core.limits.open / 2;
        if self.core.grown <= half {
            return;
        }
        self.core.grown = 0;
        let held: usize = self.locks.values_mut().map(LockState::shrink).sum();
        if held > half {
            self.core.statistics.records_evicted += held as u64;
            self.forget_locks();
            self.core.past_unknown();
        }
    }

    /// The lock of an identity, made if it is new; its place and state.
    fn lock(&mut self, identity: LockIdentity) -> u32 {
        if let Some(place) = self.locks.find(&identity) {
            return place;
        }
        let (place, evicted) = self.locks.insert(identity, LockState::default());
        if let Some(lock) = evicted {
            if lock.records.is_empty() {
                self.core.statistics.idle_locks_evicted += 1;
            } else {
                self.core.statistics.acquired_locks_evicted += 1;
                self.core.past_unknown();
            }
        }
        place
    }

    /// Notes what a handle is used for.
    fn bind(&mut self, key: HandleKey, binding: Binding) {
        if let (_, Some(evicted)) = self.handles.insert(key, binding) {
            self.core.statistics.handles_evicted += 1;
            if evicted.open {
                self.core.past_unknown();
            }
        }
    }

    /// A lock routine was entered.
    fn lock_call(&mut self, sequence: u64, ordered: bool, call: &LockCall) -> Response {
        self.bound_records();
        let target = self.core.is_target(call.context.return_address);
        let statistics = &mut self.core.statistics;
        statistics.calls[call.routine as usize] += 1;
        if target {
            statistics.target_calls[call.routine as usize] += 1;
        }
        let site = Site {
            sequence,
            ordered,
            target,
        };
        self.dispatch(site, call)
    }
}

/// What is known of a call besides its operands.
#[derive(Clone, Copy, Debug)]
struct Site {
    sequence: u64,
    /// Its number orders it against events of other processors.
    ordered: bool,
    /// The return address lies in the driver under test.
    target: bool,
}

impl Checker {
    /// Acquire, release or conversion.
    fn dispatch(&mut self, site: Site, call: &LockCall) -> Response {
        use crate::contract::{Role, contract};
        let row = contract(call.routine);
        match row.role {
            Role::Acquire | Role::TryAcquire => self.acquire(site, row, call),
            Role::Convert => self.convert(site, call),
            Role::Release => self.release(site, row, call),
        }
    }

    /// Everything found so far, in the order of the first occurrence.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.core.violations
    }

    /// Counters.
    #[must_use]
    pub const fn statistics(&self) -> &Statistics {
        &self.core.statistics
    }

    /// The watch set in force.
    #[must_use]
    pub const fn watch_set(&self) -> &WatchSet {
        &self.core.watch
    }

    /// Locks that are remembered, and handles.
    #[must_use]
    pub fn remembered(&self) -> (usize, usize) {
        (self.locks.len(), self.handles.len())
    }

    /// Whether every processor has been seen below `DISPATCH_LEVEL` since the watch began.
    #[must_use]
    pub const fn past_known(&self) -> bool {
        self.core.known()
    }
}

/// Whether a routine's locks have no word that the host can see.
const fn wordless(routine: Routine) -> bool {
    matches!(
        routine,
        Routine::StorPortAcquireSpinLock
            | Routine::StorPortAcquireSpinLockEx
            | Routine::StorPortAcquireMSISpinLock
            | Routine::KeAcquireInterruptSpinLock
    )
}
