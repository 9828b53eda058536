//! What is configured when a controller is made.
//!
//! Plain values; nothing here changes while a guest runs.

use super::registers::MAX_QUEUE_PAIRS;
use crate::storage::controllers::BLOCK_SIZE;
use crate::storage::controllers::PCI_TARGET_SUBSYSTEM_ID;
use crate::storage::fault::Fault;
use crate::storage::interrupts::InterruptKind;

/// PCI vendor: Red Hat's identifier, whose range 10F0h to 10FFh anybody may use for experiments.
///
/// Drivers bind to the class code. The identifiers of other emulated controllers are avoided on purpose: Linux knows
/// them and works around faults that this controller does not have.
pub(super) const PCI_VENDOR_ID: u16 = 0x1af4;
/// PCI device identifier.
pub(super) const PCI_DEVICE_ID: u16 = 0x10f0;
/// Most namespaces of one controller.
pub(super) const MAX_NAMESPACES: usize = 16;

/// Why a controller cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NvmeConfigError {
    /// Not 1 to 64.
    #[error("an NVMe controller has 1 to {MAX_QUEUE_PAIRS} I/O queue pairs, not {0}")]
    QueuePairs(u16),
    /// Not 512 or 4096.
    #[error("the logical block size is 512 or 4096 bytes, not {0}")]
    BlockSize(u32),
    /// None, or more than 16.
    #[error("an NVMe controller has 1 to {MAX_NAMESPACES} namespaces, not {0}")]
    Namespaces(usize),
    /// A backend is empty or its size is not a multiple of the block size.
    #[error(
        "the backend of namespace {nsid} has {length} bytes; the size has to be a multiple of {block_size} and not 0"
    )]
    OddBackend {
        /// Namespace identifier.
        nsid: u32,
        /// Size of the backend in bytes.
        length: u64,
        /// Logical block size in bytes.
        block_size: u32,
    },
}

/// How a controller is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvmeConfig {
    /// I/O queue pairs, 1 to 64. The controller has one interrupt vector more than that.
    pub queue_pairs: u16,
    /// Logical block size in bytes, 512 or 4096.
    pub block_size: u32,
    /// Serial number, at most 20 printable ASCII characters; the rest is dropped.
    pub serial_number: String,
    /// Makes the identifiers of namespaces unique: give each controller of a machine another one.
    pub index: u32,
    /// PCI subsystem identifier.
    pub subsystem_id: u16,
    /// The best way to interrupt.
    pub interrupts: InterruptKind,
    /// The faults that the controller is to inject; empty: none.
    pub faults: Vec<Fault>,
}

impl Default for NvmeConfig {
    fn default() -> Self {
        Self {
            queue_pairs: MAX_QUEUE_PAIRS,
            block_size: BLOCK_SIZE,
            serial_number: "STORLOCK0".into(),
            index: 0,
            subsystem_id: PCI_TARGET_SUBSYSTEM_ID,
            interrupts: InterruptKind::default(),
            faults: Vec::new(),
        }
    }
}

/// The identifiers of a namespace that no other has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NamespaceIds {
    /// EUI64, most significant byte first.
    pub(crate) eui64: [u8; 8],
    /// NGUID.
    pub(crate) nguid: [u8; 16],
}

impl NvmeConfig {
    /// Interrupt vectors: one for the admin queue and one for each I/O queue pair.
    ///
    /// # Errors
    /// [`NvmeConfigError::QueuePairs`].
    pub fn vectors(&self) -> Result<u16, NvmeConfigError> {
        self.check()?;
        Ok(self.queue_pairs + 1)
    }

    pub(super) fn check(&self) -> Result<(), NvmeConfigError> {
        if !(1..=MAX_QUEUE_PAIRS).contains(&self.queue_pairs) {
            return Err(NvmeConfigError::QueuePairs(self.queue_pairs));
        }
        if ![512, 4096].contains(&self.block_size) {
            return Err(NvmeConfigError::BlockSize(self.block_size));
        }
        Ok(())
    }

    /// Identifiers of the namespace with that index (from 0). The locally administered bit of the organisation part is
    /// set: no organisation has assigned them.
    pub(super) fn namespace_ids(&self, index: usize) -> NamespaceIds {
        let mut eui64 = [0x02, b'S', b'L', 0, 0, 0, 0, index as u8];
        eui64[3..7].copy_from_slice(&self.index.to_be_bytes());
        let mut nguid = [0; 16];
        nguid[..8].copy_from_slice(b"STORLOCK");
        nguid[8..].copy_from_slice(&eui64);
        NamespaceIds { eui64, nguid }
    }
}
