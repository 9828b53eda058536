//! Messages that come by the doorbell, and their replies.

use super::controller::{Controller, Executed};
use super::message::Frame;
use super::registers::Handshake;
use super::spec::function;
use super::state::Answer;

impl Controller {
    /// Executes the message of a handshake that is complete. Its reply goes the same way, except for those that the host
    /// expects in the reply FIFO: task management and events (MPI: messages with a context of the driver's queues).
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
        let by_doorbell = !matches!(
            frame.function(),
            function::SCSI_IO_REQUEST | function::SCSI_TASK_MGMT | function::EVENT_NOTIFICATION
        );
        let mut registers = self.registers.lock();
        let queued = match executed {
            Executed::Fault(code) => {
                registers.fail(code);
                None
            }
            Executed::Done(Answer::Frame(reply)) if by_doorbell => {
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
