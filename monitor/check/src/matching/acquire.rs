//! Acquires, conversions and caught returns.

use super::core::Gap;
use super::facts::{AcquireFacts, Fact, Facts, Site};
use super::open_questions::OpenQuestion;
use super::record::{Nesting, Open, Record, STACK, locks_have_no_word};
use super::state::{Binding, Bound, LockState};
use super::storport::{self, Taking};
use crate::checker::{Checker, ReturnInterest};
use crate::contract::{
    CONTRACTS, Callback, Contract, Mode, PortHold, Role, Routine, RoutineSet, SystemModule, contract,
};
use crate::event::{APC_LEVEL, DISPATCH_LEVEL, LockCall, LockOperand, LockReturn};
use crate::finding::{OrderStep, Overlap, PriorCall, Proof, Shortfall, Step};
use crate::identity::{HandleKey, LockIdentity};
use crate::ledger::Found;

impl Checker {
    /// An acquire was entered.
    pub(crate) fn acquire(
        &mut self,
        site: Site,
        row: &'static Contract,
        call: &LockCall,
        found: &mut Vec<Found>,
    ) -> ReturnInterest {
        let Some(identity) = LockIdentity::of(&call.operand) else {
            self.core.statistics.ignored += 1;
            return ReturnInterest::None;
        };
        let prior = PriorCall {
            sequence: site.sequence,
            routine: call.routine,
            context: call.context,
        };
        let place = self.lock(identity);
        let Some(lock) = self.locks.at_mut(place) else {
            return ReturnInterest::None;
        };
        // The routine of an open acquire may do its work through this one.
        let nesting = lock.nesting(call, self.core.modules.is_declared_target(call.context.return_address));
        if nesting == Nesting::Certain {
            self.core.statistics.nested += 1;
            self.note(place, prior, Step::Nested);
            return ReturnInterest::None;
        }
        self.generation(site, call, place);
        let taking = storport::taking(call);
        let own = self.own_hold(row, call, &identity, (place, taking));
        let circle = match taking {
            Taking::Lock if own.is_none() => self.order(site, row, call, (prior, place)),
            _ => Vec::new(),
        };
        let facts = self.acquire_facts(site, row, call, &identity, (place, own.as_ref(), &circle));
        self.judge(&facts, place, None, found);
        if taking != Taking::Lock {
            let state = if taking == Taking::Nothing {
                Bound::Nothing
            } else {
                Bound::Refused
            };
            if let Some(key) = HandleKey::of(&call.operand) {
                self.rebind(key, prior, (identity, place), state);
            }
            let step = if found.is_empty() { Step::Failed } else { Step::Finding };
            self.note(place, prior, step);
            return interest(row, call);
        }
        self.replace(row, call, place);
        self.record(call, prior, (identity, place), nesting);
        let violated = found.iter().any(|found| found.index.is_some());
        self.note(place, prior, if violated { Step::Finding } else { Step::Attempt });
        interest(row, call)
    }

    /// Notes whose the lock is. A lock that nobody holds, and that another module takes into use than the driver under
    /// test, is another lock from then on: its memory has been given to somebody else.
    fn generation(&mut self, site: Site, call: &LockCall, place: u32) {
        let own = site.target || self.is_own_adapter(call);
        let Some(lock) = self.locks.at_mut(place) else { return };
        let mut lost = 0;
        if call.word == Some(0) {
            // Nobody holds it: what was recorded as held is over, by a release or a re-initialisation not seen.
            lost = lock.drop_holds(|record| record.held_since.is_none() || record.over);
            lock.disturbed &= !lock.records.is_empty();
        }
        if lock.records.is_empty() && lock.target && !own {
            lock.begin();
        }
        lock.target &= own || !lock.is_taken_over(call);
        lock.target |= own;
        lock.dispossessed = lock.dispossessed.filter(|agent| !agent.is(&call.context));
        self.ask(OpenQuestion::LostHolds, lost);
    }

    /// Whether a call is one of the driver under test by its adapter, which it has named itself: the port driver calls its
    /// functions, and one that ends in a jump to the routine returns there. Another driver's call with that adapter is none:
    /// its device may have taken the place of the driver's, which is forgotten unless one of its locks is held.
    pub(crate) fn is_own_adapter(&mut self, call: &LockCall) -> bool {
        let own = call.operand.adapter().filter(|own| self.core.adapters.contains(own));
        let Some(adapter) = own else { return false };
        let caller = self.core.modules.name(call.context.return_address);
        let calls_drivers = |name: &str| CALLS_DRIVERS.contains(&name);
        if caller.is_none_or(calls_drivers) || self.core.modules.is_target(call.context.return_address) {
            return true;
        }
        let of_adapter = |lock: &LockIdentity| match lock {
            LockIdentity::StorPort { adapter: of, .. } | LockIdentity::Msi { adapter: of, .. } => *of == adapter,
            _ => false,
        };
        let mut locks = self.locks.iter();
        if !locks.any(|(lock, state)| of_adapter(lock) && !state.records.is_empty()) {
            self.core.adapters.retain(|own| *own != adapter);
        }
        false
    }

