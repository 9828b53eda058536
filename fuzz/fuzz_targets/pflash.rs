//! The firmware's flash by a hostile guest, against a model that is written a byte at a time.
#![no_main]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use storlock_vmm::bus::BusDevice;
use storlock_vmm::devices::pflash::{FLASH_BLOCK, Flash, FlashArray};

const BLOCK: usize = FLASH_BLOCK as usize;
const LENGTH: usize = 2 * BLOCK;

#[derive(Debug, Arbitrary)]
enum Step {
    /// A command where it is wanted.
    Command(Command, u16),
    Program(u16, u8),
    Erase(u16, bool),
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    Read {
        offset: u64,
        length: u8,
    },
    Reset,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Command {
    Array,
    Status,
    ClearStatus,
    Identifier,
    Any(u8),
}

impl Command {
    fn byte(self) -> u8 {
        match self {
            Self::Array => 0xff,
            Self::Status => 0x70,
            Self::ClearStatus => 0x50,
            Self::Identifier => 0x90,
            Self::Any(byte) => byte,
        }
    }
}

/// The array, which checks each access.
struct Array {
    bytes: Mutex<Vec<u8>>,
    direct: AtomicBool,
}

impl FlashArray for Array {
    fn length(&self) -> u64 {
        LENGTH as u64
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let offset = offset as usize;
        data.copy_from_slice(&self.bytes.lock().unwrap()[offset..offset + data.len()]);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let offset = offset as usize;
        self.bytes.lock().unwrap()[offset..offset + data.len()].copy_from_slice(data);
    }

    fn set_direct(&self, direct: bool) {
        self.direct.store(direct, Ordering::SeqCst);
    }
}

/// What the next byte means.
#[derive(PartialEq)]
enum Next {
    Command,
    Program,
    Erase,
}

struct Model {
    bytes: Vec<u8>,
    next: Next,
    /// Reads give the array.
    array: bool,
}

impl Model {
    fn write(&mut self, offset: u64, data: &[u8]) {
        for (value, at) in data.iter().zip(offset..) {
            let Some(at) = usize::try_from(at).ok().filter(|at| *at < LENGTH) else {
                continue;
            };
            match std::mem::replace(&mut self.next, Next::Command) {
                Next::Program => self.bytes[at] &= value,
                Next::Erase if *value == 0xd0 => self.bytes[at / BLOCK * BLOCK..][..BLOCK].fill(0xff),
                Next::Erase => {}
                Next::Command => {
                    self.next = match value {
                        0x10 | 0x40 => Next::Program,
                        0x20 => Next::Erase,
                        _ => Next::Command,
                    };
                    self.array = !matches!(value, 0x10 | 0x40 | 0x20 | 0x70 | 0x90);
                }
            }
        }
    }
}

fuzz_target!(|input: (u8, Vec<Step>)| {
    let (fill, steps) = input;
    let array = Arc::new(Array {
        bytes: Mutex::new(vec![fill; LENGTH]),
        direct: AtomicBool::new(false),
    });
    let flash = Flash::new(array.clone());
    let mut model = Model {
        bytes: vec![fill; LENGTH],
        next: Next::Command,
        array: true,
    };
    for step in steps {
        let writes: Vec<(u64, Vec<u8>)> = match step {
            Step::Command(command, offset) => vec![(offset.into(), vec![command.byte()])],
            Step::Program(offset, value) => vec![(offset.into(), vec![0x40]), (offset.into(), vec![value])],
            Step::Erase(offset, confirmed) => {
                let second = if confirmed { 0xd0 } else { 0xff };
                vec![(offset.into(), vec![0x20]), (offset.into(), vec![second])]
            }
            Step::Write { offset, mut data } => {
                data.truncate(8);
                vec![(offset % (u64::MAX - 8), data)]
            }
            Step::Read { offset, length } => {
                let offset = offset % (u64::MAX - 8);
                let mut data = vec![0; usize::from(length % 9)];
                flash.read(offset, &mut data);
                if model.array {
                    for (byte, at) in data.iter().zip(offset..) {
                        let there = usize::try_from(at).ok().and_then(|at| model.bytes.get(at));
                        assert_eq!(*byte, there.copied().unwrap_or(0xff));
                    }
                }
                Vec::new()
            }
            Step::Reset => {
                flash.reset();
                (model.next, model.array) = (Next::Command, true);
                Vec::new()
            }
        };
        for (offset, data) in writes {
            flash.write(offset, &data);
            model.write(offset, &data);
        }
        assert_eq!(array.direct.load(Ordering::SeqCst), model.array);
        assert_eq!(*array.bytes.lock().unwrap(), model.bytes);
    }
});
