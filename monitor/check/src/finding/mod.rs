//! What a broken rule looks like: the finding, what it rests on, and what makes two of them the same.
//!
//! Made by the rules and kept by the checker; read by whoever tells people. Everything here is typed and carries event
//! numbers: the words are the renderers' business. Must not know how the facts were found.

mod signature;

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

pub(crate) use self::signature::Fnv;
pub use self::signature::{FRAMES, Place, Signature};
use crate::contract::{Callback, Mode, Routine, contract};
use crate::event::{Context, LockCall};
use crate::identity::LockIdentity;
use crate::rules::RuleId;

/// How much a verdict weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The DDI pages forbid it. Makes a run a Defect.
    Semantic,
    /// Only the words of the rule forbid it; the DDI pages allow it. A note.
    Literal,
    /// It looks forbidden, but the evidence is short. Never a Defect.
    Suspect,
}

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal, $text:literal;)*) => {
        /// What went wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Cause { $($(#[$doc])* $name),* }

        impl Cause {
            /// All causes, by number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The cause's number, for good: it is written into crash dumps and signatures.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $number),* }
            }

            /// The cause in one word, for programs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word),* }
            }

            /// One line for a person.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

causes! {
    /// A lock was released that its caller had not acquired.
    ReleaseWithoutAcquire = 1, "release_without_acquire", "the lock is released but was not acquired";
    /// The caller had released it already.
    ReleasedTwice = 2, "released_twice", "the lock is released a second time";
    /// The caller holds another lock and released this one.
    OtherLock = 3, "other_lock", "another lock was acquired than the one that is released";
    /// The lock was acquired by a routine that this release does not belong to.
    WrongRoutine = 4, "wrong_routine", "the lock is released by a routine that does not belong to the one that acquired it";
    /// Somebody else holds the lock.
    WrongOwner = 5, "wrong_owner", "the lock is released while another processor or thread holds it";
    /// The caller holds the lock that it asks for.
    DoubleAcquire = 6, "double_acquire", "the lock is acquired by its holder";
    /// Legal by the DDI page, though the rule does not name the routine.
    UnnamedRoutine = 7, "unnamed_routine", "the pair is documented as legal, but the rule does not name the acquiring routine";
    /// The handle of the release is not the one that the acquire filled in, though it names the same lock.
    OtherHandle = 8, "other_handle", "the lock is released by another handle than the acquire's";
    /// The release names another adapter than the acquire.
    WrongAdapter = 9, "wrong_adapter", "the lock is released with another adapter's device extension than it was acquired with";
    /// The handle was overwritten while its lock was held: it names another kind of lock, or none.
    ChangedHandle = 10, "changed_handle", "the lock handle was changed while its lock was held";
    /// The acquire takes no lock: a kind that the routine does not know, or no context.
    AcquiresNothing = 11, "acquires_nothing", "the acquire takes no lock";
    /// The holder has left the scope of the lock without a release, or stands still with it.
    MissingRelease = 12, "missing_release", "the lock is not released: its holder has gone on";
    /// Nobody holds the lock that its holder releases: somebody has cleared it meanwhile.
    LockCleared = 13, "lock_cleared", "the lock was cleared while it was held";
    /// The routine was called at an IRQL at which its page does not allow it.
    WrongIrql = 14, "wrong_irql", "the routine is called at an IRQL at which it may not be called";
    /// The release goes back to another IRQL than that of the acquire.
    WrongNewIrql = 15, "wrong_new_irql", "the release sets another IRQL than the one before the acquire";
    /// The lock is taken in another order than before, with the locks that its caller holds.
    LockOrderInversion = 16, "lock_order_inversion", "the lock is taken in an order that contradicts another one";
    /// The lock lies on the stack of its caller.
    LockOnStack = 17, "lock_on_stack", "the lock lies on a kernel stack";
    /// The port driver holds the lock around the callback that acquires it.
    HeldByPortDriver = 18, "held_by_port_driver", "the lock is acquired in a callback around which the port driver holds it";
    /// The lock of a message is acquired by a driver that has not asked for one lock a message.
    WrongInterruptMode = 19, "wrong_interrupt_mode", "the lock of a message is acquired by a driver that has not asked for one lock a message";
}

impl Cause {
    /// The cause by which a signature names it: what a release without its acquire looks like depends on what the caller
    /// and others happened to do before, so all its names count as one.
    #[must_use]
    pub const fn family(self) -> Self {
        match self {
            Self::ReleasedTwice | Self::OtherLock | Self::WrongOwner => Self::ReleaseWithoutAcquire,
            other => other,
        }
    }
}

