//! MSI-X (PCI 6.8.2): capability, table, pending bit array, and when a message may be sent.
//!
//! Talks to a [`MessageSink`]; must not know how a message gets to a processor.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::bar::{Bar, BarKind};
use super::config::{Capability, ConfigSpaceError};
use super::interrupts::OnSent;
use crate::irq::{MessageSink, MsiMessage};

/// Capability ID of MSI-X (PCI appendix H).
pub const MSIX_CAPABILITY_ID: u8 = 0x11;
/// Message Control: bits of its high byte.
const MSIX_ENABLE: u8 = 1 << 7;
const FUNCTION_MASK: u8 = 1 << 6;
/// Bytes of a table entry: message address, upper address, data, vector control.
const ENTRY_SIZE: u64 = 16;
/// Vector Control: the vector is masked.
const VECTOR_MASK: u32 = 1;
/// Most vectors that a function can have.
const MAX_VECTORS: u16 = 2048;

/// Where a function keeps its MSI-X structures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsixLayout {
    /// Number of vectors, 1 to 2048.
    pub vectors: u16,
    /// BAR that holds both structures.
    pub bar: u8,
    /// Offset of the table in the BAR, a multiple of 8; 16 bytes a vector.
    pub table_offset: u32,
    /// Offset of the pending bit array in the BAR, a multiple of 8; 8 bytes for each 64 vectors begun.
    pub pba_offset: u32,
}

impl MsixLayout {
    /// Bytes of the table.
    #[must_use]
    pub(crate) fn table_size(&self) -> u64 {
        u64::from(self.vectors) * ENTRY_SIZE
    }

    /// Bytes of the pending bit array.
    #[must_use]
    pub(crate) fn pba_size(&self) -> u64 {
        u64::from(self.vectors).div_ceil(64) * 8
    }

    /// The capability that announces this layout.
    ///
    /// # Errors
    /// [`ConfigSpaceError::BadMsix`] if the structures are misaligned, overlap, or do not fit into the memory BAR.
    pub fn capability(&self, bars: &[Option<Bar>; 6]) -> Result<Capability, ConfigSpaceError> {
        let error = ConfigSpaceError::BadMsix {
            vectors: self.vectors,
            bar: self.bar,
        };
        let bar = bars
            .get(usize::from(self.bar))
            .copied()
            .flatten()
            .ok_or(error.clone())?;
        let (table, pba) = (u64::from(self.table_offset), u64::from(self.pba_offset));
        let (table_end, pba_end) = (table + self.table_size(), pba + self.pba_size());
        let fits = bar.kind != BarKind::Io && table_end <= bar.size && pba_end <= bar.size;
        let apart = table_end <= pba || pba_end <= table;
        let counted = (1..=MAX_VECTORS).contains(&self.vectors);
        if !(fits && apart && counted && table % 8 == 0 && pba % 8 == 0) {
            return Err(error);
        }
        let mut body = (self.vectors - 1).to_le_bytes().to_vec();
        body.extend((self.table_offset | u32::from(self.bar)).to_le_bytes());
        body.extend((self.pba_offset | u32::from(self.bar)).to_le_bytes());
        Ok(Capability {
            id: MSIX_CAPABILITY_ID,
            body,
            writable: vec![0, MSIX_ENABLE | FUNCTION_MASK],
        })
    }
}

/// One entry of the table, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    message: MsiMessage,
    vector_control: u32,
}

/// All that the guest can see or change, and what follows from it.
#[derive(Debug, Clone)]
struct MsixState {
    entries: Vec<Entry>,
    /// One bit a vector.
    pending: Vec<u64>,
    /// MSI-X Enable of Message Control.
    enabled: bool,
    /// Function Mask of Message Control.
    function_masked: bool,
    /// COMMAND.BusMasterEnable: a message is a memory write, so none leaves without it.
    bus_master: bool,
}

impl MsixState {
    /// As after power-on.
    fn powered(vectors: usize) -> Self {
        let entry = Entry {
            message: MsiMessage::default(),
            vector_control: VECTOR_MASK,
        };
        Self {
            entries: vec![entry; vectors],
            pending: vec![0; vectors.div_ceil(64)],
            enabled: false,
            function_masked: false,
            bus_master: false,
        }
    }
}

/// What the sink was told last; it can be told again, so it is no part of the state.
type Routed = Vec<Option<MsiMessage>>;

