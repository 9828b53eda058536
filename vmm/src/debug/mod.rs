//! Debugs a guest from outside: breakpoints and stop points, the debug registers of a vCPU, getting past a breakpoint.
//!
//! It holds what is armed and what a handler answers, as data, with the rules for both; [`crate::run`] makes KVM's
//! requests with it. It must not know KVM's file descriptors, threads, or why an address is watched. Sources: Intel SDM
//! volume 3, 19.2 (debug registers), 19.3.1.1 (instruction breakpoints and RFLAGS.RF).
//!
//! # What a guest can tell from bare metal
//! A debug exception that is not ours is given back to the guest (DR6.BS and an injected #DB). What differs:
//! - While any breakpoint is armed the guest's own DR0 to DR3 and DR7 keep their values but break nowhere.
//! - ICEBP (F1) arrives as a #DB that names no cause in DR6; which RIP the guest's handler sees is up to KVM, and so is
//!   how long MOV SS holds a #DB back.
//! - A first instruction that is single-stepped runs with interrupts held back; where KVM cannot do that, an interrupt
//!   handler's first instruction may be stepped in its stead and the breakpoint is reported again after its return.
//! - A [`StopPointKind::SoftwareBreakpoint`] is a byte in the guest's memory: its own reads and its devices' see it.
//! - Where our breakpoint and the guest's single step come as one exception, the resume flag is used whatever the method.
#![forbid(unsafe_code)]

mod breakpoint;
mod slots;
mod step_over;
mod stop_point;
#[cfg(test)]
mod tests;

pub(crate) use breakpoint::check_breakpoints;
pub use breakpoint::{BREAKPOINT_LIMIT, Breakpoint, BreakpointError, HitAction};
pub(crate) use slots::{Catch, DR6_BS, DR6_NONE, DebugRegisters, Hit};
pub use step_over::StepOver;
pub(crate) use step_over::{FirstInstruction, INSTRUCTION_LIMIT, Memory, Refused};
pub use stop_point::{ResumeAction, StopPoint, StopPointError, StopPointKind};
pub(crate) use stop_point::{check_stop_points, fitting};
