//! What the port driver does with operands: which lock they name, and whether it takes one at all.
//!
//! Facts of storport.sys: `StorPortAcquireSpinLock` knows the kinds 1 to 3 and takes nothing for others, nor for a
//! `DpcLock` without a context; `StorPortAcquireSpinLockEx` refuses kinds 1 to 3 above `DISPATCH_LEVEL`, kind 5 below it,
//! and kinds 1, 4 and 5 without a context. A release goes by the adapter argument and by what the handle says now.

use crate::contract::{Routine, STOR_DPC_LOCK};
use crate::event::{DISPATCH_LEVEL, LockCall, LockOperand};
use crate::identity::{DPC_LEVEL_LOCK, DPC_LOCK, INTERRUPT_LOCK, LockIdentity, is_dpc_lock};

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

/// Whether a hold of this lock says nothing: without an interrupt object the port driver takes none, and only the IRQL
/// shows that.
pub(crate) const fn may_be_none(lock: &LockIdentity) -> bool {
    matches!(
        lock,
        LockIdentity::StorPort {
            kind: INTERRUPT_LOCK,
            ..
        }
    )
}
