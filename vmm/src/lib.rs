//! A small PC for Windows guests on KVM.
//!
//! This crate knows KVM, x86 and the devices of a PC. It must not know locks, Windows or the monitor: whoever builds
//! a [`Machine`] injects a [`run::DebugHandler`] and reads what the machine shows.
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//!
//! use storlock_vmm::boot::{BootRequest, KernelImage};
//! use storlock_vmm::{Machine, MachineConfig, MachineStop, kvm};
//!
//! let kvm = kvm::open(Path::new(kvm::DEFAULT_DEVICE))?;
//! let mut machine = Machine::new(&kvm, MachineConfig::default())?;
//! machine.end_at_port(0x80)?;
//! machine.boot(&BootRequest {
//!     // out 80h, al
//!     kernel: KernelImage::from_code("example", &[0xe6, 0x80])?,
//!     files: Vec::new(),
//!     command_line: String::new(),
//!     seed: 0,
//! })?;
//! let running = machine.start()?;
//! assert!(matches!(running.wait(Some(Duration::from_secs(10))), MachineStop::PowerOff));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod boot;
pub mod bus;
pub mod debug;
pub mod devices;
pub mod doorbell;
mod firmware;
pub mod host;
pub mod irq;
pub mod kvm;
pub mod memory;
pub mod msr;
pub mod pci;
pub mod registers;
pub mod run;
pub mod sandbox;
pub mod storage;
pub(crate) mod tally;
pub mod translate;

mod cpuid;
mod hyperv;
mod rom;

pub use run::{AtReset, Error, Machine, MachineConfig, MachineHandle, MachineStop, RunningMachine};
