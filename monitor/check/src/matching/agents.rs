//! The agents that hold locks, threads and processors: when their acquires have proved to have come back, and when their
//! holds are over because they have gone on without them.

use super::acquire::{acquires_of, releases_of};
use super::facts::{Fact, Facts, HoldEnded, Shown, Site};
use super::open_questions::OpenQuestion;
use super::record::{Open, Record};
use super::state::{Bound, LockState};
use super::storport::{may_be_interrupt_lock, may_be_none};
use super::{Gap, Thread};
use crate::checker::Checker;
use crate::contract::{Mode, Role, contract};
use crate::event::{Context, DISPATCH_LEVEL, LockCall, LockOperand};
use crate::finding::{Proof, Verdict};
use crate::identity::{HandleKey, LockIdentity};
use crate::ledger::Found;

/// An acquire whose scope has been left, and whether it is the driver's under test; what has shown it.
pub(crate) type Ended = ((Open, bool), Shown);

impl Checker {
    /// Learns from where and how a processor runs; `call`: the call that it is about to make. False if there is no such
    /// processor. Holds that are over are marked, and stay until [`Checker::end_holds`].
    pub(crate) fn observe(&mut self, sequence: u64, context: &Context, call: Option<&LockCall>) -> bool {
        if !self.core.see_irql(sequence, context.processor, context.irql) {
            return false;
        }
        self.end_release(context, call);
        let place = self.thread_place(context.processor, context.thread);
        let thread = place.and_then(|place| self.threads.at_mut(place));
        let (mut has_open, mut moved) = (false, None);
        if let Some(thread) = thread {
            has_open = !thread.open.0.is_empty();
            moved = thread.holder.take_if(|holder| *holder != context.processor);
        }
        if let Some(left) = moved {
            self.leave_holds(left, context);
        }
        let open_of = place.filter(|_| has_open);
        if context.irql < DISPATCH_LEVEL {
            self.leave_processor(context.processor);
            self.leave_frames(open_of, context, call);
        } else {
            self.prove_on_processor(sequence, context, call);
            self.prove_by_frame(open_of, sequence, context, call);
        }
        true
    }

    /// The same, of a processor of which only the IRQL is known.
    pub(crate) fn see_irql(&mut self, sequence: u64, processor: u32, irql: u8) {
        if self.core.see_irql(sequence, processor, irql) && irql < DISPATCH_LEVEL {
            self.leave_processor(processor);
        }
    }

    /// A release that was being worked on is over when its processor does anything outside of its frame.
    fn end_release(&mut self, context: &Context, call: Option<&LockCall>) {
        let Some(processor) = self.core.processors.get_mut(context.processor as usize) else {
            return;
        };
        if let Some((_, outer)) = &processor.releasing {
            let interrupt = context.irql > outer.context.irql;
            // The call itself is asked whether it is part of the release before that ends.
            let asks = call.is_some_and(|call| contract(call.routine).role == Role::Release);
            if !interrupt && !asks {
                processor.releasing = None;
            }
        }
    }

    /// A processor runs below `DISPATCH_LEVEL`: nothing is held there any more.
    fn leave_processor(&mut self, processor: u32) {
        let Some(processor) = self.core.processors.get_mut(processor as usize) else {
            return;
        };
        processor.releasing = None;
        if processor.open.0.is_empty() {
            return;
        }
        for ended in std::mem::take(&mut processor.open.0) {
            self.mark_over(ended, Shown::SeenLow);
        }
    }

    /// A thread runs elsewhere than where it had locks: it has been below `DISPATCH_LEVEL` since, and holds nothing there.
    #[cold]
    fn leave_holds(&mut self, left: u32, context: &Context) {
        if context.thread == 0 {
            return;
        }
        let own = |open: &Open| {
            let entered = &open.call.context;
            (open.proved && entered.irql < DISPATCH_LEVEL && entered.thread == context.thread).then_some(())
        };
        let shown = if context.irql < DISPATCH_LEVEL {
            Shown::SeenLow
        } else {
            Shown::Moved
        };
        while let Some((ended, ())) = self.core.processor(left).and_then(|processor| processor.open.take(own)) {
            self.mark_over(ended, shown);
        }
    }