struct Inner {
    state: MsixState,
    routed: Routed,
}

/// The MSI-X logic of one function. Devices keep an `Arc` of it and call [`Msix::signal`].
///
/// A signal while MSI-X is off is lost. A signal while the vector is masked sets its pending bit, and the message goes out when the last mask is taken away.
pub struct Msix {
    layout: MsixLayout,
    sink: Arc<dyn MessageSink>,
    inner: Mutex<Inner>,
    on_sent: OnceLock<OnSent>,
}

impl Msix {
    /// All vectors masked and MSI-X off, as after a reset.
    #[must_use]
    pub fn new(layout: MsixLayout, sink: Arc<dyn MessageSink>) -> Self {
        let vectors = usize::from(layout.vectors);
        Self {
            layout,
            sink,
            inner: Mutex::new(Inner {
                state: MsixState::powered(vectors),
                routed: vec![None; vectors],
            }),
            on_sent: OnceLock::new(),
        }
    }

    /// Has `observer` called with each message right before it is sent. A second one is not heard.
    pub(super) fn observe_sent(&self, observer: OnSent) {
        let _ = self.on_sent.set(observer);
    }

    fn send(&self, state: &MsixState, vector: u16) {
        if let Some(observer) = self.on_sent.get() {
            let entry = state.entries.get(usize::from(vector));
            let message = entry.map(|entry| entry.message);
            let message = message.filter(|message| message.is_interrupt());
            observer(vector, message.map(|message| message.data as u8));
        }
        self.sink.send(vector);
    }

