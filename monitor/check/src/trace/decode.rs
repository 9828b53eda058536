//! Bytes to events.

use super::{
    EndMark, HEADER, Item, Last, MAGIC, MAX_PAYLOAD, SKIPPABLE, TraceError, VERSION, flag, shape, tag, values,
};
use crate::contract::{Callback, PortModel, Routine, RoutineSet};
use crate::event::{
    CallerAttributed, Context, Event, EventKind, InCallback, LockCall, LockOperand, LockReturn, Module, Order,
    PortTold, StillHeld, WatchSet,
};

/// What the front of a piece of a trace holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A record, and how many bytes it took.
    Item(Item, usize),
    /// Nothing for this reader, and how many bytes to skip.
    Skip(usize),
    /// The record is not all there. A whole one takes no more than [`MAX_PAYLOAD`] and a few bytes.
    NeedMore,
}

/// Reads a trace that arrives in pieces.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    last: Last,
    /// Sequence number of the event before.
    before: Option<u64>,
    /// Sum of the records of time.
    time: Option<u64>,
}

impl Decoder {
    /// Checks the header.
    ///
    /// # Errors
    /// The bytes are no trace, or one of another version. Fewer than [`HEADER`] bytes are no trace.
    pub fn new(header: &[u8]) -> Result<Self, TraceError> {
        let (magic, rest) = header.split_at_checked(MAGIC.len()).ok_or(TraceError::Magic)?;
        if magic != MAGIC || header.len() < HEADER {
            return Err(TraceError::Magic);
        }
        match *rest {
            [low, high, ..] if u16::from_le_bytes([low, high]) == VERSION => Ok(Self::default()),
            [low, high, ..] => Err(TraceError::Version(u16::from_le_bytes([low, high]))),
            _ => Err(TraceError::Magic),
        }
    }

    /// When the last event was, in nanoseconds since the start of the trace, if the trace says that.
    #[must_use]
    pub const fn time(&self) -> Option<u64> {
        self.time
    }

