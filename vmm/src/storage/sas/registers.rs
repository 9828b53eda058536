//! The registers: what vCPUs touch. Nothing here waits for DMA or for a disk.
//!
//! The doorbell carries messages a word at a time ("handshake") and reset functions; the FIFOs carry addresses of request
//! and reply frames. What has to be done for them, the [controller](super::controller) does on its own thread. It knows no
//! message.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::spec::{WRSEQ_KEY_VALUE_MASK, WRSEQ_KEYS, diag, doorbell, fault, function, his, ioc_state, offset};
use crate::irq::InterruptMode;
use crate::storage::fault::{FaultInjector, RegisterFault};
use crate::storage::in_flight::{Announced, InFlight, KeptBack, Outstanding, RequestId};
use crate::storage::interrupts::InterruptSink;
use crate::storage::worker::Attention;

/// Requests that can wait (GlobalCredits), and those of high priority.
pub(crate) const GLOBAL_CREDITS: u16 = 256;
/// HighPriorityQueueDepth.
pub(crate) const HIGH_PRIORITY_DEPTH: u16 = 16;
/// Frames for replies that the host can give (ReplyQueueDepth).
pub(crate) const REPLY_QUEUE_DEPTH: u16 = 256;
/// Replies that wait for the host. No more are posted until it has taken some.
const POST_LIMIT: usize = 1024;
/// The only message.
const MESSAGE: Announced = Announced::Message(0);
/// What the host reads where there is no reply, or nothing.
const NOTHING: u32 = 0xffff_ffff;
/// Request descriptors: the bits that are no address, but say how many blocks of the frame are to be fetched at least.
/// A frame need not be at more than a multiple of four bytes: SeaBIOS' are on its stack.
const DESCRIPTOR_FLAGS: u32 = 0x3;

/// A handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// There is none.
    #[default]
    Idle,
    /// Words of the request come.
    Receiving {
        /// How many will come.
        wanted: usize,
        /// Those that have come.
        words: Vec<u32>,
    },
    /// The request is there and waits for the controller.
    Received(Vec<u32>),
    /// The host reads the reply, half a dword at a time.
    Replying {
        /// All of it.
        reply: Vec<u16>,
        /// The half dword that is shown; behind the last one the host acknowledges the end.
        at: usize,
    },
}

/// What is to be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reset {
    /// The messaging: IOC Message Unit Reset.
    MessageUnit,
    /// The disks as well: I/O Unit Reset.
    IoUnit,
    /// Everything: a diagnostic reset, or one of the PCI function.
    Hard,
}

/// The values of the registers and what is behind them.
// Each flag is a fact of its own.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registers {
    /// The state that the doorbell register shows.
    pub(crate) ioc_state: u32,
    /// The fault code in state FAULT.
    pub(crate) fault_code: u16,
    /// WhoInit.
    pub(crate) who_init: u8,
    /// The handshake.
    pub handshake: Handshake,
    /// The IOC has written the doorbell.
    doorbell_interrupt: bool,
    /// Keys of the write sequence that have come, in order.
    keys: usize,
    /// Host Diagnostic.
    diagnostic: u32,
    /// Host Interrupt Mask.
    interrupt_mask: u32,
    /// Descriptors of requests, and of those of high priority.
    requests: VecDeque<u32>,
    urgent: VecDeque<u32>,
    /// Addresses of frames for replies.
    reply_free: VecDeque<u32>,
    /// What the host reads as replies.
    reply_post: VecDeque<u32>,
    /// A reset that the controller has to carry out.
    pub reset: Option<Reset>,
    /// The controller waits for the host to take replies or to give frames.
    pub starved: bool,
    /// An interrupt was pending, by the status and the mask, when that was last looked at.
    pending: bool,
    /// The IOC has come into FAULT state since that was last told.
    has_failed: bool,
}

