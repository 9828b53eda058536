//! Virtual machine introspection: a machine as the monitor sees it, in narrow traits; and what it saw, recorded and
//! replayed.
//!
//! The backends implement the traits. It must not know Windows, locks or KVM.

pub mod cpu;
pub mod debuggee;
#[cfg(test)]
pub(crate) mod fake;
pub mod memory;
pub mod recorder;
pub mod recording;
pub mod replay;

pub use cpu::{
    Action, ArmError, Breakpoint, Capabilities, CpuState, CpuStop, Interception, Registers, RunControl,
    SpecialRegisters, StoppedCpu,
};
pub use memory::{GuestMemory, PAGE_SIZE, PhysicalMemory, ReadError};
