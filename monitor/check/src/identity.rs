//! The identity of a lock: two calls with the same identity are about the same lock.
//!
//! Talks to the operands of events only.

use serde::{Deserialize, Serialize};

use crate::event::LockOperand;

/// A lock, independent of the routine that touches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockIdentity {
    /// `KSPIN_LOCK` or `EX_SPIN_LOCK` at an address.
    Address(u64),
    /// A lock of the port driver.
    StorPort {
        /// `HwDeviceExtension`.
        adapter: u64,
        /// `STOR_SPINLOCK`; 1 (`DpcLock`) for all kinds that are the lock of a `STOR_DPC`: they are one lock.
        kind: u32,
        /// `LockContext`: the `STOR_DPC` of a DPC lock, 0 for the kinds that ignore it.
        context: u64,
    },
    /// The lock of one interrupt message.
    Msi {
        /// `HwDeviceExtension`.
        adapter: u64,
        /// `MessageId`.
        message: u32,
    },
    /// The lock of an interrupt object.
    Interrupt(u64),
    /// The cancel spin lock.
    Cancel,
    /// Not known: a handle was released that no acquire had filled in.
    Handle(u64),
}

/// The name of a `STOR_SPINLOCK`; `None` for numbers that the documentation does not know.
#[must_use]
pub const fn stor_spinlock_name(kind: u32) -> Option<&'static str> {
    Some(match kind {
        1 => "DpcLock",
        START_IO_LOCK => "StartIoLock",
        INTERRUPT_LOCK => "InterruptLock",
        4 => "ThreadedDpcLock",
        5 => "DpcLevelLock",
        _ => return None,
    })
}

/// `STOR_SPINLOCK` of the StartIoLock, whose lock context the documentation wants to be `NULL`.
pub const START_IO_LOCK: u32 = 2;
/// That of the InterruptLock; the same goes for its context.
pub const INTERRUPT_LOCK: u32 = 3;
pub(crate) const DPC_LOCK: u32 = 1;
const THREADED_DPC_LOCK: u32 = 4;
pub(crate) const DPC_LEVEL_LOCK: u32 = 5;

/// Whether this `STOR_SPINLOCK` is the `KSPIN_LOCK` in the `STOR_DPC` that the context points to: the kinds differ in how
/// the lock is taken, not in which it is.
#[must_use]
pub(crate) const fn is_dpc_lock(kind: u32) -> bool {
    matches!(kind, DPC_LOCK | THREADED_DPC_LOCK | DPC_LEVEL_LOCK)
}

/// These kinds.
pub const DPC_LOCKS: [u32; 3] = [DPC_LOCK, THREADED_DPC_LOCK, DPC_LEVEL_LOCK];

impl LockIdentity {
    /// The identity that an operand carries by itself; `None` for a bare handle.
    #[must_use]
    pub const fn of(operand: &LockOperand) -> Option<Self> {
        Some(match *operand {
            LockOperand::Address(lock) | LockOperand::Queued { lock, .. } => Self::Address(lock),
            LockOperand::StorPort {
                adapter, kind, context, ..
            } => {
                let context = if matches!(kind, START_IO_LOCK | INTERRUPT_LOCK) {
                    0
                } else {
                    context
                };
                let kind = if is_dpc_lock(kind) { DPC_LOCK } else { kind };
                Self::StorPort { adapter, kind, context }
            }
            LockOperand::Msi { adapter, message } => Self::Msi { adapter, message },
            LockOperand::Interrupt(object) => Self::Interrupt(object),
            LockOperand::Cancel => Self::Cancel,
            LockOperand::QueuedHandle { .. } | LockOperand::StorPortHandle { .. } => return None,
        })
    }

    /// The address in guest memory that vanishes with the lock, if it has one.
    #[must_use]
    pub const fn address(&self) -> Option<u64> {
        match *self {
            Self::Address(address) | Self::Interrupt(address) | Self::Handle(address) => Some(address),
            Self::StorPort { adapter, .. } | Self::Msi { adapter, .. } => Some(adapter),
            Self::Cancel => None,
        }
    }
}

impl std::fmt::Display for LockIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Address(address) => write!(f, "spin lock {address:#018x}"),
            Self::StorPort { adapter, kind, context } => {
                match stor_spinlock_name(kind) {
                    Some(name) => write!(f, "{name} of adapter {adapter:#018x}")?,
                    None => return write!(f, "STOR_SPINLOCK {kind} of adapter {adapter:#018x}"),
                }
                if context != 0 {
                    write!(f, ", DPC {context:#018x}")?;
                }
                Ok(())
            }
            Self::Msi { adapter, message } => write!(f, "lock of message {message} of adapter {adapter:#018x}"),
            Self::Interrupt(object) => write!(f, "lock of interrupt object {object:#018x}"),
            Self::Cancel => f.write_str("cancel spin lock"),
            Self::Handle(handle) => write!(f, "unknown lock, handle {handle:#018x}"),
        }
    }
}

/// A lock handle in guest memory. In-stack and StorPort handles are kept apart, because a StorPort handle contains an in-stack one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HandleKey {
    /// `KLOCK_QUEUE_HANDLE`.
    Queued(u64),
    /// `STOR_LOCK_HANDLE`.
    StorPort(u64),
}

impl HandleKey {
    /// The handle of an operand. A StorPort handle of 0 could not be read.
    #[must_use]
    pub const fn of(operand: &LockOperand) -> Option<Self> {
        match *operand {
            LockOperand::Queued { handle, .. } | LockOperand::QueuedHandle { handle, .. } => Some(Self::Queued(handle)),
            LockOperand::StorPort { handle: 0, .. } => None,
            LockOperand::StorPort { handle, .. } | LockOperand::StorPortHandle { handle, .. } => {
                Some(Self::StorPort(handle))
            }
            _ => None,
        }
    }

    /// Where the handle lies.
    #[must_use]
    pub const fn address(self) -> u64 {
        match self {
            Self::Queued(address) | Self::StorPort(address) => address,
        }
    }
}
