//! Very many random operations against an independent model of queues. Each command that the host rang for completes
//! once, if there is room, in order and with the right identifiers, heads and phase; nothing else is ever posted.
//!
//! What the commands ask for is random and mostly wrong; the rings lie where no command can write.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

use super::harness::{CC_ENABLE, Interrupts, Progress, StorageController as _};
use super::hostile::{Escapes, Watched};
use crate::storage::backend::MemoryBackend;
use crate::storage::nvme::life::Activity;
use crate::storage::nvme::spec::command::{SubmissionEntry, admin};
use crate::storage::nvme::{Controller, NvmeConfig};

/// What commands may reach: two pieces of RAM, with a hole between them.
const RAM: [(u64, u64); 2] = [(0, 0x10000), (0x2_0000, 0x8000)];
/// Where the rings are.
const RINGS: (u64, u64) = (0x10_0000_0000, 0x2_0000);
const PAIRS: usize = 3;
const DISK: usize = 64 * 1024;

/// SplitMix64: the same operations for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }

    fn address(&mut self) -> u64 {
        match self.below(8) {
            0..5 => self.below(0x2a) * 0x1000,
            5 => self.below(0x2_a000) & !3,
            6 => u64::MAX - self.below(0x2000),
            // Never where the rings are.
            _ => self.next() | 1 << 63,
        }
    }

    fn dword(&mut self) -> u32 {
        match self.below(8) {
            0..4 => self.below(12) as u32,
            4 => self.below(200) as u32,
            5 | 6 => (self.below(8) | self.below(8) << 16) as u32,
            _ => self.next() as u32,
        }
    }
}

/// One queue pair as a host has to see it.
struct Pair {
    id: u16,
    submission: u64,
    completion: u64,
    entries: (u32, u32),
    /// Identifiers in the ring of commands.
    slots: Vec<u16>,
    /// Where the host writes next, what it has rung, what the controller has to have fetched.
    written: u32,
    tail: u32,
    fetched: u32,
    /// What the host has consumed, and where the controller posts next.
    head: u32,
    posted: u32,
    phase: bool,
    /// Posted and not consumed.
    unread: u32,
    /// Identifier and head of what has to be posted now.
    expected: VecDeque<(u16, u32)>,
}

impl Pair {
    fn new(id: usize, entries: (u32, u32)) -> Self {
        let base = RINGS.0 + id as u64 * 0x4000;
        Self {
            id: id as u16,
            submission: base,
            completion: base + 0x2000,
            entries,
            slots: vec![0; entries.0 as usize],
            written: 0,
            tail: 0,
            fetched: 0,
            head: 0,
            posted: 0,
            phase: true,
            unread: 0,
            expected: VecDeque::new(),
        }
    }

    /// Rings the tail doorbell with any value. Where the tail may be: from where it is on to the entry before the head.
    fn ring_tail(&mut self, value: u32) {
        let size = self.entries.0;
        let mut allowed = self.tail;
        while allowed != value {
            if (allowed + 1) % size == self.fetched {
                return;
            }
            allowed = (allowed + 1) % size;
            if allowed == self.tail {
                return;
            }
        }
        self.tail = value;
    }

    /// Rings the head doorbell with any value. Where the head may be: from where it is on to what was posted.
    fn ring_head(&mut self, value: u32) {
        let size = self.entries.1;
        for consumed in 0..=self.unread {
            if (self.head + consumed) % size == value {
                self.head = value;
                self.unread -= consumed;
                return;
            }
        }
    }

    /// What the controller does once it is left alone.
    fn work(&mut self) {
        while self.fetched != self.tail && self.unread < self.entries.1 - 1 {
            let id = self.slots[self.fetched as usize];
            self.fetched = (self.fetched + 1) % self.entries.0;
            self.unread += 1;
            self.expected.push_back((id, self.fetched));
        }
    }

