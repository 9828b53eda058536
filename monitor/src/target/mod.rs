//! The target as the monitor sees it: narrow traits, and the backends that implement them.

pub mod cpu;
pub mod debuggee;
pub mod kvm;
pub mod kvm_debuggee;
pub mod memory;
pub mod recorder;
pub mod recording;
pub mod replay;

pub use cpu::{
    Action, ArmError, Capabilities, CpuState, Hook, Interception, Registers, RunControl, SpecialRegisters, StopReason,
    StoppedCpu,
};
pub use memory::{GuestMemory, PAGE_SIZE, PhysicalMemory, ReadError};
