//! A driver for tests: guest memory, the doorbell, the FIFOs, and one request at a time.

use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::irq::InterruptMode;
use crate::pci::{Masked, OnSent};
use crate::storage::backend::{Backend, MemoryBackend};
use crate::storage::interrupts::InterruptSink;
use crate::storage::sas::spec::{doorbell, function, his, ioc_state, offset};
use crate::storage::sas::{Controller, RegisterFile, SasConfig};
use crate::storage::worker::{Progress, StorageController};

/// Guest memory: 4 MiB from 0.
pub(super) const MEMORY: usize = 4 << 20;
/// Where the driver has its request frames, reply frames, sense buffers, chain buffers and data.
pub(super) const REQUESTS: u64 = 0x1000;
pub(super) const REPLIES: u64 = 0x8000;
pub(super) const SENSE: u64 = 0x2_0000;
pub(super) const CHAINS: u64 = 0x3_0000;
pub(super) const DATA: u64 = 0x10_0000;
/// Bytes of a reply frame, and how many the driver gives.
pub(super) const REPLY_SIZE: u16 = 80;
pub(super) const REPLY_FRAMES: u64 = 16;
/// Size of each disk of [`Driver::new`] in bytes.
pub(super) const DISK: usize = 1 << 20;
pub(super) const BLOCK: usize = 512;

/// What a function without a bus knows of its interrupts.
struct Wires {
    mode: InterruptMode,
    sent: u32,
    pin: bool,
    /// The message is masked, and one waits for that to end.
    masked: bool,
    withheld: bool,
    on_sent: Option<OnSent>,
}

impl Wires {
    fn send(&mut self) {
        self.sent += 1;
        if let Some(observer) = &self.on_sent {
            observer(0, Some(0x61));
        }
    }
}

/// How many messages were sent, and the level of the pin. The pin at first.
#[derive(Clone)]
pub(super) struct Interrupts(Arc<Mutex<Wires>>);

impl InterruptSink for Interrupts {
    fn mode(&self) -> InterruptMode {
        self.0.lock().unwrap().mode
    }

    fn signal(&self, vector: u16) {
        assert_eq!(vector, 0);
        let mut wires = self.0.lock().unwrap();
        if wires.masked {
            wires.withheld = true;
        } else {
            wires.send();
        }
    }

    fn processor_vector(&self, _: u16) -> Result<Option<u8>, Masked> {
        if self.0.lock().unwrap().masked {
            Err(Masked)
        } else {
            Ok(Some(0x61))
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
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Wires {
            mode: InterruptMode::Intx,
            sent: 0,
            pin: false,
            masked: false,
            withheld: false,
            on_sent: None,
        })))
    }

    pub(super) fn set_mode(&self, mode: InterruptMode) {
        self.0.lock().unwrap().mode = mode;
    }

    /// Masks the message, or sends one that has waited for the mask to go.
    pub(super) fn set_masked(&self, masked: bool) {
        let mut wires = self.0.lock().unwrap();
        wires.masked = masked;
        if !masked && std::mem::take(&mut wires.withheld) {
            wires.send();
        }
    }

    /// Messages since the last call.
    pub(super) fn messages(&self) -> u32 {
        std::mem::take(&mut self.0.lock().unwrap().sent)
    }

    pub(super) fn pin(&self) -> bool {
        self.0.lock().unwrap().pin
    }
}

/// What the driver reads from the reply FIFO.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    Context(u32),
    Frame(Vec<u8>),
}

impl Got {
    #[track_caller]
    pub(super) fn frame(self) -> Vec<u8> {
        match self {
            Self::Frame(frame) => frame,
            Self::Context(context) => panic!("a context reply: {context:#x}"),
        }
    }
}

/// Fields of a reply.
pub(super) fn u16_at(frame: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(frame[at..at + 2].try_into().unwrap())
}

pub(super) fn u32_at(frame: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(frame[at..at + 4].try_into().unwrap())
}

pub(super) fn ioc_status(frame: &[u8]) -> u16 {
    u16_at(frame, 0x0e)
}

/// A request of this function with a context of its own; fields follow.
pub(super) fn message(function: u8) -> Vec<u8> {
    let mut frame = vec![0; 128];
    frame[3] = function;
    frame[8..12].copy_from_slice(&0x0001_0007_u32.to_le_bytes());
    frame
}

