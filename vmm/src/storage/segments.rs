//! Where the data of a command are in guest memory: segments, and the pieces of host memory behind them.
//!
//! Controllers make [`Segment`]s from what a guest wrote; [`DmaMemory::slices`](super::dma::DmaMemory::slices) turns
//! them into pieces, which backends read and write. The guest may change a piece while it is copied, so no Rust
//! reference to one exists at any time.

use vm_memory::VolatileSlice;

/// A piece of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical address.
    pub address: u64,
    /// Bytes, 1 or more.
    pub length: usize,
}

/// Bytes of all pieces.
pub(crate) fn length(pieces: &[VolatileSlice<'_>]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

/// The pieces of a range that lies within them.
pub(crate) fn part<'a>(pieces: &[VolatileSlice<'a>], offset: u64, length: u64) -> Vec<VolatileSlice<'a>> {
    let (mut skip, mut left) = (offset, length);
    let mut part = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let start = skip.min(piece.len() as u64);
        let count = left.min(piece.len() as u64 - start);
        skip -= start;
        left -= count;
        if count > 0 {
            // Within the piece, so that it cannot fail.
            part.extend(piece.subslice(start as usize, count as usize));
        }
    }
    part
}

/// What is in the pieces now.
pub(crate) fn gathered(pieces: &[VolatileSlice<'_>]) -> Vec<u8> {
    let mut data = vec![0; length(pieces) as usize];
    gather(pieces, &mut data);
    data
}

/// Copies the pieces to `data`, which has their length.
pub(crate) fn gather(pieces: &[VolatileSlice<'_>], data: &mut [u8]) {
    let mut rest = data;
    for piece in pieces {
        let (head, tail) = rest.split_at_mut(piece.len().min(rest.len()));
        piece.copy_to(head);
        rest = tail;
    }
}

/// Copies `data`, which has the length of the pieces, to them.
pub(crate) fn scatter(data: &[u8], pieces: &[VolatileSlice<'_>]) {
    let mut rest = data;
    for piece in pieces {
        let (head, tail) = rest.split_at(piece.len().min(rest.len()));
        piece.copy_from(head);
        rest = tail;
    }
}
