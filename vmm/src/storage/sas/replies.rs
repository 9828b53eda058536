//! Replies: how they get to the host, and what the fault plan makes of them.
//!
//! A reply is a context, or a frame that the host has given for it. Where the host has given none, or has not taken those
//! that are there, replies wait, and nothing more is served.

use super::controller::Controller;
use super::faults;
use super::message::Frame;
use super::scsi_io::terminated;
use super::spec::fault;
use super::state::{Answer, Withheld};
use crate::storage::dma::DmaMemory;
use crate::storage::fault::CompletionFault;

/// A descriptor of the reply post FIFO that is an address (MPI_ADDRESS_REPLY_A_BIT).
const ADDRESS_REPLY: u32 = 0x8000_0000;
/// The bits of a context reply that are the context (MPI_CONTEXT_REPLY_CONTEXT_MASK).
pub(super) const CONTEXT_MASK: u32 = 0x1fff_ffff;

impl Controller {
    /// A request was executed: posts its reply, or what the fault plan makes of it.
    pub(super) fn finish(&mut self, frame: &Frame, answer: Answer) {
        let code = faults::code(frame);
        let planned = self.faults.as_ref().and_then(|faults| faults.completion_due(code));
        let context = frame.context();
        match planned {
            None => self.post(answer),
            Some(CompletionFault::Drop) => {}
            Some(CompletionFault::Duplicate) => {
                self.post(answer.clone());
                self.post(answer);
            }
            Some(CompletionFault::Stray) => {
                self.post(answer);
                let stray = self.earlier_context(context);
                self.post(Answer::Context(stray & CONTEXT_MASK));
            }
            Some(CompletionFault::Delay(time)) => {
                let ticket = self.delay(time);
                let withheld = Withheld {
                    answer,
                    context,
                    disk: self.disk_of(frame),
                    frame: *frame,
                };
                self.state.withheld.insert(ticket, withheld);
            }
        }
        if self.state.answered[1] != context {
            self.state.answered = [self.state.answered[1], context];
        }
    }

    /// The context of a request that was answered before: nothing is outstanding for it, unless the host has used it again.
    fn earlier_context(&self, than: u32) -> u32 {
        let [older, newer] = self.state.answered;
        if newer == than { older } else { newer }
    }

    /// Posts a reply, now or as soon as there is room.
    pub(super) fn post(&mut self, answer: Answer) {
        self.state.replies.push_back(answer);
        self.flush_replies();
    }

    /// Posts replies that wait. `false`: some still do, and the host has to act first.
    pub(super) fn flush_replies(&mut self) -> bool {
        let mut failed = None;
        let mut registers = self.registers.lock();
        if registers.reset.is_some() {
            // They are those of before the reset.
            self.state.replies.clear();
        }
        while let Some(answer) = self.state.replies.front() {
            let descriptor = match answer {
                _ if !registers.has_room() => None,
                Answer::Context(context) => Some(*context),
                Answer::Frame(reply) => registers.take_free().map(|low| {
                    let address = u64::from(self.state.initialisation.host_mfa_high) << 32 | u64::from(low);
                    let size = usize::from(self.state.initialisation.reply_frame_size);
                    let bytes = reply.bytes();
                    if self.dma.write(address, &bytes[..bytes.len().min(size)]).is_err() {
                        failed = Some(fault::REPLY_MESSAGE_PCI_BUS_FAULT);
                    }
                    low >> 1 | ADDRESS_REPLY
                }),
            };
            let Some(descriptor) = descriptor else {
                registers.starved = true;
                self.registers.update_interrupt(&mut registers);
                return false;
            };
            if let Some(code) = failed {
                registers.fail(code);
                self.state.replies.clear();
                break;
            }
            self.state.replies.pop_front();
            registers.post(descriptor);
        }
        self.registers.update_interrupt(&mut registers);
        true
    }

    /// Ends requests that a fault keeps back: they get their reply now, with that IOCStatus. Returns how many.
    pub(super) fn terminate(&mut self, wanted: impl Fn(&Withheld) -> bool, status: u16) -> u32 {
        let ended: Vec<_> = self
            .state
            .withheld
            .iter()
            .filter(|(_, withheld)| wanted(withheld))
            .map(|(&ticket, _)| ticket)
            .collect();
        for ticket in &ended {
            if let Some(withheld) = self.state.withheld.remove(ticket) {
                self.post(Answer::Frame(terminated(&withheld.frame, status)));
            }
        }
        ended.len() as u32
    }
}
