//! A SAS controller under a hostile driver: registers, handshakes, messages and guest memory in any order.
#![no_main]

use std::sync::{Arc, Mutex, OnceLock};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use storlock_vmm::irq::InterruptMode;
use storlock_vmm::storage::backend::MemoryBackend;
use storlock_vmm::storage::interrupts::InterruptSink;
use storlock_vmm::storage::sas::{Controller, SasConfig};
use storlock_vmm::storage::worker::{Progress, StorageController};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const MEMORY: usize = 1 << 20;
const DISK: usize = 1 << 18;
/// Registers.
const DOORBELL: u64 = 0x00;
const HOST_INTERRUPT_STATUS: u64 = 0x30;
const REQUEST_QUEUE: u64 = 0x40;
const REPLY_QUEUE: u64 = 0x44;
const HI_PRI_REQUEST_QUEUE: u64 = 0x48;

#[derive(Clone, Copy, Debug, Default, Arbitrary)]
enum Mode {
    #[default]
    Intx,
    Msi,
    Msix,
}

#[derive(Debug, Arbitrary)]
enum Step<'a> {
    Write {
        offset: u8,
        value: u32,
    },
    WriteOdd {
        offset: u16,
        data: [u8; 7],
        length: u8,
    },
    Read {
        offset: u16,
        length: u8,
    },
    /// Into guest memory, in the first pages.
    Memory {
        address: u16,
        data: [u8; 12],
    },
    /// A request in a frame, and its post.
    Message {
        frame: u8,
        function: u8,
        data: &'a [u8],
        urgent: bool,
    },
    /// A message by the doorbell.
    Handshake {
        function: u8,
        data: &'a [u8],
    },
    /// The keys, and a diagnostic reset.
    Reset,
    /// From a reset to a controller that takes requests, with frames for replies.
    Initialise {
        frames: u8,
    },
    BusMaster(bool),
    Interrupts(Mode),
    Process,
}

/// Told of each message that is sent.
type Sent = Arc<dyn Fn(u16, Option<u8>) + Send + Sync>;

#[derive(Default)]
struct Interrupts(Mutex<Mode>, OnceLock<Sent>);

impl Interrupts {
    fn sent(&self, vector: u16) {
        if let Some(observer) = self.1.get() {
            observer(vector, None);
        }
    }
}

impl InterruptSink for Interrupts {
    fn mode(&self) -> InterruptMode {
        match *self.0.lock().expect("no panic") {
            Mode::Intx => InterruptMode::Intx,
            Mode::Msi => InterruptMode::Msi { messages: 1 },
            Mode::Msix => InterruptMode::Msix,
        }
    }

    fn signal(&self, vector: u16) {
        assert_eq!(vector, 0);
        self.sent(vector);
    }

    fn observe_sent(&self, observer: Sent) {
        let _ = self.1.set(observer);
    }

    fn set_level(&self, _pending: bool) {}
}

struct Bench {
    memory: GuestMemoryMmap,
    controller: Controller,
    interrupts: Arc<Interrupts>,
}

impl Bench {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
        let interrupts = Arc::<Interrupts>::default();
        let disk = || Box::new(MemoryBackend::new(DISK)) as Box<_>;
        let controller = Controller::new(
            SasConfig::default(),
            Box::new(memory.clone()),
            Arc::clone(&interrupts) as _,
            vec![disk(), disk()],
        );
        let mut bench = Self {
            memory,
            controller: controller.expect("a controller"),
            interrupts,
        };
        bench.initialise(8);
        bench
    }

    /// Bounded: what a guest can make one call do.
    fn settle(&mut self) {
        for _ in 0..1000 {
            if self.controller.process() == Progress::Idle {
                return;
            }
        }
        panic!("the controller does not come to rest");
    }

    fn write(&self, place: u64, value: u32) {
        let _ = self.controller.registers().write(place, &value.to_le_bytes());
    }

    fn handshake(&mut self, function: u8, data: &[u8]) {
        let mut message = data[..data.len().min(128)].to_vec();
        message.resize(message.len().next_multiple_of(4).max(12), 0);
        message[3] = function;
        self.write(DOORBELL, 0x42 << 24 | (message.len() as u32 / 4) << 16);
        self.write(HOST_INTERRUPT_STATUS, 0);
        for word in message.chunks_exact(4) {
            self.write(DOORBELL, u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        }
        self.settle();
        // The reply: read to its end, and it has one.
        for _ in 0..256 {
            self.write(HOST_INTERRUPT_STATUS, 0);
        }
    }

    fn reset(&mut self) {
        for key in [0xff, 4, 0xb, 2, 7, 0xd] {
            self.write(0x04, key);
        }
        self.write(0x08, 0x84);
        self.settle();
    }

    fn initialise(&mut self, frames: u8) {
        self.controller.set_bus_master(true);
        self.reset();
        let mut init = [0; 0x2c];
        (init[0], init[5], init[6], init[0x0c]) = (4, 8, 1, 80);
        self.handshake(0x02, &init);
        for frame in 0..u32::from(frames % 32) {
            self.write(REPLY_QUEUE, 0x8_0000 + 0x100 * frame);
        }
        self.settle();
    }

    fn step(&mut self, step: &Step<'_>) {
        let registers = self.controller.registers();
        match *step {
            Step::Write { offset, value } => self.write(u64::from(offset) & !3, value),
            Step::WriteOdd { offset, data, length } => {
                let _ = registers.write(u64::from(offset), &data[..usize::from(length % 8)]);
            }
            Step::Read { offset, length } => {
                registers.read(u64::from(offset), &mut [0; 8][..usize::from(length % 9)]);
            }
            Step::Memory { address, data } => {
                let _ = self.memory.write_slice(&data, GuestAddress(u64::from(address)));
            }
            Step::Message {
                frame,
                function,
                data,
                urgent,
            } => {
                let mut message = [0; 128];
                let length = data.len().min(128);
                message[..length].copy_from_slice(&data[..length]);
                message[3] = function;
                let address = 0x1_0000 + 0x80 * u32::from(frame);
                let _ = self.memory.write_slice(&message, GuestAddress(address.into()));
                self.write(if urgent { HI_PRI_REQUEST_QUEUE } else { REQUEST_QUEUE }, address);
            }
            Step::Handshake { function, data } => self.handshake(function, data),
            Step::Reset => self.reset(),
            Step::Initialise { frames } => self.initialise(frames),
            Step::BusMaster(enabled) => self.controller.set_bus_master(enabled),
            Step::Interrupts(mode) => {
                *self.interrupts.0.lock().expect("no panic") = mode;
                registers.interrupts_changed();
            }
            Step::Process => self.settle(),
        }
    }
}

fuzz_target!(|steps: Vec<Step<'_>>| {
    let mut bench = Bench::new();
    for step in steps.iter().take(64) {
        bench.step(step);
    }
    bench.settle();
});
