//! What is known when a release is entered.

use super::acquire::{acquires_of, releases_of};
use super::core::Gap;
use super::facts::{Fact, Facts, Pairing, RecordFacts, ReleaseFacts, Restored, Site};
use super::naming::{own_release, own_unknown_release};
use super::record::{Record, fits, fits_one};
use super::release::{Subject, other_holder};
use super::state::LockState;
use super::storport;
use crate::checker::Checker;
use crate::contract::{CONTRACTS, Contract, LockClass, Role, Routine, RoutineSet, SystemModule, contract};
use crate::event::{Context, DISPATCH_LEVEL, HIGH_LEVEL, LockCall, LockOperand};
use crate::finding::{PriorCall, Shortfall};
use crate::identity::LockIdentity;

/// A release, and how it is paired.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct By<'a> {
    site: Site,
    row: &'static Contract,
    call: &'a LockCall,
    pairing: Pairing,
    /// Somebody else certainly holds the lock; whether that is another module, whose release need not be seen.
    holder: Option<bool>,
    /// See [`ReleaseFacts::taken_by_other`].
    taken_by_other: bool,
    /// The caller has an acquire open that may be waiting, or have got a lock that was then taken from it.
    open: bool,
}

/// What else is known of the lock of a release than its own acquire.
pub(super) struct Others {
    /// Whoever else certainly holds it.
    holder: Option<Record>,
    /// The caller's last release of the cancel spin lock.
    released_before: Option<PriorCall>,
}

impl Checker {
    /// See [`Others`]. `paired`: the release has an acquire.
    pub(super) fn others(
        &self,
        row: &Contract,
        call: &LockCall,
        subject: &Subject,
        place: u32,
        paired: bool,
    ) -> Others {
        let identity = &subject.identity;
        let lock = self.locks.at(place);
        // The I/O manager hands the cancel spin lock on to cancel routines: another's release of it need not be seen.
        let believed = |holder: &&Record| *identity != LockIdentity::Cancel || holder.target;
        let holder = lock.and_then(|lock| other_holder(lock, &call.context));
        let holder = holder.filter(|_| !storport::is_interrupt_lock(identity, &self.core.port));
        let holder = holder.filter(believed);
        let asked = !paired && row.class == LockClass::CancelSpinLock;
        let before = lock.filter(|_| asked).and_then(|lock| {
            let paired = own_release(lock, &call.context).map(|(release, _)| release);
            paired.or_else(|| own_unknown_release(lock, &call.context))
        });
        Others {
            holder: holder.copied(),
            released_before: before,
        }
    }

