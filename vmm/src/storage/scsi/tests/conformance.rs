//! Illegal values, command by command: what libiscsi's suite and SPC-4 and SBC-3 ask of a disk. Bits that a command does
//! not have are tested elsewhere.

use super::harness::*;

/// What comes with a command.
#[derive(Clone, Copy)]
enum With {
    /// Room for so many bytes.
    Room(usize),
    /// These bytes.
    Bytes(&'static [u8]),
    /// So many bytes of zeroes.
    Zeroes(usize),
}
use With::{Bytes, Room, Zeroes};

/// LOGICAL BLOCK ADDRESS OUT OF RANGE, INVALID FIELD IN CDB, INVALID FIELD IN PARAMETER LIST, PARAMETER LIST LENGTH ERROR,
/// SAVING PARAMETERS NOT SUPPORTED.
const OUT_OF_RANGE: u16 = 0x2100;
const IN_CDB: u16 = 0x2400;
const IN_LIST: u16 = 0x2600;
const LIST_LENGTH: u16 = 0x1a00;
const NO_SAVING: u16 = 0x3900;
/// Blocks of the disk.
const BLOCKS: u64 = (DISK / BLOCK) as u64;

fn cdb6(opcode: u8, block: u32, count: u8) -> Vec<u8> {
    let [_, a, b, c] = block.to_be_bytes();
    vec![opcode, a & 0x1f, b, c, count, 0]
}

fn cdb12(opcode: u8, block: u32, count: u32) -> Vec<u8> {
    [&[opcode, 0][..], &block.to_be_bytes(), &count.to_be_bytes(), &[0, 0]].concat()
}

/// Every command with a range of blocks, by its forms: a range that begins behind the end, ends there, or wraps.
fn ranges() -> Vec<(Vec<u8>, With)> {
    let end = BLOCKS as u32;
    let mut all = Vec::new();
    for (block, count) in [(end + 1, 1u32), (end, 1), (end - 1, 2), (0x1f_ffff, 2)] {
        let bytes = count as usize * BLOCK;
        all.push((cdb6(0x08, block, count as u8), Room(bytes)));
        all.push((cdb6(0x0a, block, count as u8), Zeroes(bytes)));
    }
    for (block, count) in [
        (end + 1, 0u32),
        (end + 1, 1),
        (end, 1),
        (end - 1, 2),
        (u32::MAX, 1),
        (u32::MAX, 2),
    ] {
        let bytes = count as usize * BLOCK;
        for (opcode, with) in [
            (0x28, Room(bytes)),
            (0x2a, Zeroes(bytes)),
            (0x2f, Room(0)),
            (0x35, Room(0)),
        ] {
            all.push((cdb10(opcode, 0, block, count as u16).to_vec(), with));
        }
        for (opcode, with) in [(0xa8, Room(bytes)), (0xaa, Zeroes(bytes)), (0xaf, Room(0))] {
            all.push((cdb12(opcode, block, count), with));
        }
        if count > 0 {
            all.push((cdb10(0x41, 0, block, count as u16).to_vec(), Zeroes(BLOCK)));
        }
    }
    for (block, count) in [
        (BLOCKS + 1, 0u32),
        (BLOCKS, 1),
        (BLOCKS - 1, 2),
        (1 << 40, 1),
        (u64::MAX, 1),
        (u64::MAX - 1, 2),
        (u64::MAX, 3),
    ] {
        let bytes = count as usize * BLOCK;
        for (opcode, with) in [
            (0x88, Room(bytes)),
            (0x8a, Zeroes(bytes)),
            (0x8f, Room(0)),
            (0x91, Room(0)),
        ] {
            all.push((cdb16(opcode, 0, block, count), with));
        }
        if count > 0 {
            all.push((cdb16(0x93, 0, block, count), Zeroes(BLOCK)));
            all.push((cdb16(0x93, 0x08, block, count), Zeroes(BLOCK)));
        }
    }
    all
}

fn run(bench: &mut Bench, cdb: &[u8], with: With) -> crate::storage::scsi::Completion {
    match with {
        Room(room) => bench.read(cdb, room).0,
        Bytes(bytes) => bench.write(cdb, bytes),
        Zeroes(length) => bench.write(cdb, &vec![0; length]),
    }
}

#[test]
fn a_range_that_is_not_on_the_disk_is_out_of_range() {
    let mut bench = Bench::new();
    for (cdb, with) in ranges() {
        let done = run(&mut bench, &cdb, with);
        let reason = reason(&done).unwrap_or_else(|| panic!("{cdb:x?} succeeded"));
        assert_eq!((reason.key, reason.code), (5, OUT_OF_RANGE), "{cdb:x?}: {reason:x?}");
        assert_eq!(done.transferred, 0, "{cdb:x?}");
    }
    // Nothing at the very end is no error.
    for cdb in [
        cdb10(0x28, 0, BLOCKS as u32, 0).to_vec(),
        cdb10(0x2a, 0, BLOCKS as u32, 0).to_vec(),
        cdb10(0x2f, 0, BLOCKS as u32, 0).to_vec(),
        cdb16(0x88, 0, BLOCKS, 0),
        cdb12(0xa8, BLOCKS as u32, 0),
    ] {
        assert_eq!(run(&mut bench, &cdb, Room(0)).status, 0, "{cdb:x?}");
    }
}

/// A command, what comes with it, and the additional sense of ILLEGAL REQUEST.
type Row = (&'static [u8], With, u16);

/// Values that a field must not have.
const VALUES: &[Row] = &[
    // INQUIRY: a page code without EVPD, pages that there are not.
    (&[0x12, 0, 0x83, 0, 64, 0], Room(64), IN_CDB),
    (&[0x12, 1, 0x01, 0, 64, 0], Room(64), IN_CDB),
    (&[0x12, 1, 0x84, 0, 64, 0], Room(64), IN_CDB),
    (&[0x12, 1, 0xff, 0, 64, 0], Room(64), IN_CDB),
    // READ CAPACITY(10) and (16): an address without PMI.
    (&[0x25, 0, 0, 0, 0, 1, 0, 0, 0, 0], Room(8), IN_CDB),
    (
        &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 32, 0, 0],
        Room(32),
        IN_CDB,
    ),
    // REPORT LUNS: a selection that there is not, too little room.
    (&[0xa0, 0, 0x03, 0, 0, 0, 0, 0, 0, 16, 0, 0], Room(16), IN_CDB),
    (&[0xa0, 0, 0xff, 0, 0, 0, 0, 0, 0, 16, 0, 0], Room(16), IN_CDB),
    (&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 15, 0, 0], Room(15), IN_CDB),
    // MODE SENSE: pages and subpages that there are not, saved values.
    (&[0x1a, 0, 0x00, 0, 64, 0], Room(64), IN_CDB),
    (&[0x1a, 0, 0x3e, 0, 64, 0], Room(64), IN_CDB),
    (&[0x1a, 0, 0x08, 0x01, 64, 0], Room(64), IN_CDB),
    (&[0x5a, 0, 0x3f, 0x7f, 0, 0, 0, 0, 64, 0], Room(64), IN_CDB),
    (&[0x1a, 0, 0xc8, 0, 64, 0], Room(64), NO_SAVING),
    (&[0x5a, 0, 0xff, 0, 0, 0, 0, 0, 64, 0], Room(64), NO_SAVING),
    // MODE SELECT: saving, without PF, a list that is cut off.
    (&[0x15, 0x11, 0, 0, 0, 0], Zeroes(0), IN_CDB),
    (&[0x15, 0x10, 0, 0, 3, 0], Zeroes(3), LIST_LENGTH),
    (&[0x55, 0x10, 0, 0, 0, 0, 0, 0, 7, 0], Zeroes(7), LIST_LENGTH),
    (&[0x15, 0x10, 0, 0, 6, 0], Bytes(&[0, 0, 0, 0, 0x08, 0x12]), LIST_LENGTH),
    (&[0x15, 0x10, 0, 0, 8, 0], Bytes(&[0, 0, 0, 8, 0, 0, 0, 0]), LIST_LENGTH),
    // A page that there is not, one of another length, a field that cannot be changed.
    (&[0x15, 0x10, 0, 0, 8, 0], Bytes(&[0, 0, 0, 0, 0x3e, 2, 0, 0]), IN_LIST),
    (&[0x15, 0x10, 0, 0, 8, 0], Bytes(&[0, 0, 0, 0, 0x08, 2, 0, 0]), IN_LIST),
    (
        &[0x15, 0x10, 0, 0, 16, 0],
        Bytes(&[0, 0, 0, 0, 0x0a, 0x0a, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        IN_LIST,
    ),
    // LOG SENSE: pages, a parameter that there is not, saved values.
    (&[0x4d, 0, 0x7e, 0, 0, 0, 0, 0, 64, 0], Room(64), IN_CDB),
    (&[0x4d, 0, 0x40, 0x11, 0, 0, 0, 0, 64, 0], Room(64), IN_CDB),
    // UNMAP: a list that does not hold together.
    (&[0x42, 0, 0, 0, 0, 0, 0, 0, 4, 0], Zeroes(4), LIST_LENGTH),
    (&[0x42, 0, 0, 0, 0, 0, 0, 0, 7, 0], Zeroes(7), LIST_LENGTH),
    // WRITE SAME: more than the limit.
    (
        &[0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Zeroes(BLOCK),
        IN_CDB,
    ),
    // VERIFY: BYTCHK 10b is no value.
    (&[0x2f, 0x04, 0, 0, 0, 0, 0, 0, 1, 0], Zeroes(BLOCK), IN_CDB),
    (
        &[0x8f, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        Zeroes(BLOCK),
        IN_CDB,
    ),
    // SEND DIAGNOSTIC: no diagnostic pages.
    (&[0x1d, 0x10, 0, 0, 8, 0], Zeroes(8), IN_CDB),
    // START STOP UNIT: no power conditions.
    (&[0x1b, 0, 0, 0, 0x10, 0], Room(0), IN_CDB),
    // REPORT SUPPORTED OPERATION CODES: options that there are not, and those that do not fit the code.
    (&[0xa3, 0x0c, 0x07, 0, 0, 0, 0, 0, 0, 64, 0, 0], Room(64), IN_CDB),
    (&[0xa3, 0x0c, 0x01, 0x9e, 0, 0, 0, 0, 0, 64, 0, 0], Room(64), IN_CDB),
    (&[0xa3, 0x0c, 0x02, 0x28, 0, 0, 0, 0, 0, 64, 0, 0], Room(64), IN_CDB),
    // PERSISTENT RESERVE OUT: a list of another length, a scope and a type that there are not.
    (&[0x5f, 0, 0, 0, 0, 0, 0, 0, 8, 0], Zeroes(8), LIST_LENGTH),
    (&[0x5f, 0, 0, 0, 0, 0, 0, 0, 25, 0], Zeroes(25), LIST_LENGTH),
    (&[0x5f, 0x1e, 0, 0, 0, 0, 0, 0, 24, 0], Zeroes(24), IN_CDB),
    (&[0x5e, 0x1e, 0, 0, 0, 0, 0, 0, 64, 0], Room(64), IN_CDB),
];

#[test]
fn values_that_a_field_must_not_have_are_illegal() {
    let mut wrong = Vec::new();
    for (cdb, with, code) in VALUES {
        let mut bench = Bench::new();
        let done = run(&mut bench, cdb, *with);
        match reason(&done) {
            Some(reason) if (reason.key, reason.code) == (5, *code) => {
                // A list that was looked at has been transferred.
                assert!(done.transferred == 0 || !matches!(with, Room(_)), "{cdb:x?}");
            }
            found => wrong.push(format!("{cdb:x?}: 5/{code:04x} expected, found {found:x?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// UNMAP's list: its lengths, a range behind the end, too many blocks or ranges.
#[test]
fn the_ranges_of_an_unmap_are_checked_before_any_is_unmapped() {
    let list = |ranges: &[(u64, u32)]| {
        let length = ranges.len() as u16 * 16;
        let mut bytes = [&(length + 6).to_be_bytes()[..], &length.to_be_bytes(), &[0; 4]].concat();
        for (block, count) in ranges {
            bytes.extend(block.to_be_bytes());
            bytes.extend(count.to_be_bytes());
            bytes.extend([0; 4]);
        }
        bytes
    };
    let cdb = |bytes: &[u8]| cdb10(0x42, 0, 0, bytes.len() as u16);
    let mut bench = Bench::new();
    bench.write_ok(&cdb10(0x2a, 0, 0, 1), &[0x77; BLOCK]);
    for (ranges, code) in [
        (vec![(0, 1), (BLOCKS, 1)], OUT_OF_RANGE),
        (vec![(0, 1), (BLOCKS - 1, 2)], OUT_OF_RANGE),
        (vec![(0, 1), (u64::MAX, 1)], OUT_OF_RANGE),
        (vec![(0, 1), (u64::MAX, 2)], OUT_OF_RANGE),
        (vec![(0, 1); 4000], IN_LIST),
    ] {
        let bytes = list(&ranges);
        fails(&bench.write(&cdb(&bytes), &bytes), 5, code);
        assert_eq!(bench.data(&cdb10(0x28, 0, 0, 1)), [0x77; BLOCK], "{code:x}");
    }
    // Nothing to do is no error.
    for bytes in [vec![], list(&[]), list(&[(0, 0)]), list(&[(BLOCKS, 0)])] {
        bench.write_ok(&cdb(&bytes), &bytes);
    }
    assert_eq!(bench.data(&cdb10(0x28, 0, 0, 1)), [0x77; BLOCK]);
}

#[test]
fn data_that_differ_are_a_miscompare() {
    let mut bench = Bench::new();
    bench.write_ok(&cdb10(0x2a, 0, 3, 1), &[0x55; BLOCK]);
    let mut data = [0x55; BLOCK];
    let verify = cdb10(0x2f, 0x02, 3, 1);
    bench.write_ok(&verify, &data);
    data[17] = 0;
    fails(&bench.write(&verify, &data), 0xe, 0x1d00);
}
