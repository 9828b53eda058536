//! Translates guest virtual (linear) to guest physical addresses by the guest's own page tables, in each paging mode of
//! the processor: Windows uses four-level paging nearly always, firmware and boot loaders use the others.
//!
//! Talks to [`crate::memory`]. It must not know vCPUs: the caller gives it the control registers. Sources: Intel SDM
//! volume 3, 5.1.1 (paging modes), 5.3 (32-bit), 5.4 (PAE), 5.5 (4-level and 5-level); AMD APM volume 2, 5.2 and 5.3.
//!
//! The tables are the guest's and hostile: each entry is read once, in one piece, and checked; the walk has at most
//! five steps; nothing is cached, because an edit of the tables does not exit to the host.
#![forbid(unsafe_code)]

use thiserror::Error;

use crate::memory::{GuestRam, PhysicalAccessError};

/// CR0: paging.
const CR0_PG: u64 = 1 << 31;
/// CR4: page size extensions, physical address extension, 57-bit linear addresses.
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
/// EFER: long mode is active.
const EFER_LMA: u64 = 1 << 10;

/// Size of the smallest page in bytes.
pub const PAGE_SIZE: u64 = 4096;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12 of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits 31:12 of an entry of 32-bit paging.
const LEGACY_ADDRESS: u64 = 0xffff_f000;
/// Bits 31:5 of CR3, where the four pointers of PAE paging are.
const PAE_POINTERS: u64 = 0xffff_ffe0;

/// How addresses lead to guest-physical ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paging {
    /// CR0.PG is clear: they are the same.
    Off,
    /// Two levels with entries of 32 bits; pages of 4 MiB if CR4.PSE is set.
    Legacy { large: bool },
    /// Entries of 64 bits: 3 levels (PAE), 4, or 5.
    Wide { levels: u8 },
}

/// An address space of a processor: its paging mode and the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressSpace {
    paging: Paging,
    cr3: u64,
}

impl AddressSpace {
    /// By the control registers of a processor.
    #[must_use]
    pub fn of(cr0: u64, cr3: u64, cr4: u64, efer: u64) -> Self {
        let paging = if cr0 & CR0_PG == 0 {
            Paging::Off
        } else if efer & EFER_LMA != 0 {
            let levels = if cr4 & CR4_LA57 != 0 { 5 } else { 4 };
            Paging::Wide { levels }
        } else if cr4 & CR4_PAE != 0 {
            Paging::Wide { levels: 3 }
        } else {
            let large = cr4 & CR4_PSE != 0;
            Paging::Legacy { large }
        };
        Self { paging, cr3 }
    }

    /// Four-level paging with the tables at `cr3` (bits 51:12 count).
    #[cfg(test)]
    pub(crate) fn four_level(cr3: u64) -> Self {
        let paging = Paging::Wide { levels: 4 };
        Self { paging, cr3 }
    }

    /// Whether addresses lead through tables.
    #[must_use]
    pub(crate) fn is_paged(self) -> bool {
        self.paging != Paging::Off
    }

    /// Whether this mode has the address.
    fn has(self, gva: u64) -> bool {
        match self.paging {
            Paging::Wide { levels: 5 } => matches!(gva >> 56, 0 | 0xff),
            Paging::Wide { levels: 4 } => is_canonical(gva),
            Paging::Wide { .. } | Paging::Legacy { .. } | Paging::Off => gva >> 32 == 0,
        }
    }
}

/// Where a guest-virtual address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Each is a bit of the tables.
pub struct Translation {
    /// Guest-physical address.
    pub address: u64,
    /// Size of the page in bytes: 4 KiB, 2 MiB, 4 MiB or 1 GiB. Without paging it is the smallest.
    pub page_size: u64,
    /// Writable at every level (R/W).
    pub writable: bool,
    /// Reachable from user mode at every level (U/S).
    pub user: bool,
    /// Executable: no level has the NX bit.
    pub executable: bool,
    /// The page has been written to already (D of the last entry).
    pub(crate) dirty: bool,
}

