//! A machine from its configuration to its end: build, boot, start, pause, resume, stop.
//!
//! [`Machine`] is built on one thread; a [`RunningMachine`] has one thread a vCPU and one coordinator thread. Talks to
//! every other part of this crate, and none of them talks back: devices and debuggers get what they need injected. It
//! must not know why the guest is run.

mod attach;
mod board;
mod builder;
mod config;
mod coordinator;
mod error;
mod handle;
mod power_on;
mod probe;
mod running;
mod stop;
mod threads;
mod unserved;
mod vcpu;

pub use crate::debug::StepOver;
pub use builder::Machine;
pub use config::{AddressWidth, AtReset, CPU_LIMIT, MachineConfig};
pub use error::Error;
pub use handle::MachineHandle;
pub use probe::{StepOverResult, probe_step_over};
pub use running::RunningMachine;
pub use stop::{CpuStatistics, InternalError, MachineStop};
pub use threads::{THREADS, VCPU_THREAD};
pub use unserved::Unserved;
pub use vcpu::{DebugHandler, LocalInterrupts, StoppedCpu};