    /// Compares the completion queue with what has to be in it. Returns how many of the new completions are successes.
    fn check(&mut self, memory: &GuestMemoryMmap) -> u64 {
        let mut succeeded = 0;
        let entry_at = |slot: u32| -> [u16; 8] {
            let address = GuestAddress(self.completion + 16 * u64::from(slot));
            let bytes: [u8; 16] = memory.read_obj(address).unwrap();
            std::array::from_fn(|at| u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]))
        };
        while let Some((id, fetched)) = self.expected.pop_front() {
            let entry = entry_at(self.posted);
            assert_eq!(
                entry[7] & 1 != 0,
                self.phase,
                "queue {}: a completion is missing",
                self.id
            );
            assert_eq!((entry[6], entry[5]), (id, self.id), "identifiers of command and queue");
            assert_eq!(u32::from(entry[4]), fetched, "SQHD");
            assert_eq!((entry[2], entry[3]), (0, 0), "dword 1 is reserved");
            succeeded += u64::from(entry[7] >> 1 == 0);
            self.posted += 1;
            if self.posted == self.entries.1 {
                self.posted = 0;
                self.phase = !self.phase;
            }
        }
        let next = entry_at(self.posted);
        assert_ne!(next[7] & 1 != 0, self.phase, "queue {}: posted too much", self.id);
        succeeded
    }
}

struct Host {
    random: Random,
    memory: GuestMemoryMmap,
    escaped: Escapes,
    controller: Controller,
    pairs: Vec<Option<Pair>>,
    commands: u64,
    succeeded: u64,
}

impl Host {
    fn new(seed: u64) -> Self {
        let ranges: Vec<_> = RAM
            .iter()
            .chain([&RINGS])
            .map(|&(base, size)| (GuestAddress(base), size as usize))
            .collect();
        let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        let escaped = Arc::<Mutex<_>>::default();
        let watched = Watched {
            memory: memory.clone(),
            ram: ranges.iter().map(|&(base, size)| (base.0, size as u64)).collect(),
            escaped: Arc::clone(&escaped),
        };
        let config = NvmeConfig {
            queue_pairs: PAIRS as u16,
            ..NvmeConfig::default()
        };
        let backends = (0..2).map(|_| Box::new(MemoryBackend::new(DISK)) as _).collect();
        let interrupts = Arc::new(Interrupts::default());
        let controller = Controller::new(config, Box::new(watched), interrupts, Box::new(()), backends).unwrap();
        let mut host = Self {
            random: Random(seed),
            memory,
            escaped,
            controller,
            pairs: Vec::new(),
            commands: 0,
            succeeded: 0,
        };
        host.enable();
        host
    }

    fn write(&self, offset: u64, value: u32) {
        let _ = self.controller.registers().write(offset, &value.to_le_bytes());
    }

    fn settle(&mut self) {
        let idle = (0..10_000).any(|_| self.controller.process() == Progress::Idle);
        assert!(idle, "the controller never becomes idle");
    }

    fn clear(&self, address: u64) {
        self.memory.write_slice(&[0; 0x2000], GuestAddress(address)).unwrap();
    }

    /// From whatever state into a controller with admin queues only.
    fn enable(&mut self) {
        if self.random.below(2) == 0 {
            self.write(0x14, 0);
        } else {
            self.write(0x20, 0x4e56_4d65);
        }
        self.settle();
        let entries = (2 + self.random.below(15) as u32, 2 + self.random.below(15) as u32);
        let pair = Pair::new(0, entries);
        self.clear(pair.submission);
        self.clear(pair.completion);
        self.write(0x24, (entries.1 - 1) << 16 | (entries.0 - 1));
        for (register, value) in [(0x28, pair.submission), (0x30, pair.completion)] {
            self.write(register, value as u32);
            self.write(register + 4, (value >> 32) as u32);
        }
        self.write(0x14, CC_ENABLE);
        self.settle();
        self.pairs = vec![Some(pair)];
        self.pairs.resize_with(PAIRS + 1, || None);
    }

