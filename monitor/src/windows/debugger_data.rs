//! `KDDEBUGGER_DATA64` ("KDBG"): the table that tells a kernel debugger where the kernel keeps its data (wdbgexts.h).
//!
//! It is not exported. If the guest was booted with debugging on, it lies plain in the kernel's data and is found by
//! its tag and by the kernel's own address in it. Otherwise Windows 8 and later keep it encoded by two random numbers;
//! then the kernel's PDB has to tell where the block and the numbers are. Talks to [`GuestMemory`]; must not know what
//! the table is used for.
//!
//! QEMU's elf2dmp and Volatility undo the same encoding.

use serde::{Deserialize, Serialize};

use super::image::Image;
use crate::vmi::{GuestMemory, PAGE_SIZE, ReadError};

/// `Header.OwnerTag`.
const OWNER_TAG: usize = 0x10;
const TAG: [u8; 4] = *b"KDBG";
/// `Header.Size`.
const SIZE: usize = 0x14;
const KERN_BASE: usize = 0x18;
const PS_LOADED_MODULE_LIST: usize = 0x48;
const PS_ACTIVE_PROCESS_HEAD: usize = 0x50;
const MM_PFN_DATABASE: usize = 0xc0;
const KI_PROCESSOR_BLOCK: usize = 0x218;
const OFFSET_PRCB_CONTEXT: usize = 0x338;
/// Windows Server 2003, the first with x64, has 318h bytes. Later kernels have appended fields: what an older block ends
/// before is not known.
const LEAST_SIZE: usize = 0x318;
/// Windows 11 has less than 1 KiB.
const LARGEST_SIZE: usize = PAGE_SIZE as usize;
/// What tells the block: its header (a list entry, the tag, the size), and the kernel's address.
const HEADER_SIZE: usize = KERN_BASE + 8;
/// Places with the tag that are looked at; a kernel has one.
const MAX_CANDIDATES: usize = 256;
/// Where the block can begin.
const ALIGNMENT: usize = 8;

/// Why there is no such table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DebuggerDataError {
    /// It is not in the kernel's data.
    #[error("the kernel's data hold no plain debugger data block (KDBG)")]
    NotFound,
    /// It or what it is encoded by cannot be read.
    #[error("the debugger data block (KDBG) cannot be read: {0}")]
    Unreadable(#[from] ReadError),
    /// What is there is none, neither plain nor decoded.
    #[error(
        "there is no debugger data block (KDBG) at {0:#x}, neither plain nor encoded: is the PDB that of another build?"
    )]
    NotThere(u64),
}

/// Where the kernel's PDB says the block is, relative to the kernel's base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebuggerDataPlaces {
    /// `KdDebuggerDataBlock`.
    pub block: u32,
    /// `KiWaitNever`, `KiWaitAlways`, `KdpDataBlockEncoded`; a kernel without them does not encode.
    pub(crate) encoding: Option<[u32; 3]>,
}

/// The table, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebuggerData {
    /// Its guest virtual address.
    pub address: u64,
    /// Whether the guest's memory has it encoded.
    pub encoded: bool,
    bytes: Vec<u8>,
}

impl DebuggerData {
    /// Finds the plain block in the kernel's data. The work is bounded by the size of the image, whatever its sections and
    /// data are.
    ///
    /// # Errors
    /// [`DebuggerDataError::NotFound`].
    pub fn find(memory: &(impl GuestMemory + ?Sized), kernel: &Image) -> Result<Self, DebuggerDataError> {
        let data = |section: &&super::Section| !section.is_executable() && !section.is_discardable();
        let pages = kernel.sections.iter().filter(data).flat_map(|section| {
            let first = kernel.address(section.rva) & !(PAGE_SIZE - 1);
            let end = kernel.address(section.rva).saturating_add(u64::from(section.size));
            (first..end).step_by(PAGE_SIZE as usize)
        });
        // Sections of a made-up image may lie on each other.
        let most = kernel.size as usize / PAGE_SIZE as usize + kernel.sections.len();
        let tags = pages.take(most).flat_map(|page| tags_in_page(memory, page));
        let mut candidates = tags
            .take(MAX_CANDIDATES)
            .filter_map(|tag| tag.checked_sub(OWNER_TAG as u64));
        let found = candidates.find_map(|address| Self::take(memory, kernel, address, None).ok());
        found.ok_or(DebuggerDataError::NotFound)
    }