bitflags! {
    /// Why a verdict is no more than a suspicion.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Shortfall: u16 {
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
        /// The lock has contradicted what was recorded of it: it is touched in ways that are not seen.
        const CONTRADICTED = 1 << 6;
        /// The contradicting orders were not seen at the same time.
        const NOT_TOGETHER = 1 << 7;
        /// Whether the lock is shared with others, as it has to be, was not seen.
        const MAYBE_SHARED = 1 << 8;
        /// Whether the port driver holds the lock there depends on what the driver has asked of it.
        const PORT_MODEL = 1 << 9;
        /// No lock word of this guest was seen to be set yet.
        const UNPROVED_WORD = 1 << 10;
        /// The lock is still held, or was perhaps not taken: it may have been released later.
        const GOES_ON = 1 << 11;
        /// It may be a lock that the port driver takes only if there is an interrupt, and nothing shows that it did.
        const MAYBE_NONE = 1 << 12;
    }
}

impl Serialize for Shortfall {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.bits())
    }
}

impl<'de> Deserialize<'de> for Shortfall {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u16::deserialize(deserializer).map(Self::from_bits_truncate)
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
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// An acquire was entered.
    Attempt,
    /// An acquire came back with the lock.
    Acquired,
    /// It came back without, or cannot have taken it.
    Failed,
    /// A release that belongs to an acquire.
    Released,
    /// A call that the routine before it makes to do its work.
    Nested,
    /// A release of which nothing could be said.
    Unknown,
    /// A call that broke a rule or is suspected to.
    #[serde(rename = "violation")]
    Finding,
}

/// One thing that a verdict rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evidence {
    /// What the lock word held at the call.
    Word(u64),
    /// The acquire that the call was measured against: its own, of the wrong kind perhaps, or the one still held.
    Acquire(PriorCall),
    /// No acquire of this lock by this thread or processor is open.
    NoAcquire,
    /// Whoever else holds the lock.
    Holder(PriorCall),
    /// Another lock that the caller has acquired and not released, and the event of that acquire.
    AlsoAcquired {
        /// That lock.
        lock: LockIdentity,
        /// Sequence number of its acquire.
        acquire: u64,
    },
    /// The caller's own release of this lock, if that is the last that happened to the lock. `certain`: the caller has
    /// gone on to no other lock, so that it surely means that acquire still.
    ReleasedBefore {
        /// The release.
        release: PriorCall,
        /// See above.
        certain: bool,
    },
    /// What the memory of the released handle was used for before.
    Handle(HandleBefore),
    /// The acquire that filled in the handle was refused: it cannot succeed at that IRQL or without a context.
    Refused(PriorCall),
    /// The IRQL of the call, and the range in which the routine may be called.
    Irql {
        /// What it was.
        at: u8,
        /// Lowest legal.
        min: u8,
        /// Highest legal.
        max: u8,
    },
    /// The IRQL to which the release goes back, and that of the acquire.
    NewIrql {
        /// Argument of the release.
        given: u8,
        /// IRQL at the entry of the acquire.
        before: u8,
    },
    /// Adapter of the acquire and of the release.
    Adapter {
        /// `HwDeviceExtension` of the acquire.
        acquired: u64,
        /// That of the release.
        released: u64,
    },
    /// `STOR_SPINLOCK` that the acquire asked for, and the one that the handle names at the release.
    Kind {
        /// Of the acquire.
        acquired: u32,
        /// Of the handle now.
        now: u32,
    },
    /// The handle that the acquire filled in, where the release is by another.
    AcquiredHandle(u64),
    /// The event that saw the holder, or its processor, below `DISPATCH_LEVEL`, outside of the frame of the acquire.
    SeenLow {
        /// That event.
        event: u64,
        /// Its processor.
        processor: u32,
        /// Its IRQL.
        irql: u8,
    },
    /// The event that saw the holder on another processor than the one on which it had the lock: at `DISPATCH_LEVEL` no thread
    /// moves.
    Moved {
        /// That event.
        event: u64,
        /// The processor that it has come to.
        processor: u32,
    },
    /// The event that showed the stack of the holder without the callback of the driver under test that had acquired the lock.
    DriverLeft {
        /// That event.
        event: u64,
        /// Its processor.
        processor: u32,
    },
    /// The event that completed the picture of all processors standing still: none of them ran the holder's thread at
    /// `DISPATCH_LEVEL` or above, though another acquire had found the lock taken.
    ThreadLeft {
        /// That event.
        event: u64,
    },
    /// The event that showed the holder's processor when the machine stood still for good.
    StillHeld {
        /// That event.
        event: u64,
        /// Its processor.
        processor: u32,
        /// Its IRQL.
        irql: u8,
        /// How long ago the acquire was, in milliseconds; 0: not known.
        milliseconds: u64,
    },
    /// `STOR_SPINLOCK` and `LockContext` of an acquire that takes nothing.
    Operand {
        /// `STOR_SPINLOCK`.
        kind: u32,
        /// `LockContext`.
        context: u64,
    },
    /// A lock that was taken while another one was held, in the circle of which the call is a part.
    Order(OrderStep),
    /// `InterruptSynchronizationMode` of the adapter is not `InterruptSynchronizePerMessage`.
    NotPerMessage,
    /// The lock that is held has another name than the one that is asked for.
    Overlap {
        /// It.
        held: LockIdentity,
        /// What they have in common.
        overlap: Overlap,
    },
    /// The stack pointer of the call.
    StackPointer(u64),
    /// The callback that made the call, and around which the port driver holds the lock.
    Callback(Callback),
    /// How the acquire is known to have come back with the lock.
    CameBack {
        /// The event that showed it.
        event: u64,
        /// How.
        proof: Proof,
    },
}

