//! A driver for tests: guest memory, queues, and one command at a time.

use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::{FromBytes, IntoBytes};

use crate::irq::InterruptMode;
use crate::pci::OnSent;
use crate::storage::backend::{Backend, MemoryBackend};
use crate::storage::nvme::faults::code;
use crate::storage::nvme::spec::command::{CompletionEntry, SubmissionEntry, admin};
use crate::storage::nvme::spec::status::Status;
use crate::storage::nvme::{Controller, DoorbellRoute, NvmeConfig, RegisterFile};

pub(super) use crate::storage::dma::{DmaMemory, NotMemory};
pub(super) use crate::storage::fault::{
    CommandMatch, CompletionFault, Fault, FaultCount, FaultKind, FetchFault, RegisterFault, RegisterMatch,
};
pub(super) use crate::storage::interrupts::InterruptSink;
pub(super) use crate::storage::nvme::faults::ANY_DOORBELL;
pub(super) use crate::storage::segments::Segment;
pub(super) use crate::storage::worker::{Progress, StorageController};

/// Commands with this opcode on I/O queues.
pub(super) fn io(opcode: u8) -> CommandMatch {
    CommandMatch::Code(code(1, opcode))
}

/// Commands with this opcode on the admin queue.
pub(super) fn admin_command(opcode: u8) -> CommandMatch {
    CommandMatch::Code(code(0, opcode))
}

/// Guest memory: 4 MiB from 0.
pub(super) const MEMORY: u64 = 4 << 20;
/// Where the driver keeps its admin queues and data.
pub(super) const ADMIN_SQ: u64 = 0x1000;
pub(super) const ADMIN_CQ: u64 = 0x2000;
pub(super) const DATA: u64 = 0x10_0000;
pub(super) const LIST: u64 = 0x8_0000;
pub(super) const SHADOW: u64 = 0x9_0000;
pub(super) const EVENT_INDEX: u64 = 0x9_1000;
pub(super) const ADMIN_ENTRIES: u32 = 16;
pub(super) const IO_ENTRIES: u32 = 8;
/// Size of the namespace of [`Driver::new`] in bytes.
pub(super) const DISK: usize = 1 << 20;
/// CC with EN, IOSQES and IOCQES.
pub(super) const CC_ENABLE: u32 = 0x0046_0001;

/// What a function without a bus knows of its interrupts.
struct Wires {
    mode: InterruptMode,
    sent: Vec<u16>,
    pin: bool,
    /// Messages are masked, and these wait for that to end.
    masked: bool,
    withheld: Vec<u16>,
    on_sent: Option<OnSent>,
}

impl Wires {
    fn send(&mut self, vector: u16) {
        self.sent.push(vector);
        if let Some(observer) = &self.on_sent {
            observer(vector, Some(0x60 + vector as u8));
        }
    }
}

/// Messages in the order in which they were sent, and the level of the pin. MSI-X at first.
#[derive(Clone)]
pub(super) struct Interrupts(Arc<Mutex<Wires>>);

impl Default for Interrupts {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Wires {
            mode: InterruptMode::Msix,
            sent: Vec::new(),
            pin: false,
            masked: false,
            withheld: Vec::new(),
            on_sent: None,
        })))
    }
}

impl InterruptSink for Interrupts {
    fn mode(&self) -> InterruptMode {
        self.0.lock().unwrap().mode
    }

    fn signal(&self, vector: u16) {
        let mut wires = self.0.lock().unwrap();
        if wires.masked {
            wires.withheld.push(vector);
        } else {
            wires.send(vector);
        }
    }

    fn observe_sent(&self, observer: OnSent) {
        self.0.lock().unwrap().on_sent = Some(observer);
    }

    fn set_level(&self, pending: bool) {
        self.0.lock().unwrap().pin = pending;
    }
}

impl Interrupts {
    pub(super) fn take(&self) -> Vec<u16> {
        std::mem::take(&mut self.0.lock().unwrap().sent)
    }

