//! Releases: which lock, which acquire, and what is known when they are entered.

use super::facts::{Fact, Facts, Pairing, ReleaseFacts, Restored, Site};
use super::open_questions::OpenQuestion;
use super::record::{Record, SMALLEST_INTERRUPT, fits, may_jump_to, within};
use super::state::{Binding, Bound, LockState, may_be_thread};
use super::storport;
use crate::checker::Checker;
use crate::contract::{Contract, LockClass, Mode, Role, Routine, RoutineSet, SystemModule, contract};
use crate::event::{Context, LockCall, LockOperand};
use crate::finding::{PriorCall, Step, Verdict};
use crate::identity::{HandleKey, LockIdentity, is_dpc_lock};
use crate::ledger::Found;

/// The lock that a release is about, and what its handle says of the acquire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub(super) identity: LockIdentity,
    /// Sequence number of the acquire of the handle, if it is open.
    pub(super) acquire: Option<u64>,
    /// The release is by handle.
    pub(super) by_handle: bool,
    /// What the handle says, if that settles how the release is paired.
    told: Option<Pairing>,
    /// The acquire of the handle, if it was refused.
    pub(super) refused: Option<PriorCall>,
}

impl Checker {
    /// A release was entered.
    pub(crate) fn release(&mut self, site: Site, row: &'static Contract, call: &LockCall, found: &mut Vec<Found>) {
        let subject = self.subject(call);
        let prior = PriorCall {
            sequence: site.sequence,
            routine: call.routine,
            context: call.context,
        };
        let place = self.lock(subject.identity);
        let own = site.target || self.is_own_adapter(call);
        let nested = self.in_release(place, call);
        let Some(lock) = self.locks.at_mut(place) else {
            return;
        };
        if lock.records.is_empty() && !own {
            // Nobody is known to hold it, and another module uses it: its memory is the driver's under test no more.
            lock.target = false;
        }
        lock.target &= !lock.is_taken_over(call);
        lock.target |= own;
        if nested {
            lock.last_release = site.sequence;
            self.core.statistics.nested += 1;
            self.note(place, prior, Step::Nested);
            return;
        }
        let (pairing, index) = self.pair(&subject, row, call, place);
        let record = self.locks.at(place).and_then(|lock| Some(lock.records[index?]));
        let others = self.others(row, call, &subject, place, record.is_some());
        let facts = self.release_facts(site, row, call, (&subject, place), (pairing, record.as_ref(), &others));
        if let (Some(index), Some(record)) = (index, &record) {
            let sure = subject.by_handle || self.certainly_held(record, &call.context);
            if let Some(lock) = self.locks.at_mut(place).filter(|lock| !sure && lock.records.len() > 1) {
                lock.doubt_others(index, &call.context);
            }
        }
        self.judge(&facts, place, record.as_ref(), found);
        if let Some(record) = record.filter(|record| record.over && pairing == Pairing::Own) {
            self.held_too_long(&site, call, (&record, subject.identity, place), found);
        }
        self.conclude(site, call, &facts, place, record.as_ref(), found);
    }

    /// Whether this release is of the kind that an open acquire of its caller asks for. Changes nothing: for telling apart
    /// routines that share their code.
    #[must_use]
    pub fn ends_an_acquire(&self, call: &LockCall) -> bool {
        let subject = self.subject(call);
        let lock = self.locks.get(&subject.identity);
        lock.is_some_and(|lock| {
            let record = self.find_record(lock, &subject, contract(call.routine), &call.context);
            let record = record.and_then(|index| lock.records.get(index));
            record.is_some_and(|record| fits(RoutineSet::of(&[call.routine]), record))
        })
    }