impl Registers {
    fn new() -> Self {
        Self {
            ioc_state: ioc_state::READY,
            fault_code: 0,
            who_init: 0,
            handshake: Handshake::Idle,
            doorbell_interrupt: false,
            keys: 0,
            diagnostic: 0,
            interrupt_mask: his::REPLY_MESSAGE_INTERRUPT | his::DOORBELL_INTERRUPT,
            requests: VecDeque::new(),
            urgent: VecDeque::new(),
            reply_free: VecDeque::new(),
            reply_post: VecDeque::new(),
            reset: None,
            starved: false,
            pending: false,
            has_failed: false,
        }
    }

    /// The controller has carried out a reset of that kind: it is acknowledged, unless there was a harder one meanwhile.
    pub(super) fn finish_reset(&mut self, reset: Reset) {
        if self.reset == Some(reset) {
            self.reset = None;
            if self.ioc_state == ioc_state::RESET {
                self.ioc_state = ioc_state::READY;
            }
        }
    }

    /// Whether the handshake whose request the controller has taken still waits for its reply.
    pub(super) fn awaits_answer(&self) -> bool {
        matches!(&self.handshake, Handshake::Received(words) if words.is_empty())
    }

    /// The IOC faults: only a diagnostic reset helps.
    pub(super) fn fail(&mut self, code: u16) {
        tracing::warn!(code, "the SAS controller is in FAULT state");
        (self.ioc_state, self.fault_code) = (ioc_state::FAULT, code);
        self.has_failed = true;
        self.handshake = Handshake::Idle;
        self.requests.clear();
        self.urgent.clear();
    }

    pub(super) fn is_operational(&self) -> bool {
        self.ioc_state == ioc_state::OPERATIONAL
    }

    /// The next request, or the next one of high priority: those come after the others that were there before them, which a
    /// task management function may be about.
    pub(super) fn next_request(&mut self, only_urgent: bool) -> Option<u32> {
        let first = if only_urgent { None } else { self.requests.pop_front() };
        first.or_else(|| self.urgent.pop_front())
    }

    /// Whether there is a request, or one of high priority.
    pub(super) fn has_requests(&self, only_urgent: bool) -> bool {
        !self.urgent.is_empty() || !only_urgent && !self.requests.is_empty()
    }

    /// Whether another reply can be posted.
    pub(super) fn has_room(&self) -> bool {
        self.reply_post.len() < POST_LIMIT
    }

    /// A frame for a reply.
    pub(super) fn take_free(&mut self) -> Option<u32> {
        self.reply_free.pop_front()
    }

    pub(super) fn post(&mut self, descriptor: u32) {
        self.reply_post.push_back(descriptor);
    }

    /// The reply of a handshake.
    pub(super) fn answer(&mut self, reply: &[u8]) {
        let halves = reply.chunks_exact(2).map(|half| u16::from_le_bytes([half[0], half[1]]));
        self.handshake = Handshake::Replying {
            reply: halves.collect(),
            at: 0,
        };
        self.doorbell_interrupt = true;
    }

    /// The request of a handshake gets no reply by the doorbell.
    pub(super) fn end_handshake(&mut self) {
        self.handshake = Handshake::Idle;
    }

    fn status(&self) -> u32 {
        let doorbell_pending = self.is_handshake_complete() || self.reset.is_some();
        let bit = |set, bit| if set { bit } else { 0 };
        bit(doorbell_pending, his::IOP_DOORBELL_STATUS)
            | bit(!self.reply_post.is_empty(), his::REPLY_MESSAGE_INTERRUPT)
            | bit(self.doorbell_interrupt, his::DOORBELL_INTERRUPT)
    }

    fn doorbell(&self) -> u32 {
        let (active, data) = match &self.handshake {
            Handshake::Idle => (false, 0),
            Handshake::Receiving { .. } | Handshake::Received(_) => (true, 0),
            Handshake::Replying { reply, at } => (*at < reply.len(), reply.get(*at).copied().unwrap_or(0)),
        };
        let data = if self.ioc_state == ioc_state::FAULT {
            self.fault_code
        } else {
            data
        };
        let active = if active { doorbell::ACTIVE } else { 0 };
        self.ioc_state | active | u32::from(self.who_init & 7) << doorbell::WHO_INIT_SHIFT | u32::from(data)
    }

