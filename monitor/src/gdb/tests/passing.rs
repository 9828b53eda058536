//! What a conversation hands on to the gdbstub crate: whatever a client sends, the session is there afterwards.

use proptest::prelude::*;

use super::super::command::Command;
use super::super::filter::{self, Passage};
use super::super::packet::{PAYLOAD_LIMIT, framed};
use super::super::stub::Stub;
use super::super::{Conversation, SymbolFiles};
use super::*;
use crate::vmi::GuestMemory;

fn machine() -> FakeMachine {
    FakeMachine::new(2, MEMORY).0
}

fn conversation(machine: &FakeMachine) -> Conversation {
    let session = Arc::new(Session::new(Config::default(), None, None));
    let files = Arc::new(SymbolFiles::default());
    let mut client = Conversation::begin(
        Arc::new(machine.clone()),
        session,
        files,
        None,
        Arc::new(Silent),
        DebuggeeStop::Violation(1),
    );
    client.receive(&framed(b"QStartNoAckMode"));
    assert_eq!(client.output(), b"+$OK#9a");
    client
}

/// What is answered; `None` if the machine goes on, which stops again at once.
fn ask(machine: &FakeMachine, client: &mut Conversation, payload: &[u8]) -> Option<Vec<u8>> {
    client.receive(&framed(payload));
    let output = client.output();
    if client.standing().is_none() {
        assert!(output.is_empty());
        assert!(std::mem::take(&mut machine.state().running));
        client.tell(Some(DebuggeeStop::Stepped(0)));
        assert!(client.output().starts_with(b"$T05thread:"));
        return None;
    }
    Some(output)
}

#[test]
fn a_client_looks_at_the_processor_that_stopped_until_it_says_otherwise() {
    let machine = machine();
    machine.state().registers[1].general.rip = 0x5678;
    let mut client = conversation(&machine);
    let answer = |client: &mut Conversation| ask(&machine, client, b"p10");
    let told = |rip: u64| Some(framed(hex(&rip.to_le_bytes()).as_bytes()));
    assert_eq!(answer(&mut client), told(0x5678));
    // A stop of a machine that stands still is told to nobody, but is looked at.
    client.tell(Some(DebuggeeStop::Violation(0)));
    assert_eq!(client.output(), b"");
    assert_eq!(answer(&mut client), told(0));
}

#[test]
fn each_command_goes_on_in_the_form_that_the_crate_takes() {
    let session = Arc::new(Session::new(Config::default(), None, None));
    let mut stub = Stub::new(
        Arc::new(machine()),
        session,
        Arc::new(SymbolFiles::default()),
        None,
        Arc::new(Silent),
    );
    stub.stopped(&DebuggeeStop::Violation(1));
    for (packet, on) in [
        ("qSupported", "qSupported:multiprocess-"),
        ("qSupported:a+;;multiprocess+;", "qSupported:multiprocess+"),
        ("Hgp1.-1", "Hg2"),
        ("Hg0001", "Hg1"),
        ("T0", "T2"),
        ("qThreadExtraInfo,p0.0", "qThreadExtraInfo,2"),
        ("D;1", "D"),
        ("P010=AABBCCDD00112233", "P10=aabbccdd00112233"),
        ("M1000,3:242375", "X1000,3:}\u{4}}\u{3}u"),
        ("X1000,2:}A*", "X1000,2:a*"),
        ("m0FF,ffffffffffffffff", "mff,1ffe"),
        ("vCont;s:0", "vCont;s:2"),
        ("vCont;s", "vCont;s:1;s:2"),
        ("vCont;r0,ff:p1.1;S05:1;C0b:-1", "vCont;r0,ff:1;c:2"),
        ("c", "vCont;c:1;c:2"),
        ("S05", "vCont;s:2"),
        // Each byte may need an escape.
        (
            "qXfer:features:read:target.xml:00,ffffffff",
            "qXfer:features:read:target.xml:0,1ffe",
        ),
    ] {
        let passed = filter::pass(Command::parse(packet.as_bytes()).unwrap(), &mut stub);
        assert_eq!(passed, Ok(Passage::On(on.as_bytes().to_vec())), "{packet}");
    }
}

