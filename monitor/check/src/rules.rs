//! The rules, and what a broken one looks like.
//!
//! A rule judges facts that the checker has put together about one call; it keeps no state. One file a rule. Must not
//! know how the facts were found.

mod double_acquire;
mod queued_spin_lock_release;
mod spin_lock_release;
mod storport_spin_lock4;

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use crate::contract::{Contract, LockClass, Routine};
use crate::event::{Context, LockCall};
use crate::identity::LockIdentity;

/// A documented rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name, as the WDK spells it where the WDK has it.
    pub name: &'static str,
    /// What it demands.
    pub text: &'static str,
    /// The documentation pages it comes from.
    pub source: &'static str,
}

/// The rules by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RuleId {
    /// No release of an ordinary spin lock without its acquire.
    SpinLockRelease,
    /// The same for in-stack queued spin locks.
    QueuedSpinLockRelease,
    /// The same for the port driver's locks.
    StorPortSpinLock4,
    /// No acquire of a lock that the caller holds already.
    DoubleAcquire,
}

impl RuleId {
    /// All rules.
    pub const ALL: [Self; 4] = [
        Self::SpinLockRelease,
        Self::QueuedSpinLockRelease,
        Self::StorPortSpinLock4,
        Self::DoubleAcquire,
    ];

    /// The rule's text.
    #[must_use]
    pub const fn rule(self) -> &'static Rule {
        match self {
            Self::SpinLockRelease => &spin_lock_release::RULE,
            Self::QueuedSpinLockRelease => &queued_spin_lock_release::RULE,
            Self::StorPortSpinLock4 => &storport_spin_lock4::RULE,
            Self::DoubleAcquire => &double_acquire::RULE,
        }
    }

    /// The rule that governs a release of this class of lock.
    #[must_use]
    pub const fn of_release(class: LockClass) -> Self {
        match class {
            LockClass::QueuedSpinLock => Self::QueuedSpinLockRelease,
            LockClass::StorPortSpinLock | LockClass::StorPortMsiSpinLock => Self::StorPortSpinLock4,
            LockClass::SpinLock | LockClass::ExSpinLock | LockClass::InterruptSpinLock | LockClass::CancelSpinLock => {
                Self::SpinLockRelease
            }
        }
    }
}

/// How much a verdict weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// The DDI pages forbid it. Makes a run a Defect.
    Semantic,
    /// Only the words of the rule forbid it; the DDI pages allow it. A note.
    Literal,
    /// It looks forbidden, but the evidence is short. Never a Defect.
    Suspect,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cause {
    /// A lock was released that its caller had not acquired.
    ReleaseWithoutAcquire,
    /// The caller had released it already.
    ReleasedTwice,
    /// The caller holds another lock and released this one.
    OtherLock,
    /// The lock was acquired by a routine that this release does not belong to.
    WrongRoutine,
    /// Somebody else holds the lock.
    WrongOwner,
    /// The caller holds the lock that it asks for.
    DoubleAcquire,
    /// Legal by the DDI page, though the rule does not name the routine.
    UnnamedRoutine,
}

impl Cause {
    /// The cause in one word, for programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReleaseWithoutAcquire => "release_without_acquire",
            Self::ReleasedTwice => "released_twice",
            Self::OtherLock => "other_lock",
            Self::WrongRoutine => "wrong_routine",
            Self::WrongOwner => "wrong_owner",
            Self::DoubleAcquire => "double_acquire",
            Self::UnnamedRoutine => "unnamed_routine",
        }
    }

    /// One line for a person.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::ReleaseWithoutAcquire => "the lock is released but was not acquired",
            Self::ReleasedTwice => "the lock is released a second time",
            Self::OtherLock => "another lock was acquired than the one that is released",
            Self::WrongRoutine => "the lock is released by a routine that does not belong to the one that acquired it",
            Self::WrongOwner => "the lock is released while another processor or thread holds it",
            Self::DoubleAcquire => "the lock is acquired by its holder",
            Self::UnnamedRoutine => "the pair is documented as legal, but the rule does not name the acquiring routine",
        }
    }
}

