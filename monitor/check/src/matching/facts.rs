//! What the rules judge: all that is known of one event.

use super::core::Gap;
use crate::contract::{Callback, Contract, PortModel, Routine};
use crate::event::{InCallback, LockCall};
use crate::finding::{OrderStep, Overlap, PriorCall, Proof, Shortfall};
use crate::identity::LockIdentity;

/// What is known of an event besides its operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    pub(crate) sequence: u64,
    /// Its number orders it against events of other processors.
    pub(crate) ordered: bool,
    /// The return address lies in the driver under test.
    pub(crate) target: bool,
    /// The callback that makes the call, if it was told.
    pub(crate) in_callback: Option<InCallback>,
    /// How the port driver runs the driver under test, if that was told.
    pub(crate) port: Option<PortModel>,
}

/// One event and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    /// The event.
    pub(crate) site: Site,
    /// The call that it is, or for the end of a hold, the acquire.
    pub(crate) call: &'a LockCall,
    /// Sequence number of that call.
    pub(crate) call_sequence: u64,
    /// Its contract.
    pub(crate) row: &'static Contract,
    /// Its lock.
    pub(crate) lock: &'a LockIdentity,
    /// The lock or the call is the driver's under test.
    pub(crate) concerns_target: bool,
    /// The rest.
    pub(crate) fact: Fact<'a>,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Fact<'a> {
    /// An acquire was entered.
    Acquire(AcquireFacts<'a>),
    /// A release was entered.
    Release(ReleaseFacts<'a>),
    /// A conversion was entered.
    Convert,
    /// A hold that was certain is over, and the lock was not released.
    HoldEnded(HoldEnded),
    /// A hold goes on when the machine stands still for good, after so many milliseconds (0: not known).
    StillHeld(HoldEnded, u64),
}

/// What is known when an acquire is entered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AcquireFacts<'a> {
    /// The caller holds the lock for certain, by this acquire.
    pub(crate) own: Option<Held<'a>>,
    /// That is of a lock of another name.
    pub(crate) overlap: Option<(LockIdentity, Overlap)>,
    /// Whether the lock word says that somebody holds the lock; `None` if it cannot be seen.
    pub(crate) word_held: Option<bool>,
    /// The routine takes no lock with these operands, and says nothing of it.
    pub(crate) takes_nothing: bool,
    /// The callback that makes the call and around which the port driver holds the lock; whether that is certain.
    pub(crate) held_by_port: Option<(Callback, bool)>,
    /// The lock lies on the stack of its caller.
    pub(crate) on_stack: bool,
    /// The steps of a circle of locks that the caller closes by taking this one; none, if it closes none.
    pub(crate) circle: &'a [OrderStep],
    /// Releases of such locks that are not watched.
    pub(crate) gap: Gap,
    /// What is missing for a sure verdict.
    pub(crate) shortfall: Shortfall,
}

/// An acquire that has come back with the lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held<'a> {
    /// The acquire.
    pub(crate) call: &'a PriorCall,
    /// The event that showed it, and how.
    pub(crate) since: u64,
    pub(crate) proof: Proof,
}

/// How a release and the acquires that are open fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairing {
    /// With an acquire of the caller.
    Own,
    /// With an acquire of the caller which is still waiting: the call is somebody else's.
    Waiting,
    /// The handle is that of somebody else's acquire.
    Foreign,
    /// With none.
    Unmatched,
    /// The handle was given to an acquire that took nothing: that was told.
    TookNothing,
    /// The handle was given to an acquire that was refused: [`ReleaseFacts::refused`].
    Refused,
    /// With an acquire of the caller that filled in another handle.
    OtherHandle(u64),
    /// With one made with this other adapter.
    WrongAdapter(u64),
    /// The handle names another kind of lock now: `STOR_SPINLOCK` at the acquire, and now.
    ChangedHandle(u32, u32),
}

/// The acquire that a release was matched with.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordFacts<'a> {
    /// The acquire.
    pub(crate) call: &'a PriorCall,
    /// It has certainly come back with the lock, and nothing says that the hold is over.
    pub(crate) certain: bool,
    /// The release itself shows that: it belongs to this acquire and can belong to no other, seen or not. Asked only of one that
    /// goes back to a wrong IRQL.
    pub(crate) only: bool,
    /// The release belongs to the acquiring routine.
    pub(crate) fits: bool,
    /// The acquire returns into the driver under test, and was seen at its entry.
    pub(crate) target: bool,
}

/// What is known when a release is entered.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug)]
pub(crate) struct ReleaseFacts<'a> {
    /// How it is paired.
    pub(crate) pairing: Pairing,
    /// The acquire that it is matched with.
    pub(crate) record: Option<RecordFacts<'a>>,
    /// The acquire that was refused and whose handle this is.
    pub(crate) refused: Option<&'a PriorCall>,
    /// Whether the lock word says that somebody holds the lock; `None` if it cannot be seen or is not believed.
    pub(crate) word_held: Option<bool>,
    /// A lock word was seen to be set while this lock was held.
    pub(crate) words_proven: bool,
    /// An acquire of the driver's by somebody else is open that has got the lock if it has come back: the word needs nobody who
    /// was not seen.
    pub(crate) taken_by_other: bool,
    /// Whoever else certainly holds the lock.
    pub(crate) holder: Option<&'a PriorCall>,
    /// No such lock can have been acquired unseen before the watch began.
    pub(crate) known: bool,
    /// The lock or its caller are of another driver, of whose pairs only one half may be seen.
    pub(crate) half_seen: bool,
    /// The routine shares its code with another: which of them was called is not known.
    pub(crate) ambiguous: bool,
    /// The caller's last release of the cancel spin lock, if that is the last that happened to it.
    pub(crate) released_before: Option<&'a PriorCall>,
    /// That release went back to an IRQL below `DISPATCH_LEVEL`.
    pub(crate) lowered_before: bool,
    /// The IRQL that it goes back to.
    pub(crate) irql: Restored,
    /// What is missing for a sure verdict, apart from the word and the gap.
    pub(crate) shortfall: Shortfall,
}

/// The IRQL that a release goes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restored {
    /// That of before its own acquire, or of another lock that the caller has acquired; or it is not an argument.
    Right,
    /// Lower than `DISPATCH_LEVEL`, which it was before the acquire: the caller may undo a raise of its own by that. Or that
    /// of an acquire which may be the caller's.
    Unknown,
    /// None of these.
    Wrong,
}

/// A hold that ended without a release, or goes on without one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HoldEnded {
    /// Processor that was seen below `DISPATCH_LEVEL`, or with no function of the driver under test on its stack.
    pub(crate) processor: u32,
    /// At this IRQL.
    pub(crate) irql: u8,
    /// The event that showed the acquire to have come back, and how, if that was seen.
    pub(crate) proof: Option<(u64, Proof)>,
    /// Nothing was seen or may have happened unseen that could have ended the hold.
    pub(crate) certain: bool,
    /// What has shown that.
    pub(crate) shown: Shown,
}

/// What has shown that a hold is over which no release has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The holder, or its processor, was below `DISPATCH_LEVEL`.
    SeenLow,
    /// The holder ran on another processor than the one on which it had the lock, and has been below `DISPATCH_LEVEL`.
    Moved,
    /// The callback that made the acquire was not on the stack.
    CallbackOver,
    /// No processor ran the holder.
    ThreadGone,
}

impl Facts<'_> {
    /// The routine.
    pub(crate) const fn routine(&self) -> Routine {
        self.call.routine
    }
}
