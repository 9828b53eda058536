//! Doorbells in the kernel while shadow doorbells are in use.
//!
//! Joins what the controller says (shadow doorbells or not) and what PCI says (where BAR 0 is) to a set of connected
//! doorbells. Why only then: docs/adr/0002-doorbells.md.

use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::controller::DoorbellRoute;
use super::registers::DOORBELLS;
use crate::doorbell::{Doorbell, DoorbellHost, DoorbellMatch};

/// What decides which doorbells are connected, and which are.
#[derive(Default)]
struct Wiring {
    shadow: bool,
    base: Option<u64>,
    connected: Vec<Doorbell>,
}

/// The tail doorbells of a controller's I/O queues as seen by the kernel. The heads are not connected: a host is seldom
/// asked to write one, and the level of the pin follows at once. Nor are those of the admin queue: hosts
/// write their value to the register only.
pub struct KernelDoorbells {
    host: Arc<dyn DoorbellHost>,
    event: EventFd,
    queue_pairs: u16,
    wiring: Mutex<Wiring>,
}

impl KernelDoorbells {
    /// Nothing is connected at first. `event` wakes the worker.
    #[must_use]
    pub fn new(host: Arc<dyn DoorbellHost>, event: EventFd, queue_pairs: u16) -> Self {
        Self {
            host,
            event,
            queue_pairs,
            wiring: Mutex::default(),
        }
    }

    /// BAR 0 is at `base` now, or decoded nowhere.
    pub fn set_base(&self, base: Option<u64>) {
        self.change(|wiring| wiring.base = base);
    }

    fn set_shadow(&self, active: bool) {
        self.change(|wiring| wiring.shadow = active);
    }

    /// Applies the change and brings the connections in line with it. A doorbell that the kernel does not take goes on
    /// by exits: slower, nothing else.
    fn change(&self, change: impl FnOnce(&mut Wiring)) {
        let mut wiring = self.wiring.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (wiring.shadow, wiring.base);
        change(&mut wiring);
        if before == (wiring.shadow, wiring.base) {
            return;
        }
        for doorbell in std::mem::take(&mut wiring.connected) {
            if let Err(error) = self.host.disconnect(doorbell, &self.event) {
                tracing::warn!(%error, ?doorbell, "cannot disconnect a doorbell");
            }
        }
        let Some(base) = wiring.base.filter(|_| wiring.shadow) else {
            return;
        };
        for queue in 1..=u64::from(self.queue_pairs) {
            let doorbell = Doorbell {
                address: base.wrapping_add(DOORBELLS + 8 * queue),
                matches: DoorbellMatch::Any,
            };
            match self.host.connect(doorbell, &self.event) {
                Ok(()) => wiring.connected.push(doorbell),
                Err(error) => {
                    tracing::debug!(%error, ?doorbell, "a doorbell goes on by exits");
                    break;
                }
            }
        }
    }
}

impl DoorbellRoute for Arc<KernelDoorbells> {
    fn use_shadow(&mut self, active: bool) {
        self.set_shadow(active);
    }
}