bitflags! {
    /// Why a verdict is no more than a suspicion.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Shortfall: u8 {
        /// A routine that could have acquired or released the lock is not watched.
        const UNWATCHED = 1;
        /// Somebody holds the lock and no acquire of it was seen.
        const UNSEEN_HOLDER = 1 << 1;
        /// An earlier wrong release has upset the lock.
        const DISTURBED = 1 << 2;
        /// The events are not in one order over all processors.
        const UNORDERED = 1 << 3;
        /// The watch began while the driver was running, and this thread may have been inside an acquire then.
        const LATE = 1 << 4;
        /// Whether a try got the lock was not seen.
        const UNRESOLVED = 1 << 5;
    }
}

impl Serialize for Shortfall {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.bits())
    }
}

impl<'de> Deserialize<'de> for Shortfall {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u8::deserialize(deserializer).map(Self::from_bits_truncate)
    }
}

/// An earlier call that a verdict refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorCall {
    /// Its sequence number.
    pub sequence: u64,
    /// The routine.
    pub routine: Routine,
    /// Who called it.
    pub context: Context,
}

/// One thing that happened to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The call.
    pub call: PriorCall,
    /// What the checker made of it.
    pub step: Step,
}

/// What the checker made of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// An acquire was entered.
    Attempt,
    /// An acquire came back with the lock.
    Acquired,
    /// It came back without.
    Failed,
    /// A release that belongs to an acquire.
    Released,
    /// A call that the routine before it makes to do its work.
    Nested,
    /// A release of which nothing could be said.
    Unknown,
    /// A call that broke a rule or is suspected to.
    Violation,
}

/// A broken rule: one cause, however often it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The rule.
    pub rule: RuleId,
    /// How much it weighs.
    pub verdict: Verdict,
    /// What went wrong.
    pub cause: Cause,
    /// Why it is only a suspicion, if it is.
    pub shortfall: Shortfall,
    /// Whether the lock or the call is the driver's under test. Always, if no module was declared to be that driver.
    pub concerns_target: bool,
    /// Equal for the same cause at the same place.
    pub fingerprint: u64,
    /// How often it happened.
    pub count: u64,
    /// The lock.
    pub lock: LockIdentity,
    /// Sequence number of the first call.
    pub sequence: u64,
    /// The first call.
    pub call: LockCall,
    /// The acquire that the call was measured against: its own of the wrong kind, or the one still held.
    pub acquire: Option<PriorCall>,
    /// Whoever else holds the lock.
    pub holder: Option<PriorCall>,
    /// Another lock that the caller has acquired and not released.
    pub also_acquired: Option<LockIdentity>,
    /// The caller's own release of this lock, if that is the last that happened to the lock.
    pub released_before: Option<PriorCall>,
    /// What the memory of the released handle was used for before.
    pub handle_before: Option<HandleBefore>,
    /// The lock's last events before the first call, oldest first.
    pub history: Vec<HistoryEntry>,
    /// How many older events of the lock were not kept.
    pub history_evicted: u64,
}

/// What the memory of a released handle was used for before, if the handle belongs to no open acquire of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandleBefore {
    /// The lock whose handle it was.
    pub lock: LockIdentity,
    /// Sequence number of that acquire.
    pub acquire: u64,
    /// Sequence number of its release, if that was seen.
    pub released: Option<u64>,
    /// How the handle looks now.
    pub now: HandleNow,
    /// The handle was in a stack frame that has been left since, or may have been.
    pub frame_left: bool,
}

/// How a handle looks at its release, beside the acquire that it had before. A hint: nothing vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandleNow {
    /// It could not be read.
    Unread,
    /// It names no lock.
    Empty,
    /// It names the same lock, as far as it tells.
    Same,
    /// It names another.
    Other,
}

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
    fn broken(cause: Cause, shortfall: Shortfall) -> Self {
        let verdict = if shortfall.is_empty() {
            Verdict::Semantic
        } else {
            Verdict::Suspect
        };
        Self::Broken(verdict, cause, shortfall)
    }
}

pub(crate) use double_acquire::{AcquireFacts, judge as judge_acquire};

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