    /// A thread runs below `DISPATCH_LEVEL`: what it acquired in frames that it has left is over.
    pub(super) fn leave_frames(&mut self, thread: Option<u32>, context: &Context, call: Option<&LockCall>) {
        let Some(place) = thread else { return };
        // With interrupts off nothing can come in between either: who has acquired it so holds it until they are on.
        let left = |open: &Open| {
            let shut = !open.call.context.interrupts && !context.interrupts;
            (open.left_by(context) && !shut).then_some(())
        };
        while let Some((ended, ())) = self.threads.at_mut(place).and_then(|thread| thread.open.take(left)) {
            let again = call.is_some_and(|call| self.may_be_again(&ended.0, call));
            if again {
                if let Some(lock) = self.locks.at_mut(ended.0.place) {
                    lock.records
                        .retain(|record| record.call.sequence != ended.0.call.sequence);
                }
            } else {
                self.mark_over(ended, Shown::SeenLow);
            }
        }
    }

    /// Whether a call may be an open acquire once more, which was interrupted before its first instruction. It is not if that
    /// one has found the lock free, and nobody else can have taken it since: the lock is taken now, so the acquire has come back.
    fn may_be_again(&self, open: &Open, call: &LockCall) -> bool {
        let (now, then) = (&call.context, &open.call);
        let same = call.routine == then.routine
            && now.stack_pointer == then.context.stack_pointer
            && now.return_address == then.context.return_address;
        let Some(lock) = LockIdentity::of(&call.operand).filter(|_| same) else {
            return false;
        };
        let state = self
            .locks
            .at(open.place)
            .filter(|_| self.locks.find(&lock) == Some(open.place));
        let taken = call.word.is_some_and(|word| word != 0);
        state.is_some_and(|state| {
            let got = matches!(&*state.records, [only] if self.has_got(only, &lock, state));
            !(taken && got)
        })
    }

    /// Whether an acquire of the driver under test has got the lock, if that is taken now: it has found the lock free, and no
    /// other that could have taken it since would have been missed. Others that are open have to be looked at.
    pub(super) fn has_got(&self, record: &Record, lock: &LockIdentity, state: &LockState) -> bool {
        let touching = releases_of(lock).union(acquires_of(lock));
        let seen = !self.core.late && self.core.gap(touching, true) == Gap::None;
        let plain = matches!(lock, LockIdentity::Address(_));
        seen && plain && record.target && record.free && state.is_untouched_since(record)
    }

    pub(super) fn mark_over(&mut self, ended: (Open, bool), shown: Shown) {
        let Some(identity) = self.locks.key_at(ended.0.place).copied() else {
            return;
        };
        let lock = self.locks.at_mut(ended.0.place);
        let Some(record) = lock.and_then(|lock| lock.record(ended.0.call.sequence)) else {
            return;
        };
        // If it took nothing, a low IRQL does not end it.
        if !may_be_none(&identity, record, &self.core.port) {
            record.over = true;
            self.ended.push((ended, shown));
        }
    }

    /// Code of the same level runs on: acquires of this processor have come back.
    fn prove_on_processor(&mut self, sequence: u64, context: &Context, call: Option<&LockCall>) {
        let routine = call.map(|call| call.routine);
        let driver = call.is_some() && self.core.modules.is_declared_target(context.return_address);
        let number = context.processor as usize;
        let Some(processor) = self.core.processors.get_mut(number) else {
            return;
        };
        if processor.open.0.iter().all(|(open, _)| open.proved) {
            return;
        }
        let mut open = std::mem::take(&mut processor.open);
        open.0.retain_mut(|(open, _)| {
            let Some(proof) = open.returned_by(context, routine, driver).filter(|_| !open.proved) else {
                return true;
            };
            open.proved = true;
            self.prove(open, proof, sequence, context.processor)
        });
        if let Some(processor) = self.core.processors.get_mut(number) {
            processor.open = open;
        }
    }