    /// Puts together what the rules want to know of a release.
    #[expect(clippy::too_many_lines, reason = "a table: every fact of a release")]
    pub(super) fn release_facts<'a>(
        &self,
        site: Site,
        row: &'static Contract,
        call: &'a LockCall,
        (subject, place): (&'a Subject, u32),
        (pairing, record, others): (Pairing, Option<&'a Record>, &'a Others),
    ) -> Facts<'a> {
        let core = &self.core;
        let nothing = LockState::default();
        let lock = self.locks.at(place).unwrap_or(&nothing);
        let identity = &subject.identity;
        let holder = others.holder.as_ref();
        let fits = record.is_none_or(|record| self.fits(row, record));
        let word_held = call.word.filter(|_| lock.words != Some(false)).map(|word| word != 0);
        let by = By {
            site,
            row,
            call,
            pairing,
            holder: holder.map(|holder| !holder.target),
            taken_by_other: record.is_none() && word_held == Some(true) && lock.taken_by_other(&call.context),
            open: !subject.by_handle && matches!(pairing, Pairing::Waiting | Pairing::Foreign),
        };
        let mut shortfall = self.shortfall(&by, (identity, lock), record.filter(|_| !fits), record.is_none());
        if matches!(pairing, Pairing::Unmatched | Pairing::Foreign) && holder.is_some_and(|holder| !holder.target) {
            // Of the pairs of other modules one half may not be seen, the kernel's own among them.
            shortfall |= Shortfall::UNWATCHED;
        }
        let unreadable = subject.acquire.is_none()
            && subject.by_handle
            && call
                .operand
                .adapter()
                .is_some_and(|adapter| core.unreadable.contains(&adapter));
        let concerns_target = site.target || lock.target;
        let irql = match (call.old_irql, record) {
            (Some(given), Some(record)) if given != record.call.context.irql => {
                let (sure, possible) = self.owed(&call.context, Some(record));
                let restored = restored(given, record.call.context.irql, sure, possible);
                let read = call.context.thread != 0 && record.call.context.thread != 0;
                // What else a thread owes is known of one that was read.
                if restored == Restored::Wrong && !read && given <= HIGH_LEVEL {
                    Restored::Unknown
                } else {
                    restored
                }
            }
            _ => Restored::Right,
        };
        Facts {
            site,
            call,
            call_sequence: site.sequence,
            row,
            lock: identity,
            concerns_target,
            fact: Fact::Release(ReleaseFacts {
                pairing,
                refused: subject.refused.as_ref(),
                record: record.map(|record| RecordFacts {
                    call: &record.call,
                    certain: self.certainly_held(record, &call.context),
                    only: irql == Restored::Wrong
                        && pairing == Pairing::Own
                        && site.ordered
                        && self.is_only(record, lock, identity, call),
                    fits,
                    target: record.target,
                }),
                word_held,
                words_proven: lock
                    .words
                    .unwrap_or(core.words_proven && matches!(identity, LockIdentity::Address(_))),
                taken_by_other: by.taken_by_other,
                holder: holder.map(|holder| &holder.call),
                known: core.known_for(&call.context) && !lock.lost && !unreadable,
                half_seen: !concerns_target,
                ambiguous: core.watch.ambiguous.contains(call.routine),
                released_before: others.released_before.as_ref(),
                lowered_before: row.class == LockClass::CancelSpinLock && self.has_lowered(call),
                irql,
                shortfall,
            }),
        }
    }

    /// What is missing for a sure verdict on a release, apart from the lock word. `misfit`: the acquire that it is matched
    /// with, if it does not belong to it; `unmatched`: there is none.
    fn shortfall(
        &self,
        by: &By<'_>,
        (identity, lock): (&LockIdentity, &LockState),
        misfit: Option<&Record>,
        unmatched: bool,
    ) -> Shortfall {
        let By {
            site,
            row,
            call,
            pairing,
            holder,
            taken_by_other,
            open,
        } = by;
        let core = &self.core;
        let mut shortfall = Shortfall::empty();
        shortfall.set(Shortfall::DISTURBED, lock.disturbed);
        // The caller's own hold may be one that somebody else has ended.
        let dispossessed = lock.dispossessed.is_some_and(|agent| agent.may_be(&call.context));
        shortfall.set(
            Shortfall::CONTRADICTED,
            if unmatched { dispossessed } else { lock.contradicted },
        );
        shortfall.set(Shortfall::UNORDERED, !site.ordered);
        shortfall.set(Shortfall::UNWATCHED, !core.watches(row.fed_by, lock.target));
        shortfall.set(Shortfall::UNRESOLVED, *open);
        let word_missing = call.word.is_none() || lock.words == Some(false);
        let by_absence = word_missing || *taken_by_other;
        let unsure_thread = core.late && by_absence && !core.entered.contains(&call.context.thread);
        shortfall.set(Shortfall::LATE, unmatched && unsure_thread);
        let mut needed = RoutineSet::EMPTY;
        if holder.is_some() || *pairing == Pairing::Foreign {
            needed = releases_of(identity);
        }
        if let Some(record) = misfit {
            // Either call may have been made by another routine to do its work, and that one not have been seen.
            let inner = callers(record.call.routine);
            shortfall.set(Shortfall::LATE, core.late && !inner.is_empty());
            let unresolved = contract(record.call.routine).role == Role::TryAcquire && record.held_since.is_none();
            shortfall.set(Shortfall::UNRESOLVED, *open || unresolved);
            needed = needed
                .union(inner)
                .union(callers(row.routine))
                .union(acquires_of(identity))
                .union(releases_of(identity));
        }
        // Without a record or a word there is nothing but the absence of an acquire.
        let blind = unmatched && word_missing;
        if *taken_by_other {
            needed = needed.union(acquires_of(identity)).union(releases_of(identity));
        }
        let stranger = *holder == Some(true);
        if blind || (unmatched && stranger) || matches!(pairing, Pairing::ChangedHandle(..) | Pairing::OtherHandle(_)) {
            needed = needed.union(row.fed_by);
        }
        let gap = core.gap(needed, lock.target);
        shortfall.set(
            Shortfall::UNWATCHED,
            shortfall.contains(Shortfall::UNWATCHED) || gap != Gap::None,
        );
        let unseen = self.may_be_held(by, lock, unmatched) || (blind && unread(row, call, identity));
        shortfall.set(Shortfall::UNSEEN_HOLDER, unseen);
        shortfall
    }

    /// Whether the lock may be the caller's after all. `unmatched`: by no acquire that is known to be.
    fn may_be_held(&self, by: &By<'_>, lock: &LockState, unmatched: bool) -> bool {
        let call = by.call;
        // Somebody of the same thread or processor has it, on another stack.
        let doubtful = unmatched && lock.records.iter().any(|record| record.may_be_of(&call.context));
        // A function of the holder's that runs at a higher IRQL looks like an interrupt of it.
        let raised = by.pairing == Pairing::Foreign
            && !by.open
            && lock
                .records
                .iter()
                .any(|record| record.may_be_of(&call.context) && record.same_stack(&call.context));
        // The handle may be that of an acquire whose own was not read.
        let adapter = call.operand.adapter();
        let blind_handle = matches!(by.pairing, Pairing::OtherHandle(_))
            && adapter.is_some_and(|adapter| self.core.unreadable.contains(&adapter));
        doubtful || raised || blind_handle
    }

    /// Whether a release, by whatever routine it may be, belongs to the routine of a record.
    fn fits(&self, row: &Contract, record: &Record) -> bool {
        if fits_one(row.routine, record) {
            return true;
        }
        if self.core.watch.ambiguous.is_empty() {
            return false;
        }
        if fits(self.may_be(row), record) {
            return true;
        }
        let acquire = contract(record.call.routine);
        let acquires = self.may_be(acquire);
        row.fed_by.intersection(acquires) != RoutineSet::EMPTY
    }

    /// Whether a release that is paired with an acquire can belong to no other: every routine that takes such a lock is
    /// watched and was from the beginning, the caller has no other open acquire of the lock, and is on the stack of this.
    fn is_only(&self, record: &Record, lock: &LockState, identity: &LockIdentity, call: &LockCall) -> bool {
        let context = &call.context;
        let own = lock.records.iter().filter(|record| record.owned_by(context)).count();
        own == 1
            && !self.core.late
            && !lock.lost
            && !record.doubtful
            && record.same_stack(context)
            && call.word.is_some_and(|word| word != 0)
            && self.core.gap(acquires_of(identity), lock.target) == Gap::None
    }

    /// Whether the last release of the cancel spin lock on the caller's processor went below `DISPATCH_LEVEL`.
    fn has_lowered(&self, call: &LockCall) -> bool {
        let processor = self.core.processors.get(call.context.processor as usize);
        let last = processor.and_then(|processor| processor.cancel_irql);
        last.is_some_and(|irql| irql < DISPATCH_LEVEL)
    }

    /// Old IRQLs, by bit, that the caller has not given back: those of its other open acquires, and of locks that were
    /// released with another's; and those of acquires that may be somebody's that the caller has interrupted.
    fn owed(&self, context: &Context, record: Option<&Record>) -> (u16, u16) {
        let own = record.map_or(0, |record| record.call.sequence);
        let thread = self.threads.get(&context.thread);
        let processor = self.core.processors.get(context.processor as usize);
        let of_thread = thread.map(|thread| &thread.open.0);
        let of_processor = processor.map(|processor| &processor.open.0);
        let lists = of_thread.into_iter().chain(of_processor);
        // A helper may have taken it for the driver, but none that ran at a higher IRQL: an interrupt's is none of the
        // caller's, and is seen to be open still if its release was not seen.
        let level = context.irql.max(DISPATCH_LEVEL);
        let others = lists.flatten().filter(|(open, _)| open.call.context.irql <= level);
        let (mut sure, mut possible) = (0, 0);
        for (open, _) in others {
            sure |= open.owed;
            let old = irql_bit(open.call.context.irql);
            match open.call.sequence == own {
                true => {}
                false if open.proved || open.call.context.irql >= DISPATCH_LEVEL => sure |= old,
                false => possible |= old,
            }
        }
        (sure, possible)
    }

    /// A release has given another old IRQL than its own acquire's: that is the business of what its caller still holds.
    pub(super) fn owe_irql(&mut self, call: &LockCall, record: &Record) {
        let before = record.call.context.irql;
        if call.old_irql.is_none_or(|given| given == before) {
            return;
        }
        let context = &call.context;
        let owed = irql_bit(before);
        let thread = self.threads.get_mut(&context.thread).map(|thread| &mut thread.open.0);
        let processor = self.core.processors.get_mut(context.processor as usize);
        let lists = thread
            .into_iter()
            .chain(processor.map(|processor| &mut processor.open.0));
        for (open, _) in lists.flatten() {
            open.owed |= owed;
        }
    }
}