    /// Puts a command at the host's place in the ring if there is room. Returns whether there was.
    fn submit(&mut self, queue: usize, command: SubmissionEntry) -> bool {
        let Some(pair) = &mut self.pairs[queue] else {
            return false;
        };
        let next = (pair.written + 1) % pair.entries.0;
        // The entries that were rung and not fetched are the controller's.
        let mut taken = pair.fetched;
        while taken != pair.tail {
            if taken == pair.written {
                return false;
            }
            taken = (taken + 1) % pair.entries.0;
        }
        if next == pair.fetched {
            return false;
        }
        let address = pair.submission + 64 * u64::from(pair.written);
        self.memory
            .write_slice(command.as_bytes(), GuestAddress(address))
            .unwrap();
        pair.slots[pair.written as usize] = command.command_id.get();
        pair.written = next;
        self.commands += 1;
        true
    }

    fn random_command(&mut self, queue: usize) -> SubmissionEntry {
        let random = &mut self.random;
        let opcode = loop {
            let opcode = match random.below(8) {
                0 => random.next() as u8,
                _ if queue == 0 => random.pick(&[admin::IDENTIFY, admin::GET_LOG_PAGE, admin::ABORT, 9, 0x0a]),
                _ => random.pick(&[0, 1, 2, 4, 5, 8, 9, 0x0c]),
            };
            // What changes the set of queues, completes later or moves the doorbells is not this model's.
            if queue != 0 || ![0, 1, 4, 5, 0x0c, 0x7c].contains(&opcode) {
                break opcode;
            }
        };
        let dword10 = match random.dword() {
            // Number of Queues.
            feature if queue == 0 && feature & 0xff == 7 => feature & !7,
            other => other,
        };
        SubmissionEntry {
            opcode,
            flags: if random.below(20) == 0 { random.next() as u8 } else { 0 },
            command_id: (random.next() as u16).into(),
            namespace_id: random.pick(&[1u32, 1, 1, 2, 0, 3, u32::MAX]).into(),
            prp1: random.address().into(),
            prp2: random.address().into(),
            dword10: dword10.into(),
            dword11: random.pick(&[0, 0, 0, 0, 4, random.0 as u32]).into(),
            dword12: random.dword().into(),
            dword13: random.pick(&[0, 0, random.0 as u32]).into(),
            ..SubmissionEntry::default()
        }
    }

    fn ring(&mut self, queue: usize, tail: Option<u32>, head: Option<u32>) {
        for (doorbell, value) in [(2 * queue, tail), (2 * queue + 1, head)] {
            if let Some(value) = value {
                self.write(0x1000 + 4 * doorbell as u64, value);
            }
        }
        if let Some(Some(pair)) = self.pairs.get_mut(queue) {
            // Bits 31:16 of a doorbell are reserved.
            if let Some(value) = tail {
                pair.ring_tail(value & 0xffff);
            }
            if let Some(value) = head {
                pair.ring_head(value & 0xffff);
            }
        }
    }

    /// Lets the controller work and compares every queue with the model.
    fn work(&mut self) {
        self.settle();
        for pair in self.pairs.iter_mut().flatten() {
            pair.work();
            self.succeeded += pair.check(&self.memory);
        }
    }

    /// Empties the admin queue, runs one command on it, and expects success.
    fn admin(&mut self, command: SubmissionEntry) {
        let pair = self.pairs[0].as_ref().unwrap();
        let (written, posted) = (pair.written, pair.posted);
        self.ring(0, Some(written), Some(posted));
        for _ in 0..40 {
            self.work();
            let pair = self.pairs[0].as_ref().unwrap();
            let posted = pair.posted;
            self.ring(0, None, Some(posted));
        }
        self.work();
        let pair = self.pairs[0].as_ref().unwrap();
        assert_eq!(
            (pair.fetched, pair.unread),
            (pair.written, 0),
            "the admin queue is empty"
        );
        assert!(self.submit(0, command));
        let pair = self.pairs[0].as_ref().unwrap();
        let (written, slot) = (pair.written, pair.posted);
        self.ring(0, Some(written), None);
        self.work();
        let pair = self.pairs[0].as_ref().unwrap();
        let status: u16 = self
            .memory
            .read_obj(GuestAddress(pair.completion + 16 * u64::from(slot) + 14))
            .unwrap();
        assert_eq!(status >> 1, 0, "{command:?}");
    }

