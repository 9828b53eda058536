//! `KDDEBUGGER_DATA64` ("KDBG"): the table from which a kernel debugger learns where the kernel keeps what (wdbgexts.h).
//!
//! It is not exported. Where the guest was booted with debugging on it lies plain in the kernel's data, with a tag and the
//! kernel's own address in it, and is found by these. Else Windows 8 and later keep it encoded by two random numbers;
//! then the places of the block and of the numbers have to be known, from the kernel's PDB. Talks to [`GuestMemory`];
//! must not know what the table is wanted for.
//!
//! The encoding is the one that QEMU's elf2dmp and Volatility undo.

use serde::{Deserialize, Serialize};

use super::image::Image;
use crate::target::{GuestMemory, PAGE_SIZE, ReadError};

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
/// The table with all that is read from it. Windows 7 and later have it.
const LEAST_SIZE: usize = OFFSET_PRCB_CONTEXT + 8;
/// Windows 11 has less than 1 KiB.
const LARGEST_SIZE: usize = PAGE_SIZE as usize;
/// The header: a list entry, the tag, the size.
const HEADER_SIZE: usize = 0x18;
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
    pub encoding: Option<[u32; 3]>,
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
    /// Finds the plain block in the kernel's data.
    ///
    /// # Errors
    /// [`DebuggerDataError::NotFound`].
    pub fn find(memory: &(impl GuestMemory + ?Sized), kernel: &Image) -> Result<Self, DebuggerDataError> {
        let data = |section: &&super::Section| !section.is_executable() && !section.is_discardable();
        for section in kernel.sections.iter().filter(data) {
            let first = kernel.address(section.rva);
            let end = first.saturating_add(u64::from(section.size));
            let mut page = first & !(PAGE_SIZE - 1);
            while page < end {
                let found = find_in_page(memory, kernel, page);
                if found.is_some() {
                    return found.ok_or(DebuggerDataError::NotFound);
                }
                let Some(next) = page.checked_add(PAGE_SIZE) else { break };
                page = next;
            }
        }
        Err(DebuggerDataError::NotFound)
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
        if field(&header, OWNER_TAG) != Some(TAG) || !(LEAST_SIZE..=LARGEST_SIZE).contains(&size) {
            return Err(not_there);
        }
        // Whole words are encoded.
        let bytes = read(size.next_multiple_of(8))?;
        let table = Self {
            address,
            encoded: key.is_some(),
            bytes,
        };
        if table.quad(KERN_BASE) == kernel.base {
            Ok(table)
        } else {
            Err(not_there)
        }
    }

    /// The decoded block, in whole words.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Address of the list head of the loaded modules.
    #[must_use]
    pub fn ps_loaded_module_list(&self) -> u64 {
        self.quad(PS_LOADED_MODULE_LIST)
    }

    /// Address of the list head of the processes.
    #[must_use]
    pub fn ps_active_process_head(&self) -> u64 {
        self.quad(PS_ACTIVE_PROCESS_HEAD)
    }

    /// Address of the variable that has the address of the page frame database.
    #[must_use]
    pub fn mm_pfn_database(&self) -> u64 {
        self.quad(MM_PFN_DATABASE)
    }

    /// Address of the array that has the address of each processor's KPRCB.
    #[must_use]
    pub fn ki_processor_block(&self) -> u64 {
        self.quad(KI_PROCESSOR_BLOCK)
    }

    /// Offset in the KPRCB of the pointer to the processor's `CONTEXT`.
    #[must_use]
    pub fn offset_prcb_context(&self) -> u16 {
        field(&self.bytes, OFFSET_PRCB_CONTEXT).map_or(0, u16::from_le_bytes)
    }

    fn quad(&self, offset: usize) -> u64 {
        field(&self.bytes, offset).map_or(0, u64::from_le_bytes)
    }
}

/// The block that begins in this page, if one does.
fn find_in_page(memory: &(impl GuestMemory + ?Sized), kernel: &Image, page: u64) -> Option<DebuggerData> {
    let mut bytes = [0; PAGE_SIZE as usize];
    // The kernel's paged data may not be there.
    memory.read(page, &mut bytes).ok()?;
    let tags = bytes.chunks_exact(ALIGNMENT).enumerate();
    tags.filter(|(_, word)| word.starts_with(&TAG)).find_map(|(index, _)| {
        let tag = page.checked_add((index * ALIGNMENT) as u64)?;
        DebuggerData::take(memory, kernel, tag.checked_sub(OWNER_TAG as u64)?, None).ok()
    })
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
