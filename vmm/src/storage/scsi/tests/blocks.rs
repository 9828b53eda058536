//! Reading, writing, comparing and flushing blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::harness::*;
use crate::storage::backend::{Backend, BackendError, MemoryBackend};
use crate::storage::scsi::Data;

/// All forms in which a command names blocks: of 6, 10, 12 and 16 bytes.
fn forms(opcodes: [u8; 4], block: u8, count: u8) -> [Vec<u8>; 4] {
    [
        vec![opcodes[0], 0, 0, block, count, 0],
        cdb10(opcodes[1], 0, block.into(), count.into()).to_vec(),
        vec![opcodes[2], 0, 0, 0, 0, block, 0, 0, 0, count, 0, 0],
        cdb16(opcodes[3], 0, block.into(), count.into()),
    ]
}

#[test]
fn every_form_of_read_reads_what_every_form_of_write_wrote() {
    let mut bench = Bench::new();
    for (place, write) in (1..).zip(forms([0x0a, 0x2a, 0xaa, 0x8a], 9, 3)) {
        let data: Vec<u8> = (0..3 * BLOCK).map(|at| (at as u8).wrapping_mul(place)).collect();
        bench.write_ok(&write, &data);
        for read in forms([0x08, 0x28, 0xa8, 0x88], 9, 3) {
            assert!(bench.data(&read) == data);
        }
        for (before, after) in [(8, 1), (12, 1)] {
            assert_eq!(bench.data(&cdb10(0x28, 0, before, after)), [0; BLOCK]);
        }
    }
}

#[test]
fn six_byte_commands_without_a_number_are_about_256_blocks() {
    let mut bench = Bench::new();
    let (done, data) = bench.read(&[0x08, 0, 0, 0, 0, 0], 300 * BLOCK);
    assert_eq!((done.status, done.transferred, done.wanted), (0, 256 * 512, 256 * 512));
    assert!(data[256 * BLOCK..].iter().all(|byte| *byte == UNTOUCHED));
    // In the others no number means no blocks.
    assert!(bench.data(&cdb10(0x28, 0, 5, 0)).is_empty());
    bench.write_ok(&cdb16(0x8a, 0, 5, 0), &[]);
}

#[test]
fn memory_that_is_too_small_is_filled_and_the_rest_is_told() {
    let mut bench = Bench::new();
    bench.write_ok(&cdb10(0x2a, 0, 0, 2), &[7; 2 * BLOCK]);
    let (done, data) = bench.read(&cdb10(0x28, 0, 0, 2), 700);
    assert_eq!((done.status, done.transferred, done.wanted), (0, 700, 1024));
    assert_eq!(data, [7; 700]);
    let done = bench.request(ME, 0, &cdb10(0x28, 0, 0, 2), Data::None);
    assert_eq!((done.status, done.transferred, done.wanted), (0, 0, 1024));
}

#[test]
fn a_write_with_too_few_data_writes_nothing() {
    let mut bench = Bench::new();
    let done = bench.write(&cdb10(0x2a, 0, 0, 2), &[7; 1023]);
    fails(&done, 0xb, 0x4b00);
    assert_eq!((done.transferred, done.wanted), (0, 1024));
    assert_eq!(bench.data(&cdb10(0x28, 0, 0, 2)), [0; 1024]);
    // More than enough is no fault of the target's.
    let done = bench.write(&cdb10(0x2a, 0, 0, 1), &[7; 600]);
    assert_eq!((done.status, done.transferred, done.wanted), (0, 512, 512));
}

#[test]
fn blocks_that_are_not_there_are_told() {
    let mut bench = Bench::new();
    let blocks = (DISK / BLOCK) as u32;
    for (block, count, there) in [
        (blocks - 1, 1, true),
        (blocks, 0, true),
        (blocks, 1, false),
        (blocks - 1, 2, false),
        (u32::MAX, 1, false),
    ] {
        for opcode in [0x28, 0x2a, 0x2f, 0x35] {
            let cdb = cdb10(opcode, 0, block, count);
            let done = match opcode {
                0x2a => bench.write(&cdb, &[0; 2 * BLOCK]),
                _ => bench.read(&cdb, 2 * BLOCK).0,
            };
            if there {
                assert_eq!(done.status, 0, "{cdb:x?}");
            } else {
                fails(&done, 5, 0x2100);
                assert_eq!(reason(&done).unwrap().information, Some(block.into()));
            }
        }
    }
    for block in [u64::MAX, u64::MAX - 1, 1 << 55] {
        fails(&bench.read(&cdb16(0x88, 0, block, 2), 1024).0, 5, 0x2100);
    }
}

#[test]
fn a_command_of_too_many_blocks_is_refused_before_it_is_looked_up() {
    let mut bench = Bench::new();
    let done = bench.read(&cdb16(0x88, 0, 0, 0x10000), 16).0;
    fails(&done, 5, 0x2400);
    assert_eq!(reason(&done).unwrap().field, Some((true, 10, None)));
}