    /// The acquire by which the caller of another one certainly holds the lock, by whatever name.
    fn own_hold(
        &self,
        row: &Contract,
        call: &LockCall,
        identity: &LockIdentity,
        (place, taking): (u32, Taking),
    ) -> Option<Own> {
        if row.role != Role::Acquire || taking != Taking::Lock {
            return None;
        }
        let held = |record: &&Record| {
            record.holds_up(&call.context)
                && record.held_since.is_some()
                && !record.over
                && !(record.handle == 0 && matches!(identity, LockIdentity::StorPort { .. }))
        };
        let same = self.locks.at(place)?.records.iter().rfind(held);
        let mut own = match same {
            Some(record) => Own {
                lock: *identity,
                place,
                record: *record,
                overlap: None,
                maybe_none: false,
            },
            None => self.own_by_other_name(call, identity)?,
        };
        if storport::may_be_interrupt_lock(&own.lock, &self.core.port) {
            let taken = own.record.raised_to_device(&call.context) && !self.raised_since(&own);
            own.maybe_none = !taken && !own.record.raised;
            if !taken && storport::is_interrupt_lock(&own.lock, &self.core.port) {
                return None;
            }
        }
        Some(own)
    }

    /// The acquire by which the caller certainly holds a lock of the port driver's that is this one by another name, or has a
    /// part in common with it. Such a lock is held at the IRQL of a device.
    fn own_by_other_name(&self, call: &LockCall, identity: &LockIdentity) -> Option<Own> {
        if call.context.irql <= DISPATCH_LEVEL || call.operand.adapter().is_none() {
            return None;
        }
        let processor = self.core.processors.get(call.context.processor as usize)?;
        let mut proved = processor.open.0.iter().rev().filter(|(open, _)| open.proved);
        proved.find_map(|(open, _)| {
            let lock = *self.locks.key_at(open.place)?;
            let overlap = storport::overlap(identity, &lock, &self.core.port)?;
            let mut records = self.locks.at(open.place)?.records.iter();
            let record = records.find(|record| record.call.sequence == open.call.sequence)?;
            let blind = record.handle == 0 && matches!(lock, LockIdentity::StorPort { .. });
            let held = record.holds_up(&call.context) && record.held_since.is_some() && !record.over && !blind;
            held.then_some(Own {
                lock,
                place: open.place,
                record: *record,
                overlap: Some(overlap),
                maybe_none: false,
            })
        })
    }

    /// Whether another acquire of the same processor may have raised the IRQL to that of a device since.
    fn raised_since(&self, own: &Own) -> bool {
        let processor = self.core.processors.get(own.record.holder as usize);
        let mut open = processor.map_or(&[][..], |processor| &processor.open.0).iter();
        let since = own.record.call.sequence;
        open.any(|(open, _)| {
            open.call.sequence > since
                && open.call.context.irql <= DISPATCH_LEVEL
                && locks_have_no_word(open.call.routine)
        })
    }

