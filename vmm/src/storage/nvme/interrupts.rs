//! Interrupts: which completion queue is due one, and what becomes of it (NVMe 1.4, section 7.5).
//!
//! With MSI-X each burst of entries sends the message of the queue's vector. Else there is the interrupt status of
//! section 7.5.1: a vector's bit is set while a queue of that vector has entries that the host has not acknowledged. With
//! the pin, its level is the one bit there is, unless INTMS masks it. With MSI a burst of entries sends a message unless
//! INTMS masks the vector, and so does taking that mask away while the bit is set.
//!
//! A burst sends its message even if the vector's bit was set already. The transition alone would be too little: a host
//! that looks at the queue, finds nothing more and then writes the head doorbell would miss an entry posted in between.
//!
//! It must not know how a level or a message gets to a processor.

use super::controller::Controller;
use crate::irq::InterruptMode;

/// The message that a queue with this vector uses, of so many that there are (a power of two, 32 at most). A vector that
/// the host has given no message to shares one.
fn message_of(vector: u16, messages: u16) -> u16 {
    vector & messages.saturating_sub(1)
}

impl Controller {
    /// Interrupt vectors that a completion queue can be given now (section 5.3.1).
    pub(super) fn interrupt_vectors(&self) -> u16 {
        match self.interrupts.mode() {
            InterruptMode::Msix => self.config.queue_pairs + 1,
            InterruptMode::Msi { messages } => messages,
            InterruptMode::Intx => 1,
        }
    }

    /// Entries were posted to a completion queue: sends the interrupt that is due for it.
    pub(super) fn signal(&mut self, queue: u16) {
        if self.interrupts.mode() != InterruptMode::Msix {
            return self.update_interrupts();
        }
        let Some(queue) = self.state.completion_queue(queue) else {
            return;
        };
        if std::mem::take(&mut queue.interrupt_due) {
            if let Some(vector) = queue.vector {
                self.interrupts.signal(vector);
            }
        }
    }

    /// Sets the pin, or sends the MSI messages that are due, by what the queues hold. With MSI-X there is nothing to do
    /// but to forget what the other modes need.
    pub(super) fn update_interrupts(&mut self) {
        match self.interrupts.mode() {
            InterruptMode::Msix => self.set_pin(false),
            InterruptMode::Intx => {
                let pending = self.has_unacknowledged();
                self.set_pin(pending);
            }
            InterruptMode::Msi { messages } => self.send_messages(messages),
        }
    }

    fn set_pin(&self, pending: bool) {
        let mut registers = self.registers.lock();
        registers.unmasked = 0;
        self.registers.set_interrupt_status(&mut registers, pending);
    }

    /// Whether a queue that may interrupt holds entries that the host has not acknowledged.
    fn has_unacknowledged(&mut self) -> bool {
        let mut pending = false;
        for queue in self.state.completion_queues.iter_mut().flatten() {
            queue.interrupt_due = false;
            pending |= queue.vector.is_some() && !queue.is_empty();
        }
        pending
    }

    /// Under the registers' lock, so that a vector that the host has masked sends nothing more.
    fn send_messages(&mut self, messages: u16) {
        let mut registers = self.registers.lock();
        let unmasked = std::mem::take(&mut registers.unmasked);
        self.registers.set_interrupt_status(&mut registers, false);
        let mut due = 0u32;
        for queue in self.state.completion_queues.iter_mut().flatten() {
            let Some(vector) = queue.vector else { continue };
            let bit = 1 << message_of(vector, messages);
            if registers.interrupt_mask & bit != 0 {
                continue;
            }
            let wanted = std::mem::take(&mut queue.interrupt_due) || unmasked & bit != 0;
            if wanted && !queue.is_empty() {
                due |= bit;
            }
        }
        for message in (0..messages).filter(|message| due >> message & 1 != 0) {
            self.interrupts.signal(message);
        }
    }
}