#[test]
fn verify_compares_all_blocks_or_one_block_with_each() {
    let mut bench = Bench::new();
    bench.write_ok(&cdb10(0x2a, 0, 4, 3), &[[1; BLOCK], [2; BLOCK], [2; BLOCK]].concat());
    for (count, cdb) in [(3, cdb10(0x2f, 0x02, 4, 3).to_vec()), (3, cdb16(0x8f, 0x02, 4, 3))] {
        let mut data = [[1; BLOCK], [2; BLOCK], [2; BLOCK]].concat();
        let done = bench.write(&cdb, &data);
        assert_eq!((done.status, done.transferred), (0, 512 * count));
        data[1030] = 9;
        let done = bench.write(&cdb, &data);
        fails(&done, 0xe, 0x1d00);
        assert_eq!(reason(&done).unwrap().information, Some(6));
    }
    // One block for all.
    let done = bench.write(&cdb10(0x2f, 0x06, 5, 2), &[2; BLOCK]);
    assert_eq!((done.status, done.transferred, done.wanted), (0, 512, 512));
    let done = bench.write(&cdb10(0x2f, 0x06, 4, 3), &[2; BLOCK]);
    assert_eq!(reason(&done).unwrap().information, Some(4));
    // A compare mode that there is not, and none at all.
    let done = bench.write(&cdb10(0x2f, 0x04, 4, 1), &[2; BLOCK]);
    assert_eq!(reason(&done).unwrap().field, Some((true, 1, Some(2))));
    let done = bench.request(ME, 0, &cdb10(0x2f, 0, 4, 3), Data::None);
    assert_eq!((done.status, done.wanted), (0, 0));
    fails(&bench.write(&cdb10(0x2f, 0x02, 4, 3), &[1; BLOCK]), 0xb, 0x4b00);
}

#[test]
fn what_the_host_cannot_do_is_told_by_kind() {
    let failing = |error, read_only| Bench::with_backend(Box::new(Broken { read_only, error }));
    let io = || BackendError::Io(std::io::Error::other("gone"));
    let mut bench = failing(io, false);
    let done = bench.read(&cdb10(0x28, 0, 3, 1), BLOCK).0;
    fails(&done, 3, 0x1100);
    assert_eq!((reason(&done).unwrap().information, done.transferred), (Some(3), 0));
    fails(&bench.read(&cdb10(0x2f, 0, 3, 1), 0).0, 3, 0x1100);
    fails(&bench.write(&cdb10(0x2a, 0, 3, 1), &[0; BLOCK]), 3, 0x0c00);
    fails(&bench.write(&cdb10(0x35, 0, 0, 0), &[]), 3, 0x0c00);
    fails(&bench.write(&cdb10(0x41, 0, 0, 1), &[0; BLOCK]), 3, 0x0c00);
    fails(&bench.write(&[0x1b, 0, 0, 0, 0, 0], &[]), 3, 0x0c00);
    let counters = bench.target.unit().state().counters;
    assert_eq!((counters.read_errors, counters.write_errors), (2, 4));
    let mut bench = failing(|| BackendError::NoSpace, false);
    fails(&bench.write(&cdb10(0x2a, 0, 3, 1), &[0; BLOCK]), 7, 0x2707);
    let mut bench = failing(|| BackendError::ReadOnly, true);
    for cdb in [cdb10(0x2a, 0, 3, 1), cdb10(0x41, 0, 0, 1)] {
        fails(&bench.write(&cdb, &[0; BLOCK]), 7, 0x2700);
    }
    fails(&bench.write(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &[0; 24]), 7, 0x2700);
    assert_eq!(bench.data(&[0x1a, 0x08, 0x3f, 0, 255, 0])[2] & 0x80, 0x80, "WP");
}

/// Counts its flushes.
struct Counting(MemoryBackend, Arc<AtomicU32>);

impl Backend for Counting {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn is_read_only(&self) -> bool {
        false
    }
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError> {
        self.0.read(offset, buffer)
    }
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), BackendError> {
        self.0.write(offset, data)
    }
    fn flush(&mut self) -> Result<(), BackendError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn write_zeroes(&mut self, offset: u64, length: u64, deallocate: bool) -> Result<(), BackendError> {
        self.0.write_zeroes(offset, length, deallocate)
    }
}

#[test]
fn the_cache_is_flushed_when_asked_for_and_after_each_write_when_it_is_off() {
    let flushes = Arc::<AtomicU32>::default();
    let disk = Counting(MemoryBackend::new(DISK), Arc::clone(&flushes));
    let mut bench = Bench::with_backend(Box::new(disk));
    let took = |bench: &mut Bench, cdb: &[u8]| {
        let before = flushes.load(Ordering::Relaxed);
        if matches!(cdb[0], 0x28 | 0x88) {
            bench.data(cdb);
        } else {
            bench.write_ok(cdb, &[1; BLOCK]);
        }
        flushes.load(Ordering::Relaxed) - before
    };
    assert_eq!(took(&mut bench, &cdb10(0x2a, 0, 0, 1)), 0);
    assert_eq!(took(&mut bench, &cdb10(0x2a, 0x08, 0, 1)), 1, "FUA");
    assert_eq!(took(&mut bench, &cdb10(0x28, 0x08, 0, 1)), 1, "FUA of a read");
    assert_eq!(took(&mut bench, &cdb10(0x28, 0x10, 0, 1)), 0, "DPO");
    assert_eq!(took(&mut bench, &[0x0a, 0, 0x04, 0, 1, 0]), 0, "part of an address");
    assert_eq!(took(&mut bench, &cdb10(0x35, 0, 0, 0)), 1);
    assert_eq!(took(&mut bench, &cdb16(0x91, 2, 0, 5)), 1);
    // The Caching page with WCE off.
    let mut page = vec![0, 0, 0, 0, 8, 0x12];
    page.resize(24, 0);
    bench.write_ok(&[0x15, 0x10, 0, 0, 24, 0], &page);
    for cdb in [cdb10(0x2a, 0, 0, 1).to_vec(), cdb16(0x93, 0, 0, 4)] {
        assert_eq!(took(&mut bench, &cdb), 1);
    }
}
