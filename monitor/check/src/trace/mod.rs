//! The trace format: events as bytes, so that a run can be checked again without its guest.
//!
//! Works on byte slices and vectors only; files are the monitor's business. The reader accepts any bytes: it neither
//! panics nor allocates more than one record may hold.
//!
//! Layout, all numbers little endian: the magic `STORLTRC`, a `u16` version, a `u16` of zero; then records. A record is
//! its payload's length (LEB128), a tag byte and the payload. Payload numbers are LEB128; sequence numbers, thread,
//! stack pointer and return address are differences (zigzag) to the same field of the record before, which keeps a
//! typical lock call under 24 bytes. An end mark says why the trace ends there; a trace without one is incomplete. A
//! record of time before an event has the nanoseconds since the previous record of time. Readers skip bytes that a
//! later version adds to the end of a payload, and records with a tag from 0x80.

mod decode;
mod encode;
mod values;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::event::Event;
pub use decode::{Decoded, Decoder, Reader};
pub use encode::Encoder;

/// First bytes of a trace.
pub const MAGIC: [u8; 8] = *b"STORLTRC";
/// Version that is written, and the only one that is read.
pub const VERSION: u16 = 2;
/// Bytes of the header.
pub const HEADER: usize = 12;
/// Longest payload of a record, bytes.
pub const MAX_PAYLOAD: usize = 1024;
/// Tags from here on may be skipped by a reader that does not know them.
const SKIPPABLE: u8 = 0x80;
/// Highest IRQL of an x64 processor (`HIGH_LEVEL`).
pub(crate) const HIGHEST_IRQL: u8 = 15;

/// One record of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Event(Event),
    /// The end.
    End(EndMark),
}

/// Why a trace ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndMark {
    /// All events of the run are there.
    Complete,
    /// There was no room for more; the run went on.
    DiskFull,
    /// The run was interrupted.
    CutOff,
}

/// Why bytes are no trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TraceError {
    /// The first bytes are others.
    #[error("not a trace of lock events (the first bytes are not \"STORLTRC\")")]
    Magic,
    /// Written by another version.
    #[error("trace version {0} is not supported, only {VERSION}")]
    Version(u16),
    /// A record is longer than any can be.
    #[error("a record of {0} bytes is longer than any can be ({MAX_PAYLOAD})")]
    TooLong(u64),
    /// A record's payload ends too early or a number in it has too many bits.
    #[error("a record is damaged")]
    Damaged,
    /// A record is whole, but what it says cannot be.
    #[error("a record says what cannot be: {0}")]
    Impossible(&'static str),
    /// A record of a kind that this version must understand but does not.
    #[error("a record has the unknown tag {0:#04x}")]
    UnknownTag(u8),
}

/// Tags of records. 3, 4 and 16 are not used.
mod tag {
    pub(super) const LOCK_CALL: u8 = 1;
    pub(super) const LOCK_RETURN: u8 = 2;
    pub(super) const IRQL_SEEN: u8 = 5;
    pub(super) const MODULE_LOAD: u8 = 6;
    pub(super) const MODULE_UNLOAD: u8 = 7;
    pub(super) const MEMORY_FREED: u8 = 8;
    pub(super) const WATCH_SET_CHANGED: u8 = 9;
    pub(super) const FAULT_INJECTED: u8 = 10;
    pub(super) const RESTORED: u8 = 11;
    pub(super) const END: u8 = 12;
    pub(super) const CALLER_ATTRIBUTED: u8 = 13;
    pub(super) const PROCESSOR_STOPPED: u8 = 14;
    pub(super) const IN_CALLBACK: u8 = 15;
    pub(super) const STILL_HELD: u8 = 17;
    pub(super) const PORT_TOLD: u8 = 18;
    /// When the events after it were. Older readers skip it.
    pub(super) const TIME: u8 = 0x80;
    /// The last that this version must know.
    pub(super) const LAST: u8 = PORT_TOLD;
}

/// Shapes of operands.
mod shape {
    pub(super) const ADDRESS: u8 = 0;
    pub(super) const QUEUED: u8 = 1;
    pub(super) const QUEUED_HANDLE: u8 = 2;
    pub(super) const STORPORT: u8 = 3;
    pub(super) const STORPORT_HANDLE: u8 = 4;
    pub(super) const MSI: u8 = 5;
    pub(super) const INTERRUPT: u8 = 6;
    pub(super) const CANCEL: u8 = 7;
}

/// Bits of a flag byte.
mod flag {
    /// `Order::PerProcessor`.
    pub(super) const PER_PROCESSOR: u8 = 1;
    /// RFLAGS.IF.
    pub(super) const INTERRUPTS: u8 = 1;
    /// The call has an old IRQL.
    pub(super) const OLD_IRQL: u8 = 2;
    /// The call has a lock word.
    pub(super) const WORD: u8 = 4;
    /// The kind of lock in the handle of a StorPort release could be read.
    pub(super) const HANDLE_KIND: u8 = 8;
    /// The lock field of the handle of a StorPort release could be read.
    pub(super) const HANDLE_LOCK: u8 = 16;
    /// A module is the driver under test, which made a call; a watch began before it.
    pub(super) const TARGET: u8 = 1;
    /// [`StillHeld::left`](crate::event::StillHeld::left).
    pub(super) const LEFT: u8 = 1;
    /// [`WatchSet::closed`](crate::event::WatchSet::closed).
    pub(super) const CLOSED: u8 = 2;
}

/// What differences are taken to: the fields of the record before.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    sequence: u64,
    thread: u64,
    stack_pointer: u64,
    return_address: u64,
    operand: u64,
}
