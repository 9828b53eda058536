//! Doorbells in the kernel: a guest's write to an address wakes a device worker without stopping the vCPU (ioeventfd).
//!
//! Devices know the trait only. KVM drops the written value, so this is for devices that find the value in memory, such
//! as NVMe controllers with shadow doorbells, or that have one doorbell a value.
#![forbid(unsafe_code)]

mod kvm;

use std::io;

use vmm_sys_util::eventfd::EventFd;

pub use kvm::KvmDoorbells;
pub(crate) use kvm::REQUESTS;

/// Which writes ring a doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorbellMatch {
    /// Every write to the address, whatever its size and value.
    Any,
    /// A 16-bit write of this value.
    Word(u16),
    /// A 32-bit write of this value.
    DoubleWord(u32),
    /// A 64-bit write of this value.
    QuadWord(u64),
}

/// An address that rings an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doorbell {
    /// Guest-physical address, as told by [`PciDevice::bar_moved`](crate::pci::PciDevice::bar_moved) plus an offset.
    pub address: u64,
    /// Which writes count; others exit to user space as without a doorbell.
    pub matches: DoorbellMatch,
}

/// Connects addresses to events.
pub trait DoorbellHost: Send + Sync {
    /// From now on a write to the doorbell adds 1 to `event` and does not reach the bus.
    ///
    /// # Errors
    /// What the kernel said: the doorbell is connected already, or too many are.
    fn connect(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()>;

    /// Takes back what [`connect`](Self::connect) did; both arguments as there.
    ///
    /// # Errors
    /// What the kernel said: there is no such doorbell.
    fn disconnect(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()>;
}
