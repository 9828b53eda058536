//! An acquire whose release has not been seen: who made it, whether it has come back with the lock, and whether its scope
//! has been left.
//!
//! Plain data and pure functions on it. It must not know locks beside its own, nor what is forbidden.

use serde::{Deserialize, Serialize};

use super::facts::Held;
use super::state::{Agent, may_be_thread};
use crate::contract::{Routine, RoutineSet, contract};
use crate::event::{Context, DISPATCH_LEVEL, LockCall};
use crate::finding::{PriorCall, Proof};
use crate::identity::HandleKey;

/// Bytes of a kernel stack: addresses this far apart are not on the same one.
pub(crate) const STACK: u64 = 0x6000;
/// Frames that are no further apart are on one stack for sure.
const NEAR: u64 = 0x3000;
/// An interrupt that leads to a DPC pushes more than this many bytes before the DPC can call anything: the processor's
/// frame (40), the registers that a call may change (56), and three calls with their home space (120).
pub(crate) const SMALLEST_INTERRUPT: u64 = 0x80;

/// An acquire whose release has not been seen.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The call.
    pub call: PriorCall,
    /// Address of the handle, 0 if there is none.
    pub handle: u64,
    /// Sequence number of the event that proved the acquire to have come back with the lock; `None`: an attempt.
    pub(crate) held_since: Option<u64>,
    /// How that is known.
    pub proof: Proof,
    /// Processor on which it did.
    pub holder: u32,
    /// A conversion from shared to exclusive was tried and its result not seen.
    pub(crate) maybe_converted: bool,
    /// The call returns into the driver under test.
    pub target: bool,
    /// The event that is being worked on shows that its scope has been left.
    pub over: bool,
    /// A release that was taken for that of another acquire may have been its own.
    pub doubtful: bool,
    /// Its return was caught at a higher IRQL than its entry: it has taken a lock.
    #[serde(default)]
    pub(crate) raised: bool,
    /// Nobody held the lock when it was entered, or whoever did has released it since: that the lock is held is no riddle.
    #[serde(default)]
    pub(crate) free: bool,
    /// Sequence number of an open acquire that may have made this one to do its work. If that one ends first, it did.
    pub(crate) nested_in: Option<u64>,
}

impl Record {
    /// A new attempt.
    pub(crate) const fn new(call: PriorCall, handle: u64, target: bool) -> Self {
        Self {
            call,
            handle,
            held_since: None,
            proof: Proof::Return,
            holder: call.context.processor,
            maybe_converted: false,
            target,
            over: false,
            doubtful: false,
            raised: false,
            free: false,
            nested_in: None,
        }
    }

    /// Entered at `DISPATCH_LEVEL` or above: it cannot leave its processor and belongs to that; else to the thread.
    pub(crate) const fn bound_to_processor(&self) -> bool {
        self.call.context.irql >= DISPATCH_LEVEL
    }

