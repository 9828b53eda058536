//! Tests of the debugger data block: plain, encoded, and whatever a guest may have in its stead.

use proptest::prelude::*;

use crate::vmi::fake::Space;
use crate::windows::debugger_data::DebuggerDataPlaces;
use crate::windows::testing::{CODE, DATA, PeBuilder};
use crate::windows::{DebuggerData, DebuggerDataError, Image};

const KERNEL: u64 = 0xffff_f805_1000_0000;
const SIZE: u32 = 0x390;
/// Where the block and the numbers that it is encoded by are in the data section.
const BLOCK: usize = 0x1ff8;
const NEVER: usize = 0x40;
const ALWAYS: usize = 0x48;
const ENCODED: usize = 0x50;

/// A block with the fields that are read.
fn block(kernel: u64, size: u32) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..SIZE as usize).map(|at| at as u8).collect();
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0x10, b"KDBG");
    put(0x14, &size.to_le_bytes());
    put(0x18, &kernel.to_le_bytes());
    put(0x48, &0xffff_f805_1111_1111u64.to_le_bytes());
    put(0x50, &0xffff_f805_2222_2222u64.to_le_bytes());
    put(0xc0, &0xffff_f805_3333_3333u64.to_le_bytes());
    put(0x218, &0xffff_f805_4444_4444u64.to_le_bytes());
    put(0x338, &0x8cc0u16.to_le_bytes());
    bytes
}

/// The inverse of what is to be undone.
fn encode(bytes: &[u8], never: u64, always: u64, address: u64) -> Vec<u8> {
    let words = bytes.chunks_exact(8).map(|word| {
        let plain = u64::from_le_bytes(word.try_into().unwrap());
        let turned = (plain ^ always).swap_bytes() ^ address;
        turned.rotate_right((never & 63) as u32) ^ never
    });
    words.flat_map(u64::to_le_bytes).collect()
}

/// A kernel with code and these data; where the data are relative to its base.
fn kernel(data: Vec<u8>) -> (Space, Image, u32) {
    let mut builder = PeBuilder::new(KERNEL);
    // A tag in code is none.
    builder.section(".text", CODE, block(KERNEL, SIZE));
    let rva = builder.section(".data", DATA, data);
    let mut space = Space::default();
    builder.map(&mut space);
    let image = Image::read(&space, KERNEL).unwrap();
    (space, image, rva)
}

