//! Makes the timeline of a run from its events.
//!
//! The ledger of a replay feeds it; it is never on the hit path of a guest. It must not judge: that is the checker's
//! business. A lock counts as taken when its routine is entered, or when the processor that had it releases it.
//! Everything that is kept is bounded, because a guest chooses how many locks there are.

mod classes;
mod locks;

use std::collections::HashMap;

use storlock_check::contract::{Mode, Role, contract};
use storlock_check::event::{Event, EventKind, LockCall, LockReturn};
use storlock_check::identity::HandleKey;

use self::classes::Classes;
use self::locks::Locks;
use crate::report::timeline::{Clock, Hold, Mark, Timeline};

/// Holds that are kept: some 40 bytes each.
const MAX_HOLDS: usize = 1 << 20;
/// Acquires that are not released yet.
const MAX_OPEN: usize = 1 << 14;
const MAX_HANDLES: usize = 1 << 16;
const MAX_MARKS: usize = 1 << 12;
/// Processors that have a track of their own.
const MAX_PROCESSORS: u32 = 256;

/// An acquire that is not released yet.
#[derive(Debug, Clone, Copy)]
struct Open {
    asked: u64,
    /// When it got the lock; `None`: it still waits.
    from: Option<u64>,
    place: u32,
    event: u64,
    thread: u64,
    shared: bool,
}

/// A timeline that is being made.
#[derive(Debug, Default)]
pub(crate) struct TimelineBuilder {
    locks: Locks,
    classes: Classes,
    handles: HashMap<HandleKey, u32>,
    /// By lock and processor: at DISPATCH_LEVEL and above nothing moves to another one.
    open: HashMap<(u32, u32), Open>,
    /// Locks with open acquires, by processor in the order of the acquires, and processors by lock.
    of_processor: HashMap<u32, Vec<u32>>,
    of_lock: HashMap<u32, Vec<u32>>,
    holds: Vec<Hold>,
    marks: Vec<Mark>,
    not_kept: u64,
    events: u64,
    processors: u32,
    /// Whether events have times.
    clock: Clock,
    began: Option<u64>,
    now: u64,
}

impl TimelineBuilder {
    /// Takes the next event. `time` is when it was, in nanoseconds from any start; `found`: something was found in it.
    pub(crate) fn observe(&mut self, event: &Event, time: Option<u64>, found: bool) {
        self.events += 1;
        if self.events == 1 && time.is_some() {
            self.clock = Clock::Nanoseconds;
        }
        let time = match self.clock {
            Clock::Nanoseconds => time.unwrap_or(0),
            Clock::Events => event.sequence,
        };
        let began = *self.began.get_or_insert(time);
        // Neither a damaged trace nor a hostile one makes time go back.
        self.now = self.now.max(time.saturating_sub(began));
        match &event.kind {
            EventKind::LockCall(call) if call.context.processor < MAX_PROCESSORS => {
                self.processors = self.processors.max(call.context.processor + 1);
                if found && self.marks.len() < MAX_MARKS {
                    let (time, vcpu) = (self.now, call.context.processor);
                    self.marks.push(Mark {
                        time,
                        event: event.sequence,
                        vcpu,
                    });
                }
                match contract(call.routine).role {
                    Role::Acquire | Role::TryAcquire => self.acquire(event.sequence, call),
                    Role::Release => self.release(call),
                    Role::Convert => {}
                }
            }
            EventKind::LockReturn(returned) => self.returned(returned),
            EventKind::ModuleLoad(module) => self.locks.load(module),
            EventKind::ModuleUnload { base, .. } => self.locks.unload(*base),
            EventKind::Restored => self.forget(),
            _ => {}
        }
    }

    fn forget(&mut self) {
        self.handles.clear();
        self.open.clear();
        self.of_processor.clear();
        self.of_lock.clear();
    }

    fn acquire(&mut self, event: u64, call: &LockCall) {
        let row = contract(call.routine);
        let place = self.locks.place(call.context.return_address);
        let Some(lock) = self.locks.of(&call.operand, place, &mut self.classes) else {
            return;
        };
        if let Some(handle) = HandleKey::of(&call.operand)
            && (self.handles.len() < MAX_HANDLES || self.handles.contains_key(&handle))
        {
            self.handles.insert(handle, lock);
        }
        let vcpu = call.context.processor;
        // The same lock again: the routine that the first one calls to do its work.
        if self.open.contains_key(&(lock, vcpu)) || self.open.len() >= MAX_OPEN {
            return;
        }
        let shared = row.mode == Mode::Shared;
        let waits = self.is_taken(lock, shared);
        let class = self.locks.class(lock);
        self.classes.acquired(class, waits);
        if waits && row.role == Role::TryAcquire {
            // It comes back without the lock.
            return;
        }
        for held in self.of_processor.get(&vcpu).into_iter().flatten() {
            let had = self.open.get(&(*held, vcpu)).is_some_and(|open| open.from.is_some());
            if had {
                self.classes.ordered(self.locks.class(*held), class, event);
            }
        }
        self.of_processor.entry(vcpu).or_default().push(lock);
        self.of_lock.entry(lock).or_default().push(vcpu);
        let open = Open {
            asked: self.now,
            from: (!waits).then_some(self.now),
            place,
            event,
            thread: call.context.thread,
            shared,
        };
        self.open.insert((lock, vcpu), open);
    }

