//! Our own machine on KVM as the monitor and a debugger see it.

pub mod cpu;
pub mod debuggee;

pub use cpu::{Handler, KvmCpu, MSR_LSTAR, StopHandler};
