//! What a packet asks for. Everything in it is checked here: the result is a complete command, or the packet is
//! malformed.
//!
//! Pure; it must not know the machine. Source: gdb manual, "Packets", "General Query Packets".

use super::packet::{PAYLOAD_LIMIT, number, unescape, unhex};

/// The number of the only process there is.
pub(super) const PROCESS: u64 = 1;

/// Most bytes of memory that one answer holds.
pub(super) const READ_LIMIT: usize = PAYLOAD_LIMIT / 2;

/// Which threads a packet means. They are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// `-1`.
    All,
    /// `0`: whichever the server likes.
    Any,
    /// This one.
    One(u64),
}

/// How processors go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Continue,
    Step,
    /// Steps as long as the program counter is in here.
    StepInRange(u64, u64),
}

/// A breakpoint or watchpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    /// By its number in the protocol: 0 software, 1 hardware, 2 written, 3 read, 4 accessed.
    pub(super) kind: u8,
    pub(super) address: u64,
    /// Bytes that a watchpoint covers; means nothing for a breakpoint.
    pub(super) length: u64,
}

/// Objects that are read piece by piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Object {
    /// Files of the target description.
    Features,
    /// The list of modules.
    Libraries,
}

/// What a packet asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command<'a> {
    /// `qSupported`: what either side supports; with the client's list.
    Supported(&'a [u8]),
    StartNoAckMode,
    WhyStopped,
    Attached,
    Detach,
    /// Whether an answer is expected.
    Kill(bool),
    /// For memory and registers.
    SelectThread(Threads),
    /// For the old commands to step.
    SelectStepped(Threads),
    ThreadAlive(Threads),
    FirstThreads,
    MoreThreads,
    ThreadInfo(Threads),
    ReadRegisters,
    WriteRegisters(Vec<u8>),
    ReadRegister(u64),
    WriteRegister(u64, Vec<u8>),
    /// Address and length; the answer may be shorter.
    ReadMemory(u64, usize),
    WriteMemory(u64, Vec<u8>),
    Insert(Point),
    Remove(Point),
    ResumeKinds,
    /// The first action that matches a thread is its own; one without any stays where it is.
    Resume(Vec<(Action, Threads)>),
    /// All processors; from this address, if there is one.
    Continue(Option<u64>),
    /// One processor alone; from this address, if there is one.
    Step(Option<u64>),
    Monitor(Vec<u8>),
    Transfer {
        object: Object,
        annex: &'a [u8],
        offset: u64,
        length: usize,
    },
    /// Whether addresses of memory are physical, as QEMU has it.
    PhysicalMode,
    SetPhysicalMode(bool),
    /// A packet that this server does not know.
    Unknown,
}

/// A malformed packet of a kind that this server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

