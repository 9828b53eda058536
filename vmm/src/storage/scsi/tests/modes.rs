//! MODE SENSE and MODE SELECT.

use super::harness::*;
use crate::storage::backend::MemoryBackend;
use crate::storage::scsi::UnitConfig;

/// Header of a MODE SELECT(6) list without block descriptor, then the page.
fn list(page: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 0], page].concat()
}

fn caching(write_cache: bool) -> Vec<u8> {
    let mut page = vec![0; 20];
    (page[0], page[1], page[2]) = (8, 18, u8::from(write_cache) << 2);
    page
}

fn select(bench: &mut Bench, list: &[u8]) -> crate::storage::scsi::Completion {
    bench.write(&[0x15, 0x10, 0, 0, list.len() as u8, 0], list)
}

#[test]
fn both_forms_tell_the_same_pages() {
    let mut bench = Bench::new();
    let short = bench.data(&[0x1a, 0, 0x3f, 0, 255, 0]);
    let long = bench.data(&[0x5a, 0x10, 0x3f, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(usize::from(short[0]), short.len() - 1);
    assert_eq!(usize::from(u16::from_be_bytes([long[0], long[1]])), long.len() - 2);
    assert_eq!((short[2], short[3], long[3], long[4], long[7]), (0x10, 8, 0x10, 1, 16));
    assert_eq!(short[4..12], [0, 0, 8, 0, 0, 0, 2, 0]);
    assert_eq!(long[8..24], [0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    assert_eq!(short[12..], long[24..]);
    // Each page by itself, without a block descriptor.
    let (mut rest, mut codes) = (&short[12..], Vec::new());
    while let [code, length, ..] = *rest {
        let (page, tail) = rest.split_at(2 + usize::from(length));
        assert_eq!(bench.data(&[0x1a, 8, code, 0, 255, 0])[4..], *page);
        codes.push(code);
        rest = tail;
    }
    assert_eq!(codes, [0x01, 0x08, 0x0a, 0x1c]);
    // Cut where the allocation length ends; the header tells the whole.
    assert_eq!(bench.data(&[0x1a, 0, 0x3f, 0, 5, 0]), short[..5]);
}

#[test]
fn what_can_be_changed_is_told_and_nothing_else_can() {
    let mut bench = Bench::new();
    let changeable = bench.data(&[0x1a, 8, 0x7f, 0, 255, 0]);
    let current = bench.data(&[0x1a, 8, 0x3f, 0, 255, 0]);
    let mut at = 4;
    while at < current.len() {
        let end = at + 2 + usize::from(current[at + 1]);
        assert_eq!(changeable[at..at + 2], current[at..at + 2]);
        for byte in at + 2..end {
            for bit in 0..8 {
                let mut page = current[at..end].to_vec();
                page[byte - at] ^= 1 << bit;
                let done = select(&mut bench, &list(&page));
                if changeable[byte] >> bit & 1 != 0 {
                    assert_eq!(done.status, 0);
                    let now = bench.data(&[0x1a, 8, page[0], 0, 255, 0]);
                    assert_eq!(now[4..], page);
                    assert_eq!(
                        bench.data(&[0x1a, 8, 0x80 | page[0], 0, 255, 0])[4..],
                        current[at..end],
                        "default"
                    );
                    select(&mut bench, &list(&current[at..end]));
                } else {
                    let field = reason(&done).unwrap().field;
                    assert_eq!(field, Some((false, (byte - at + 4) as u16, Some(bit))));
                }
            }
        }
        at = end;
    }
}

#[test]
fn others_are_told_of_a_change_and_nobody_of_none() {
    let mut bench = Bench::new();
    assert_eq!(select(&mut bench, &list(&caching(true))).status, 0);
    assert_eq!(bench.reason_of(OTHER, &[0; 6]), None);
    assert_eq!(select(&mut bench, &list(&caching(false))).status, 0);
    assert_eq!(bench.reason_of(ME, &[0; 6]), None);
    assert_eq!(bench.reason_of(OTHER, &[0; 6]).unwrap().code, 0x2a01);
}

#[test]
fn nothing_is_changed_if_anything_is_wrong() {
    let mut bench = Bench::new();
    let off = caching(false);
    let wrong = |bytes: &[u8]| [&list(&off)[..], bytes].concat();
    for (bytes, code) in [
        (wrong(&[0x0b, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 0x2600),
        (wrong(&[0x4a, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 0x2600),
        (wrong(&[0x0a, 0x09, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 0x2600),
        (wrong(&[0x0a]), 0x1a00),
        (wrong(&[0x0a, 0x0a, 0]), 0x1a00),
    ] {
        fails(&select(&mut bench, &bytes), 5, code);
        assert!(bench.target.unit().state().modes.write_cache);
    }
    fails(&bench.write(&[0x15, 0x10, 0, 0, 3, 0], &[0; 3]), 5, 0x1a00);
    // No saved pages, and none that are not in the format of pages.
    let done = bench.write(&[0x15, 0x11, 0, 0, 24, 0], &list(&off));
    assert_eq!(reason(&done).unwrap().field, Some((true, 1, Some(0))));
    let done = bench.write(&[0x15, 0, 0, 0, 24, 0], &list(&off));
    assert_eq!(reason(&done).unwrap().field, Some((true, 1, Some(4))));
    fails(&bench.read(&[0x1a, 8, 0xff, 0, 255, 0], 255).0, 5, 0x3900);
    fails(&bench.read(&[0x1a, 8, 0x02, 0, 255, 0], 255).0, 5, 0x2400);
    fails(&bench.read(&[0x1a, 8, 0x08, 1, 255, 0], 255).0, 5, 0x2400);
    fails(&bench.write(&[0x15, 0x10, 0, 0, 24, 0], &list(&off)[..20]), 0xb, 0x4b00);
}

#[test]
fn block_descriptors_may_only_say_what_is() {
    let mut bench = Bench::new();
    let with = |descriptor: &[u8]| {
        let header = [0, 0, 0, descriptor.len() as u8];
        [&header[..], descriptor, &caching(false)].concat()
    };
    for blocks in [[0; 4], [0xff; 4], [0, 0, 8, 0]] {
        let descriptor = [&blocks[..], &[0, 0, 2, 0]].concat();
        assert_eq!(select(&mut bench, &with(&descriptor)).status, 0);
    }
    for (descriptor, byte) in [
        (&[0, 0, 8, 1, 0, 0, 2, 0][..], 4),
        (&[0, 0, 8, 0, 0, 0, 4, 0], 8),
        (&[0, 0, 8, 0], 3),
    ] {
        let done = select(&mut bench, &with(descriptor));
        assert_eq!(reason(&done).unwrap().field, Some((false, byte, None)));
    }
    // Longer than the list, and the long form.
    fails(
        &bench.write(&[0x15, 0x10, 0, 0, 8, 0], &[0, 0, 0, 8, 0, 0, 0, 0]),
        5,
        0x1a00,
    );
    let mut long = vec![0, 0, 0, 0, 1, 0, 0, 16];
    long.extend([0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    bench.write_ok(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, 24, 0], &long);
}

#[test]
fn a_disk_of_large_blocks_says_so() {
    let config = UnitConfig {
        block_size: 4096,
        ..UnitConfig::default()
    };
    let mut bench = Bench::cold(config, Box::new(MemoryBackend::new(DISK)));
    bench.reason_of(ME, &[0; 6]);
    assert_eq!(bench.data(&[0x1a, 0, 0x3f, 0, 12, 0])[4..], [0, 0, 1, 0, 0, 0, 16, 0]);
}
