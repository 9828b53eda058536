//! Formats what a driver prints by `DbgPrint` and its relatives, from the arguments at the routine's entry.
//!
//! The guest's own formatted text cannot be read, because the routine that makes it is not exported. Knows the
//! conversions of the C library with Microsoft's additions (`%ws`, `%wZ`, `%I64x`); the kernel's routine has no
//! floating point. Talks to [`GuestMemory`]. Every length is bounded: the guest chooses format and arguments.

use std::fmt::Write as _;

use super::strings::read_c_bytes;
use crate::vmi::{CpuState, GuestMemory};

/// Windows cuts a line at this many bytes.
const LINE_LIMIT: usize = 512;
/// Bytes of a string argument that are shown.
const STRING_LIMIT: usize = 256;
/// Conversions of one format that are carried out.
const ARGUMENT_LIMIT: usize = 32;
/// Widest field, in characters.
const WIDTH_LIMIT: usize = 64;
/// Where the fifth argument is, from RSP at the entry: behind the return address and four home slots.
const FIFTH_ARGUMENT: u64 = 0x28;

/// The routines that print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Printer {
    /// `DbgPrint(Format, ...)`
    DbgPrint,
    /// `DbgPrintEx(ComponentId, Level, Format, ...)`
    DbgPrintEx,
    /// `vDbgPrintEx(ComponentId, Level, Format, va_list)`
    VDbgPrintEx,
    /// `vDbgPrintExWithPrefix(Prefix, ComponentId, Level, Format, va_list)`
    VDbgPrintExWithPrefix,
}

impl Printer {
    /// All, those first that drivers call most.
    pub(crate) const ALL: [Self; 4] = [
        Self::DbgPrint,
        Self::DbgPrintEx,
        Self::VDbgPrintEx,
        Self::VDbgPrintExWithPrefix,
    ];

    /// Its exported name.
    #[must_use]
    pub(crate) fn export(self) -> &'static str {
        match self {
            Self::DbgPrint => "DbgPrint",
            Self::DbgPrintEx => "DbgPrintEx",
            Self::VDbgPrintEx => "vDbgPrintEx",
            Self::VDbgPrintExWithPrefix => "vDbgPrintExWithPrefix",
        }
    }

    /// What is printed by a call at whose first instruction the processor is stopped.
    #[must_use]
    pub(crate) fn line(self, cpu: &impl CpuState) -> String {
        let argument = |index| call_argument(cpu, index).unwrap_or(0);
        match self {
            Self::DbgPrint => format(cpu, argument(0), |index| call_argument(cpu, 1 + index)),
            Self::DbgPrintEx => format(cpu, argument(2), |index| call_argument(cpu, 3 + index)),
            Self::VDbgPrintEx => format(cpu, argument(2), |index| list_argument(cpu, argument(3), index)),
            Self::VDbgPrintExWithPrefix => {
                let mut line = printable(&text(cpu, argument(0)).unwrap_or_default());
                line += &format(cpu, argument(3), |index| list_argument(cpu, argument(4), index));
                line
            }
        }
    }
}

fn call_argument(cpu: &impl CpuState, index: u64) -> Option<u64> {
    let registers = cpu.registers();
    match index {
        0 => Some(registers.rcx()),
        1 => Some(registers.rdx()),
        2 => Some(registers.r8()),
        3 => Some(registers.r9()),
        _ => {
            let offset = FIFTH_ARGUMENT.checked_add((index - 4).checked_mul(8)?)?;
            cpu.read_u64(registers.rsp().checked_add(offset)?).ok()
        }
    }
}

/// A `va_list` is a pointer to the arguments, eight bytes each.
fn list_argument(memory: &impl GuestMemory, list: u64, index: u64) -> Option<u64> {
    memory.read_u64(list.checked_add(index.checked_mul(8)?)?).ok()
}

/// A format in the guest with its arguments, as one line without its end.
fn format(memory: &impl GuestMemory, format: u64, argument: impl Fn(u64) -> Option<u64>) -> String {
    let Some(format) = text(memory, format) else {
        return format!("(the format at {format:#x} cannot be read)");
    };
    let mut line = Vec::new();
    let mut rest = &format[..];
    let mut taken = 0;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' || taken as usize >= ARGUMENT_LIMIT {
            line.push(byte);
        } else {
            let mut next = || {
                taken += 1;
                argument(taken - 1)
            };
            let (conversion, tail) = Conversion::parse(rest, &mut next);
            rest = tail;
            conversion.write(memory, &mut next, &mut line);
        }
        if line.len() >= LINE_LIMIT {
            break;
        }
    }
    line.truncate(LINE_LIMIT);
    printable(&line)
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the format")]
struct Conversion {
    left: bool,
    zeroes: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
    long: bool,
    wide: bool,
    kind: u8,
}

