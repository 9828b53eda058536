//! The end of a run: where each processor stands, and what the driver under test has not released by then.
//!
//! A run may be over in the middle of a critical section of a right driver, which says nothing about the driver. But a
//! processor that stands below `DISPATCH_LEVEL` has left what it held, and of whoever is on no processor nothing is known.

use serde::{Deserialize, Serialize};

use super::facts::{AcquireFacts, Fact, HoldEnded, Shown};
use super::open_questions::OpenQuestion;
use super::record::{Open, Record, raises_further};
use super::storport::{is_interrupt_lock, may_be_none};
use crate::checker::Checker;
use crate::contract::PortHold;
use crate::event::{Context, DISPATCH_LEVEL, InCallback, StillHeld};
use crate::ledger::Found;

/// Bytes that a routine pops when it comes back: its return address.
const RETURN_ADDRESS: u64 = 8;
/// Bytes that the frames of functions have which acquire a lock for their callers.
const WRAPPERS: u64 = 0x400;
/// Milliseconds after which a hold is told that goes on when the machine stands still for good. A spin lock is held for
/// microseconds; even a host that is overloaded does not make seconds of them.
const LONG: u64 = 3000;

/// Where processors stand when a run is over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Standstill {
    /// How many events there were with the last of these: if there are more now, the machine has not stood still.
    events: u64,
    processors: Vec<Context>,
}

impl Standstill {
    /// Adds a processor; `events`: how many events there were with this one.
    fn add(&mut self, stopped: Context, events: u64) {
        if self.events + 1 != events {
            self.processors.clear();
        }
        self.events = events;
        self.processors.retain(|other| other.processor != stopped.processor);
        self.processors.push(stopped);
    }

    /// Whether a processor stands in the routine of an acquire.
    fn is_inside(&self, record: &Record) -> bool {
        let entered = &record.call.context;
        let mut stopped = self.processors.iter();
        stopped.any(|now| {
            let own = now.thread == entered.thread && now.thread != 0 && now.irql >= DISPATCH_LEVEL;
            own && record.same_stack(now) && now.stack_pointer <= entered.stack_pointer
        })
    }

    /// Whether no processor runs a thread at `DISPATCH_LEVEL` or above.
    fn runs_no_raised(&self, thread: u64) -> bool {
        let mut stopped = self.processors.iter();
        thread != 0 && stopped.all(|now| now.irql < DISPATCH_LEVEL || (now.thread != thread && now.thread != 0))
    }

    /// Whether an open acquire may be one that is still waiting, or a hold whose release was still to come.
    fn goes_on(&self, record: &Record, events: u64) -> bool {
        if self.events != events {
            return false;
        }
        let entered = &record.call.context;
        let mut stopped = self.processors.iter();
        if record.held_since.is_some() || record.bound_to_processor() {
            // With another thread it has been below DISPATCH_LEVEL.
            let same = |thread: u64| thread == entered.thread || thread == 0 || entered.thread == 0;
            return stopped.any(|now| now.processor == record.holder && same(now.thread) && may_hold(record, now));
        }
        // An attempt may have been interrupted before it has raised the IRQL, on whatever stack that is worked on.
        stopped.any(|now| {
            let on_stack = record.same_stack(now);
            let in_routine = on_stack && now.stack_pointer <= entered.stack_pointer;
            let may_go_on = in_routine || may_hold(record, now) || (!on_stack && now.irql >= DISPATCH_LEVEL);
            now.thread == entered.thread && now.thread != 0 && may_go_on
        })
    }
}

/// Whether a processor may stand in the critical section of an acquire: at or above `DISPATCH_LEVEL`, on the stack of the
/// acquire no further out than functions go that only acquire; on another stack in an interrupt.
fn may_hold(record: &Record, now: &Context) -> bool {
    let entered = &record.call.context;
    let level = entered.irql.max(DISPATCH_LEVEL);
    let inside = if record.same_stack(now) {
        now.stack_pointer <= entered.stack_pointer.saturating_add(WRAPPERS)
    } else {
        now.irql > level || raises_further(record.call.routine)
    };
    now.irql >= DISPATCH_LEVEL && inside
}

impl Checker {
    /// A processor stands still for good. It may stand in a lock routine, so that it proves of no acquire that this has come
    /// back with its lock.
    pub(crate) fn processor_stopped(&mut self, sequence: u64, stopped: &Context, found: &mut Vec<Found>) {
        if let Some(told) = self.core.in_callback.take() {
            self.waits_in_callback(sequence, &told, found);
        }
        self.see_irql(sequence, stopped.processor, stopped.irql);
        if stopped.irql < DISPATCH_LEVEL {
            // At the first instruction of a routine, or deeper, it has not come back.
            let stack_pointer = stopped.stack_pointer.wrapping_sub(RETURN_ADDRESS);
            let thread = self.thread_place(stopped.processor, stopped.thread);
            let context = Context {
                stack_pointer,
                ..*stopped
            };
            self.leave_frames(thread, &context, None);
        }
        let events = self.core.statistics.events;
        self.core.standstill.add(*stopped, events);
        self.leave_threads(sequence, stopped, found);
    }