    /// Reads a register. Returns its value, and whether the controller has to look.
    fn read(&mut self, place: u64) -> (u32, bool) {
        match place {
            offset::DOORBELL => (self.doorbell(), false),
            offset::DIAGNOSTIC => (self.diagnostic, false),
            offset::HOST_INTERRUPT_STATUS => (self.status(), false),
            offset::HOST_INTERRUPT_MASK => (self.interrupt_mask, false),
            offset::REPLY_QUEUE => match self.reply_post.pop_front() {
                Some(reply) => (reply, std::mem::take(&mut self.starved)),
                None => (NOTHING, false),
            },
            offset::REQUEST_QUEUE | offset::HI_PRI_REQUEST_QUEUE => (NOTHING, false),
            _ => (0, false),
        }
    }

    /// Writes a register. Returns whether the controller has to look.
    fn write(&mut self, place: u64, value: u32) -> bool {
        match place {
            offset::DOORBELL => self.write_doorbell(value),
            offset::WRITE_SEQUENCE => self.write_key(value),
            offset::DIAGNOSTIC => self.write_diagnostic(value),
            offset::HOST_INTERRUPT_STATUS => {
                self.clear_doorbell_interrupt();
                false
            }
            offset::HOST_INTERRUPT_MASK => {
                self.interrupt_mask = value;
                false
            }
            offset::REQUEST_QUEUE => self.push_request(value, false),
            offset::HI_PRI_REQUEST_QUEUE => self.push_request(value, true),
            offset::REPLY_QUEUE => self.push_free(value),
            _ => false,
        }
    }

    fn write_doorbell(&mut self, value: u32) -> bool {
        if let Handshake::Receiving { wanted, words } = &mut self.handshake {
            words.push(value);
            let complete = words.len() >= *wanted;
            if complete {
                self.handshake = Handshake::Received(std::mem::take(words));
            }
            return complete;
        }
        let ready = !matches!(self.ioc_state, ioc_state::FAULT | ioc_state::RESET);
        match (value >> doorbell::FUNCTION_SHIFT) as u8 {
            function::IOC_MESSAGE_UNIT_RESET if ready => self.begin_reset(Reset::MessageUnit),
            function::IO_UNIT_RESET if ready => self.begin_reset(Reset::IoUnit),
            function::REPLY_FRAME_REMOVAL => {
                self.reply_free.clear();
                false
            }
            function::HANDSHAKE if ready && self.handshake == Handshake::Idle => {
                let wanted = (value >> doorbell::ADD_DWORDS_SHIFT & 0xff) as usize;
                if wanted > 0 {
                    self.handshake = Handshake::Receiving {
                        wanted,
                        words: Vec::with_capacity(wanted),
                    };
                    self.doorbell_interrupt = true;
                }
                false
            }
            _ => false,
        }
    }

    /// The registers are reset at once: EDK2's driver does not wait for the acknowledgement before it begins a handshake.
    /// What is behind them the controller resets.
    fn begin_reset(&mut self, reset: Reset) -> bool {
        let fresh = Self::new();
        let (state, mask, keys) = match reset {
            Reset::Hard => (ioc_state::RESET, fresh.interrupt_mask, 0),
            Reset::MessageUnit | Reset::IoUnit => (ioc_state::READY, self.interrupt_mask, self.keys),
        };
        *self = Self {
            ioc_state: state,
            interrupt_mask: mask,
            keys,
            diagnostic: self.diagnostic,
            reset: self.reset.max(Some(reset)),
            pending: self.pending,
            ..fresh
        };
        true
    }

