//! The controller as a PCI function (NVMe 1.4, section 2).
//!
//! BAR 0 holds the registers and doorbells, then the MSI-X table, then its pending bits. The PCI identifiers are
//! [`PCI_VENDOR_ID`] and its neighbours; drivers bind to the class code.

use std::sync::Arc;

use super::config::{MAX_NAMESPACES, NvmeConfig, PCI_DEVICE_ID, PCI_VENDOR_ID};
use super::controller::Controller;
use super::doorbells::DoorbellRoute;
use super::faults::VOCABULARY;
use super::registers::{MAX_QUEUE_PAIRS, RegisterFile};
use super::spec::registers::DOORBELLS;
use crate::pci::{Bar, FunctionDescription, MsixLayout, PciDevice};
use crate::storage::backend::Backend;
use crate::storage::controllers::{
    Connections, ControllerError, ControllerKind, ControllerOptions, DiskName, PCI_SUBSYSTEM_VENDOR_ID, StorageDevice,
};
use crate::storage::interrupts;
use crate::storage::kernel_doorbells::KernelDoorbells;
use crate::storage::worker::Worker;

/// Registers and doorbells come first; the largest controller's doorbells end at 1208h.
const MSIX_TABLE: u32 = 0x2000;
const MSIX_PENDING: u32 = 0x3000;
const BAR_SIZE: u64 = 0x4000;

/// Mass storage, NVM, NVM Express I/O controller (section 2.1.5).
const CLASS_CODE: [u8; 3] = [0x01, 0x08, 0x02];

/// OVMF's driver makes two queue pairs, one for each way in which it waits, and gives a controller up that has one only.
const LEAST_QUEUE_PAIRS: u16 = 2;

/// The kind of controller.
pub const NVME: ControllerKind = ControllerKind {
    name: "nvme",
    help: "NVMe 1.4, each disk is a namespace",
    disk_limit: MAX_NAMESPACES,
    disk: DiskName::Namespace,
    faults: VOCABULARY,
    make: |options, backends, connections| NvmeDevice::new(config(options), backends, connections),
};

fn config(options: ControllerOptions) -> NvmeConfig {
    let queue_pairs = u16::try_from(options.processors).unwrap_or(MAX_QUEUE_PAIRS);
    NvmeConfig {
        queue_pairs: queue_pairs.clamp(LEAST_QUEUE_PAIRS, MAX_QUEUE_PAIRS),
        serial_number: format!("STORLOCK{}", options.index),
        index: options.index,
        subsystem_id: options.subsystem_id(),
        interrupts: options.interrupts,
        faults: options.faults,
        ..NvmeConfig::default()
    }
}

/// A controller behind its BAR.
pub struct NvmeDevice {
    worker: Arc<Worker>,
    registers: Arc<RegisterFile>,
    doorbells: Arc<KernelDoorbells>,
}

impl NvmeDevice {
    /// Makes a controller, starts its worker and describes its PCI function.
    ///
    /// # Errors
    /// [`ControllerError`].
    // The kinds of controllers have this signature, with options of their own.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(
        config: NvmeConfig,
        backends: Vec<Box<dyn Backend>>,
        connections: Connections,
    ) -> Result<StorageDevice, ControllerError> {
        let layout = MsixLayout {
            vectors: config.vectors()?,
            bar: 0,
            table_offset: MSIX_TABLE,
            pba_offset: MSIX_PENDING,
        };
        let interrupts = interrupts::offer(config.interrupts, layout, connections.vectors, connections.pin)?;
        let event = Worker::event()?;
        // The heads are not connected: a host is seldom asked to write one, and the level of the pin follows at once. Nor
        // are the doorbells of the admin queue: hosts write their value to the register only.
        let tails = (1..=u64::from(config.queue_pairs)).map(|queue| DOORBELLS + 8 * queue);
        let doorbells = KernelDoorbells::new(connections.doorbells, event.try_clone()?, tails);
        let doorbells = Arc::new(doorbells);
        let description = description(config.subsystem_id);
        let name = format!("nvme{}", config.index);
        let controller = Controller::new(
            config,
            Box::new(connections.memory),
            Arc::new(interrupts.clone()),
            Box::new(Arc::clone(&doorbells)),
            backends,
        )?;
        let (registers, observed) = (controller.registers(), controller.observed());
        let worker = Worker::start(&name, controller, event, connections.sandbox, connections.on_failure)?;
        StorageDevice::new(worker, observed, description, interrupts, |worker| Self {
            worker,
            registers,
            doorbells,
        })
    }
}

impl DoorbellRoute for Arc<KernelDoorbells> {
    fn use_shadow(&mut self, active: bool) {
        self.set_nudges_only(active);
    }
}

fn description(subsystem_id: u16) -> FunctionDescription {
    FunctionDescription {
        vendor_id: PCI_VENDOR_ID,
        device_id: PCI_DEVICE_ID,
        class_code: CLASS_CODE,
        subsystem_vendor_id: PCI_SUBSYSTEM_VENDOR_ID,
        subsystem_id,
        bars: [Some(Bar::memory64(BAR_SIZE)), None, None, None, None, None],
        ..FunctionDescription::default()
    }
}

impl PciDevice for NvmeDevice {
    fn bar_read(&self, _bar: u8, offset: u64, data: &mut [u8]) {
        self.registers.read(offset, data);
    }

    fn bar_write(&self, _bar: u8, offset: u64, data: &[u8]) {
        if self.registers.write(offset, data) {
            self.worker.kick();
        }
    }

    fn bar_moved(&self, bar: u8, base: Option<u64>) {
        if bar == 0 {
            self.doorbells.set_base(base);
        }
    }

    fn interrupts_changed(&self) {
        self.worker.kick();
    }

    fn bus_master_changed(&self, enabled: bool) {
        self.worker.set_bus_master(enabled);
    }

    fn reset(&self) {
        self.registers.reset_function();
        self.worker.kick();
    }
}
