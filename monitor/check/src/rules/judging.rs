//! The judging of pairs that the release rules share.

use super::{Cause, Shortfall, Verdict, spin_lock_release};
use crate::contract::{Contract, LockClass, Routine};

/// The record of an acquire that a release was matched with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordFacts {
    /// The routine that acquired.
    pub routine: Routine,
    /// The acquire has certainly come back with the lock, and nothing says that the hold is over.
    pub certain: bool,
    /// The release belongs to the acquiring routine.
    pub fits: bool,
    /// The handle belongs to an acquire of somebody else.
    pub foreign: bool,
}

/// All that is known when a release is entered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReleaseFacts {
    /// The release.
    pub contract: &'static Contract,
    /// Whether the lock word says that somebody holds the lock; `None` if it cannot be seen.
    pub word_held: Option<bool>,
    /// A lock word was seen to be set while its lock was held, in this run.
    pub words_proven: bool,
    /// The acquire that it is matched with.
    pub record: Option<RecordFacts>,
    /// Somebody else certainly holds the lock.
    pub other_holder: bool,
    /// No lock of this class can have been acquired unseen before the watch began.
    pub known: bool,
    /// What is missing for a sure verdict, apart from the word.
    pub shortfall: Shortfall,
}

/// What a rule says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Legal.
    Fine,
    /// Nothing can be said.
    Unknown,
    /// Broken or suspected to be.
    Broken(Verdict, Cause, Shortfall),
}

impl Judgement {
    /// Semantic, unless something is missing.
    pub(super) fn broken(cause: Cause, shortfall: Shortfall) -> Self {
        let verdict = if shortfall.is_empty() {
            Verdict::Semantic
        } else {
            Verdict::Suspect
        };
        Self::Broken(verdict, cause, shortfall)
    }
}

pub(crate) use super::double_acquire::{AcquireFacts, judge as judge_acquire};

/// A judgement of a release, and whether the matched acquire is over.
pub(crate) fn judge_release(facts: &ReleaseFacts) -> (Judgement, bool) {
    match facts.record {
        Some(record) => judge_matched(facts, record),
        None => (judge_unmatched(facts), false),
    }
}

/// A release by somebody who has an open acquire of the lock.
fn judge_matched(facts: &ReleaseFacts, record: RecordFacts) -> (Judgement, bool) {
    let upset = facts.shortfall.contains(Shortfall::DISTURBED);
    // An attempt that is still waiting cannot be released: the call is somebody else's, e.g. of a DPC that interrupted
    // the thread before it raised its IRQL. Its record stays open.
    if facts.word_held == Some(false) && facts.words_proven && !record.certain && !upset {
        return (
            Judgement::broken(Cause::ReleaseWithoutAcquire, Shortfall::empty()),
            false,
        );
    }
    if record.foreign || (facts.other_holder && !record.certain) {
        return (Judgement::broken(Cause::WrongOwner, facts.shortfall), false);
    }
    if !record.fits {
        return (Judgement::broken(Cause::WrongRoutine, facts.shortfall), true);
    }
    if spin_lock_release::unnamed(facts.contract.routine, record.routine) {
        return (
            Judgement::Broken(Verdict::Literal, Cause::UnnamedRoutine, Shortfall::empty()),
            true,
        );
    }
    (Judgement::Fine, true)
}

/// A release by somebody of whom no acquire was seen. Which kind of wrong release it looks like is not asked here.
fn judge_unmatched(facts: &ReleaseFacts) -> Judgement {
    // A cancel routine is entered with the cancel spin lock held by the I/O manager.
    if facts.contract.class == LockClass::CancelSpinLock {
        return Judgement::Unknown;
    }
    let cause = Cause::ReleaseWithoutAcquire;
    match facts.word_held {
        // Nobody holds it, whatever was or was not watched.
        Some(false) => Judgement::broken(cause, Shortfall::empty()),
        _ if !facts.known => Judgement::Unknown,
        _ if facts.other_holder => Judgement::broken(Cause::WrongOwner, facts.shortfall),
        Some(true) => Judgement::broken(cause, facts.shortfall | Shortfall::UNSEEN_HOLDER),
        None => Judgement::broken(cause, facts.shortfall),
    }
}
