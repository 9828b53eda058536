//! Rules on the port driver's locks.

mod msi_lock;
mod spin_lock;
mod spin_lock3;
mod spin_lock4;

pub(super) use msi_lock::MsiLock;
pub(super) use spin_lock::SpinLock;
pub(super) use spin_lock3::SpinLock3;
pub(super) use spin_lock4::SpinLock4;