    /// Whether another processor has the lock and does not share it.
    fn is_taken(&self, lock: u32, shared: bool) -> bool {
        let holders = self.of_lock.get(&lock).into_iter().flatten();
        let mut open = holders.filter_map(|vcpu| self.open.get(&(lock, *vcpu)));
        open.any(|open| open.from.is_some() && !(shared && open.shared))
    }

    fn release(&mut self, call: &LockCall) {
        let by_handle = HandleKey::of(&call.operand).and_then(|handle| self.handles.get(&handle).copied());
        let Some(lock) = by_handle.or_else(|| self.locks.known(&call.operand)) else {
            return;
        };
        let vcpu = call.context.processor;
        let own = self.open.contains_key(&(lock, vcpu)).then_some(vcpu);
        // A release on another processor than the acquire's: a bug, or the thread has moved below DISPATCH_LEVEL.
        let moved = || {
            let holders = self.of_lock.get(&lock)?.iter();
            let of_thread = |vcpu: &&u32| {
                self.open
                    .get(&(lock, **vcpu))
                    .is_some_and(|open| open.thread == call.context.thread)
            };
            holders.copied().find(|vcpu| of_thread(&vcpu))
        };
        if let Some(vcpu) = own.or_else(moved) {
            self.close(lock, vcpu, true);
        }
    }

    fn returned(&mut self, returned: &LockReturn) {
        let row = contract(returned.routine);
        if row.role == Role::Release {
            return;
        }
        let Some(lock) = self.locks.known(&returned.operand) else {
            return;
        };
        let vcpu = returned.context.processor;
        if !row.result.succeeded(returned.value) {
            self.close(lock, vcpu, false);
        } else if let Some(open) = self.open.get_mut(&(lock, vcpu)) {
            open.from.get_or_insert(self.now);
        }
    }

    /// Ends an open acquire; `held`: it had the lock, which goes to the next processor that waits for it.
    fn close(&mut self, lock: u32, vcpu: u32, held: bool) {
        let Some(open) = self.open.remove(&(lock, vcpu)) else {
            return;
        };
        if let Some(list) = self.of_processor.get_mut(&vcpu) {
            list.retain(|other| *other != lock);
        }
        let waiting = self.of_lock.entry(lock).or_default();
        waiting.retain(|other| *other != vcpu);
        let waiting = waiting.clone();
        if held {
            self.keep(lock, vcpu, &open, Some(self.now));
        }
        for vcpu in waiting {
            let Some(shared) = self
                .open
                .get(&(lock, vcpu))
                .filter(|open| open.from.is_none())
                .map(|open| open.shared)
            else {
                continue;
            };
            if self.is_taken(lock, shared) {
                break;
            }
            let now = self.now;
            if let Some(open) = self.open.get_mut(&(lock, vcpu)) {
                open.from = Some(now);
            }
        }
    }

    fn keep(&mut self, lock: u32, vcpu: u32, open: &Open, to: Option<u64>) {
        // The lock is released while this acquire still seems to wait for it: it did not wait.
        let from = open.from.unwrap_or(open.asked);
        self.classes.held(
            self.locks.class(lock),
            from - open.asked,
            to.map(|to| to.saturating_sub(from)),
        );
        if self.holds.len() >= MAX_HOLDS {
            self.not_kept += 1;
            return;
        }
        self.holds.push(Hold {
            asked: open.asked,
            from,
            to,
            vcpu,
            lock,
            place: open.place,
            event: open.event,
        });
    }

    /// The timeline, with what is still held at its end.
    pub(crate) fn finish(mut self) -> Timeline {
        let mut open: Vec<_> = std::mem::take(&mut self.open).into_iter().collect();
        open.sort_by_key(|(_, open)| open.event);
        for ((lock, vcpu), open) in open {
            self.keep(lock, vcpu, &open, None);
        }
        let (classes, order) = self.classes.finish();
        let (locks, places) = self.locks.finish();
        Timeline {
            clock: self.clock,
            end: self.now,
            events: self.events,
            processors: self.processors,
            locks,
            places,
            classes,
            order,
            holds: self.holds,
            marks: self.marks,
            not_kept: self.not_kept,
            cut: None,
        }
    }
}

#[cfg(test)]
mod tests;
