//! Interrupts: the traits by which devices signal them; `kvm` implements the traits on KVM.
//!
//! Devices know only [`InterruptLine`] and [`MessageSink`], so that they can be tested without KVM; the machine injects
//! what an [`IrqRouter`] makes.
#![forbid(unsafe_code)]

mod kvm;

pub use kvm::{IrqError, IrqRouter, KvmLine, MessageVectors};
pub(crate) use kvm::{LINE_REQUESTS, REQUESTS};

/// An input of the PIC and the I/O APIC.
pub trait InterruptLine: Send + Sync {
    /// Asserts the line (`true`) or releases it. Setting the level it already has changes nothing.
    fn set_level(&self, asserted: bool);

    /// Gives an edge-triggered input one edge.
    fn pulse(&self) {
        self.set_level(true);
        self.set_level(false);
    }
}

/// A message-signalled interrupt: what the device writes, and where (Intel SDM volume 3, 11.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MsiMessage {
    /// Guest-physical address of the write.
    pub address: u64,
    /// Value written.
    pub data: u32,
}

impl MsiMessage {
    /// Whether the write goes to the local APICs (Intel SDM volume 3, 11.11.1). A write to anywhere else is a write to
    /// memory; what a guest gains by that is not worth doing it.
    pub(crate) fn is_interrupt(self) -> bool {
        self.address >> 20 == 0xfee
    }
}

/// How a PCI function interrupts (PCI 6.8): one way at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptMode {
    /// By the level of its INTx pin, if it has one and the guest has not disabled it.
    Intx,
    /// By MSI, with so many messages: a power of two, 32 at most.
    Msi {
        /// What the guest has allocated.
        messages: u16,
    },
    /// By MSI-X.
    Msix,
}

/// Where the messages of one function's vectors go.
pub trait MessageSink: Send + Sync {
    /// From now on these vectors send these messages. Called when the guest lets a vector send whose message it
    /// changed, so it may be slow.
    fn set_messages(&self, changes: &[(u16, MsiMessage)]);

    /// Sends the message of `vector`. Called from any thread; must be fast and not wait.
    fn send(&self, vector: u16);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writes_to_the_local_apics_are_interrupts() {
        let at = |address| MsiMessage { address, data: 0 }.is_interrupt();
        assert!(at(0xfee0_0000) && at(0xfeef_fffc));
        assert!(!at(0xfedf_fffc) && !at(0xfef0_0000) && !at(0x1_fee0_0000) && !at(0));
    }
}
