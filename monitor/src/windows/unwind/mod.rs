//! Unwinds x64 stacks of the guest by the tables in its images (`.pdata`, `.xdata`).
//!
//! Used for reports only: each frame costs a few guest reads. Talks to [`GuestMemory`] and to the module list; must not
//! know why a stack is wanted. The tables and the stack are the guest's: frames, chains and searches are bounded, and a
//! stack that cannot be followed ends with the reason. Source: Microsoft, "x64 exception handling".

mod epilogue;
mod tables;
#[cfg(test)]
mod tests;

pub use tables::{Function, UnwindError};

use super::modules::Modules;
use crate::vmi::{GuestMemory, ReadError, Registers};

/// RSP's number in instruction encodings and in unwind codes.
pub(super) const RSP: usize = 4;
/// The lowest address that kernel code can have.
const LOWEST_KERNEL_ADDRESS: u64 = 0xffff_8000_0000_0000;

/// One frame of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Where the frame is executing: the next instruction, or the one behind its call.
    pub rip: u64,
    /// Its stack pointer there.
    pub rsp: u64,
    /// Whether `rip` is the next instruction of this frame (the innermost one, or one that was interrupted) rather
    /// than a return address.
    pub exact: bool,
}

/// Why a stack was not followed further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndReason {
    /// The outermost frame: its return address is no kernel address.
    #[error("end of the kernel's stack")]
    Bottom,
    /// The code at this address belongs to no known module.
    #[error("no module at {0:#x}")]
    NoModule(u64),
    /// The code has no unwind information, but made a call.
    #[error("no unwind information for {0:#x}")]
    NoInformation(u64),
    /// The unwind information contradicts itself.
    #[error("damaged unwind information for {0:#x}")]
    Damaged(u64),
    /// The stack or the tables cannot be read.
    #[error("{0}")]
    Unreadable(ReadError),
    /// The stack pointer does not grow from frame to frame, or is not aligned.
    #[error("the stack pointer {0:#x} makes no sense")]
    StackPointer(u64),
    /// As many frames as were asked for.
    #[error("more frames than are shown")]
    Limit,
}

/// A stack, innermost frame first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// The frames; there is always the first one, if only the return address of a routine can be read.
    pub frames: Vec<Frame>,
    /// Why there are no more.
    pub end: EndReason,
}

/// The registers that unwinding restores; of the general ones only the non-volatile are right in outer frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context {
    pub(super) gpr: [u64; 16],
    pub(super) rip: u64,
    pub(super) exact: bool,
}

/// Follows the stack of a stopped processor, at most `limit` frames of it.
pub fn walk(memory: &(impl GuestMemory + ?Sized), modules: &mut Modules, registers: &Registers, limit: usize) -> Stack {
    let context = Context {
        gpr: registers.gpr,
        rip: registers.rip,
        exact: true,
    };
    follow(memory, modules, context, limit)
}

/// Follows the stack of a processor that stands at the first instruction of a routine, from whoever the routine returns to.
/// The return address is on top of the stack then, whatever module and tables the routine has.
pub(crate) fn walk_callers(
    memory: &(impl GuestMemory + ?Sized),
    modules: &mut Modules,
    registers: &Registers,
    limit: usize,
) -> Stack {
    let entered = Context {
        gpr: registers.gpr,
        rip: registers.rip,
        exact: true,
    };
    match tables::pop_return_address(memory, entered) {
        Ok(caller) => follow(memory, modules, caller, limit),
        Err(error) => Stack {
            frames: Vec::new(),
            end: EndReason::Unreadable(error),
        },
    }
}

fn follow(memory: &(impl GuestMemory + ?Sized), modules: &mut Modules, mut context: Context, limit: usize) -> Stack {
    let mut frames = Vec::new();
    loop {
        frames.push(Frame {
            rip: context.rip,
            rsp: context.gpr[RSP],
            exact: context.exact,
        });
        if frames.len() >= limit {
            return Stack {
                frames,
                end: EndReason::Limit,
            };
        }
        match step(memory, modules, &context) {
            Ok(outer) => context = outer,
            Err(end) => return Stack { frames, end },
        }
    }
}

/// The state of the caller of a frame.
pub(super) fn step(
    memory: &(impl GuestMemory + ?Sized),
    modules: &mut Modules,
    context: &Context,
) -> Result<Context, EndReason> {
    // A return address may be the first one behind its function, if the call never returns.
    let inside = if context.exact {
        context.rip
    } else {
        context.rip.wrapping_sub(1)
    };
    let image = modules.image_at(memory, inside).ok_or(EndReason::NoModule(inside))?;
    let mut outer = match Function::find(memory, image, inside) {
        Ok(Some(function)) => function.unwind(memory, image, context),
        Ok(None) if context.exact => tables::pop_return_address(memory, *context).map_err(UnwindError::Unreadable),
        Ok(None) => return Err(EndReason::NoInformation(inside)),
        Err(error) => Err(error),
    }
    .map_err(|error| match error {
        UnwindError::Unreadable(source) => EndReason::Unreadable(source),
        UnwindError::Damaged => EndReason::Damaged(inside),
    })?;
    let (before, after) = (context.gpr[RSP], outer.gpr[RSP]);
    // An interrupt may have switched stacks; a return only ever goes up.
    if after % 8 != 0 || (!outer.exact && after <= before) {
        return Err(EndReason::StackPointer(after));
    }
    if outer.rip < LOWEST_KERNEL_ADDRESS {
        return Err(EndReason::Bottom);
    }
    outer.gpr[RSP] = after;
    Ok(outer)
}
