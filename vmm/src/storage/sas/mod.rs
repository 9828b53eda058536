//! An LSI SAS1068: a SAS host bus adapter that speaks Fusion-MPT 1 (MPI 1.5).
//!
//! * [`Controller`] is the state machine (the "IOC" of MPI): it fetches messages from guest memory, has
//!   [targets](super::scsi) execute SCSI commands and posts replies. Memory, interrupts and backends are injected; it knows
//!   neither threads nor KVM nor PCI. Its parts own what they remember: a plain state each, so that it can be saved.
//! * [`RegisterFile`] is the half of it that vCPUs touch: the doorbell, the FIFOs of requests and replies. It never waits
//!   for DMA.
//! * [`SasDevice`](device) is the PCI function: a controller, its [worker](super::worker) thread and interrupts.
//!
//! What there is: one port of 8 phys or more with a disk at each (no expander), all messages of an initiator, configuration
//! pages, events, task management, simple and chain SGEs of 32 and 64 bits, the pin, MSI and MSI-X with one message. What
//! there is not: SATA, RAID, target mode, SMP, LAN, firmware, the host page buffer; such messages get the specified
//! status. Names are those of the MPI headers.
//!
//! A controller injects the faults of its [plan](super::fault), and no others.
#![forbid(unsafe_code)]

mod config;
mod config_pages;
mod controller;
mod device;
mod disks;
mod events;
mod faults;
mod handshake;
mod ioc;
mod life;
mod message;
mod page_content;
mod refusals;
mod registers;
mod replies;
mod scsi_io;
pub(crate) mod sgl;
mod spec;
mod task_management;
mod topology;

pub use config::{MAX_DISKS, SasConfig, SasConfigError};
pub use controller::Controller;
pub use device::SAS;
pub use registers::RegisterFile;

#[cfg(test)]
mod tests;
