//! Storage: the controllers a guest sees and the backends that keep their data.
//!
//! A controller talks to a [`backend`] by byte ranges, to guest memory by [`dma`], to an interrupt sink and to a fault
//! plan. It must not know KVM or the machine. Threads, doorbells in the kernel and PCI are known to [`worker`],
//! [`kernel_doorbells`], [`interrupts`], [`controllers`] and each controller's `device` module only; a machine plugs in
//! what [`controllers`] makes.

pub mod backend;
pub mod controllers;
pub mod dma;
pub mod fault;
pub mod in_flight;
pub mod interrupts;
pub(crate) mod kernel_doorbells;
pub mod nvme;
pub(crate) mod refusals;
pub mod request;
pub mod sas;
pub mod scsi;
pub mod segments;
mod thread;
mod tickets;
pub mod worker;

pub use controllers::{
    BLOCK_SIZE, CONTROLLERS, Connections, ControllerError, ControllerKind, ControllerOptions, DiskName, StorageDevice,
};
pub use fault::{Fault, FaultCount, FaultInjector};
pub use in_flight::InFlight;
pub use interrupts::InterruptKind;
pub use refusals::{Refusals, RefusedCommand};
pub use thread::WORKER_THREAD;