/// Why a guest-virtual address cannot be accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TranslateError {
    /// The paging mode has no such address - with four levels one whose bits 63:47 are not all alike, below long mode one
    /// beyond 4 GiB -, or the access wraps around the address space.
    #[error("guest-virtual {gva:#x} is not canonical")]
    NonCanonical {
        /// The address.
        gva: u64,
    },
    /// An entry has its present bit clear.
    #[error("guest-virtual {gva:#x} is not mapped (level {level} entry not present)")]
    NotPresent {
        /// The address.
        gva: u64,
        /// 5 or 4 for the page map, down to 1 for the page table.
        level: u8,
    },
    /// An entry has a bit set that has to be clear.
    #[error("guest-virtual {gva:#x} is mapped by a malformed level {level} entry")]
    Malformed {
        /// The address.
        gva: u64,
        /// Level of the entry.
        level: u8,
    },
    /// A table or the page is not in RAM.
    #[error("guest-virtual {gva:#x} leads to guest-physical {gpa:#x}, which is not RAM")]
    OutsideMemory {
        /// The address.
        gva: u64,
        /// Where the walk left RAM.
        gpa: u64,
    },
    /// A write would hit a read-only page.
    #[error("guest-virtual {gva:#x} is not writable")]
    NotWritable {
        /// The address.
        gva: u64,
    },
}

/// Whether bits 63:47 of `gva` are all alike (48-bit virtual addresses).
#[must_use]
pub(crate) fn is_canonical(gva: u64) -> bool {
    matches!(gva >> 47, 0 | 0x1_ffff)
}

/// Walks the tables for one address.
///
/// # Errors
/// [`TranslateError`] naming the level at which the walk ended. The page itself is not checked for being memory.
pub fn translate(ram: &GuestRam, space: AddressSpace, gva: u64) -> Result<Translation, TranslateError> {
    if !space.has(gva) {
        return Err(TranslateError::NonCanonical { gva });
    }
    match space.paging {
        Paging::Off => Ok(Translation {
            address: gva,
            page_size: PAGE_SIZE,
            writable: true,
            user: true,
            executable: true,
            dirty: true,
        }),
        Paging::Legacy { large } => translate_legacy(ram, space.cr3, large, gva),
        Paging::Wide { levels } => translate_wide(ram, space.cr3, levels, gva),
    }
}

/// Entries of 32 bits (5.3).
fn translate_legacy(ram: &GuestRam, cr3: u64, pse: bool, gva: u64) -> Result<Translation, TranslateError> {
    let outside = |gpa| move |_: PhysicalAccessError| TranslateError::OutsideMemory { gva, gpa };
    let mut table = cr3 & LEGACY_ADDRESS;
    let (mut writable, mut user) = (true, true);
    for (level, shift) in [(2u8, 22u32), (1, 12)] {
        let slot = table + ((gva >> shift) & 0x3ff) * 4;
        let entry = u64::from(ram.load_entry_u32(slot).map_err(outside(slot))?);
        if entry & PRESENT == 0 {
            return Err(TranslateError::NotPresent { gva, level });
        }
        writable &= entry & WRITABLE != 0;
        user &= entry & USER != 0;
        let large = level == 2 && pse && entry & LARGE != 0;
        if large || level == 1 {
            let page_size = 1u64 << shift;
            // Bits 20:13 of a large entry are bits 39:32 of the address (PSE-36); bit 21 is reserved.
            let base = if large {
                if entry & 1 << 21 != 0 {
                    return Err(TranslateError::Malformed { gva, level });
                }
                entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
            } else {
                entry & LEGACY_ADDRESS
            };
            return Ok(Translation {
                address: base + (gva & (page_size - 1)),
                page_size,
                writable,
                user,
                executable: true,
                dirty: entry & DIRTY != 0,
            });
        }
        table = entry & LEGACY_ADDRESS;
    }
    // The last level always returns above.
    Err(TranslateError::Malformed { gva, level: 1 })
}

/// Entries of 64 bits (5.4 and 5.5). The pointers of PAE paging, which a processor keeps from the last load of CR3, are
/// taken from memory.
fn translate_wide(ram: &GuestRam, cr3: u64, levels: u8, gva: u64) -> Result<Translation, TranslateError> {
    let mut table = cr3 & if levels == 3 { PAE_POINTERS } else { ADDRESS };
    let mut writable = true;
    let mut user = true;
    let mut executable = true;
    for level in (1..=levels).rev() {
        let pointer = levels == 3 && level == 3;
        let shift = 12 + 9 * (u32::from(level) - 1);
        let index = (gva >> shift) & if pointer { 3 } else { 0x1ff };
        let slot = table + index * 8;
        let entry = ram
            .load_entry_u64(slot)
            .map_err(|_| TranslateError::OutsideMemory { gva, gpa: slot })?;
        if entry & PRESENT == 0 {
            return Err(TranslateError::NotPresent { gva, level });
        }
        let page_size = 1u64 << shift;
        // Bit 7 is the page attribute table's at the last level and has to be clear above the large pages.
        let large = level != 1 && entry & LARGE != 0;
        if large && (level > 3 || pointer) {
            return Err(TranslateError::Malformed { gva, level });
        }
        // A pointer of PAE paging has no rights.
        if !pointer {
            writable &= entry & WRITABLE != 0;
            user &= entry & USER != 0;
            executable &= entry & NO_EXECUTE == 0;
        }
        if large || level == 1 {
            // Bit 12 of a large entry is the page attribute table's; those between it and the address are reserved.
            let base = entry & ADDRESS & !(if large { 1 << 12 } else { 0 });
            if base % page_size != 0 {
                return Err(TranslateError::Malformed { gva, level });
            }
            return Ok(Translation {
                address: base + (gva & (page_size - 1)),
                page_size,
                writable,
                user,
                executable,
                dirty: entry & DIRTY != 0,
            });
        }
        table = entry & ADDRESS;
    }
    // The last level always returns above.
    Err(TranslateError::Malformed { gva, level: 1 })
}

