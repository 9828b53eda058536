//! Replies: how they get to the host, and what the fault plan makes of them.
//!
//! A reply is a context, or a frame that the host has given for it. Where the host has given none, or has not taken those
//! that are there, replies wait, and nothing more is served. It must not know what a request was about, but for the disk
//! that it was for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::faults;
use super::ioc::Initialisation;
use super::message::{Frame, Reply};
use super::registers::{GLOBAL_CREDITS, RegisterFile};
use super::scsi_io::terminated;
use super::spec::fault;
use crate::storage::dma::{Dma, DmaMemory};
use crate::storage::fault::{CompletionFault, FaultInjector};
use crate::storage::in_flight::KeptBack;
use crate::storage::tickets::Tickets;
use crate::storage::worker::Ticket;

/// A descriptor of the reply post FIFO that is an address (MPI_ADDRESS_REPLY_A_BIT). A context with this bit cannot be
/// posted alone.
pub(super) const ADDRESS_REPLY: u32 = 0x8000_0000;

/// What is posted for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The context only: all went well.
    Context(u32),
    /// A reply frame.
    Frame(Reply),
}

impl Answer {
    /// The context of the request that it answers.
    fn context(&self) -> u32 {
        match self {
            Self::Context(context) => *context,
            Self::Frame(reply) => reply.context(),
        }
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self::Frame(reply)
    }
}

/// A reply that a fault keeps back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Withheld {
    answer: Answer,
    /// The request, for the reply that it gets if it is ended.
    frame: Frame,
    /// The disk that the request is for.
    disk: Option<usize>,
}

/// What there is to save of [`Replies`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RepliesState {
    /// Replies that wait for room.
    waiting: VecDeque<Answer>,
    /// Replies that faults keep back.
    withheld: BTreeMap<Ticket, Withheld>,
    /// The contexts that were answered last, the last one behind.
    answered: [u32; 2],
}

/// Replies on their way to the host.
pub(super) struct Replies {
    registers: Arc<RegisterFile>,
    plan: Option<Arc<FaultInjector>>,
    state: RepliesState,
}

impl Replies {
    pub(super) fn new(registers: Arc<RegisterFile>, plan: Option<Arc<FaultInjector>>) -> Self {
        Self {
            registers,
            plan,
            state: RepliesState::default(),
        }
    }

    /// As after power on: the host knows that requests without a reply never get one.
    pub(super) fn reset(&mut self) {
        self.state = RepliesState::default();
    }

    /// A request was executed: its reply is to be posted, or what the fault plan makes of it.
    pub(super) fn finish(&mut self, frame: &Frame, disk: Option<usize>, answer: Answer, tickets: &mut Tickets) {
        let code = faults::code(frame);
        let planned = self.plan.as_ref().and_then(|plan| plan.completion_due(code));
        let context = frame.context();
        match planned {
            None => self.queue(answer),
            Some(CompletionFault::Drop) => self.registers.kept_back(context, KeptBack::Dropped),
            Some(CompletionFault::Duplicate) => {
                self.queue(answer.clone());
                self.queue(answer);
            }
            Some(CompletionFault::Stray) => {
                self.queue(answer);
                let stray = self.earlier_context(context);
                self.queue(Answer::Context(stray & !ADDRESS_REPLY));
            }
            Some(CompletionFault::Delay(time)) => {
                self.registers.kept_back(context, KeptBack::Delayed);
                let frame = *frame;
                let withheld = Withheld { answer, frame, disk };
                self.state.withheld.insert(tickets.give(time), withheld);
            }
        }
        let [_, last] = self.state.answered;
        if last != context {
            self.state.answered = [last, context];
        }
    }

    /// The context of a request that was answered before: nothing is outstanding for it, unless the host has used it again.
    fn earlier_context(&self, than: u32) -> u32 {
        let [older, newer] = self.state.answered;
        if newer == than { older } else { newer }
    }

    /// A reply is to be posted, behind those that wait.
    pub(super) fn queue(&mut self, answer: Answer) {
        self.state.waiting.push_back(answer);
    }

