//! Releases.

use super::acquire::{acquires_of, releases_of};
use super::state::{LockState, Record, fits};
use super::{Checker, Core, Response, ReturnInterest, Site};
use crate::contract::{CONTRACTS, Contract, Mode, Role, Routine, RoutineSet, contract};
use crate::event::{Context, LockCall, LockOperand};
use crate::identity::{HandleKey, LockIdentity};
use crate::rules::{Cause, Judgement, PriorCall, RecordFacts, ReleaseFacts, RuleId, Shortfall, Step, judge_release};

/// The lock that a release is about, and the acquire that its handle names.
struct Subject {
    identity: LockIdentity,
    /// Sequence number of the acquire of the handle, if it is open.
    acquire: Option<u64>,
    /// The release is by handle.
    by_handle: bool,
}

impl Checker {
    /// A release was entered.
    pub(super) fn release(&mut self, site: Site, row: &'static Contract, call: &LockCall) -> Response {
        let subject = self.subject(&call.operand);
        let prior = PriorCall {
            sequence: site.sequence,
            routine: call.routine,
            context: call.context,
        };
        let place = self.lock(subject.identity);
        let Some(lock) = self.locks.at_mut(place) else {
            return Response::NOTHING;
        };
        lock.target |= site.target;
        if lock.in_release(call) {
            self.core.statistics.nested += 1;
            self.note(place, prior, Step::Nested);
            return Response::NOTHING;
        }
        let Some(lock) = self.locks.at(place) else {
            return Response::NOTHING;
        };
        let index = self.core.find_record(lock, &subject, row, &call.context);
        let record = index.map(|index| lock.records[index]);
        let facts = self.facts(site, call, (subject.identity, lock), record.as_ref());
        let (judgement, over) = judge_release(&facts);
        let response = self.conclude(site, call, &subject, place, record, judgement);
        if let (true, Some(record)) = (over, record) {
            self.learn_word(call, &record);
            self.end(call, prior, place, &record);
        }
        let step = match judgement {
            Judgement::Fine | Judgement::Broken(_, Cause::UnnamedRoutine, _) => Step::Released,
            Judgement::Unknown => Step::Unknown,
            Judgement::Broken(..) => Step::Violation,
        };
        self.note(place, prior, step);
        response
    }

    /// Finds the lock of a release.
    fn subject(&self, operand: &LockOperand) -> Subject {
        let by_handle = HandleKey::of(operand);
        if let Some(identity) = LockIdentity::of(operand) {
            return Subject {
                identity,
                acquire: None,
                by_handle: false,
            };
        }
        let binding = by_handle.and_then(|key| self.handles.get(&key));
        let hint = match *operand {
            LockOperand::QueuedHandle { lock, .. } => lock.map(LockIdentity::Address),
            _ => None,
        };
        let handle = by_handle.map_or(0, HandleKey::address);
        Subject {
            identity: binding
                .map(|binding| binding.lock)
                .or(hint)
                .unwrap_or(LockIdentity::Handle(handle)),
            acquire: binding.filter(|binding| binding.open).map(|binding| binding.acquire),
            by_handle: true,
        }
    }

    /// Puts together what the rules want to know.
    fn facts(
        &self,
        site: Site,
        call: &LockCall,
        (identity, lock): (LockIdentity, &LockState),
        record: Option<&Record>,
    ) -> ReleaseFacts {
        let row = contract(call.routine);
        let core = &self.core;
        let holder = other_holder(core, lock, &call.context);
        let mut shortfall = Shortfall::empty();
        shortfall.set(Shortfall::DISTURBED, lock.disturbed);
        shortfall.set(Shortfall::UNORDERED, !site.ordered);
        shortfall.set(Shortfall::UNWATCHED, !core.watches(row.fed_by, lock.target));
        let foreign = record.is_some_and(|record| !record.same_agent(&call.context));
        if (holder.is_some() || foreign) && !core.watches(releases_of(&identity), lock.target) {
            shortfall |= Shortfall::UNWATCHED;
        }
        let word_held = call.word.filter(|_| core.words != Some(false)).map(|word| word != 0);
        let unsure_thread = core.late && word_held.is_none() && !core.threads.contains(&call.context.thread);
        shortfall.set(Shortfall::LATE, record.is_none() && unsure_thread);
        if let Some(record) = record.filter(|record| !fits(row.routine, record)) {
            // Either call may have been made by another routine to do its work, and that one not have been seen.
            let inner = callers(record.call.routine);
            shortfall.set(Shortfall::LATE, core.late && !inner.is_empty());
            let unresolved = contract(record.call.routine).role == Role::TryAcquire && record.held_since.is_none();
            shortfall.set(Shortfall::UNRESOLVED, unresolved);
            let needed = inner
                .union(callers(row.routine))
                .union(acquires_of(&identity))
                .union(releases_of(&identity));
            if !core.watches(needed, lock.target) {
                shortfall |= Shortfall::UNWATCHED;
            }
        }
        ReleaseFacts {
            contract: row,
            word_held,
            words_proven: core.words == Some(true),
            record: record.map(|record| RecordFacts {
                routine: record.call.routine,
                certain: core.certainly_held(record, &call.context),
                fits: fits(row.routine, record),
                foreign,
            }),
            other_holder: holder.is_some(),
            // Of a driver that had not run when the watch began no hold can be older, whatever the processors did.
            known: core.known() || (!core.late && core.is_declared_target(call.context.return_address)),
            shortfall,
        }
    }

