//! Physical Region Pages: where in guest memory the data of a command is (NVMe 1.4, section 4.3).
//!
//! Turns PRP entries and lists into segments. It must know neither commands nor what is transferred. The guest may
//! change a list while it is read, so every entry is read once and then checked.

use super::spec::registers::PAGE_SIZE;
use super::spec::status::Status;
use crate::storage::dma::DmaMemory;
use crate::storage::segments::Segment;

const ENTRY_SIZE: u64 = 8;

/// Finds the segments of a transfer of `length` bytes and puts them in `segments`, in order. None crosses a page boundary.
///
/// Lists are followed only as far as `length` needs, so the caller bounds the work by bounding `length` (MDTS).
///
/// # Errors
/// * PRP Offset Invalid: PRP1 is not dword aligned, a list is not qword aligned, any other entry has an offset.
/// * Data Transfer Error: a list is not in guest memory. (The data pages are not looked at.)
pub(super) fn walk<M: DmaMemory + ?Sized>(
    memory: &M,
    prp1: u64,
    prp2: u64,
    length: usize,
    segments: &mut Vec<Segment>,
) -> Result<(), Status> {
    segments.clear();
    if length == 0 {
        return Ok(());
    }
    if prp1 % 4 != 0 {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    let first = length.min((PAGE_SIZE - prp1 % PAGE_SIZE) as usize);
    segments.push(Segment {
        address: prp1,
        length: first,
    });
    let rest = length - first;
    if rest == 0 {
        return Ok(());
    }
    if rest as u64 <= PAGE_SIZE {
        return push_page(prp2, rest, segments);
    }
    walk_list(memory, prp2, rest, segments)
}

fn push_page(entry: u64, length: usize, segments: &mut Vec<Segment>) -> Result<(), Status> {
    if entry % PAGE_SIZE != 0 {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    segments.push(Segment { address: entry, length });
    Ok(())
}

/// Follows a list of entries. The last entry of a list page points to the next list page if more than one page of
/// data is still to come; every further list page starts at offset 0 and so holds 511 data entries or more.
fn walk_list<M: DmaMemory + ?Sized>(
    memory: &M,
    list: u64,
    mut rest: usize,
    segments: &mut Vec<Segment>,
) -> Result<(), Status> {
    if list % ENTRY_SIZE != 0 {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    let mut entry_at = list;
    while rest > 0 {
        let entry = read_entry(memory, entry_at)?;
        let is_last_of_page = entry_at % PAGE_SIZE == PAGE_SIZE - ENTRY_SIZE;
        if is_last_of_page && rest as u64 > PAGE_SIZE {
            if entry % PAGE_SIZE != 0 {
                return Err(Status::PRP_OFFSET_INVALID);
            }
            entry_at = entry;
            continue;
        }
        let length = rest.min(PAGE_SIZE as usize);
        push_page(entry, length, segments)?;
        rest -= length;
        // A list entry is inside its page, so this stays in the page or ends the loop.
        entry_at = entry_at.wrapping_add(ENTRY_SIZE);
    }
    Ok(())
}

fn read_entry<M: DmaMemory + ?Sized>(memory: &M, address: u64) -> Result<u64, Status> {
    let mut entry = [0; 8];
    memory
        .read(address, &mut entry)
        .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
    Ok(u64::from_le_bytes(entry))
}
