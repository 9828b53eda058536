//! The disks of a run: opens their images, attaches their controllers, and collects the host's failures with them.
//!
//! Talks to the controllers and backends of the virtual machine monitor. It must not know what the guest does with
//! them.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use storlock_vmm::pci::PciAddress;
use storlock_vmm::run::Machine;
use storlock_vmm::storage::backend::{Backend, HostFailures, ImageBackend, MemoryBackend, WatchedBackend};
use storlock_vmm::storage::{BLOCK_SIZE, ControllerOptions, FaultInjector};

use super::machine::GuestOptions;
use super::spec::disk::{by_controller, kind, target};
use super::spec::{CountFrom, DiskPlace};
use crate::report::Note;

/// PCI device number of the first controller; the others follow.
const FIRST_SLOT: u8 = 4;

/// The disks of a machine, after they were attached.
pub(super) struct AttachedDisks {
    images: Vec<WatchedImage>,
    /// What was done to images before their use, in words.
    pub(super) notes: Vec<Note>,
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

/// Plugs in the controller of each disk, the fault plan at the target's.
pub(super) fn attach(machine: &mut Machine, options: &GuestOptions) -> anyhow::Result<AttachedDisks> {
    let disks = &options.disks;
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
        if let Some(injector) = injector {
            for (index, fault) in options.faults.iter().enumerate() {
                if fault.from.unwrap_or(options.faults_from) == CountFrom::Armed {
                    injector.hold(index);
                }
            }
            attached.injector = Some(injector);
        }
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
                    let image = path.display().to_string();
                    let note = Note::Recovered { image, recovery };
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