    /// Acts on a judgement.
    fn conclude(
        &mut self,
        site: Site,
        call: &LockCall,
        subject: &Subject,
        place: u32,
        record: Option<Record>,
        judgement: Judgement,
    ) -> Response {
        let Judgement::Broken(verdict, cause, shortfall) = judgement else {
            let statistics = &mut self.core.statistics;
            match judgement {
                Judgement::Unknown => statistics.unknown_releases += 1,
                _ => statistics.matched += 1,
            }
            return Response::NOTHING;
        };
        let row = contract(call.routine);
        let rule = RuleId::of_release(row.class);
        let mut violation = self.violation(site, call, subject.identity, rule, (verdict, cause, shortfall));
        violation.acquire = record.map(|record| record.call);
        if let Some(lock) = self.locks.at(place) {
            violation.holder = other_holder(&self.core, lock, &call.context).map(|record| record.call);
            self.name(&mut violation, lock, record.as_ref());
        }
        let found = self.report(violation, place);
        // The lock may now be free although its holder has not released it.
        let upsets = matches!(cause, Cause::WrongOwner) || (record.is_none() && call.word != Some(0));
        if let Some(lock) = self.locks.at_mut(place) {
            lock.disturbed |= upsets && !lock.records.is_empty();
        }
        Response {
            found: Some(found),
            interest: ReturnInterest::None,
        }
    }

    /// Closes a record.
    fn end(&mut self, call: &LockCall, prior: PriorCall, place: u32, record: &Record) {
        let released = Some(prior.sequence);
        self.close_handle(HandleKey::of(&call.operand), record.call.sequence, released);
        let Some(lock) = self.locks.at_mut(place) else { return };
        lock.records.retain(|open| open.call.sequence != record.call.sequence);
        lock.end_nested(record.call.sequence);
        if !contract(call.routine).may_call.is_empty() {
            lock.releasing.push(prior);
            self.core.grown += 1;
        }
        if call.word.is_none() {
            lock.disturbed &= !lock.records.is_empty();
        }
        // A queued lock that was released by address leaves its handle behind.
        if record.handle != 0 && HandleKey::of(&call.operand).is_none() {
            self.close_handle(Some(HandleKey::Queued(record.handle)), record.call.sequence, released);
        }
    }

    /// Learns whether this guest's lock words tell the truth.
    fn learn_word(&mut self, call: &LockCall, record: &Record) {
        match call.word {
            Some(0) => {
                let disturbed = LockIdentity::of(&call.operand)
                    .and_then(|identity| self.locks.get(&identity))
                    .is_none_or(|lock| lock.disturbed);
                if record.held_since.is_some() && !disturbed {
                    self.core.statistics.words_contradicted += 1;
                    self.core.words.get_or_insert(false);
                }
            }
            Some(_) => {
                self.core.words.get_or_insert(true);
            }
            None => {}
        }
    }
}

impl Core {
    /// Whether the processor of a hold has been below `DISPATCH_LEVEL` since: then the lock was released unseen, or the
    /// IRQL was lowered under it; either way nothing can be built on it.
    pub(super) fn hold_over(&self, record: &Record) -> bool {
        record
            .held_since
            .is_none_or(|since| self.low_since(record.holder, since))
    }

    /// Whether the caller of a release has certainly got the lock by this acquire.
    pub(super) fn certainly_held(&self, record: &Record, context: &Context) -> bool {
        let came_back = record.bound_to_processor()
            && record.same_agent(context)
            && context.irql <= record.call.context.irql
            && !contract(record.call.routine).result.may_fail()
            && !self.low_since(record.call.context.processor, record.call.sequence);
        came_back || !self.hold_over(record)
    }

    /// Whether a processor has been below `DISPATCH_LEVEL` after an event.
    fn low_since(&self, processor: u32, sequence: u64) -> bool {
        let last_low = self
            .processors
            .get(processor as usize)
            .and_then(|processor| processor.last_low);
        last_low.is_some_and(|low| low >= sequence)
    }

    /// The record that a release belongs to.
    fn find_record(&self, lock: &LockState, subject: &Subject, row: &Contract, context: &Context) -> Option<usize> {
        if let Some(acquire) = subject.acquire {
            return lock.records.iter().rposition(|record| record.call.sequence == acquire);
        }
        if subject.by_handle {
            // The handle was never filled in: at best the caller took the lock in a way that needs none.
            return lock
                .records
                .iter()
                .rposition(|record| record.handle == 0 && record.same_agent(context));
        }
        // A try whose processor was below DISPATCH_LEVEL since has failed, or its lock was released unseen.
        let failed = |record: &Record| {
            contract(record.call.routine).role == Role::TryAcquire
                && self.low_since(context.processor, record.call.sequence)
        };
        let own = |record: &Record| record.same_agent(context) && !failed(record);
        lock.match_release(row.routine, own, |record| self.certainly_held(record, context))
    }
}

/// An exclusive hold by somebody else that is certain and has not ended.
fn other_holder<'a>(core: &Core, lock: &'a LockState, context: &Context) -> Option<&'a Record> {
    lock.records.iter().find(|record| {
        let row = contract(record.call.routine);
        !record.same_agent(context)
            && (row.mode == Mode::Exclusive || row.role == Role::Convert)
            && !record.maybe_converted
            && !core.hold_over(record)
    })
}

/// The routines that may call this one to do their work.
fn callers(routine: Routine) -> RoutineSet {
    CONTRACTS
        .iter()
        .filter(|row| row.may_call.contains(routine))
        .map(|row| row.routine)
        .collect()
}
