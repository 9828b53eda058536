//! Doorbells: what the host says of tails and heads, by register or by shadow doorbell (NVMe 1.4, sections 3.1.24,
//! 3.1.25, 5.7 and 7.13).
//!
//! Once Doorbell Buffer Config was accepted, the shadow doorbells of the I/O queues are the truth and a register write
//! is only a nudge. The admin queue's are believed once the host has changed them: common hosts keep using the
//! registers for it. Why: docs/adr/0002-doorbells.md.

use std::sync::atomic::{Ordering, fence};

use super::controller::Controller;
use super::events::Event;
use super::rings::{CompletionQueue, InvalidDoorbellValue, SubmissionQueue};
use super::spec::command::SubmissionEntry;
use super::spec::registers::PAGE_SIZE;
use super::spec::status::{Failure, Status};
use crate::irq::InterruptMode;
use crate::storage::dma::DmaMemory;

/// The two pages that Doorbell Buffer Config names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowDoorbells {
    /// Guest physical address of the shadow doorbells.
    pub shadow: u64,
    /// Guest physical address of the EventIdx values.
    pub event_index: u64,
    /// What each admin doorbell (tail, head) held when the controller last wrote it; `None` once the host changed it.
    pub admin_untouched: [Option<u32>; 2],
    /// Per doorbell, the wrong value that was reported already.
    pub rejected: Vec<Option<u32>>,
}

impl ShadowDoorbells {
    /// The host's value of a doorbell; `None` where the host does not use it or the page cannot be read.
    fn value(&mut self, memory: &dyn DmaMemory, doorbell: usize) -> Option<u32> {
        let value = memory.load(self.shadow + 4 * doorbell as u64).ok()?;
        if let Some(untouched) = self.admin_untouched.get_mut(doorbell) {
            if *untouched == Some(value) {
                return None;
            }
            *untouched = None;
        }
        Some(value)
    }

    /// Asks the host to write the register once it moves the doorbell past `value`.
    fn arm(&self, memory: &dyn DmaMemory, doorbell: usize, value: u32) {
        // The page was checked when it was configured; memory does not go away.
        let _ = memory.store(self.event_index + 4 * doorbell as u64, value);
    }

    /// Puts both pages in step with the controller for a queue that begins or exists already.
    fn start(&mut self, memory: &dyn DmaMemory, doorbell: usize, value: u32) {
        let _ = memory.store(self.shadow + 4 * doorbell as u64, value);
        self.arm(memory, doorbell, value);
        if let Some(untouched) = self.admin_untouched.get_mut(doorbell) {
            *untouched = Some(value);
        }
        if let Some(rejected) = self.rejected.get_mut(doorbell) {
            *rejected = None;
        }
    }

    /// Whether a wrong value has not been reported yet.
    fn is_news(&mut self, doorbell: usize, value: u32) -> bool {
        match self.rejected.get_mut(doorbell) {
            Some(rejected) => rejected.replace(value) != Some(value),
            None => false,
        }
    }
}

fn tail_doorbell(queue: usize) -> usize {
    2 * queue
}

fn head_doorbell(queue: usize) -> usize {
    2 * queue + 1
}

impl Controller {
    /// Doorbell Buffer Config (section 5.7).
    pub(super) fn doorbell_buffer_config(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let (shadow, event_index) = (command.prp1.get(), command.prp2.get());
        for (page, dword) in [(shadow, 6), (event_index, 8)] {
            if page == 0 || page % PAGE_SIZE != 0 || !self.memory.contains(page, PAGE_SIZE as usize) {
                return Err(Failure::at(Status::INVALID_FIELD, dword, 0));
            }
        }
        let mut shadow = ShadowDoorbells {
            shadow,
            event_index,
            admin_untouched: [None; 2],
            rejected: vec![None; 2 * self.state.submission_queues.len()],
        };
        for (id, queue) in self.state.submission_queues.iter().enumerate() {
            shadow.start(
                &self.memory,
                tail_doorbell(id),
                queue.as_ref().map_or(0, SubmissionQueue::tail),
            );
        }
        for (id, queue) in self.state.completion_queues.iter().enumerate() {
            shadow.start(
                &self.memory,
                head_doorbell(id),
                queue.as_ref().map_or(0, CompletionQueue::head),
            );
        }
        self.state.shadow = Some(shadow);
        // Before the completion: from then on the host may write a doorbell to nudge only.
        self.doorbell_route.use_shadow(true);
        Ok(0)
    }