    fn create(&mut self, queue: usize) {
        let entries = (2 + self.random.below(30) as u32, 2 + self.random.below(30) as u32);
        let pair = Pair::new(queue, entries);
        self.clear(pair.submission);
        self.clear(pair.completion);
        let id = queue as u32;
        for (opcode, base, size, dword11) in [
            (admin::CREATE_COMPLETION_QUEUE, pair.completion, entries.1, 3 | id << 16),
            (admin::CREATE_SUBMISSION_QUEUE, pair.submission, entries.0, 1 | id << 16),
        ] {
            self.admin(SubmissionEntry {
                opcode,
                prp1: base.into(),
                dword10: (id | (size - 1) << 16).into(),
                dword11: dword11.into(),
                ..SubmissionEntry::default()
            });
        }
        self.pairs[queue] = Some(pair);
    }

    fn delete(&mut self, queue: usize) {
        self.pairs[queue] = None;
        for opcode in [admin::DELETE_SUBMISSION_QUEUE, admin::DELETE_COMPLETION_QUEUE] {
            self.admin(SubmissionEntry {
                opcode,
                dword10: (queue as u32).into(),
                ..SubmissionEntry::default()
            });
        }
    }

    fn step(&mut self) {
        let queue = self.random.below(PAIRS as u64 + 1) as usize;
        match self.random.below(1000) {
            0 => self.enable(),
            1..8 if queue != 0 && self.pairs[queue].is_some() => self.delete(queue),
            1..40 if queue != 0 && self.pairs[queue].is_none() => self.create(queue),
            40..400 => {
                let command = self.random_command(queue);
                self.submit(queue, command);
            }
            400..650 => {
                let written = self.pairs[queue].as_ref().map_or(0, |pair| pair.written);
                self.ring(queue, Some(written), None);
            }
            650..900 => {
                let posted = self.pairs[queue].as_ref().map_or(0, |pair| pair.posted);
                self.ring(queue, None, Some(posted));
            }
            900..940 => {
                let (tail, head) = (self.random.dword(), self.random.dword());
                let queue = self.random.below(70) as usize;
                // Old admin commands are not run again: some of them made and deleted queues.
                self.ring(queue, (queue != 0).then_some(tail), Some(head));
            }
            940..960 => {
                // Anything but CC and NSSR: read-only or reserved, masks, or frozen while the controller is enabled.
                let offset = self.random.pick(&[
                    0u64, 4, 8, 0x0c, 0x10, 0x18, 0x1c, 0x24, 0x28, 0x34, 0x38, 0xffc, 0x1003,
                ]);
                self.write(offset, self.random.0 as u32);
            }
            960..980 => {
                let (offset, length) = (self.random.below(0x1300), 1 + self.random.below(8) as usize);
                self.controller.registers().read(offset, &mut [0; 8][..length]);
            }
            _ => {
                let (address, value) = (self.random.below(0xf000), self.random.next());
                self.memory.write_obj(value, GuestAddress(address)).unwrap();
            }
        }
        self.work();
        assert_eq!(self.controller.activity(), Activity::Running);
        let admin = self.controller.admin();
        assert!(admin.events().waiting().1 <= 5 && admin.errors().len() <= 16);
        assert_eq!(*self.escaped.lock().unwrap(), []);
    }
}

fn run(seed: u64, operations: u64) {
    let began = std::time::Instant::now();
    let mut host = Host::new(seed);
    for _ in 0..operations {
        host.step();
    }
    println!(
        "seed {seed}: {operations} operations, {} commands written, {} completed with success, {} s",
        host.commands,
        host.succeeded,
        began.elapsed().as_secs()
    );
}

#[test]
fn every_command_completes_once_and_in_order() {
    for seed in 0..4 {
        run(seed, 5_000);
    }
}

#[test]
#[ignore = "10 million operations: minutes"]
fn ten_million_random_operations_break_nothing() {
    for seed in 100..110 {
        run(seed, 1_000_000);
    }
}
