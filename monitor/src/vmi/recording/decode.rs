//! Decodes payloads to frames. Every step checks how many bytes are left, and whether a run can have written the value.

use super::limits;
use super::{Frame, KIND_END, KIND_FAULT, KIND_HEADER, KIND_STOP, LOCATED, RecordedRead, RecordedStop};
use crate::vmi::cpu::{CpuStop, Registers, SpecialRegisters};
use crate::vmi::memory::ReadError;

/// What is wrong with a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    /// It is over in the middle of a field.
    #[error("it ends within {0}")]
    Ends(&'static str),
    /// A field has a value that it cannot have.
    #[error("{what} is {value:#x}, {allowed}")]
    Value {
        what: &'static str,
        value: u64,
        allowed: &'static str,
    },
    /// Anything else.
    #[error("{0}")]
    Other(&'static str),
}

type Result<T> = std::result::Result<T, Wrong>;

/// The frame in a payload.
pub(super) fn frame(payload: &[u8]) -> Result<Frame> {
    let (&kind, rest) = payload.split_first().ok_or(Wrong::Ends("its kind"))?;
    match kind {
        KIND_HEADER => json(rest).map(Frame::Header),
        KIND_STOP => stop(rest).map(|stop| Frame::Stop(Box::new(stop))),
        KIND_FAULT => {
            let mut cursor = Cursor(rest);
            let fault = cursor.u64("the number of a fault")?;
            cursor.end()?;
            Ok(Frame::Fault(fault))
        }
        KIND_END => json(rest).map(Frame::End),
        other => Err(Wrong::Value {
            what: "its kind",
            value: other.into(),
            allowed: "and there are only 1 to 4",
        }),
    }
}

/// Bounds what JSON can become in memory: a value takes some bytes in a file, and many more in a structure.
fn json(bytes: &[u8]) -> Result<Vec<u8>> {
    let (mut values, mut text, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = text,
            b'"' => text = !text,
            b',' | b'[' | b'{' if !text => values += 1,
            _ => {}
        }
    }
    if values > limits::JSON_VALUES {
        return Err(Wrong::Value {
            what: "the number of values in its JSON",
            value: values as u64,
            allowed: "more than a run has to tell",
        });
    }
    Ok(bytes.to_vec())
}