    /// Finds the lock of a release.
    fn subject(&self, call: &LockCall) -> Subject {
        let operand = &call.operand;
        if let Some(identity) = LockIdentity::of(operand) {
            return Subject {
                identity,
                acquire: None,
                by_handle: false,
                told: None,
                refused: None,
            };
        }
        let key = HandleKey::of(operand);
        let unknown = LockIdentity::Handle(key.map_or(0, HandleKey::address));
        let binding = key.and_then(|key| self.handles.get(&key));
        let named = storport::named(operand);
        let mut subject = Subject {
            identity: binding.map(|binding| binding.lock).or(named).unwrap_or(unknown),
            acquire: None,
            by_handle: true,
            told: None,
            refused: None,
        };
        let Some(binding) = binding else { return subject };
        if binding.state != Bound::Open {
            if let Some((lock, acquire)) = self.blind_acquire(named.unwrap_or(binding.lock), call) {
                (subject.identity, subject.acquire) = (lock, Some(acquire));
                return subject;
            }
        }
        match binding.state {
            Bound::Refused
                if operand
                    .adapter()
                    .is_some_and(|adapter| self.core.unreadable.contains(&adapter)) => {}
            Bound::Over if matches!(named, Some(LockIdentity::Address(_))) => {
                // The memory may be somebody else's handle now.
                subject.identity = named.unwrap_or(unknown);
            }
            Bound::Nothing => subject.told = Some(Pairing::TookNothing),
            Bound::Refused => {
                subject.told = Some(Pairing::Refused);
                subject.refused = Some(binding.acquire);
            }
            Bound::Over => {
                // The handle may have been filled in again: by a copy.
                if let Some(named) = named.filter(|named| self.other_handles(named, operand, &call.context)) {
                    subject.identity = named;
                }
            }
            Bound::Open => {
                let stale = matches!((binding.lock, named), (LockIdentity::Address(of), Some(LockIdentity::Address(now))) if of != now);
                if stale {
                    subject.identity = named.unwrap_or(unknown);
                } else if storport::names_nothing(operand) && !self.is_own(binding, &call.context) {
                    subject.identity = unknown;
                } else {
                    subject.acquire = Some(binding.acquire.sequence);
                    subject.told = differs(&binding.lock, call);
                }
            }
        }
        subject
    }

    /// The caller's open acquire of a lock of the port driver whose handle argument could not be read.
    fn blind_acquire(&self, lock: LockIdentity, call: &LockCall) -> Option<(LockIdentity, u64)> {
        let mut records = self.locks.get(&lock)?.records.iter();
        let blind = |record: &&Record| record.handle == 0 && record.owned_by(&call.context);
        let record = records.rfind(blind)?;
        matches!(call.operand, LockOperand::StorPortHandle { .. }).then_some((lock, record.call.sequence))
    }

    /// Whether the open acquire of a handle is one of the driver under test, and the caller's.
    fn is_own(&self, binding: &Binding, context: &Context) -> bool {
        self.locks.get(&binding.lock).is_some_and(|lock| {
            let mut records = lock.records.iter();
            records.any(|record| {
                record.call.sequence == binding.acquire.sequence && record.may_be_of(context) && record.target
            })
        })
    }

    /// Whether the caller has an open acquire of a lock by another handle than this.
    fn other_handles(&self, lock: &LockIdentity, operand: &LockOperand, context: &Context) -> bool {
        let handle = HandleKey::of(operand).map_or(0, HandleKey::address);
        self.locks.get(lock).is_some_and(|lock| {
            let mut records = lock.records.iter();
            records.any(|record| record.handle != 0 && record.handle != handle && record.owned_by(context))
        })
    }

    /// How a release and the open acquires fit together; the place of the record that it belongs to.
    fn pair(&self, subject: &Subject, row: &Contract, call: &LockCall, place: u32) -> (Pairing, Option<usize>) {
        let Some(lock) = self.locks.at(place) else {
            return (Pairing::Unmatched, None);
        };
        if let Some(told @ (Pairing::TookNothing | Pairing::Refused)) = subject.told {
            return (told, None);
        }
        let Some(index) = self.find_record(lock, subject, row, &call.context) else {
            return (Pairing::Unmatched, None);
        };
        let record = &lock.records[index];
        let handle = HandleKey::of(&call.operand).map_or(0, HandleKey::address);
        // Words are proved lock by lock where only the port driver knows where they are.
        let plain = matches!(subject.identity, LockIdentity::Address(_));
        let words = lock.words.unwrap_or(plain && self.core.words_proven);
        let waiting = call.word == Some(0) && words && !lock.disturbed && !self.certainly_held(record, &call.context);
        let at_level = storport::stays_at_dispatch_level(&subject.identity) && subject.acquire.is_some();
        let interrupts = at_level && record.interrupted_by(&call.context);
        let pairing = if waiting {
            // An attempt that is still waiting cannot be released: the call is somebody else's, e.g. of a DPC that
            // interrupted the thread before it raised its IRQL. Or it has come back, and the lock was cleared since.
            // Its record stays open.
            Pairing::Waiting
        } else if subject.by_handle && (!record.may_be_of(&call.context) || interrupts) {
            Pairing::Foreign
        } else if !subject.by_handle
            && !self.certainly_held(record, &call.context)
            && other_holder(lock, &call.context).is_some()
        {
            // The caller's own acquire must be waiting for that hold to end.
            Pairing::Foreign
        } else if let Some(told) = subject.told {
            told
        } else if subject.by_handle && record.handle != 0 && record.handle != handle {
            Pairing::OtherHandle(record.handle)
        } else {
            Pairing::Own
        };
        (pairing, Some(index))
    }

