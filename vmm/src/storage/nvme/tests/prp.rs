//! Tests of the PRP walker with lists that are built from the pages where the data are to be.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::storage::nvme::identify::MAX_TRANSFER;
use crate::storage::nvme::prp::walk;
use crate::storage::nvme::spec::status::Status;
use crate::storage::segments::Segment;

const PAGE: usize = 4096;
/// Lists live here, data pages are numbers only.
const LISTS: u64 = 0x10_0000;
const MEMORY: usize = 0x20_0000;

/// A transfer as a driver describes it.
#[derive(Debug)]
struct Transfer {
    length: usize,
    prp1: u64,
    prp2: u64,
    segments: Vec<Segment>,
    /// Where entries were written, and whether each is a pointer to a list.
    entries: Vec<u64>,
}

/// Lays out `length` bytes that start `offset` bytes into the first of `pages`, with the first list `list_offset` bytes
/// into its page.
fn build(memory: &GuestMemoryMmap, length: usize, offset: usize, list_offset: usize, pages: &[u64]) -> Transfer {
    let mut segments = Vec::new();
    let mut left = length;
    for (index, page) in pages.iter().enumerate() {
        let start = if index == 0 { offset } else { 0 };
        let piece = left.min(PAGE - start);
        if piece > 0 {
            segments.push(Segment {
                address: page * PAGE as u64 + start as u64,
                length: piece,
            });
        }
        left -= piece;
    }
    assert_eq!(left, 0);
    let prp1 = segments.first().map_or(0, |segment| segment.address);
    let rest: Vec<u64> = segments.iter().skip(1).map(|segment| segment.address).collect();
    let mut entries = Vec::new();
    let prp2 = match rest.len() {
        0 => 0xdead_beef,
        1 => rest[0],
        _ => {
            let first = LISTS + list_offset as u64;
            let (mut at, mut next_list) = (first, LISTS + PAGE as u64);
            for (index, entry) in rest.iter().enumerate() {
                let last_slot = at % PAGE as u64 == PAGE as u64 - 8;
                if last_slot && index + 1 < rest.len() {
                    memory.write_slice(&next_list.to_le_bytes(), GuestAddress(at)).unwrap();
                    entries.push(at);
                    at = next_list;
                    next_list += PAGE as u64;
                }
                memory.write_slice(&entry.to_le_bytes(), GuestAddress(at)).unwrap();
                entries.push(at);
                at += 8;
            }
            first
        }
    };
    Transfer {
        length,
        prp1,
        prp2,
        segments,
        entries,
    }
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn finds_the_pages_that_the_driver_meant(
        length in 1..=MAX_TRANSFER,
        offset in 0..PAGE / 4,
        list_offset in prop_oneof![0..PAGE / 8, PAGE / 8 - 8..PAGE / 8],
        pages in prop::collection::vec(0..1u64 << 52, 66),
    ) {
        let memory = memory();
        let transfer = build(&memory, length, offset * 4, list_offset * 8, &pages);
        let mut segments = Vec::new();
        prop_assert_eq!(walk(&memory, transfer.prp1, transfer.prp2, transfer.length, &mut segments), Ok(()));
        prop_assert_eq!(segments, transfer.segments);
    }

    #[test]
    fn an_offset_where_none_may_be_is_found(
        length in PAGE * 3..=MAX_TRANSFER,
        list_offset in prop_oneof![0..PAGE / 8, PAGE / 8 - 8..PAGE / 8],
        pages in prop::collection::vec(0..1u64 << 40, 66),
        victim in any::<prop::sample::Index>(),
        low_bits in 1..PAGE as u64,
    ) {
        let memory = memory();
        let transfer = build(&memory, length, 0, list_offset * 8, &pages);
        let at = GuestAddress(*victim.get(&transfer.entries));
        let entry: u64 = memory.read_obj(at).unwrap();
        memory.write_obj(entry | low_bits, at).unwrap();
        let result = walk(&memory, transfer.prp1, transfer.prp2, length, &mut Vec::new());
        prop_assert_eq!(result, Err(Status::PRP_OFFSET_INVALID));
    }

    #[test]
    fn arbitrary_entries_give_the_whole_length_or_an_error(
        prp1: u64,
        prp2 in prop_oneof![any::<u64>(), 0..MEMORY as u64, (0..MEMORY as u64 / 8).prop_map(|qword| qword * 8)],
        length in 0..=MAX_TRANSFER,
        garbage in prop::collection::vec((0..MEMORY as u64 / 8, (0..MEMORY as u64 / 4096).prop_map(|page| page * 4096)), 0..200),
    ) {
        let memory = memory();
        for (qword, entry) in garbage {
            memory.write_obj(entry, GuestAddress(qword * 8)).unwrap();
        }
        let mut segments = Vec::new();
        if walk(&memory, prp1, prp2, length, &mut segments).is_ok() {
            prop_assert_eq!(segments.iter().map(|segment| segment.length).sum::<usize>(), length);
        }
        prop_assert!(segments.len() <= length / PAGE + 2);
    }
}
