//! Events to bytes.

use super::{EndMark, HEADER, Last, MAGIC, VERSION, flag, shape, tag};
use crate::event::{Context, Event, EventKind, InCallback, LockCall, LockOperand, LockReturn, Module, Order, WatchSet};

/// Writes one trace, record by record.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    last: Last,
    /// Nanoseconds of the last record of time.
    time: u64,
    payload: Vec<u8>,
}

impl Encoder {
    /// A new trace. Write [`Encoder::header`] first.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes that a trace begins with.
    #[must_use]
    pub fn header() -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..MAGIC.len()].copy_from_slice(&MAGIC);
        header[MAGIC.len()..MAGIC.len() + 2].copy_from_slice(&VERSION.to_le_bytes());
        header
    }

    /// Appends an event to `out`.
    pub fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        self.payload.clear();
        let order = if event.order == Order::PerProcessor {
            flag::PER_PROCESSOR
        } else {
            0
        };
        self.payload.push(order);
        let sequence = event.sequence;
        difference(&mut self.payload, &mut self.last.sequence, sequence);
        let tag = self.kind(&event.kind);
        self.record(tag, out);
    }

    /// Appends to `out` when the events after it were: nanoseconds since the start of the trace. Times do not go back.
    pub fn time(&mut self, nanoseconds: u64, out: &mut Vec<u8>) {
        self.payload.clear();
        number(&mut self.payload, nanoseconds.saturating_sub(self.time));
        self.time = self.time.max(nanoseconds);
        self.record(tag::TIME, out);
    }

    /// Appends the end mark to `out`. Nothing may follow it.
    pub fn end(&mut self, mark: EndMark, out: &mut Vec<u8>) {
        self.payload.clear();
        self.payload.push(match mark {
            EndMark::Complete => 0,
            EndMark::DiskFull => 1,
            EndMark::CutOff => 2,
        });
        self.record(tag::END, out);
    }

    fn record(&self, tag: u8, out: &mut Vec<u8>) {
        number(out, self.payload.len() as u64);
        out.push(tag);
        out.extend_from_slice(&self.payload);
    }

    fn kind(&mut self, kind: &EventKind) -> u8 {
        match kind {
            EventKind::LockCall(call) => self.lock_call(call),
            EventKind::LockReturn(returned) => self.lock_return(returned),
            EventKind::CallerAttributed(told) => {
                self.payload.push(if told.target { flag::TARGET } else { 0 });
                let [inner, outer] = told.frames;
                self.numbers(tag::CALLER_ATTRIBUTED, &[told.call, told.caller, inner, outer])
            }
            EventKind::InCallback(told) => self.in_callback(told),
            &EventKind::IrqlSeen { processor, irql } => self.numbers(tag::IRQL_SEEN, &[processor.into(), irql.into()]),
            EventKind::ProcessorStopped(stopped) => {
                self.who(stopped);
                tag::PROCESSOR_STOPPED
            }
            EventKind::StillHeld(told) => {
                self.payload.push(if told.left { flag::LEFT } else { 0 });
                self.numbers(tag::STILL_HELD, &[told.acquire, told.milliseconds]);
                self.who(&told.stopped);
                tag::STILL_HELD
            }
            EventKind::PortTold(told) => self.numbers(tag::PORT_TOLD, &[told.adapter, told.port.bits().into()]),
            EventKind::ModuleLoad(module) => self.module(module),
            &EventKind::ModuleUnload { base, size } => self.numbers(tag::MODULE_UNLOAD, &[base, size]),
            &EventKind::MemoryFreed { address, length } => self.numbers(tag::MEMORY_FREED, &[address, length]),
            EventKind::WatchSetChanged(WatchSet {
                watched,
                imported,
                processors,
                before_target,
                closed,
                ambiguous,
            }) => {
                let closed = if *closed { flag::CLOSED } else { 0 };
                self.payload
                    .push(closed | if *before_target { flag::TARGET } else { 0 });
                self.numbers(
                    tag::WATCH_SET_CHANGED,
                    &[watched.bits(), imported.bits(), (*processors).into(), ambiguous.bits()],
                )
            }
            &EventKind::FaultInjected { fault } => self.numbers(tag::FAULT_INJECTED, &[fault]),
            EventKind::Restored => tag::RESTORED,
        }
    }

    fn numbers(&mut self, tag: u8, values: &[u64]) -> u8 {
        for &value in values {
            number(&mut self.payload, value);
        }
        tag
    }

    fn lock_call(&mut self, call: &LockCall) -> u8 {
        self.payload.push(call.routine as u8);
        let mut flags = if call.context.interrupts { flag::INTERRUPTS } else { 0 };
        flags |= if call.old_irql.is_some() { flag::OLD_IRQL } else { 0 };
        flags |= if call.word.is_some() { flag::WORD } else { 0 };
        flags |= handle_flags(&call.operand);
        self.payload.push(flags);
        self.context(&call.context);
        self.operand(&call.operand);
        if let Some(irql) = call.old_irql {
            self.payload.push(irql);
        }
        if let Some(word) = call.word {
            number(&mut self.payload, word);
        }
        self.handle_fields(&call.operand);
        tag::LOCK_CALL
    }

    fn lock_return(&mut self, returned: &LockReturn) -> u8 {
        self.payload.push(returned.routine as u8);
        let mut flags = handle_flags(&returned.operand);
        flags |= if returned.context.interrupts {
            flag::INTERRUPTS
        } else {
            0
        };
        self.payload.push(flags);
        self.context(&returned.context);
        self.operand(&returned.operand);
        self.numbers(tag::LOCK_RETURN, &[returned.call, returned.value.into()]);
        self.handle_fields(&returned.operand);
        tag::LOCK_RETURN
    }

    fn handle_fields(&mut self, operand: &LockOperand) {
        if let LockOperand::StorPortHandle { kind, lock, .. } = *operand {
            if let Some(kind) = kind {
                number(&mut self.payload, kind.into());
            }
            if let Some(lock) = lock {
                number(&mut self.payload, lock);
            }
        }
    }

    fn in_callback(&mut self, told: &InCallback) -> u8 {
        self.who(&told.context);
        self.payload.extend([told.callback.number(), told.port.bits()]);
        tag::IN_CALLBACK
    }

    fn module(&mut self, module: &Module) -> u8 {
        self.payload.push(if module.target { flag::TARGET } else { 0 });
        let mut length = module.name.len().min(Module::MAX_NAME);
        while !module.name.is_char_boundary(length) {
            length -= 1;
        }
        self.numbers(tag::MODULE_LOAD, &[module.base, module.size, length as u64]);
        self.payload.extend_from_slice(&module.name.as_bytes()[..length]);
        tag::MODULE_LOAD
    }

    /// A context after a flag byte of its own.
    fn who(&mut self, context: &Context) {
        self.payload.push(if context.interrupts { flag::INTERRUPTS } else { 0 });
        self.context(context);
    }

    fn context(&mut self, context: &Context) {
        let (payload, last) = (&mut self.payload, &mut self.last);
        number(payload, context.processor.into());
        payload.push(context.irql);
        difference(payload, &mut last.thread, context.thread);
        difference(payload, &mut last.stack_pointer, context.stack_pointer);
        difference(payload, &mut last.return_address, context.return_address);
    }

    fn operand(&mut self, operand: &LockOperand) {
        let (payload, last) = (&mut self.payload, &mut self.last.operand);
        match *operand {
            LockOperand::Address(lock) => {
                payload.push(shape::ADDRESS);
                difference(payload, last, lock);
            }
            LockOperand::Queued { lock, handle } => {
                payload.push(shape::QUEUED);
                difference(payload, last, lock);
                number(payload, handle);
            }
            LockOperand::QueuedHandle { handle, lock } => {
                payload.push(shape::QUEUED_HANDLE);
                number(payload, handle);
                payload.push(u8::from(lock.is_some()));
                if let Some(lock) = lock {
                    difference(payload, last, lock);
                }
            }
            LockOperand::StorPort {
                adapter,
                kind,
                context,
                handle,
            } => {
                payload.push(shape::STORPORT);
                difference(payload, last, adapter);
                number(payload, kind.into());
                number(payload, context);
                number(payload, handle);
            }
            LockOperand::StorPortHandle { adapter, handle, .. } => {
                payload.push(shape::STORPORT_HANDLE);
                difference(payload, last, adapter);
                number(payload, handle);
            }
            LockOperand::Msi { adapter, message } => {
                payload.push(shape::MSI);
                difference(payload, last, adapter);
                number(payload, message.into());
            }
            LockOperand::Interrupt(object) => {
                payload.push(shape::INTERRUPT);
                difference(payload, last, object);
            }
            LockOperand::Cancel => payload.push(shape::CANCEL),
        }
    }
}

const fn handle_flags(operand: &LockOperand) -> u8 {
    match operand {
        LockOperand::StorPortHandle { kind, lock, .. } => {
            let kind = if kind.is_some() { flag::HANDLE_KIND } else { 0 };
            kind | if lock.is_some() { flag::HANDLE_LOCK } else { 0 }
        }
        _ => 0,
    }
}

/// LEB128: seven bits a byte, the lowest first.
fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The difference to the last value, small either way.
fn difference(out: &mut Vec<u8>, last: &mut u64, value: u64) {
    let delta = value.wrapping_sub(*last);
    let sign = 0_u64.wrapping_sub(delta >> 63);
    number(out, (delta << 1) ^ sign);
    *last = value;
}