    /// The record that a release belongs to.
    fn find_record(&self, lock: &LockState, subject: &Subject, row: &Contract, context: &Context) -> Option<usize> {
        if let Some(acquire) = subject.acquire {
            return lock.records.iter().rposition(|record| record.call.sequence == acquire);
        }
        if subject.by_handle {
            // The handle was not filled in by an acquire that is open: at best the caller took the lock by another, or in
            // a way that needs none.
            return lock.records.iter().rposition(|record| record.owned_by(context));
        }
        // A try whose processor was below DISPATCH_LEVEL since has failed, or its lock was released unseen.
        let failed = |record: &Record| {
            contract(record.call.routine).role == Role::TryAcquire
                && self.core.low_since(context.processor, record.call.sequence)
        };
        let own = |record: &Record| record.owned_by(context) && !failed(record);
        if let [only] = &*lock.records {
            // As nearly always.
            return own(only).then_some(0);
        }
        lock.match_release(self.may_be(row), context, own, |record| {
            self.certainly_held(record, context)
        })
    }

    /// The routines that a call may be of: exports that share their code cannot be told apart.
    pub(super) fn may_be(&self, row: &Contract) -> RoutineSet {
        let own = RoutineSet::of(&[row.routine]);
        let ambiguous = self.core.watch.ambiguous;
        if !ambiguous.contains(row.routine) {
            return own;
        }
        let alike = |routine: &Routine| {
            let other = contract(*routine);
            other.role == row.role && other.operands == row.operands
        };
        own.union(ambiguous.iter().filter(alike).collect())
    }

    /// Whether the caller of a release has certainly got the lock by this acquire.
    pub(crate) fn certainly_held(&self, record: &Record, context: &Context) -> bool {
        let came_back = record.bound_to_processor()
            && record.same_agent(context)
            && context.irql <= record.call.context.irql
            && !contract(record.call.routine).result.may_fail()
            && !self.core.low_since(record.call.context.processor, record.call.sequence);
        came_back || (record.held_since.is_some() && !record.over)
    }

    /// Takes note of what a release has done.
    fn conclude(
        &mut self,
        site: Site,
        call: &LockCall,
        facts: &Facts<'_>,
        place: u32,
        record: Option<&Record>,
        found: &[Found],
    ) {
        let Fact::Release(release) = &facts.fact else { return };
        let prior = PriorCall {
            sequence: site.sequence,
            routine: call.routine,
            context: call.context,
        };
        let over = match release.pairing {
            Pairing::Own => true,
            Pairing::WrongAdapter(_) => matches!(*facts.lock, LockIdentity::StorPort { kind, .. } if is_dpc_lock(kind)),
            _ => false,
        };
        if let Some(record) = record.filter(|_| over) {
            self.learn_word(call, record, place, release);
            self.end(call, prior, place, record);
            self.owe_irql(call, record);
        }
        let told = found.iter().any(|found| found.verdict != Verdict::Literal);
        let open = release.irql != Restored::Right && facts.site.target && over && !told;
        self.ask(OpenQuestion::UndoneRaises, u64::from(open));
        let broken = found.iter().any(|found| found.verdict != Verdict::Literal);
        let unread = matches!(
            call.operand,
            LockOperand::StorPortHandle { kind: None, .. } | LockOperand::QueuedHandle { lock: None, .. }
        );
        self.ask(
            OpenQuestion::UnreadableHandles,
            u64::from(unread && facts.concerns_target),
        );
        let paired = matches!(release.pairing, Pairing::Own | Pairing::TookNothing);
        if facts.row.class == LockClass::CancelSpinLock {
            if let Some(processor) = self.core.processor(call.context.processor) {
                processor.cancel_irql = call.old_irql;
            }
        }
        let statistics = &mut self.core.statistics;
        let step = if paired {
            statistics.matched += 1;
            if release.record.is_some_and(|record| record.fits) {
                Step::Released
            } else {
                Step::Finding
            }
        } else if broken {
            Step::Finding
        } else {
            statistics.unknown_releases += 1;
            // A cancel routine is entered with the cancel spin lock held by the I/O manager.
            if facts.row.class != LockClass::CancelSpinLock {
                self.ask(OpenQuestion::UnknownReleases, u64::from(facts.concerns_target));
                let unclaimed = (site.sequence, *facts.lock);
                self.core.unclaimed = Some(unclaimed).filter(|_| !facts.concerns_target);
            }
            Step::Unknown
        };
        if let Some(lock) = self.locks.at_mut(place) {
            // The lock may now be free although its holder has not released it.
            let upsets = !paired && !over && call.word != Some(0) && broken;
            lock.disturbed |= (upsets || release.pairing == Pairing::Foreign) && !lock.records.is_empty();
            lock.last_release = site.sequence;
            lock.dispossessed = lock.dispossessed.filter(|agent| !agent.is(&call.context));
        }
        self.note(place, prior, step);
    }

