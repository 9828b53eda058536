//! Doorbells on KVM's memory-mapped I/O bus: KVM_IOEVENTFD.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::kvm::requests::KVM_IOEVENTFD;

use super::{Doorbell, DoorbellHost, DoorbellMatch};

/// What a thread that connects doorbells asks of KVM.
pub(crate) const REQUESTS: &[u32] = &[KVM_IOEVENTFD];

/// Doorbells on the memory-mapped I/O bus of KVM.
pub struct KvmDoorbells {
    vm: Arc<VmFd>,
}

impl KvmDoorbells {
    /// For this virtual machine.
    #[must_use]
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self { vm }
    }
}

impl DoorbellHost for KvmDoorbells {
    fn connect(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(doorbell.address);
        let result = match doorbell.matches {
            DoorbellMatch::Any => self.vm.register_ioevent(event, &address, NoDatamatch),
            DoorbellMatch::Word(value) => self.vm.register_ioevent(event, &address, value),
            DoorbellMatch::DoubleWord(value) => self.vm.register_ioevent(event, &address, value),
            DoorbellMatch::QuadWord(value) => self.vm.register_ioevent(event, &address, value),
        };
        Ok(result?)
    }

    fn disconnect(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(doorbell.address);
        let result = match doorbell.matches {
            DoorbellMatch::Any => self.vm.unregister_ioevent(event, &address, NoDatamatch),
            DoorbellMatch::Word(value) => self.vm.unregister_ioevent(event, &address, value),
            DoorbellMatch::DoubleWord(value) => self.vm.unregister_ioevent(event, &address, value),
            DoorbellMatch::QuadWord(value) => self.vm.unregister_ioevent(event, &address, value),
        };
        Ok(result?)
    }
}
