//! An NVMe controller under a hostile driver: registers, doorbells, guest memory and commands in any order.
#![no_main]

use std::sync::{Arc, Mutex, OnceLock};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use storlock_vmm::irq::InterruptMode;
use storlock_vmm::storage::backend::MemoryBackend;
use storlock_vmm::storage::interrupts::InterruptSink;
use storlock_vmm::storage::nvme::{Controller, NvmeConfig};
use storlock_vmm::storage::worker::{Progress, StorageController as _};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const MEMORY: usize = 1 << 20;
const DISK: usize = 1 << 18;
/// CC with EN, IOSQES and IOCQES.
const ENABLE: u32 = 0x0046_0001;

#[derive(Clone, Copy, Debug, Default, Arbitrary)]
enum Mode {
    #[default]
    Msix,
    Msi(u8),
    Intx,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Write32 {
        offset: u16,
        value: u32,
    },
    Write64 {
        offset: u16,
        value: u64,
    },
    Write {
        offset: u16,
        data: [u8; 3],
        length: u8,
    },
    Read {
        offset: u16,
        length: u8,
    },
    /// Into guest memory, in the first pages.
    Memory {
        address: u16,
        data: [u8; 8],
    },
    /// A command in the ring of a queue, and its doorbell.
    Command {
        queue: u8,
        opcode: u8,
        dwords: [u32; 15],
    },
    /// An I/O queue pair of the given size.
    Queues {
        id: u8,
        entries: u8,
    },
    BusMaster(bool),
    /// How the function interrupts from now on.
    Interrupts(Mode),
    Process,
}

/// Told of each message that is sent.
type Sent = Arc<dyn Fn(u16, Option<u8>) + Send + Sync>;

#[derive(Default)]
struct Interrupts(Mutex<(Mode, bool)>, OnceLock<Sent>);

impl Interrupts {
    fn sent(&self, vector: u16) {
        if let Some(observer) = self.1.get() {
            observer(vector, None);
        }
    }
}

impl InterruptSink for Interrupts {
    fn mode(&self) -> InterruptMode {
        match self.0.lock().expect("no panic").0 {
            Mode::Msix => InterruptMode::Msix,
            Mode::Msi(log2) => InterruptMode::Msi {
                messages: 1 << (log2 % 6),
            },
            Mode::Intx => InterruptMode::Intx,
        }
    }

    fn signal(&self, vector: u16) {
        let limit = match self.mode() {
            InterruptMode::Msix => 5,
            InterruptMode::Msi { messages } => messages,
            InterruptMode::Intx => 0,
        };
        assert!(vector < limit);
        self.sent(vector);
    }

    fn observe_sent(&self, observer: Sent) {
        let _ = self.1.set(observer);
    }

    fn set_level(&self, pending: bool) {
        self.0.lock().expect("no panic").1 = pending;
    }
}

/// Bounded: what a guest can make one call do.
fn settle(controller: &mut Controller) {
    for _ in 0..1000 {
        if controller.process() == Progress::Idle {
            return;
        }
    }
}

fn submission_ring(queue: u8) -> u64 {
    0x1000 + 0x2000 * u64::from(queue % 8)
}

struct Bench {
    memory: GuestMemoryMmap,
    controller: Controller,
    interrupts: Arc<Interrupts>,
    tails: [u32; 8],
}

impl Bench {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
        let config = NvmeConfig {
            queue_pairs: 4,
            ..NvmeConfig::default()
        };
        let interrupts = Arc::<Interrupts>::default();
        let disk = Box::new(MemoryBackend::new(DISK));
        let controller = Controller::new(
            config,
            Box::new(memory.clone()),
            Arc::clone(&interrupts) as _,
            Box::new(()),
            vec![disk],
        );
        let mut bench = Self {
            memory,
            controller: controller.expect("a controller"),
            interrupts,
            tails: [0; 8],
        };
        let registers = bench.controller.registers();
        let _ = registers.write(0x24, &0x000f_000fu32.to_le_bytes());
        let _ = registers.write(0x28, &submission_ring(0).to_le_bytes());
        let _ = registers.write(0x30, &(submission_ring(0) + 0x1000).to_le_bytes());
        let _ = registers.write(0x14, &ENABLE.to_le_bytes());
        settle(&mut bench.controller);
        bench
    }

    fn command(&mut self, queue: u8, opcode: u8, dwords: [u32; 15]) {
        let tail = &mut self.tails[usize::from(queue % 8)];
        let place = submission_ring(queue) + 64 * u64::from(*tail);
        *tail = (*tail + 1) % 16;
        let first = u32::from(opcode) | *tail << 16;
        for (index, dword) in (0u64..).zip(std::iter::once(first).chain(dwords)) {
            let _ = self.memory.write_obj(dword, GuestAddress(place + 4 * index));
        }
        let doorbell = 0x1000 + 8 * u64::from(queue % 8);
        let _ = self.controller.registers().write(doorbell, &tail.to_le_bytes());
    }

    fn create_queues(&mut self, id: u8, entries: u8) {
        let (id, size) = (u32::from(id % 8), u32::from(entries % 16) << 16);
        let base = submission_ring(id as u8) as u32;
        let mut dwords = [0; 15];
        (dwords[5], dwords[9], dwords[10]) = (base + 0x1000, size | id, id << 16 | 3);
        self.command(0, 0x05, dwords);
        (dwords[5], dwords[10]) = (base, id << 16 | 1);
        self.command(0, 0x01, dwords);
        settle(&mut self.controller);
    }

    fn step(&mut self, step: &Step) {
        let registers = self.controller.registers();
        let inside = |offset: u16| u64::from(offset % 0x2000);
        match *step {
            Step::Write32 { offset, value } => {
                let _ = registers.write(inside(offset) & !3, &value.to_le_bytes());
            }
            Step::Write64 { offset, value } => {
                let _ = registers.write(inside(offset) & !7, &value.to_le_bytes());
            }
            Step::Write { offset, data, length } => {
                let _ = registers.write(inside(offset), &data[..1 + usize::from(length % 3)]);
            }
            Step::Read { offset, length } => {
                let mut data = [0; 8];
                registers.read(inside(offset), &mut data[..1 + usize::from(length % 8)]);
            }
            Step::Memory { address, data } => {
                let _ = self.memory.write_slice(&data, GuestAddress(u64::from(address)));
            }
            Step::Command { queue, opcode, dwords } => self.command(queue, opcode, dwords),
            Step::Queues { id, entries } => self.create_queues(id, entries),
            Step::BusMaster(enabled) => self.controller.set_bus_master(enabled),
            Step::Interrupts(mode) => self.interrupts.0.lock().expect("no panic").0 = mode,
            Step::Process => settle(&mut self.controller),
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut bench = Bench::new();
    for step in steps.iter().take(64) {
        bench.step(step);
    }
    settle(&mut bench.controller);
});
