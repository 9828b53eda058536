//! Stands between a client and the gdbstub crate: rewrites each command as a packet in a form that the crate is known
//! to take, or answers it here.
//!
//! Asks the [`Stub`] what a packet alone does not tell: how many processors there are, which one stopped. It must not
//! know bytes on a socket. `docs/adr/0006-filter-before-gdbstub.md` says why it is there.

use std::fmt::Write as _;

use gdbstub::arch::RegId as _;
use gdbstub::target::ext::libraries::Libraries as _;

use super::command::{Action, Command, Object, Point, READ_LIMIT, Threads};
use super::packet::{escape, hex};
use super::registers::{Register, size_of_all};
use super::stub::{EINVAL, Errno, NO_ANNEX, Stub, tid};

/// What is done with a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// This payload is for the gdbstub crate.
    On(Vec<u8>),
    /// This is the answer.
    Answer(&'static str),
}

impl Passage {
    fn on(payload: impl Into<Vec<u8>>) -> Self {
        Self::On(payload.into())
    }
}

/// Lets a command pass. Sets what is known of the client alone.
///
/// # Errors
/// The answer to the client if the command cannot be carried out, whatever the machine does.
pub(super) fn pass(command: Command<'_>, stub: &mut Stub) -> Result<Passage, Errno> {
    Ok(match command {
        // The crate ends the session at an empty feature and at none.
        Command::Supported(features) => {
            let multiprocess = features
                .split(|byte| *byte == b';')
                .any(|feature| feature == b"multiprocess+");
            stub.introduce(multiprocess);
            let sign = if multiprocess { '+' } else { '-' };
            Passage::on(format!("qSupported:multiprocess{sign}"))
        }
        Command::WhyStopped => Passage::on("?"),
        Command::Attached => Passage::on("qAttached"),
        Command::Detach => Passage::on("D"),
        Command::Kill(_) => Passage::on("k"),
        // It has no -1 here.
        Command::SelectThread(threads) => Passage::on(select(stub.processor(threads)?)),
        Command::SelectStepped(threads) => {
            stub.stepped = stub.processor(threads)?;
            Passage::Answer("OK")
        }
        Command::ThreadAlive(threads) => Passage::on(format!("T{:x}", tid(stub.processor(threads)?))),
        Command::FirstThreads => Passage::on("qfThreadInfo"),
        Command::MoreThreads => Passage::on("qsThreadInfo"),
        Command::ThreadInfo(threads) => Passage::on(format!("qThreadExtraInfo,{:x}", tid(stub.processor(threads)?))),
        Command::ReadRegisters => Passage::on("g"),
        Command::WriteRegisters(bytes) => whole_set(&bytes, stub.avx)?,
        // If it does not know the register, it says that it does not know the packet.
        Command::ReadRegister(number) => Passage::on(format!("p{:x}", known(number)?)),
        Command::WriteRegister(number, value) => Passage::on(format!("P{:x}={}", known(number)?, hex(&value))),
        Command::ReadMemory(address, length) => Passage::on(format!("m{address:x},{length:x}")),
        Command::WriteMemory(address, data) => {
            let mut payload = format!("X{address:x},{:x}:", data.len()).into_bytes();
            payload.extend(escape(&data));
            Passage::On(payload)
        }
        Command::Insert(point) => Passage::on(at('Z', point)),
        Command::Remove(point) => Passage::on(at('z', point)),
        Command::ResumeKinds => Passage::on("vCont?"),
        Command::Resume(actions) => resume(&actions, stub)?,
        // lldb and WinDbg mean all processors by it, not the one that stopped.
        Command::Continue(address) => {
            address.map_or(Ok(()), |address| stub.jump(address))?;
            resume(&[(Action::Continue, Threads::All)], stub)?
        }
        Command::Step(address) => {
            address.map_or(Ok(()), |address| stub.jump(address))?;
            resume(&[(Action::Step, Threads::One(u64::from(stub.stepped) + 1))], stub)?
        }
        Command::Monitor(line) => Passage::on(format!("qRcmd,{}", hex(&line))),
        Command::Transfer {
            object,
            annex,
            offset,
            length,
        } => transfer(object, annex, offset, length, stub)?,
        // What QEMU has for physical memory, and WinDbg uses.
        Command::PhysicalMode => Passage::Answer(if stub.physical { "1" } else { "0" }),
        Command::SetPhysicalMode(physical) => {
            stub.physical = physical;
            Passage::Answer("OK")
        }
        // The conversation acknowledges, not the crate.
        Command::StartNoAckMode => Passage::Answer("OK"),
        Command::Unknown => Passage::Answer(""),
    })
}

