//! The devices of the board and the firmware's flash, at their ports and registers, by a hostile guest.
#![no_main]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use storlock_vmm::bus::{Bus, BusDevice};
use storlock_vmm::devices::board::{Board, BoardParts};
use storlock_vmm::devices::fw_cfg::Receiver;
use storlock_vmm::devices::pflash::{FLASH_BLOCK, Flash, FlashArray};
use storlock_vmm::devices::rtc::MemorySizes;
use storlock_vmm::devices::{Clock, PowerControl, PowerEvent};
use storlock_vmm::irq::InterruptLine;
use storlock_vmm::memory::GuestRam;

const FLASH_LENGTH: usize = 2 * FLASH_BLOCK as usize;
const RAM: u64 = 16 << 20;
const WRITABLE_LENGTH: usize = 28;

#[derive(Debug, Arbitrary)]
enum Step {
    Out {
        port: Port,
        data: [u8; 8],
        length: u8,
    },
    In {
        port: Port,
        length: u8,
    },
    FlashWrite {
        offset: u16,
        data: [u8; 8],
        length: u8,
    },
    FlashRead {
        offset: u16,
        length: u8,
    },
    /// A request to the firmware configuration device, in memory and then by its address.
    Request {
        control: u32,
        length: u32,
        address: u64,
        at: u32,
    },
    Pass(u32),
    PassLong(u32),
    PressPowerButton,
    Pin {
        slot: u8,
        pin: u8,
        asserted: bool,
    },
}

/// Ports that are in use are worth more than others.
#[derive(Debug, Arbitrary)]
enum Port {
    Used(u8),
    Any(u16),
}

const USED: [u64; 34] = [
    0x60, 0x64, 0x70, 0x71, 0x92, 0x2f8, 0x2f9, 0x2fb, 0x3f8, 0x3f9, 0x3fa, 0x402, 0x510, 0x511, 0x514, 0x518, 0xcf8,
    0xcf9, 0xcfc, 0xcfd, 0xcfe, 0xb000, 0xb001, 0xb002, 0xb003, 0xb004, 0xb005, 0xb008, 0xb00a, 0xb00c, 0xb00d, 0xb00e,
    0xb00f, 0x61,
];

impl Port {
    fn number(&self) -> u64 {
        match self {
            Self::Used(index) => USED[usize::from(*index) % USED.len()],
            Self::Any(port) => u64::from(*port),
        }
    }
}

#[derive(Default)]
struct Time(Mutex<Duration>);

impl Clock for Time {
    fn elapsed(&self) -> Duration {
        *self.0.lock().unwrap()
    }
    fn wall(&self) -> Duration {
        Duration::from_secs(1 << 30) + self.elapsed()
    }
}

struct Nothing;

impl PowerControl for Nothing {
    fn request(&self, _event: PowerEvent) {}
}

impl InterruptLine for Nothing {
    fn set_level(&self, _asserted: bool) {}
}

impl Receiver for Nothing {
    fn written(&self, content: &[u8]) {
        assert_eq!(content.len(), WRITABLE_LENGTH);
    }
}

struct Array(Mutex<Vec<u8>>);

impl FlashArray for Array {
    fn length(&self) -> u64 {
        FLASH_LENGTH as u64
    }
    fn read(&self, offset: u64, data: &mut [u8]) {
        let offset = offset as usize;
        data.copy_from_slice(&self.0.lock().unwrap()[offset..offset + data.len()]);
    }
    fn write(&self, offset: u64, data: &[u8]) {
        let offset = offset as usize;
        self.0.lock().unwrap()[offset..offset + data.len()].copy_from_slice(data);
    }
    fn set_direct(&self, _direct: bool) {}
}

fn length(wanted: u8) -> usize {
    usize::from(wanted % 8) + 1
}

fuzz_target!(|steps: Vec<Step>| {
    let (pio, mmio) = (Arc::new(Bus::pio()), Arc::new(Bus::mmio()));
    let (clock, ram) = (Arc::new(Time::default()), GuestRam::new(RAM).unwrap());
    let parts = BoardParts {
        clock: clock.clone(),
        power: Arc::new(Nothing),
        inputs: std::array::from_fn(|_| Arc::new(Nothing) as Arc<dyn InterruptLine>),
        serial_outputs: [Box::new(std::io::sink()), Box::new(std::io::sink())],
        debug_output: Box::new(std::io::sink()),
        memory: MemorySizes { low: RAM, high: 0 },
        ram: ram.clone(),
    };
    let board = Board::new(parts, &pio, &mmio).unwrap();
    board.fw_cfg.add_file("etc/first", vec![1; 100]).unwrap();
    board
        .fw_cfg
        .add_writable_file("etc/second", WRITABLE_LENGTH, Arc::new(Nothing))
        .unwrap();
    let flash = Flash::new(Arc::new(Array(Mutex::new(vec![0; FLASH_LENGTH]))));
    for step in steps {
        match step {
            Step::Out { port, data, length: l } => pio.write(port.number(), &data[..length(l)]),
            Step::In { port, length: l } => pio.read(port.number(), &mut [0; 8][..length(l)]),
            Step::FlashWrite {
                offset,
                data,
                length: l,
            } => flash.write(offset.into(), &data[..length(l)]),
            Step::FlashRead { offset, length: l } => flash.read(offset.into(), &mut [0; 8][..length(l)]),
            Step::Request {
                control,
                length,
                address,
                at,
            } => {
                let mut request = [control, length].map(u32::to_be_bytes).concat();
                request.extend(address.to_be_bytes());
                // Where there is no RAM the device has to cope.
                let _ = ram.write(at.into(), &request);
                pio.write(0x518, &at.to_be_bytes());
            }
            Step::Pass(microseconds) => {
                *clock.0.lock().unwrap() += Duration::from_micros(microseconds.into());
                // As the timer's thread does, which sleeps that long.
                board.rtc.interrupt_if_due();
            }
            Step::PassLong(seconds) => *clock.0.lock().unwrap() += Duration::from_secs(seconds.into()),
            Step::PressPowerButton => board.power.press_power_button(),
            Step::Pin { slot, pin, asserted } => board.pirq.pin(slot, pin).set_level(asserted),
        }
    }
});