/// A lock that was taken while another one was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderStep {
    /// The lock that was held.
    pub held: LockIdentity,
    /// Its acquire.
    pub held_by: PriorCall,
    /// The lock that was taken.
    pub taken: LockIdentity,
    /// Its acquire.
    pub taken_by: PriorCall,
}

/// Why two names of the port driver's locks exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// In the half duplex model the StartIoLock is the InterruptLock.
    HalfDuplex,
    /// Where each message has a lock, the InterruptLock takes them all.
    PerMessage,
}

/// How an acquire is known to have come back with the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Its return was caught.
    Return,
    /// Code of the same level has run on on its processor: had the acquire still been waiting, that could not have run.
    SameLevel,
    /// Its caller has run on, in the frame of the call or in an outer one.
    Frame,
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
#[serde(rename_all = "snake_case")]
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

/// A broken rule: one cause at one place, however often it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
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
    /// What it is the same by.
    pub signature: Signature,
    /// How often it happened.
    pub count: u64,
    /// The lock.
    pub lock: LockIdentity,
    /// Sequence number of the event at which it was found.
    pub sequence: u64,
    /// The call that broke the rule. Not always the one at which that was found: a release that is missing shows later,
    /// and the call is then the acquire.
    pub call: LockCall,
    /// Sequence number of that call.
    pub call_sequence: u64,
    /// What the verdict rests on.
    pub evidence: Vec<Evidence>,
    /// The lock's last events before the finding, oldest first.
    pub history: Vec<HistoryEntry>,
    /// How many older events of the lock were not kept.
    pub history_evicted: u64,
}

impl Finding {
    /// Whether the processor stands at the call: then its stack is the call's.
    #[must_use]
    pub const fn stands_at_call(&self) -> bool {
        self.sequence == self.call_sequence
    }

    /// The acquire that the call was measured against.
    #[must_use]
    pub fn acquire(&self) -> Option<&PriorCall> {
        self.evidence.iter().find_map(|evidence| match evidence {
            Evidence::Acquire(call) => Some(call),
            _ => None,
        })
    }

    /// Whether the call never comes back. A reader that takes its lock again comes back, unless a writer waits for it.
    #[must_use]
    pub fn is_deadlock(&self) -> bool {
        let shared = |routine| contract(routine).mode == Mode::Shared;
        let reader = shared(self.call.routine) && self.acquire().is_some_and(|acquire| shared(acquire.routine));
        matches!(self.cause, Cause::DoubleAcquire | Cause::HeldByPortDriver) && !reader
    }

    /// Whoever else holds the lock.
    #[must_use]
    pub fn holder(&self) -> Option<&PriorCall> {
        self.evidence.iter().find_map(|evidence| match evidence {
            Evidence::Holder(call) => Some(call),
            _ => None,
        })
    }

    /// The caller's own release of this lock, if that is the last that happened to the lock.
    #[must_use]
    pub fn released_before(&self) -> Option<&PriorCall> {
        self.evidence.iter().find_map(|evidence| match evidence {
            Evidence::ReleasedBefore { release, .. } => Some(release),
            _ => None,
        })
    }

    /// What the memory of the released handle was used for before.
    #[must_use]
    pub fn handle_before(&self) -> Option<&HandleBefore> {
        self.evidence.iter().find_map(|evidence| match evidence {
            Evidence::Handle(before) => Some(before),
            _ => None,
        })
    }

    /// Code addresses of the calls that it refers to.
    pub fn code_addresses(&self) -> impl Iterator<Item = u64> + '_ {
        let told = self.evidence.iter().flat_map(|evidence| match evidence {
            Evidence::Acquire(call) | Evidence::Holder(call) | Evidence::Refused(call) => [Some(call), None],
            Evidence::ReleasedBefore { release, .. } => [Some(release), None],
            Evidence::Order(step) => [Some(&step.held_by), Some(&step.taken_by)],
            _ => [None, None],
        });
        let past = self.history.iter().map(|entry| &entry.call);
        told.flatten().chain(past).map(|call| call.context.return_address)
    }
}
