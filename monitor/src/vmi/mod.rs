//! Virtual machine introspection: narrow traits by which the monitor sees a machine; and the recording of what it saw,
//! with its replay.
//!
//! The backends implement the traits. It must not know Windows, locks or KVM; [`debuggee`] takes plain data types from
//! the machine's crate.

pub mod cpu;
pub mod debuggee;
// The fuzz targets use a part of it.
#[cfg(any(test, feature = "fakes"))]
#[cfg_attr(not(test), allow(dead_code))]
pub mod fake;
pub(crate) mod memory;
pub(crate) mod recorder;
pub mod recording;
pub mod replay;

pub use cpu::{
    Action, ArmError, Breakpoint, Capabilities, CpuState, CpuStop, Interception, Registers, RunControl,
    SpecialRegisters, StoppedCpu,
};
pub use memory::{GuestMemory, PAGE_SIZE, PhysicalMemory, ReadError, SharedMemory};