    /// The frame of an acquire has been left at `DISPATCH_LEVEL` or above: it has come back with the lock.
    fn prove_by_frame(&mut self, thread: Option<u32>, sequence: u64, context: &Context, call: Option<&LockCall>) {
        let routine = call.map(|call| call.routine);
        let Some(place) = thread else { return };
        let driver = call.is_some() && self.core.modules.is_declared_target(context.return_address);
        let back = |open: &Open| open.returned_by(context, routine, driver);
        while let Some(((mut open, target), proof)) =
            self.threads.at_mut(place).and_then(|thread| thread.open.take(back))
        {
            open.proved = true;
            if self.prove(&open, proof, sequence, context.processor) {
                self.follow_hold(open, target, context.processor);
            }
        }
    }

    /// Follows an acquire that has come back with the lock on a processor.
    pub(super) fn follow_hold(&mut self, open: Open, target: bool, processor: u32) {
        let thread = open.call.context.thread;
        let place = self.thread_place(processor, thread);
        let place = place.unwrap_or_else(|| self.threads.insert(thread, Thread::default()).0);
        if let Some(thread) = self.threads.at_mut(place) {
            thread.holder = Some(processor);
        }
        if let Some(processor) = self.core.processor(processor) {
            processor.open.push(open, target);
        }
    }

    /// An acquire has come back with the lock on this processor. False if it is open no more.
    pub(crate) fn prove(&mut self, open: &Open, proof: Proof, sequence: u64, processor: u32) -> bool {
        let key = self.locks.key_at(open.place);
        let excludes = !key.is_some_and(|lock| may_be_interrupt_lock(lock, &self.core.port));
        let Some(lock) = self.locks.at_mut(open.place) else {
            return false;
        };
        let Some(record) = lock.record(open.call.sequence).filter(|record| !record.doubtful) else {
            return false;
        };
        if record.held_since.is_none() {
            (record.held_since, record.proof) = (Some(sequence), proof);
        }
        record.holder = processor;
        let proved = *record;
        if excludes
            && lock.records.len() > 1
            && contract(proved.call.routine).mode == Mode::Exclusive
            && !proved.maybe_converted
        {
            // Two cannot hold it: the other's hold has ended in a way that was not seen.
            let lost = lock.drop_holds(|other| {
                other.held_since.is_none()
                    || other.call.sequence == proved.call.sequence
                    || other.nested_in == Some(proved.call.sequence)
                    || proved.nested_in == Some(other.call.sequence)
                    || other.holder == processor
            });
            self.ask(OpenQuestion::LostHolds, lost);
        }
        true
    }

    /// Where a thread is in the table. A processor runs one for a while, so its last one is looked at first.
    pub(super) fn thread_place(&mut self, processor: u32, thread: u64) -> Option<u32> {
        let number = processor as usize;
        let last = self.core.processors.get(number).map_or(0, |processor| processor.thread);
        if self.threads.key_at(last) == Some(&thread) {
            return Some(last);
        }
        let place = self.threads.find(&thread)?;
        if let Some(processor) = self.core.processors.get_mut(number) {
            processor.thread = place;
        }
        Some(place)
    }

    /// Follows a new acquire until it is released.
    pub(crate) fn follow(&mut self, open: Open, target: bool) {
        let context = open.call.context;
        if context.irql >= DISPATCH_LEVEL {
            if let Some(processor) = self.core.processor(context.processor) {
                processor.open.push(open, target);
            }
            return;
        }
        let place = self.thread_place(context.processor, context.thread);
        let place = place.unwrap_or_else(|| self.threads.insert(context.thread, Thread::default()).0);
        if let Some(thread) = self.threads.at_mut(place) {
            thread.open.push(open, target);
        }
    }