/// Reads guest-virtual memory, RAM and firmware, page by page.
///
/// # Errors
/// [`TranslateError`] for the first byte that cannot be read; `data` is then undefined.
pub fn read_virtual(ram: &GuestRam, space: AddressSpace, gva: u64, data: &mut [u8]) -> Result<(), TranslateError> {
    read_virtual_at(ram, space, gva, data).map(|_| ())
}

/// As [`read_virtual`], and tells the guest physical address of the first byte, of the same walk; `None` for no bytes.
///
/// # Errors
/// As [`read_virtual`].
pub fn read_virtual_at(
    ram: &GuestRam,
    space: AddressSpace,
    gva: u64,
    data: &mut [u8],
) -> Result<Option<u64>, TranslateError> {
    let mut done = 0;
    let mut first = None;
    while done < data.len() {
        let (translation, length) = piece(ram, space, gva, done, data.len())?;
        first = first.or(Some(translation.address));
        ram.read_memory(translation.address, &mut data[done..done + length])
            .map_err(|error| TranslateError::OutsideMemory {
                gva,
                gpa: error.address,
            })?;
        done += length;
    }
    Ok(first)
}

/// Writes guest-virtual memory as a supervisor with write protection on would. Nothing is written unless every page
/// can be written.
///
/// # Errors
/// [`TranslateError`] for the first byte that cannot be written.
pub fn write_virtual(ram: &GuestRam, space: AddressSpace, gva: u64, data: &[u8]) -> Result<(), TranslateError> {
    write(ram, space, gva, data, false)
}

/// Writes guest-virtual memory as a debugger does: read-only pages too, and beneath stop points. Nothing is written
/// unless every page is RAM.
///
/// # Errors
/// [`TranslateError`] for the first byte that cannot be written.
pub fn write_virtual_unprotected(
    ram: &GuestRam,
    space: AddressSpace,
    gva: u64,
    data: &[u8],
) -> Result<(), TranslateError> {
    write(ram, space, gva, data, true)
}

fn write(
    ram: &GuestRam,
    space: AddressSpace,
    gva: u64,
    data: &[u8],
    read_only_too: bool,
) -> Result<(), TranslateError> {
    let mut pieces = Vec::new();
    let mut done = 0;
    while done < data.len() {
        let (translation, length) = piece(ram, space, gva, done, data.len())?;
        if !translation.writable && !read_only_too {
            return Err(TranslateError::NotWritable { gva });
        }
        let mut probe = [0];
        for address in [translation.address, translation.address + length as u64 - 1] {
            ram.read(address, &mut probe)
                .map_err(|_| TranslateError::OutsideMemory { gva, gpa: address })?;
        }
        pieces.push((translation.address, done, length));
        done += length;
    }
    for (address, done, length) in pieces {
        let piece = &data[done..done + length];
        let written = if read_only_too {
            ram.write_beneath(address, piece)
        } else {
            ram.write(address, piece)
        };
        written.map_err(|error| TranslateError::OutsideMemory {
            gva,
            gpa: error.address,
        })?;
    }
    Ok(())
}

/// Translates the address of byte `done` of an access, and tells how many bytes follow on the same page.
fn piece(
    ram: &GuestRam,
    space: AddressSpace,
    gva: u64,
    done: usize,
    length: usize,
) -> Result<(Translation, usize), TranslateError> {
    let address = gva
        .checked_add(done as u64)
        .ok_or(TranslateError::NonCanonical { gva })?;
    let translation = translate(ram, space, address)?;
    let left = translation.page_size - (address & (translation.page_size - 1));
    let wanted = length - done;
    Ok((
        translation,
        usize::try_from(left).map_or(wanted, |left| left.min(wanted)),
    ))
}

#[cfg(test)]
mod tests;
