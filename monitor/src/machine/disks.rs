//! The disks of a run: what they keep their data in, the controller of each, and what the host failed to do with them.
//!
//! Talks to the controllers and backends of the virtual machine monitor. It must not know guests.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use storlock_vmm::machine::Machine;
use storlock_vmm::pci::PciAddress;
use storlock_vmm::storage::backend::{
    Backend, HostFailures, ImageBackend, ImageOptions, MemoryBackend, WatchedBackend,
};
use storlock_vmm::storage::nvme::{
    ControllerConfig, FaultInjector, MAX_QUEUE_PAIRS, NvmeDevice, PCI_OTHER_SUBSYSTEM_ID,
};

use super::GuestOptions;

/// PCI device number of the first controller; the others follow.
const FIRST_SLOT: u8 = 4;
/// OVMF's driver makes two queue pairs, one for each way in which it waits, and gives a controller up that has one only.
const LEAST_QUEUE_PAIRS: u16 = 2;
/// PCI has 32 devices on a bus; the others are for what else a PC has.
const DISK_LIMIT: usize = 16;
/// Largest disk that is kept in memory, in bytes.
const DISK_MEMORY_LIMIT: u64 = 16 << 30;

/// An emulated disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Where it keeps its data.
    pub place: DiskPlace,
    /// Its controller is the one that the driver under test is meant for.
    pub target: bool,
    /// It is one more namespace of the controller of the disk before it.
    pub namespace: bool,
}

/// Where an emulated disk keeps its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskPlace {
    /// Memory of this size in bytes; gone after the run.
    Memory(u64),
    /// A disk image.
    Image(PathBuf, ImageOptions),
}

impl DiskPlace {
    /// A disk in memory.
    ///
    /// # Errors
    /// If it cannot have that size; the text says which sizes there are.
    pub fn in_memory(bytes: u64) -> Result<Self, String> {
        let block = u64::from(ControllerConfig::default().block_size);
        if bytes == 0 || bytes % block != 0 || bytes > DISK_MEMORY_LIMIT {
            return Err(format!(
                "a disk in memory has a multiple of {block} bytes, up to 16G, not {bytes}"
            ));
        }
        Ok(Self::Memory(bytes))
    }
}

/// What is left to ask of the disks of a machine.
pub(super) struct AttachedDisks {
    images: Vec<WatchedImage>,
    /// What was done to images before their use, in words.
    pub(super) notes: Vec<String>,
    /// The fault plan of the target's controller; none if there is nothing planned.
    pub(super) injector: Option<Arc<FaultInjector>>,
}

struct WatchedImage {
    path: PathBuf,
    snapshot: Option<u64>,
    failures: HostFailures,
}

impl AttachedDisks {
    /// What the host failed to do, in words.
    pub(super) fn failures(&self) -> impl Iterator<Item = String> {
        self.images.iter().filter_map(|image| {
            let (first, count) = image.failures.summary()?;
            let path = image.path.display();
            let overlay = image.snapshot.map(|limit| {
                let directory = std::env::temp_dir();
                format!(
                    " (its changes are kept in a temporary file below {} of at most {limit} bytes)",
                    directory.display()
                )
            });
            let overlay = overlay.unwrap_or_default();
            Some(format!(
                "the disk image {path} failed {count} times, first: {first}{overlay}"
            ))
        })
    }
}

/// Whether a machine can have these disks together.
///
/// # Errors
/// Why not.
pub fn check_disks(disks: &[Disk]) -> Result<(), String> {
    if disks.len() > DISK_LIMIT {
        return Err(format!("a machine has at most {DISK_LIMIT} disks, not {}", disks.len()));
    }
    if disks.iter().filter(|disk| disk.target).count() > 1 {
        return Err("only one disk can be the target's".to_owned());
    }
    if disks.first().is_some_and(|disk| disk.namespace) {
        return Err("the first disk cannot be a namespace of the controller of a disk before it".to_owned());
    }
    Ok(())
}

/// Plugs in the controller of each disk, the fault plan at the target's.
pub(super) fn attach(machine: &mut Machine, options: &GuestOptions) -> anyhow::Result<AttachedDisks> {
    let disks = &options.disks;
    check_disks(disks).map_err(anyhow::Error::msg)?;
    // Each controller with its disks, one a namespace.
    let controllers: Vec<&[Disk]> = disks.chunk_by(|_, next| next.namespace).collect();
    let is_target = |disks: &&[Disk]| disks.iter().any(|disk| disk.target);
    let target = controllers.iter().position(is_target).unwrap_or(0);
    let mut attached = AttachedDisks {
        images: Vec::new(),
        notes: Vec::new(),
        injector: None,
    };
    let queue_pairs = u16::try_from(options.cpus).unwrap_or(MAX_QUEUE_PAIRS);
    for ((index, disks), slot) in controllers.iter().enumerate().zip(FIRST_SLOT..) {
        let mut config = ControllerConfig {
            queue_pairs: queue_pairs.clamp(LEAST_QUEUE_PAIRS, MAX_QUEUE_PAIRS),
            serial_number: format!("STORLOCK{index}"),
            unique_id: u32::from(slot - FIRST_SLOT),
            interrupts: options.interrupts,
            ..ControllerConfig::default()
        };
        if index == target {
            config.faults = options.faults.iter().map(|fault| fault.fault).collect();
        } else {
            config.subsystem_id = PCI_OTHER_SUBSYSTEM_ID;
        }
        let backends = disks.iter().map(|disk| attached.open(&disk.place, config.block_size));
        let backends = backends.collect::<Result<_, _>>()?;
        let address = PciAddress::new(slot, 0).context("no such PCI address")?;
        let device = NvmeDevice::attach(machine, address, config, backends)?;
        attached.injector = device.faults().cloned().or(attached.injector);
    }
    Ok(attached)
}

impl AttachedDisks {
    fn open(&mut self, place: &DiskPlace, block_size: u32) -> anyhow::Result<Box<dyn Backend>> {
        Ok(match place {
            DiskPlace::Memory(bytes) => Box::new(MemoryBackend::new(
                usize::try_from(*bytes).context("the disk is too large for this host")?,
            )),
            DiskPlace::Image(path, options) => {
                let image = ImageBackend::open(path, block_size, options)?;
                if let Some(recovery) = image.recovery() {
                    let note = format!("the disk image {}: {recovery}", path.display());
                    tracing::warn!("{note}");
                    self.notes.push(note);
                }
                let backend = WatchedBackend::new(image);
                self.images.push(WatchedImage {
                    path: path.clone(),
                    snapshot: options.snapshot,
                    failures: backend.failures(),
                });
                Box::new(backend)
            }
        })
    }
}