    /// An acquire is over: nobody need follow it.
    pub(crate) fn unfollow(&mut self, record: &super::record::Record) {
        let (sequence, context) = (record.call.sequence, &record.call.context);
        if record.held_since.is_some() || record.bound_to_processor() {
            let processor = if record.held_since.is_some() {
                record.holder
            } else {
                context.processor
            };
            if let Some(processor) = self.core.processors.get_mut(processor as usize) {
                processor.open.remove(sequence);
            }
        }
        if !record.bound_to_processor() && record.held_since.is_none() {
            let place = self.thread_place(context.processor, context.thread);
            if let Some(thread) = place.and_then(|place| self.threads.at_mut(place)) {
                thread.open.remove(sequence);
            }
        }
    }

    /// Ends the holds whose scope has been left, and has those judged that were certain and are the driver's under test.
    pub(crate) fn end_holds(
        &mut self,
        sequence: u64,
        ordered: bool,
        (processor, irql): (u32, u8),
        found: &mut Vec<Found>,
    ) {
        for ((open, target), shown) in std::mem::take(&mut self.ended) {
            let Some((identity, record, untouched)) = self.end_hold(&open) else {
                continue;
            };
            // Its acquire may have been a part of another one.
            if target && record.nested_in.is_none() {
                let certain = ordered && untouched;
                self.not_released(
                    sequence,
                    &record,
                    (identity, open.place),
                    (processor, irql, shown),
                    (certain, found),
                );
            }
        }
    }

    /// An acquire of the driver under test is over, and no release was seen. `processor`, `irql`, `shown`: how that has shown.
    /// `certain`: nothing was seen that could have ended it.
    fn not_released(
        &mut self,
        sequence: u64,
        record: &Record,
        (identity, place): (LockIdentity, u32),
        (processor, irql, shown): (u32, u8, Shown),
        (certain, found): (bool, &mut Vec<Found>),
    ) {
        let ended = self.hold(record, &identity, (processor, irql));
        let ended = ended.map(|ended| HoldEnded { shown, ..ended });
        match ended.filter(|_| certain && !may_be_none(&identity, record, &self.core.port)) {
            Some(ended) => self.judge_open(sequence, record, (identity, place), Fact::HoldEnded(ended), found),
            None => self.ask(OpenQuestion::LostHolds, 1),
        }
    }

    /// An acquire of the driver under test is released by the very call that shows its scope to be left: it was held
    /// below `DISPATCH_LEVEL` until then. A release that is wrong for certain has been told already.
    pub(super) fn held_too_long(
        &mut self,
        site: &Site,
        call: &LockCall,
        (record, identity, place): (&Record, LockIdentity, u32),
        found: &mut Vec<Found>,
    ) {
        let same = |ended: &&Ended| ended.0.0.call.sequence == record.call.sequence;
        let Some(((_, target), shown)) = self.ended.iter().find(same).copied() else {
            return;
        };
        let untouched = self.locks.at(place).is_some_and(|lock| lock.is_untouched_since(record));
        let told = found.iter().any(|found| found.verdict == Verdict::Semantic);
        let context = &call.context;
        let hold = self.hold(record, &identity, (context.processor, context.irql));
        if let Some(hold) = hold.filter(|_| target && record.nested_in.is_none() && site.ordered && untouched && !told)
        {
            let fact = Fact::HoldEnded(HoldEnded { shown, ..hold });
            self.judge_open(site.sequence, record, (identity, place), fact, found);
        }
    }