    pub(super) fn set_mode(&self, mode: InterruptMode) {
        self.0.lock().unwrap().mode = mode;
    }

    /// Masks all messages, or sends those that have waited for the mask to go.
    pub(super) fn set_masked(&self, masked: bool) {
        let mut wires = self.0.lock().unwrap();
        wires.masked = masked;
        let withheld = if masked {
            Vec::new()
        } else {
            std::mem::take(&mut wires.withheld)
        };
        for vector in withheld {
            wires.send(vector);
        }
    }

    pub(super) fn pin(&self) -> bool {
        self.0.lock().unwrap().pin
    }
}

/// Remembers the last answer.
#[derive(Clone, Default)]
pub(super) struct Route(pub(super) Arc<Mutex<Vec<bool>>>);

impl DoorbellRoute for Route {
    fn use_shadow(&mut self, active: bool) {
        self.0.lock().unwrap().push(active);
    }
}

/// One ring as the driver sees it.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    pub(super) base: u64,
    pub(super) entries: u32,
    pub(super) index: u32,
    pub(super) phase: bool,
}

impl Ring {
    pub(super) fn new(base: u64, entries: u32) -> Self {
        Self {
            base,
            entries,
            index: 0,
            phase: true,
        }
    }

    pub(super) fn advance(&mut self) {
        self.index += 1;
        if self.index == self.entries {
            self.index = 0;
            self.phase = !self.phase;
        }
    }
}

/// A completion as the driver reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) dword0: u32,
    pub(super) status: Status,
    pub(super) command_id: u16,
    pub(super) head: u16,
    pub(super) queue: u16,
}

pub(super) struct Driver {
    pub(super) memory: GuestMemoryMmap,
    pub(super) controller: Controller,
    pub(super) registers: Arc<RegisterFile>,
    pub(super) interrupts: Interrupts,
    pub(super) route: Route,
    pub(super) submission: Vec<Ring>,
    pub(super) completion: Vec<Ring>,
    next_command_id: u16,
}

impl Driver {
    /// A controller with 4 queue pairs and one namespace in memory, not yet enabled.
    pub(super) fn cold() -> Self {
        Self::with_backends(vec![Box::new(MemoryBackend::new(DISK))], 4)
    }

    pub(super) fn with_backends(backends: Vec<Box<dyn Backend>>, queue_pairs: u16) -> Self {
        let config = NvmeConfig {
            queue_pairs,
            ..NvmeConfig::default()
        };
        Self::with_config(config, backends)
    }

