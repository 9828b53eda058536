//! The backend for our own machine on KVM: for the monitor and for a debugger.

pub(crate) mod cpu;
pub(crate) mod debuggee;

pub(crate) use cpu::{Handler, KvmCpu, MSR_LSTAR, StopHandler};
