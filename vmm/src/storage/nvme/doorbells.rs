//! Doorbells: the tails and heads that the host tells, by register or by shadow doorbell (NVMe 1.4, sections 3.1.24,
//! 3.1.25, 5.7 and 7.13).
//!
//! After Doorbell Buffer Config, the values of the I/O queues are in the shadow doorbells, and a register write only
//! says that one has changed. The admin queue's shadow doorbells are believed only once the host has changed one,
//! because common hosts keep using that queue's registers. docs/adr/0002-doorbells.md says why.

use std::sync::atomic::{Ordering, fence};

use super::queues::{DoorbellOf, Queues};
use super::registers::RegisterFile;
use super::rings::{CompletionQueue, InvalidDoorbellValue};
use super::spec::registers::PAGE_SIZE;
use super::spec::status::{Failure, Status};
use crate::storage::dma::DmaMemory;

/// Learns whether doorbell registers of I/O queues still carry a value that matters.
pub trait DoorbellRoute: Send {
    /// `true`: a write is only a nudge from now on, its value may be lost. `false`: the value matters again. Called
    /// before the guest can learn of the change.
    fn use_shadow(&mut self, active: bool);
}

/// For controllers whose doorbell writes always arrive with their value.
impl DoorbellRoute for () {
    fn use_shadow(&mut self, _active: bool) {}
}

/// A doorbell was written wrongly (section 5.2, Error status).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DoorbellError {
    /// There is no such queue.
    Register,
    /// The value cannot be.
    Value,
}

/// The two pages that Doorbell Buffer Config names.
#[derive(Debug)]
struct ShadowDoorbells {
    /// Guest physical address of the shadow doorbells.
    shadow: u64,
    /// Guest physical address of the EventIdx values.
    event_index: u64,
    /// What each admin doorbell (tail, head) held when the controller last wrote it; `None` once the host changed it.
    admin_untouched: [Option<u32>; 2],
    /// Per doorbell, the wrong value that was reported already.
    rejected: Vec<Option<u32>>,
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

/// What the host says by doorbells, and how it says it.
pub(super) struct Doorbells {
    route: Box<dyn DoorbellRoute>,
    /// Set by Doorbell Buffer Config.
    shadow: Option<ShadowDoorbells>,
    // Room that is kept between calls; empty in between.
    written: Vec<(usize, u16)>,
}

impl Doorbells {
    pub(super) fn new(route: Box<dyn DoorbellRoute>) -> Self {
        Self {
            route,
            shadow: None,
            written: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn has_shadow(&self) -> bool {
        self.shadow.is_some()
    }

    /// The registers are the truth again.
    pub(super) fn reset(&mut self) {
        self.shadow = None;
        self.route.use_shadow(false);
    }

    /// Doorbell Buffer Config (section 5.7): the shadow doorbells are at `shadow` and the EventIdx values at `event_index`.
    pub(super) fn configure(
        &mut self,
        (shadow, event_index): (u64, u64),
        queues: &Queues,
        memory: &dyn DmaMemory,
    ) -> Result<(), Failure> {
        for (page, dword) in [(shadow, 6), (event_index, 8)] {
            if page == 0 || page % PAGE_SIZE != 0 || !memory.contains(page, PAGE_SIZE as usize) {
                return Err(Failure::at(Status::INVALID_FIELD, dword, 0));
            }
        }
        let mut shadow = ShadowDoorbells {
            shadow,
            event_index,
            admin_untouched: [None; 2],
            rejected: vec![None; 2 * queues.count()],
        };
        for index in 0..2 * queues.count() {
            let value = queues.doorbell(DoorbellOf::at(index)).unwrap_or(0);
            shadow.start(memory, index, value);
        }
        self.shadow = Some(shadow);
        // Before the completion: from then on the host may write a doorbell to nudge only.
        self.route.use_shadow(true);
        Ok(())
    }

    /// A queue begins: its shadow doorbell does too.
    pub(super) fn start(&mut self, doorbell: DoorbellOf, memory: &dyn DmaMemory) {
        if let Some(shadow) = &mut self.shadow {
            shadow.start(memory, doorbell.index(), 0);
        }
    }

    /// Takes what was written to the doorbell registers since the last call. `wrong` gets impossible values.
    pub(super) fn take_registers(
        &mut self,
        registers: &RegisterFile,
        queues: &mut Queues,
        mut wrong: impl FnMut(DoorbellError),
    ) {
        if registers.lock().take_doorbells(&mut self.written) {
            wrong(DoorbellError::Register);
        }
        for (index, value) in self.written.drain(..) {
            let doorbell = DoorbellOf::at(index);
            let in_shadow = match &self.shadow {
                Some(shadow) => shadow.admin_untouched.get(index).is_none_or(Option::is_none),
                None => false,
            };
            if in_shadow && queues.doorbell(doorbell).is_some() {
                continue;
            }
            match queues.ring(doorbell, value.into()) {
                None => wrong(DoorbellError::Register),
                Some(Err(InvalidDoorbellValue)) => wrong(DoorbellError::Value),
                Some(Ok(())) => {}
            }
        }
    }

    /// Takes the shadow doorbells as they are now. `wrong` gets impossible values, each once.
    pub(super) fn take_shadow(
        &mut self,
        queues: &mut Queues,
        memory: &dyn DmaMemory,
        mut wrong: impl FnMut(DoorbellError),
    ) {
        let Some(shadow) = &mut self.shadow else { return };
        for index in 0..2 * queues.count() {
            let doorbell = DoorbellOf::at(index);
            if queues.doorbell(doorbell).is_none() {
                continue;
            }
            let Some(value) = shadow.value(memory, index) else {
                continue;
            };
            if queues.ring(doorbell, value) == Some(Err(InvalidDoorbellValue)) && shadow.is_news(index, value) {
                wrong(DoorbellError::Value);
            }
        }
    }

    /// Before going idle: asks the host to write the registers for what it does next. The host may have moved a doorbell just
    /// before it could see the request: [`take_shadow`](Self::take_shadow) has to look once more (section 7.13). `by_pin`: the
    /// level of the pin depends on the heads.
    pub(super) fn arm_shadow(&self, queues: &Queues, memory: &dyn DmaMemory, by_pin: bool) {
        let Some(shadow) = &self.shadow else { return };
        for index in 0..2 * queues.count() {
            let doorbell = DoorbellOf::at(index);
            let matters = match doorbell {
                DoorbellOf::Tail(_) => true,
                // The head matters to a queue that has no room left, and to the level of the pin.
                DoorbellOf::Head(id) => {
                    let matters = |queue: &CompletionQueue| queue.is_full() || by_pin && !queue.is_empty();
                    queues.completion(id).is_some_and(matters)
                }
            };
            if let Some(value) = queues.doorbell(doorbell).filter(|_| matters) {
                shadow.arm(memory, index, value);
            }
        }
        fence(Ordering::SeqCst);
    }
}
