//! Acquires, conversions and caught returns.

use super::report::fingerprint;
use super::state::{Binding, Nesting, Record};
use super::{Checker, Found, Response, ReturnInterest, Site, wordless};
use crate::contract::{CONTRACTS, Contract, Mode, Role, Routine, RoutineSet, contract};
use crate::event::{APC_LEVEL, DISPATCH_LEVEL, LockCall, LockOperand, LockReturn};
use crate::identity::{HandleKey, LockIdentity};
use crate::rules::{AcquireFacts, Judgement, PriorCall, RuleId, Shortfall, Step, judge_acquire};

impl Checker {
    /// An acquire was entered.
    pub(super) fn acquire(&mut self, site: Site, row: &'static Contract, call: &LockCall) -> Response {
        let Some(identity) = LockIdentity::of(&call.operand) else {
            self.core.statistics.ignored += 1;
            return Response::NOTHING;
        };
        let prior = PriorCall {
            sequence: site.sequence,
            routine: call.routine,
            context: call.context,
        };
        let place = self.lock(identity);
        let Some(lock) = self.locks.at_mut(place) else {
            return Response::NOTHING;
        };
        lock.target |= site.target;
        lock.releasing
            .retain(|outer| outer.context.processor != call.context.processor);

        // The routine of an open acquire may do its work through this one.
        let nesting = lock.nesting(call);
        if nesting == Nesting::Certain {
            self.core.statistics.nested += 1;
            self.note(place, prior, Step::Nested);
            return Response::NOTHING;
        }
        if call.word == Some(0) {
            // Nobody holds it: what was recorded as held is over, by a release or a re-initialisation not seen.
            let before = lock.records.len();
            lock.records.retain(|record| record.held_since.is_none());
            self.core.statistics.holds_lost += (before - lock.records.len()) as u64;
            lock.disturbed &= !lock.records.is_empty();
        }
        let found = self.judge_double(site, row, call, identity, place);
        self.replace(row, call, place);
        self.record(row, call, prior, (identity, place), nesting);
        self.note(
            place,
            prior,
            if found.is_some() {
                Step::Violation
            } else {
                Step::Attempt
            },
        );
        Response {
            found,
            interest: interest(row, call),
        }
    }

    /// Whether the caller holds the lock already.
    fn judge_double(
        &mut self,
        site: Site,
        row: &'static Contract,
        call: &LockCall,
        identity: LockIdentity,
        place: u32,
    ) -> Option<Found> {
        if row.role != Role::Acquire {
            return None;
        }
        let lock = self.locks.at(place)?;
        let own = |record: &&Record| {
            record.same_agent(&call.context) && record.held_since.is_some() && !self.core.hold_over(record)
        };
        let held = lock.records.iter().rfind(own)?;
        let mut shortfall = Shortfall::empty();
        shortfall.set(Shortfall::DISTURBED, lock.disturbed);
        shortfall.set(Shortfall::UNORDERED, !site.ordered && !held.bound_to_processor());
        shortfall.set(
            Shortfall::UNWATCHED,
            !self.core.watches(releases_of(&identity), lock.target),
        );
        // A lock whose word ought to be there, but could not be read, is not worth an opinion.
        let word_missing = call.word.is_none() && !wordless(call.routine);
        let facts = AcquireFacts {
            held: !word_missing,
            word_held: call.word.map(|word| word != 0),
            shortfall,
        };
        match judge_acquire(facts) {
            Judgement::Broken(verdict, cause, shortfall) => {
                let held = held.call;
                let mut violation =
                    self.violation(site, call, identity, RuleId::DoubleAcquire, (verdict, cause, shortfall));
                violation.acquire = Some(held);
                violation.fingerprint = fingerprint(&violation);
                Some(self.report(violation, place))
            }
            Judgement::Fine | Judgement::Unknown => None,
        }
    }