    /// Host Interrupt Status was written: the host has seen the doorbell. With a reply under way the next half dword is
    /// shown, and after the last one the end.
    fn clear_doorbell_interrupt(&mut self) {
        if !std::mem::take(&mut self.doorbell_interrupt) {
            return;
        }
        if let Handshake::Replying { reply, at } = &mut self.handshake {
            if *at < reply.len() {
                *at += 1;
                self.doorbell_interrupt = true;
            } else {
                self.handshake = Handshake::Idle;
            }
        }
    }

    fn write_key(&mut self, value: u32) -> bool {
        let key = value & WRSEQ_KEY_VALUE_MASK;
        self.keys = if WRSEQ_KEYS.get(self.keys) == Some(&key) {
            self.keys + 1
        } else {
            usize::from(key == WRSEQ_KEYS[0])
        };
        if self.keys == WRSEQ_KEYS.len() {
            self.diagnostic |= diag::DRWE;
            self.keys = 0;
        } else if self.keys == 0 {
            self.diagnostic &= !diag::DRWE;
        }
        false
    }

    fn write_diagnostic(&mut self, value: u32) -> bool {
        if self.diagnostic & diag::DRWE == 0 {
            return false;
        }
        if value & diag::RESET_ADAPTER != 0 {
            self.diagnostic = diag::RESET_HISTORY;
            return self.begin_reset(Reset::Hard);
        }
        let kept = diag::RESET_HISTORY | diag::DISABLE_ARM;
        let history = self.diagnostic & diag::RESET_HISTORY;
        self.diagnostic = self.diagnostic & !kept | value & diag::DISABLE_ARM | value & history;
        false
    }

    /// Whether a message of the doorbell waits for the controller, or is with it.
    pub(super) fn is_handshake_complete(&self) -> bool {
        matches!(self.handshake, Handshake::Received(_))
    }

    fn push_request(&mut self, descriptor: u32, urgent: bool) -> bool {
        if self.ioc_state == ioc_state::FAULT {
            return false;
        }
        // A message of the doorbell that was not looked at yet may be IOC Init: EDK2's driver does not wait for its reply.
        let ready = self.ioc_state == ioc_state::OPERATIONAL || self.is_handshake_complete();
        let (queue, limit) = if urgent {
            (&mut self.urgent, HIGH_PRIORITY_DEPTH)
        } else {
            (&mut self.requests, GLOBAL_CREDITS)
        };
        if !ready || queue.len() >= limit.into() {
            self.fail(fault::FIFO);
            return true;
        }
        queue.push_back(descriptor & !DESCRIPTOR_FLAGS);
        true
    }

    fn push_free(&mut self, address: u32) -> bool {
        if self.reply_free.len() >= REPLY_QUEUE_DEPTH.into() {
            self.fail(fault::FIFO);
            return true;
        }
        self.reply_free.push_back(address);
        std::mem::take(&mut self.starved)
    }
}

/// The registers of a controller, shared by vCPUs and its worker.
pub struct RegisterFile {
    registers: Mutex<Registers>,
    faults: Option<Arc<FaultInjector>>,
    interrupts: Arc<dyn InterruptSink>,
    attention: Attention,
    /// Is told of each step of a request.
    in_flight: Arc<InFlight>,
}

