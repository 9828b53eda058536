//! The clock that KVM keeps for a virtual machine: kvmclock, Hyper-V's reference time and its synthetic timers show it.
//!
//! Talks to KVM. It must not know why a machine stands still.
#![forbid(unsafe_code)]

use std::sync::{Mutex, PoisonError};

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VmFd;

use super::requests::{KVM_GET_CLOCK, KVM_SET_CLOCK};

/// What the thread that pauses a machine asks of KVM.
pub(crate) const REQUESTS: &[u32] = &[KVM_GET_CLOCK, KVM_SET_CLOCK];

/// Takes a pause out of KVM's clock, as QEMU does. What is derived from the TSC alone goes on.
#[derive(Debug, Default)]
pub(crate) struct KernelClock {
    /// What it showed when the machine stopped, in nanoseconds; `None` while it runs.
    stopped_at: Mutex<Option<u64>>,
}

impl KernelClock {
    /// Notes the time; nothing happens if the machine stands still already. No processor executes the guest.
    pub(crate) fn pause(&self, vm: &VmFd) {
        let mut stopped_at = self.stopped_at.lock().unwrap_or_else(PoisonError::into_inner);
        if stopped_at.is_some() {
            return;
        }
        match vm.get_clock() {
            Ok(clock) => *stopped_at = Some(clock.clock),
            Err(error) => tracing::debug!("KVM does not tell its clock ({error}): the guest sees the pause"),
        }
    }

    /// Puts the time back to what it was at the pause; nothing happens if there was none. No processor executes the guest
    /// yet.
    pub(crate) fn resume(&self, vm: &VmFd) {
        let stopped_at = self.stopped_at.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(clock) = stopped_at else { return };
        let clock = kvm_clock_data {
            clock,
            ..Default::default()
        };
        if let Err(error) = vm.set_clock(&clock) {
            tracing::debug!("KVM does not let its clock be set ({error}): the guest sees the pause");
        }
    }
}
