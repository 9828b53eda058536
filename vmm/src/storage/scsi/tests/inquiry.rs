//! What the unit says of itself, read as an initiator does.

use super::harness::*;
use crate::storage::backend::MemoryBackend;
use crate::storage::scsi::{Data, LogicalUnit, PortName, UnitConfig, UnitError};

fn page(bench: &mut Bench, page: u8) -> Vec<u8> {
    let data = bench.data(&[0x12, 1, page, 1, 0, 0]);
    assert_eq!(data[..2], [0, page]);
    assert_eq!(usize::from(u16::from_be_bytes([data[2], data[3]])), data.len() - 4);
    data
}

#[test]
fn standard_data_name_the_disk() {
    let mut bench = Bench::new();
    let data = bench.data(&[0x12, 0, 0, 0, 255, 0]);
    assert_eq!((data.len(), data[4]), (96, 91));
    assert_eq!(data[..4], [0, 0, 6, 0x12]);
    assert_eq!(data[7], 2, "CMDQUE");
    assert_eq!(&data[8..36], b"STORLOCKDISK            0001");
    assert_eq!(&data[36..45], b"STORLOCK0");
    assert_eq!(data[58..64], [0x00, 0x80, 0x04, 0x60, 0x04, 0xc0]);
    // No more than was allocated.
    assert_eq!(bench.data(&[0x12, 0, 0, 0, 36, 0]), data[..36]);
    assert_eq!(bench.data(&[0x12, 0, 0, 0, 0, 0]), []);
}

