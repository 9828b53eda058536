//! Writes the loader block, which tells the kernel at its entry point about the machine, as bytes.
//! `docs/loader-block.md` has the layouts. It must not know how the values were chosen.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::{BootError, BootFile};

/// "STORLOCK" as bytes in memory.
pub const LOADER_BLOCK_SIGNATURE: u64 = 0x4b43_4f4c_524f_5453;
/// Version of the layouts.
pub const LOADER_BLOCK_VERSION: u32 = 1;
/// Bytes of a file's name including its terminating zero.
pub const LOADER_FILE_NAME_LIMIT: usize = 64;

/// What a stretch of RAM holds (`LOADER_MEMORY_RANGE.Type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum RangeKind {
    Free = 1,
    Kernel = 2,
    Loader = 3,
    File = 4,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct MemoryRange {
    base: U64,
    length: U64,
    kind: U32,
    reserved: U32,
}

impl MemoryRange {
    pub(super) fn new(base: u64, length: u64, kind: RangeKind) -> Self {
        Self {
            base: base.into(),
            length: length.into(),
            kind: (kind as u32).into(),
            reserved: 0.into(),
        }
    }
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct LoaderFile {
    name: [u8; LOADER_FILE_NAME_LIMIT],
    address: U64,
    size: U64,
    kind: U32,
    reserved: U32,
}

impl LoaderFile {
    pub(super) fn new(name: &str, address: u64, size: u64, kind: u32) -> Result<Self, BootError> {
        BootFile::check_name(name)?;
        let mut bytes = [0; LOADER_FILE_NAME_LIMIT];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self {
            name: bytes,
            address: address.into(),
            size: size.into(),
            kind: kind.into(),
            reserved: 0.into(),
        })
    }
}

pub(super) fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct LoaderBlock {
    pub(super) signature: U64,
    pub(super) version: U32,
    pub(super) size: U32,
    pub(super) seed: U64,
    pub(super) kernel_base: U64,
    pub(super) kernel_size: U32,
    pub(super) processor_count: U32,
    pub(super) direct_map_base: U64,
    pub(super) physical_memory_end: U64,
    pub(super) cr3: U64,
    pub(super) memory_ranges: U64,
    pub(super) memory_range_count: U32,
    pub(super) file_count: U32,
    pub(super) files: U64,
    pub(super) command_line: U64,
    pub(super) tsc_frequency: U64,
    pub(super) apic_timer_frequency: U64,
}

const _: () = {
    assert!(size_of::<MemoryRange>() == 24);
    assert!(size_of::<LoaderFile>() == 88);
    assert!(std::mem::offset_of!(LoaderBlock, seed) == 0x10);
    assert!(std::mem::offset_of!(LoaderBlock, direct_map_base) == 0x28);
    assert!(std::mem::offset_of!(LoaderBlock, files) == 0x50);
    assert!(size_of::<LoaderBlock>() == 0x70);
};
