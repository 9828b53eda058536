//! Whether the controller serves requests: resets, READY, OPERATIONAL and FAULT state.
//!
//! Its state is that of the [registers](super::registers), which the host changes as well. It must not know messages.

use std::sync::Arc;

use super::registers::{RegisterFile, Reset};
use super::spec::fault;

/// The life of a controller.
pub(super) struct Life {
    registers: Arc<RegisterFile>,
}

impl Life {
    pub(super) fn new(registers: Arc<RegisterFile>) -> Self {
        Self { registers }
    }

    /// The reset that the host has asked for. It is asked for until it [has been done](Self::finish_reset).
    pub(super) fn asked_reset(&self) -> Option<Reset> {
        self.registers.lock().reset
    }

    /// A reset has been done.
    pub(super) fn finish_reset(&self, reset: Reset) {
        let mut registers = self.registers.lock();
        registers.finish_reset(reset);
        self.registers.update(&mut registers);
    }

    /// Whether requests are served. The IOC fails if some came before it was initialised.
    pub(super) fn is_operational(&self) -> bool {
        let (operational, requests) = {
            let registers = self.registers.lock();
            let settled = registers.reset.is_none() && !registers.is_handshake_complete();
            (registers.is_operational(), registers.has_requests(false) && settled)
        };
        if !operational && requests {
            self.fail(fault::FIFO);
        }
        operational
    }

    /// The IOC comes into FAULT state.
    pub(super) fn fail(&self, code: u16) {
        let mut registers = self.registers.lock();
        if registers.reset.is_some() {
            // What went wrong was before the reset.
            return;
        }
        registers.fail(code);
        self.registers.update(&mut registers);
    }
}
