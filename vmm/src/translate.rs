//! Guest-virtual to guest-physical translation by the guest's own four-level page tables.
//!
//! Talks to [`crate::memory`]. It must not know vCPUs: everything it needs is CR3. Sources: Intel SDM volume 3,
//! 5.5 (4-level paging); AMD APM volume 2, 5.3.
//!
//! The tables are the guest's and hostile: each entry is read once, in one piece, and checked; the walk has at most
//! four steps; nothing is cached, because an edit of the tables does not exit to the host.
#![forbid(unsafe_code)]

use thiserror::Error;

use crate::memory::GuestRam;

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

/// Where a guest-virtual address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Each is a bit of the tables.
pub struct Translation {
    /// Guest-physical address.
    pub address: u64,
    /// Size of the page in bytes: 4 KiB, 2 MiB or 1 GiB.
    pub page_size: u64,
    /// Writable at every level (R/W).
    pub writable: bool,
    /// Reachable from user mode at every level (U/S).
    pub user: bool,
    /// Executable: no level has the NX bit.
    pub executable: bool,
    /// The page has been written to already (D of the last entry).
    pub dirty: bool,
}

/// Why a guest-virtual address cannot be accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TranslateError {
    /// Bits 63:47 are not all alike, or the access wraps around the address space.
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
        /// 4 for the page map level 4, down to 1 for the page table.
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
pub fn is_canonical(gva: u64) -> bool {
    matches!(gva >> 47, 0 | 0x1_ffff)
}

/// Walks the tables at `cr3` (bits 51:12 count) for one address.
///
/// # Errors
/// [`TranslateError`] naming the level at which the walk ended. The page itself is not checked for being RAM.
pub fn translate(ram: &GuestRam, cr3: u64, gva: u64) -> Result<Translation, TranslateError> {
    if !is_canonical(gva) {
        return Err(TranslateError::NonCanonical { gva });
    }
    let mut table = cr3 & ADDRESS;
    let mut writable = true;
    let mut user = true;
    let mut executable = true;
    for level in (1..=4u8).rev() {
        let shift = 12 + 9 * (u32::from(level) - 1);
        let slot = table + ((gva >> shift) & 0x1ff) * 8;
        let entry = ram
            .load_u64(slot)
            .map_err(|_| TranslateError::OutsideMemory { gva, gpa: slot })?;
        if entry & PRESENT == 0 {
            return Err(TranslateError::NotPresent { gva, level });
        }
        writable &= entry & WRITABLE != 0;
        user &= entry & USER != 0;
        executable &= entry & NO_EXECUTE == 0;
        let page_size = 1u64 << shift;
        // Bit 7 is the page attribute table's at the last level and has to be clear at the first.
        let large = level != 1 && entry & LARGE != 0;
        if large && level == 4 {
            return Err(TranslateError::Malformed { gva, level });
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

/// Reads guest-virtual memory, page by page.
///
/// # Errors
/// [`TranslateError`] for the first byte that cannot be read; `data` is then undefined.
pub fn read_virtual(ram: &GuestRam, cr3: u64, gva: u64, data: &mut [u8]) -> Result<(), TranslateError> {
    let mut done = 0;
    while done < data.len() {
        let (translation, length) = piece(ram, cr3, gva, done, data.len())?;
        ram.read(translation.address, &mut data[done..done + length])
            .map_err(|error| TranslateError::OutsideMemory {
                gva,
                gpa: error.address,
            })?;
        done += length;
    }
    Ok(())
}

/// Writes guest-virtual memory as a supervisor with write protection on would. Nothing is written unless every page
/// can be written.
///
/// # Errors
/// [`TranslateError`] for the first byte that cannot be written.
pub fn write_virtual(ram: &GuestRam, cr3: u64, gva: u64, data: &[u8]) -> Result<(), TranslateError> {
    write(ram, cr3, gva, data, false)
}

/// Writes guest-virtual memory as a debugger does: read-only pages too, and beneath traps. Nothing is written unless
/// every page is RAM.
///
/// # Errors
/// [`TranslateError`] for the first byte that cannot be written.
pub fn patch_virtual(ram: &GuestRam, cr3: u64, gva: u64, data: &[u8]) -> Result<(), TranslateError> {
    write(ram, cr3, gva, data, true)
}

fn write(ram: &GuestRam, cr3: u64, gva: u64, data: &[u8], read_only_too: bool) -> Result<(), TranslateError> {
    let mut pieces = Vec::new();
    let mut done = 0;
    while done < data.len() {
        let (translation, length) = piece(ram, cr3, gva, done, data.len())?;
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
    cr3: u64,
    gva: u64,
    done: usize,
    length: usize,
) -> Result<(Translation, usize), TranslateError> {
    let address = gva
        .checked_add(done as u64)
        .ok_or(TranslateError::NonCanonical { gva })?;
    let translation = translate(ram, cr3, address)?;
    let left = translation.page_size - (address & (translation.page_size - 1));
    let wanted = length - done;
    Ok((
        translation,
        usize::try_from(left).map_or(wanted, |left| left.min(wanted)),
    ))
}

#[cfg(test)]
mod tests;