    /// Closes a record.
    fn end(&mut self, call: &LockCall, prior: PriorCall, place: u32, record: &Record) {
        let released = Some(prior.sequence);
        self.close_handle(HandleKey::of(&call.operand), record.call.sequence, released);
        self.unfollow(record);
        let Some(lock) = self.locks.at_mut(place) else { return };
        lock.records.retain(|open| open.call.sequence != record.call.sequence);
        lock.end_nested(record.call.sequence);
        lock.records.iter_mut().for_each(|waiting| waiting.free = true);
        if call.word.is_none() {
            lock.disturbed &= !lock.records.is_empty();
        }
        if !contract(call.routine).may_call.is_empty() {
            if let Some(processor) = self.core.processors.get_mut(call.context.processor as usize) {
                processor.releasing = Some((place, prior));
            }
        }
        // A lock that was released in another way than by its handle leaves that behind.
        if record.handle != 0 && HandleKey::of(&call.operand).is_none() {
            for key in [HandleKey::Queued(record.handle), HandleKey::StorPort(record.handle)] {
                self.close_handle(Some(key), record.call.sequence, released);
            }
        }
    }

    /// Whether a release does the work of another that the same processor has begun. Ends that in either case.
    fn in_release(&mut self, place: u32, call: &LockCall) -> bool {
        let context = &call.context;
        let Some(processor) = self.core.processors.get_mut(context.processor as usize) else {
            return false;
        };
        let Some((of, outer)) = processor.releasing else {
            return false;
        };
        if context.irql > outer.context.irql {
            // An interrupt of the release.
            return false;
        }
        processor.releasing = None;
        // The routine's own code makes that call, unless it is reached by a jump.
        let driver = self.core.modules.is_declared_target(context.return_address);
        of == place
            && contract(outer.routine).may_call.contains(call.routine)
            && may_be_thread(outer.context.thread, context.thread)
            && outer.context.irql == context.irql
            && within(&outer, context, Some(call.routine))
            && (context.stack_pointer < outer.context.stack_pointer || may_jump_to(outer.routine, call.routine))
            && !(context.stack_pointer < outer.context.stack_pointer && driver)
            && outer.context.stack_pointer - context.stack_pointer <= SMALLEST_INTERRUPT
            && call.word != Some(0)
    }

    /// Learns whether the lock's word tells the truth.
    fn learn_word(&mut self, call: &LockCall, record: &Record, place: u32, facts: &ReleaseFacts<'_>) {
        let Some(lock) = self.locks.at_mut(place) else { return };
        match call.word {
            Some(0) if record.held_since.is_some() && !lock.disturbed => {
                let own = u64::from(record.target);
                self.core.statistics.open.add(OpenQuestion::ContradictedWords, own);
                if lock.words == Some(true) {
                    lock.contradicted = true;
                }
                lock.words.get_or_insert(false);
            }
            Some(word) if word != 0 && facts.record.is_some_and(|record| record.certain) => {
                lock.words.get_or_insert(true);
                self.core.words_proven |= contract(call.routine).module == SystemModule::Ntoskrnl;
            }
            _ => {}
        }
    }
}

/// What differs between a handle and the acquire that it is of.
fn differs(lock: &LockIdentity, call: &LockCall) -> Option<Pairing> {
    let (
        LockIdentity::StorPort { adapter, kind, .. },
        LockOperand::StorPortHandle {
            adapter: by, kind: now, ..
        },
    ) = (lock, call.operand)
    else {
        return storport::names_nothing(&call.operand).then_some(Pairing::ChangedHandle(0, 0));
    };
    let same = |now: u32| now == *kind || (is_dpc_lock(now) && is_dpc_lock(*kind));
    if *adapter == by {
        now.filter(|now| !same(*now))
            .map(|now| Pairing::ChangedHandle(*kind, now))
    } else {
        Some(Pairing::WrongAdapter(*adapter))
    }
}

/// An exclusive hold by somebody else that is certain and has not ended.
pub(super) fn other_holder<'a>(lock: &'a LockState, context: &Context) -> Option<&'a Record> {
    lock.records.iter().find(|record| {
        let row = contract(record.call.routine);
        !record.may_be_of(context)
            && (row.mode == Mode::Exclusive || row.role == Role::Convert)
            && !record.maybe_converted
            && record.held_since.is_some()
            && !record.over
    })
}
