//! The disks of a run: what they keep their data in, the controller of each, and what the host failed to do with them.
//!
//! Talks to the controllers and backends of the virtual machine monitor. It must not know guests.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use storlock_vmm::pci::PciAddress;
use storlock_vmm::run::Machine;
use storlock_vmm::storage::backend::{
    Backend, HostFailures, ImageBackend, ImageOptions, MemoryBackend, WatchedBackend,
};
use storlock_vmm::storage::{BLOCK_SIZE, CONTROLLERS, ControllerKind, ControllerOptions, FaultInjector};

use super::GuestOptions;

/// PCI device number of the first controller; the others follow.
const FIRST_SLOT: u8 = 4;
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
    /// The kind of its controller, if one is named.
    pub controller: Option<&'static ControllerKind>,
}

/// The disks of each controller.
fn by_controller(disks: &[Disk]) -> Vec<&[Disk]> {
    disks.chunk_by(|_, next| next.namespace).collect()
}

/// The kind of the controller that has these disks.
fn kind(disks: &[Disk]) -> &'static ControllerKind {
    disks.first().and_then(|disk| disk.controller).unwrap_or(CONTROLLERS[0])
}

/// Which of the controllers is the target's.
fn target(controllers: &[&[Disk]]) -> usize {
    let is_target = |disks: &&[Disk]| disks.iter().any(|disk| disk.target);
    controllers.iter().position(is_target).unwrap_or(0)
}

/// The kind of the controller that the driver under test is meant for.
pub(super) fn target_kind(disks: &[Disk]) -> &'static ControllerKind {
    let controllers = by_controller(disks);
    controllers
        .get(target(&controllers))
        .map_or(CONTROLLERS[0], |disks| kind(disks))
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
        let block = u64::from(BLOCK_SIZE);
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
    for disks in by_controller(disks) {
        let kind = kind(disks);
        if let Some(other) = disks
            .iter()
            .filter_map(|disk| disk.controller)
            .find(|other| *other != kind)
        {
            return Err(format!(
                "a disk with `namespace` has the controller of the disk before it, which is {}, not {}",
                kind.name, other.name
            ));
        }
        if disks.len() > kind.disk_limit {
            let (name, limit) = (kind.name, kind.disk_limit);
            return Err(format!(
                "an {name} controller has at most {limit} disks, not {}",
                disks.len()
            ));
        }
    }
    Ok(())
}

/// Plugs in the controller of each disk, the fault plan at the target's.
pub(super) fn attach(machine: &mut Machine, options: &GuestOptions) -> anyhow::Result<AttachedDisks> {
    let disks = &options.disks;
    check_disks(disks).map_err(anyhow::Error::msg)?;
    let controllers = by_controller(disks);
    let target = target(&controllers);
    let mut attached = AttachedDisks {
        images: Vec::new(),
        notes: Vec::new(),
        injector: None,
    };
    for ((index, disks), slot) in controllers.iter().enumerate().zip(FIRST_SLOT..) {
        let (kind, is_target) = (kind(disks), index == target);
        let faults = options.faults.iter().filter(|_| is_target);
        let faults = faults
            .map(|fault| fault.resolve(&kind.faults))
            .collect::<Result<_, _>>();
        let settings = ControllerOptions {
            index: u32::from(slot - FIRST_SLOT),
            processors: options.cpus,
            interrupts: options.interrupts,
            is_target,
            faults: faults.map_err(anyhow::Error::msg)?,
        };
        let backends = disks.iter().map(|disk| attached.open(&disk.place));
        let backends = backends.collect::<Result<_, _>>()?;
        let address = PciAddress::new(slot, 0).context("no such PCI address")?;
        let injector = machine.attach_storage(address, |connections| (kind.make)(settings, backends, connections))?;
        attached.injector = injector.or(attached.injector);
    }
    Ok(attached)
}

impl AttachedDisks {
    fn open(&mut self, place: &DiskPlace) -> anyhow::Result<Box<dyn Backend>> {
        Ok(match place {
            DiskPlace::Memory(bytes) => Box::new(MemoryBackend::new(
                usize::try_from(*bytes).context("the disk is too large for this host")?,
            )),
            DiskPlace::Image(path, options) => {
                let image = ImageBackend::open(path, BLOCK_SIZE, options)?;
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
