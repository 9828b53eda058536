//! Configuration pages.

use super::harness::*;
use crate::storage::sas::SasConfig;
use crate::storage::sas::spec::function;

/// A request for a page: extended ones have a kind of 10h or more.
fn config(action: u8, kind: u8, number: u8, address: u32) -> Vec<u8> {
    let mut request = message(function::CONFIG);
    request[0] = action;
    (request[6], request[0x17]) = if kind >= 0x10 { (kind, 0x0f) } else { (0, kind) };
    request[0x16] = number;
    request[0x18..0x1c].copy_from_slice(&address.to_le_bytes());
    request[0x1c..0x24].copy_from_slice(&simple(DATA, 4096));
    request
}

fn status(driver: &mut Driver, action: u8, kind: u8, number: u8, address: u32) -> u16 {
    ioc_status(&driver.run(&config(action, kind, number, address)).frame())
}

/// A page as drivers read it: the header first, then so many bytes as that tells.
#[track_caller]
fn page(driver: &mut Driver, kind: u8, number: u8, address: u32) -> Vec<u8> {
    let header = driver.run(&config(0, kind, number, address)).frame();
    assert_eq!((header.len(), ioc_status(&header)), (0x18, 0));
    let dwords = if kind >= 0x10 {
        assert_eq!((header[6], header[0x17]), (kind, header[0x17] & 0xf0 | 0x0f));
        usize::from(u16_at(&header, 4))
    } else {
        header[0x15].into()
    };
    driver.fill(DATA, &[0xaa; 4096]);
    let reply = driver.run(&config(1, kind, number, address)).frame();
    assert_eq!((ioc_status(&reply), &reply[0x14..0x18]), (0, &header[0x14..0x18]));
    let content = driver.bytes(DATA, 4096);
    assert!(content[4 * dwords..].iter().all(|byte| *byte == 0xaa));
    assert_eq!(content[..4], header[0x14..0x18]);
    content[..4 * dwords].to_vec()
}

/// Kinds, numbers and lengths by mpi_cnfg.h (with 8 phys).
const PAGES: [(u8, u8, usize); 36] = [
    (9, 0, 0x4c),
    (9, 1, 0x104),
    (9, 2, 0x0c),
    (9, 3, 0x0c),
    (9, 4, 0x70),
    (9, 5, 0x20),
    (9, 6, 8),
    (9, 7, 0x24 + 8 * 0x1c),
    (9, 8, 8),
    (9, 9, 8),
    (9, 10, 8),
    (0, 0, 0x0c),
    (0, 1, 8),
    (0, 2, 0x20),
    (0, 3, 0x0c),
    (0, 4, 0x14),
    (1, 0, 0x1c),
    (1, 1, 0x10),
    (1, 2, 0x0c),
    (1, 3, 8),
    (1, 4, 8),
    (1, 5, 0x0c),
    (1, 6, 0x3c),
    (2, 1, 0x20),
    (2, 2, 0x34),
    (2, 4, 0x0c),
    (0x10, 0, 0x10 + 8 * 0x10),
    (0x10, 1, 0x14 + 8 * 0x0c),
    (0x10, 2, 0x14),
    (0x10, 3, 0x2c),
    (0x12, 0, 0x24),
    (0x12, 1, 0x30),
    (0x12, 2, 0x14),
    (0x13, 0, 0x24),
    (0x13, 1, 0x1c),
    (0x15, 0, 0x28),
];

#[test]
fn every_page_has_its_length() {
    let mut driver = Driver::new();
    for (kind, number, length) in PAGES {
        let address = match kind {
            0x12 => 0x2000_0001,
            0x15 => 0x1000_0001,
            _ => 0,
        };
        assert_eq!(
            page(&mut driver, kind, number, address).len(),
            length,
            "{kind:#x} {number}"
        );
    }
}

#[test]
fn pages_kinds_and_actions_that_there_are_not_are_told_apart() {
    let mut driver = Driver::new();
    for (action, kind, number, expected) in [
        (1, 9, 11, 0x22),
        (1, 0, 5, 0x22),
        (1, 1, 7, 0x22),
        (1, 2, 0, 0x22),
        (1, 0x10, 4, 0x22),
        (1, 0x11, 0, 0x22),
        (1, 0x14, 0, 0x22),
        (1, 3, 0, 0x21),
        (1, 0x0e, 0, 0x21),
        (1, 0x20, 0, 0x21),
        (7, 1, 1, 0x20),
        (2, 9, 0, 0x25),
    ] {
        assert_eq!(
            status(&mut driver, action, kind, number, 0),
            expected,
            "{action} {kind:#x} {number}"
        );
    }
}