    /// Reads the record at the front of `bytes`.
    ///
    /// # Errors
    /// The bytes are no record, or one that no run can have written; nothing after them can be read.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, TraceError> {
        let mut front = Payload(bytes);
        let length = match front.number() {
            Ok(length) if length <= MAX_PAYLOAD as u64 => length as usize,
            Ok(length) => return Err(TraceError::TooLong(length)),
            Err(_) if bytes.len() < 10 => return Ok(Decoded::NeedMore),
            Err(error) => return Err(error),
        };
        let Some((&tag, rest)) = front.0.split_first() else {
            return Ok(Decoded::NeedMore);
        };
        let Some(payload) = rest.get(..length) else {
            return Ok(Decoded::NeedMore);
        };
        let used = bytes.len() - rest.len() + length;
        if tag >= SKIPPABLE {
            if let (tag::TIME, Ok(passed)) = (tag, Payload(payload).number()) {
                self.time = Some(self.time.unwrap_or(0).saturating_add(passed));
            }
            return Ok(Decoded::Skip(used));
        }
        if tag == 0 || tag > tag::LAST {
            return Err(TraceError::UnknownTag(tag));
        }
        let mut payload = Payload(payload);
        if tag == tag::END {
            let mark = match payload.byte()? {
                0 => EndMark::Complete,
                1 => EndMark::DiskFull,
                2 => EndMark::CutOff,
                _ => return Err(TraceError::Damaged),
            };
            return Ok(Decoded::Item(Item::End(mark), used));
        }
        let order = if payload.byte()? & flag::PER_PROCESSOR != 0 {
            Order::PerProcessor
        } else {
            Order::Total
        };
        let sequence = payload.difference(&mut self.last.sequence)?;
        let kind = self.kind(tag, &mut payload)?;
        let event = Event { sequence, order, kind };
        values::check(&event, self.before)?;
        self.before = Some(sequence);
        Ok(Decoded::Item(Item::Event(event), used))
    }

    fn kind(&mut self, tag: u8, payload: &mut Payload<'_>) -> Result<EventKind, TraceError> {
        Ok(match tag {
            tag::LOCK_CALL => EventKind::LockCall(self.lock_call(payload)?),
            tag::LOCK_RETURN => EventKind::LockReturn(self.lock_return(payload)?),
            tag::CALLER_ATTRIBUTED => EventKind::CallerAttributed(CallerAttributed {
                target: payload.byte()? & flag::TARGET != 0,
                call: payload.number()?,
                caller: payload.number()?,
                frames: [payload.number()?, payload.number()?],
            }),
            tag::IN_CALLBACK => EventKind::InCallback(self.in_callback(payload)?),
            tag::IRQL_SEEN => EventKind::IrqlSeen {
                processor: payload.small()?,
                irql: payload.small::<u8>()?,
            },
            tag::PROCESSOR_STOPPED => EventKind::ProcessorStopped(self.who(payload)?),
            tag::STILL_HELD => EventKind::StillHeld(StillHeld {
                left: payload.byte()? & flag::LEFT != 0,
                acquire: payload.number()?,
                milliseconds: payload.number()?,
                stopped: self.who(payload)?,
            }),
            tag::PORT_TOLD => EventKind::PortTold(PortTold {
                adapter: payload.number()?,
                port: PortModel::from_bits_truncate(payload.small()?),
            }),
            tag::MODULE_LOAD => EventKind::ModuleLoad(module(payload)?),
            tag::MODULE_UNLOAD => EventKind::ModuleUnload {
                base: payload.number()?,
                size: payload.number()?,
            },
            tag::MEMORY_FREED => EventKind::MemoryFreed {
                address: payload.number()?,
                length: payload.number()?,
            },
            tag::WATCH_SET_CHANGED => {
                let flags = payload.byte()?;
                let watched = RoutineSet::from_bits(payload.number()?);
                let imported = RoutineSet::from_bits(payload.number()?);
                let processors = payload.small()?;
                EventKind::WatchSetChanged(WatchSet {
                    watched,
                    imported,
                    processors,
                    before_target: flags & flag::TARGET != 0,
                    closed: flags & flag::CLOSED != 0,
                    ambiguous: RoutineSet::from_bits(payload.number()?),
                })
            }
            tag::FAULT_INJECTED => EventKind::FaultInjected {
                fault: payload.number()?,
            },
            tag::RESTORED => EventKind::Restored,
            other => return Err(TraceError::UnknownTag(other)),
        })
    }

    fn lock_call(&mut self, payload: &mut Payload<'_>) -> Result<LockCall, TraceError> {
        let routine = payload.routine()?;
        let flags = payload.byte()?;
        let context = self.context(payload, flags)?;
        let mut operand = self.operand(payload)?;
        let old_irql = if flags & flag::OLD_IRQL != 0 {
            Some(payload.byte()?)
        } else {
            None
        };
        let word = if flags & flag::WORD != 0 {
            Some(payload.number()?)
        } else {
            None
        };
        handle_fields(payload, flags, &mut operand)?;
        Ok(LockCall {
            routine,
            context,
            operand,
            old_irql,
            word,
        })
    }

    fn lock_return(&mut self, payload: &mut Payload<'_>) -> Result<LockReturn, TraceError> {
        let routine = payload.routine()?;
        let flags = payload.byte()?;
        let context = self.context(payload, flags)?;
        let mut operand = self.operand(payload)?;
        let (call, value) = (payload.number()?, payload.small()?);
        handle_fields(payload, flags, &mut operand)?;
        Ok(LockReturn {
            call,
            routine,
            operand,
            value,
            context,
        })
    }

    fn in_callback(&mut self, payload: &mut Payload<'_>) -> Result<InCallback, TraceError> {
        let context = self.who(payload)?;
        let callback = Callback::of_number(payload.byte()?);
        let callback = callback.ok_or(TraceError::Impossible("a callback that there is not"))?;
        let port = PortModel::from_bits_truncate(payload.byte()?);
        Ok(InCallback {
            callback,
            port,
            context,
        })
    }

    /// A context after a flag byte of its own.
    fn who(&mut self, payload: &mut Payload<'_>) -> Result<Context, TraceError> {
        let flags = payload.byte()?;
        self.context(payload, flags)
    }

    fn context(&mut self, payload: &mut Payload<'_>, flags: u8) -> Result<Context, TraceError> {
        Ok(Context {
            processor: payload.small()?,
            irql: payload.byte()?,
            interrupts: flags & flag::INTERRUPTS != 0,
            thread: payload.difference(&mut self.last.thread)?,
            stack_pointer: payload.difference(&mut self.last.stack_pointer)?,
            return_address: payload.difference(&mut self.last.return_address)?,
        })
    }

    fn operand(&mut self, payload: &mut Payload<'_>) -> Result<LockOperand, TraceError> {
        let last = &mut self.last.operand;
        Ok(match payload.byte()? {
            shape::ADDRESS => LockOperand::Address(payload.difference(last)?),
            shape::QUEUED => LockOperand::Queued {
                lock: payload.difference(last)?,
                handle: payload.number()?,
            },
            shape::QUEUED_HANDLE => {
                let handle = payload.number()?;
                let lock = if payload.byte()? != 0 {
                    Some(payload.difference(last)?)
                } else {
                    None
                };
                LockOperand::QueuedHandle { handle, lock }
            }
            shape::STORPORT => LockOperand::StorPort {
                adapter: payload.difference(last)?,
                kind: payload.small()?,
                context: payload.number()?,
                handle: payload.number()?,
            },
            shape::STORPORT_HANDLE => LockOperand::StorPortHandle {
                adapter: payload.difference(last)?,
                handle: payload.number()?,
                kind: None,
                lock: None,
            },
            shape::MSI => LockOperand::Msi {
                adapter: payload.difference(last)?,
                message: payload.small()?,
            },
            shape::INTERRUPT => LockOperand::Interrupt(payload.difference(last)?),
            shape::CANCEL => LockOperand::Cancel,
            _ => return Err(TraceError::Damaged),
        })
    }
}

