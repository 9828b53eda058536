//! The firmware configuration device by a hostile guest, against a model: by the data port and by DMA, wherever the request
//! and the data lie.
#![no_main]

use std::sync::{Arc, Mutex};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use storlock_vmm::bus::BusDevice;
use storlock_vmm::devices::fw_cfg::{FwCfg, Receiver};
use storlock_vmm::memory::GuestRam;

const RAM: u64 = 16 << 20;
const FIRST_FILE: u16 = 0x20;
/// Ports, from the first one on.
const SELECTOR: u64 = 0;
const DATA: u64 = 1;
const DMA: u64 = 4;
const DMA_LOW: u64 = 8;
/// Bits of a request's control word (QEMU documentation, fw_cfg).
const ERROR: u32 = 1;
const READ: u32 = 2;
const SKIP: u32 = 4;
const SELECT: u32 = 8;
const WRITE: u32 = 16;
/// Bytes of a request.
const REQUEST: u64 = 16;
/// Zeroes behind an item's end that one read may ask for.
const PADDING: u64 = 1 << 20;

#[derive(Debug, Arbitrary)]
enum Step {
    Select(u16),
    SelectFile(u8),
    ReadPort(u8),
    Dma {
        control: u32,
        file: Option<u8>,
        length: Length,
        target: Place,
        request: Place,
        in_halves: bool,
    },
    Port {
        offset: u8,
        data: Vec<u8>,
    },
    Reset,
}

#[derive(Debug, Arbitrary)]
enum Length {
    Short(u8),
    Middle(u16),
    Any(u32),
}

