//! gdb's remote protocol packet by packet on a live guest: round trips, and what a client should not send.
//!
//! Packets: gdb manual, appendix "gdb Remote Serial Protocol".
#![allow(clippy::print_stdout, reason = "what a test measured is shown on demand")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

#[path = "support/debugged.rs"]
mod debugged;
#[path = "support/rsp.rs"]
mod rsp;
mod support;

use debugged::{Debugged, bug};
use rsp::{Client, hex, unhex};
use support::assert_found_once_at_its_place;

/// Registers that every processor has, by number: all of them, RIP, and CR8, which takes few values.
const REGISTERS: usize = 66;
const RIP: usize = 0x10;
const FEATURES: &str = "qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+;xmlRegisters=i386";

/// A client at the first violation, and the thread that is there: the other one may sleep until that one wakes it.
fn at_the_violation() -> (Debugged, Client, String) {
    let run = Debugged::start(&["--gdb-wait"]);
    let mut client = run.client();
    assert!(client.ask(FEATURES).contains("PacketSize="));
    assert!(client.ask("?").starts_with("T05"));
    let stop = client.ask("vCont;c");
    let thread = stop
        .strip_prefix("T05thread:")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    (run, client, thread)
}

/// Lets the guest go on to its end, which is none the worse.
fn leave(run: Debugged, mut client: Client) {
    assert_eq!(client.ask("D;1"), "OK");
    assert_found_once_at_its_place(bug(), &run.end());
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one conversation, of which each step needs those before it"
)]
fn packets_make_the_round_trip() {
    let (run, mut client, thread) = at_the_violation();
    // Threads.
    assert_eq!(client.ask("vMustReplyEmpty"), "");
    assert_eq!(client.ask("qNobodyKnows"), "");
    assert!(client.ask("qfThreadInfo").starts_with("mp01.0"));
    assert_eq!(client.ask("qsThreadInfo"), "l");
    assert_eq!((client.ask("Tp1.1"), client.ask("Tp1.2")), ("OK".into(), "OK".into()));
    assert!(client.ask("Tp1.3").starts_with('E'));
    for packet in ["Hg0", "Hgp1.1", "Hc-1", "Hgp1.2"] {
        assert_eq!(client.ask(packet), "OK", "{packet}");
    }
    // All registers at once, and one by one, of each processor; none changes by being written back.
    for thread in ["Hgp1.1", "Hgp1.2"] {
        assert_eq!(client.ask(thread), "OK");
        let all = client.ask("g");
        assert_eq!(client.ask(&format!("G{all}")), "OK");
        let mut joined = String::new();
        for number in 0..REGISTERS {
            let value = client.ask(&format!("p{number:x}"));
            assert_eq!(client.ask(&format!("P{number:x}={value}")), "OK", "{number:#x}={value}");
            joined.push_str(&value);
        }
        assert_eq!(joined, all[..joined.len()]);
        assert_eq!(client.ask("g"), all);
        assert_eq!(client.ask("P0=efcdab8967452301"), "OK");
        assert_eq!(client.ask("p0"), "efcdab8967452301");
        assert_eq!(client.ask(&format!("P0={}", &all[..16])), "OK");
    }
    // Memory: code, which is read-only, in hexadecimal and binary.
    let rip = u64::from_le_bytes(unhex(&client.ask(&format!("p{RIP:x}"))).try_into().unwrap());
    let code = client.ask(&format!("m{rip:x},10"));
    assert_eq!(code.len(), 32);
    assert_eq!(client.ask(&format!("M{rip:x},10:{}", "90".repeat(16))), "OK");
    assert_eq!(client.ask(&format!("m{rip:x},10")), "90".repeat(16));
    let mut binary = format!("X{rip:x},10:").into_bytes();
    for byte in unhex(&code) {
        match byte {
            b'#' | b'$' | b'}' | b'*' => binary.extend([b'}', byte ^ 0x20]),
            byte => binary.push(byte),
        }
    }
    client.send(&binary);
    assert_eq!(client.receive().unwrap(), "OK");
    assert_eq!(client.ask(&format!("m{rip:x},10")), code);
    assert_eq!(client.ask("m10,4"), "E0e", "nothing is mapped there");
    assert_eq!(client.ask("M10,1:00"), "E0e");
    // Breakpoints of each kind come and go; one on the same place twice is one.
    for kind in 0..=4 {
        let length = if kind < 2 { 1 } else { 8 };
        for packet in ["Z", "Z", "z"] {
            let packet = format!("{packet}{kind},{:x},{length:x}", rip & !7);
            assert_eq!(client.ask(&packet), "OK", "{packet}");
        }
    }
    assert!(
        client
            .monitor("storlock breakpoints")
            .contains("2 of 4 debug registers")
    );
    // Objects, whatever the pieces they are asked for in.
    for (object, annex) in [("features", "target.xml"), ("libraries", "")] {
        let whole = client.transfer(object, annex);
        assert!(whole.ends_with('>'), "{whole}");
        let piece = client.ask(&format!("qXfer:{object}:read:{annex}:5,7"));
        assert_eq!(piece, format!("m{}", &whole[5..12]));
        let beyond = client.ask(&format!("qXfer:{object}:read:{annex}:ffffff,10"));
        assert_eq!(beyond, "l");
    }
    // Steps: of one alone, of one with the other running, in a range.
    assert!(client.ask("vCont?").starts_with("vCont;c"));
    for packet in [
        format!("vCont;s:{thread}"),
        format!("vCont;s:{thread};c"),
        format!("vCont;r{rip:x},{:x}:{thread}", rip + 1),
    ] {
        let stop = client.ask(&packet);
        assert!(stop.starts_with(&format!("T05thread:{thread};")), "{packet}: {stop}");
    }
    leave(run, client);
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one conversation, of which each step needs those before it"
)]
fn what_a_client_should_not_send_is_refused_and_the_machine_stands_as_it_stood() {
    let (run, mut client, thread) = at_the_violation();
    let at = client.pc(0);
    // A wrong sum is asked for again, and a packet that did not arrive is sent again.
    client.raw(b"$Hg1#00");
    assert_eq!(client.acknowledgement(), b'-');
    assert_eq!(client.ask("Hg1"), "OK");
    client.raw(b"-");
    assert_eq!(client.receive().unwrap(), "OK");
    // Two at a time, and acknowledgements that nobody waits for.
    client.raw(b"+++$Hg1#e0$Hg2#e1");
    assert_eq!(
        (client.receive().unwrap(), client.receive().unwrap()),
        ("OK".into(), "OK".into())
    );
    // More than can be, or nothing that can be: an error, and the session goes on.
    assert_eq!(client.ask("Hg1"), "OK");
    let before = client.ask("g");
    for packet in [
        "Hgp1.7",
        "Hgp2.1",
        "Hg",
        "H",
        "T",
        "Tzz",
        "g1",
        "G00",
        "p",
        "pfff",
        "P7=00",
        "P10",
        "P10=zz",
        "P10=00000000000000000000",
        "m",
        "mzz,1",
        "m0,ffffffffffffffff",
        "mffffffffffffffff,2",
        "M0,4:00",
        "M0,1:zz",
        "X0,4:ab",
        "Z1,zz,1",
        "Z2,1001,8",
        "Z2,1000,3",
        "z1,1000,1",
        "qXfer:features:read::0,10",
        "qXfer:features:read:target.xml:zz,10",
        "qRcmd,z",
        "vCont;q",
        "vCont;s:p1.7",
        "vCont;;c",
    ] {
        let answer = client.ask(packet);
        assert!(answer.len() == 3 && answer.starts_with('E'), "{packet}: {answer}");
        assert_eq!(client.pc(0), at, "{packet}");
    }
    for packet in [
        "Z9,1000,1",
        "z9,1000,1",
        "qXfer:features:write:target.xml:0:aa",
        "vFile:open:2f",
        "",
    ] {
        assert_eq!(client.ask(packet), "", "{packet}");
    }
    assert_eq!(
        client.ask("qXfer:libraries:read::ffffffffffffffff,ffffffffffffffff"),
        "l"
    );
    for packet in ["Hg0", "Hg-1", "Hg1"] {
        assert_eq!(client.ask(packet), "OK", "{packet}");
    }
    assert_eq!(client.ask("g"), before);
    // A processor that wrote the length of a value wrongly would have lost its stack pointer, or its code.
    let rip = format!("{at:x}");
    let code = client.ask(&format!("m{rip},4"));
    assert_eq!(client.ask(&format!("M{rip},4:0011")), "E16");
    assert_eq!(client.ask(&format!("m{rip},4")), code);
    // A packet larger than any may be, one that is broken off, one within another, and what is no packet.
    let mut huge = b"$M1000,ffffff:".to_vec();
    huge.resize(3 << 20, b'0');
    for bytes in [
        &huge[..],
        b"$m1000,4",
        b"$m10$Hg1#e0",
        b"#00#00$$$$#",
        b"\x03\x03\x03",
        b"hello\r\n\x00",
    ] {
        client.raw(bytes);
        if bytes.ends_with(b"e0") {
            assert_eq!(client.receive().unwrap(), "OK");
        }
        assert_eq!(client.pc(0), at, "{}", bytes[..3].escape_ascii());
    }
    // Any thread is the one that the last stop was about.
    let stop = client.ask("vCont;s:0");
    assert!(stop.starts_with(&format!("T05thread:{thread};")), "{stop}");
    // While the machine runs nothing but an interrupt is heard.
    client.send(b"vCont;c");
    client.raw(b"$Hg1#e0$vCont;c#a8$D#44");
    client.raw(&[3]);
    let stop = client.receive().unwrap();
    assert!(stop.starts_with('T'), "{stop}");
    assert_eq!(client.ask("qfThreadInfo").len(), "mp01.01,p01.02".len());
    leave(run, client);
}