    /// If all processors stand still, and one waits for a lock that a thread has acquired, that thread runs on one of them at
    /// `DISPATCH_LEVEL` or above, or has left the lock behind.
    fn leave_threads(&mut self, sequence: u64, last: &Context, found: &mut Vec<Found>) {
        let standstill = &self.core.standstill;
        if standstill.processors.len() as u64 != u64::from(self.core.watch.processors) {
            return;
        }
        let waits = |record: &Record| record.held_since.is_none() && !record.free && record.nested_in.is_none();
        let left = self.locks.iter().filter_map(|(lock, state)| {
            let [first, waiting @ ..] = &*state.records else {
                return None;
            };
            let thread = !first.bound_to_processor() && first.held_since.is_none() && first.nested_in.is_none();
            let others_wait = waiting.iter().all(waits) && waiting.iter().any(|record| standstill.is_inside(record));
            let gone = standstill.runs_no_raised(first.call.context.thread);
            (thread && others_wait && gone && self.has_got(first, lock, state)).then_some((*lock, *first))
        });
        for (lock, record) in left.collect::<Vec<_>>() {
            let place = self.lock(lock);
            self.unfollow(&record);
            let open = Open {
                place,
                call: record.call,
                proved: false,
                owed: 0,
            };
            let hold = self.hold(&record, &lock, (last.processor, last.irql));
            let ended = self.end_hold(&open);
            if let (Some(hold), Some(_)) = (hold, ended) {
                let shown = Shown::ThreadGone;
                let fact = Fact::HoldEnded(HoldEnded { shown, ..hold });
                self.judge_open(sequence, &record, (lock, place), fact, found);
            }
        }
    }

    /// A processor stands still in an acquire, in a callback around which the port driver may hold the lock: has that
    /// judged, unless it was at the call.
    fn waits_in_callback(&mut self, sequence: u64, told: &InCallback, found: &mut Vec<Found>) {
        let waiting = self.locks.iter().find_map(|(lock, state)| {
            let mut records = state.records.iter();
            let same = |record: &&Record| record.call.context == told.context && record.held_since.is_none();
            Some((*lock, *records.find(same)?))
        });
        let Some((identity, record)) = waiting else { return };
        let call = record.as_call(identity);
        let hold = told.callback.port_hold(told.port, &call.operand, call.context.irql);
        let mut known = self.findings().iter();
        let at_call = known.any(|known| known.call_sequence == record.call.sequence);
        if hold == PortHold::No || at_call || !record.target {
            return;
        }
        let place = self.lock(identity);
        let facts = AcquireFacts {
            held_by_port: Some((told.callback, false)),
            ..AcquireFacts::default()
        };
        self.judge_open(sequence, &record, (identity, place), Fact::Acquire(facts), found);
    }

    /// A processor stands still for good, and has not released an acquire of the driver under test that has come back. If the
    /// callback that made it is over, it was left behind; else the release may be to come, and how long ago the acquire was
    /// has to speak for itself, as it has for a lock that may not have been taken.
    pub(crate) fn still_held(&mut self, sequence: u64, told: &StillHeld, found: &mut Vec<Found>) {
        let now = &told.stopped;
        let open = self.locks.iter().find_map(|(lock, state)| {
            let mut records = state.records.iter();
            let record = records.find(|record| record.call.sequence == told.acquire)?;
            Some((*lock, *record, state.is_untouched_since(record)))
        });
        let own = open.filter(|(_, record, _)| record.target && record.nested_in.is_none());
        let Some((lock, record, untouched)) = own.filter(|_| now.irql >= DISPATCH_LEVEL) else {
            return;
        };
        let place = self.lock(lock);
        let maybe_none = may_be_none(&lock, &record, &self.core.port);
        if told.left && !maybe_none {
            self.unfollow(&record);
            let open = Open {
                place,
                call: record.call,
                proved: record.held_since.is_some(),
                owed: 0,
            };
            return self.mark_over((open, true), Shown::CallbackOver);
        }
        let raised = record.call.context.irql <= DISPATCH_LEVEL && now.irql > DISPATCH_LEVEL;
        let shown = untouched
            && (raised || !is_interrupt_lock(&lock, &self.core.port))
            && (told.left || told.milliseconds >= LONG);
        let hold = self.hold(&record, &lock, (now.processor, now.irql));
        if let Some(hold) = hold.filter(|_| shown) {
            let fact = Fact::StillHeld(hold, told.milliseconds);
            self.judge_open(sequence, &record, (lock, place), fact, found);
        }
    }

    /// The run is over: counts what the driver under test has acquired, and of which nobody knows what has become.
    pub fn run_ended(&mut self) {
        let (standstill, events) = (&self.core.standstill, self.core.statistics.events);
        let records = self.locks.iter().flat_map(|(_, lock)| lock.records.iter());
        let own = records.filter(|record| record.target && record.nested_in.is_none());
        let lost = own.filter(|record| !standstill.goes_on(record, events)).count();
        self.ask(OpenQuestion::LostHolds, lost as u64);
    }
}