/// What a StorPort release found in its handle.
fn handle_fields(payload: &mut Payload<'_>, flags: u8, operand: &mut LockOperand) -> Result<(), TraceError> {
    let LockOperand::StorPortHandle { kind, lock, .. } = operand else {
        return Ok(());
    };
    if flags & flag::HANDLE_KIND != 0 {
        *kind = Some(payload.small()?);
    }
    if flags & flag::HANDLE_LOCK != 0 {
        *lock = Some(payload.number()?);
    }
    Ok(())
}

fn module(payload: &mut Payload<'_>) -> Result<Module, TraceError> {
    let target = payload.byte()? & flag::TARGET != 0;
    let (base, size, length) = (payload.number()?, payload.number()?, payload.number()?);
    let length = usize::try_from(length).map_err(|_| TraceError::Damaged)?;
    let name = payload
        .0
        .get(..length)
        .filter(|_| length <= Module::MAX_NAME)
        .ok_or(TraceError::Damaged)?;
    Ok(Module {
        base,
        size,
        target,
        name: String::from_utf8(name.to_vec()).map_err(|_| TraceError::Impossible("a module name that is no UTF-8"))?,
    })
}

/// The unread rest of a payload.
struct Payload<'a>(&'a [u8]);

impl Payload<'_> {
    fn byte(&mut self) -> Result<u8, TraceError> {
        let (&byte, rest) = self.0.split_first().ok_or(TraceError::Damaged)?;
        self.0 = rest;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, TraceError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(TraceError::Damaged);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(TraceError::Damaged)
    }

    /// A number that has to fit a smaller type.
    fn small<T: TryFrom<u64>>(&mut self) -> Result<T, TraceError> {
        T::try_from(self.number()?).map_err(|_| TraceError::Damaged)
    }

    fn difference(&mut self, last: &mut u64) -> Result<u64, TraceError> {
        let coded = self.number()?;
        let delta = (coded >> 1) ^ 0_u64.wrapping_sub(coded & 1);
        *last = last.wrapping_add(delta);
        Ok(*last)
    }

    fn routine(&mut self) -> Result<Routine, TraceError> {
        Routine::from_index(self.byte()?.into()).ok_or(TraceError::Damaged)
    }
}

/// Reads a trace that is all in memory. Stops at the end mark, at the first error, or where the bytes end; see
/// [`Reader::end`] for which it was.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    decoder: Decoder,
    rest: &'a [u8],
    end: Option<EndMark>,
    failed: bool,
}

impl<'a> Reader<'a> {
    /// Checks the header of a trace.
    ///
    /// # Errors
    /// As [`Decoder::new`].
    pub fn new(bytes: &'a [u8]) -> Result<Self, TraceError> {
        let decoder = Decoder::new(bytes)?;
        Ok(Self {
            decoder,
            rest: bytes.get(HEADER..).unwrap_or_default(),
            end: None,
            failed: false,
        })
    }

    /// The end mark, once it has been reached. Without one the trace was cut off in the middle.
    #[must_use]
    pub const fn end(&self) -> Option<EndMark> {
        self.end
    }
}

impl Iterator for Reader<'_> {
    type Item = Result<Event, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.end.is_none() && !self.failed {
            let used = match self.decoder.decode(self.rest) {
                Ok(Decoded::Item(Item::Event(event), used)) => {
                    self.rest = self.rest.get(used..).unwrap_or_default();
                    return Some(Ok(event));
                }
                Ok(Decoded::Item(Item::End(mark), used)) => {
                    self.end = Some(mark);
                    used
                }
                Ok(Decoded::Skip(used)) => used,
                Ok(Decoded::NeedMore) => return None,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            };
            self.rest = self.rest.get(used..).unwrap_or_default();
        }
        None
    }
}
