//! The backend for our own machine on KVM: for the monitor and for a debugger.

pub mod cpu;
pub mod debuggee;

pub use cpu::{Handler, KvmCpu, MSR_LSTAR, StopHandler};