    /// Puts together what the rules want to know of an acquire.
    fn acquire_facts<'a>(
        &self,
        site: Site,
        row: &'static Contract,
        call: &'a LockCall,
        identity: &'a LockIdentity,
        (place, own, circle): (u32, Option<&'a Own>, &'a [OrderStep]),
    ) -> Facts<'a> {
        let lock = self.locks.at(place);
        let target = lock.is_some_and(|lock| lock.target);
        let mut shortfall = Shortfall::empty();
        let upset = |lock: &LockState| (lock.disturbed, lock.contradicted);
        let (mut disturbed, mut contradicted) = lock.map_or_else(Default::default, upset);
        if let Some(other) = own.and_then(|own| self.locks.at(own.place)) {
            (disturbed, contradicted) = (disturbed | other.disturbed, contradicted | other.contradicted);
        }
        shortfall.set(Shortfall::DISTURBED, disturbed);
        shortfall.set(Shortfall::CONTRADICTED, contradicted);
        shortfall.set(
            Shortfall::UNORDERED,
            !site.ordered && own.is_some_and(|own| !own.record.bound_to_processor()),
        );
        // Of the pairs of other modules one half may not be seen, the kernel's own among them.
        shortfall.set(Shortfall::UNWATCHED, own.is_some_and(|own| !own.record.target));
        shortfall.set(Shortfall::MAYBE_NONE, own.is_some_and(|own| own.maybe_none));
        let releases = own.map_or(RoutineSet::EMPTY, |own| releases_of(&own.lock));
        // A lock whose word ought to be there, but could not be read, is not worth an opinion.
        let word_missing =
            call.word.is_none() && row.lock_word(&call.operand).is_some() && !locks_have_no_word(call.routine);
        Facts {
            site,
            call,
            call_sequence: site.sequence,
            row,
            lock: identity,
            concerns_target: site.target || target,
            fact: Fact::Acquire(AcquireFacts {
                own: own.filter(|_| !word_missing).and_then(|own| own.record.held()),
                overlap: own.and_then(|own| Some((own.lock, own.overlap?))),
                word_held: call.word.map(|word| word != 0),
                takes_nothing: storport::taking(call) == Taking::Nothing,
                held_by_port: held_by_port(site, call),
                on_stack: lies_on_stack(identity, call),
                circle,
                gap: self.core.gap(releases.union(releases_of(identity)), target),
                shortfall,
            }),
        }
    }

    /// Drops records of the same caller that this call proves to be over: code of the same level runs on, so the older
    /// acquire has come back, and if the lock were still held the caller would now wait for itself. One whose scope has been
    /// left is the business of [`Checker::end_holds`], unless the lock is free: then it was released in a way that was not seen.
    fn replace(&mut self, row: &Contract, call: &LockCall, place: u32) {
        let Some(lock) = self.locks.at_mut(place) else { return };
        if row.role == Role::TryAcquire {
            return;
        }
        let low = call.context.irql < DISPATCH_LEVEL;
        if lock.records.is_empty() {
            return;
        }
        // One that has taken nothing does not make another one wait.
        let identity = LockIdentity::of(&call.operand);
        let maybe_none = identity.is_some_and(|lock| storport::may_be_interrupt_lock(&lock, &self.core.port));
        let handle = HandleKey::of(&call.operand).map_or(0, HandleKey::address);
        let may_have_failed =
            |record: &Record| record.held_since.is_none() && contract(record.call.routine).result.may_fail();
        let over = |record: &Record| {
            let entered = &record.call.context;
            let left = record.over && call.word != Some(0) && !may_have_failed(record);
            // A thread that could not be read is known by its stack.
            let own = record.same_agent(&call.context)
                || (record.may_be_of(&call.context) && record.same_stack(&call.context));
            !left
                && own
                && low != record.bound_to_processor()
                && call.context.irql <= entered.irql.max(1)
                && call.context.stack_pointer >= entered.stack_pointer
                && (!maybe_none || record.handle == handle)
                && !(row.mode == Mode::Shared && contract(record.call.routine).mode == Mode::Shared)
        };
        // It has failed; or the lock was given back in a way that was not seen, or the caller waits for ever.
        lock.forget(|record| !(over(record) && (may_have_failed(record) || record.nested_in.is_some())));
        let lost = lock.forget(|record| !over(record));
        self.ask(OpenQuestion::LostHolds, lost);
    }

    /// Opens a record and binds its handle.
    fn record(&mut self, call: &LockCall, prior: PriorCall, (identity, place): (LockIdentity, u32), nesting: Nesting) {
        let key = HandleKey::of(&call.operand);
        if let Some(key) = key {
            self.rebind(key, prior, (identity, place), Bound::Open);
        } else if let LockOperand::StorPort { adapter, .. } = call.operand {
            // Its release cannot be told from one that has no acquire.
            let own = self.locks.at(place).is_some_and(|lock| lock.target);
            self.core.unreadable_handle(adapter, own);
        }
        let limit = self.core.limits.records;
        let target = self.core.modules.is_target(call.context.return_address);
        let Some(lock) = self.locks.at_mut(place) else { return };
        let own = lock.target;
        let mut record = Record::new(prior, key.map_or(0, HandleKey::address), target);
        record.nested_in = nesting.outer();
        record.free = call.word == Some(0);
        if let Some(forgotten) = lock.open(record, limit) {
            self.core.statistics.records_evicted += 1;
            let own = forgotten.target && forgotten.nested_in.is_none();
            self.ask(OpenQuestion::LostHolds, u64::from(own));
        }
        self.core.grown += 1;
        self.core.recent.push(identity, prior.sequence, &call.context, own);
        let low = call.context.irql < DISPATCH_LEVEL;
        let counts = low && call.context.thread != 0 && locks_have_no_word(call.routine);
        if counts && self.core.late && self.core.entered.len() < self.core.limits.names {
            self.core.entered.insert(call.context.thread);
        }
        let open = Open {
            place,
            call: prior,
            proved: false,
            owed: 0,
        };
        self.follow(open, target);
    }

    /// Gives a handle to a new acquire. One that was still open there is over, since its handle has been overwritten; but
    /// one that has the lock keeps it, if no release of it can have been missed.
    fn rebind(&mut self, key: HandleKey, acquire: PriorCall, (identity, place): (LockIdentity, u32), state: Bound) {
        let old = self.handles.get(&key).copied().filter(|old| old.state == Bound::Open);
        if let Some(old) = old {
            let seen = self.core.gap(releases_of(&old.lock), old.target) == Gap::None;
            if let Some(lock) = self.locks.get_mut(&old.lock) {
                let keeps = |record: &Record| {
                    let fails = contract(record.call.routine).result.may_fail();
                    seen && record.target && (record.held_since.is_some() || !fails)
                };
                let lost = lock.forget(|record| record.call.sequence != old.acquire.sequence || keeps(record));
                self.ask(OpenQuestion::LostHolds, lost);
            }
        }
        let target = self.locks.at(place).is_some_and(|lock| lock.target);
        self.bind(
            key,
            Binding {
                lock: identity,
                acquire,
                state,
                released: None,
                target,
            },
        );
    }

    /// A shared hold may become an exclusive one; only the return tells.
    pub(crate) fn convert(&mut self, site: Site, row: &'static Contract, call: &LockCall, found: &mut Vec<Found>) {
        let Some(identity) = LockIdentity::of(&call.operand) else {
            return;
        };
        let place = self.lock(identity);
        let Some(lock) = self.locks.at_mut(place) else {
            return;
        };
        lock.target |= site.target;
        let concerns_target = lock.target;
        let sure = lock.record_of(&call.context).is_some_and(|record| {
            record.maybe_converted = true;
            record.is_entered_no_more(&call.context)
        });
        self.ask(OpenQuestion::UnknownConversions, u64::from(!sure && concerns_target));
        let facts = Facts {
            site,
            call,
            call_sequence: site.sequence,
            row,
            lock: &identity,
            concerns_target,
            fact: Fact::Convert,
        };
        self.judge(&facts, place, None, found);
    }

    /// A routine came back.
    pub(crate) fn lock_return(&mut self, sequence: u64, returned: &LockReturn) {
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
            let record = lock.record_of(&returned.context);
            if let Some(record) = record.filter(|record| record.is_entered_no_more(&returned.context)) {
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
        let Some(record) = lock.record(returned.call) else {
            if succeeded && returned.context.irql >= DISPATCH_LEVEL {
                self.reopen(place, returned, prior);
                self.note(place, prior, Step::Acquired);
            }
            return;
        };
        record.raised = returned.context.irql > record.call.context.irql;
        let record = *record;
        if !succeeded {
            lock.records.retain(|open| open.call.sequence != returned.call);
            self.unfollow(&record);
            self.close_handle(HandleKey::of(&returned.operand), record.call.sequence, None);
            self.note(place, prior, Step::Failed);
            return;
        }
        // Back below DISPATCH_LEVEL the hold, if there ever was one, is already in doubt.
        if returned.context.irql >= DISPATCH_LEVEL {
            lock.end_nested(returned.call);
            self.unfollow(&record);
            let open = Open {
                place,
                call: record.call,
                proved: true,
                owed: 0,
            };
            if self.prove(&open, Proof::Return, sequence, returned.context.processor) {
                self.follow_hold(open, record.target, returned.context.processor);
            }
        }
        self.note(place, prior, Step::Acquired);
    }

    /// A release between call and return was taken for the call's own, or the call for one that is refused, and that
    /// cannot have been: the caller has the lock now.
    fn reopen(&mut self, place: u32, returned: &LockReturn, prior: PriorCall) {
        let limit = self.core.limits.records;
        let key = HandleKey::of(&returned.operand);
        let Some(lock) = self.locks.at_mut(place) else { return };
        let mut call = prior;
        call.sequence = returned.call;
        call.context.irql = APC_LEVEL;
        let mut record = Record::new(call, key.map_or(0, HandleKey::address), false);
        record.held_since = Some(prior.sequence);
        let own = lock.target;
        lock.open(record, limit);
        self.core.grown += 1;
        // Whose release that was is not known.
        self.core.statistics.unknown_releases += 1;
        self.ask(OpenQuestion::UnknownReleases, u64::from(own));
        if let Some(binding) = key.and_then(|key| self.handles.get_mut(&key)) {
            if binding.acquire.sequence == returned.call {
                binding.state = Bound::Open;
            }
        }
    }
}

