//! Firmware images in the guest's memory, ending at 4 GiB, as read-only memory slots; the variables' slot is backed by
//! a file.
//!
//! Talks to KVM. A guest's write to such a slot exits as memory-mapped I/O and goes to the device at that address:
//! [`Flash`](crate::devices::pflash::Flash) for the variables, none for the code.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use vm_memory::{MmapRegion, VolatileMemory as _};

use crate::bus::BusDevice;
use crate::devices::pflash::FlashArray;
use crate::kvm::KvmError;
use crate::memory::{GuestRam, MemoryError};
use crate::storage::backend::HostFailures;

/// Memory of the host that a guest may read directly.
pub(crate) struct Rom {
    vm: Arc<VmFd>,
    slot: u32,
    base: u64,
    memory: Arc<MmapRegion>,
    /// Where changes are kept.
    file: Option<File>,
    failures: HostFailures,
    /// RAM to whose end of the first megabyte the end of the memory is copied at a reset.
    shadow: Option<GuestRam>,
}

/// Where 16-bit firmware runs, below 1 MiB, and how much of it: the end of the memory at 4 GiB.
const SHADOW_END: u64 = 1 << 20;
const SHADOW_SIZE: u64 = 128 << 10;

impl Rom {
    /// Memory with `content`, which has whole pages, to appear at guest-physical `base` by slot `slot`.
    pub(crate) fn new(
        vm: &Arc<VmFd>,
        slot: u32,
        base: u64,
        content: &[u8],
        file: Option<File>,
    ) -> Result<Self, MemoryError> {
        let memory = MmapRegion::new(content.len()).map_err(|error| MemoryError::Host {
            bytes: content.len() as u64,
            reason: error.to_string(),
        })?;
        memory.as_volatile_slice().copy_from(content);
        Ok(Self {
            vm: Arc::clone(vm),
            slot,
            base,
            memory: Arc::new(memory),
            file,
            failures: HostFailures::default(),
            shadow: None,
        })
    }

    /// Has what the host fails to do with the file noted there.
    pub(crate) fn with_failures(mut self, failures: HostFailures) -> Self {
        self.failures = failures;
        self
    }

    /// Has the end of the memory show below 1 MiB as well, as the chip set does after a reset. It is RAM there from the
    /// start: firmware that makes its shadow writable (PAM registers) finds that it is.
    pub(crate) fn with_shadow(mut self, ram: GuestRam) -> Self {
        self.shadow = Some(ram);
        self
    }

    /// Lets the host read it where the guest does. What is hidden from the guest stays so seen.
    pub(crate) fn show_to_host(&self, ram: &GuestRam) {
        ram.show_firmware(self.base, Arc::clone(&self.memory));
    }

    /// Shows or hides the memory.
    pub(crate) fn map(&self, shown: bool) -> Result<(), KvmError> {
        let region = kvm_userspace_memory_region {
            slot: self.slot,
            flags: KVM_MEM_READONLY,
            guest_phys_addr: self.base,
            memory_size: if shown { self.memory.size() as u64 } else { 0 },
            userspace_addr: self.memory.as_ptr() as u64,
        };
        // SAFETY: the memory is mapped with this length as long as `self` lives. The machine's memory bus and with it
        // `self` lives as long as any of its vCPUs runs. The slot is of this memory only.
        #[allow(unsafe_code)]
        unsafe { self.vm.set_user_memory_region(region) }.map_err(KvmError::refused("map the firmware"))
    }

    fn copy_out(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Ok(slice) = self.memory.get_slice(offset as usize, data.len()) {
            slice.copy_to(data);
        }
    }
}

impl FlashArray for Rom {
    fn length(&self) -> u64 {
        self.memory.size() as u64
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        self.copy_out(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match self.memory.get_slice(offset as usize, data.len()) {
            Ok(slice) => slice.copy_from(data),
            Err(_) => return,
        }
        if let Some(Err(error)) = self.file.as_ref().map(|file| file.write_all_at(data, offset)) {
            // Firmware writes byte by byte: what fails once may fail thousands of times.
            self.failures.add(&error);
        }
    }

    fn set_direct(&self, direct: bool) {
        if let Err(error) = self.map(direct) {
            tracing::error!(%error, "the guest cannot read its firmware's variables as it should");
        }
    }
}

/// The code: a write is dropped, and so noticed.
impl BusDevice for Rom {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.copy_out(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        tracing::trace!(offset, ?data, "write to the firmware's code");
    }

    fn reset(&self) {
        let Some(ram) = &self.shadow else { return };
        let size = self.length().min(SHADOW_SIZE);
        let mut code = vec![0; size as usize];
        self.copy_out(self.length() - size, &mut code);
        if let Err(error) = ram.write(SHADOW_END - size, &code) {
            tracing::error!(%error, "the firmware cannot be shown below 1 MiB");
        }
    }
}
