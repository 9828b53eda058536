//! What the host saw in the guest: the checker's only input.
//!
//! Whoever watches a guest (or replays a trace) fills events in; the checker and the trace format read them. It must
//! not know how a breakpoint is set, how memory is read or what a guest's structures look like.
//!
//! Lock calls are reported at the *entry* of the routine: an acquire that was entered is an attempt, not an
//! acquisition.

use serde::{Deserialize, Serialize};

use crate::contract::{Callback, PortModel, Routine};

/// Highest IRQL at which a thread can still be preempted and moved to another processor (`APC_LEVEL`).
pub const APC_LEVEL: u8 = 1;
/// IRQL at which spin locks are held (`DISPATCH_LEVEL`).
pub const DISPATCH_LEVEL: u8 = 2;

/// The highest IRQL (`HIGH_LEVEL`).
pub(crate) const HIGH_LEVEL: u8 = 15;

/// One observation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Number of the event, strictly increasing over the run. Zero is allowed for the first one only.
    pub sequence: u64,
    /// What `sequence` says about other processors.
    pub order: Order,
    /// What was seen.
    pub kind: EventKind,
}

/// How far the sequence numbers of two events say which came first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The number was taken while the processor stood still at the event: events of all processors are in one order.
    #[default]
    Total,
    /// Only events of the same processor are in order.
    PerProcessor,
}

/// The kinds of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// A lock routine was entered.
    LockCall(LockCall),
    /// A lock routine whose return was caught came back.
    LockReturn(LockReturn),
    /// More is known of who made the call before.
    CallerAttributed(CallerAttributed),
    /// A callback of the driver under test is about to make the lock call that follows, and the port driver may hold the
    /// lock around that callback.
    InCallback(InCallback),
    /// A processor was seen at an IRQL, for whatever reason.
    IrqlSeen {
        /// Processor index, from 0.
        processor: u32,
        /// Its IRQL.
        irql: u8,
    },
    /// The machine stands still for good, and this is where one of its processors stands; the return address is where the
    /// next instruction is. Comes last, once a processor.
    ProcessorStopped(Context),
    /// The machine stands still for good, and the driver under test has not released a lock.
    StillHeld(StillHeld),
    /// How the port driver runs the driver under test.
    PortTold(PortTold),
    /// A module was mapped.
    ModuleLoad(Module),
    /// A module was unmapped; its memory, with the locks in it, is gone.
    ModuleUnload {
        /// First address of the image.
        base: u64,
        /// Bytes of the image.
        size: u64,
    },
    /// Memory was given back to the system; locks in it are gone.
    MemoryFreed {
        /// First address.
        address: u64,
        /// Bytes.
        length: u64,
    },
    /// The breakpoints were armed or chosen anew. What was not watched until now has an unknown past.
    WatchSetChanged(WatchSet),
    /// The emulated hardware was told to fail.
    FaultInjected {
        /// Number that the injector gave to the fault.
        fault: u64,
    },
    /// The machine was put back to an earlier state that this checker does not know.
    Restored,
}

/// Who was running, where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Processor index, from 0.
    pub processor: u32,
    /// IRQL (CR8).
    pub irql: u8,
    /// Whether RFLAGS.IF was set.
    pub interrupts: bool,
    /// Current thread (`gs:[188h]`). While a DPC or an interrupt runs this is the interrupted thread. 0: not readable.
    pub thread: u64,
    /// RSP.
    pub stack_pointer: u64,
    /// At a call: the quadword at RSP. It need not lie in the caller: a tail call leaves that of the caller's caller.
    pub return_address: u64,
}

/// A lock routine at its first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockCall {
    /// Which routine.
    pub routine: Routine,
    /// Who.
    pub context: Context,
    /// The lock or handle that it was given.
    pub operand: LockOperand,
    /// The old-IRQL argument of a release (`NewIrql`), as it was passed: above 15 it is no IRQL.
    pub old_irql: Option<u8>,
    /// The lock word before the routine ran, where the contract says where it is and it could be read. Only whether
    /// it is zero is ever used: zero means that nobody holds the lock.
    pub word: Option<u64>,
}

/// A lock routine that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockReturn {
    /// Sequence number of its [`LockCall`].
    pub call: u64,
    /// The same routine.
    pub routine: Routine,
    /// The same operand.
    pub operand: LockOperand,
    /// EAX. The contract says what it means and how many of its bits count. 0 if it is not known, for a routine that
    /// cannot fail.
    pub value: u32,
    /// Who, now: the thread may have moved to another processor since the call, and gone on.
    pub context: Context,
}

/// What the unwinding of the stack tells of a lock call, right after the [`LockCall`] in which something was found.
///
/// A call in tail position leaves no trace of its caller in the call itself, and a wrapper hides who called it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerAttributed {
    /// Sequence number of the [`LockCall`].
    pub call: u64,
    /// The driver under test made the call, wherever it returns to.
    pub target: bool,
    /// Where the call comes from: its return address, or the function that made it by a jump. 0: not known.
    pub caller: u64,
    /// Return addresses of the two frames outside of that, innermost first. 0: not known.
    pub frames: [u64; 2],
}

