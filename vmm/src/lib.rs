//! A small PC for Windows guests on KVM.
//!
//! This crate knows KVM, x86 and the devices of a PC. It must not know locks, Windows or the monitor: whoever builds
//! a [`machine::Machine`] injects a [`debug::DebugHandler`] and reads what the machine shows.

pub mod boot;
pub mod bus;
pub mod debug;
pub mod devices;
pub mod doorbell;
pub mod firmware;
pub mod host;
pub mod irq;
pub mod kvm;
pub mod memory;
pub mod pci;
pub mod registers;
pub mod run;
pub mod sandbox;
pub mod storage;
pub mod translate;

mod cpuid;
mod hyperv;
mod msr;
mod rom;

pub use run::Error;
