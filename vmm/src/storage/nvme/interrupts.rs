//! Interrupts: which completion queue has to interrupt, and how (NVMe 1.4, section 7.5).
//!
//! With MSI-X each burst of entries sends the message of the queue's vector. Otherwise the interrupt status of section
//! 7.5.1 decides: a vector's bit is set while a queue of that vector has entries that the host has not acknowledged.
//! The pin's level is that of the only bit, unless INTMS masks it. With MSI, a burst of entries sends a message unless
//! INTMS masks the vector; unmasking the vector while its bit is set sends one too.
//!
//! A burst sends its message even if the vector's bit was set already. Without that, a host that looks at the queue,
//! finds nothing more and then writes the head doorbell would miss an entry posted in between.
//!
//! It must not know how a level or a message gets to a processor.

use std::sync::Arc;

use super::queues::Queues;
use super::registers::RegisterFile;
use crate::irq::InterruptMode;
use crate::storage::in_flight::Announced;
use crate::storage::interrupts::InterruptSink;

/// The message that a queue with this vector uses, of so many that there are (a power of two, 32 at most). A vector that
/// the host has given no message to shares one.
fn message_of(vector: u16, messages: u16) -> u16 {
    vector & messages.saturating_sub(1)
}

/// Sends the interrupts of completion queues.
pub(super) struct QueueInterrupts {
    sink: Arc<dyn InterruptSink>,
    registers: Arc<RegisterFile>,
    /// Vectors of MSI-X.
    vectors: u16,
}

impl QueueInterrupts {
    pub(super) fn new(sink: Arc<dyn InterruptSink>, registers: Arc<RegisterFile>, vectors: u16) -> Self {
        Self {
            sink,
            registers,
            vectors,
        }
    }

    /// Interrupt vectors that a completion queue can be given now (section 5.3.1).
    pub(super) fn vectors(&self) -> u16 {
        match self.sink.mode() {
            InterruptMode::Msix => self.vectors,
            InterruptMode::Msi { messages } => messages,
            InterruptMode::Intx => 1,
        }
    }

    /// Whether the level of the pin is what interrupts now.
    pub(super) fn are_by_pin(&self) -> bool {
        self.sink.mode() == InterruptMode::Intx
    }

    /// Entries were posted to a completion queue: sends the interrupt that is due for it.
    pub(super) fn signal(&self, queues: &mut Queues, id: u16) {
        if self.sink.mode() != InterruptMode::Msix {
            return self.update(queues);
        }
        let Some(queue) = queues.completion_mut(id) else {
            return;
        };
        if std::mem::take(&mut queue.interrupt_due) {
            if let Some(vector) = queue.vector {
                queues.interrupt_due(id, Announced::Message(vector));
                self.sink.signal(vector);
            }
        }
    }

    /// Sets the pin, or sends the MSI messages that are due, by what the queues hold. With MSI-X there is nothing to do
    /// but to forget what the other modes need.
    pub(super) fn update(&self, queues: &mut Queues) {
        match self.sink.mode() {
            InterruptMode::Msix => self.set_pin(false),
            InterruptMode::Intx => {
                let masked = self.registers.lock().masked() & 1 != 0;
                let pending = has_unacknowledged(queues, masked);
                self.set_pin(pending);
            }
            InterruptMode::Msi { messages } => self.send_messages(queues, messages),
        }
    }

    fn set_pin(&self, pending: bool) {
        let mut registers = self.registers.lock();
        registers.take_unmasked();
        self.registers.set_interrupt_status(&mut registers, pending);
    }

    /// Under the registers' lock, so that a vector that the host has masked sends nothing more.
    fn send_messages(&self, queues: &mut Queues, messages: u16) {
        let mut registers = self.registers.lock();
        let unmasked = registers.take_unmasked();
        self.registers.set_interrupt_status(&mut registers, false);
        let (mut due, mut waiting) = (0u32, Vec::new());
        for (id, queue) in queues.completions_mut() {
            let Some(vector) = queue.vector else { continue };
            let message = message_of(vector, messages);
            let bit = 1 << message;
            let masked = registers.masked() & bit != 0;
            let news = queue.interrupt_due;
            queue.interrupt_due &= masked;
            if (news || unmasked & bit != 0) && !queue.is_empty() {
                due |= if masked { 0 } else { bit };
                waiting.push((id, message));
            }
        }
        for (id, message) in waiting {
            queues.interrupt_due(id, Announced::Message(message));
        }
        for message in (0..messages).filter(|message| due >> message & 1 != 0) {
            self.sink.signal(message);
        }
    }
}

/// Whether a queue that may interrupt holds entries that the host has not acknowledged. `masked`: the pin stays low even so.
fn has_unacknowledged(queues: &mut Queues, masked: bool) -> bool {
    let mut pending = Vec::new();
    for (id, queue) in queues.completions_mut() {
        let holds = queue.vector.is_some() && !queue.is_empty();
        let news = queue.interrupt_due;
        queue.interrupt_due &= masked && holds;
        if holds {
            pending.push((id, news));
        }
    }
    for &(id, _) in pending.iter().filter(|(_, news)| *news) {
        queues.interrupt_due(id, Announced::Pin);
    }
    if !masked && !pending.is_empty() {
        queues.pin_asserted();
    }
    !pending.is_empty()
}