/// A cursor over a payload.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, length: usize, what: &'static str) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(Wrong::Ends(what))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        self.bytes(N, what)?.try_into().map_err(|_| Wrong::Ends(what))
    }

    fn u8(&mut self, what: &'static str) -> Result<u8> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16> {
        self.array(what).map(u16::from_le_bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A number that cannot be above `most`.
    fn length(&mut self, what: &'static str, most: usize, allowed: &'static str) -> Result<usize> {
        let value = self.u32(what)?;
        at_most(what, value.into(), most as u64, allowed)?;
        Ok(value as usize)
    }

    fn end(&self) -> Result<()> {
        self.0
            .is_empty()
            .then_some(())
            .ok_or(Wrong::Other("bytes follow its last field"))
    }
}

fn at_most(what: &'static str, value: u64, most: u64, allowed: &'static str) -> Result<()> {
    if value <= most {
        return Ok(());
    }
    Err(Wrong::Value { what, value, allowed })
}

fn stop(payload: &[u8]) -> Result<RecordedStop> {
    let mut c = Cursor(payload);
    let vcpu = c.u32("the processor's number")?;
    let highest = u64::from(limits::PROCESSORS) - 1;
    at_most(
        "the processor's number",
        vcpu.into(),
        highest,
        "and no machine has so many",
    )?;
    let reason = reason(&mut c)?;
    let registers = registers(&mut c)?;
    let special = special(&mut c)?;
    let mut reads = Vec::new();
    for _ in 0..c.length("the number of guest reads", limits::READS, "more than a stop makes")? {
        reads.push(read(&mut c)?);
    }
    let mut arms = Vec::new();
    for _ in 0..c.length("the number of answers", limits::ARMS, "more than a stop gets")? {
        arms.push(arm(&mut c)?);
    }
    c.end()?;
    Ok(RecordedStop {
        vcpu,
        reason,
        registers,
        special,
        reads,
        arms,
    })
}

fn reason(c: &mut Cursor<'_>) -> Result<Option<CpuStop>> {
    let what = "the reason of the stop";
    let (tag, value) = (c.u8(what)?, c.u64(what)?);
    Ok(match tag {
        0 => None,
        1 => Some(CpuStop::LstarWrite(value)),
        2 => {
            at_most(
                "the number of a breakpoint",
                value,
                u32::MAX.into(),
                "and breakpoints have 32 bits",
            )?;
            Some(CpuStop::Breakpoint(value as u32))
        }
        3 => Some(CpuStop::CaughtReturn(value)),
        4 => Some(CpuStop::Reset),
        _ => {
            return Err(Wrong::Value {
                what,
                value: tag.into(),
                allowed: "and there are only 0 to 4",
            });
        }
    })
}

fn registers(c: &mut Cursor<'_>) -> Result<Registers> {
    let what = "the general registers";
    let mut registers = Registers::default();
    for slot in &mut registers.gpr {
        *slot = c.u64(what)?;
    }
    registers.rip = c.u64(what)?;
    registers.rflags = c.u64(what)?;
    Ok(registers)
}

fn special(c: &mut Cursor<'_>) -> Result<SpecialRegisters> {
    let what = "the special registers";
    let special = SpecialRegisters {
        cr0: c.u64(what)?,
        cr3: c.u64(what)?,
        cr4: c.u64(what)?,
        cr8: c.u64(what)?,
        efer: c.u64(what)?,
        gs_base: c.u64(what)?,
        idt_base: c.u64(what)?,
        idt_limit: c.u16(what)?,
        cpl: c.u8(what)?,
    };
    at_most("the IRQL (CR8)", special.cr8, limits::IRQL, "and 15 is the highest")?;
    at_most(
        "the privilege level",
        special.cpl.into(),
        limits::CPL.into(),
        "and 3 is the lowest",
    )?;
    Ok(special)
}

fn read(c: &mut Cursor<'_>) -> Result<RecordedRead> {
    let what = "a guest read";
    let address = c.u64(what)?;
    let length = c.length("the length of a guest read", limits::READ, "more than is read at once")?;
    let mut physical = None;
    let result = match c.u8(what)? {
        0 => Ok(c.bytes(length, what)?.to_vec()),
        1 => Err(ReadError::NotMapped(c.u64(what)?)),
        2 => Err(ReadError::NoMemory(c.u64(what)?)),
        3 => Err(ReadError::Invalid(c.u64(what)?)),
        4 => Err(ReadError::NotRecorded(c.u64(what)?)),
        6 => Err(ReadError::NotKept(c.u64(what)?)),
        LOCATED => {
            physical = Some(c.u64(what)?);
            Ok(c.bytes(length, what)?.to_vec())
        }
        tag => {
            return Err(Wrong::Value {
                what: "the result of a guest read",
                value: tag.into(),
                allowed: "and there are only 0 to 6",
            });
        }
    };
    Ok(RecordedRead {
        address,
        length: length as u32,
        physical,
        result,
    })
}

fn arm(c: &mut Cursor<'_>) -> Result<Option<String>> {
    let what = "the answer to the setting of breakpoints";
    let failed = c.u8(what)?;
    at_most(what, failed.into(), 1, "and it is 0 or 1")?;
    let length = c.length("the length of an answer", limits::ARM, "more than one has")?;
    let text = String::from_utf8(c.bytes(length, what)?.to_vec()).map_err(|_| Wrong::Other("an answer is no UTF-8"))?;
    if failed == 0 && !text.is_empty() {
        return Err(Wrong::Other("an answer says that breakpoints were set, and why not"));
    }
    Ok((failed == 1).then_some(text))
}
