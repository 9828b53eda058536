//! Which acquires of a thread have come back though their returns were not caught, as its stack tells.
//!
//! A routine finds its return address at the end where its caller has put it, so nothing else is written there before.
//! Asks the checker for acquires that may still be waiting, and the guest's memory. It must not know what a proof is good for.

use storlock_check::checker::Checker;
use storlock_check::event::{Context, LockReturn};

use crate::vmi::GuestMemory;

/// Whether the call that was entered as `entered` may still be under way; `None`: its stack cannot be read.
pub(super) fn is_inside(memory: &impl GuestMemory, entered: &Context) -> Option<bool> {
    let there = memory.read_u64(entered.stack_pointer).ok()?;
    Some(there == entered.return_address)
}

/// The acquires of the thread that have come back by `now`, where it runs.
pub(super) fn since_then(checker: &Checker, memory: &impl GuestMemory, now: &Context) -> Vec<LockReturn> {
    let unproved = checker.unproved_of(now);
    let back = unproved.filter(|(_, call)| is_inside(memory, &call.context) == Some(false));
    back.map(|(sequence, call)| LockReturn {
        call: sequence,
        routine: call.routine,
        operand: call.operand,
        value: 0,
        context: Context {
            return_address: call.context.return_address,
            ..*now
        },
    })
    .collect()
}