impl<'a> Command<'a> {
    /// Reads a packet's payload.
    pub(super) fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let Some((&letter, rest)) = payload.split_first() else {
            return Ok(Self::Unknown);
        };
        Ok(match letter {
            b'?' => Self::bare(Self::WhyStopped, rest)?,
            b'g' => Self::bare(Self::ReadRegisters, rest)?,
            b'G' => Self::WriteRegisters(unhex(rest).ok_or(Malformed)?),
            b'p' => Self::ReadRegister(number(rest).ok_or(Malformed)?),
            b'P' => {
                let (register, value) = split(rest, b'=')?;
                Self::WriteRegister(number(register).ok_or(Malformed)?, unhex(value).ok_or(Malformed)?)
            }
            b'm' => {
                let (address, length) = address_and_length(rest)?;
                Self::ReadMemory(
                    address,
                    usize::try_from(length).map_or(READ_LIMIT, |length| length.min(READ_LIMIT)),
                )
            }
            b'M' => Self::write(rest, unhex)?,
            b'X' => Self::write(rest, unescape)?,
            b'Z' => point(rest)?.map_or(Self::Unknown, Self::Insert),
            b'z' => point(rest)?.map_or(Self::Unknown, Self::Remove),
            b'H' => match rest.split_first().ok_or(Malformed)? {
                (b'g', id) => Self::SelectThread(threads(id)?),
                (b'c', id) => Self::SelectStepped(threads(id)?),
                _ => return Err(Malformed),
            },
            b'T' => Self::ThreadAlive(threads(rest)?),
            b'c' => Self::Continue(optional_address(rest)?),
            b's' => Self::Step(optional_address(rest)?),
            b'C' => Self::Continue(behind_signal(rest)?),
            b'S' => Self::Step(behind_signal(rest)?),
            b'D' => {
                if !rest.is_empty() {
                    process(rest.strip_prefix(b";").ok_or(Malformed)?)?;
                }
                Self::Detach
            }
            b'k' => Self::bare(Self::Kill(false), rest)?,
            b'v' => Self::parse_v(payload)?,
            b'q' | b'Q' => Self::parse_query(payload)?,
            _ => Self::Unknown,
        })
    }

    fn parse_v(payload: &'a [u8]) -> Result<Self, Malformed> {
        if payload == b"vCont?" {
            return Ok(Self::ResumeKinds);
        }
        if let Some(actions) = payload.strip_prefix(b"vCont;") {
            let actions = actions.split(|byte| *byte == b';').map(action);
            return Ok(Self::Resume(actions.collect::<Result<_, _>>()?));
        }
        if let Some(id) = payload.strip_prefix(b"vKill;") {
            process(id)?;
            return Ok(Self::Kill(true));
        }
        Ok(Self::Unknown)
    }

    fn parse_query(payload: &'a [u8]) -> Result<Self, Malformed> {
        let end = payload.iter().position(|byte| matches!(byte, b':' | b',' | b';'));
        let (name, rest) = payload.split_at(end.unwrap_or(payload.len()));
        let argument = rest.get(1..).unwrap_or_default();
        Ok(match name {
            b"qSupported" => Self::Supported(argument),
            b"QStartNoAckMode" => Self::bare(Self::StartNoAckMode, rest)?,
            b"qAttached" => {
                if !rest.is_empty() {
                    process(argument)?;
                }
                Self::Attached
            }
            b"qfThreadInfo" => Self::bare(Self::FirstThreads, rest)?,
            b"qsThreadInfo" => Self::bare(Self::MoreThreads, rest)?,
            b"qThreadExtraInfo" => Self::ThreadInfo(threads(argument)?),
            b"qRcmd" => Self::Monitor(unhex(argument).ok_or(Malformed)?),
            b"qXfer" => transfer(argument)?,
            b"qqemu.PhyMemMode" => Self::bare(Self::PhysicalMode, rest)?,
            b"Qqemu.PhyMemMode" => match rest {
                b":0" => Self::SetPhysicalMode(false),
                b":1" => Self::SetPhysicalMode(true),
                _ => return Err(Malformed),
            },
            _ => Self::Unknown,
        })
    }

    /// A command without arguments.
    fn bare(command: Self, rest: &[u8]) -> Result<Self, Malformed> {
        if rest.is_empty() { Ok(command) } else { Err(Malformed) }
    }

    /// `ADDRESS,LENGTH:DATA`, where the data has that length.
    fn write(rest: &[u8], decode: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Result<Self, Malformed> {
        let (place, data) = split(rest, b':')?;
        let (address, length) = address_and_length(place)?;
        let data = decode(data).ok_or(Malformed)?;
        if data.len() as u64 != length {
            return Err(Malformed);
        }
        Ok(Self::WriteMemory(address, data))
    }
}

/// The parts before and after the first `by`.
fn split(text: &[u8], by: u8) -> Result<(&[u8], &[u8]), Malformed> {
    let at = text.iter().position(|byte| *byte == by).ok_or(Malformed)?;
    Ok((&text[..at], &text[at + 1..]))
}

fn address_and_length(text: &[u8]) -> Result<(u64, u64), Malformed> {
    let (address, length) = split(text, b',')?;
    number(address).zip(number(length)).ok_or(Malformed)
}

fn optional_address(text: &[u8]) -> Result<Option<u64>, Malformed> {
    if text.is_empty() {
        return Ok(None);
    }
    number(text).map(Some).ok_or(Malformed)
}