#[test]
fn the_domain_is_that_of_the_disks() {
    let mut driver = Driver::new();
    let names = SasConfig::default();
    let unit = page(&mut driver, 0x10, 0, 0);
    assert_eq!(unit[0x0c], 8);
    let phy = |unit: &[u8], phy: usize| {
        let data = &unit[0x10 + 16 * phy..];
        (data[3], u16_at(data, 8), u16_at(data, 0x0a))
    };
    assert_eq!((phy(&unit, 1), phy(&unit, 2)), ((9, 0x11, 1), (0, 0, 1)));
    let device = page(&mut driver, 0x12, 0, 0x2000_0011);
    assert_eq!(
        u64::from_le_bytes(device[0x0c..0x14].try_into().unwrap()),
        names.disk_address(1)
    );
    assert_eq!(
        (u16_at(&device, 0x14), device[0x1a], u32_at(&device, 0x1c)),
        (1, 1, 0xc01)
    );
    assert_eq!(page(&mut driver, 0x12, 0, 0x1000_0001), device, "by target identifier");
    let host = page(&mut driver, 0x12, 0, 0x2000_0001);
    assert_eq!(
        u64::from_le_bytes(host[0x0c..0x14].try_into().unwrap()),
        names.address()
    );
    // All devices, one after the other.
    let mut handle = 0xffff;
    let mut handles = Vec::new();
    while status(&mut driver, 1, 0x12, 0, handle) == 0 {
        handle = u16_at(&driver.bytes(DATA + 0x18, 2), 0).into();
        handles.push(handle);
    }
    assert_eq!(handles, [1, 0x10, 0x11]);
    let phy = page(&mut driver, 0x13, 0, 1);
    assert_eq!((u16_at(&phy, 0x14), u32_at(&phy, 0x20)), (0x11, 9));
    assert_eq!(
        page(&mut driver, 0x13, 0, 0x1000_0001),
        phy,
        "by its place in the table"
    );
    let mappings = page(&mut driver, 0x10, 2, 0);
    assert_eq!((u16_at(&mappings, 0x0c), u16_at(&mappings, 0x0e)), (8, 2));
    let first_frame = page(&mut driver, 0x12, 1, 0x2000_0011);
    assert_eq!((u16_at(&first_frame, 0x18), first_frame[0x1a]), (0x11, 1));
    for (kind, address) in [
        (0x12, 0x2000_0012),
        (0x12, 0x1000_0002),
        (0x12, 0x1000_0100),
        (0x12, 0x3000_0000),
        (0x13, 8),
        (0x13, 0x2000_0000),
        (0x15, 1),
        (0x15, 0x1000_0002),
    ] {
        assert_eq!(status(&mut driver, 1, kind, 0, address), 0x22, "{kind:#x} {address:#x}");
        assert_eq!(status(&mut driver, 0, kind, 0, address), 0, "the header is there");
    }
    page(&mut driver, 0x15, 0, 0xffff);
}

#[test]
fn changes_last_until_they_are_taken_back() {
    let mut driver = Driver::new();
    let original = page(&mut driver, 2, 1, 0);
    let mut changed = original.clone();
    (changed[0], changed[4]) = (0xff, 0x77);
    driver.fill(DATA, &changed);
    assert_eq!(status(&mut driver, 2, 2, 1, 0), 0);
    changed[0] = original[0];
    assert_eq!(page(&mut driver, 2, 1, 0), changed, "but for the header");
    assert_eq!(status(&mut driver, 5, 2, 1, 0), 0);
    assert_eq!(driver.bytes(DATA, original.len()), original, "the default");
    assert_eq!(status(&mut driver, 3, 2, 1, 0), 0);
    assert_eq!(page(&mut driver, 2, 1, 0), original);
    // Too few data.
    let mut short = config(2, 2, 1, 0);
    short[0x1c..0x24].copy_from_slice(&simple(DATA, 8));
    assert_eq!(ioc_status(&driver.run(&short).frame()), 0x23);
    // A buffer that is nowhere, and one that is too small to read into.
    let mut nowhere = config(1, 2, 1, 0);
    nowhere[0x1c..0x24].copy_from_slice(&simple(MEMORY as u64, 64));
    assert_eq!(ioc_status(&driver.run(&nowhere).frame()), 3);
    driver.fill(DATA, &[0xaa; 16]);
    short[0] = 1;
    assert_eq!(ioc_status(&driver.run(&short).frame()), 0);
    assert_eq!(driver.bytes(DATA + 8, 8), [0xaa; 8]);
}

#[test]
fn what_is_changed_of_one_device_is_not_changed_of_another() {
    let mut driver = Driver::new();
    let of = |handle: u32| 0x2000_0000 | handle;
    let other = page(&mut driver, 0x12, 2, of(0x11));
    let mut changed = page(&mut driver, 0x12, 2, of(0x10));
    changed[0x10] = 0x77;
    driver.fill(DATA, &changed);
    assert_eq!(status(&mut driver, 2, 0x12, 2, of(0x10)), 0);
    assert_eq!(page(&mut driver, 0x12, 2, of(0x10)), changed);
    // By another form of its address as well.
    assert_eq!(page(&mut driver, 0x12, 2, 0x1000_0000), changed);
    assert_eq!(page(&mut driver, 0x12, 2, of(0x11)), other);
}

#[test]
fn no_buffer_for_a_page_does_harm() {
    let mut driver = Driver::new();
    let buffers: Vec<Vec<u8>> = [
        (0, 0),
        (DATA, 0),
        (DATA, 0x00ff_ffff),
        (MEMORY as u64 - 4, 4),
        (u64::MAX, 8),
    ]
    .iter()
    .map(|&(address, length)| simple(address, length))
    .chain([
        vec![0; 8],
        vec![0xff; 12],
        vec![0x04, 0, 0, 0xd3, 0, 0, 0, 0, 1, 0, 0, 0],
    ])
    .collect();
    for (kind, number, _) in PAGES {
        for action in 0..=7 {
            for buffer in &buffers {
                let mut request = config(action, kind, number, 0x2000_0001);
                // What the host says of the page's length does not count.
                request[4..6].copy_from_slice(&[0xff; 2]);
                request[0x15] = 0xff;
                request[0x1c..0x1c + buffer.len()].copy_from_slice(buffer);
                let reply = driver.run(&request).frame();
                assert!(
                    matches!(ioc_status(&reply), 0 | 3 | 0x20..=0x25),
                    "{action} {kind:#x} {number}"
                );
            }
        }
    }
    assert_eq!(driver.bytes(0, 16), [0; 16]);
    driver.ok(&read(0, 0, 1));
}