/// What the IRQL is that a release goes back to, if it is not that of before its own acquire.
const fn restored(given: u8, before: u8, sure: u16, possible: u16) -> Restored {
    let given_bit = irql_bit(given);
    if sure & given_bit != 0 {
        Restored::Right
    } else if possible & given_bit != 0 || (before == DISPATCH_LEVEL && given < DISPATCH_LEVEL) {
        Restored::Unknown
    } else {
        Restored::Wrong
    }
}

/// An IRQL as a bit; none for what is no IRQL.
const fn irql_bit(irql: u8) -> u16 {
    if irql <= HIGH_LEVEL { 1 << irql } else { 0 }
}

/// Whether a lock of the kernel's has no word only because that, or the handle in which some acquire has put its address,
/// could not be read: anybody may hold it.
fn unread(row: &Contract, call: &LockCall, identity: &LockIdentity) -> bool {
    let expected = row.lock_word(&call.operand).is_some() && !storport::names_nothing(&call.operand);
    let handle = matches!(call.operand, LockOperand::QueuedHandle { lock: None, .. });
    let filled = !matches!(identity, LockIdentity::Handle(_));
    call.word.is_none() && row.module == SystemModule::Ntoskrnl && (expected || (handle && filled))
}

/// The routines that may call this one to do their work.
fn callers(routine: Routine) -> RoutineSet {
    CONTRACTS
        .iter()
        .filter(|row| row.may_call.contains(routine))
        .map(|row| row.routine)
        .collect()
}
