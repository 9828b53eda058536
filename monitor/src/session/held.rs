//! Acquires of the driver under test that are open on the stack of a stopped processor and have come back: whether the
//! callback that made each is over.
//!
//! Asks the checker for open acquires, and looks at the frames of the stack. It must not know what a hold is good for.

use storlock_check::checker::{Checker, OpenAcquire};
use storlock_check::event::{Context, DISPATCH_LEVEL, LockReturn};

use super::KERNEL_MODE;
use super::callbacks::{Callbacks, function_at};
use super::decode;
use super::hang;
use super::returns;
use crate::report::ModuleInfo;
use crate::vmi::CpuState;
use crate::windows::unwind::Frame;

/// Bytes between the places of two stack pointers that are on one stack.
const STACK: u64 = 0x3000;
/// Bytes that a CALL pushes.
const RETURN_ADDRESS: u64 = 8;

/// An acquire that is open when a processor has stopped, and has come back.
#[derive(Debug)]
pub(crate) struct OpenAtEnd {
    /// Number of its event.
    pub(super) acquire: u64,
    /// Its return, if that is news.
    pub(super) returned: Option<LockReturn>,
    /// The callback that made it is over.
    pub(super) left: bool,
    /// Where the processor stands.
    pub(super) stopped: Context,
}

/// Those of a processor whose stack has these frames, all of them; none if it could not be followed. A processor that waits
/// for a lock is another matter: it is told what it waits for.
pub(super) fn still_held(
    checker: &Checker,
    cpu: &impl CpuState,
    target: &ModuleInfo,
    callbacks: &mut Callbacks,
    frames: &[Frame],
) -> Vec<OpenAtEnd> {
    let stopped = decode::context_after(cpu);
    if frames.is_empty() || cpu.special().cpl != KERNEL_MODE || stopped.irql < DISPATCH_LEVEL {
        return Vec::new();
    }
    let waits = hang::is_in_acquire(checker, cpu, &stopped);
    let back = returns::since_then(checker, cpu, &stopped);
    let all = checker.open_acquires().into_iter();
    let own = all.filter(|open| target.contains(open.call.context.return_address) && is_near(open, &stopped));
    own.filter_map(|open| {
        let entered = &open.call.context;
        let returned = back.iter().find(|back| back.call == open.call.sequence);
        // The processor is further out than the call, or something else is where the call's return address was.
        let over = stopped.stack_pointer > entered.stack_pointer || returns::is_inside(cpu, entered) == Some(false);
        let left = is_left(cpu, target, callbacks, frames, entered);
        let counts = left || (!waits && (open.held || over));
        counts.then(|| OpenAtEnd {
            acquire: open.call.sequence,
            returned: returned.copied(),
            left,
            stopped,
        })
    })
    .collect()
}

/// Whether an acquire was made on the stack on which a processor has stopped.
fn is_near(open: &OpenAcquire, stopped: &Context) -> bool {
    let entered = &open.call.context;
    let apart = entered.stack_pointer.abs_diff(stopped.stack_pointer);
    entered.thread == stopped.thread && entered.thread != 0 && apart < STACK
}

/// Whether the callback that made a call is over. Its frames were at the stack pointer of the call and above, and whatever
/// lies there now is not of it: nothing of the driver, or another function than the callback, if it was that which made the
/// call.
fn is_left(
    cpu: &impl CpuState,
    target: &ModuleInfo,
    callbacks: &mut Callbacks,
    frames: &[Frame],
    entered: &Context,
) -> bool {
    let caller = entered.stack_pointer.wrapping_add(RETURN_ADDRESS);
    let ends = frames.iter().skip(1).map(|outer| outer.rsp).chain([u64::MAX]);
    let outer = frames.iter().zip(ends).filter(|(_, end)| *end > caller);
    let outer: Vec<&Frame> = outer.map(|(frame, _)| frame).collect();
    let own = |frame: &&&Frame| target.contains(frame.rip);
    if !outer.iter().any(|frame| own(&frame)) {
        return true;
    }
    let made_by = callbacks.function_behind(cpu, target, entered.return_address);
    made_by.is_some_and(|callback| {
        let own = outer.iter().filter(own);
        let mut functions = own.map(|frame| function_at(cpu, target, frame));
        functions.all(|begin| begin.is_some_and(|begin| begin != callback))
    })
}