/// An acquire by which a caller certainly holds what it asks for.
#[derive(Clone, Copy, Debug)]
struct Own {
    /// The lock that it has acquired: the same one, or one that has this for another name or as a part.
    lock: LockIdentity,
    place: u32,
    record: Record,
    overlap: Option<Overlap>,
    /// The port driver may have taken no lock for it.
    maybe_none: bool,
}

/// Modules that call functions of drivers: a call that returns there may be one of a driver's that ended in a jump.
const CALLS_DRIVERS: [&str; 4] = [
    SystemModule::Ntoskrnl.file_name(),
    SystemModule::Storport.file_name(),
    "hal.dll",
    "wdf01000.sys",
];

/// Whether a lock lies on the stack of its caller: above the stack pointer, and not far from it.
const fn lies_on_stack(identity: &LockIdentity, call: &LockCall) -> bool {
    match identity {
        LockIdentity::Address(lock) => lock.wrapping_sub(call.context.stack_pointer) < STACK,
        _ => false,
    }
}

/// The releases of a `KSPIN_LOCK` or an `EX_SPIN_LOCK`.
const BY_ADDRESS: RoutineSet = RoutineSet::of(&[
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
]);
const OF_STORPORT: RoutineSet = RoutineSet::of(&[Routine::StorPortReleaseSpinLock]);
const OF_MESSAGE: RoutineSet = RoutineSet::of(&[Routine::StorPortReleaseMSISpinLock]);
const OF_INTERRUPT: RoutineSet = RoutineSet::of(&[Routine::KeReleaseInterruptSpinLock]);
const OF_CANCEL: RoutineSet = RoutineSet::of(&[Routine::IoReleaseCancelSpinLock]);

