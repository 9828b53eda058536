//! Illegal fields: whatever a command does not have is refused with a pointer to it.

use super::harness::*;
use crate::storage::scsi::Data;

/// Bits by byte and mask.
type Bits = Vec<(usize, u8)>;

/// A legal block of every command, and its reserved or unsupported bits, as SPC-4 and SBC-3 have them: byte and mask.
/// Written by hand: the target's own table is what is tested.
#[expect(clippy::too_many_lines, reason = "a table: a row a command")]
fn commands() -> Vec<(Vec<u8>, Bits)> {
    const IO_10: &[(usize, u8)] = &[(1, 0xe7), (6, 0xff), (9, 0xff)];
    const IO_12: &[(usize, u8)] = &[(1, 0xe7), (10, 0xff), (11, 0xff)];
    const IO_16: &[(usize, u8)] = &[(1, 0xe7), (14, 0xff), (15, 0xff)];
    let six = |bytes: [u8; 6], bits: &[(usize, u8)]| (bytes.to_vec(), [bits, &[(5, 0xff)]].concat());
    let ten = |bytes: [u8; 10], bits: &[(usize, u8)]| (bytes.to_vec(), bits.to_vec());
    let more = |bytes: Vec<u8>, bits: &[(usize, u8)]| (bytes, bits.to_vec());
    vec![
        six([0x00, 0, 0, 0, 0, 0], &[(1, 0xff), (2, 0xff), (3, 0xff), (4, 0xff)]),
        six([0x03, 0, 0, 0, 18, 0], &[(1, 0xfe), (2, 0xff), (3, 0xff)]),
        six([0x08, 0, 0, 0, 1, 0], &[(1, 0xe0)]),
        six([0x0a, 0, 0, 0, 1, 0], &[(1, 0xe0)]),
        six([0x12, 0, 0, 0, 36, 0], &[(1, 0xfe)]),
        six([0x15, 0x10, 0, 0, 0, 0], &[(1, 0xee), (2, 0xff), (3, 0xff)]),
        six([0x1a, 0, 0x3f, 0, 36, 0], &[(1, 0xf7)]),
        six([0x1b, 0, 0, 0, 1, 0], &[(1, 0xfe), (2, 0xff), (3, 0xff), (4, 0xf8)]),
        six([0x1d, 0x04, 0, 0, 0, 0], &[(1, 0xeb), (2, 0xff)]),
        ten(
            cdb10(0x25, 0, 0, 0),
            &[(1, 0xff), (6, 0xff), (7, 0xff), (8, 0xfe), (9, 0xff)],
        ),
        ten(cdb10(0x28, 0, 0, 1), IO_10),
        ten(cdb10(0x2a, 0, 0, 1), IO_10),
        ten(cdb10(0x2f, 0, 0, 1), &[(1, 0xe9), (6, 0xff), (9, 0xff)]),
        ten(cdb10(0x35, 0, 0, 1), &[(1, 0xfd), (6, 0xff), (9, 0xff)]),
        ten(cdb10(0x41, 0, 0, 1), &[(1, 0xf7), (6, 0xff), (9, 0xff)]),
        ten(
            cdb10(0x42, 0, 0, 0),
            &[(1, 0xff), (2, 0xff), (5, 0xff), (6, 0xff), (9, 0xff)],
        ),
        ten(
            [0x4d, 0, 0x40, 0, 0, 0, 0, 0, 64, 0],
            &[(1, 0xff), (4, 0xff), (9, 0xff)],
        ),
        ten(cdb10(0x55, 0x10, 0, 0), &[(1, 0xee), (2, 0xff), (6, 0xff), (9, 0xff)]),
        ten(
            [0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 64, 0],
            &[(1, 0xe7), (4, 0xff), (6, 0xff), (9, 0xff)],
        ),
        ten(cdb10(0x5e, 0, 0, 64), &[(1, 0xe0), (2, 0xff), (6, 0xff), (9, 0xff)]),
        ten(
            [0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0],
            &[(1, 0xe0), (3, 0xff), (4, 0xff), (9, 0xff)],
        ),
        more(cdb16(0x88, 0, 0, 1), IO_16),
        more(cdb16(0x8a, 0, 0, 1), IO_16),
        more(cdb16(0x8f, 0, 0, 1), &[(1, 0xe9), (14, 0xff), (15, 0xff)]),
        more(cdb16(0x91, 0, 0, 1), &[(1, 0xfd), (14, 0xff), (15, 0xff)]),
        more(cdb16(0x93, 0, 0, 1), &[(1, 0xf6), (14, 0xff), (15, 0xff)]),
        more(cdb16(0x9e, 0x10, 0, 32), &[(1, 0xe0), (14, 0xfe), (15, 0xff)]),
        more(
            vec![0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0],
            &[(1, 0xff), (3, 0xff), (10, 0xff), (11, 0xff)],
        ),
        more(
            vec![0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0],
            &[(1, 0xe0), (2, 0x78), (10, 0xff), (11, 0xff)],
        ),
        more(vec![0xa8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], IO_12),
        more(vec![0xaa, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], IO_12),
        more(
            vec![0xaf, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
            &[(1, 0xe9), (10, 0xff), (11, 0xff)],
        ),
    ]
}

fn run(bench: &mut Bench, cdb: &[u8]) -> crate::storage::scsi::Completion {
    if matches!(cdb.first(), Some(0x0a | 0x2a | 0x41 | 0x5f | 0x8a | 0x93 | 0xaa)) {
        bench.write(cdb, &[0; BLOCK])
    } else {
        bench.read(cdb, BLOCK).0
    }
}

#[test]
fn every_bit_that_a_command_does_not_have_is_an_illegal_field() {
    let mut bench = Bench::new();
    for (cdb, bits) in commands() {
        assert_eq!(run(&mut bench, &cdb).status, 0, "{cdb:x?}");
        for (byte, mask) in bits {
            for bit in (0..8).filter(|bit| mask >> bit & 1 != 0) {
                let mut cdb = cdb.clone();
                cdb[byte] |= 1 << bit;
                let done = run(&mut bench, &cdb);
                fails(&done, 5, 0x2400);
                let field = reason(&done).unwrap().field;
                assert_eq!(field, Some((true, byte as u16, Some(bit))), "{cdb:x?}");
                assert_eq!(done.transferred, 0);
            }
        }
    }
}

#[test]
fn a_block_that_is_too_short_is_illegal_and_one_that_is_too_long_is_cut() {
    let mut bench = Bench::new();
    for (cdb, _) in commands() {
        for length in 1..cdb.len() {
            let done = run(&mut bench, &cdb[..length]);
            assert_eq!(reason(&done).unwrap().key, 5, "{:x?}", &cdb[..length]);
        }
        let long = [&cdb[..], &[0xff; 20]].concat();
        assert_eq!(run(&mut bench, &long).status, 0, "{cdb:x?}");
    }
    fails(&bench.request(ME, 0, &[], Data::None), 5, 0x2000);
}

#[test]
fn operation_codes_that_there_are_not_are_told() {
    let known: Vec<u8> = commands().iter().map(|(cdb, _)| cdb[0]).collect();
    let mut bench = Bench::new();
    for opcode in (0..=255).filter(|opcode| !known.contains(opcode)) {
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        fails(&bench.read(&cdb, 64).0, 5, 0x2000);
    }
    // FORMAT UNIT, RESERVE(6), SANITIZE: those that would do harm are among them.
    assert!(![0x04, 0x16, 0x48].iter().any(|opcode| known.contains(opcode)));
    // A service action that there is not is a field.
    for (opcode, length) in [(0x5e, 10), (0x5f, 10), (0x9e, 16), (0xa3, 12)] {
        let mut cdb = vec![0; length];
        (cdb[0], cdb[1]) = (opcode, 0x1f);
        let done = bench.read(&cdb, 64).0;
        assert_eq!(reason(&done).unwrap().field, Some((true, 1, Some(4))));
    }
}

#[test]
fn descriptor_format_says_the_same() {
    let mut bench = Bench::new();
    let far = cdb16(0x88, 0, 1 << 40, 1);
    let fixed = [run(&mut bench, &[0, 0, 0, 0x08, 0, 0]), run(&mut bench, &far)].map(|done| reason(&done).unwrap());
    // The Control page with D_SENSE.
    let page = [0, 0, 0, 0, 0x0a, 0x0a, 0x04, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];
    bench.write_ok(&[0x15, 0x10, 0, 0, 16, 0], &page);
    let done = [run(&mut bench, &[0, 0, 0, 0x08, 0, 0]), run(&mut bench, &far)];
    assert!(done.iter().all(|done| done.sense[0] == 0x72));
    let described = done.map(|done| reason(&done).unwrap());
    assert_eq!(described[0], fixed[0]);
    assert_eq!((fixed[1].information, described[1].information), (None, Some(1 << 40)));
}
