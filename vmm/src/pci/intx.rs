//! The INTx pin of a function (PCI 2.2.6 and 6.2): its level, and whether the board sees it (Interrupt Disable,
//! messages in use).
//!
//! Talks to an [`InterruptLine`]. It must not know where that leads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::irq::InterruptLine;

/// The pin of a device with one function.
pub const INTA: u8 = 1;

/// What the device wants and what the guest allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct IntxState {
    /// The device has an interrupt pending.
    pending: bool,
    /// COMMAND.InterruptDisable.
    disabled: bool,
    /// The function interrupts by messages.
    superseded: bool,
}

impl IntxState {
    /// The level of the line.
    fn level(self) -> bool {
        self.pending && !self.disabled && !self.superseded
    }
}

/// A pin. Devices set its level; the function disconnects it when the guest disables it or chooses messages.
pub struct Intx {
    line: Arc<dyn InterruptLine>,
    state: Mutex<IntxState>,
}

impl Intx {
    /// Released and connected, as after a reset.
    #[must_use]
    pub fn new(line: Arc<dyn InterruptLine>) -> Self {
        Self {
            line,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, IntxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the line under the lock, so that two changes take effect in the order in which they were made.
    fn change(&self, change: impl FnOnce(&mut IntxState)) {
        let mut state = self.lock();
        let before = state.level();
        change(&mut state);
        if state.level() != before {
            self.line.set_level(state.level());
        }
    }

    /// The device has an interrupt pending, or has none any more.
    pub fn set_level(&self, pending: bool) {
        self.change(|state| state.pending = pending);
    }

    /// STATUS.InterruptStatus: pending, whether it may be signalled or not.
    #[must_use]
    pub fn status(&self) -> bool {
        let state = self.lock();
        state.pending && !state.superseded
    }

    /// Takes over COMMAND.InterruptDisable, and whether messages are used instead.
    pub(super) fn update(&self, disabled: bool, superseded: bool) {
        self.change(|state| {
            state.disabled = disabled;
            state.superseded = superseded;
        });
    }
}