/// All releases, of whatever kind, that end the hold of such a lock.
pub(crate) const fn releases_of(identity: &LockIdentity) -> RoutineSet {
    match identity {
        LockIdentity::Address(_) | LockIdentity::Handle(_) => BY_ADDRESS,
        LockIdentity::StorPort { .. } => OF_STORPORT,
        LockIdentity::Msi { .. } => OF_MESSAGE,
        LockIdentity::Interrupt(_) => OF_INTERRUPT,
        LockIdentity::Cancel => OF_CANCEL,
    }
}

/// All acquires, of whatever kind, that take such a lock. One that is not seen can be released by what looks like the
/// release of another.
pub(crate) const fn acquires_of(identity: &LockIdentity) -> RoutineSet {
    // Put together at compile time: every release asks for it.
    const OF_ADDRESS: RoutineSet = feeders(BY_ADDRESS);
    const OF_STORPORT_LOCK: RoutineSet = feeders(OF_STORPORT);
    const OF_MESSAGE_LOCK: RoutineSet = feeders(OF_MESSAGE);
    const OF_INTERRUPT_LOCK: RoutineSet = feeders(OF_INTERRUPT);
    const OF_CANCEL_LOCK: RoutineSet = feeders(OF_CANCEL);
    match identity {
        LockIdentity::Address(_) | LockIdentity::Handle(_) => OF_ADDRESS,
        LockIdentity::StorPort { .. } => OF_STORPORT_LOCK,
        LockIdentity::Msi { .. } => OF_MESSAGE_LOCK,
        LockIdentity::Interrupt(_) => OF_INTERRUPT_LOCK,
        LockIdentity::Cancel => OF_CANCEL_LOCK,
    }
}

/// The acquires that any of these releases may follow.
const fn feeders(releases: RoutineSet) -> RoutineSet {
    let mut set = RoutineSet::EMPTY;
    let mut number = 0;
    while number < CONTRACTS.len() {
        if releases.contains(CONTRACTS[number].routine) {
            set = set.union(CONTRACTS[number].fed_by);
        }
        number += 1;
    }
    set
}

/// The callback that makes an acquire and around which the port driver holds the lock; whether that is certain.
fn held_by_port(site: Site, call: &LockCall) -> Option<(Callback, bool)> {
    let told = site.in_callback?;
    if storport::taking(call) != Taking::Lock || !site.target {
        return None;
    }
    match told.callback.port_hold(told.port, &call.operand, call.context.irql) {
        PortHold::No => None,
        hold => Some((told.callback, hold == PortHold::Certainly)),
    }
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