#[test]
fn int3_in_many_places_stops_everywhere_and_leaves_the_code_as_it_was() {
    let (run, mut client, thread) = at_the_violation();
    let cpu = u32::from(thread.ends_with('2'));
    let text = client.monitor("storlock breakpoints soft");
    if text.contains("int3 does not come out of this KVM") {
        println!("int3 does not come out of this KVM");
        return leave(run, client);
    }
    // Where the processor comes by in the next twenty steps.
    let mut places = Vec::new();
    for _ in 0..20 {
        assert!(client.ask(&format!("vCont;s:{thread}")).starts_with("T05"));
        places.push(client.pc(cpu));
    }
    places.sort_unstable();
    places.dedup();
    let code = |client: &mut Client| -> Vec<_> { places.iter().map(|at| client.ask(&format!("m{at:x},f"))).collect() };
    let before = code(&mut client);
    for at in &places {
        assert_eq!(client.ask(&format!("Z0,{at:x},1")), "OK");
    }
    assert_eq!(code(&mut client), before, "the client sees the code as it was");
    let text = client.monitor("storlock breakpoints");
    let count = text.matches("by int3 at").count();
    // One on a watched routine needs nothing.
    assert!(count > 8 && count >= places.len() - 2, "{text}");
    // It goes on from each of them without taking it out.
    for _ in 0..40 {
        let stop = client.ask("vCont;c");
        if stop.starts_with('W') {
            break;
        }
        assert!(stop.contains("swbreak:;"), "{stop}");
        let thread = stop.split("thread:p01.").nth(1).unwrap();
        let cpu = u32::from_str_radix(&thread[..2], 16).unwrap() - 1;
        assert!(places.contains(&client.pc(cpu)), "{stop}");
    }
    leave(run, client);
}

#[test]
fn hexadecimal_is_what_it_seems() {
    assert_eq!(unhex(&hex(&[0, 0x7f, 0xff])), [0, 0x7f, 0xff]);
}
