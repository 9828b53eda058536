//! Scatter gather lists.

use super::harness::*;
use crate::storage::sas::message::Frame;
use crate::storage::sas::sgl::walk;

const INVALID: u16 = 3;

fn element(flags: u8, length: u32, address: u64) -> Vec<u8> {
    let mut bytes = (u32::from(flags) << 24 | length).to_le_bytes().to_vec();
    bytes.extend((address as u32).to_le_bytes());
    if flags & 2 != 0 {
        bytes.extend(((address >> 32) as u32).to_le_bytes());
    }
    bytes
}

/// A chain element to `length` bytes at `address`, in which the next chain element is at dword `next`.
fn chain(wide: bool, length: u32, next: u32, address: u64) -> Vec<u8> {
    element(if wide { 0x32 } else { 0x30 }, length | next << 16, address)
}

fn list(at: usize, elements: &[Vec<u8>]) -> Frame {
    let mut bytes = vec![0; at];
    bytes.extend(elements.concat());
    Frame::new(&bytes)
}

fn found(driver: &Driver, frame: &Frame, chain_offset: u8, length: u32) -> Result<Vec<(u64, usize)>, u16> {
    let segments = walk(&driver.memory, frame, 0x30, chain_offset, length)?;
    Ok(segments
        .iter()
        .map(|segment| (segment.address, segment.length))
        .collect())
}

#[test]
fn simple_elements_follow_each_other_in_both_widths() {
    let driver = Driver::new();
    let frame = list(
        0x30,
        &[
            element(0x10, 100, 0x1000),
            element(0x12, 0, 5),
            element(0x12, 200, 0x9_0000_0000),
            element(0xd1, 300, 0x3000),
        ],
    );
    let whole = vec![(0x1000, 100), (0x9_0000_0000, 200), (0x3000, 300)];
    assert_eq!(found(&driver, &frame, 0, 600), Ok(whole.clone()));
    assert_eq!(found(&driver, &frame, 0, 9999), Ok(whole), "a list that is shorter");
    assert_eq!(
        found(&driver, &frame, 0, 150),
        Ok(vec![(0x1000, 100), (0x9_0000_0000, 50)])
    );
    assert_eq!(found(&driver, &frame, 0, 0), Ok(vec![]));
}

#[test]
fn chains_are_followed_from_buffer_to_buffer() {
    let driver = Driver::new();
    for wide in [false, true] {
        let size = if wide { 12 } else { 8 };
        let simple = if wide { 0x12 } else { 0x10 };
        // Two elements and a chain element in the frame, the same in the first buffer, one element in the last.
        let block = |first: u64, next: Vec<u8>| {
            let last = element(simple | 0x80, 0x10, first + 0x100);
            [element(simple, 0x10, first), last, next].concat()
        };
        let (first, second) = (CHAINS, CHAINS + 0x1000);
        driver.fill(first, &block(0x2000, chain(wide, size, 0, second)));
        driver.fill(second, &element(simple | 0xc1, 0x10, 0x3000));
        let length = 3 * size;
        let frame = list(0x30, &[block(0x1000, chain(wide, length, 2 * size / 4, first))]);
        let offset = (0x30 + 2 * size) / 4;
        let expected = [0x1000, 0x1100, 0x2000, 0x2100, 0x3000].map(|address| (address, 0x10));
        assert_eq!(found(&driver, &frame, offset as u8, 0x50), Ok(expected.to_vec()));
    }
}

#[test]
fn what_makes_no_list_is_refused() {
    let driver = Driver::new();
    for frame in [
        // A transaction, an address of the IOC's own, an element of no kind.
        list(0x30, &[element(0x00, 16, 0x1000)]),
        list(0x30, &[element(0x18, 16, 0x1000)]),
        list(0x30, &[element(0x20, 16, 0x1000)]),
        // A chain in the IOC's own memory.
        list(0x30, &[element(0x38, 16, CHAINS)]),
        // A chain to nowhere, and one that is empty.
        list(0x30, &[chain(false, 16, 0, MEMORY as u64)]),
        list(0x30, &[chain(false, 0, 0, CHAINS)]),
        // No end within the frame.
        list(0x30, &(0..10).map(|at| element(0x10, 1, at)).collect::<Vec<_>>()),
    ] {
        assert_eq!(found(&driver, &frame, 0, 4096), Err(INVALID));
    }
    // The chain element is behind the frame, or none.
    let frame = list(0x30, &[element(0x90, 16, 0x1000)]);
    assert_eq!(found(&driver, &frame, 255, 4096), Err(INVALID));
    assert_eq!(found(&driver, &frame, 12, 4096), Err(INVALID));
    assert_eq!(found(&driver, &frame, 0, 4096), Ok(vec![(0x1000, 16)]));
    driver.fill(CHAINS, &element(0xd1, 16, 0x2000));
    for (flags, expected) in [(0x30, Ok(vec![(0x1000, 16), (0x2000, 16)])), (0x38, Err(INVALID))] {
        let frame = list(0x30, &[element(0x90, 16, 0x1000), element(flags, 8, CHAINS)]);
        assert_eq!(found(&driver, &frame, 14, 4096), expected, "{flags:#x}");
    }
}

#[test]
fn chains_without_end_are_cut_off() {
    let driver = Driver::new();
    driver.fill(CHAINS, &[element(0x90, 0, 0), chain(false, 16, 2, CHAINS)].concat());
    let frame = list(0x30, &[chain(false, 16, 2, CHAINS)]);
    assert_eq!(found(&driver, &frame, 0, 4096), Err(INVALID));
    // Very many elements.
    let mut many = Vec::new();
    while many.len() + 8 <= 0xfff8 {
        many.extend(element(0x10, 1, 0));
    }
    driver.fill(CHAINS, &many[..0x8000]);
    driver.fill(CHAINS + 0x8000, &chain(false, 0x8008, 0, CHAINS));
    let frame = list(0x30, &[chain(false, 0x8008, 0, CHAINS)]);
    assert_eq!(found(&driver, &frame, 0, u32::MAX), Err(INVALID));
}

#[test]
fn a_transfer_by_a_chain_arrives() {
    let mut driver = Driver::new();
    let data: Vec<u8> = (0..4 * BLOCK).map(|at| (at % 253) as u8).collect();
    driver.fill(DATA, &data);
    driver.ok(&write(0, 0, 4));
    let mut request = read(0, 0, 4);
    let pieces: Vec<Vec<u8>> = (0..8)
        .map(|piece| element(0x10, 256, DATA + 0x1_0000 + 0x1000 * piece))
        .collect();
    let mut buffer = pieces[1..].concat();
    // The last element ends the list.
    buffer[6 * 8 + 3] = 0xd1;
    driver.fill(CHAINS, &buffer);
    request[0x30..0x38].copy_from_slice(&pieces[0]);
    request[0x33] = 0x90;
    request[0x38..0x40].copy_from_slice(&chain(false, 56, 0, CHAINS));
    request[2] = 0x38 / 4;
    driver.ok(&request);
    let arrived: Vec<u8> = (0..8)
        .flat_map(|piece| driver.bytes(DATA + 0x1_0000 + 0x1000 * piece, 256))
        .collect();
    assert!(arrived == data);
    request[0x3b] = 0x20;
    assert_eq!(ioc_status(&driver.run(&request).frame()), INVALID);
    // Data that are not in memory.
    let mut request = read(0, 0, 4);
    request[0x30..0x38].copy_from_slice(&simple(MEMORY as u64 - 16, 2048));
    assert_eq!(ioc_status(&driver.run(&request).frame()), INVALID);
}