impl Conversion {
    /// What is behind a `%`, and what is behind that. A `*` takes an argument.
    fn parse<'a>(mut rest: &'a [u8], next: &mut impl FnMut() -> Option<u64>) -> (Self, &'a [u8]) {
        let mut this = Self::default();
        while let [flag @ (b'-' | b'0' | b'#' | b'+' | b' '), tail @ ..] = rest {
            match flag {
                b'-' => this.left = true,
                b'0' => this.zeroes = true,
                b'#' => this.alternate = true,
                _ => {}
            }
            rest = tail;
        }
        let (width, tail) = number(rest, next);
        (this.width, rest) = (width.unwrap_or(0).min(WIDTH_LIMIT), tail);
        if let [b'.', tail @ ..] = rest {
            let (precision, tail) = number(tail, next);
            (this.precision, rest) = (Some(precision.unwrap_or(0).min(STRING_LIMIT)), tail);
        }
        loop {
            rest = match rest {
                [b'I', b'3', b'2', tail @ ..] | [b'h', tail @ ..] => tail,
                [b'I', b'6', b'4', tail @ ..] | [b'l', b'l', tail @ ..] | [b'I' | b'z' | b't' | b'j', tail @ ..] => {
                    this.long = true;
                    tail
                }
                [b'w' | b'l', tail @ ..] => {
                    this.wide = true;
                    tail
                }
                [kind, tail @ ..] => {
                    this.kind = *kind;
                    return (this, tail);
                }
                [] => return (this, rest),
            };
        }
    }

    fn write(&self, memory: &impl GuestMemory, next: &mut impl FnMut() -> Option<u64>, line: &mut Vec<u8>) {
        let text = match self.kind {
            b'%' => b"%".to_vec(),
            0 => return,
            b'd' | b'i' | b'u' | b'x' | b'X' | b'o' | b'p' | b'P' | b'c' | b'C' | b's' | b'S' | b'Z' => {
                let value = next();
                value.map_or_else(|| b"?".to_vec(), |value| self.text(memory, value))
            }
            other => vec![b'%', other],
        };
        let missing = self.width.saturating_sub(text.len());
        let pad = if self.zeroes && !self.left { b'0' } else { b' ' };
        if self.left {
            line.extend_from_slice(&text);
        }
        line.extend(std::iter::repeat_n(pad, missing));
        if !self.left {
            line.extend_from_slice(&text);
        }
    }

    fn text(&self, memory: &impl GuestMemory, value: u64) -> Vec<u8> {
        let wide = self.wide || matches!(self.kind, b'S' | b'C');
        let number = if self.long { value } else { value & 0xffff_ffff };
        let prefix = if self.alternate { "0x" } else { "" };
        let mut text = String::new();
        let written = match self.kind {
            b'd' | b'i' if self.long => write!(text, "{}", value.cast_signed()),
            b'd' | b'i' => write!(text, "{}", (value as u32).cast_signed()),
            b'u' => write!(text, "{number}"),
            b'x' => write!(text, "{prefix}{number:x}"),
            b'X' => write!(text, "{prefix}{number:X}"),
            b'o' => write!(text, "{number:o}"),
            b'p' | b'P' => write!(text, "{value:016X}"),
            b'c' | b'C' => return vec![value as u8],
            b'Z' => return counted(memory, value, self.wide).unwrap_or_else(|| b"<unreadable>".to_vec()),
            _ => return self.string(memory, value, wide),
        };
        // Writing to a string cannot fail.
        let _ = written;
        text.into_bytes()
    }

    fn string(&self, memory: &impl GuestMemory, address: u64, wide: bool) -> Vec<u8> {
        if address == 0 {
            return b"(null)".to_vec();
        }
        let limit = self.precision.unwrap_or(STRING_LIMIT);
        let found = if wide {
            wide_string(memory, address, limit)
        } else {
            // A string that has no end within the limit is shown up to it.
            match read_c_bytes(memory, address, STRING_LIMIT) {
                Ok(Some(bytes)) => Some(bytes),
                Ok(None) => {
                    let mut bytes = vec![0; STRING_LIMIT];
                    memory.read(address, &mut bytes).ok().map(|()| bytes)
                }
                Err(_) => None,
            }
        };
        let mut text = found.unwrap_or_else(|| b"<unreadable>".to_vec());
        text.truncate(limit);
        text
    }
}