/// A simple element for the whole of the data, the last one of its list.
pub(super) fn simple(address: u64, length: usize) -> Vec<u8> {
    let first = 0xd1 << 24 | length as u32;
    [first.to_le_bytes(), (address as u32).to_le_bytes()].concat()
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    None,
    In,
    Out,
}

/// SCSI I/O for a disk, with data at [`DATA`].
pub(super) fn scsi(target: u8, cdb: &[u8], way: Way, length: usize) -> Vec<u8> {
    let mut frame = message(function::SCSI_IO_REQUEST);
    (frame[0], frame[4], frame[5]) = (target, cdb.len() as u8, 96);
    let control: u32 = match way {
        Way::None => 0,
        Way::In => 0x0200_0000,
        Way::Out => 0x0100_0000,
    };
    frame[0x14..0x18].copy_from_slice(&control.to_le_bytes());
    frame[0x18..0x18 + cdb.len()].copy_from_slice(cdb);
    frame[0x28..0x2c].copy_from_slice(&(length as u32).to_le_bytes());
    frame[0x2c..0x30].copy_from_slice(&(SENSE as u32).to_le_bytes());
    frame[0x30..0x38].copy_from_slice(&simple(DATA, length));
    frame
}

/// READ(10) and WRITE(10).
pub(super) fn cdb10(opcode: u8, block: u32, count: u16) -> [u8; 10] {
    let ([a, b, c, d], [high, low]) = (block.to_be_bytes(), count.to_be_bytes());
    [opcode, 0, a, b, c, d, 0, high, low, 0]
}

pub(super) fn read(target: u8, block: u32, count: u16) -> Vec<u8> {
    scsi(target, &cdb10(0x28, block, count), Way::In, usize::from(count) * BLOCK)
}

pub(super) fn write(target: u8, block: u32, count: u16) -> Vec<u8> {
    scsi(target, &cdb10(0x2a, block, count), Way::Out, usize::from(count) * BLOCK)
}

pub(super) struct Driver {
    pub(super) memory: GuestMemoryMmap,
    pub(super) controller: Controller,
    pub(super) registers: Arc<RegisterFile>,
    pub(super) interrupts: Interrupts,
    next_frame: u64,
}

impl Driver {
    /// A controller with two disks, initialised.
    pub(super) fn new() -> Self {
        Self::with_config(SasConfig::default(), 2)
    }

    pub(super) fn with_config(config: SasConfig, disks: usize) -> Self {
        let mut driver = Self::cold(config, disks);
        driver.initialise();
        // The disks tell of their power-on once.
        for target in 0..disks as u8 {
            driver.run(&scsi(target, &[0; 6], Way::None, 0));
        }
        driver
    }

    /// One that nobody has initialised.
    pub(super) fn cold(config: SasConfig, disks: usize) -> Self {
        let backends = (0..disks).map(|_| Box::new(MemoryBackend::new(DISK)) as Box<dyn Backend>);
        Self::with_backends(config, backends.collect())
    }

    pub(super) fn with_backends(config: SasConfig, backends: Vec<Box<dyn Backend>>) -> Self {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let interrupts = Interrupts::new();
        let sink = Arc::new(interrupts.clone());
        let controller = Controller::new(config, Box::new(memory.clone()), sink, backends).unwrap();
        Self {
            registers: controller.registers(),
            memory,
            controller,
            interrupts,
            next_frame: 0,
        }
    }

    pub(super) fn initialise(&mut self) {
        let mut init = message(function::IOC_INIT);
        init.truncate(0x2c);
        (init[0], init[5], init[6]) = (4, 8, 1);
        init[0x0c..0x0e].copy_from_slice(&REPLY_SIZE.to_le_bytes());
        assert_eq!(ioc_status(&self.handshake(&init)), 0);
        assert_eq!(ioc_status(&self.handshake(&message(function::PORT_ENABLE)[..12])), 0);
        assert_eq!(self.get(offset::DOORBELL) & 0xf000_0000, ioc_state::OPERATIONAL);
        for frame in 0..REPLY_FRAMES {
            self.put(offset::REPLY_QUEUE, (REPLIES + 0x100 * frame) as u32);
        }
        self.put(offset::HOST_INTERRUPT_MASK, 0);
    }

    pub(super) fn get(&mut self, place: u64) -> u32 {
        let mut data = [0; 4];
        if self.registers.read(place, &mut data) {
            self.settle();
        }
        u32::from_le_bytes(data)
    }