fn data_with(blocks: &[(usize, &[u8])]) -> Vec<u8> {
    let mut data = vec![0; 0x3000];
    for (at, bytes) in blocks {
        data[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    data
}

fn assert_is_the_block(found: &DebuggerData) {
    assert_eq!(found.bytes(), block(KERNEL, SIZE));
    assert_eq!(found.ps_loaded_module_list(), 0xffff_f805_1111_1111);
    assert_eq!(found.ps_active_process_head(), 0xffff_f805_2222_2222);
    assert_eq!(found.mm_pfn_database(), 0xffff_f805_3333_3333);
    assert_eq!(found.ki_processor_block(), 0xffff_f805_4444_4444);
    assert_eq!(found.offset_prcb_context(), Some(0x8cc0));
}

#[test]
fn a_plain_block_is_found_across_pages_and_behind_what_only_looks_like_one() {
    let decoys = [
        block(KERNEL + 0x1000, SIZE),
        block(KERNEL, 0x20),
        block(KERNEL, 0xffff_fff8),
    ];
    let real = block(KERNEL, SIZE);
    let data = data_with(&[
        (0x80, &decoys[0]),
        (0x800, &decoys[1]),
        (0x1000, &decoys[2]),
        (BLOCK, &real),
    ]);
    let (space, image, rva) = kernel(data);
    let found = DebuggerData::find(&space, &image).unwrap();
    assert_eq!(found.address, KERNEL + u64::from(rva) + BLOCK as u64);
    assert!(!found.encoded);
    assert_is_the_block(&found);
}

#[test]
fn a_block_of_each_kernel_since_server_2003_is_one_and_tells_what_it_has() {
    for (size, tells) in [
        (0x318, false),
        (0x328, false),
        (0x330, false),
        (0x340, true),
        (0x360, true),
        (0x388, true),
    ] {
        let (space, image, _) = kernel(data_with(&[(BLOCK, &block(KERNEL, size))]));
        let found = DebuggerData::find(&space, &image).unwrap();
        assert_eq!(found.ps_loaded_module_list(), 0xffff_f805_1111_1111);
        assert_eq!(found.offset_prcb_context().is_some(), tells, "{size:#x}");
    }
}

#[test]
fn an_encoded_block_is_found_by_the_pdb_alone_and_decoded() {
    let (never, always) = (0x8123_4567_89ab_cdef_u64, 0xfedc_ba98_7654_3210_u64);
    let places = |rva: u32| DebuggerDataPlaces {
        block: rva + BLOCK as u32,
        encoding: Some([NEVER, ALWAYS, ENCODED].map(|at| rva + at as u32)),
    };
    let (_, _, rva) = kernel(data_with(&[]));
    let encoded = encode(
        &block(KERNEL, SIZE),
        never,
        always,
        KERNEL + u64::from(rva) + ENCODED as u64,
    );
    let numbers = [never.to_le_bytes(), always.to_le_bytes()].concat();
    let (space, image, rva) = kernel(data_with(&[(NEVER, &numbers), (BLOCK, &encoded)]));
    assert_eq!(DebuggerData::find(&space, &image), Err(DebuggerDataError::NotFound));
    let found = DebuggerData::read(&space, &image, &places(rva)).unwrap();
    assert!(found.encoded);
    assert_is_the_block(&found);
    // The PDB of another build.
    let mut other = places(rva);
    other.block += 8;
    assert!(matches!(
        DebuggerData::read(&space, &image, &other),
        Err(DebuggerDataError::NotThere(_))
    ));
    other = places(rva);
    other.encoding = None;
    assert!(DebuggerData::read(&space, &image, &other).is_err());
}

#[test]
fn a_plain_block_is_taken_as_it_is_where_the_pdb_says() {
    let real = block(KERNEL, SIZE);
    let (space, image, rva) = kernel(data_with(&[(BLOCK, &real)]));
    let places = DebuggerDataPlaces {
        block: rva + BLOCK as u32,
        encoding: Some([0xffff_0000; 3]),
    };
    let found = DebuggerData::read(&space, &image, &places).unwrap();
    assert!(!found.encoded);
    assert_is_the_block(&found);
}

#[test]
fn a_guest_that_is_full_of_tags_and_sections_costs_no_more_than_its_size() {
    let (mut space, mut image, rva) = kernel(b"KDBG\0\0\0\0".repeat(0x600));
    let data = image
        .sections
        .iter()
        .find(|section| section.rva == rva)
        .unwrap()
        .clone();
    image.sections = vec![data; 96];
    space.reads = 0.into();
    assert_eq!(DebuggerData::find(&space, &image), Err(DebuggerDataError::NotFound));
    assert!(space.reads.get() < 400, "{}", space.reads.get());
    space.unmap(KERNEL + u64::from(rva));
    assert_eq!(DebuggerData::find(&space, &image), Err(DebuggerDataError::NotFound));
}

proptest! {
    /// Whatever is there: no panic, no read beyond a page or two, and a block is the kernel's own or none.
    #[test]
    fn any_data_are_a_block_of_bounded_size_or_none(
        bytes in prop::collection::vec(any::<u8>(), 0x400),
        at in 0usize..0x2c00,
        size in any::<u32>(),
        base in prop_oneof![Just(KERNEL), any::<u64>()],
        places in any::<(u32, [u32; 3])>(),
        unmapped in 0u64..3,
    ) {
        let mut bytes = bytes;
        bytes[0x10..0x14].copy_from_slice(b"KDBG");
        bytes[0x14..0x18].copy_from_slice(&size.to_le_bytes());
        bytes[0x18..0x20].copy_from_slice(&base.to_le_bytes());
        let (mut space, image, rva) = kernel(data_with(&[(at, &bytes)]));
        space.unmap(KERNEL + u64::from(rva) + unmapped * 0x1000);
        for found in [
            DebuggerData::find(&space, &image),
            DebuggerData::read(&space, &image, &DebuggerDataPlaces { block: places.0, encoding: Some(places.1) }),
            DebuggerData::read(&space, &image, &DebuggerDataPlaces { block: rva + at as u32, encoding: None }),
        ].into_iter().flatten() {
            prop_assert!(base == KERNEL && at % 8 == 0 || found.address == KERNEL + u64::from(rva) + at as u64);
            prop_assert!((0x318..=0x1000).contains(&found.bytes().len()));
        }
    }
}