/// A decimal number, or a `*` for an argument.
fn number<'a>(rest: &'a [u8], next: &mut impl FnMut() -> Option<u64>) -> (Option<usize>, &'a [u8]) {
    if let [b'*', tail @ ..] = rest {
        return (next().map(|value| (value & 0xffff) as usize), tail);
    }
    let digits = rest.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
    let (number, tail) = rest.split_at(digits);
    let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
    (number, tail)
}

/// The bytes of a string that ends with NUL; `None` if it cannot be read or is longer than a line.
fn text(memory: &impl GuestMemory, address: u64) -> Option<Vec<u8>> {
    read_c_bytes(memory, address, LINE_LIMIT).ok()?
}

/// UTF-16 up to a NUL, as ASCII with question marks.
fn wide_string(memory: &impl GuestMemory, address: u64, limit: usize) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    for index in 0..limit.min(STRING_LIMIT) as u64 {
        match memory.read_u16(address.checked_add(index * 2)?) {
            Ok(0) => break,
            Ok(unit) => text.push(narrow(unit)),
            Err(_) if index > 0 => break,
            Err(_) => return None,
        }
    }
    Some(text)
}

/// An `ANSI_STRING` or `UNICODE_STRING`: length in bytes at 0, pointer at 8.
fn counted(memory: &impl GuestMemory, address: u64, wide: bool) -> Option<Vec<u8>> {
    if address == 0 {
        return Some(b"(null)".to_vec());
    }
    let length = usize::from(memory.read_u16(address).ok()?).min(2 * STRING_LIMIT);
    let buffer = memory.read_u64(address.checked_add(8)?).ok()?;
    let mut bytes = vec![0; if wide { length } else { length.min(STRING_LIMIT) }];
    memory.read(buffer, &mut bytes).ok()?;
    if !wide {
        return Some(bytes);
    }
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    Some(units.map(narrow).collect())
}

fn narrow(unit: u16) -> u8 {
    u8::try_from(unit).ok().filter(u8::is_ascii).unwrap_or(b'?')
}

/// Guest bytes as text that is safe to print, without the line's end.
fn printable(bytes: &[u8]) -> String {
    let end = bytes.trim_ascii_end();
    end.escape_ascii().to_string().replace("\\'", "'").replace("\\\"", "\"")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vmi::fake::Space;

    const FORMAT: u64 = 0xffff_8000_0000_1000;
    const DATA: u64 = 0xffff_8000_0000_3000;

    fn printed(text: &str, arguments: &[u64]) -> String {
        let mut space = Space::default();
        space.write(FORMAT, format!("{text}\0").as_bytes());
        space.write(DATA, b"ansi\0");
        space.write(DATA + 0x10, b"w\0i\0d\0e\0\0\0");
        space.write_u64(DATA + 0x20, 6);
        space.write_u64(DATA + 0x28, DATA + 0x10);
        format(&space, FORMAT, |index| arguments.get(index as usize).copied())
    }

    #[test]
    fn conversions_are_those_of_the_kernels_routine() {
        assert_eq!(
            printed("a %d, %u, %08x%%\r\n", &[(-3i64).cast_unsigned(), 7, 0xbeef]),
            "a -3, 7, 0000beef%"
        );
        assert_eq!(
            printed("%I64x %#lx %llu", &[1 << 40, 0x10, 1 << 33]),
            "10000000000 0x10 8589934592"
        );
        assert_eq!(
            printed("%p|%5d|%-5d|%c", &[0xffff_8000, 1, 2, 65]),
            "00000000FFFF8000|    1|2    |A"
        );
        assert_eq!(
            printed("%s %ws %S %wZ", &[DATA, DATA + 0x10, DATA + 0x10, DATA + 0x20]),
            "ansi wide wide wid"
        );
        assert_eq!(printed("%.2s %*d %s", &[DATA, 4, 1, 0]), "an    1 (null)");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        assert_eq!(printed("%s", &[0x10]), "<unreadable>");
        assert_eq!(printed("%d %d", &[1]), "1 ?");
        let nothing = Space::default();
        assert!(format(&nothing, FORMAT, |_| Some(0)).contains("cannot be read"));
    }

    proptest! {
        #[test]
        fn any_format_gives_a_bounded_line(text in "[ -~]{0,200}", arguments in prop::collection::vec(any::<u64>(), 0..8)) {
            prop_assert!(printed(&text, &arguments).len() <= 4 * LINE_LIMIT);
        }
    }
}