    pub(super) fn put(&mut self, place: u64, value: u32) {
        if self.registers.write(place, &value.to_le_bytes()) {
            self.settle();
        }
    }

    /// Lets the controller work; what one change leads to is bounded.
    pub(super) fn settle(&mut self) {
        for _ in 0..1000 {
            if self.controller.process() == Progress::Idle {
                return;
            }
        }
        panic!("the controller does not come to rest");
    }

    fn wait_for_doorbell(&mut self) {
        assert_ne!(self.get(offset::HOST_INTERRUPT_STATUS) & his::DOORBELL_INTERRUPT, 0);
    }

    /// Sends a message by the doorbell and reads its reply there, as drivers do.
    pub(super) fn handshake(&mut self, request: &[u8]) -> Vec<u8> {
        self.send_by_doorbell(request);
        let mut reply = Vec::new();
        loop {
            self.wait_for_doorbell();
            assert_ne!(self.get(offset::DOORBELL) & doorbell::ACTIVE, 0);
            reply.extend((self.get(offset::DOORBELL) as u16).to_le_bytes());
            self.put(offset::HOST_INTERRUPT_STATUS, 0);
            if reply.len() >= 4 && reply.len() == usize::from(reply[2]) * 4 {
                break;
            }
        }
        self.wait_for_doorbell();
        assert_eq!(self.get(offset::DOORBELL) & doorbell::ACTIVE, 0);
        self.put(offset::HOST_INTERRUPT_STATUS, 0);
        assert_eq!(self.get(offset::HOST_INTERRUPT_STATUS) & his::DOORBELL_INTERRUPT, 0);
        reply
    }

    pub(super) fn send_by_doorbell(&mut self, request: &[u8]) {
        let dwords = request.len() as u32 / 4;
        self.put(offset::DOORBELL, u32::from(function::HANDSHAKE) << 24 | dwords << 16);
        self.wait_for_doorbell();
        self.put(offset::HOST_INTERRUPT_STATUS, 0);
        for word in request.chunks_exact(4) {
            self.put(offset::DOORBELL, u32_at(word, 0));
            assert_eq!(self.get(offset::HOST_INTERRUPT_STATUS) & his::IOP_DOORBELL_STATUS, 0);
        }
    }

    /// Puts a request into memory without posting it.
    pub(super) fn place(&mut self, request: &[u8]) -> u32 {
        let address = REQUESTS + 0x80 * (self.next_frame % 64);
        self.next_frame += 1;
        self.memory.write_slice(request, GuestAddress(address)).unwrap();
        address as u32
    }

    pub(super) fn post(&mut self, request: &[u8]) {
        let address = self.place(request);
        // The lowest bits tell how much of it is to be fetched.
        self.put(offset::REQUEST_QUEUE, address | 1);
    }

    /// The next reply; its frame is given back.
    pub(super) fn reap(&mut self) -> Option<Got> {
        let descriptor = self.get(offset::REPLY_QUEUE);
        if descriptor == u32::MAX {
            return None;
        }
        if descriptor >> 31 == 0 {
            return Some(Got::Context(descriptor));
        }
        let address = u64::from(descriptor << 1);
        let mut frame = vec![0; REPLY_SIZE.into()];
        self.memory.read_slice(&mut frame, GuestAddress(address)).unwrap();
        self.memory.write_slice(&[0xee; 0x100], GuestAddress(address)).unwrap();
        frame.truncate(usize::from(frame[2]) * 4);
        self.put(offset::REPLY_QUEUE, address as u32);
        Some(Got::Frame(frame))
    }

    /// Runs one request to its only reply.
    #[track_caller]
    pub(super) fn run(&mut self, request: &[u8]) -> Got {
        self.post(request);
        let got = self.reap().expect("a reply");
        assert_eq!(self.reap(), None);
        got
    }

    /// Runs SCSI I/O that succeeds.
    #[track_caller]
    pub(super) fn ok(&mut self, request: &[u8]) {
        assert_eq!(self.run(request), Got::Context(0x0001_0007));
    }

    pub(super) fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(super) fn fill(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    /// Opens the diagnostic register and resets the adapter.
    pub(super) fn diagnostic_reset(&mut self) {
        for key in [0xff, 4, 0xb, 2, 7, 0xd] {
            self.put(offset::WRITE_SEQUENCE, key);
        }
        self.put(offset::DIAGNOSTIC, 0x84);
    }
}
