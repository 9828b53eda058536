//! MSI (PCI 6.8.1): the capability, with 64-bit addresses and without masks of its own, and when a message may be sent.
//!
//! Talks to a [`MessageSink`]; must not know how a message gets to a processor.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::config::{Capability, ConfigSpace};
use super::interrupts::OnSent;
use crate::irq::{MessageSink, MsiMessage};

/// Capability ID of MSI (PCI appendix H).
pub const MSI_CAPABILITY_ID: u8 = 0x05;
/// Most messages that a function can ask for.
pub const MSI_MESSAGE_LIMIT: u16 = 32;

/// Message Control, its low byte: MSI Enable; where Multiple Message Capable and Multiple Message Enable are; 64 bit
/// address capable.
const MSI_ENABLE: u8 = 1 << 0;
const CAPABLE_SHIFT: u32 = 1;
const ENABLE_SHIFT: u32 = 4;
const ADDRESS_64: u8 = 1 << 7;
/// Offsets in the capability.
const CONTROL: u8 = 2;
const ADDRESS: u8 = 4;
const DATA: u8 = 12;
/// Bytes from Message Control to the end.
const BODY: usize = 12;

/// The registers, as the guest last wrote them, and what follows from them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct MsiState {
    enabled: bool,
    /// Messages that the guest has allocated: a power of two, never more than the function asked for.
    allocated: u16,
    /// What the first message is. The others differ in the low bits of the data.
    message: MsiMessage,
    /// COMMAND.BusMasterEnable: a message is a memory write, so none leaves without it.
    bus_master: bool,
    /// Messages that wait for it, one bit each.
    withheld: u32,
}

impl MsiState {
    /// Message `number` of those allocated (PCI 6.8.1.6).
    fn message(&self, number: u16) -> MsiMessage {
        let low = u32::from(self.allocated - 1);
        MsiMessage {
            data: self.message.data & !low | u32::from(number) & low,
            ..self.message
        }
    }
}

struct Inner {
    state: MsiState,
    /// What the sink was told last; it can be told again, so it is no part of the state.
    routed: Vec<Option<MsiMessage>>,
}

/// The MSI logic of one function.
pub struct Msi {
    messages: u16,
    sink: Arc<dyn MessageSink>,
    inner: Mutex<Inner>,
    on_sent: OnceLock<OnSent>,
}

impl Msi {
    /// A function that asks for as many messages as `vectors` need: the next power of two, 32 at most. MSI is off at
    /// first.
    #[must_use]
    pub fn new(vectors: u16, sink: Arc<dyn MessageSink>) -> Self {
        let messages = Self::messages_for(vectors);
        Self {
            messages,
            sink,
            inner: Mutex::new(Inner {
                state: MsiState {
                    allocated: 1,
                    ..MsiState::default()
                },
                routed: vec![None; usize::from(messages)],
            }),
            on_sent: OnceLock::new(),
        }
    }

    /// Has `observer` called with each message right before it is sent. A second one is not heard.
    pub(super) fn observe_sent(&self, observer: OnSent) {
        let _ = self.on_sent.set(observer);
    }

    fn send(&self, number: u16) {
        if let Some(observer) = self.on_sent.get() {
            observer(number, None);
        }
        self.sink.send(number);
    }

    /// How many messages a function with so many vectors asks for.
    #[must_use]
    pub fn messages_for(vectors: u16) -> u16 {
        vectors.clamp(1, MSI_MESSAGE_LIMIT).next_power_of_two()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The capability as it is after a reset.
    pub(super) fn capability(&self) -> Capability {
        let capable = (self.messages.trailing_zeros() << CAPABLE_SHIFT) as u8;
        let mut body = vec![0; BODY];
        body[0] = capable | ADDRESS_64;
        let mut writable = vec![0xff; BODY];
        writable[..2].copy_from_slice(&[MSI_ENABLE | 7 << ENABLE_SHIFT, 0]);
        // A message is a write of an aligned dword.
        writable[usize::from(ADDRESS - CONTROL)] = 0xfc;
        Capability {
            id: MSI_CAPABILITY_ID,
            body,
            writable,
        }
    }

    /// How many messages the guest has allocated, if it has switched MSI on.
    #[must_use]
    pub(crate) fn enabled_messages(&self) -> Option<u16> {
        let inner = self.lock();
        inner.state.enabled.then_some(inner.state.allocated)
    }

    /// The device wants to interrupt by message `number`. Where the guest has allocated fewer, several share one. While
    /// MSI is off nothing is sent.
    pub fn signal(&self, number: u16) {
        let mut inner = self.lock();
        let state = &mut inner.state;
        if !state.enabled {
            return;
        }
        let number = number & (state.allocated - 1);
        if state.bus_master {
            self.send(number);
        } else {
            state.withheld |= 1 << number;
        }
    }

    /// Takes over the registers of the capability at `offset` after the guest wrote to `config`. While MSI is
    /// `superseded` by MSI-X it is as if it were off.
    pub(super) fn update(&self, config: &ConfigSpace, offset: u8, bus_master: bool, superseded: bool) {
        let (mut control, mut address, mut data) = ([0], [0; 8], [0; 2]);
        config.read(offset + CONTROL, &mut control);
        config.read(offset + ADDRESS, &mut address);
        config.read(offset + DATA, &mut data);
        let mut inner = self.lock();
        let Inner { state, routed } = &mut *inner;
        let asked = 1u16 << (control[0] >> ENABLE_SHIFT & 7);
        let was_enabled = state.enabled;
        *state = MsiState {
            enabled: control[0] & MSI_ENABLE != 0 && !superseded,
            // More than the function is capable of, and the reserved encodings, are undefined: all that it has.
            allocated: asked.min(self.messages),
            message: MsiMessage {
                address: u64::from_le_bytes(address),
                data: u16::from_le_bytes(data).into(),
            },
            bus_master,
            withheld: state.withheld,
        };
        if !state.enabled {
            state.withheld = 0;
            return;
        }
        if !was_enabled {
            // The sink may have served MSI-X meanwhile.
            routed.fill(None);
        }
        let mut changes = Vec::new();
        for number in 0..state.allocated {
            let (message, routed) = (state.message(number), &mut routed[usize::from(number)]);
            if *routed != Some(message) {
                *routed = Some(message);
                changes.push((number, message));
            }
        }
        if !changes.is_empty() {
            self.sink.set_messages(&changes);
        }
        if state.bus_master {
            let withheld = std::mem::take(&mut state.withheld);
            for number in (0..MSI_MESSAGE_LIMIT).filter(|number| withheld >> number & 1 != 0) {
                self.send(number & (state.allocated - 1));
            }
        }
    }
}

/// Whether the capability at `offset` of `config` is switched on.
pub(super) fn is_enabled(config: &ConfigSpace, offset: u8) -> bool {
    let mut control = [0];
    config.read(offset + CONTROL, &mut control);
    control[0] & MSI_ENABLE != 0
}
