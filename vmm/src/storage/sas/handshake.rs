//! Messages that come by the doorbell, and their replies.

use super::controller::{Controller, Executed};
use super::message::Frame;
use super::registers::Handshake;
use super::spec::function;
use super::state::Answer;

impl Controller {
    /// Executes the message of a handshake that is complete. Its reply goes the same way, except for those of SCSI, which
    /// the host expects in the reply FIFO.
    pub(super) fn take_handshake(&mut self) {
        let words = {
            let mut registers = self.registers.lock();
            let Handshake::Received(words) = &mut registers.handshake else {
                return;
            };
            std::mem::take(words)
        };
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let frame = Frame::new(&bytes);
        let executed = self.execute_or_fail(&frame);
        let of_scsi = matches!(frame.function(), function::SCSI_IO_REQUEST | function::SCSI_TASK_MGMT);
        let mut registers = self.registers.lock();
        let queued = match executed {
            // There was a reset meanwhile.
            _ if !registers.awaits_answer() => None,
            Executed::Fault(code) => {
                registers.fail(code);
                None
            }
            Executed::Done(Answer::Frame(reply)) if !of_scsi => {
                registers.answer(reply.bytes());
                None
            }
            Executed::Done(answer) => {
                registers.end_handshake();
                Some(answer)
            }
        };
        self.registers.update_interrupt(&mut registers);
        drop(registers);
        if let Some(answer) = queued {
            self.post(answer);
        }
    }
}
