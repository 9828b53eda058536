//! Describes a violation by a bug check code and its four parameters; `docs/dump.md` has the table for users.
//!
//! None of Windows' own codes is used, because Windows did not stop: a debugger would explain something that has not
//! happened.

use storlock_check::event::LockOperand;
use storlock_check::finding::Finding;

use crate::report::BugCheck;

/// The code: severity "error" and the bit for customers, as in an NTSTATUS, then `SLK` in ASCII.
pub(crate) const CODE: u32 = 0xe053_4c4b;

/// The violation in these words.
#[must_use]
pub(crate) fn of(finding: &Finding) -> BugCheck {
    BugCheck {
        code: CODE.into(),
        parameters: [
            u64::from(finding.rule.number()) << 8 | u64::from(finding.cause.number()),
            lock(&finding.call.operand),
            finding.call.context.return_address,
            finding.sequence,
        ],
    }
}

/// What the call names its lock by: an address, except for the lock of a message.
const fn lock(operand: &LockOperand) -> u64 {
    match *operand {
        LockOperand::Address(address) | LockOperand::Interrupt(address) => address,
        LockOperand::Queued { lock, .. } => lock,
        LockOperand::QueuedHandle { handle, .. }
        | LockOperand::StorPort { handle, .. }
        | LockOperand::StorPortHandle { handle, .. } => handle,
        LockOperand::Msi { message, .. } => message as u64,
        LockOperand::Cancel => 0,
    }
}
