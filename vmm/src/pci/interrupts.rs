//! The ways in which a function can interrupt. One is in use: MSI-X if it is enabled, else MSI if that is, else the
//! INTx pin (PCI 6.8: a function that uses messages does not use its pin. A guest must not enable both kinds of
//! messages; if it does, MSI-X wins).

use std::sync::Arc;

use super::config::{Command, ConfigSpace, ConfigSpaceError, FunctionDescription};
use super::intx::{INTA, Intx};
use super::msi::{self, MSI_CAPABILITY_ID, Msi};
use super::msix::{MSIX_CAPABILITY_ID, Msix};
use crate::irq::InterruptMode;

/// What a function offers, shared with its device. MSI-X and MSI may have one sink: only one of them uses it at a time.
#[derive(Clone, Default)]
pub struct Interrupts {
    /// MSI-X.
    pub msix: Option<Arc<Msix>>,
    /// MSI.
    pub msi: Option<Arc<Msi>>,
    /// The pin, INTA#.
    pub intx: Option<Arc<Intx>>,
}

/// Takes the number of a message that is about to be sent, and the vector by which it interrupts a processor, where that is known.
pub type OnSent = Arc<dyn Fn(u16, Option<u8>) + Send + Sync>;

/// A message that the guest masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masked;

impl Interrupts {
    /// How the function interrupts now.
    #[must_use]
    pub fn mode(&self) -> InterruptMode {
        if self.msix.as_ref().is_some_and(|msix| msix.is_enabled()) {
            return InterruptMode::Msix;
        }
        let messages = self.msi.as_ref().and_then(|msi| msi.enabled_messages());
        messages.map_or(InterruptMode::Intx, |messages| InterruptMode::Msi { messages })
    }

    /// The device wants to interrupt by message `vector`, in whichever way messages are sent now.
    pub fn signal(&self, vector: u16) {
        match (self.mode(), &self.msix, &self.msi) {
            (InterruptMode::Msix, Some(msix), _) => msix.signal(vector),
            (InterruptMode::Msi { .. }, _, Some(msi)) => msi.signal(vector),
            _ => {}
        }
    }

    /// The vector by which a processor would be interrupted if message `vector` were sent now, where that is known; `Err`: the guest
    /// masks the message.
    pub(crate) fn processor_vector(&self, vector: u16) -> Result<Option<u8>, Masked> {
        match (self.mode(), &self.msix) {
            (InterruptMode::Msix, Some(msix)) => {
                let message = msix.message(vector).ok_or(Masked)?;
                Ok(message.is_interrupt().then_some(message.data as u8))
            }
            _ => Ok(None),
        }
    }

    /// Has `observer` called with each message right before it is sent, also one that was masked until then. It must not wait,
    /// nor call the function's interrupts. A second one is not heard.
    pub(crate) fn observe_sent(&self, observer: OnSent) {
        if let Some(msi) = &self.msi {
            msi.observe_sent(Arc::clone(&observer));
        }
        if let Some(msix) = &self.msix {
            msix.observe_sent(observer);
        }
    }

    /// The device has an interrupt for the pin, or has none any more.
    pub fn set_level(&self, pending: bool) {
        if let Some(intx) = &self.intx {
            intx.set_level(pending);
        }
    }

    /// Takes what configuration space does not hold back to the state after power-on: nothing is pending, and the table of
    /// MSI-X is masked.
    pub(super) fn reset(&self) {
        if let Some(msix) = &self.msix {
            msix.reset();
        }
        self.set_level(false);
    }

    /// Adds the pin, and the capabilities in front of others.
    pub(super) fn describe(&self, description: &mut FunctionDescription) -> Result<(), ConfigSpaceError> {
        if self.intx.is_some() {
            description.interrupt_pin = INTA;
        }
        if let Some(msi) = &self.msi {
            description.capabilities.insert(0, msi.capability());
        }
        if let Some(msix) = &self.msix {
            let capability = msix.layout().capability(&description.bars)?;
            description.capabilities.insert(0, capability);
        }
        Ok(())
    }

    /// Takes over what the guest wrote to `config`. The pin is released before the first message can leave, and asserted
    /// after the last.
    pub(super) fn update(&self, config: &ConfigSpace) {
        let command = config.command();
        let bus_master = command.contains(Command::BUS_MASTER);
        let msix = self.msix.as_ref().zip(config.find_capability(MSIX_CAPABILITY_ID));
        let msi = self.msi.as_ref().zip(config.find_capability(MSI_CAPABILITY_ID));
        let msix = msix.map(|(msix, offset)| {
            // The high byte of Message Control.
            let mut control = [0];
            config.read(offset + 3, &mut control);
            (msix, control[0])
        });
        let by_msix = msix.as_ref().is_some_and(|(_, control)| Msix::is_switched_on(*control));
        let by_message = by_msix || msi.is_some_and(|(_, offset)| msi::is_enabled(config, offset));
        let disabled = command.contains(Command::INTERRUPT_DISABLE);
        let set_pin = |superseded| {
            if let Some(intx) = &self.intx {
                intx.update(disabled, superseded);
            }
        };
        if by_message {
            set_pin(true);
        }
        // Of the two kinds the one that ends comes first: they may share a sink.
        let update_msi = || {
            if let Some((msi, offset)) = msi {
                msi.update(config, offset, bus_master, by_msix);
            }
        };
        if by_msix {
            update_msi();
        }
        if let Some((msix, control)) = msix {
            msix.set_control(control, bus_master);
        }
        if !by_msix {
            update_msi();
        }
        if !by_message {
            set_pin(false);
        }
    }

    /// STATUS.InterruptStatus.
    pub(super) fn status(&self) -> bool {
        self.intx.as_ref().is_some_and(|intx| intx.status())
    }
}

/// As most functions are whose device sends messages only.
impl From<Arc<Msix>> for Interrupts {
    fn from(msix: Arc<Msix>) -> Self {
        Self {
            msix: Some(msix),
            ..Self::default()
        }
    }
}
