//! How a storage controller interrupts: MSI-X, MSI or its pin.
//!
//! It must not know when an interrupt is due, or how a level or a message gets to a processor.

use std::sync::Arc;

use crate::irq::{InterruptLine, InterruptMode, IrqError, MessageSink};
use crate::pci::{Interrupts, Intx, Masked, Msi, Msix, MsixLayout, OnSent};

/// Where the interrupts of a controller go.
pub trait InterruptSink: Send + Sync {
    /// How the function interrupts now.
    fn mode(&self) -> InterruptMode;

    /// Sends message `vector` of MSI-X or MSI, or makes it pending while MSI-X masks it.
    fn signal(&self, vector: u16);

    /// The vector by which a processor is interrupted if that message is sent now, where that is known.
    ///
    /// # Errors
    /// [`Masked`] if the guest masks it.
    fn processor_vector(&self, _message: u16) -> Result<Option<u8>, Masked> {
        Ok(None)
    }

    /// Has `observer` called with each message right before it is sent, also one that the guest has masked until then. It
    /// must not wait, nor call this sink. A second one is not heard.
    fn observe_sent(&self, observer: OnSent);

    /// Sets the level of the pin. Heeded in no other mode.
    fn set_level(&self, pending: bool);
}

impl InterruptSink for Interrupts {
    fn mode(&self) -> InterruptMode {
        Interrupts::mode(self)
    }

    fn signal(&self, vector: u16) {
        Interrupts::signal(self, vector);
    }

    fn processor_vector(&self, message: u16) -> Result<Option<u8>, Masked> {
        Interrupts::processor_vector(self, message)
    }

    fn observe_sent(&self, observer: OnSent) {
        Interrupts::observe_sent(self, observer);
    }

    fn set_level(&self, pending: bool) {
        Interrupts::set_level(self, pending);
    }
}

/// The best way to interrupt that a controller offers. It offers those below, too: drivers choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum InterruptKind {
    /// The INTx pin.
    Intx,
    /// MSI.
    Msi,
    /// MSI-X.
    #[default]
    Msix,
}

/// Makes the given number of message vectors.
pub(crate) type MakeVectors = Box<dyn FnOnce(u16) -> Result<Arc<dyn MessageSink>, IrqError>>;

/// What a function offers up to `best`: `layout` says where its MSI-X structures are and how many vectors it has, `pin`
/// is INTA# of its slot.
///
/// # Errors
/// Those of `vectors`.
pub fn offer(
    best: InterruptKind,
    layout: MsixLayout,
    vectors: MakeVectors,
    pin: Arc<dyn InterruptLine>,
) -> Result<Interrupts, IrqError> {
    let mut interrupts = Interrupts {
        intx: Some(Arc::new(Intx::new(pin))),
        ..Interrupts::default()
    };
    if best == InterruptKind::Intx {
        return Ok(interrupts);
    }
    // One set of vectors for both kinds: a guest uses one at a time.
    let sink = vectors(layout.vectors.max(Msi::messages_for(layout.vectors)))?;
    interrupts.msi = Some(Arc::new(Msi::new(layout.vectors, Arc::clone(&sink))));
    if best == InterruptKind::Msix {
        interrupts.msix = Some(Arc::new(Msix::new(layout, sink)));
    }
    Ok(interrupts)
}