impl RegisterFile {
    pub(super) fn new(
        faults: Option<Arc<FaultInjector>>,
        interrupts: Arc<dyn InterruptSink>,
        attention: Attention,
        in_flight: Arc<InFlight>,
    ) -> Self {
        Self {
            registers: Mutex::new(Registers::new()),
            faults,
            interrupts,
            attention,
            in_flight,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a read. Returns whether the controller has to look. Registers are read by aligned dwords; other accesses
    /// read all ones.
    pub fn read(&self, place: u64, data: &mut [u8]) -> bool {
        data.fill(0xff);
        if place % 4 != 0 || data.len() % 4 != 0 {
            return false;
        }
        let mut registers = self.lock();
        let mut look = false;
        for (place, dword) in (place..).step_by(4).zip(data.chunks_exact_mut(4)) {
            let waiting = registers.reply_post.len();
            let (value, wake) = registers.read(place);
            if registers.reply_post.len() < waiting {
                self.in_flight.taken(0, 1);
            }
            look |= wake;
            dword.copy_from_slice(&value.to_le_bytes());
        }
        self.update(&mut registers);
        look
    }

    /// Takes a write. Returns whether the controller has to look. Writes other than of aligned dwords have no effect.
    pub fn write(&self, place: u64, data: &[u8]) -> bool {
        if place % 4 != 0 || data.len() % 4 != 0 {
            return false;
        }
        let mut registers = self.lock();
        let mut look = false;
        for (place, dword) in (place..).step_by(4).zip(data.chunks_exact(4)) {
            let value = u32::from_le_bytes([dword[0], dword[1], dword[2], dword[3]]);
            let fault = self.faults.as_ref().and_then(|faults| faults.register_written(place));
            if fault == Some(RegisterFault::Drop) {
                continue;
            }
            look |= registers.write(place, value);
            if fault == Some(RegisterFault::Fatal) {
                registers.fail(fault::INJECTED);
                look = true;
            }
        }
        self.update(&mut registers);
        look
    }

    /// The PCI function was reset.
    pub(crate) fn reset_function(&self) {
        let mut registers = self.lock();
        registers.begin_reset(Reset::Hard);
        registers.diagnostic = 0;
        self.update(&mut registers);
    }

    /// How the function interrupts may have changed.
    pub fn interrupts_changed(&self) {
        let mut registers = self.lock();
        registers.pending = false;
        self.update(&mut registers);
    }

    /// A reply was posted to the request of that context.
    pub(super) fn post(&self, registers: &mut Registers, context: u32, descriptor: u32) {
        registers.post(descriptor);
        self.in_flight.posted(0, RequestId { queue: 0, id: context });
    }

    /// The host has ended these requests, and gets no reply to them.
    pub(super) fn given_up(&self, is_meant: impl Fn(&Outstanding) -> bool) {
        self.in_flight.given_up(is_meant);
    }

    /// A fault keeps the reply to the request of that context back.
    pub(super) fn kept_back(&self, context: u32, why: KeptBack) {
        self.in_flight.kept_back(RequestId { queue: 0, id: context }, why);
    }

    /// The flag that has the controller come to rest.
    pub(super) fn attention(&self) -> Attention {
        self.attention.clone()
    }

    /// Acts on a change of the registers: requests that no one answers any more are told, and the pin is set by status and
    /// mask, or the message sent when an interrupt comes to be pending.
    pub(super) fn update(&self, registers: &mut Registers) {
        if std::mem::take(&mut registers.has_failed) {
            self.in_flight.failed();
        }
        let bits = his::REPLY_MESSAGE_INTERRUPT | his::DOORBELL_INTERRUPT;
        let unmasked = registers.status() & !registers.interrupt_mask;
        let (pending, replies) = (unmasked & bits != 0, unmasked & his::REPLY_MESSAGE_INTERRUPT != 0);
        let before = std::mem::replace(&mut registers.pending, pending);
        match self.interrupts.mode() {
            InterruptMode::Intx => {
                self.in_flight.due(0, Announced::Pin);
                if replies {
                    self.in_flight.sent(Announced::Pin, None);
                }
                self.interrupts.set_level(pending);
            }
            InterruptMode::Msi { .. } | InterruptMode::Msix => {
                self.interrupts.set_level(false);
                // No message is for replies that this controller's own mask holds back: as if they waited for the pin.
                let by = if replies { MESSAGE } else { Announced::Pin };
                self.in_flight.due(0, by);
                if pending && !before {
                    self.interrupts.signal(0);
                } else if let Ok(processor_vector) = self.interrupts.processor_vector(0)
                    && replies
                {
                    // A reply that comes while the message is not heeded yet is announced by it, too.
                    self.in_flight.sent(MESSAGE, processor_vector);
                }
            }
        }
    }
}