    /// Whether as many wait to be posted as the host may have requests outstanding: no more may come.
    pub(super) fn is_full(&self) -> bool {
        self.state.waiting.len() >= GLOBAL_CREDITS.into()
    }

    /// How many wait to be posted.
    pub(super) fn waiting(&self) -> usize {
        self.state.waiting.len()
    }

    /// Posts replies that wait. `false`: some still do, and the host has to act first.
    pub(super) fn flush(&mut self, memory: &Dma, host: &Initialisation) -> bool {
        if self.state.waiting.is_empty() {
            return true;
        }
        let mut registers = self.registers.lock();
        if registers.reset.is_some() {
            // They are those of before the reset.
            self.state.waiting.clear();
        }
        while let Some(answer) = self.state.waiting.front() {
            let descriptor = match answer {
                _ if !registers.has_room() => None,
                Answer::Context(context) => Some(Ok(*context)),
                Answer::Frame(reply) => registers.take_free().map(|low| {
                    let bytes = reply.bytes();
                    let shown = &bytes[..bytes.len().min(host.reply_frame_size.into())];
                    let written = memory.write(host.frame_address(low), shown);
                    written.map(|()| low >> 1 | ADDRESS_REPLY)
                }),
            };
            match descriptor {
                Some(Ok(descriptor)) => {
                    let context = answer.context();
                    self.state.waiting.pop_front();
                    self.registers.post(&mut registers, context, descriptor);
                }
                Some(Err(_)) => {
                    registers.fail(fault::REPLY_MESSAGE_PCI_BUS_FAULT);
                    self.state.waiting.clear();
                }
                None => {
                    registers.starved = true;
                    self.registers.update(&mut registers);
                    return false;
                }
            }
        }
        self.registers.update(&mut registers);
        true
    }

    /// As many requests are kept back as the host may have outstanding: until some are answered, only task management and
    /// others of high priority are served.
    pub(super) fn has_no_credit(&self) -> bool {
        self.state.withheld.len() >= GLOBAL_CREDITS.into()
    }

    /// Whether the request of that context, for that disk, is kept back.
    pub(super) fn is_outstanding(&self, disk: usize, context: u32) -> bool {
        let mut withheld = self.state.withheld.values();
        withheld.any(|withheld| withheld.disk == Some(disk) && withheld.frame.context() == context)
    }

    /// Ends requests for a disk that are kept back, all or the one of that context: they get their reply now, with that
    /// IOCStatus. Returns how many.
    pub(super) fn terminate(&mut self, disk: usize, context: Option<u32>, status: u16) -> u32 {
        let mut ended = 0;
        let waiting = &mut self.state.waiting;
        self.state.withheld.retain(|_, withheld| {
            let is_meant = context.is_none_or(|context| withheld.frame.context() == context);
            if withheld.disk != Some(disk) || !is_meant {
                return true;
            }
            waiting.push_back(Answer::Frame(terminated(&withheld.frame, status)));
            ended += 1;
            false
        });
        ended
    }

    /// The host has ended requests for a disk, all or the one of that context: those whose replies a fault has dropped are
    /// over without one.
    pub(super) fn give_up(&self, disk: usize, context: Option<u32>) {
        self.registers.given_up(|request| {
            let is_meant = context.is_none_or(|context| request.id.id == context);
            let is_of_disk = request.asked.disk.is_some_and(|own| own as usize == disk);
            let is_dropped = request.kept_back == Some(KeptBack::Dropped);
            is_meant && is_of_disk && is_dropped && faults::is_io(request.asked.command)
        });
    }

    /// Whether a reply is kept back until that ticket comes.
    pub(super) fn is_withheld(&self, ticket: Ticket) -> bool {
        self.state.withheld.contains_key(&ticket)
    }

    /// The time of a reply that was kept back has come, if there is one with that ticket.
    pub(super) fn release(&mut self, ticket: Ticket) {
        let withheld = self.state.withheld.remove(&ticket);
        self.state.waiting.extend(withheld.map(|withheld| withheld.answer));
    }
}