impl Length {
    fn bytes(&self) -> u32 {
        match *self {
            Self::Short(length) => length.into(),
            Self::Middle(length) => length.into(),
            Self::Any(length) => length,
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Place {
    /// Near the beginning, where requests and data may lie on one another.
    Near(u8),
    In(u32),
    /// So many bytes before the end of RAM.
    End(u8),
    Any(u64),
}

impl Place {
    fn address(&self) -> u64 {
        match *self {
            Self::Near(address) => 0x1000 + u64::from(address),
            Self::In(address) => u64::from(address) % RAM,
            Self::End(before) => RAM - u64::from(before),
            Self::Any(address) => address,
        }
    }
}

#[derive(Default)]
struct Written(Mutex<Vec<u8>>);

impl Receiver for Written {
    fn written(&self, content: &[u8]) {
        *self.0.lock().unwrap() = content.to_vec();
    }
}

struct Model {
    /// The files by number; the second may be written.
    files: [Vec<u8>; 2],
    selected: u16,
    offset: u64,
}

impl Model {
    /// `None` if it is none of the files: what the others hold is not this model's.
    fn file(&mut self) -> Option<&mut Vec<u8>> {
        let index = self.selected.checked_sub(FIRST_FILE)?;
        self.files.get_mut(usize::from(index))
    }

    fn select(&mut self, key: u16) {
        (self.selected, self.offset) = (key, 0);
    }

    fn expected(&mut self, length: u64) -> Option<Vec<u8>> {
        let offset = self.offset;
        let file = self.file()?;
        let byte = |at| {
            usize::try_from(at)
                .ok()
                .and_then(|at| file.get(at).copied())
                .unwrap_or(0)
        };
        Some((0..length).map(|index| byte(offset.saturating_add(index))).collect())
    }
}

fn inside(address: u64, length: u64) -> bool {
    address.checked_add(length).is_some_and(|end| end <= RAM)
}

fn memory(ram: &GuestRam, address: u64, length: u64) -> Vec<u8> {
    let mut data = vec![0; length as usize];
    ram.read(address, &mut data).unwrap();
    data
}

fn ask(device: &FwCfg, request: u64, in_halves: bool) {
    if in_halves {
        device.write(DMA, &((request >> 32) as u32).to_be_bytes());
        device.write(DMA_LOW, &(request as u32).to_be_bytes());
    } else {
        device.write(DMA, &request.to_be_bytes());
    }
}

fn dma(
    device: &FwCfg,
    ram: &GuestRam,
    model: &mut Model,
    written: &Written,
    (control, length, target): (u32, u64, u64),
    request: u64,
    in_halves: bool,
) {
    let mut descriptor = [control, length as u32].map(u32::to_be_bytes).concat();
    descriptor.extend(target.to_be_bytes());
    let there = inside(request, REQUEST);
    if there {
        ram.write(request, &descriptor).unwrap();
    }
    let source = inside(target, length).then(|| memory(ram, target, length.min(RAM)));
    ask(device, request, in_halves);
    if !there {
        return;
    }
    let answer = u32::from_be_bytes(memory(ram, request, 4).try_into().unwrap());
    assert!(answer == 0 || answer == ERROR);
    let done = answer == 0;
    if control & SELECT != 0 {
        model.select((control >> 16) as u16);
    }
    let offset = model.offset;
    if control & READ != 0 {
        let Some(expected) = (length <= RAM).then(|| model.expected(length)).flatten() else {
            if done {
                model.offset = offset.saturating_add(length);
            }
            return;
        };
        let left = model
            .file()
            .map_or(0, |file| (file.len() as u64).saturating_sub(offset));
        if length > 0 {
            assert_eq!(done, inside(target, length) && length.saturating_sub(left) <= PADDING);
        }
        if done && length > 0 {
            for (index, byte) in expected.iter().enumerate() {
                let at = target + index as u64;
                // The answer is written last.
                if !(request..request + 4).contains(&at) {
                    assert_eq!(memory(ram, at, 1), [*byte]);
                }
            }
        }
    } else if control & WRITE != 0 {
        let writable = model.selected == FIRST_FILE + 1;
        let room = model.file().map_or(0, |file| file.len() as u64);
        let fits = offset.checked_add(length).is_some_and(|end| end <= room);
        if length > 0 || !writable || !fits {
            assert_eq!(done, writable && fits && source.is_some());
        }
        if let (true, Some(file), Some(source)) = (done, model.file(), source) {
            let start = offset as usize;
            file[start..start + source.len()].copy_from_slice(&source);
            assert_eq!(*written.0.lock().unwrap(), *file);
        }
    } else {
        assert!(done);
        if control & SKIP == 0 {
            return;
        }
    }
    if done {
        model.offset = offset.saturating_add(length);
    }
}

fuzz_target!(|input: (Vec<u8>, u8, Vec<Step>)| {
    let (content, writable, steps) = input;
    let ram = GuestRam::new(RAM).unwrap();
    let device = FwCfg::new(ram.clone());
    let written = Arc::new(Written::default());
    let writable = usize::from(writable);
    device.add_file("etc/first", content.clone()).unwrap();
    device
        .add_writable_file("etc/second", writable, written.clone())
        .unwrap();
    let mut model = Model {
        files: [content, vec![0; writable]],
        selected: 0,
        offset: 0,
    };
    for step in steps {
        match step {
            Step::Select(key) => {
                device.write(SELECTOR, &key.to_le_bytes());
                model.select(key);
            }
            Step::SelectFile(file) => {
                let key = FIRST_FILE + u16::from(file % 3);
                device.write(SELECTOR, &key.to_le_bytes());
                model.select(key);
            }
            Step::ReadPort(count) => {
                for _ in 0..count {
                    let mut byte = [0];
                    device.read(DATA, &mut byte);
                    if let Some(expected) = model.expected(1) {
                        assert_eq!(byte[..], expected);
                    }
                    model.offset = model.offset.saturating_add(1);
                }
            }
            Step::Dma {
                control,
                file,
                length,
                target,
                request,
                in_halves,
            } => {
                let key = file.map(|file| u32::from(FIRST_FILE + u16::from(file % 3)) << 16 | SELECT);
                let control = control & if key.is_some() { 0xffff } else { u32::MAX } | key.unwrap_or(0);
                let request_is = (control, u64::from(length.bytes()), target.address());
                dma(
                    &device,
                    &ram,
                    &mut model,
                    &written,
                    request_is,
                    request.address(),
                    in_halves,
                );
            }
            // Ports that do nothing, or widths that mean nothing.
            Step::Port { offset, data } => {
                let offset = u64::from(offset % 16);
                if offset != SELECTOR && !(DMA..=DMA_LOW).contains(&offset) {
                    device.write(offset, &data[..data.len().min(8)]);
                }
                if !(SELECTOR..=DATA).contains(&offset) {
                    device.read(offset, &mut vec![0; data.len().min(8)]);
                }
            }
            Step::Reset => {
                device.reset();
                model.select(0);
                model.files[1].fill(0);
            }
        }
    }
});
