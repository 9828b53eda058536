//! A debugger's session with everything that happens in one: packets well formed and not, interrupts, stops of the
//! machine of every kind, acknowledgements lost. While the machine is stopped, each packet gets one answer, and the
//! next packet is still taken.
#![no_main]

#[path = "support/machine.rs"]
mod machine;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use machine::CPUS;
use storlock::gdb::{Conversation, Left};
use storlock::vmi::debuggee::{DebuggeeStop, ResumeAction};
use storlock::vmi::fake::FakeMachine;

#[derive(Debug, Arbitrary)]
enum Step {
    /// A packet: what kind, and what it is about.
    Packet(Kind, u64, u16, Vec<u8>),
    /// Any text as a packet.
    Text(String),
    /// A packet with a wrong sum.
    Damaged(u64),
    /// A packet that is broken off after so many bytes.
    BrokenOff(u64, u8),
    /// Bytes that are no packet.
    Stray(Vec<u8>),
    Interrupt,
    NotArrived,
    /// A running machine stops.
    Stop(Why, u8),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Kind {
    Supported,
    NoAck,
    Registers,
    SetRegisters,
    Register,
    SetRegister,
    Read,
    Write,
    WriteBinary,
    Thread,
    Stepped,
    Alive,
    Insert,
    Remove,
    Continue,
    Step,
    Range,
    Actions,
    Monitor,
    Features,
    Libraries,
    Info,
    Physical,
    Detach,
    Kill,
}

#[derive(Debug, Arbitrary)]
enum Why {
    Violation,
    StopPoint,
    Stepped,
    Interrupted,
    StopPointsLost,
    Crashed,
}

const COMMANDS: [&str; 8] = [
    "storlock help",
    "storlock locks 0x1000",
    "storlock processors",
    "storlock breakpoints soft",
    "storlock breakpoints hard",
    "storlock phys 0 64",
    "storlock translate 0x1000",
    "storlock report",
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn payload(kind: Kind, number: u64, length: u16, data: &[u8]) -> Vec<u8> {
    let thread = i64::from(length % 6) - 1;
    let text = match kind {
        Kind::Supported => "qSupported:multiprocess+;swbreak+".to_owned(),
        Kind::NoAck => "QStartNoAckMode".to_owned(),
        Kind::Registers => "g".to_owned(),
        Kind::SetRegisters => format!("G{}", hex(data)),
        Kind::Register => format!("p{:x}", number % 90),
        Kind::SetRegister => format!(
            "P{:x}={}",
            number % 90,
            hex(&number.to_le_bytes()[..usize::from(length % 9)])
        ),
        Kind::Read => format!("m{:x},{length:x}", number % 0x4000),
        Kind::Write => format!(
            "M{:x},{:x}:{}",
            number % 0x4000,
            data.len() + usize::from(length == 7),
            hex(data)
        ),
        Kind::WriteBinary => {
            let mut bytes = format!("X{:x},{:x}:", number % 0x4000, data.len()).into_bytes();
            for byte in data {
                match byte {
                    b'#' | b'$' | b'}' | b'*' => bytes.extend([b'}', byte ^ 0x20]),
                    plain => bytes.push(*plain),
                }
            }
            return bytes;
        }
        Kind::Thread => format!("Hg{thread:x}"),
        Kind::Stepped => format!("Hcp1.{thread:x}"),
        Kind::Alive => format!("T{thread:x}"),
        Kind::Insert => format!(
            "Z{},{:x},{:x}",
            length % 6,
            number % 0x4000 & !7,
            1 << (number >> 60 & 3)
        ),
        Kind::Remove => format!(
            "z{},{:x},{:x}",
            length % 6,
            number % 0x4000 & !7,
            1 << (number >> 60 & 3)
        ),
        Kind::Continue => "c".to_owned(),
        Kind::Step => format!("vCont;s:{thread}"),
        Kind::Range => format!("vCont;r{number:x},{length:x}:p1.{thread};c"),
        Kind::Actions => format!("vCont;c:{thread};s:1;C05:-1"),
        Kind::Monitor => format!(
            "qRcmd,{}",
            hex(COMMANDS[usize::from(length) % COMMANDS.len()].as_bytes())
        ),
        Kind::Features => format!("qXfer:features:read:target.xml:{:x},{length:x}", number % 300),
        Kind::Libraries => format!("qXfer:libraries:read::{:x},{length:x}", number % 300),
        Kind::Info => format!("qThreadExtraInfo,{thread}"),
        Kind::Physical => format!("Qqemu.PhyMemMode:{}", number & 1),
        Kind::Detach => "D".to_owned(),
        Kind::Kill => "vKill;1".to_owned(),
    };
    text.into_bytes()
}

fn packet(payload: &[u8]) -> Vec<u8> {
    let sum = payload.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    [&b"$"[..], payload, format!("#{sum:02x}").as_bytes()].concat()
}

/// The packets in what was sent, without those of a command's output; each has the sum that it says.
fn answers(output: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut rest = output;
    while let Some(start) = rest.iter().position(|byte| *byte == b'$') {
        let end = start
            + rest[start..]
                .iter()
                .position(|byte| *byte == b'#')
                .expect("a packet has an end");
        let payload = &rest[start + 1..end];
        assert!(rest[start..].starts_with(&packet(payload)));
        if !payload.starts_with(b"O") || payload == b"OK" {
            found.push(payload.to_vec());
        }
        rest = &rest[end + 3..];
    }
    found
}

fn stop(why: &Why, cpu: u8, machine: &FakeMachine) -> DebuggeeStop {
    let cpu = u32::from(cpu) % CPUS;
    let stop_point = machine.state().stop_points.first().copied();
    match (why, stop_point) {
        (Why::Violation, _) => DebuggeeStop::Violation(cpu),
        (Why::StopPoint, Some(stop_point)) => DebuggeeStop::StopPoint(cpu, stop_point),
        (Why::Stepped | Why::StopPoint, _) => DebuggeeStop::Stepped(cpu),
        (Why::Interrupted, _) => DebuggeeStop::Interrupted,
        (Why::StopPointsLost, _) => DebuggeeStop::StopPointsLost(1),
        (Why::Crashed, _) => DebuggeeStop::Crashed((cpu != 0).then_some(cpu), "it crashed".to_owned()),
    }
}

/// The end of the step that the machine was last resumed for, if it was one.
fn stepped(machine: &FakeMachine) -> Option<DebuggeeStop> {
    let state = machine.state();
    let actions = state.resumed.last()?;
    let cpu = actions
        .iter()
        .position(|action| matches!(action, ResumeAction::Step { .. }))?;
    Some(DebuggeeStop::Stepped(cpu as u32))
}

/// Sends a packet. While the machine stands still there is one answer, or the machine runs.
fn send(client: &mut Conversation, payload: &[u8]) -> Vec<Vec<u8>> {
    let stands = client.standing().is_some();
    client.receive(&packet(payload));
    let found = answers(&client.output());
    let runs = client.standing().is_none();
    assert_eq!(
        found.len(),
        usize::from(stands && !runs && payload != b"k"),
        "{}",
        payload.escape_ascii()
    );
    found
}

fn tell(client: &mut Conversation, machine: &FakeMachine, stop: DebuggeeStop) {
    machine.state().running = false;
    client.tell(Some(stop));
    let told = answers(&client.output());
    assert!(matches!(&told[..], [stop] if stop.starts_with(b"T")));
}

fuzz_target!(|steps: Vec<Step>| {
    let (machine, mut stops) = FakeMachine::new(CPUS, 0..0x3000);
    let mut client = machine::converse(&machine);
    for step in steps {
        match step {
            Step::Packet(kind, number, length, data) => {
                send(&mut client, &payload(kind, number, length, &data));
            }
            // A `$` or `#` ends it or begins another one.
            Step::Text(text) if text.contains(['$', '#', '\u{3}']) => client.receive(&packet(text.as_bytes())),
            Step::Text(text) => drop(send(&mut client, text.as_bytes())),
            Step::Damaged(number) => {
                let before = client.standing().cloned();
                client.receive(format!("$M1000,8:{number:016x}#zz").as_bytes());
                assert_eq!(client.standing(), before.as_ref());
            }
            Step::BrokenOff(number, length) => {
                let whole = packet(format!("m{number:x},{length:x}").as_bytes());
                client.receive(&whole[..usize::from(length) % whole.len()]);
            }
            Step::Stray(bytes) => {
                let bytes: Vec<u8> = bytes.into_iter().filter(|byte| *byte != b'$').collect();
                client.receive(&bytes);
            }
            Step::Interrupt => client.receive(&[3]),
            Step::NotArrived => client.receive(b"-"),
            Step::Stop(why, cpu) => {
                if client.left().is_none() && client.standing().is_none() {
                    let stop = stop(&why, cpu, &machine);
                    let first = stops.try_recv().ok().or_else(|| stepped(&machine));
                    tell(&mut client, &machine, first.unwrap_or(stop));
                }
            }
        }
        assert!(client.output().len() < 1 << 20);
        if let Some(left) = client.left() {
            assert!(matches!(left, Left::Detached | Left::Killed));
            let _ = client.end();
            assert!(machine.state().stop_points.is_empty());
            return;
        }
        // A machine that was interrupted stands still before the client hears of it.
        let goes_on = machine.state().running || !stops.is_empty();
        assert_eq!(client.standing().is_none(), goes_on);
    }
    if client.standing().is_none() {
        client.receive(&[3]);
        tell(&mut client, &machine, DebuggeeStop::Interrupted);
    }
    assert_eq!(send(&mut client, b"qsThreadInfo"), [b"l"]);
    let _ = client.end();
    assert!(machine.state().stop_points.is_empty());
});
