//! What is remembered and what is forgotten: locks and handles by address, and the room for them.

use std::collections::BTreeSet;

use super::open_questions::OpenQuestion;
use super::state::Binding;
use super::{Bound, LockState, Open, Port};
use crate::checker::Checker;
use crate::event::{DISPATCH_LEVEL, WatchSet};
use crate::identity::{HandleKey, LockIdentity};
use crate::modules::Range;

/// Locks that the processor's caches have room for.
const CACHED: usize = 1 << 13;

/// Where locks and handles lie, so that those in a range are found without a look at all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    locks: BTreeSet<(u64, LockIdentity)>,
    handles: BTreeSet<(u64, HandleKey)>,
}

impl Addresses {
    fn add_lock(&mut self, lock: LockIdentity) {
        if let Some(address) = lock.address() {
            self.locks.insert((address, lock));
        }
    }

    fn remove_lock(&mut self, lock: &LockIdentity) {
        if let Some(address) = lock.address() {
            self.locks.remove(&(address, *lock));
        }
    }

    fn locks_in(&self, range: Range) -> Vec<LockIdentity> {
        let first = (range.base, LockIdentity::Address(0));
        let inside = self
            .locks
            .range(first..)
            .take_while(|(address, _)| range.contains(*address));
        inside.map(|(_, lock)| *lock).collect()
    }

    fn handles_in(&self, range: Range) -> Vec<HandleKey> {
        let first = (range.base, HandleKey::Queued(0));
        let inside = self
            .handles
            .range(first..)
            .take_while(|(address, _)| range.contains(*address));
        inside.map(|(_, key)| *key).collect()
    }
}

impl Checker {
    /// The lock of an identity, made if it is new; its place.
    pub(crate) fn lock(&mut self, identity: LockIdentity) -> u32 {
        if let Some(place) = self.locks.find(&identity) {
            // A small table is in the processor's caches.
            if let Some(lock) = self.locks.at(place).filter(|_| self.locks.len() > CACHED) {
                lock.fetch();
            }
            return place;
        }
        let (place, evicted) = self.locks.insert(identity, LockState::default());
        self.addresses.add_lock(identity);
        if let Some((key, lock)) = evicted {
            self.addresses.remove_lock(&key);
            let statistics = &mut self.core.statistics;
            if lock.records.is_empty() {
                statistics.idle_locks_evicted += 1;
            } else {
                statistics.acquired_locks_evicted += 1;
                self.ask(OpenQuestion::LostHolds, lock.held_by_target());
                if lock.target {
                    self.core.past_unknown();
                }
            }
        }
        place
    }

    /// Notes what a handle is used for.
    pub(crate) fn bind(&mut self, key: HandleKey, binding: Binding) {
        if let Some(old) = self.handles.get_mut(&key) {
            *old = binding;
            return;
        }
        self.addresses.handles.insert((key.address(), key));
        if let (_, Some((key, evicted))) = self.handles.insert(key, binding) {
            self.addresses.handles.remove(&(key.address(), key));
            self.core.statistics.handles_evicted += 1;
            if evicted.state == Bound::Open && evicted.target {
                self.core.past_unknown();
            }
        }
    }

    /// Keeps the open acquires of all locks together within their limit. Counts only after so many were added that it could
    /// be reached, so that a call costs nothing more.
    #[inline]
    pub(crate) fn bound_records(&mut self) {
        let half = self.core.limits.open / 2;
        if self.core.grown > half {
            self.bound_all_records(half);
        }
    }

    #[cold]
    fn bound_all_records(&mut self, half: usize) {
        self.core.grown = 0;
        let locks = self.locks.values_mut();
        let held: usize = locks.map(|lock| lock.records.shrink()).sum();
        if held > half {
            self.core.statistics.records_evicted += held as u64;
            self.lose_all();
            self.forget_locks();
            self.core.past_unknown();
        }
    }

    /// What the driver under test has acquired, of whatever lock, is over for all that will be seen.
    fn lose_all(&mut self) {
        let held = self.locks.iter().map(|(_, lock)| lock.held_by_target()).sum();
        self.ask(OpenQuestion::LostHolds, held);
    }

    /// Forgets all locks.
    pub(crate) fn forget_locks(&mut self) {
        self.locks.clear();
        self.handles.clear();
        self.threads.clear();
        self.ended.clear();
        self.addresses = Addresses::default();
        for processor in &mut self.core.processors {
            processor.open.0.clear();
            processor.releasing = None;
        }
        self.core.unreadable.clear();
    }

    /// The machine is another than before: what was known of it is void, what was found stays.
    pub(crate) fn restored(&mut self) {
        self.forget_locks();
        self.core.modules.clear();
        self.core.adapters.clear();
        self.core.port = Port::default();
        self.core.words_proven = false;
        // The breakpoints have to be armed anew, even if the same are.
        self.core.watch.watched = crate::contract::RoutineSet::EMPTY;
        self.core.past_unknown();
    }

    /// The memory is gone, and what lay in it.
    pub(crate) fn forget_memory(&mut self, range: Range) {
        for key in self.addresses.locks_in(range) {
            self.addresses.remove_lock(&key);
            let Some(lock) = self.locks.remove(&key) else { continue };
            self.ask(OpenQuestion::LostHolds, lock.held_by_target());
        }
        for key in self.addresses.handles_in(range) {
            self.addresses.handles.remove(&(key.address(), key));
            self.handles.remove(&key);
        }
        self.core.adapters.retain(|adapter| !range.contains(*adapter));
        self.core.unreadable.retain(|adapter| !range.contains(*adapter));
        self.core.port.forget(range);
    }

    /// The breakpoints are others than before: what was recorded may have ended unseen.
    pub(crate) fn watch_set_changed(&mut self, watch: &WatchSet) {
        let core = &mut self.core;
        if core.watch.watched == watch.watched && core.watch.processors == watch.processors {
            core.watch.imported = watch.imported;
            core.watch.closed = watch.closed;
            core.watch.ambiguous = watch.ambiguous;
            if watch.before_target && !self.target_holds_a_lock() {
                // The driver was loaded again: of this load nothing is older than the watch.
                self.core.watch.before_target = true;
                self.core.late = false;
            }
            return;
        }
        let mut watch = *watch;
        watch.processors = watch.processors.clamp(1, crate::checker::MAX_PROCESSORS);
        core.watch = watch;
        core.past_unknown();
        core.late = !watch.before_target;
        self.lose_all();
        self.forget_locks();
    }

    /// Finds out anew where everything is, after the tables were filled from outside.
    pub(crate) fn rebuild(&mut self) {
        let mut open = Vec::new();
        for (key, lock) in self.locks.iter() {
            self.addresses.add_lock(*key);
            let Some(place) = self.locks.find(key) else { continue };
            for record in lock.records.iter() {
                let entry = Open {
                    place,
                    call: record.call,
                    proved: record.held_since.is_some(),
                    owed: 0,
                };
                open.push((entry, record.target, record.holder));
            }
        }
        open.sort_by_key(|(open, ..)| open.call.sequence);
        for processor in &mut self.core.processors {
            processor.open.0.clear();
            processor.releasing = None;
        }
        for (entry, target, holder) in open {
            if entry.proved && entry.call.context.irql < DISPATCH_LEVEL {
                self.follow_hold(entry, target, holder);
            } else {
                self.follow(entry, target);
            }
        }
        let handles = self.handles.iter().map(|(key, _)| (key.address(), *key));
        self.addresses.handles = handles.collect();
    }
}