    /// Drops records of the same caller that this call proves to be over: code of the same level runs on, so the older
    /// acquire has come back, and if the lock were still held the caller would now wait for itself.
    fn replace(&mut self, row: &Contract, call: &LockCall, place: u32) {
        let Some(lock) = self.locks.at_mut(place) else { return };
        if row.role == Role::TryAcquire {
            return;
        }
        let low = call.context.irql < DISPATCH_LEVEL;
        let before = lock.records.len();
        lock.records.retain(|record| {
            let entered = &record.call.context;
            let over = record.same_agent(&call.context)
                && low != record.bound_to_processor()
                && call.context.irql <= entered.irql.max(1)
                && call.context.stack_pointer >= entered.stack_pointer
                && !(row.mode == Mode::Shared && contract(record.call.routine).mode == Mode::Shared);
            !over
        });
        self.core.statistics.holds_lost += (before - lock.records.len()) as u64;
    }

    /// Opens a record and binds its handle.
    fn record(
        &mut self,
        row: &Contract,
        call: &LockCall,
        prior: PriorCall,
        (identity, place): (LockIdentity, u32),
        nesting: Nesting,
    ) {
        let key = HandleKey::of(&call.operand);
        if let Some(key) = key {
            self.rebind(key, prior.sequence, identity);
        } else if matches!(call.operand, LockOperand::StorPort { .. }) {
            // Its release cannot be told from one that has no acquire.
            self.core.statistics.unreadable_handles += 1;
            self.core.past_unknown();
        }
        let mut record = Record::new(prior, key.map_or(0, HandleKey::address));
        record.nested_in = nesting.outer();
        self.open(place, record);
        self.core.recent.push(identity, prior.sequence, &call.context);
        let low = call.context.irql < DISPATCH_LEVEL;
        if low && self.core.late && wordless(call.routine) && self.core.threads.len() < self.core.limits.names {
            self.core.threads.insert(call.context.thread);
        }
        if !low && !row.result.may_fail() {
            if let Some(processor) = self.core.processors.get_mut(call.context.processor as usize) {
                processor.attempt(place, prior.sequence);
            }
        }
    }

    /// Adds a record to those of a lock. The oldest makes room if there are too many.
    fn open(&mut self, place: u32, record: Record) {
        let limit = self.core.limits.records.max(1);
        let Some(lock) = self.locks.at_mut(place) else { return };
        if lock.records.len() >= limit {
            lock.records.remove(0);
            self.core.statistics.records_evicted += 1;
            self.core.past_unknown();
        }
        lock.records.push(record);
        self.core.grown += 1;
    }

    /// Gives a handle to a new acquire. One that was still open there is over: its handle has been overwritten.
    fn rebind(&mut self, key: HandleKey, sequence: u64, identity: LockIdentity) {
        if let Some(old) = self.handles.get(&key).copied().filter(|old| old.open) {
            if let Some(lock) = self.locks.get_mut(&old.lock) {
                lock.records.retain(|record| record.call.sequence != old.acquire);
                self.core.statistics.holds_lost += 1;
            }
        }
        self.bind(
            key,
            Binding {
                lock: identity,
                acquire: sequence,
                open: true,
                released: None,
            },
        );
    }

    /// A shared hold may become an exclusive one; only the return tells.
    pub(super) fn convert(&mut self, site: Site, call: &LockCall) -> Response {
        if let Some(lock) = LockIdentity::of(&call.operand).and_then(|identity| self.locks.get_mut(&identity)) {
            lock.target |= site.target;
            if let Some(record) = lock.records.iter_mut().rfind(|record| record.same_agent(&call.context)) {
                record.maybe_converted = true;
            }
        }
        Response {
            found: None,
            interest: ReturnInterest::Needed,
        }
    }

