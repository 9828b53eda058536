//! The controller as a PCI function (NVMe 1.4, section 2), and how it is plugged into a machine.
//!
//! BAR 0 holds the registers and doorbells, then the MSI-X table, then its pending bits. The PCI identifiers are
//! [`PCI_VENDOR_ID`] and its neighbours; drivers bind to the class code.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::config::{
    ConfigError, ControllerConfig, InterruptKind, PCI_DEVICE_ID, PCI_SUBSYSTEM_VENDOR_ID, PCI_VENDOR_ID,
};
use super::controller::Controller;
use super::fault::FaultInjector;
use super::interrupts::InterruptSink;
use super::kernel_doorbells::KernelDoorbells;
use super::worker::Worker;
use crate::doorbell::{DoorbellHost, KvmDoorbells};
use crate::irq::{InterruptLine, InterruptMode, IrqError, MessageSink};
use crate::machine::{DeviceWorker, Machine};
use crate::pci::{
    Bar, FunctionDescription, Interrupts, Intx, Msi, Msix, MsixLayout, PciAddress, PciDevice, PciError, PciFunction,
};
use crate::sandbox::Sandbox;
use crate::storage::backend::Backend;

/// Registers and doorbells come first; the largest controller's doorbells end at 1208h.
const MSIX_TABLE: u32 = 0x2000;
const MSIX_PENDING: u32 = 0x3000;
const BAR_SIZE: u64 = 0x4000;

/// Mass storage, NVM, NVM Express I/O controller (section 2.1.5).
const CLASS_CODE: [u8; 3] = [0x01, 0x08, 0x02];

/// Why a controller cannot be plugged in.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The controller cannot be made.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its interrupt vectors cannot be had.
    #[error("an NVMe controller gets no interrupt vectors: {0}")]
    Interrupts(#[from] IrqError),
    /// The PCI function cannot be described: an error of this program.
    #[error(transparent)]
    Description(#[from] crate::pci::ConfigError),
    /// There is a function at that place.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// The host has no descriptor left.
    #[error("an NVMe controller cannot start its worker: {0}")]
    Event(#[from] std::io::Error),
    /// The worker's thread cannot be started or limited.
    #[error("an NVMe controller cannot start its worker: {0}")]
    Worker(#[from] crate::Error),
}

/// What a controller is connected to.
pub struct Connections {
    /// Guest memory.
    pub memory: GuestMemoryMmap,
    /// How it interrupts.
    pub interrupts: Interrupts,
    /// Who can wake the worker without an exit.
    pub doorbells: Arc<dyn DoorbellHost>,
    /// Limits of the worker.
    pub sandbox: Sandbox,
}

/// A controller behind its BAR.
pub struct NvmeDevice {
    worker: Worker,
    doorbells: Arc<KernelDoorbells>,
    faults: Option<Arc<FaultInjector>>,
}

impl InterruptSink for Interrupts {
    fn mode(&self) -> InterruptMode {
        Interrupts::mode(self)
    }

    fn signal(&self, vector: u16) {
        Interrupts::signal(self, vector);
    }

    fn set_level(&self, pending: bool) {
        Interrupts::set_level(self, pending);
    }
}

/// What a controller offers. `vectors` makes as many message vectors as it is told, `pin` is INTA# of its slot.
///
/// # Errors
/// Those of `vectors`, and [`AttachError::Config`].
pub fn interrupts<M: MessageSink + 'static>(
    config: &ControllerConfig,
    vectors: impl FnOnce(u16) -> Result<Arc<M>, IrqError>,
    pin: Arc<dyn InterruptLine>,
) -> Result<Interrupts, AttachError> {
    let count = config.vectors()?;
    let mut interrupts = Interrupts {
        intx: Some(Arc::new(Intx::new(pin))),
        ..Interrupts::default()
    };
    if config.interrupts == InterruptKind::Intx {
        return Ok(interrupts);
    }
    // One set of vectors for both kinds: a guest uses one at a time.
    let sink: Arc<dyn MessageSink> = vectors(count.max(Msi::messages_for(count)))?;
    interrupts.msi = Some(Arc::new(Msi::new(count, Arc::clone(&sink))));
    if config.interrupts == InterruptKind::Msix {
        let layout = MsixLayout {
            vectors: count,
            bar: 0,
            table_offset: MSIX_TABLE,
            pba_offset: MSIX_PENDING,
        };
        interrupts.msix = Some(Arc::new(Msix::new(layout, sink)));
    }
    Ok(interrupts)
}

impl NvmeDevice {
    /// Makes a controller, starts its worker and describes its PCI function. The worker ends with the device.
    ///
    /// # Errors
    /// [`AttachError`], except for what concerns a machine.
    pub fn new(
        config: ControllerConfig,
        backends: Vec<Box<dyn Backend>>,
        connections: Connections,
    ) -> Result<(Arc<Self>, Arc<PciFunction>), AttachError> {
        let interrupts = connections.interrupts;
        let event = Worker::event()?;
        let doorbells = KernelDoorbells::new(connections.doorbells, event.try_clone()?, config.queue_pairs);
        let doorbells = Arc::new(doorbells);
        let description = description(config.subsystem_id);
        let name = format!("nvme{}", config.unique_id);
        let controller = Controller::new(
            config,
            Box::new(connections.memory),
            Arc::new(interrupts.clone()),
            Box::new(Arc::clone(&doorbells)),
            backends,
        )?;
        let device = Arc::new(Self {
            faults: controller.faults(),
            worker: Worker::start(&name, controller, event, connections.sandbox)?,
            doorbells,
        });
        let function = PciFunction::new(description, interrupts, Arc::clone(&device) as Arc<dyn PciDevice>)?;
        Ok((device, Arc::new(function)))
    }

    /// The fault plan at work; none if the configuration has none.
    #[must_use]
    pub fn faults(&self) -> Option<&Arc<FaultInjector>> {
        self.faults.as_ref()
    }

    /// Has `failed` told, on the worker's thread, if that comes to an end that nobody asked for.
    pub fn on_failure(&self, failed: impl Fn(String) + Send + Sync + 'static) {
        self.worker.on_failure(failed);
    }

    /// Makes a controller and plugs it into `machine` at `address`.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(
        machine: &mut Machine,
        address: PciAddress,
        config: ControllerConfig,
        backends: Vec<Box<dyn Backend>>,
    ) -> Result<Arc<Self>, AttachError> {
        let pin = machine.interrupt_pin(address);
        let connections = Connections {
            memory: machine.ram().map().clone(),
            interrupts: interrupts(&config, |count| machine.irq().message_vectors(count), pin)?,
            doorbells: Arc::new(KvmDoorbells::new(Arc::clone(machine.vm()))),
            sandbox: machine.sandbox(),
        };
        let (device, function) = Self::new(config, backends, connections)?;
        let handle = machine.handle();
        device.on_failure(move |what| handle.fail(what));
        machine.pci().add(address, function)?;
        machine.add_worker(Arc::clone(&device) as Arc<dyn DeviceWorker>);
        Ok(device)
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
        self.worker.registers().read(offset, data);
    }

    fn bar_write(&self, _bar: u8, offset: u64, data: &[u8]) {
        if self.worker.registers().write(offset, data) {
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
        self.worker.registers().reset_function();
        self.worker.kick();
    }
}

impl DeviceWorker for NvmeDevice {
    fn request_pause(&self) {
        self.worker.request_pause();
    }

    fn wait_paused(&self) {
        self.worker.wait_paused();
    }

    fn resume(&self) {
        self.worker.resume();
    }

    fn stop(&self) {
        self.worker.stop();
    }
}
