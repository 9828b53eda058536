//! The checker: takes events and gives findings.
//!
//! It hands each event to the matching, hands the facts that come out to the rules, and keeps their findings. Whoever
//! watches a guest or replays a trace feeds it. It must not know where events come from.

use serde::{Deserialize, Serialize};

use crate::contract::{Role, contract};
use crate::event::{Event, EventKind, LockCall, Order, WatchSet};
use crate::finding::{Finding, Verdict};
use crate::identity::{HandleKey, LockIdentity};
pub use crate::ledger::Found;
use crate::ledger::Ledger;
use crate::matching::{Addresses, Binding, CHAINS, Chain, Core, Ended, LockOrder, LockState, Port, Site, Thread};
pub use crate::matching::{HISTORY, OpenAcquire, OpenQuestion, Outcome, Statistics};
use crate::modules::{Modules, Range};
use crate::rules::RuleSettings;
use crate::table::Table;

/// Processors whose events are understood, 0 to one less than this.
pub const MAX_PROCESSORS: u32 = 256;

/// Bounds of what the checker keeps. A guest cannot make it keep more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Locks: at most about 1 KiB each while few wait for them; half of the history and of the room for waiting calls is
    /// kept of locks of other drivers.
    pub locks: usize,
    /// Lock handles (64 bytes each).
    pub handles: usize,
    /// Open acquires of one lock.
    pub records: usize,
    /// Open acquires of all locks together (152 bytes each). More than half of that at once means that they are no locks:
    /// all are forgotten.
    pub open: usize,
    /// Distinct findings; more are only counted.
    pub findings: usize,
    /// Threads and modules remembered.
    pub names: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            locks: 1 << 16,
            handles: 1 << 16,
            records: 128,
            open: 1 << 20,
            findings: 4096,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The rule that it broke, if any; of several the one that weighs most.
    pub found: Option<Found>,
    /// Other rules that it broke.
    pub more: Vec<Found>,
    /// Whether the return of this call is wanted.
    pub interest: ReturnInterest,
}

impl Response {
    #[inline]
    pub(crate) fn new(found: Vec<Found>, interest: ReturnInterest) -> Self {
        if !found.is_empty() {
            return Self::of(found, interest);
        }
        Self {
            found: None,
            more: Vec::new(),
            interest,
        }
    }

    #[cold]
    fn of(mut found: Vec<Found>, interest: ReturnInterest) -> Self {
        found.sort_by_key(|found| found.verdict != Verdict::Semantic);
        let mut found = found.into_iter();
        Self {
            found: found.next(),
            more: found.collect(),
            interest,
        }
    }

    /// All findings, the one that weighs most first.
    pub fn findings(&self) -> impl Iterator<Item = &Found> {
        self.found.iter().chain(&self.more)
    }
}

/// A checker's state as plain data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedState {
    core: Core,
    ledger: Ledger,
    #[serde(default)]
    order: LockOrder,
    locks: Vec<(LockIdentity, LockState)>,
    handles: Vec<(HandleKey, Binding)>,
}

