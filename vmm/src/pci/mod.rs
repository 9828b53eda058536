//! PCI: configuration space, base address registers, interrupts, and the host bridge that the guest reaches them through.
//!
//! A device model implements [`PciDevice`] (what its BARs do) and describes itself by a [`FunctionDescription`];
//! everything that all functions share is done here. Interrupts leave through the
//! [`MessageSink`](crate::irq::MessageSink) and [`InterruptLine`](crate::irq::InterruptLine) traits, so nothing in here needs KVM. Register names and layouts are those of
//! the PCI Local Bus Specification 3.0 ("PCI" and a section number in comments).
#![forbid(unsafe_code)]

mod bar;
mod config;
mod function;
mod host;
mod interrupts;
mod intx;
mod msi;
mod msix;

#[cfg(test)]
mod tests;

pub use bar::{Bar, BarKind, BarWindow};
pub use config::{
    CONFIG_SPACE_SIZE, Capability, Command, ConfigSpace, ConfigSpaceError, FunctionDescription, OwnRegister,
};
pub use function::{PciDevice, PciFunction};
pub use host::{CONFIG_PORTS_BASE, CONFIG_PORTS_LENGTH, ConfigPorts, PciAddress, PciBus, PciError, Resources};
pub use interrupts::{Interrupts, Masked, OnSent};
pub use intx::{INTA, Intx};
pub use msi::{MSI_CAPABILITY_ID, MSI_MESSAGE_LIMIT, Msi};
pub use msix::{MSIX_CAPABILITY_ID, Msix, MsixLayout};
