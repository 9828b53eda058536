//! The controller as a PCI function.
//!
//! BAR 0 (ports) and BAR 1 (memory) show the same registers; BAR 1 holds the MSI-X table and its pending bits as well. BAR 3
//! is the memory of the IOC, which the diagnostic mode would show: it reads as zeroes.

use std::sync::Arc;

use super::config::{MAX_DISKS, PCI_DEVICE_ID, PCI_VENDOR_ID, SasConfig};
use super::controller::Controller;
use super::faults::VOCABULARY;
use super::registers::RegisterFile;
use crate::pci::{Bar, FunctionDescription, MsixLayout, PciDevice};
use crate::storage::backend::Backend;
use crate::storage::controllers::{
    Connections, ControllerError, ControllerKind, ControllerOptions, DiskName, PCI_SUBSYSTEM_VENDOR_ID, StorageDevice,
};
use crate::storage::interrupts;
use crate::storage::worker::Worker;

const PORTS_SIZE: u64 = 0x100;
const MEMORY_SIZE: u64 = 0x4000;
const DIAGNOSTIC_SIZE: u64 = 0x1_0000;
/// Where MSI-X has its structures in BAR 1.
const MSIX_BAR: u8 = 1;
const MSIX_TABLE: u32 = 0x2000;
const MSIX_PENDING: u32 = 0x3000;
/// BAR with the diagnostic memory.
const DIAGNOSTIC_BAR: u8 = 3;

/// Mass storage, serial attached SCSI.
const CLASS_CODE: [u8; 3] = [0x01, 0x07, 0x00];
const REVISION: u8 = 0x01;

/// The kind of controller.
pub const SAS: ControllerKind = ControllerKind {
    name: "sas",
    help: "LSI SAS1068 (Fusion-MPT 1), one target a disk",
    disk_limit: MAX_DISKS,
    disk: DiskName::Target,
    faults: VOCABULARY,
    make: |options, backends, connections| SasDevice::new(config(options), backends, connections),
};

fn config(options: ControllerOptions) -> SasConfig {
    SasConfig {
        index: options.index,
        subsystem_id: options.subsystem_id(),
        interrupts: options.interrupts,
        faults: options.faults,
        ..SasConfig::default()
    }
}

/// A controller behind its BARs.
pub(crate) struct SasDevice {
    worker: Arc<Worker>,
    registers: Arc<RegisterFile>,
}

impl SasDevice {
    /// Makes a controller, starts its worker and describes its PCI function.
    ///
    /// # Errors
    /// [`ControllerError`].
    // The kinds of controllers have this signature, with options of their own.
    #[allow(clippy::new_ret_no_self)]
    pub(crate) fn new(
        config: SasConfig,
        backends: Vec<Box<dyn Backend>>,
        connections: Connections,
    ) -> Result<StorageDevice, ControllerError> {
        let layout = MsixLayout {
            vectors: 1,
            bar: MSIX_BAR,
            table_offset: MSIX_TABLE,
            pba_offset: MSIX_PENDING,
        };
        let interrupts = interrupts::offer(config.interrupts, layout, connections.vectors, connections.pin)?;
        let event = Worker::event()?;
        let description = description(config.subsystem_id);
        let name = format!("sas{}", config.index);
        let memory = Box::new(connections.memory);
        let controller = Controller::new(config, memory, Arc::new(interrupts.clone()), backends)?;
        let (registers, observed) = (controller.registers(), controller.observed());
        let worker = Worker::start(&name, controller, event, connections.sandbox, connections.on_failure)?;
        StorageDevice::new(worker, observed, description, interrupts, |worker| Self {
            worker,
            registers,
        })
    }
}

fn description(subsystem_id: u16) -> FunctionDescription {
    let mut bars = [None; 6];
    bars[0] = Some(Bar::io(PORTS_SIZE));
    bars[1] = Some(Bar::memory64(MEMORY_SIZE));
    bars[3] = Some(Bar::memory64(DIAGNOSTIC_SIZE));
    FunctionDescription {
        vendor_id: PCI_VENDOR_ID,
        device_id: PCI_DEVICE_ID,
        revision_id: REVISION,
        class_code: CLASS_CODE,
        subsystem_vendor_id: PCI_SUBSYSTEM_VENDOR_ID,
        subsystem_id,
        bars,
        ..FunctionDescription::default()
    }
}

impl PciDevice for SasDevice {
    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        if bar == DIAGNOSTIC_BAR {
            data.fill(0);
        } else if self.registers.read(offset, data) {
            self.worker.kick();
        }
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        if bar != DIAGNOSTIC_BAR && self.registers.write(offset, data) {
            self.worker.kick();
        }
    }

    fn interrupts_changed(&self) {
        self.registers.interrupts_changed();
    }

    fn bus_master_changed(&self, enabled: bool) {
        self.worker.set_bus_master(enabled);
    }

    fn reset(&self) {
        self.registers.reset_function();
        self.worker.kick();
    }
}