/// Holds lock calls against their contracts.
#[derive(Clone, Debug)]
pub struct Checker {
    pub(crate) core: Core,
    pub(crate) ledger: Ledger,
    pub(crate) locks: Table<LockIdentity, LockState>,
    pub(crate) handles: Table<HandleKey, Binding>,
    pub(crate) threads: Table<u64, Thread>,
    /// In which order locks are taken, and the chains that are known.
    pub(crate) order: LockOrder,
    pub(crate) chains: Table<u64, Chain>,
    /// Where locks and handles lie.
    pub(crate) addresses: Addresses,
    /// Acquires whose scope the present event shows to be left.
    pub(crate) ended: Vec<Ended>,
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
            modules: Modules::new(limits.names),
            ..Core::default()
        };
        Self {
            core,
            ledger: Ledger::new(limits.findings),
            locks: Table::new(limits.locks, seed),
            handles: Table::new(limits.handles, seed.rotate_left(32)),
            threads: Table::new(limits.names, seed.rotate_left(16)),
            order: LockOrder::default(),
            chains: Table::new(CHAINS, seed.rotate_left(48)),
            addresses: Addresses::default(),
            ended: Vec::new(),
        }
    }

    /// Has rules off, or held against the calls of some modules only, from the next event on.
    pub fn set_rules(&mut self, rules: RuleSettings) {
        self.core.rules = rules;
    }

    /// The state as plain data.
    #[must_use]
    pub fn save(&self) -> SavedState {
        SavedState {
            core: self.core.clone(),
            ledger: self.ledger.clone(),
            order: self.order.clone(),
            locks: self.locks.iter().map(|(key, value)| (*key, value.clone())).collect(),
            handles: self.handles.iter().map(|(key, value)| (*key, *value)).collect(),
        }
    }

    /// Goes on where a saved checker stopped.
    #[must_use]
    pub fn resume(saved: SavedState, seed: u64) -> Self {
        let mut checker = Self::new(saved.core.limits, seed);
        checker.core = saved.core;
        checker.ledger = saved.ledger;
        checker.order = saved.order;
        for (key, value) in saved.locks {
            checker.locks.insert(key, value);
        }
        for (key, value) in saved.handles {
            checker.handles.insert(key, value);
        }
        checker.rebuild();
        checker
    }

    /// Takes one event. Never fails: what cannot be is counted in [`Statistics`].
    pub fn apply(&mut self, event: &Event) -> Response {
        let ordered = self.check_order(event);
        if let EventKind::CallerAttributed(told) = &event.kind {
            let found = self.caller_attributed(told);
            return Response::new(found, ReturnInterest::None);
        }
        self.ledger.next_event();
        let sequence = event.sequence;
        let (mut found, mut interest) = (Vec::new(), ReturnInterest::None);
        let seen = match &event.kind {
            EventKind::LockCall(call) => {
                if self.observe(sequence, &call.context, Some(call)) {
                    interest = self.lock_call(sequence, ordered, call, &mut found);
                } else if self.core.modules.is_target(call.context.return_address) {
                    self.ask(OpenQuestion::IgnoredCalls, 1);
                }
                Some((call.context.processor, call.context.irql))
            }
            EventKind::LockReturn(returned) => {
                if self.observe(sequence, &returned.context, None) {
                    self.bound_records();
                    self.lock_return(sequence, returned);
                }
                Some((returned.context.processor, returned.context.irql))
            }
            EventKind::InCallback(told) => {
                self.core.in_callback = Some(*told);
                None
            }
            &EventKind::IrqlSeen { processor, irql } => {
                self.see_irql(sequence, processor, irql);
                Some((processor, irql))
            }
            EventKind::ProcessorStopped(stopped) => {
                self.processor_stopped(sequence, stopped, &mut found);
                Some((stopped.processor, stopped.irql))
            }
            EventKind::StillHeld(told) => {
                self.still_held(sequence, told, &mut found);
                Some((told.stopped.processor, told.stopped.irql))
            }
            other => {
                self.other_event(other);
                None
            }
        };
        if let (false, Some((processor, irql))) = (self.ended.is_empty(), seen) {
            self.end_holds(sequence, ordered, (processor, irql), &mut found);
        }
        Response::new(found, interest)
    }

    /// Events in which no processor is seen.
    fn other_event(&mut self, kind: &EventKind) {
        match kind {
            EventKind::ModuleLoad(module) => {
                self.core.statistics.modules += 1;
                self.core.modules.load(module);
            }
            &EventKind::ModuleUnload { base, size } => {
                if self.core.modules.is_declared_target(base) {
                    self.core.adapters.clear();
                    self.core.port = Port::default();
                }
                self.core.modules.unload(base);
                self.forget_memory(Range { base, size });
            }
            &EventKind::MemoryFreed { address, length } => {
                let range = Range {
                    base: address,
                    size: length,
                };
                self.forget_memory(range);
            }
            EventKind::WatchSetChanged(watch) => self.watch_set_changed(watch),
            EventKind::PortTold(told) => self.core.port.learn(told),
            EventKind::FaultInjected { .. } => self.core.statistics.faults += 1,
            EventKind::Restored => self.restored(),
            _ => {}
        }
    }

    /// Whether the event's number places it after all events seen, on any processor.
    fn check_order(&mut self, event: &Event) -> bool {
        self.core.statistics.events += 1;
        let increasing = self.core.last_sequence.is_none_or(|last| event.sequence > last);
        if increasing {
            self.core.last_sequence = Some(event.sequence);
        }
        increasing && event.order == Order::Total
    }

    /// A lock routine was entered.
    fn lock_call(&mut self, sequence: u64, ordered: bool, call: &LockCall, found: &mut Vec<Found>) -> ReturnInterest {
        self.bound_records();
        let target = self.core.modules.is_target(call.context.return_address);
        let statistics = &mut self.core.statistics;
        statistics.calls[call.routine as usize] += 1;
        if target {
            statistics.target_calls[call.routine as usize] += 1;
            if let Some(adapter) = call.operand.adapter() {
                self.core.own_adapter(adapter);
            }
        }
        let told = self.core.in_callback.take();
        let site = Site {
            sequence,
            ordered,
            target,
            in_callback: told.filter(|told| told.context == call.context),
            port: self.core.port.of(call.operand.adapter()),
        };
        let row = contract(call.routine);
        match row.role {
            Role::Acquire | Role::TryAcquire => self.acquire(site, row, call, found),
            Role::Convert => {
                self.convert(site, row, call, found);
                ReturnInterest::Needed
            }
            Role::Release => {
                self.release(site, row, call, found);
                ReturnInterest::None
            }
        }
    }

    /// Whether an acquire of a lock of the driver under test is open.
    #[must_use]
    pub fn target_holds_a_lock(&self) -> bool {
        self.locks
            .iter()
            .any(|(_, lock)| lock.target && !lock.records.is_empty())
    }

    /// Everything found so far, in the order of the first occurrence.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        self.ledger.findings()
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
