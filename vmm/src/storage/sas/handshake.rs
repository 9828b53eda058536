//! Messages that come by the doorbell, and their replies. It must not know what they are about.

use std::sync::Arc;

use super::message::Frame;
use super::registers::{Handshake, RegisterFile};
use super::replies::Answer;
use super::spec::function;

/// The messages of the doorbell.
pub(super) struct Handshakes {
    registers: Arc<RegisterFile>,
}

impl Handshakes {
    pub(super) fn new(registers: Arc<RegisterFile>) -> Self {
        Self { registers }
    }

    /// The message of a handshake that is complete. It has to be [answered](Self::answer).
    pub(super) fn take(&self) -> Option<Frame> {
        let mut registers = self.registers.lock();
        let Handshake::Received(words) = &mut registers.handshake else {
            return None;
        };
        let words = std::mem::take(words);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Some(Frame::new(&bytes))
    }

    /// Answers a message by the doorbell, or fails with a fault's code. Returns the answer if it is for the reply FIFO: that
    /// is where the host expects those of SCSI.
    pub(super) fn answer(&self, frame: &Frame, executed: Result<Answer, u16>) -> Option<Answer> {
        let of_scsi = matches!(frame.function(), function::SCSI_IO_REQUEST | function::SCSI_TASK_MGMT);
        let mut registers = self.registers.lock();
        let queued = match executed {
            // There was a reset meanwhile.
            _ if !registers.awaits_answer() => None,
            Err(code) => {
                registers.fail(code);
                None
            }
            Ok(Answer::Frame(reply)) if !of_scsi => {
                registers.answer(reply.bytes());
                None
            }
            Ok(answer) => {
                registers.end_handshake();
                Some(answer)
            }
        };
        self.registers.update(&mut registers);
        queued
    }
}
