//! Finds the place in the image that a symbol's section and offset mean: by the section headers that a PDB holds and,
//! if the image was rearranged after linking, by the map from the old places to the new ones ("OMAP").

use std::io::{Read, Seek};

use super::NO_STREAM;
use super::PdbError;
use super::msf::{Msf, u32_at, words};

/// Where the list of further streams names these.
const OMAP_FROM_SOURCE: usize = 4;
const SECTION_HEADERS: usize = 5;
const ORIGINAL_SECTION_HEADERS: usize = 10;
/// `IMAGE_SECTION_HEADER`, and its `VirtualAddress`.
const SECTION_HEADER: usize = 40;
const ADDRESS: usize = 12;
/// An image has 96 sections at most.
const MAX_SECTIONS: u32 = 96 * SECTION_HEADER as u32;
/// The largest map, in bytes: 8 for each piece that was moved.
const MAX_OMAP: u32 = 32 << 20;

/// Where sections are.
#[derive(Debug)]
pub(super) struct Sections {
    /// Of each its address relative to the image's base, as linked.
    addresses: Vec<u32>,
    /// Pieces as (linked address, address in the image), sorted; an address of 0 says that the piece is gone.
    moved: Option<Vec<(u32, u32)>>,
}

impl Sections {
    pub(super) fn read(pdb: &mut Msf<impl Read + Seek>, streams: &[u16]) -> Result<Self, PdbError> {
        let stream = |at: usize| streams.get(at).copied().filter(|&number| number != NO_STREAM);
        let map = stream(OMAP_FROM_SOURCE).filter(|&map| pdb.size(map) != 0);
        let headers = match (map, stream(ORIGINAL_SECTION_HEADERS)) {
            (Some(_), Some(original)) => Some(original),
            _ => stream(SECTION_HEADERS),
        };
        let headers =
            headers.ok_or_else(|| PdbError::malformed("it does not have the section headers of its image"))?;
        let headers = pdb.whole(headers, MAX_SECTIONS, "section headers")?;
        let address = |header: &[u8]| u32_at(header, ADDRESS).unwrap_or(0);
        let addresses = headers.chunks_exact(SECTION_HEADER).map(address).collect();
        let moved = match map {
            None => None,
            Some(map) => {
                let bytes = pdb.whole(map, MAX_OMAP, "an address map")?;
                let mut pieces: Vec<_> = words(&bytes)
                    .zip(words(bytes.get(4..).unwrap_or_default()))
                    .step_by(2)
                    .collect();
                pieces.sort_by_key(|&(linked, _)| linked);
                Some(pieces)
            }
        };
        Ok(Self { addresses, moved })
    }

    /// The address relative to the image's base.
    pub(super) fn place(&self, section: u16, offset: u32) -> Option<u32> {
        let section = usize::from(section).checked_sub(1)?;
        let linked = self.addresses.get(section)?.checked_add(offset)?;
        let Some(pieces) = &self.moved else {
            return Some(linked);
        };
        let behind = pieces.partition_point(|&(start, _)| start <= linked);
        let &(start, now) = pieces.get(behind.checked_sub(1)?)?;
        (now != 0).then(|| now.checked_add(linked - start)).flatten()
    }
}