/// Selects a processor for memory and registers.
pub(super) fn select(cpu: u32) -> String {
    format!("Hg{:x}", tid(cpu))
}

/// All registers. The crate ends the session at another number of bytes.
fn whole_set(bytes: &[u8], avx: bool) -> Result<Passage, Errno> {
    let fits = bytes.len() == size_of_all(false) || avx && bytes.len() == size_of_all(true);
    if fits {
        Ok(Passage::on(format!("G{}", hex(bytes))))
    } else {
        Err(EINVAL)
    }
}

/// The number of a register that there is.
fn known(number: u64) -> Result<usize, Errno> {
    let number = usize::try_from(number).map_err(|_| EINVAL)?;
    Register::from_raw_id(number).map(|_| number).ok_or(EINVAL)
}

fn at(letter: char, point: Point) -> String {
    format!("{letter}{},{:x},{:x}", point.kind, point.address, point.length)
}

/// The first action that matches a processor is its own; one without any stays where it is. Each is named: the crate takes
/// 0 for all, and a step for all ends its session.
fn resume(actions: &[(Action, Threads)], stub: &Stub) -> Result<Passage, Errno> {
    let mut own = vec![None; stub.machine.processors() as usize];
    for (action, threads) in actions {
        let meant = match threads {
            Threads::All => 0..own.len(),
            one => {
                let cpu = stub.processor(*one)? as usize;
                cpu..cpu + 1
            }
        };
        for free in own.get_mut(meant).ok_or(EINVAL)?.iter_mut().filter(|own| own.is_none()) {
            *free = Some(*action);
        }
    }
    let mut payload = String::from("vCont");
    for (cpu, action) in (0..).zip(own) {
        let text = match action {
            Some(Action::Continue) => "c".to_owned(),
            Some(Action::Step) => "s".to_owned(),
            Some(Action::StepInRange(start, end)) => format!("r{start:x},{end:x}"),
            None => continue,
        };
        // Writing to a string cannot fail.
        let _ = write!(payload, ";{text}:{:x}", tid(cpu));
    }
    Ok(Passage::on(payload))
}

/// A piece of an object. The crate's answer may be longer than a packet if each byte needs an escape, and "no more" if no
/// byte was asked for.
fn transfer(object: Object, annex: &[u8], offset: u64, length: usize, stub: &Stub) -> Result<Passage, Errno> {
    let name = match object {
        Object::Features => "features",
        Object::Libraries if !annex.is_empty() => return Err(NO_ANNEX),
        Object::Libraries => "libraries",
    };
    if length == 0 {
        let rest = match object {
            Object::Features => usize::from(stub.description(annex)?.len() as u64 > offset),
            Object::Libraries => stub.get_libraries(offset, 1, &mut [0]).unwrap_or_default(),
        };
        return Ok(Passage::Answer(if rest == 0 { "l" } else { "m" }));
    }
    let mut payload = format!("qXfer:{name}:read:").into_bytes();
    payload.extend_from_slice(annex);
    payload.extend(format!(":{offset:x},{:x}", length.min(READ_LIMIT)).into_bytes());
    Ok(Passage::On(payload))
}
