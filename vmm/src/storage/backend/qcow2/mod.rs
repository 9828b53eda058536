//! What this program adds to imago for qcow2 images: it checks the tables before they are written to, orders imago's
//! writes so that a killed run or a power cut loses nothing that was flushed, and marks the image while it is in use.
//!
//! It knows the format (QEMU's docs/interop/qcow2) and files. It must not know disks, guests or imago's types.
#![forbid(unsafe_code)]

mod check;
mod header;
mod order;
mod refcounts;

pub(super) use check::{Repaired, check};
pub(super) use header::{Header, HeaderError};
pub(super) use order::WriteOrder;

/// Where a file has the byte of its header whose lowest bit says that the reference counts may be old: the dirty bit of
/// the incompatible features.
const MARK_AT: u64 = 79;
const MARK: u8 = 1;

/// The bits of an entry of any table that are a place in the file.
const PLACE: u64 = 0x00ff_ffff_ffff_fe00;
/// The bit of an entry of an L1 or L2 table that says that nothing else refers to the same.
const COPIED: u64 = 1 << 63;
/// Bytes of an entry of any table but those of reference counts.
const ENTRY: u64 = 8;

/// Takes the mark out of a piece of the file that was read at `at`.
pub(super) fn hide_mark(piece: &mut [u8], at: u64) {
    if let Some(byte) = MARK_AT.checked_sub(at).and_then(|index| piece.get_mut(index as usize)) {
        *byte &= !MARK;
    }
}

/// The entry at the beginning of `bytes`, which has eight of them.
fn entry(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}