#[test]
fn every_page_that_is_told_of_is_there_and_no_other() {
    let mut bench = Bench::new();
    let told = page(&mut bench, 0)[4..].to_vec();
    assert_eq!(told, [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
    for number in 0..=255 {
        if told.contains(&number) {
            page(&mut bench, number);
        } else {
            let done = bench.read(&[0x12, 1, number, 1, 0, 0], 256).0;
            assert_eq!(reason(&done).unwrap().field, Some((true, 2, None)));
        }
    }
}

#[test]
fn names_are_those_of_the_configuration() {
    let config = UnitConfig {
        serial_number: "ABC\u{7}\u{e4} 0123456789012345678901234567890".into(),
        name: 0x3123_4567_89ab_cdef,
        port: Some(PortName {
            protocol: 6,
            name: 0x3fed_cba9_8765_4321,
        }),
        ..UnitConfig::default()
    };
    let mut bench = Bench::cold(config, Box::new(MemoryBackend::new(DISK)));
    assert_eq!(&page(&mut bench, 0x80)[4..], b"ABC01234567890123456");
    let names = page(&mut bench, 0x83);
    let (mut rest, mut found) = (&names[4..], Vec::new());
    while let [set, kind, _, length, ..] = *rest {
        found.push((set, kind, rest[4..4 + usize::from(length)].to_vec()));
        rest = &rest[4 + usize::from(length)..];
    }
    let vendor = b"STORLOCKABC01234567890123456".to_vec();
    assert_eq!(
        found,
        [
            (0x01, 0x03, 0x3123_4567_89ab_cdef_u64.to_be_bytes().to_vec()),
            (0x02, 0x01, vendor),
            (0x61, 0x93, 0x3fed_cba9_8765_4321_u64.to_be_bytes().to_vec()),
            (0x61, 0x94, vec![0, 0, 0, 1]),
        ]
    );
}

#[test]
fn limits_are_those_that_hold() {
    let mut bench = Bench::new();
    let limits = page(&mut bench, 0xb0);
    let number = |at: usize| u32::from_be_bytes(limits[at..at + 4].try_into().unwrap());
    assert_eq!(limits.len(), 64);
    let (transfer, unmap, descriptors, same) = (number(8), number(20), number(24), number(40));
    assert_eq!((limits[4], number(28)), (1, 8));
    // One more than each is refused; what is told is tried by the tests of those commands.
    let done = bench.read(&cdb16(0x88, 0, 0, transfer + 1), 16).0;
    fails(&done, 5, 0x2400);
    let done = bench.write(&cdb16(0x93, 0, 0, same + 1), &[0; BLOCK]);
    fails(&done, 5, 0x2400);
    assert!(unmap > 0 && descriptors > 0);
    assert_eq!(page(&mut bench, 0xb1)[4..6], [0, 1], "no rotating medium");
    let provisioning = page(&mut bench, 0xb2);
    assert_eq!(provisioning[4..], [0, 0xe4, 2, 0]);
}

#[test]
fn capacity_is_told_in_both_ways() {
    let mut bench = Bench::new();
    let last = (DISK / BLOCK - 1) as u32;
    let short = bench.data(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(short, [last.to_be_bytes(), 512_u32.to_be_bytes()].concat());
    let long = bench.data(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]);
    assert_eq!(long[..12], [&[0; 4][..], &short].concat());
    assert_eq!((long.len(), long[14]), (32, 0xc0));
    // An address without PMI is illegal, with it the answer is the same.
    let done = bench.read(&[0x25, 0, 0, 0, 0, 1, 0, 0, 0, 0], 8).0;
    assert_eq!(reason(&done).unwrap().field, Some((true, 2, None)));
    assert_eq!(bench.data(&[0x25, 0, 0, 0, 0, 1, 0, 0, 1, 0]), short);
    // 4096-byte blocks.
    let config = UnitConfig {
        block_size: 4096,
        ..UnitConfig::default()
    };
    let mut bench = Bench::cold(config, Box::new(MemoryBackend::new(DISK)));
    bench.reason_of(ME, &[0; 6]);
    assert_eq!(
        bench.data(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        [0, 0, 0, 255, 0, 0, 16, 0]
    );
    assert_eq!(page(&mut bench, 0xb0)[28..32], [0, 0, 0, 1]);
}

#[test]
fn there_is_unit_0_and_nothing_else() {
    let mut bench = Bench::new();
    let report = |select, allocation| [0xa0, 0, select, 0, 0, 0, 0, 0, 0, allocation, 0, 0];
    let one = [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(bench.data(&report(0, 255)), one);
    assert_eq!(bench.data(&report(2, 16)), one);
    assert_eq!(bench.data(&report(1, 16)), [0; 8]);
    fails(&bench.read(&report(3, 16), 16).0, 5, 0x2400);
    fails(&bench.read(&report(0, 15), 16).0, 5, 0x2400);
    // Another unit: INQUIRY and REQUEST SENSE say so, REPORT LUNS is answered, all else is refused.
    let mut ask = |lun, cdb: &[u8]| {
        let mut memory = [UNTOUCHED; 96];
        let pieces = [vm_memory::VolatileSlice::from(&mut memory[..])];
        let done = bench.request(ME, lun, cdb, Data::In(&pieces));
        (done, memory)
    };
    let (done, data) = ask(1, &[0x12, 0, 0, 0, 96, 0]);
    assert_eq!((done.status, done.transferred, data[0], data[4]), (0, 36, 0x7f, 31));
    fails(&ask(1, &[0x12, 1, 0, 0, 96, 0]).0, 5, 0x2500);
    let (done, data) = ask(1, &[0x03, 0, 0, 0, 96, 0]);
    assert_eq!((done.status, data[2], data[12]), (0, 5, 0x25));
    let (done, data) = ask(1, &report(0, 96));
    assert_eq!((done.status, &data[..16]), (0, &one[..]));
    fails(&ask(1, &[0; 6]).0, 5, 0x2500);
    fails(&ask(255, &cdb10(0x28, 0, 0, 1)).0, 5, 0x2500);
    fails(&ask(1, &[]).0, 5, 0x2500);
}

#[test]
fn disks_that_cannot_be_are_refused() {
    let make = |block_size, length| {
        let config = UnitConfig {
            block_size,
            ..UnitConfig::default()
        };
        LogicalUnit::new(config, Box::new(MemoryBackend::new(length))).err()
    };
    assert_eq!(make(520, 5200), Some(UnitError::BlockSize(520)));
    for length in [0, 511, 4095] {
        let expected = UnitError::OddBackend {
            length: length as u64,
            block_size: 512,
        };
        assert_eq!(make(512, length), Some(expected));
    }
    assert_eq!(make(4096, 8192), None);
}

#[test]
fn supported_commands_are_told_with_the_bits_that_they_use() {
    let mut bench = Bench::new();
    let ask = |options, opcode, action| [0xa3, 0x0c, options, opcode, 0, action, 0, 0, 2, 0, 0, 0];
    let all = bench.data(&ask(0, 0, 0));
    let listed = all[4..]
        .chunks_exact(8)
        .map(|entry| (entry[0], entry[3], entry[5], entry[7]));
    let listed: Vec<_> = listed.collect();
    assert!(listed.contains(&(0x93, 0, 0, 16)) && listed.contains(&(0x9e, 0x10, 1, 16)));
    assert!(listed.contains(&(0x5f, 6, 1, 10)) && listed.iter().all(|entry| entry.0 != 0x04));
    assert_eq!(usize::from(u16::from_be_bytes([all[2], all[3]])), all.len() - 4);
    assert_eq!(bench.data(&ask(1, 0x93, 0))[..6], [0, 3, 0, 16, 0x93, 0x09]);
    assert_eq!(bench.data(&ask(1, 0x04, 0)), [0, 1, 0, 0], "FORMAT UNIT");
    assert_eq!(bench.data(&ask(2, 0x9e, 0x10))[..6], [0, 3, 0, 16, 0x9e, 0x10]);
    assert_eq!(bench.data(&ask(2, 0x9e, 0x12)), [0, 1, 0, 0]);
    assert_eq!(bench.data(&ask(3, 0x28, 0))[..5], [0, 3, 0, 10, 0x28]);
    let timed = bench.data(&ask(0x81, 0x28, 0));
    assert_eq!((timed.len(), timed[1], timed[15]), (4 + 10 + 12, 0x83, 10));
    for (options, opcode) in [(1, 0x9e), (2, 0x28), (4, 0x28)] {
        fails(&bench.read(&ask(options, opcode, 0), 64).0, 5, 0x2400);
    }
}