    /// What is known of a hold of the driver under test that no release has ended; `None`: there may have been one, or no hold.
    pub(super) fn hold(&self, record: &Record, lock: &LockIdentity, (processor, irql): (u32, u8)) -> Option<HoldEnded> {
        let row = contract(record.call.routine);
        let gap = self.core.gap(releases_of(lock), true);
        // One that can fail has got the lock if its return said so.
        let counts = (record.held_since.is_some() || !row.result.may_fail())
            && row.role != Role::Convert
            && *lock != LockIdentity::Cancel
            && !(record.handle == 0 && matches!(lock, LockIdentity::StorPort { .. }));
        (counts && gap != Gap::Imported).then(|| HoldEnded {
            processor,
            irql,
            proof: record.held_since.map(|since| (since, record.proof)),
            certain: gap == Gap::None,
            shown: Shown::SeenLow,
        })
    }

    /// Judges what has become known by an event of an open acquire of the driver under test, which is none of that event's own.
    pub(super) fn judge_open(
        &mut self,
        sequence: u64,
        record: &Record,
        (identity, place): (LockIdentity, u32),
        fact: Fact<'_>,
        found: &mut Vec<Found>,
    ) {
        let facts = Facts {
            site: Site {
                sequence,
                ordered: true,
                target: true,
                in_callback: None,
                port: None,
            },
            call: &record.as_call(identity),
            call_sequence: record.call.sequence,
            row: contract(record.call.routine),
            lock: &identity,
            concerns_target: true,
            fact,
        };
        self.judge(&facts, place, None, found);
    }

    /// Ends a hold whose scope has been left. Its lock and record, and whether nothing happened to the lock that could have
    /// ended it.
    pub(super) fn end_hold(&mut self, open: &Open) -> Option<(LockIdentity, Record, bool)> {
        let identity = self.locks.key_at(open.place).copied()?;
        let lock = self.locks.at_mut(open.place)?;
        let mut records = lock.records.iter();
        let index = records.position(|record| record.call.sequence == open.call.sequence)?;
        let record = lock.records.remove(index);
        lock.end_nested(open.call.sequence);
        let untouched = lock.is_untouched_since(&record);
        let key = handle_key(Some(identity), record.handle);
        self.close_handle(key, open.call.sequence, None);
        Some((identity, record, untouched))
    }

    /// Marks a handle as free if it belongs to that acquire. `released`: by which event, if by a release.
    pub(crate) fn close_handle(&mut self, key: Option<HandleKey>, acquire: u64, released: Option<u64>) {
        let binding = key.and_then(|key| self.handles.get_mut(&key));
        if let Some(binding) = binding.filter(|binding| binding.acquire.sequence == acquire) {
            binding.state = Bound::Over;
            binding.released = released;
        }
    }
}

/// The handle of an acquire.
fn handle_key(lock: Option<LockIdentity>, handle: u64) -> Option<HandleKey> {
    match lock? {
        _ if handle == 0 => None,
        LockIdentity::StorPort { .. } => Some(HandleKey::StorPort(handle)),
        _ => Some(HandleKey::Queued(handle)),
    }
}

impl Record {
    /// The acquire as a call of that lock.
    pub(super) fn as_call(&self, identity: LockIdentity) -> LockCall {
        LockCall {
            routine: self.call.routine,
            context: self.call.context,
            operand: operand(identity, self.handle),
            old_irql: None,
            word: None,
        }
    }
}

/// What an acquire of that lock was given.
fn operand(lock: LockIdentity, handle: u64) -> LockOperand {
    match lock {
        LockIdentity::Address(lock) if handle != 0 => LockOperand::Queued { lock, handle },
        LockIdentity::Address(lock) | LockIdentity::Handle(lock) => LockOperand::Address(lock),
        LockIdentity::StorPort { adapter, kind, context } => LockOperand::StorPort {
            adapter,
            kind,
            context,
            handle,
        },
        LockIdentity::Msi { adapter, message } => LockOperand::Msi { adapter, message },
        LockIdentity::Interrupt(object) => LockOperand::Interrupt(object),
        LockIdentity::Cancel => LockOperand::Cancel,
    }
}