    /// A routine came back.
    pub(super) fn lock_return(&mut self, sequence: u64, returned: &LockReturn) {
        let row = contract(returned.routine);
        let Some(identity) = LockIdentity::of(&returned.operand) else {
            return;
        };
        let Some(place) = self.locks.find(&identity) else {
            return;
        };
        let Some(lock) = self.locks.at_mut(place) else { return };
        let succeeded = row.result.succeeded(returned.value);
        if row.role == Role::Convert {
            if let Some(record) = lock
                .records
                .iter_mut()
                .rfind(|record| record.same_agent(&returned.context))
            {
                record.maybe_converted = false;
                if succeeded {
                    record.call.routine = Routine::ExTryConvertSharedSpinLockExclusive;
                }
            }
            return;
        }
        let prior = PriorCall {
            sequence,
            routine: returned.routine,
            context: returned.context,
        };
        let index = lock
            .records
            .iter()
            .rposition(|record| record.call.sequence == returned.call);
        let Some(index) = index else {
            if succeeded && returned.context.irql >= DISPATCH_LEVEL {
                // A release between call and return was taken for its own, and cannot have been: whoever released,
                // this caller has the lock now.
                let mut call = prior;
                call.sequence = returned.call;
                call.context.irql = APC_LEVEL;
                let mut record = Record::new(call, HandleKey::of(&returned.operand).map_or(0, HandleKey::address));
                record.held_since = Some(sequence);
                self.open(place, record);
                self.note(place, prior, Step::Acquired);
            }
            return;
        };
        if !succeeded {
            let record = lock.records.remove(index);
            self.close_handle(HandleKey::of(&returned.operand), record.call.sequence, None);
            self.note(place, prior, Step::Failed);
            return;
        }
        // Back below DISPATCH_LEVEL the hold, if there ever was one, is already in doubt.
        if returned.context.irql >= DISPATCH_LEVEL {
            let record = &mut lock.records[index];
            record.held_since = Some(sequence);
            record.holder = returned.context.processor;
            lock.end_nested(returned.call);
        }
        self.note(place, prior, Step::Acquired);
    }

    /// Marks a handle as free if it belongs to that acquire. `released`: by which event, if by a release.
    pub(super) fn close_handle(&mut self, key: Option<HandleKey>, acquire: u64, released: Option<u64>) {
        let binding = key.and_then(|key| self.handles.get_mut(&key));
        if let Some(binding) = binding.filter(|binding| binding.acquire == acquire) {
            binding.open = false;
            binding.released = released;
        }
    }
}

/// All releases, of whatever kind, that end the hold of such a lock.
pub(super) const fn releases_of(identity: &LockIdentity) -> RoutineSet {
    match identity {
        LockIdentity::Address(_) | LockIdentity::Handle(_) => RoutineSet::of(&[
            Routine::KeReleaseSpinLock,
            Routine::KeReleaseSpinLockFromDpcLevel,
            Routine::KeReleaseSpinLockForDpc,
            Routine::KeReleaseInStackQueuedSpinLock,
            Routine::KeReleaseInStackQueuedSpinLockFromDpcLevel,
            Routine::KeReleaseInStackQueuedSpinLockForDpc,
            Routine::ExReleaseSpinLockShared,
            Routine::ExReleaseSpinLockExclusive,
            Routine::ExReleaseSpinLockSharedFromDpcLevel,
            Routine::ExReleaseSpinLockExclusiveFromDpcLevel,
        ]),
        LockIdentity::StorPort { .. } => RoutineSet::of(&[Routine::StorPortReleaseSpinLock]),
        LockIdentity::Msi { .. } => RoutineSet::of(&[Routine::StorPortReleaseMSISpinLock]),
        LockIdentity::Interrupt(_) => RoutineSet::of(&[Routine::KeReleaseInterruptSpinLock]),
        LockIdentity::Cancel => RoutineSet::of(&[Routine::IoReleaseCancelSpinLock]),
    }
}

/// All acquires, of whatever kind, that take such a lock. One that is not seen can be released by what looks like the
/// release of another.
pub(super) fn acquires_of(identity: &LockIdentity) -> RoutineSet {
    CONTRACTS
        .iter()
        .filter(|row| {
            releases_of(identity)
                .iter()
                .any(|release| contract(release).fed_by.contains(row.routine))
        })
        .map(|row| row.routine)
        .collect()
}

/// What a caught return would add.
fn interest(row: &Contract, call: &LockCall) -> ReturnInterest {
    if row.result.may_fail() {
        ReturnInterest::Needed
    } else if call.context.irql < DISPATCH_LEVEL {
        ReturnInterest::Useful
    } else {
        ReturnInterest::None
    }
}