    pub(super) fn with_config(config: NvmeConfig, backends: Vec<Box<dyn Backend>>) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        let (interrupts, route) = (Interrupts::default(), Route::default());
        let controller = Controller::new(
            config,
            Box::new(memory.clone()),
            Arc::new(interrupts.clone()),
            Box::new(route.clone()),
            backends,
        )
        .unwrap();
        let registers = controller.registers();
        Self {
            memory,
            controller,
            registers,
            interrupts,
            route,
            submission: vec![],
            completion: vec![],
            next_command_id: 0x100,
        }
    }

    /// Enabled, with admin queues.
    pub(super) fn enabled() -> Self {
        let mut driver = Self::cold();
        driver.enable();
        driver
    }

    /// Enabled, with I/O queue pair 1 on vector 1.
    pub(super) fn with_io_queue() -> Self {
        let mut driver = Self::enabled();
        driver.create_queue_pair(1);
        driver
    }

    /// As [`with_io_queue`](Self::with_io_queue), with a fault plan.
    pub(super) fn with_faults(faults: &[Fault]) -> Self {
        let config = NvmeConfig {
            queue_pairs: 4,
            faults: faults.to_vec(),
            ..NvmeConfig::default()
        };
        let mut driver = Self::with_config(config, vec![Box::new(MemoryBackend::new(DISK))]);
        driver.enable();
        driver.create_queue_pair(1);
        driver
    }

    pub(super) fn with_backend(backend: Box<dyn Backend>) -> Self {
        let mut driver = Self::with_backends(vec![backend], 4);
        driver.enable();
        driver.create_queue_pair(1);
        driver
    }

    pub(super) fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.registers.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(super) fn write(&self, offset: u64, value: u32) -> bool {
        self.registers.write(offset, &value.to_le_bytes())
    }

    pub(super) fn write64(&self, offset: u64, value: u64) -> bool {
        self.registers.write(offset, &value.to_le_bytes())
    }

    /// Lets the controller work until it is idle; a controller that never is fails the test.
    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            if self.controller.process() == Progress::Idle {
                return;
            }
        }
        panic!("the controller never becomes idle");
    }

    pub(super) fn enable(&mut self) {
        self.write(0x24, (ADMIN_ENTRIES - 1) << 16 | (ADMIN_ENTRIES - 1));
        self.write64(0x28, ADMIN_SQ);
        self.write64(0x30, ADMIN_CQ);
        self.write(0x14, CC_ENABLE);
        self.settle();
        assert_eq!(self.read(0x1c), 1, "ready");
        self.memory.write_slice(&[0; 0x1000], GuestAddress(ADMIN_CQ)).unwrap();
        self.submission = vec![Ring::new(ADMIN_SQ, ADMIN_ENTRIES)];
        self.completion = vec![Ring::new(ADMIN_CQ, ADMIN_ENTRIES)];
    }

    pub(super) fn queue_addresses(id: u16) -> (u64, u64) {
        let base = 0x4_0000 + u64::from(id) * 0x2000;
        (base, base + 0x1000)
    }

    /// Creates I/O queue pair `id`, the next one, on the vector of the same number.
    pub(super) fn create_queue_pair(&mut self, id: u16) {
        self.create_queue_pair_on(id, id);
    }

    /// As [`create_queue_pair`](Self::create_queue_pair), on another vector.
    pub(super) fn create_queue_pair_on(&mut self, id: u16, vector: u16) {
        self.create_queue_pair_with(id, 3 | u32::from(vector) << 16);
    }

    /// As [`create_queue_pair`](Self::create_queue_pair), with that dword 11 of Create I/O Completion Queue.
    pub(super) fn create_queue_pair_with(&mut self, id: u16, attributes: u32) {
        let (sq, cq) = Self::queue_addresses(id);
        self.memory.write_slice(&[0; 0x1000], GuestAddress(cq)).unwrap();
        let size = u32::from(id) | (IO_ENTRIES - 1) << 16;
        self.admin_ok(create_cq(cq, size, attributes));
        self.admin_ok(create_sq(sq, size, 1 | u32::from(id) << 16));
        assert_eq!(self.submission.len(), usize::from(id));
        self.submission.push(Ring::new(sq, IO_ENTRIES));
        self.completion.push(Ring::new(cq, IO_ENTRIES));
        self.interrupts.take();
    }

    /// Puts a command into the queue without ringing the doorbell; returns its identifier.
    pub(super) fn submit(&mut self, queue: usize, mut command: SubmissionEntry) -> u16 {
        self.next_command_id += 1;
        if command.command_id.get() == 0 {
            command.command_id = self.next_command_id.into();
        }
        let ring = &mut self.submission[queue];
        let address = ring.base + 64 * u64::from(ring.index);
        self.memory
            .write_slice(command.as_bytes(), GuestAddress(address))
            .unwrap();
        ring.advance();
        command.command_id.get()
    }

    /// Whether queue 1 has no command that is still to be fetched.
    pub(super) fn is_all_fetched(&mut self) -> bool {
        self.controller.queues().submission(1).unwrap().is_empty()
    }

    pub(super) fn ring_tail(&mut self, queue: usize) -> bool {
        self.write(0x1000 + 8 * queue as u64, self.submission[queue].index)
    }

    pub(super) fn ring_head(&mut self, queue: usize) -> bool {
        self.write(0x1004 + 8 * queue as u64, self.completion[queue].index)
    }

    /// The next completion, if it is there; the doorbell is not rung.
    pub(super) fn reap(&mut self, queue: usize) -> Option<Done> {
        let ring = &mut self.completion[queue];
        let mut bytes = [0; 16];
        self.memory
            .read_slice(&mut bytes, GuestAddress(ring.base + 16 * u64::from(ring.index)))
            .unwrap();
        let entry = CompletionEntry::read_from_bytes(&bytes).unwrap();
        if (entry.status.get() & 1 != 0) != ring.phase {
            return None;
        }
        ring.advance();
        Some(Done {
            dword0: entry.dword0.get(),
            status: Status::from_completion(entry.status.get()),
            command_id: entry.command_id.get(),
            head: entry.submission_head.get(),
            queue: entry.submission_id.get(),
        })
    }

    /// Runs one command to its completion.
    pub(super) fn run(&mut self, queue: usize, command: SubmissionEntry) -> Done {
        let command_id = self.submit(queue, command);
        self.ring_tail(queue);
        self.settle();
        let done = self.reap(queue).expect("a completion");
        assert_eq!((done.command_id, done.queue), (command_id, queue as u16));
        assert_eq!(u32::from(done.head), self.submission[queue].index);
        self.ring_head(queue);
        self.settle();
        done
    }

    pub(super) fn admin(&mut self, command: SubmissionEntry) -> Done {
        self.run(0, command)
    }

    pub(super) fn admin_ok(&mut self, command: SubmissionEntry) -> u32 {
        let done = self.admin(command);
        assert_eq!(done.status, Status::SUCCESS);
        done.dword0
    }

    pub(super) fn io_ok(&mut self, command: SubmissionEntry) -> u32 {
        let done = self.run(1, command);
        assert_eq!(done.status, Status::SUCCESS);
        done.dword0
    }

    /// Expects the failure `status`, with More set because every failure is logged.
    #[track_caller]
    pub(super) fn admin_fails(&mut self, command: SubmissionEntry, status: Status) {
        assert_eq!(self.admin(command).status, status.with_more());
    }

    #[track_caller]
    pub(super) fn io_fails(&mut self, command: SubmissionEntry, status: Status) {
        assert_eq!(self.run(1, command).status, status.with_more());
    }

    pub(super) fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(super) fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }
}

