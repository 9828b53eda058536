//! An NVMe 1.4 controller.
//!
//! * [`Controller`] is the state machine: it fetches commands from guest memory, executes them against
//!   [backends](super::backend) and posts completions. Memory, interrupts and backends are injected; it knows neither
//!   threads nor KVM nor PCI. Section numbers in comments are those of the NVM Express Base Specification 1.4.
//! * [`RegisterFile`] is the half of it that vCPUs touch: it never waits for DMA.
//! * [`NvmeDevice`] is the PCI function: a controller, its worker thread, interrupts and doorbells in the kernel.
//!
//! It has: one I/O controller with 1 to 64 I/O queue pairs and 1 to 16 namespaces, the NVM command set without metadata
//! and protection information, 4 KiB pages, PRPs only, round robin arbitration (no weighted one), MSI-X, MSI and the
//! pin, shadow doorbells, NVM Subsystem Reset. It lacks: SGLs, fused operations, Format NVM, namespace management,
//! firmware download, reservations, metadata, a controller memory buffer; such commands and fields get the specified
//! status.
//!
//! A controller injects the faults of its [plan](crate::storage::fault), in the words of [`faults`].
#![forbid(unsafe_code)]

mod admin;
mod completion;
mod config;
mod controller;
mod device;
mod doorbells;
mod events;
mod faults;
mod features;
mod identify;
mod interrupts;
mod life;
mod log_page;
mod media;
mod namespaces;
mod nvm;
mod prp;
mod queues;
mod ranges;
mod refusals;
mod registers;
mod rings;
mod spec;
mod transfer;

pub use config::{NvmeConfig, NvmeConfigError};
pub use controller::Controller;
pub use device::{NVME, NvmeDevice};
pub use doorbells::DoorbellRoute;
pub use registers::RegisterFile;

#[cfg(test)]
mod tests;