    /// That it has come back with the lock, if it has.
    pub(crate) fn held(&self) -> Option<Held<'_>> {
        self.held_since.map(|since| Held {
            call: &self.call,
            since,
            proof: self.proof,
        })
    }

    /// Who made it.
    pub(crate) const fn agent(&self) -> Agent {
        if self.bound_to_processor() {
            Agent::Processor(self.call.context.processor)
        } else {
            Agent::Thread(self.call.context.thread)
        }
    }

    /// Whether `context` is certainly the one that made this acquire.
    pub(crate) const fn same_agent(&self, context: &Context) -> bool {
        self.agent().is(context)
    }

    /// Whether `context` can be the one that made this acquire.
    pub(crate) const fn may_be_of(&self, context: &Context) -> bool {
        self.agent().may_be(context)
    }

    /// Whether it has raised the IRQL to that of a device, as an acquire of the interrupt's lock does if there is one, and code
    /// of its own caller or deeper runs there.
    pub(crate) const fn raised_to_device(&self, context: &Context) -> bool {
        self.call.context.irql <= DISPATCH_LEVEL && context.irql > DISPATCH_LEVEL
    }

    /// Whether the lock's holder runs as `context`: what it would wait for there, it would wait for for ever.
    pub(crate) const fn holds_up(&self, context: &Context) -> bool {
        self.same_agent(context)
            || (self.held_since.is_some() && self.holder == context.processor && context.irql >= DISPATCH_LEVEL)
    }

    /// Whether `context` runs on the stack of the acquire, as far as the threads are known.
    pub(crate) const fn same_stack(&self, context: &Context) -> bool {
        let entered = &self.call.context;
        may_be_thread(entered.thread, context.thread)
            && entered
                .stack_pointer
                .wrapping_sub(context.stack_pointer)
                .wrapping_add(STACK)
                < 2 * STACK
    }

    /// Whether code that runs as `context` cannot have come in at the entry of this acquire, as an interrupt on the stack of its
    /// thread: it is the acquire's own, and that has come back.
    pub(crate) fn is_entered_no_more(&self, context: &Context) -> bool {
        let entered = &self.call.context;
        let deeper = entered.stack_pointer.wrapping_sub(context.stack_pointer);
        self.held_since.is_some()
            || self.bound_to_processor()
            || (self.same_stack(context) && !(SMALLEST_INTERRUPT..=STACK).contains(&deeper))
    }

    /// Whether a release by `context` can be the one that belongs to this acquire: code of the same agent, which runs
    /// neither on another stack than a thread's acquire nor, deeper in the stack, at a higher IRQL than the lock's.
    pub(crate) fn owned_by(&self, context: &Context) -> bool {
        if !self.may_be_of(context) || (self.interrupted_by(context) && !raises_further(self.call.routine)) {
            return false;
        }
        self.bound_to_processor() || self.same_stack(context)
    }

    /// Whether `context` looks like an interrupt of the holder, of a lock that does not raise the IRQL above
    /// `DISPATCH_LEVEL`: it runs above that, on another stack or deeper in the stack.
    pub(crate) fn interrupted_by(&self, context: &Context) -> bool {
        let entered = &self.call.context;
        let deeper = entered.stack_pointer.wrapping_sub(context.stack_pointer);
        let frame = self.same_stack(context) && (deeper <= SMALLEST_INTERRUPT || deeper > STACK);
        context.irql > entered.irql.max(DISPATCH_LEVEL) && !frame
    }

    /// Whether a call comes out of the very routine of this acquire: it is deeper in the stack, or was reached by a
    /// jump from it. A DPC that interrupts the routine can look the same, if it runs on the stack of its thread; but not if
    /// it is the driver's under test. `driver`: the call returns into that, which no routine is a part of.
    pub(crate) fn encloses(&self, call: &LockCall, driver: bool) -> Nesting {
        let (outer, inner) = (&self.call.context, &call.context);
        let possible = self.held_since.is_none()
            && contract(self.call.routine).may_call.contains(call.routine)
            && self.same_stack(inner)
            && !(driver && inner.stack_pointer < outer.stack_pointer)
            && within(&self.call, inner, Some(call.routine));
        let handle = HandleKey::of(&call.operand).map_or(0, HandleKey::address);
        if !possible || handle != self.handle {
            Nesting::None
        } else if handle != 0 || outer.stack_pointer - inner.stack_pointer <= SMALLEST_INTERRUPT {
            Nesting::Certain
        } else {
            Nesting::Possible(self.call.sequence)
        }
    }
}

/// An acquire that waits for the proof that it has come back, or a hold whose end is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Open {
    /// The lock's place in the table.
    pub place: u32,
    /// The acquire.
    pub call: PriorCall,
    /// It has come back with the lock.
    pub proved: bool,
    /// Old IRQLs, by bit, that its caller still has to give back: those of other locks, whose releases gave another.
    #[serde(default)]
    pub(crate) owed: u16,
}

impl Open {
    /// Whether code that runs as `context`, at the entry of `routine` if that is told, proves that the acquire has come
    /// back: code of the same level runs on on its processor, or its very frame has been left.
    /// `driver`: that returns into the driver under test.
    pub(crate) fn returned_by(&self, context: &Context, routine: Option<Routine>, driver: bool) -> Option<Proof> {
        if context.irql < DISPATCH_LEVEL || contract(self.call.routine).result.may_fail() {
            return None;
        }
        let entered = &self.call.context;
        if driver && self.is_just_above(context) {
            return Some(Proof::Frame);
        }
        if within(&self.call, context, routine) {
            let same_level = entered.irql >= DISPATCH_LEVEL && context.irql <= entered.irql;
            // Code of the same level below the acquire's frame: the acquire's own, or it has come back.
            let not_its_own = match routine {
                Some(inner) => !inner_routines(self.call.routine).contains(inner),
                None => is_leaf(self.call.routine),
            };
            let back = same_level && not_its_own && entered.processor == context.processor;
            return back.then_some(Proof::SameLevel);
        }
        if self.left_by(context) {
            return Some(Proof::Frame);
        }
        let same_level =
            entered.irql >= DISPATCH_LEVEL && context.irql <= entered.irql && entered.processor == context.processor;
        same_level.then_some(Proof::SameLevel)
    }

