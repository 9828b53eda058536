//! Tests of the firmware configuration device.

use super::*;

const REQUEST: u64 = 0x1000;
const BUFFER: u64 = 0x2000;

fn device() -> (FwCfg, GuestRam) {
    let ram = GuestRam::new(16 << 20).unwrap();
    (FwCfg::new(ram.clone()), ram)
}

fn select(device: &FwCfg, key: u16) {
    device.write(SELECTOR, &key.to_le_bytes());
}

fn bytes(device: &FwCfg, count: usize) -> Vec<u8> {
    let byte = |_| {
        let mut byte = [0];
        device.read(DATA, &mut byte);
        byte[0]
    };
    (0..count).map(byte).collect()
}

/// Makes a request; the answer is what the control field holds afterwards.
fn dma(device: &FwCfg, ram: &GuestRam, control: u32, length: u32, address: u64) -> u32 {
    let mut request = [control, length].map(u32::to_be_bytes).concat();
    request.extend(address.to_be_bytes());
    ram.write(REQUEST, &request).unwrap();
    device.write(DMA_HIGH, &0u32.to_be_bytes());
    device.write(DMA_LOW, &(REQUEST as u32).to_be_bytes());
    let mut answer = [0; 4];
    ram.read(REQUEST, &mut answer).unwrap();
    u32::from_be_bytes(answer)
}

fn memory(ram: &GuestRam, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ram.read(at, &mut bytes).unwrap();
    bytes
}

#[derive(Default)]
struct Note(Mutex<Vec<Vec<u8>>>);

impl Receiver for Note {
    fn written(&self, content: &[u8]) {
        self.0.lock().unwrap().push(content.to_vec());
    }
}

#[test]
fn the_data_port_gives_the_selected_item_and_then_zeroes() {
    let (device, _) = device();
    select(&device, key::SIGNATURE);
    assert_eq!(bytes(&device, 6), b"QEMU\0\0");
    select(&device, key::ID);
    assert_eq!(bytes(&device, 4), [3, 0, 0, 0]);
    select(&device, 0x7777);
    assert_eq!(bytes(&device, 2), [0, 0]);
    let mut signature = [0; 8];
    device.read(DMA_HIGH, &mut signature);
    assert_eq!(&signature, b"QEMU CFG");
}

#[test]
fn files_are_in_the_directory_with_size_and_key() {
    let (device, _) = device();
    device.add_file("etc/first", vec![1, 2, 3]).unwrap();
    device.add_file("etc/second", vec![9]).unwrap();
    select(&device, key::FILE_DIRECTORY);
    let directory = bytes(&device, 4 + 2 * 64);
    assert_eq!(directory[..12], [0, 0, 0, 2, 0, 0, 0, 3, 0, 0x20, 0, 0]);
    assert_eq!(&directory[12..22], b"etc/first\0");
    assert_eq!(directory[68..74], [0, 0, 0, 1, 0, 0x21]);
    select(&device, 0x20);
    assert_eq!(bytes(&device, 3), [1, 2, 3]);
    assert!(device.add_file("etc/first", vec![]).is_err());
    assert!(device.add_file(&"x".repeat(56), vec![]).is_err());
}

#[test]
fn dma_selects_skips_and_reads_in_one_go_each() {
    let (device, ram) = device();
    device.add_file("etc/numbers", (0..100).collect()).unwrap();
    ram.write(BUFFER, &[0xee; 8]).unwrap();
    let select = control::SELECT | 0x20 << 16;
    assert_eq!(dma(&device, &ram, select | control::SKIP, 10, 0), 0);
    assert_eq!(dma(&device, &ram, control::READ, 4, BUFFER), 0);
    assert_eq!(memory(&ram, BUFFER, 5), [10, 11, 12, 13, 0xee]);
    assert_eq!(dma(&device, &ram, control::SKIP, 84, 0), 0);
    assert_eq!(dma(&device, &ram, control::READ, 4, BUFFER), 0);
    assert_eq!(memory(&ram, BUFFER, 5), [98, 99, 0, 0, 0xee]);
}

#[test]
fn what_cannot_be_done_is_answered_by_the_error_bit() {
    let (device, ram) = device();
    let signature = control::SELECT | u32::from(key::SIGNATURE) << 16;
    assert_eq!(
        dma(&device, &ram, signature | control::READ, 4, 1 << 40),
        control::ERROR
    );
    assert_eq!(
        dma(&device, &ram, signature | control::READ, u32::MAX, BUFFER),
        control::ERROR
    );
    assert_eq!(
        dma(&device, &ram, signature | control::READ, 8, u64::MAX - 4),
        control::ERROR
    );
    assert_eq!(
        dma(&device, &ram, signature | control::WRITE, 4, BUFFER),
        control::ERROR,
        "not writable"
    );
}

#[test]
fn a_writable_file_hands_its_whole_content_on() {
    let (device, ram) = device();
    let note = Arc::new(Note::default());
    device.add_writable_file("etc/ramfb", 4, note.clone()).unwrap();
    ram.write(BUFFER, &[1, 2, 3, 4, 5]).unwrap();
    let select = control::SELECT | 0x20 << 16;
    assert_eq!(dma(&device, &ram, select | control::WRITE, 2, BUFFER), 0);
    assert_eq!(dma(&device, &ram, control::WRITE, 2, BUFFER), 0);
    assert_eq!(dma(&device, &ram, control::WRITE, 1, BUFFER), control::ERROR, "full");
    assert_eq!(
        dma(&device, &ram, select | control::WRITE, u32::MAX, BUFFER),
        control::ERROR
    );
    assert_eq!(*note.0.lock().unwrap(), [vec![1, 2, 0, 0], vec![1, 2, 1, 2]]);
}

#[test]
fn every_offset_and_length_is_harmless() {
    let (device, _) = device();
    for (offset, length) in (0..20).flat_map(|offset| (0..9).map(move |length| (offset, length))) {
        device.write(offset, &vec![0xff; length]);
        device.read(offset, &mut vec![0; length]);
    }
}