/// `SIGNAL` or `SIGNAL;ADDRESS`. Signals mean nothing to a machine.
fn behind_signal(text: &[u8]) -> Result<Option<u64>, Malformed> {
    match split(text, b';') {
        Ok((signal, address)) => {
            signal_number(signal)?;
            number(address).map(Some).ok_or(Malformed)
        }
        Err(Malformed) => signal_number(text).map(|()| None),
    }
}

fn signal_number(digits: &[u8]) -> Result<(), Malformed> {
    match number(digits) {
        Some(0..=0xff) => Ok(()),
        _ => Err(Malformed),
    }
}

/// One number of a thread's or process's name.
fn id(text: &[u8]) -> Result<Threads, Malformed> {
    Ok(match text {
        b"-1" => Threads::All,
        digits => match number(digits).ok_or(Malformed)? {
            0 => Threads::Any,
            number => Threads::One(number),
        },
    })
}

/// `TID`, `pPID` or `pPID.TID`. gdb manual, "Packets", thread-id.
fn threads(text: &[u8]) -> Result<Threads, Malformed> {
    let Some(text) = text.strip_prefix(b"p") else {
        return id(text);
    };
    let (process, thread) = match split(text, b'.') {
        Ok((process, thread)) => (id(process)?, id(thread)?),
        Err(Malformed) => (id(text)?, Threads::All),
    };
    match (process, thread) {
        // All processes, but one thread.
        (Threads::All, Threads::One(_)) => Err(Malformed),
        (Threads::One(process), _) if process != PROCESS => Err(Malformed),
        _ => Ok(thread),
    }
}

/// The only process, by its number.
fn process(text: &[u8]) -> Result<(), Malformed> {
    if number(text) == Some(PROCESS) {
        Ok(())
    } else {
        Err(Malformed)
    }
}

/// `TYPE,ADDRESS,KIND`; `None` if there is no such type. Conditions and commands are not taken:
/// the server does not announce them.
fn point(text: &[u8]) -> Result<Option<Point>, Malformed> {
    let (kind, rest) = split(text, b',')?;
    let (address, length) = address_and_length(rest)?;
    let kind = match number(kind).ok_or(Malformed)? {
        kind @ 0..=4 => kind as u8,
        _ => return Ok(None),
    };
    Ok(Some(Point { kind, address, length }))
}

/// One action of `vCont`: for threads, or for all that have none before it.
fn action(text: &[u8]) -> Result<(Action, Threads), Malformed> {
    let (what, who) = match split(text, b':') {
        Ok((what, who)) => (what, threads(who)?),
        Err(Malformed) => (text, Threads::All),
    };
    let action = match what.split_first().ok_or(Malformed)? {
        (b'c', b"") => Action::Continue,
        (b's', b"") => Action::Step,
        (b'C', signal) => {
            signal_number(signal)?;
            Action::Continue
        }
        (b'S', signal) => {
            signal_number(signal)?;
            Action::Step
        }
        (b'r', range) => {
            let (start, end) = address_and_length(range)?;
            Action::StepInRange(start, end)
        }
        // `t` is of the non-stop mode, which there is not.
        _ => return Err(Malformed),
    };
    Ok((action, who))
}