    /// Masks all vectors and switches MSI-X off, as after power-on.
    pub fn reset(&self) {
        self.lock().state = MsixState::powered(usize::from(self.layout.vectors));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the table and the pending bits are.
    #[must_use]
    pub fn layout(&self) -> MsixLayout {
        self.layout
    }

    /// The device wants to interrupt by `vector`. A vector that the function does not have is ignored.
    pub fn signal(&self, vector: u16) {
        let mut inner = self.lock();
        if !inner.state.enabled || vector >= self.layout.vectors {
            return;
        }
        if inner.state.may_send(vector) {
            self.send(&inner.state, vector);
        } else {
            inner.state.set_pending(vector, true);
        }
    }

    /// The message of a vector, if it would be sent now and not become pending.
    pub(crate) fn message(&self, vector: u16) -> Option<MsiMessage> {
        let inner = self.lock();
        let entry = inner.state.entries.get(usize::from(vector))?;
        (inner.state.enabled && inner.state.may_send(vector)).then_some(entry.message)
    }

    /// Whether the guest has switched MSI-X on.
    #[must_use]
    pub(crate) fn is_enabled(&self) -> bool {
        self.lock().state.enabled
    }

    /// Whether the high byte of Message Control switches MSI-X on.
    pub(super) fn is_switched_on(control: u8) -> bool {
        control & MSIX_ENABLE != 0
    }

    /// Takes over the high byte of Message Control and COMMAND.BusMasterEnable after the guest wrote them.
    pub(crate) fn set_control(&self, control: u8, bus_master: bool) {
        let mut inner = self.lock();
        let enabled = Self::is_switched_on(control);
        if enabled && !inner.state.enabled {
            // The sink may have served MSI meanwhile.
            inner.routed.fill(None);
        }
        inner.state.enabled = enabled;
        inner.state.function_masked = control & FUNCTION_MASK != 0;
        inner.state.bus_master = bus_master;
        self.update(&mut inner, 0..self.layout.vectors);
    }

    /// Reads from the table or the pending bit array if `offset` in the BAR lies in one of them; else `false`.
    ///
    /// The specification defines aligned accesses of 4 and 8 bytes only; others read the bytes they cover.
    pub fn bar_read(&self, offset: u64, data: &mut [u8]) -> bool {
        let Some((structure, offset)) = self.locate(offset) else {
            return false;
        };
        let inner = self.lock();
        for (byte, position) in data.iter_mut().zip(offset..) {
            *byte = match structure {
                Structure::Table => inner.state.table_byte(position),
                Structure::PendingBits => inner.state.pending_byte(position),
            };
        }
        true
    }

    /// Writes to the table if `offset` in the BAR lies in it; `true` also for the pending bits, which are read-only.
    ///
    /// Writes other than aligned ones of 4 or 8 bytes are undefined (PCI 6.8.2); they are dropped here.
    pub fn bar_write(&self, offset: u64, data: &[u8]) -> bool {
        let Some((structure, offset)) = self.locate(offset) else {
            return false;
        };
        let whole_registers = matches!(data.len(), 4 | 8) && offset % data.len() as u64 == 0;
        if structure == Structure::Table && whole_registers {
            let mut inner = self.lock();
            for (position, value) in (offset..).step_by(4).zip(data.chunks_exact(4)) {
                inner
                    .state
                    .write_register(position, u32::from_le_bytes([value[0], value[1], value[2], value[3]]));
            }
            // An aligned access of up to 8 bytes stays within one 16-byte entry.
            let vector = (offset / ENTRY_SIZE) as u16;
            self.update(&mut inner, vector..vector + 1);
        }
        true
    }

    fn locate(&self, offset: u64) -> Option<(Structure, u64)> {
        let table = offset.checked_sub(u64::from(self.layout.table_offset));
        let pba = offset.checked_sub(u64::from(self.layout.pba_offset));
        match (table, pba) {
            (Some(inside), _) if inside < self.layout.table_size() => Some((Structure::Table, inside)),
            (_, Some(inside)) if inside < self.layout.pba_size() => Some((Structure::PendingBits, inside)),
            _ => None,
        }
    }

    /// Tells the sink what changed for `vectors` that may send now, then sends what was pending for them. Routes of
    /// masked vectors are left stale on purpose: a guest writes an entry in four pieces, and a change is expensive.
    fn update(&self, inner: &mut Inner, vectors: std::ops::Range<u16>) {
        let Inner { state, routed } = inner;
        let mut changes = Vec::new();
        for vector in vectors.clone().filter(|vector| state.may_send(*vector)) {
            let (entry, routed) = (&state.entries[usize::from(vector)], &mut routed[usize::from(vector)]);
            if *routed != Some(entry.message) {
                *routed = Some(entry.message);
                changes.push((vector, entry.message));
            }
        }
        if !changes.is_empty() {
            self.sink.set_messages(&changes);
        }
        for vector in vectors {
            if state.is_pending(vector) && state.may_send(vector) {
                state.set_pending(vector, false);
                self.send(state, vector);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Structure {
    Table,
    PendingBits,
}

/// Positions given to these have been checked against the size of their structure, except that a read may run past
/// the end.
impl MsixState {
    fn may_send(&self, vector: u16) -> bool {
        let masked = self
            .entries
            .get(usize::from(vector))
            .is_none_or(|entry| entry.vector_control & VECTOR_MASK != 0);
        self.enabled && self.bus_master && !self.function_masked && !masked
    }

    fn is_pending(&self, vector: u16) -> bool {
        self.pending
            .get(usize::from(vector / 64))
            .is_some_and(|word| word >> (vector % 64) & 1 != 0)
    }

    fn set_pending(&mut self, vector: u16, pending: bool) {
        if let Some(word) = self.pending.get_mut(usize::from(vector / 64)) {
            *word = *word & !(1 << (vector % 64)) | u64::from(pending) << (vector % 64);
        }
    }

    fn table_byte(&self, position: u64) -> u8 {
        let Some(entry) = self.entries.get((position / ENTRY_SIZE) as usize) else {
            return 0xff;
        };
        let within = (position % ENTRY_SIZE) as usize;
        match within {
            0..8 => entry.message.address.to_le_bytes()[within],
            8..12 => entry.message.data.to_le_bytes()[within - 8],
            _ => entry.vector_control.to_le_bytes()[within - 12],
        }
    }

    fn pending_byte(&self, position: u64) -> u8 {
        self.pending
            .get((position / 8) as usize)
            .map_or(0xff, |word| word.to_le_bytes()[(position % 8) as usize])
    }

    fn write_register(&mut self, position: u64, value: u32) {
        let Some(entry) = self.entries.get_mut((position / ENTRY_SIZE) as usize) else {
            return;
        };
        let address = entry.message.address;
        match position % ENTRY_SIZE {
            // The two lowest address bits have to be zero, the reserved bits of vector control read as zero.
            0 => entry.message.address = address & !0xffff_ffff | u64::from(value & !3),
            4 => entry.message.address = address & 0xffff_ffff | u64::from(value) << 32,
            8 => entry.message.data = value,
            _ => entry.vector_control = value & VECTOR_MASK,
        }
    }
}
