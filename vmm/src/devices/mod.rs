//! The devices of the PC, one file each.
//!
//! Each is a state machine that gets its interrupt line, clock and other effects injected, and keeps what the guest can
//! see in one plain struct. It must not know KVM.
#![forbid(unsafe_code)]

pub mod absent;
pub mod board;
pub(crate) mod chipset;
mod clock;
pub(crate) mod debugcon;
pub mod fw_cfg;
pub mod keyboard;
pub mod pflash;
pub mod pirq;
pub mod power;
pub mod ramfb;
pub mod reset;
pub mod rtc;
pub mod serial;
#[cfg(test)]
pub(crate) mod testing;
pub mod text_screen;
mod worker;

pub use clock::{Clock, GuestClock};
pub use worker::DeviceWorker;
pub(crate) use worker::RestPoint;

/// What the guest asked the board to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerEvent {
    /// ACPI S5: switch off.
    PowerOff,
    /// Reset the whole machine.
    Reset,
}

/// Receives [`PowerEvent`]s; made by the machine. Called on the vCPU's thread in the middle of an I/O exit: it may only
/// note the event, not wait for it to be carried out.
pub trait PowerControl: Send + Sync {
    /// The guest asks for `event`.
    fn request(&self, event: PowerEvent);
}