    /// Whether `context` is deeper in the stack, but not by so much that the driver's code could run there as a part of an
    /// interrupt of the acquire.
    const fn is_just_above(&self, context: &Context) -> bool {
        let entered = &self.call.context;
        let deeper = entered.stack_pointer.wrapping_sub(context.stack_pointer);
        entered.thread == context.thread && entered.thread != 0 && deeper > 0 && deeper < SMALLEST_INTERRUPT
    }

    /// Whether the frame of the acquire has been left by the code that runs as `context`.
    pub(crate) const fn left_by(&self, context: &Context) -> bool {
        let entered = &self.call.context;
        entered.thread == context.thread
            && entered.thread != 0
            && context.stack_pointer.wrapping_sub(entered.stack_pointer) < NEAR
    }
}

/// Whether the locks of a routine are the port driver's or an interrupt object's: what is recorded of them is all that
/// there is for a verdict.
pub(crate) const fn locks_have_no_word(routine: Routine) -> bool {
    // Such an acquire raises the IRQL to that of the device.
    raises_further(routine)
}

/// Whether a routine raises the IRQL to that of a device: how far is not told.
pub(crate) const fn raises_further(routine: Routine) -> bool {
    matches!(
        routine,
        Routine::StorPortAcquireSpinLock
            | Routine::StorPortAcquireSpinLockEx
            | Routine::StorPortAcquireMSISpinLock
            | Routine::KeAcquireInterruptSpinLock
    )
}

/// Whether a routine calls no other that could be watched.
fn is_leaf(routine: Routine) -> bool {
    inner_routines(routine).is_empty() && routine != Routine::IoAcquireCancelSpinLock
}

/// The routines that may do the work of this one, on whatever lock.
fn inner_routines(routine: Routine) -> RoutineSet {
    const ACQUIRES: RoutineSet = RoutineSet::of(&[
        Routine::KeAcquireSpinLockRaiseToDpc,
        Routine::KeAcquireSpinLockAtDpcLevel,
        Routine::KeAcquireInStackQueuedSpinLock,
        Routine::KeAcquireInStackQueuedSpinLockAtDpcLevel,
        Routine::KeAcquireInterruptSpinLock,
    ]);
    let own = contract(routine).may_call;
    if raises_further(routine) || routine == Routine::IoAcquireCancelSpinLock {
        own.union(ACQUIRES)
    } else {
        own
    }
}

/// Whether `inner`, at the entry of `routine` if that is told, is a frame below the call `outer`, or has taken its place
/// by a jump: two calls from one depth are that only if the one routine may do its work by the other.
pub(crate) fn within(outer: &PriorCall, inner: &Context, routine: Option<Routine>) -> bool {
    let context = &outer.context;
    inner.stack_pointer < context.stack_pointer
        || (inner.stack_pointer == context.stack_pointer
            && inner.return_address == context.return_address
            && routine.is_some_and(|inner| inner_routines(outer.routine).contains(inner)))
}

/// Whether a release may end by a jump to another one: what is left to do is that one's business, and the IRQL is lowered last.
/// A release of a threaded DPC's lock lowers nothing in an ordinary DPC.
pub(crate) fn may_jump_to(outer: Routine, inner: Routine) -> bool {
    let of_dpc = matches!(
        outer,
        Routine::KeReleaseSpinLockForDpc | Routine::KeReleaseInStackQueuedSpinLockForDpc
    );
    of_dpc || contract(outer).irql.after == contract(inner).irql.after
}

/// Whether an acquire was made by another one to do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nesting {
    /// No.
    None,
    /// It may be that of the acquire with this sequence number.
    Possible(u64),
    /// Yes.
    Certain,
}

impl Nesting {
    /// The acquire that it may belong to.
    pub(crate) const fn outer(self) -> Option<u64> {
        match self {
            Self::Possible(outer) => Some(outer),
            Self::None | Self::Certain => None,
        }
    }
}

/// Whether a release, which may be any of these routines, belongs to the routine of a record.
pub(crate) fn fits(releases: RoutineSet, record: &Record) -> bool {
    releases.iter().any(|release| fits_one(release, record))
}

/// Whether a release belongs to the routine of a record.
pub(crate) fn fits_one(release: Routine, record: &Record) -> bool {
    let feeders = contract(release).fed_by;
    feeders.contains(record.call.routine)
        || (record.maybe_converted && feeders.contains(Routine::ExTryConvertSharedSpinLockExclusive))
}