    /// Reads the block where the kernel's PDB says that it is.
    ///
    /// # Errors
    /// [`DebuggerDataError`] if it cannot be read or is none.
    pub fn read(
        memory: &(impl GuestMemory + ?Sized),
        kernel: &Image,
        places: &DebuggerDataPlaces,
    ) -> Result<Self, DebuggerDataError> {
        let address = kernel.address(places.block);
        if let Ok(plain) = Self::take(memory, kernel, address, None) {
            return Ok(plain);
        }
        let key = match places.encoding {
            None => None,
            Some([never, always, encoded]) => Some(Key {
                wait_never: memory.read_u64(kernel.address(never))?,
                wait_always: memory.read_u64(kernel.address(always))?,
                encoded: kernel.address(encoded),
            }),
        };
        Self::take(memory, kernel, address, key)
    }

    fn take(
        memory: &(impl GuestMemory + ?Sized),
        kernel: &Image,
        address: u64,
        key: Option<Key>,
    ) -> Result<Self, DebuggerDataError> {
        let read = |length: usize| -> Result<Vec<u8>, DebuggerDataError> {
            let mut bytes = vec![0; length];
            memory.read(address, &mut bytes)?;
            if let Some(key) = key {
                key.decode(&mut bytes);
            }
            Ok(bytes)
        };
        let not_there = DebuggerDataError::NotThere(address);
        let header = read(HEADER_SIZE)?;
        let size = field(&header, SIZE).map_or(0, u32::from_le_bytes) as usize;
        let is_block = field(&header, OWNER_TAG) == Some(TAG)
            && field(&header, KERN_BASE) == Some(kernel.base.to_le_bytes())
            && (LEAST_SIZE..=LARGEST_SIZE).contains(&size);
        if !is_block {
            return Err(not_there);
        }
        Ok(Self {
            address,
            encoded: key.is_some(),
            // Whole words are encoded.
            bytes: read(size.next_multiple_of(8))?,
        })
    }

    /// The decoded block, in whole words.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Address of the list head of the loaded modules.
    #[must_use]
    pub(crate) fn ps_loaded_module_list(&self) -> u64 {
        self.quad(PS_LOADED_MODULE_LIST)
    }

    /// Address of the list head of the processes.
    #[must_use]
    pub(crate) fn ps_active_process_head(&self) -> u64 {
        self.quad(PS_ACTIVE_PROCESS_HEAD)
    }

    /// Address of the variable that has the address of the page frame database.
    #[must_use]
    pub(crate) fn mm_pfn_database(&self) -> u64 {
        self.quad(MM_PFN_DATABASE)
    }

    /// Address of the array that has the address of each processor's KPRCB.
    #[must_use]
    pub fn ki_processor_block(&self) -> u64 {
        self.quad(KI_PROCESSOR_BLOCK)
    }

    /// Offset in the KPRCB of the pointer to the processor's `CONTEXT`; `None` if the kernel does not tell: Windows 7 was the
    /// first to.
    #[must_use]
    pub fn offset_prcb_context(&self) -> Option<u16> {
        let offset = field(&self.bytes, OFFSET_PRCB_CONTEXT).map(u16::from_le_bytes);
        offset.filter(|&offset| offset != 0)
    }

    fn quad(&self, offset: usize) -> u64 {
        field(&self.bytes, offset).map_or(0, u64::from_le_bytes)
    }
}

/// Where this page has the tag.
fn tags_in_page(memory: &(impl GuestMemory + ?Sized), page: u64) -> Vec<u64> {
    let mut bytes = [0; PAGE_SIZE as usize];
    // The kernel's paged data may not be there.
    if memory.read(page, &mut bytes).is_err() {
        return Vec::new();
    }
    let words = bytes.chunks_exact(ALIGNMENT).enumerate();
    let tags = words.filter(|(_, word)| word.starts_with(&TAG));
    tags.map(|(index, _)| page.saturating_add((index * ALIGNMENT) as u64))
        .collect()
}

/// What a block is encoded by.
#[derive(Clone, Copy)]
struct Key {
    /// The value of `KiWaitNever`.
    wait_never: u64,
    /// The value of `KiWaitAlways`.
    wait_always: u64,
    /// The address of `KdpDataBlockEncoded`.
    encoded: u64,
}

impl Key {
    fn decode(self, bytes: &mut [u8]) {
        for word in bytes.chunks_exact_mut(8) {
            let Ok(value) = <[u8; 8]>::try_from(&*word) else {
                continue;
            };
            let turned = (u64::from_le_bytes(value) ^ self.wait_never).rotate_left(self.wait_never as u32 & 63);
            let plain = (turned ^ self.encoded).swap_bytes() ^ self.wait_always;
            word.copy_from_slice(&plain.to_le_bytes());
        }
    }
}

fn field<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}
