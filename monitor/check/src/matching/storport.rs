//! What the port driver does with operands: which lock they name, and whether it takes one at all.
//!
//! Facts of storport.sys: `StorPortAcquireSpinLock` knows the kinds 1 to 3 and takes nothing for others, nor for a
//! `DpcLock` without a context; `StorPortAcquireSpinLockEx` refuses kinds 1 to 3 above `DISPATCH_LEVEL`, kind 5 below it,
//! and kinds 1, 4 and 5 without a context. A release goes by the adapter argument and by what the handle says now.

use super::core::Port;
use super::record::Record;
use crate::contract::{PortModel, Routine, STOR_DPC_LOCK};
use crate::event::{DISPATCH_LEVEL, LockCall, LockOperand};
use crate::finding::Overlap;
use crate::identity::{DPC_LEVEL_LOCK, DPC_LOCK, INTERRUPT_LOCK, LockIdentity, START_IO_LOCK, is_dpc_lock};

/// What an acquire does with its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taking {
    /// It takes the lock, or waits for it.
    Lock,
    /// It takes nothing, and tells nobody.
    Nothing,
    /// It returns with an error.
    Refused,
}

/// See [`Taking`].
pub(crate) const fn taking(call: &LockCall) -> Taking {
    let LockOperand::StorPort { kind, context, .. } = call.operand else {
        return Taking::Lock;
    };
    let no_context = is_dpc_lock(kind) && context == 0;
    match call.routine {
        Routine::StorPortAcquireSpinLock => {
            if no_context || kind < DPC_LOCK || (kind > INTERRUPT_LOCK && kind <= DPC_LEVEL_LOCK) {
                Taking::Nothing
            } else {
                Taking::Lock
            }
        }
        Routine::StorPortAcquireSpinLockEx => {
            let irql = call.context.irql;
            let wrong_irql =
                (kind <= INTERRUPT_LOCK && irql > DISPATCH_LEVEL) || (kind == DPC_LEVEL_LOCK && irql < DISPATCH_LEVEL);
            if no_context || kind < DPC_LOCK || wrong_irql {
                Taking::Refused
            } else {
                Taking::Lock
            }
        }
        _ => Taking::Lock,
    }
}

/// The lock that a handle names by what is in it, where that is known; a handle that no acquire has filled in names none.
pub(crate) fn named(operand: &LockOperand) -> Option<LockIdentity> {
    match *operand {
        LockOperand::QueuedHandle { lock, .. } => lock.filter(|lock| *lock != 0).map(LockIdentity::Address),
        LockOperand::StorPortHandle {
            adapter,
            kind: Some(kind),
            lock,
            ..
        } if is_dpc_lock(kind) => {
            let context = lock?.checked_sub(STOR_DPC_LOCK).filter(|context| *context != 0)?;
            Some(LockIdentity::StorPort {
                adapter,
                kind: DPC_LOCK,
                context,
            })
        }
        LockOperand::StorPortHandle {
            adapter,
            kind: Some(kind),
            ..
        } if kind > DPC_LOCK && kind <= INTERRUPT_LOCK => Some(LockIdentity::StorPort {
            adapter,
            kind,
            context: 0,
        }),
        _ => None,
    }
}

/// Whether a handle says that it is of no lock.
pub(crate) const fn names_nothing(operand: &LockOperand) -> bool {
    matches!(
        operand,
        LockOperand::StorPortHandle { kind: Some(0), .. } | LockOperand::QueuedHandle { lock: Some(0), .. }
    )
}

/// Whether whoever takes this lock runs at `DISPATCH_LEVEL` then, unless it has been higher before; the others raise the
/// IRQL to that of a device.
pub(crate) const fn stays_at_dispatch_level(lock: &LockIdentity) -> bool {
    matches!(
        lock,
        LockIdentity::Address(_) | LockIdentity::StorPort { kind: DPC_LOCK, .. }
    )
}

/// Whether this is the lock of the adapter's interrupt, as far as the port driver's ways are known. A hold of it says nothing:
/// without an interrupt object the port driver takes none, and only the IRQL shows that.
pub(crate) fn is_interrupt_lock(lock: &LockIdentity, port: &Port) -> bool {
    match *lock {
        LockIdentity::StorPort {
            kind: INTERRUPT_LOCK, ..
        } => true,
        LockIdentity::StorPort {
            kind: START_IO_LOCK,
            adapter,
            ..
        } => {
            let port = port.configured(adapter);
            port.is_some_and(|port| port.contains(PortModel::HALF_DUPLEX))
        }
        _ => false,
    }
}

/// Whether this may be the lock of the adapter's interrupt: the StartIoLock is, unless the full duplex model is known.
pub(crate) fn may_be_interrupt_lock(lock: &LockIdentity, port: &Port) -> bool {
    let unknown = matches!(*lock, LockIdentity::StorPort { kind: START_IO_LOCK, adapter, .. } if port.configured(adapter).is_none());
    unknown || is_interrupt_lock(lock, port)
}

/// Whether the port driver may have taken no lock for an acquire that has come back. A StartIoLock for which the IRQL was
/// raised is one, whatever the model.
pub(crate) fn may_be_none(lock: &LockIdentity, record: &Record, port: &Port) -> bool {
    is_interrupt_lock(lock, port) || (!record.raised && may_be_interrupt_lock(lock, port))
}

/// Whether who holds the one lock waits for himself at the other, by a name of the same lock or of a part of it: in the half
/// duplex model the StartIoLock is the InterruptLock, and that takes the lock of each message where each has one.
pub(crate) fn overlap(one: &LockIdentity, other: &LockIdentity, port: &Port) -> Option<Overlap> {
    let adapter = |lock: &LockIdentity| match *lock {
        LockIdentity::StorPort { adapter, kind, .. } if kind == START_IO_LOCK || kind == INTERRUPT_LOCK => {
            Some(adapter)
        }
        LockIdentity::Msi { adapter, .. } => Some(adapter),
        _ => None,
    };
    let of = adapter(one)?;
    let model = port
        .configured(of)
        .filter(|_| one != other && adapter(other) == Some(of))?;
    match (is_interrupt_lock(one, port), is_interrupt_lock(other, port)) {
        (true, true) => Some(Overlap::HalfDuplex),
        (true, false) | (false, true) if model.contains(PortModel::PER_MESSAGE) => {
            let message = |lock: &LockIdentity| matches!(lock, LockIdentity::Msi { .. });
            (message(one) || message(other)).then_some(Overlap::PerMessage)
        }
        _ => None,
    }
}
