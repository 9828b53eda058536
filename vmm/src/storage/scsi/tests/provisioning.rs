//! UNMAP and WRITE SAME.

use super::harness::*;

/// The list of an UNMAP.
fn unmap(ranges: &[(u64, u32)]) -> Vec<u8> {
    let length = 16 * ranges.len() as u16;
    let mut list = [(length + 6).to_be_bytes(), length.to_be_bytes()].concat();
    list.extend([0; 4]);
    for (first, count) in ranges {
        list.extend(first.to_be_bytes());
        list.extend(count.to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

fn run(bench: &mut Bench, list: &[u8]) -> crate::storage::scsi::Completion {
    bench.write(&cdb10(0x42, 0, 0, list.len() as u16), list)
}

fn full() -> Bench {
    let mut bench = Bench::new();
    for block in (0..2048).step_by(128) {
        bench.write_ok(&cdb10(0x2a, 0, block, 128), &vec![7; 128 * BLOCK]);
    }
    bench
}

/// Blocks that read as zeroes.
fn zero_blocks(bench: &mut Bench) -> Vec<usize> {
    let data = [0, 120].map(|block| bench.data(&cdb10(0x28, 0, block, 120))).concat();
    let blocks = data.chunks_exact(BLOCK).enumerate();
    blocks
        .filter(|(_, block)| block.iter().all(|byte| *byte == 0))
        .map(|(at, _)| at)
        .collect()
}

#[test]
fn unmapped_blocks_read_as_zeroes() {
    let mut bench = full();
    assert_eq!(run(&mut bench, &unmap(&[(5, 2), (100, 1), (9, 0)])).status, 0);
    assert_eq!(zero_blocks(&mut bench), [5, 6, 100]);
    assert_eq!(bench.write(&cdb10(0x42, 0, 0, 0), &[]).status, 0, "an empty list");
}

#[test]
fn a_list_that_is_wrong_unmaps_nothing() {
    let mut bench = full();
    fails(&run(&mut bench, &unmap(&[(5, 2), (2048, 1)])), 5, 0x2100);
    fails(&run(&mut bench, &unmap(&[(5, 2), (u64::MAX, 2)])), 5, 0x2100);
    fails(&run(&mut bench, &[0; 7]), 5, 0x1a00);
    let done = run(&mut bench, &unmap(&[(0, 1); 257]));
    assert_eq!(reason(&done).unwrap().field, Some((false, 2, None)));
    let done = run(&mut bench, &unmap(&[(0, 2048), (0, u32::MAX)]));
    assert_eq!(reason(&done).unwrap().field, Some((false, 32, None)));
    assert!(zero_blocks(&mut bench).is_empty());
}

#[test]
fn a_descriptor_that_is_not_there_as_a_whole_is_ignored() {
    let mut bench = full();
    let mut list = unmap(&[(5, 1), (7, 1)]);
    // The list ends within the second one, whatever its length says; then the length does.
    assert_eq!(run(&mut bench, &list[..30]).status, 0);
    list[3] = 20;
    assert_eq!(run(&mut bench, &list).status, 0);
    assert_eq!(zero_blocks(&mut bench), [5]);
    (list[2], list[3]) = (0xff, 0xff);
    assert_eq!(run(&mut bench, &list).status, 0);
    assert_eq!(zero_blocks(&mut bench), [5, 7]);
}

#[test]
fn one_block_is_written_to_all() {
    let mut bench = Bench::new();
    let block: Vec<u8> = (0..BLOCK).map(|at| at as u8).collect();
    bench.write_ok(&cdb10(0x41, 0, 3, 5), &block);
    assert!(bench.data(&cdb10(0x28, 0, 3, 5)) == block.repeat(5));
    assert_eq!(bench.data(&cdb10(0x28, 0, 2, 1)), [0; BLOCK]);
    assert_eq!(bench.data(&cdb10(0x28, 0, 8, 1)), [0; BLOCK]);
    let done = bench.write(&cdb16(0x93, 0, 0, 2000), &block);
    assert_eq!((done.status, done.transferred, done.wanted), (0, 512, 512));
    assert!(bench.data(&cdb10(0x28, 0, 1999, 2)) == [&block[..], &[0; BLOCK]].concat());
}

#[test]
fn zeroes_are_unmapped_or_written_and_other_blocks_are_kept_whatever_unmap_says() {
    let mut bench = full();
    bench.write_ok(&cdb10(0x41, 0x08, 1, 2), &[0; BLOCK]);
    bench.write_ok(&cdb10(0x41, 0, 5, 2), &[0; BLOCK]);
    bench.write_ok(&cdb10(0x41, 0x08, 10, 2), &[3; BLOCK]);
    // NDOB: no data are asked for.
    let done = bench.write(&cdb16(0x93, 0x01, 20, 1), &[]);
    assert_eq!((done.status, done.wanted), (0, 0));
    assert_eq!(zero_blocks(&mut bench), [1, 2, 5, 6, 20]);
    assert_eq!(bench.data(&cdb10(0x28, 0, 10, 2)), [3; 1024]);
}

#[test]
fn write_same_of_nothing_or_of_too_much_is_refused() {
    let mut bench = Bench::new();
    for (cdb, byte) in [
        (cdb10(0x41, 0, 0, 0).to_vec(), 7),
        (cdb16(0x93, 0, 0, 0), 10),
        (cdb16(0x93, 0, 0, 0x10000), 10),
    ] {
        let done = bench.write(&cdb, &[0; BLOCK]);
        assert_eq!(reason(&done).unwrap().field, Some((true, byte, None)));
    }
    fails(&bench.write(&cdb10(0x41, 0, 2047, 2), &[0; BLOCK]), 5, 0x2100);
    fails(&bench.write(&cdb10(0x41, 0, 0, 1), &[0; 511]), 0xb, 0x4b00);
}
