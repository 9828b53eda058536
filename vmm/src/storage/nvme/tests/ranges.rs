//! Tests of commands that are done a piece at a time: bounded calls of the backend, resets in between, what an aborted
//! one leaves.

use std::sync::{Arc, Mutex};

use zerocopy::IntoBytes;

use super::harness::*;
use crate::storage::backend::{Backend, BackendError, MemoryBackend};
use crate::storage::nvme::ranges::PIECE;
use crate::storage::nvme::spec::command::DatasetRange;
use crate::storage::nvme::spec::command::{SubmissionEntry, nvm};
use crate::storage::nvme::spec::status::Status;

/// What a backend was asked to zero: offset, length, whether the room may be given back.
type Calls = Arc<Mutex<Vec<(u64, u64, bool)>>>;

/// A disk that remembers what it was asked to zero, and what fails from the n-th call on.
struct Remembering {
    disk: MemoryBackend,
    calls: Calls,
    room_for: usize,
}

impl Backend for Remembering {
    fn len(&self) -> u64 {
        self.disk.len()
    }
    fn is_read_only(&self) -> bool {
        false
    }
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError> {
        self.disk.read(offset, buffer)
    }
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), BackendError> {
        self.disk.write(offset, data)
    }
    fn flush(&mut self) -> Result<(), BackendError> {
        Ok(())
    }
    fn write_zeroes(&mut self, offset: u64, length: u64, deallocate: bool) -> Result<(), BackendError> {
        let mut calls = self.calls.lock().unwrap();
        calls.push((offset, length, deallocate));
        if calls.len() > self.room_for {
            return Err(BackendError::NoSpace);
        }
        self.disk.write_zeroes(offset, length, deallocate)
    }
}

const BLOCKS_OF_PIECE: u64 = PIECE / 512;

/// A driver with queue pair 1 and a disk of so many pieces.
fn driver(pieces: u64, room_for: usize) -> (Driver, Calls) {
    let calls = Calls::default();
    let disk = Remembering {
        disk: MemoryBackend::new((pieces * PIECE) as usize),
        calls: Arc::clone(&calls),
        room_for,
    };
    (Driver::with_backend(Box::new(disk)), calls)
}

/// Dataset Management with Deallocate; ranges of first block and number.
fn deallocate(driver: &Driver, ranges: &[(u64, u64)]) -> SubmissionEntry {
    let ranges: Vec<_> = ranges
        .iter()
        .map(|&(lba, count)| DatasetRange {
            attributes: 0.into(),
            length: (count as u32).into(),
            starting_lba: lba.into(),
        })
        .collect();
    driver.put(DATA, ranges.as_slice().as_bytes());
    SubmissionEntry {
        dword10: (ranges.len() as u32 - 1).into(),
        dword11: 4.into(),
        ..blocks(nvm::DATASET_MANAGEMENT, 0, 1)
    }
}

#[test]
fn a_whole_disk_is_deallocated_one_bounded_piece_a_call() {
    let (mut driver, calls) = driver(5, usize::MAX);
    let half = BLOCKS_OF_PIECE / 2;
    let command = deallocate(
        &driver,
        &[(0, BLOCKS_OF_PIECE + half), (2 * BLOCKS_OF_PIECE, 3 * BLOCKS_OF_PIECE)],
    );
    driver.submit(1, command);
    driver.ring_tail(1);
    let mut seen = 0;
    while driver.reap(1).is_none() {
        assert_eq!(driver.controller.process(), Progress::Pending);
        let calls = calls.lock().unwrap().len();
        assert!(calls <= seen + 1, "more than one piece in a call");
        seen = calls;
    }
    let expected = [
        (0, PIECE, true),
        (PIECE, PIECE / 2, true),
        (2 * PIECE, PIECE, true),
        (3 * PIECE, PIECE, true),
        (4 * PIECE, PIECE, true),
    ];
    assert_eq!(*calls.lock().unwrap(), expected);
    assert_eq!(driver.interrupts.take(), [1]);
}

#[test]
fn nothing_else_is_fetched_while_a_command_is_in_hand() {
    let (mut driver, _) = driver(3, usize::MAX);
    driver.put(DATA + 0x1000, &[9; 512]);
    let first = deallocate(&driver, &[(0, 3 * BLOCKS_OF_PIECE)]);
    let first = driver.submit(1, first);
    let last = SubmissionEntry {
        prp1: (DATA + 0x1000).into(),
        ..blocks(nvm::WRITE, 3 * BLOCKS_OF_PIECE - 1, 1)
    };
    let last = driver.submit(1, last);
    driver.ring_tail(1);
    driver.settle();
    let order = [driver.reap(1).unwrap().command_id, driver.reap(1).unwrap().command_id];
    assert_eq!(order, [first, last]);
    driver.ring_head(1);
    driver.io_ok(blocks(nvm::READ, 3 * BLOCKS_OF_PIECE - 1, 1));
    assert_eq!(driver.bytes(DATA, 512), [9; 512], "written after the deallocation");
}

#[test]
fn a_reset_ends_a_command_in_hand_between_two_pieces() {
    let (mut driver, calls) = driver(4, usize::MAX);
    let command = deallocate(&driver, &[(0, 4 * BLOCKS_OF_PIECE)]);
    driver.submit(1, command);
    driver.ring_tail(1);
    while calls.lock().unwrap().len() < 2 {
        assert_eq!(driver.controller.process(), Progress::Pending);
    }
    driver.write(0x14, 0);
    driver.settle();
    assert_eq!(driver.reap(1), None, "a reset command has no completion");
    driver.enable();
    driver.create_queue_pair(1);
    driver.io_ok(blocks(nvm::FLUSH, 0, 1));
    assert_eq!(calls.lock().unwrap().len(), 2);
}

#[test]
fn a_failure_in_the_middle_is_the_commands_and_leaves_bad_blocks_bad() {
    let (mut driver, calls) = driver(2, 1);
    driver.io_ok(blocks(nvm::WRITE_UNCORRECTABLE, 3, 1));
    let command = deallocate(&driver, &[(0, 2 * BLOCKS_OF_PIECE)]);
    driver.io_fails(command, Status::CAPACITY_EXCEEDED);
    assert_eq!(calls.lock().unwrap().len(), 2);
    driver.io_fails(blocks(nvm::READ, 3, 1), Status::UNRECOVERED_READ_ERROR);
    assert!(!driver.controller.is_busy());
}

#[test]
fn write_zeroes_is_bounded_too_and_keeps_its_flags() {
    // NLB has 16 bits: with 4 KiB blocks one command is about 256 MiB.
    let (mut driver, calls) = driver(2, usize::MAX);
    let count = 65536.min(2 * BLOCKS_OF_PIECE) as u32;
    driver.io_ok(blocks(nvm::WRITE_ZEROES, 0, count));
    assert_eq!(*calls.lock().unwrap(), [(0, PIECE, false), (PIECE, PIECE, false)]);
    let mut command = blocks(nvm::WRITE_ZEROES, 1, 2);
    command.dword12 = (command.dword12.get() | 1 << 25).into();
    driver.io_ok(command);
    assert_eq!(calls.lock().unwrap()[2], (512, 1024, true));
}
