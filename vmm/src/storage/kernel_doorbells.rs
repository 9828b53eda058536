//! Doorbells that KVM handles for a controller while the written values do not matter.
//!
//! The controller says whether the values matter, PCI says where the BAR is; from both follow the doorbells to connect.
//! docs/adr/0002-doorbells.md says why only then. It must not know whose doorbells they are.

use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::doorbell::{Doorbell, DoorbellHost, DoorbellMatch};

/// What decides which doorbells are connected, and which are.
#[derive(Default)]
struct Wiring {
    nudges_only: bool,
    base: Option<u64>,
    connected: Vec<Doorbell>,
}

/// Doorbells of one controller as seen by the kernel.
pub(crate) struct KernelDoorbells {
    host: Arc<dyn DoorbellHost>,
    event: EventFd,
    offsets: Vec<u64>,
    wiring: Mutex<Wiring>,
}

impl KernelDoorbells {
    /// Nothing is connected at first. `event` wakes the worker; `offsets` are those of the doorbells in the BAR.
    #[must_use]
    pub(crate) fn new(host: Arc<dyn DoorbellHost>, event: EventFd, offsets: impl IntoIterator<Item = u64>) -> Self {
        Self {
            host,
            event,
            offsets: offsets.into_iter().collect(),
            wiring: Mutex::default(),
        }
    }

    /// The BAR is at `base` now, or decoded nowhere.
    pub(crate) fn set_base(&self, base: Option<u64>) {
        self.change(|wiring| wiring.base = base);
    }

    /// `true`: the value of a write may be lost from now on. `false`: it matters again.
    pub(crate) fn set_nudges_only(&self, nudges_only: bool) {
        self.change(|wiring| wiring.nudges_only = nudges_only);
    }

    /// Applies the change and brings the connections in line with it. A doorbell that the kernel does not take goes on
    /// by exits: slower, nothing else.
    fn change(&self, change: impl FnOnce(&mut Wiring)) {
        let mut wiring = self.wiring.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (wiring.nudges_only, wiring.base);
        change(&mut wiring);
        if before == (wiring.nudges_only, wiring.base) {
            return;
        }
        for doorbell in std::mem::take(&mut wiring.connected) {
            if let Err(error) = self.host.disconnect(doorbell, &self.event) {
                tracing::warn!(%error, ?doorbell, "cannot disconnect a doorbell");
            }
        }
        let Some(base) = wiring.base.filter(|_| wiring.nudges_only) else {
            return;
        };
        for offset in &self.offsets {
            let doorbell = Doorbell {
                address: base.wrapping_add(*offset),
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