    /// A submission queue begins: its shadow doorbell does too.
    pub(super) fn start_tail_doorbell(&mut self, queue: u16) {
        if let Some(shadow) = &mut self.state.shadow {
            shadow.start(&self.memory, tail_doorbell(queue.into()), 0);
        }
    }

    /// A completion queue begins: its shadow doorbell does too.
    pub(super) fn start_head_doorbell(&mut self, queue: u16) {
        if let Some(shadow) = &mut self.state.shadow {
            shadow.start(&self.memory, head_doorbell(queue.into()), 0);
        }
    }

    /// Takes what was written to the doorbell registers since the last call.
    pub(super) fn take_doorbell_registers(&mut self) {
        let mut written = std::mem::take(&mut self.written_doorbells);
        let stray = {
            let mut registers = self.registers.lock();
            if !std::mem::take(&mut registers.doorbell_rung) {
                self.written_doorbells = written;
                return;
            }
            let doorbells = registers.doorbells.iter_mut().enumerate();
            written.extend(doorbells.filter_map(|(doorbell, value)| Some((doorbell, value.take()?))));
            std::mem::take(&mut registers.stray_doorbell)
        };
        if stray {
            self.doorbell_error(Event::InvalidDoorbellRegister);
        }
        for (doorbell, value) in written.drain(..) {
            self.ring_by_register(doorbell, value.into());
        }
        self.written_doorbells = written;
    }

    fn ring_by_register(&mut self, doorbell: usize, value: u32) {
        let in_shadow = match &self.state.shadow {
            Some(shadow) => shadow.admin_untouched.get(doorbell).is_none_or(Option::is_none),
            None => false,
        };
        if self.has_doorbell(doorbell) && in_shadow {
            return;
        }
        match self.ring(doorbell, value) {
            None => self.doorbell_error(Event::InvalidDoorbellRegister),
            Some(Err(InvalidDoorbellValue)) => self.doorbell_error(Event::InvalidDoorbellValue),
            Some(Ok(())) => {}
        }
    }

    fn has_doorbell(&self, doorbell: usize) -> bool {
        let queue = doorbell / 2;
        if doorbell % 2 == 0 {
            self.state.submission_queues.get(queue).is_some_and(Option::is_some)
        } else {
            self.state.completion_queues.get(queue).is_some_and(Option::is_some)
        }
    }

    /// Gives the value to the queue; `None` if there is no such queue.
    fn ring(&mut self, doorbell: usize, value: u32) -> Option<Result<(), InvalidDoorbellValue>> {
        let queue = (doorbell / 2) as u16;
        if doorbell % 2 == 0 {
            Some(self.state.submission_queue(queue)?.ring(value))
        } else {
            Some(self.state.completion_queue(queue)?.ring(value))
        }
    }

    /// Takes the shadow doorbells as they are now.
    pub(super) fn take_shadow_doorbells(&mut self) {
        let Some(mut shadow) = self.state.shadow.take() else {
            return;
        };
        for doorbell in 0..2 * self.state.submission_queues.len() {
            if !self.has_doorbell(doorbell) {
                continue;
            }
            let Some(value) = shadow.value(&self.memory, doorbell) else {
                continue;
            };
            if let Some(Err(InvalidDoorbellValue)) = self.ring(doorbell, value) {
                if shadow.is_news(doorbell, value) {
                    self.doorbell_error(Event::InvalidDoorbellValue);
                }
            }
        }
        self.state.shadow = Some(shadow);
    }

    /// Before going idle: asks the host to write the registers for what it does next, then looks once more, because the
    /// host may have moved a doorbell just before it could see the request (section 7.13).
    pub(super) fn arm_shadow_doorbells(&mut self) {
        let Some(shadow) = &self.state.shadow else { return };
        let by_pin = self.interrupts.mode() == InterruptMode::Intx;
        for (id, queue) in self.state.submission_queues.iter().enumerate() {
            if let Some(queue) = queue {
                shadow.arm(&self.memory, tail_doorbell(id), queue.tail());
            }
        }
        for (id, queue) in self.state.completion_queues.iter().enumerate() {
            // The head matters to a queue that has no room left, and to the level of the pin.
            let matters = |queue: &&CompletionQueue| queue.is_full() || by_pin && !queue.is_empty();
            if let Some(queue) = queue.as_ref().filter(matters) {
                shadow.arm(&self.memory, head_doorbell(id), queue.head());
            }
        }
        fence(Ordering::SeqCst);
        self.take_shadow_doorbells();
    }
}
