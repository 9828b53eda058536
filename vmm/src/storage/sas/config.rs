//! What is chosen when a controller is made, and the names that follow from it.
//!
//! Plain values; nothing here changes while a guest runs.

use crate::storage::controllers::PCI_TARGET_SUBSYSTEM_ID;
use crate::storage::fault::Fault;
use crate::storage::interrupts::InterruptKind;
use crate::storage::scsi;

/// PCI vendor: LSI Logic.
pub(crate) const PCI_VENDOR_ID: u16 = 0x1000;
/// PCI device: SAS1068 (docs/adr/0008-sas-controller.md).
pub(crate) const PCI_DEVICE_ID: u16 = 0x0054;
/// Most disks of one controller: one a phy.
pub const MAX_DISKS: usize = 16;
/// Phys of the real controller; there are more if there are more disks.
const PHYS: usize = 8;

/// Why a controller cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SasConfigError {
    /// None, or more than 16.
    #[error("a SAS controller has 1 to {MAX_DISKS} disks, not {0}")]
    Disks(usize),
    /// A disk cannot be made.
    #[error("disk {index} of the SAS controller: {source}")]
    Disk {
        /// Which one, from 0.
        index: usize,
        /// Why not.
        source: scsi::UnitError,
    },
}

/// How a controller is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SasConfig {
    /// Logical block size in bytes, 512 or 4096.
    pub block_size: u32,
    /// Which of the machine's controllers this is: serial numbers are made from it.
    pub index: u32,
    /// What world wide names are made from, with the index: the same ones, the same names.
    pub seed: u32,
    /// PCI subsystem identifier.
    pub(crate) subsystem_id: u16,
    /// The best way to interrupt.
    pub interrupts: InterruptKind,
    /// The faults that the controller is to inject; empty: none.
    pub faults: Vec<Fault>,
}

impl Default for SasConfig {
    fn default() -> Self {
        Self {
            block_size: 512,
            index: 0,
            seed: 0,
            subsystem_id: PCI_TARGET_SUBSYSTEM_ID,
            interrupts: InterruptKind::default(),
            faults: Vec::new(),
        }
    }
}

/// What a world wide name is that of.
#[derive(Clone, Copy)]
enum Named {
    Controller = 0,
    Port = 1,
    Unit = 2,
    Enclosure = 3,
}

impl SasConfig {
    /// A locally assigned NAA name (NAA 3h): no organisation has given it.
    fn name(&self, what: Named, number: usize) -> u64 {
        let place = (self.index as u64 & 0xff) << 16 | (what as u64) << 8 | number as u64 & 0xff;
        3 << 60 | u64::from(self.seed) << 24 | place
    }

    /// SAS address of the controller.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.name(Named::Controller, 0)
    }

    /// SAS address of a disk.
    #[must_use]
    pub(crate) fn disk_address(&self, index: usize) -> u64 {
        self.name(Named::Port, index)
    }

    /// Name of a disk's logical unit.
    #[must_use]
    pub(crate) fn unit_name(&self, index: usize) -> u64 {
        self.name(Named::Unit, index)
    }

    /// EnclosureLogicalID.
    #[must_use]
    pub fn enclosure(&self) -> u64 {
        self.name(Named::Enclosure, 0)
    }

    /// Serial number of a disk: that of the controller's place for the first, with a number for the others.
    pub(super) fn serial(&self, disk: usize) -> String {
        match disk {
            0 => format!("STORLOCK{}", self.index),
            _ => format!("STORLOCK{}-{disk}", self.index),
        }
    }

    /// Phys of a controller with so many disks.
    pub(super) fn phys(disks: usize) -> usize {
        disks.max(PHYS)
    }
}