#[test]
fn the_longest_packets_come_through_and_answers_are_no_longer() {
    let machine = machine();
    let mut client = conversation(&machine);
    let ok = Some(framed(b"OK"));
    // Each byte with the escape that it needs, and with one that it does not need.
    for (escaped, byte) in [("}\u{3}", 0x23), ("}A", 0x61), ("}]", 0x7d), ("*", 0x2a)] {
        let count = (PAYLOAD_LIMIT - 11) / escaped.len();
        let count = count.min((MEMORY.end - MEMORY.start) as usize);
        let payload = format!("X1000,{count:x}:{}", escaped.repeat(count));
        assert!(payload.len() <= PAYLOAD_LIMIT);
        assert_eq!(ask(&machine, &mut client, payload.as_bytes()), ok, "{escaped}");
        let mut there = vec![0; count];
        machine.state().space.read(MEMORY.start, &mut there).unwrap();
        assert!(there.iter().all(|there| *there == byte), "{escaped}");
    }
    let count = (PAYLOAD_LIMIT - 11) / 2;
    let payload = format!("M1000,{count:x}:{}", "23".repeat(count));
    assert_eq!(ask(&machine, &mut client, payload.as_bytes()), ok);
    let actions = format!("vCont{}", ";s".repeat((PAYLOAD_LIMIT - 5) / 2));
    assert_eq!(ask(&machine, &mut client, actions.as_bytes()), None);
    for packet in [
        "m1000,ffffffffffffffff",
        "qXfer:features:read:i386-64bit.xml:0,ffffffffffffffff",
    ] {
        let answer = ask(&machine, &mut client, packet.as_bytes()).unwrap();
        assert!(answer.len() <= PAYLOAD_LIMIT + 4, "{packet}");
    }
    // That nothing was asked for does not mean that there is nothing more.
    for (packet, answer) in [
        ("qXfer:features:read:target.xml:0,0", "m"),
        ("qXfer:features:read:target.xml:ffff,0", "l"),
        ("qXfer:libraries:read::0,0", "m"),
        ("qXfer:libraries:read:x:0,10", "E00"),
        ("qXfer:features:read:x:0,0", "E00"),
    ] {
        assert_eq!(
            ask(&machine, &mut client, packet.as_bytes()),
            Some(framed(answer.as_bytes())),
            "{packet}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// What begins as a packet does and has anything behind it: one answer, and the next packet is heard.
    #[test]
    fn the_session_outlives_any_packet(
        head in "[?gGpPmMXZzHTcsCSvqQ]|vCont;[csrCSt]?|Hg|Hc|q(fThreadInfo|Attached|Supported|Rcmd,|ThreadExtraInfo,)|\
                 qSupported:|qXfer:(features|libraries):read:|[MX]10(00)?,1:|[Zz][0-5],|P7=|QStartNoAckMode",
        tail in "[-+.,:;=p0-9a-fxz*}]{0,24}|[^$#\\x03]{0,12}|[0-9a-f]{0,8}|:?(p(-1|[0-2])\\.)?(-1|[0-3])",
    ) {
        let machine = machine();
        let mut client = conversation(&machine);
        let payload = [head, tail].concat();
        prop_assume!(!payload.starts_with("vKill;"));
        let answer = ask(&machine, &mut client, payload.as_bytes());
        prop_assert_eq!(client.left(), None);
        if let Some(answer) = answer {
            // Beside a command's output.
            let packets = answer.split(|byte| *byte == b'$').skip(1);
            let count = packets.filter(|packet| !packet.starts_with(b"O") || packet.starts_with(b"OK")).count();
            prop_assert_eq!(count, 1, "{}", answer.escape_ascii());
        }
        prop_assert_eq!(ask(&machine, &mut client, b"qsThreadInfo"), Some(framed(b"l")));
    }
}