/// `OBJECT:read:ANNEX:OFFSET,LENGTH`. Nothing can be written.
fn transfer(text: &[u8]) -> Result<Command<'_>, Malformed> {
    let (object, rest) = split(text, b':')?;
    let object = match object {
        b"features" => Object::Features,
        b"libraries" => Object::Libraries,
        _ => return Ok(Command::Unknown),
    };
    let (operation, rest) = split(rest, b':')?;
    if operation != b"read" {
        return Ok(Command::Unknown);
    }
    let (annex, place) = split(rest, b':')?;
    let (offset, length) = address_and_length(place)?;
    Ok(Command::Transfer {
        object,
        annex,
        offset,
        length: usize::try_from(length).unwrap_or(usize::MAX),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn threads_are_named_in_each_way() {
        for (text, meant) in [
            ("1", Some(Threads::One(1))),
            ("0", Some(Threads::Any)),
            ("-1", Some(Threads::All)),
            ("p1.2", Some(Threads::One(2))),
            ("p01.02", Some(Threads::One(2))),
            ("p1.0", Some(Threads::Any)),
            ("p1.-1", Some(Threads::All)),
            ("p1", Some(Threads::All)),
            ("p0.0", Some(Threads::Any)),
            ("p0.1", Some(Threads::One(1))),
            ("p-1", Some(Threads::All)),
            ("p-1.-1", Some(Threads::All)),
            ("p-1.1", None),
            ("p2.1", None),
            ("", None),
            ("-2", None),
            ("-0", None),
            ("p", None),
            ("p1.", None),
            ("p.1", None),
            ("1.1", None),
            ("zz", None),
            ("10000000000000000", None),
        ] {
            assert_eq!(threads(text.as_bytes()).ok(), meant, "{text}");
        }
    }

    #[test]
    fn data_has_the_length_that_is_said() {
        assert_eq!(
            Command::parse(b"M10,2:0011"),
            Ok(Command::WriteMemory(0x10, vec![0, 0x11]))
        );
        assert_eq!(
            Command::parse(b"X10,2:}\x03:"),
            Ok(Command::WriteMemory(0x10, b"#:".to_vec()))
        );
        assert_eq!(Command::parse(b"X10,0:"), Ok(Command::WriteMemory(0x10, Vec::new())));
        for wrong in [
            &b"M10,4:0011"[..],
            b"M10,1:0011",
            b"M10,2:001",
            b"M10,2:00xx",
            b"M10,2",
            b"M10:0011",
            b"M,2:0011",
            b"X10,2:a",
            b"X10,1:ab",
            b"X10,1:}",
            b"X10,ffffffffffffffff:a",
        ] {
            assert_eq!(Command::parse(wrong), Err(Malformed), "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn actions_are_whole_or_refused() {
        let one = |action, threads| Ok(Command::Resume(vec![(action, threads)]));
        assert_eq!(Command::parse(b"vCont;s:0"), one(Action::Step, Threads::Any));
        assert_eq!(Command::parse(b"vCont;C05:p1.-1"), one(Action::Continue, Threads::All));
        assert_eq!(
            Command::parse(b"vCont;r10,20:p1.1;c"),
            Ok(Command::Resume(vec![
                (Action::StepInRange(0x10, 0x20), Threads::One(1)),
                (Action::Continue, Threads::All)
            ]))
        );
        for wrong in [
            "vCont;",
            "vCont;;c",
            "vCont;c;",
            "vCont;q",
            "vCont;t:1",
            "vCont;cc",
            "vCont;s05",
            "vCont;S",
            "vCont;C100",
            "vCont;r:1",
            "vCont;r10:1",
            "vCont;c:",
            "C",
            "Czz",
            "C05;",
            "S05;zz",
            "czz",
            "s1,2",
        ] {
            assert_eq!(Command::parse(wrong.as_bytes()), Err(Malformed), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_an_error() {
        for packet in [
            "",
            "!",
            "R00",
            "x0,0",
            "vMustReplyEmpty",
            "vContX",
            "vCont",
            "vFile:open:2f",
            "qC",
            "qSymbol::",
            "QNonStop:1",
            "qXfer:auxv:read::0,10",
            "qXfer:features:write:target.xml:0:aa",
            "Z9,1000,1",
            "\u{ff}",
        ] {
            assert_eq!(Command::parse(packet.as_bytes()), Ok(Command::Unknown), "{packet}");
        }
    }

    proptest! {
        /// What begins as a packet does and has anything behind it.
        #[test]
        fn any_bytes_are_read(head in "[?gGpPmMXZzHTcsCSDkvqQ]|vCont;|vKill;|qXfer:features:read:|M10,1:|Z0,", tail in prop::collection::vec(any::<u8>(), 0..64)) {
            let payload = [head.as_bytes(), &tail].concat();
            if let Ok(Command::ReadMemory(_, length)) = Command::parse(&payload) {
                prop_assert!(length <= READ_LIMIT);
            }
        }
    }
}
