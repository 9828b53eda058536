//! The kinds of storage controllers: the name of each, the faults that it can inject, and how one is made.
//!
//! This is the only list of them. The machine, which plugs controllers in, and the monitor, which lets users choose,
//! use it.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::backend::Backend;
use super::fault::{Fault, FaultInjector, FaultVocabulary};
use super::in_flight::InFlight;
use super::interrupts::{InterruptKind, MakeVectors};
use super::nvme;
use super::refusals::Refusals;
use super::sas;
use super::worker::{OnFailure, Worker};
use crate::devices::DeviceWorker;
use crate::doorbell::DoorbellHost;
use crate::irq::{InterruptLine, IrqError};
use crate::pci::{FunctionDescription, Interrupts, PciDevice, PciError, PciFunction};
use crate::sandbox::{Sandbox, SandboxError};

/// Every kind there is; the first one is meant where none is named.
pub const CONTROLLERS: &[&ControllerKind] = &[&nvme::NVME, &sas::SAS];

/// Makes a controller with a disk on each backend.
type MakeController =
    fn(ControllerOptions, Vec<Box<dyn Backend>>, Connections) -> Result<StorageDevice, ControllerError>;

/// What a controller calls each of its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskName {
    /// A namespace; identifiers begin with 1.
    Namespace,
    /// A SCSI target; identifiers begin with 0.
    Target,
}

/// A kind of storage controller.
#[derive(Debug)]
pub struct ControllerKind {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is, for help.
    pub help: &'static str,
    /// Most disks of one controller.
    pub disk_limit: usize,
    /// What a disk is to the controller.
    pub disk: DiskName,
    /// Which faults it can inject.
    pub faults: FaultVocabulary,
    /// Makes one.
    pub make: MakeController,
}

impl ControllerKind {
    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        CONTROLLERS.iter().copied().find(|kind| kind.name == name)
    }
}

impl PartialEq for ControllerKind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for ControllerKind {}

/// Size of a logical block of a disk in bytes, whatever its controller.
pub const BLOCK_SIZE: u32 = 512;

/// PCI subsystem vendor of every controller: Red Hat's identifier, whose range 10F0h to 10FFh anybody may use for
/// experiments.
pub(super) const PCI_SUBSYSTEM_VENDOR_ID: u16 = 0x1af4;
/// PCI subsystem identifier of the controller that a run is about.
pub(super) const PCI_TARGET_SUBSYSTEM_ID: u16 = 0x10f0;
/// PCI subsystem identifier of any other, so that a driver can be installed for the one alone.
const PCI_OTHER_SUBSYSTEM_ID: u16 = 0x10f1;

/// What is chosen for one controller, whatever its kind.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// Which of the machine's controllers this is, from 0: serial numbers and identifiers are made from it.
    pub index: u32,
    /// Processors of the machine: a controller with queues makes one for each, as far as it can.
    pub processors: u32,
    /// The best way to interrupt.
    pub interrupts: InterruptKind,
    /// Whether it is the one that the run is about. Its PCI subsystem identifier tells it from others of its kind.
    pub is_target: bool,
    /// The faults that it is to inject; empty: none.
    pub faults: Vec<Fault>,
}

impl ControllerOptions {
    /// PCI subsystem identifier.
    pub(super) fn subsystem_id(&self) -> u16 {
        if self.is_target {
            PCI_TARGET_SUBSYSTEM_ID
        } else {
            PCI_OTHER_SUBSYSTEM_ID
        }
    }
}

/// What a controller is connected to.
pub struct Connections {
    /// Guest memory.
    pub memory: GuestMemoryMmap,
    /// INTA# of its slot.
    pub pin: Arc<dyn InterruptLine>,
    /// Makes its message vectors.
    pub vectors: MakeVectors,
    /// Who can wake its worker without an exit.
    pub doorbells: Arc<dyn DoorbellHost>,
    /// Limits of its worker.
    pub sandbox: Sandbox,
    /// Told of an end of its worker that nobody asked for.
    pub(crate) on_failure: OnFailure,
}

/// A controller that was made and is not yet on a PCI bus. Its worker ends when the device is dropped.
pub struct StorageDevice {
    /// Its PCI function.
    pub function: Arc<PciFunction>,
    /// Its thread, which has to rest while the machine pauses.
    pub worker: Arc<dyn DeviceWorker>,
    /// The fault plan at work; none if nothing is planned.
    pub faults: Option<Arc<FaultInjector>>,
    /// The commands that it refuses.
    pub(crate) refusals: Arc<Refusals>,
    /// The requests that it owes its host.
    pub in_flight: Arc<InFlight>,
}

/// What tells of a controller at work.
pub(crate) struct Observed {
    /// The fault plan at work; none if nothing is planned.
    pub(super) faults: Option<Arc<FaultInjector>>,
    /// The commands that it refuses.
    pub(super) refusals: Arc<Refusals>,
    /// The requests that it owes its host.
    pub(super) in_flight: Arc<InFlight>,
}

impl StorageDevice {
    /// Puts what `device` makes, which has the worker, behind the PCI function of `description`.
    pub(super) fn new<D: PciDevice + 'static>(
        worker: Worker,
        observed: Observed,
        description: FunctionDescription,
        interrupts: Interrupts,
        device: impl FnOnce(Arc<Worker>) -> D,
    ) -> Result<Self, ControllerError> {
        let worker = Arc::new(worker);
        let device = Arc::new(device(Arc::clone(&worker)));
        Ok(Self {
            function: Arc::new(PciFunction::new(description, interrupts, device)?),
            worker,
            faults: observed.faults,
            refusals: observed.refusals,
            in_flight: observed.in_flight,
        })
    }
}

/// Why a controller cannot be plugged in.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// An NVMe controller cannot be made like that.
    #[error(transparent)]
    Nvme(#[from] nvme::NvmeConfigError),
    /// A SAS controller cannot be made like that.
    #[error(transparent)]
    Sas(#[from] sas::SasConfigError),
    /// Its interrupt vectors cannot be allocated.
    #[error("a storage controller gets no interrupt vectors: {0}")]
    Interrupts(#[from] IrqError),
    /// The PCI function cannot be described: an error of this program.
    #[error(transparent)]
    Description(#[from] crate::pci::ConfigSpaceError),
    /// There is a function at that place.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// The host has no descriptor left.
    #[error("a storage controller cannot start its worker: {0}")]
    Event(#[from] std::io::Error),
    /// The worker's thread cannot be started or limited.
    #[error("a storage controller cannot start its worker: {0}")]
    Worker(#[from] SandboxError),
}