/// A command with data at [`DATA`].
pub(super) fn command(opcode: u8) -> SubmissionEntry {
    SubmissionEntry {
        opcode,
        prp1: DATA.into(),
        prp2: (DATA + 0x1000).into(),
        ..SubmissionEntry::default()
    }
}

pub(super) fn create_cq(base: u64, dword10: u32, dword11: u32) -> SubmissionEntry {
    let opcode = admin::CREATE_COMPLETION_QUEUE;
    SubmissionEntry {
        prp1: base.into(),
        dword10: dword10.into(),
        dword11: dword11.into(),
        ..command(opcode)
    }
}

pub(super) fn create_sq(base: u64, dword10: u32, dword11: u32) -> SubmissionEntry {
    let opcode = admin::CREATE_SUBMISSION_QUEUE;
    SubmissionEntry {
        prp1: base.into(),
        dword10: dword10.into(),
        dword11: dword11.into(),
        ..command(opcode)
    }
}

pub(super) fn identify(cns: u8, nsid: u32) -> SubmissionEntry {
    SubmissionEntry {
        namespace_id: nsid.into(),
        dword10: u32::from(cns).into(),
        ..command(admin::IDENTIFY)
    }
}

/// Read, Write or Write Zeroes of namespace 1.
pub(super) fn blocks(opcode: u8, lba: u64, count: u32) -> SubmissionEntry {
    SubmissionEntry {
        namespace_id: 1.into(),
        dword10: (lba as u32).into(),
        dword11: ((lba >> 32) as u32).into(),
        dword12: (count - 1).into(),
        ..command(opcode)
    }
}
