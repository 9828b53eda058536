//! A SCSI disk: what a SCSI controller of any kind puts its commands to.
//!
//! A [`Target`] is one target device with one [`LogicalUnit`]: a direct-access block device (SBC) on a
//! [backend](super::backend). A controller hands it a [`Request`] - a command descriptor block and the memory of its
//! data - and gets a [`Completion`]: status, sense data, and how many bytes there were. It must not know which
//! controller that is, how data get there, threads, or guests.
//!
//! Commands are executed one after the other, in the order in which they come, so that there is no task set to manage: a
//! controller that holds commands back (to let them be aborted) does that itself. Names, codes and clauses are those of
//! SPC-4, SBC-3 and SAM-5.
//!
//! What there is: 512 or 4096 byte blocks, a volatile write cache, thin provisioning with UNMAP and WRITE SAME, mode pages
//! that can be changed for the time of a run, persistent reservations without APTPL, unit attentions for each initiator.
//! What there is not: protection information, ACA, saved mode pages, power conditions, FORMAT UNIT, third-party
//! copies, the reservations of SPC-2. A field that asks for what there is not is an illegal one.
#![forbid(unsafe_code)]
// All commands have one signature, whether they can fail or need the unit or not.
#![allow(clippy::unnecessary_wraps, clippy::unused_self)]

mod attention;
mod blocks;
mod cdb;
mod commands;
mod config;
mod exchange;
mod inquiry;
mod log;
mod mode;
mod opcodes;
mod provisioning;
mod reservations;
mod sense;
pub mod spec;
mod target;
mod unit;

pub use attention::Attentions;
pub use blocks::blocks_of;
pub use config::{PortName, UnitConfig, UnitError};
pub use exchange::{Completion, Data, Initiator, Request};
pub use mode::Modes;
pub use reservations::{Reservation, Reservations};
pub use sense::{Sense, SenseField};
pub use target::Target;
pub use unit::{Counters, LogicalUnit, UnitState};

#[cfg(test)]
mod tests;