/// What a lock routine was given, as decoded by its contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockOperand {
    /// `KSPIN_LOCK` or `EX_SPIN_LOCK` by its address.
    Address(u64),
    /// An in-stack queued acquire: lock and `KLOCK_QUEUE_HANDLE`.
    Queued {
        /// Address of the lock.
        lock: u64,
        /// Address of the handle.
        handle: u64,
    },
    /// An in-stack queued release: only the handle.
    QueuedHandle {
        /// Address of the handle.
        handle: u64,
        /// The handle's `Lock` field without its three flag bits, if it could be read.
        lock: Option<u64>,
    },
    /// A StorPort acquire.
    StorPort {
        /// `HwDeviceExtension`.
        adapter: u64,
        /// `STOR_SPINLOCK`.
        kind: u32,
        /// `LockContext`.
        context: u64,
        /// Address of the `STOR_LOCK_HANDLE`. 0: the stack slot could not be read.
        handle: u64,
    },
    /// A StorPort release: only the handle.
    StorPortHandle {
        /// `HwDeviceExtension`.
        adapter: u64,
        /// Address of the `STOR_LOCK_HANDLE`.
        handle: u64,
        /// The handle's `Lock` field (`STOR_SPINLOCK`, 0 in a zeroed handle), if it could be read: what the port driver
        /// goes by at the release.
        kind: Option<u32>,
        /// The `Lock` field of the `KLOCK_QUEUE_HANDLE` in the handle without its three flag bits, if it could be read.
        lock: Option<u64>,
    },
    /// The lock of a message-signalled interrupt.
    Msi {
        /// `HwDeviceExtension`.
        adapter: u64,
        /// `MessageId`.
        message: u32,
    },
    /// The lock inside a `KINTERRUPT`.
    Interrupt(u64),
    /// The system-wide cancel spin lock.
    Cancel,
}

impl LockOperand {
    /// `HwDeviceExtension`, where it names one.
    #[must_use]
    pub const fn adapter(&self) -> Option<u64> {
        match *self {
            Self::StorPort { adapter, .. } | Self::StorPortHandle { adapter, .. } | Self::Msi { adapter, .. } => {
                Some(adapter)
            }
            _ => None,
        }
    }

    /// The same lock by an address that is so many bytes (modulo 2^64) from the one given: its memory has two. Handles stay
    /// where they are, as do locks that have no address.
    #[must_use]
    pub fn moved(self, bytes: u64) -> Self {
        let by = |address: u64| address.wrapping_add(bytes);
        let mut moved = self;
        match &mut moved {
            Self::Address(lock) | Self::Queued { lock, .. } => *lock = by(*lock),
            Self::QueuedHandle { lock, .. } | Self::StorPortHandle { lock, .. } => *lock = lock.map(by),
            // The DPC that the lock is in.
            Self::StorPort { context, .. } => *context = by(*context),
            Self::Msi { .. } | Self::Interrupt(_) | Self::Cancel => {}
        }
        moved
    }
}

/// A callback of the driver under test that is about to call a lock routine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InCallback {
    /// Which one.
    pub callback: Callback,
    /// How the port driver runs the driver.
    pub port: PortModel,
    /// Who: that of the call.
    pub context: Context,
}

/// A lock that has not been released when the machine stands still for good: its acquire has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StillHeld {
    /// Sequence number of the [`LockCall`].
    pub acquire: u64,
    /// How long ago that was, in milliseconds; 0: not known.
    pub milliseconds: u64,
    /// The callback of the driver under test that has made it is not on its stack any more.
    pub left: bool,
    /// Where the processor stands on whose stack it was made, at `DISPATCH_LEVEL` or above.
    pub stopped: Context,
}

/// How the port driver runs the driver under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortTold {
    /// `HwDeviceExtension` of the adapter that it is told of. 0: the driver has registered, of no adapter in particular.
    pub adapter: u64,
    /// How.
    pub port: PortModel,
}

/// A mapped module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// Whether this is the driver under test.
    pub target: bool,
    /// Base name, at most [`Module::MAX_NAME`] bytes are kept in a trace.
    pub name: String,
}

impl Module {
    /// Longest name that a trace keeps, bytes.
    pub const MAX_NAME: usize = 255;
}

/// Which routines are watched, and which the driver under test could call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchSet {
    /// Routines whose entry is reported from now on.
    pub watched: crate::contract::RoutineSet,
    /// Routines that the driver under test imports.
    pub imported: crate::contract::RoutineSet,
    /// Number of processors of the machine: all of them have to be seen below `DISPATCH_LEVEL` before a lock without
    /// a visible word is known.
    pub processors: u32,
    /// Nothing of the driver under test has run yet: no call of its can be older than this event.
    pub before_target: bool,
    /// The driver under test reaches lock routines by its import table only: it looks up no routine by name at run time
    /// (`MmGetSystemRoutineAddress`), imports nothing by ordinal and nothing from other than system modules. If not, any
    /// routine that is not watched may have touched its locks.
    pub closed: bool,
    /// Routines that share their code with another one of the same operands, so that an entry does not tell which was
    /// called.
    pub ambiguous: crate::contract::RoutineSet,
}
