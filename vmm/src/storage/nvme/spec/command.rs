//! Submission and completion queue entries and opcodes (NVMe 1.4, sections 4.2, 4.6, 5 and 6).
//!
//! Wire layouts only.

use std::mem::size_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Common command format (Figures 104 and 105).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct SubmissionEntry {
    /// OPC.
    pub opcode: u8,
    /// FUSE in bits 1:0, PSDT in bits 7:6.
    pub flags: u8,
    /// CID.
    pub(crate) command_id: U16,
    /// NSID.
    pub(crate) namespace_id: U32,
    /// Reserved.
    pub(crate) dword2: U32,
    /// Reserved.
    pub(crate) dword3: U32,
    /// MPTR.
    pub(crate) metadata_pointer: U64,
    /// DPTR, PRP entry 1.
    pub(crate) prp1: U64,
    /// DPTR, PRP entry 2.
    pub(crate) prp2: U64,
    /// CDW10.
    pub(crate) dword10: U32,
    /// CDW11.
    pub(crate) dword11: U32,
    /// CDW12.
    pub(crate) dword12: U32,
    /// CDW13.
    pub(crate) dword13: U32,
    /// CDW14.
    pub(crate) dword14: U32,
    /// CDW15.
    pub(crate) dword15: U32,
}

/// Completion queue entry (Figure 121).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct CompletionEntry {
    /// Command specific.
    pub(crate) dword0: U32,
    /// Reserved.
    pub(crate) dword1: U32,
    /// SQHD.
    pub(crate) submission_head: U16,
    /// SQID.
    pub(crate) submission_id: U16,
    /// CID.
    pub(crate) command_id: U16,
    /// Phase tag in bit 0, Status Field in bits 15:1.
    pub status: U16,
}

/// Size of a submission queue entry in bytes (CC.IOSQES = 6).
pub(crate) const SUBMISSION_ENTRY_SIZE: u64 = 64;
/// Size of a completion queue entry in bytes (CC.IOCQES = 4).
pub(crate) const COMPLETION_ENTRY_SIZE: u64 = 16;

const _: () = assert!(size_of::<SubmissionEntry>() as u64 == SUBMISSION_ENTRY_SIZE);
const _: () = assert!(size_of::<CompletionEntry>() as u64 == COMPLETION_ENTRY_SIZE);

impl SubmissionEntry {
    /// SLBA of the commands of [`nvm::WITH_LBA`]: dwords 10 and 11.
    #[must_use]
    pub(crate) fn starting_lba(&self) -> u64 {
        u64::from(self.dword10.get()) | u64::from(self.dword11.get()) << 32
    }
}

/// Admin opcodes (Figure 139) that this controller has.
pub(crate) mod admin {
    /// Delete I/O Submission Queue.
    pub(crate) const DELETE_SUBMISSION_QUEUE: u8 = 0x00;
    /// Create I/O Submission Queue.
    pub(crate) const CREATE_SUBMISSION_QUEUE: u8 = 0x01;
    /// Get Log Page.
    pub(crate) const GET_LOG_PAGE: u8 = 0x02;
    /// Delete I/O Completion Queue.
    pub(crate) const DELETE_COMPLETION_QUEUE: u8 = 0x04;
    /// Create I/O Completion Queue.
    pub(crate) const CREATE_COMPLETION_QUEUE: u8 = 0x05;
    /// Identify.
    pub(crate) const IDENTIFY: u8 = 0x06;
    /// Abort.
    pub(crate) const ABORT: u8 = 0x08;
    /// Set Features.
    pub(crate) const SET_FEATURES: u8 = 0x09;
    /// Get Features.
    pub(crate) const GET_FEATURES: u8 = 0x0a;
    /// Asynchronous Event Request.
    pub(crate) const ASYNC_EVENT_REQUEST: u8 = 0x0c;
    /// Doorbell Buffer Config.
    pub(crate) const DOORBELL_BUFFER_CONFIG: u8 = 0x7c;
}

/// NVM command set opcodes (Figure 346) that this controller has.
pub(crate) mod nvm {
    /// Flush.
    pub(crate) const FLUSH: u8 = 0x00;
    /// Write.
    pub(crate) const WRITE: u8 = 0x01;
    /// Read.
    pub(crate) const READ: u8 = 0x02;
    /// Write Uncorrectable.
    pub(crate) const WRITE_UNCORRECTABLE: u8 = 0x04;
    /// Compare.
    pub(crate) const COMPARE: u8 = 0x05;
    /// Write Zeroes.
    pub(crate) const WRITE_ZEROES: u8 = 0x08;
    /// Dataset Management.
    pub(crate) const DATASET_MANAGEMENT: u8 = 0x09;
    /// Verify.
    pub(crate) const VERIFY: u8 = 0x0c;

    /// Those that name a starting LBA in dwords 10 and 11, and a number of blocks in dword 12.
    pub(crate) const WITH_LBA: [u8; 6] = [READ, WRITE, WRITE_UNCORRECTABLE, COMPARE, WRITE_ZEROES, VERIFY];
}

/// Namespace identifier that stands for all namespaces.
pub(crate) const NSID_ALL: u32 = 0xffff_ffff;
/// CDW12 of reads and writes: Force Unit Access.
pub(crate) const FORCE_UNIT_ACCESS: u32 = 1 << 30;
/// CDW12 of Write Zeroes.
pub(crate) const DEALLOCATE: u32 = 1 << 25;
/// CDW11 of Dataset Management: AD.
pub(crate) const ATTRIBUTE_DEALLOCATE: u32 = 1 << 2;

/// Dataset Management Range (Figure 362).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct DatasetRange {
    /// Context Attributes.
    pub attributes: U32,
    /// Length in logical blocks.
    pub length: U32,
    /// Starting LBA.
    pub(crate) starting_lba: U64,
}

const _: () = assert!(size_of::<DatasetRange>() == 16);
