//! The server on a machine that is made up: what is answered to each packet, and what becomes of the machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod passing;
#[path = "../../../tests/support/rsp.rs"]
mod rsp;
mod scene;

use std::sync::Arc;

use self::rsp::{hex, unhex};
use self::scene::{MEMORY, Scene};
use super::OnDisconnect;
use crate::notices::Silent;
use crate::session::{Config, Session};
use crate::vmi::debuggee::{DebuggeeStop, ResumeAction, StopPoint, StopPointKind};
use crate::vmi::fake::{DEBUG_REGISTERS, FakeMachine};

#[test]
fn registers_and_memory_make_the_round_trip() {
    let scene = Scene::new(OnDisconnect::Resume);
    let mut client = scene.client();
    assert!(client.ask("?").starts_with("T05thread:"));
    assert_eq!((client.pc(0), client.pc(1)), (0x1234, 0x5678));
    assert_eq!(client.ask("Hg2"), "OK");
    let mut all = unhex(&client.ask("g"));
    assert_eq!(all[16 * 8..17 * 8], 0x5678u64.to_le_bytes());
    all[0] = 0x42;
    assert_eq!(client.ask(&format!("G{}", hex(&all))), "OK");
    assert_eq!(scene.machine.state().registers[1].general.gpr[0], 0x42);
    assert_eq!(client.ask("P1f=0300000000000000"), "OK");
    assert_eq!(scene.machine.state().registers[1].cr8, 3);
    assert!(
        client.ask("P1d=ffffffffffffffff").starts_with('E'),
        "a refusal of the machine is told"
    );
    assert!(!client.ask("p42").starts_with('0'), "there is no register 66");
    assert_eq!(client.ask("M1ffe,4:01020304"), "OK");
    assert_eq!(client.ask("m1ffe,4"), "01020304");
    client.send(b"X2000,2:}\x03\x7e");
    assert_eq!(client.receive().unwrap(), "OK");
    assert_eq!(client.ask("m2000,2"), "237e");
    assert_eq!(client.ask("m2ffe,10").len(), 4, "as much as is mapped");
    assert_eq!(client.ask("m3000,4"), "E0e");
    assert_eq!(client.ask("M2fff,2:0000"), "E0e");
    scene.end();
}

#[test]
fn the_description_names_its_registers_and_no_module_is_there_before_the_kernel() {
    let scene = Scene::new(OnDisconnect::Resume);
    let mut client = scene.client();
    let features = client.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+;xmlRegisters=i386");
    for feature in [
        "qXfer:features:read+",
        "qXfer:libraries:read+",
        "swbreak+",
        "hwbreak+",
        "PacketSize=4000",
    ] {
        assert!(features.contains(feature), "{features}");
    }
    assert!(client.transfer("features", "target.xml").contains("i386-64bit.xml"));
    assert!(
        client
            .transfer("features", "i386-64bit.xml")
            .ends_with("name=\"mxcsr\" bitsize=\"32\" type=\"i386_mxcsr\" group=\"vector\"/></feature>")
    );
    assert!(
        client
            .transfer("libraries", "")
            .ends_with("<library-list version=\"1.0\"></library-list>")
    );
    assert!(client.ask("qXfer:features:read:../etc/passwd:0,80").starts_with('E'));
    assert!(client.ask("vCont?").contains(";r"), "range stepping");
    assert_eq!(client.ask("qfThreadInfo"), "mp01.01,p01.02");
    assert!(unhex(&client.ask("qThreadExtraInfo,p1.2")).starts_with(b"vCPU 1"));
    scene.end();
}

#[test]
fn who_knows_several_processes_is_told_of_avx_and_windbg_is_not() {
    let scene = Scene::new(OnDisconnect::Resume);
    for inner in &mut scene.machine.state().registers {
        inner.floating.ymm_high = Some([[0xa5; 16]; 16]);
    }
    let length = 2 * (17 * 8 + 7 * 4 + 9 * 8 + 8 * 10 + 8 * 4 + 16 * 16 + 4);
    let mut windbg = scene.client();
    windbg.ask("qSupported:xmlRegisters=aarch64,i386");
    assert_eq!(windbg.ask("g").len(), length);
    assert!(!windbg.transfer("features", "target.xml").contains("avx"));
    assert!(windbg.ask("p42").starts_with('E'));
    assert!(windbg.ask("P42=00").starts_with('E'));
    // What it writes leaves the rest alone.
    let all = windbg.ask("g");
    assert_eq!(windbg.ask(&format!("G{all}")), "OK");
    drop(windbg);
    let mut gdb = scene.client();
    gdb.ask("qSupported:multiprocess+;swbreak+;hwbreak+;xmlRegisters=i386");
    assert!(gdb.transfer("features", "target.xml").contains("i386-64bit-avx.xml"));
    assert!(
        gdb.transfer("features", "i386-64bit-sse.xml")
            .contains("org.gnu.gdb.i386.sse")
    );
    let all = gdb.ask("g");
    assert_eq!((all.len(), &all[length..length + 4]), (length + 2 * 256, "a5a5"));
    assert_eq!(gdb.ask("Hg2"), "OK");
    assert_eq!(gdb.ask(&format!("P51={}", "5a".repeat(16))), "OK");
    assert_eq!(gdb.ask("p51"), "5a".repeat(16));
    let high = scene.machine.state().registers[1].floating.ymm_high;
    assert_eq!(high.map(|high| (high[14][0], high[15])), Some((0xa5, [0x5a; 16])));
    scene.end();
}

#[test]
fn each_processor_goes_on_by_its_own_action_and_stops_are_told() {
    let scene = Scene::new(OnDisconnect::Resume);
    let mut client = scene.client();
    client.ask("qSupported:multiprocess+;swbreak+;hwbreak+");
    let stop_point = StopPoint {
        kind: StopPointKind::HardwareBreakpoint,
        address: 0x1500,
        length: 1,
    };
    let written = StopPoint {
        kind: StopPointKind::WriteWatchpoint,
        address: 0x2000,
        length: 8,
    };
    let next = [
        DebuggeeStop::Stepped(1),
        DebuggeeStop::Violation(0),
        DebuggeeStop::StopPoint(1, stop_point),
        DebuggeeStop::StopPoint(0, written),
        DebuggeeStop::Stepped(0),
    ];
    scene.machine.state().next.extend(next);
    assert!(client.ask("vCont;s:p1.2;c").starts_with("T05thread:p01.02;06:"));
    assert!(client.ask("vCont;c").starts_with("T05thread:p01.01;"));
    assert_eq!(client.ask("Z1,1500,1"), "OK");
    assert_eq!(client.ask("Z2,2000,8"), "OK");
    assert_eq!(client.ask("Z1,1600,1"), "E1c", "no register is left");
    let stop = client.ask("vCont;c");
    assert!(stop.starts_with("T05thread:p01.02;hwbreak:;"), "{stop}");
    let stop = client.ask("vCont;s:p1.1");
    assert!(stop.contains("watch:2000;"), "{stop}");
    assert!(client.ask("vCont;r1000,1010:p1.1;c").starts_with("T05"));
    assert_eq!(client.ask("z1,1500,1"), "OK");
    assert_eq!(client.ask("Z0,1600,1"), "OK");
    let inner = scene.machine.state();
    let once = ResumeAction::Step { range: None };
    let range = ResumeAction::Step {
        range: Some((0x1000, 0x1010)),
    };
    assert_eq!(
        inner.resumed,
        [
            vec![ResumeAction::Run, once],
            vec![ResumeAction::Run, ResumeAction::Run],
            vec![ResumeAction::Run, ResumeAction::Run],
            vec![once, ResumeAction::Hold],
            vec![range, ResumeAction::Run],
        ]
    );
    assert_eq!(inner.stop_points.len(), 2);
    drop(inner);
    scene.end();
}

#[test]
fn a_software_breakpoint_takes_a_register_while_one_is_left_and_what_it_was_told_to() {
    let scene = Scene::new(OnDisconnect::Resume);
    let mut client = scene.client();
    client.ask("qSupported:multiprocess+;swbreak+;hwbreak+");
    let kinds = || -> Vec<_> {
        scene
            .machine
            .state()
            .stop_points
            .iter()
            .map(|stop_point| stop_point.kind)
            .collect()
    };
    for address in 0x1500..0x1508 {
        assert_eq!(client.ask(&format!("Z0,{address:x},1")), "OK");
    }
    let mut expected = vec![StopPointKind::HardwareBreakpoint; DEBUG_REGISTERS];
    expected.resize(8, StopPointKind::SoftwareBreakpoint);
    assert_eq!(kinds(), expected);
    assert_eq!(client.ask("Z0,1507,1"), "OK", "it is there already");
    assert_eq!(kinds().len(), 8);
    let software = StopPoint {
        kind: StopPointKind::SoftwareBreakpoint,
        address: 0x1507,
        length: 1,
    };
    scene
        .machine
        .state()
        .next
        .push_back(DebuggeeStop::StopPoint(1, software));
    let stop = client.ask("vCont;c");
    assert!(stop.starts_with("T05thread:p01.02;swbreak:;"), "{stop}");
    assert_eq!(client.ask("z0,1500,1"), "OK");
    assert_eq!(client.ask("z0,1507,1"), "OK");
    assert_eq!(
        kinds(),
        [
            &[StopPointKind::HardwareBreakpoint][..],
            &[StopPointKind::SoftwareBreakpoint; 5]
        ]
        .concat()
    );
    // Data never is int3.
    assert_eq!(client.ask("Z2,2000,8"), "OK");
    assert_eq!(client.ask("Z2,2008,8"), "E1c");

    assert!(client.monitor("storlock breakpoints hard").contains("(hard)"));
    assert_eq!(client.ask("Z0,1600,1"), "E1c", "no register is left");
    assert!(client.monitor("storlock breakpoints soft").contains("int3 (soft)"));
    assert_eq!(client.ask("z2,2000,8"), "OK");
    assert_eq!(client.ask("Z0,1600,1"), "OK");
    assert_eq!(kinds().last(), Some(&StopPointKind::SoftwareBreakpoint));
    assert!(
        client
            .monitor("storlock breakpoints sometimes")
            .contains("none of mixed")
    );
    assert_eq!(client.ask("D"), "OK");
    scene.until(|inner| inner.stop_points.is_empty());
    scene.end();
}

#[test]
fn the_old_command_to_continue_means_all_processors() {
    let scene = Scene::new(OnDisconnect::Resume);
    let mut client = scene.client();
    scene.machine.state().next.push_back(DebuggeeStop::Violation(1));
    assert!(client.ask("?").starts_with("T05"));
    assert!(client.ask("c").starts_with("T05thread:02;"));
    assert_eq!(
        scene.machine.state().resumed,
        [vec![ResumeAction::Run, ResumeAction::Run]]
    );
    scene.end();
}

#[test]
fn physical_memory_is_read_as_qemu_has_it() {
    let scene = Scene::new(OnDisconnect::Resume);
    let mut client = scene.client();
    assert_eq!(client.ask("qqemu.PhyMemMode"), "0");
    assert_eq!(client.ask("QStartNoAckMode"), "OK");
    assert_eq!(client.ask("Qqemu.PhyMemMode:1"), "OK");
    assert_eq!(client.ask("qqemu.PhyMemMode"), "1");
    assert_eq!(client.ask("m1000,2"), "0000");
    assert_eq!(client.ask("m2fff,2"), "E0e", "physical memory is there or not");
    assert_eq!(client.ask("M1000,1:01"), "E0e", "and is not written");
    assert_eq!(client.ask("Qqemu.PhyMemMode:0"), "OK");
    assert_eq!(client.ask("m2fff,2"), "00");
    scene.end();
}

#[test]
fn an_interrupt_stops_and_a_detach_lets_go() {
    let scene = Scene::new(OnDisconnect::Pause);
    let mut client = scene.client();
    assert!(client.ask("?").starts_with("T05"));
    assert_eq!(client.ask("Z1,1500,1"), "OK");
    client.send(b"vCont;c");
    scene.until(|inner| inner.running);
    // A running machine is not resumed again, nor later on for it.
    client.send(b"vCont;c");
    client.raw(&[3]);
    assert!(client.receive().unwrap().starts_with("T02"));
    assert_eq!(scene.machine.state().resumed.len(), 1);
    // One too many changes nothing.
    client.raw(&[3]);
    assert_eq!(client.pc(0), 0x1234);
    assert_eq!(client.ask("D"), "OK");
    scene.until(|inner| inner.running && inner.stop_points.is_empty());
    let mut again = scene.client();
    assert_eq!(again.pc(1), 0x5678);
    scene.end();
}

#[test]
fn a_vanished_client_leaves_the_machine_as_configured() {
    for (policy, running) in [(OnDisconnect::Pause, false), (OnDisconnect::Resume, true)] {
        for runs in [false, true] {
            let scene = Scene::new(policy);
            let mut client = scene.client();
            assert!(client.ask("?").starts_with("T05"));
            assert_eq!(client.ask("Z1,1500,1"), "OK");
            if runs {
                client.send(b"vCont;c");
                scene.until(|inner| inner.running);
            }
            drop(client);
            scene.until(|inner| inner.running == running && inner.stop_points.is_empty());
            assert_eq!(scene.client().pc(0), 0x1234, "the next one is served");
            scene.end();
        }
    }
}

/// What is refused by an error, in each way in which a packet can be wrong.
const REFUSED: [&str; 79] = [
    // Registers: none of that number, values of another size, half a byte, no digits.
    "p",
    "pfff",
    "p42",
    "pzz",
    "p10000000000000000",
    "P7=00",
    "P7",
    "P=00",
    "P7=",
    "P7=000000000000000",
    "P7=00000000000000000000",
    "P7=xxxxxxxxxxxxxxxx",
    "P12=0000000000000000",
    "P42=00000000000000000000000000000000",
    "Pfff=0000000000000000",
    "g1",
    "G",
    "G00",
    "Gzz",
    // Memory: not there, data of another length than is said, no numbers.
    "m",
    "m1000",
    "m1000,",
    "m,4",
    "mzz,1",
    "m1000,1,1",
    "m1000:4",
    "m10000000000000000,1",
    "m1000,10000000000000000",
    "m3000,ffffffffffffffff",
    "mffffffffffffffff,4",
    "M1000,4:0011",
    "M1000,1:0011",
    "M1000,1:0",
    "M1000,1:zz",
    "M1000,1",
    "M1000:00",
    "M2fff,2:0000",
    "Mffffffffffffffff,2:0000",
    "X1000,ffffffff:a",
    "X1000,1:ab",
    "X1000,1:}",
    // Threads that there are not.
    "H",
    "Hg",
    "Hg3",
    "Hgp1.7",
    "Hgp2.1",
    "Hgp-1.1",
    "Hg-2",
    "Hgffffffffffffffff",
    "Hg10000000000000000",
    "Hx1",
    "T",
    "Tzz",
    "T3",
    "qThreadExtraInfo,9",
    "qThreadExtraInfo",
    // Breakpoints and watchpoints of no kind that the processor has.
    "Z1",
    "Z1,zzz,1",
    "Z1,1000",
    "Z1,1000,1;X3,220027",
    "Z2,0,ffffffffffffffff",
    "Z2,1001,8",
    "Z2,1000,3",
    "Z4,1000,0",
    "z0,1000,1",
    "z2,1000,8",
    // Going on.
    "vCont;",
    "vCont;;;",
    "vCont;q",
    "vCont;t",
    "vCont;s:p1.ffff;c",
    "vCont;c:-2",
    "vCont;r1000:1",
    "czz",
    "C",
    "D;2",
    // Queries.
    "qXfer:features:read:../etc/passwd:0,80",
    "qXfer:libraries:read::0",
    "qRcmd,zz",
];

#[test]
fn what_makes_no_sense_is_refused_and_the_session_goes_on() {
    let scene = Scene::new(OnDisconnect::Pause);
    let mut client = scene.client();
    client.ask("qSupported:multiprocess+");
    assert!(client.ask("M1000,4:01020304").starts_with("OK"));
    let before = (client.ask("g"), client.ask("m1000,2000"));
    for packet in REFUSED {
        let answer = client.ask(packet);
        assert!(answer.len() == 3 && answer.starts_with('E'), "{packet}: {answer}");
        assert_eq!((client.ask("g"), client.ask("m1000,2000")), before, "{packet}");
    }
    assert_eq!(scene.machine.state().resumed.len(), 0);
    assert_eq!(scene.machine.state().stop_points, []);
    // What is not known has the empty answer, whatever it is.
    for packet in [
        "",
        "!",
        "x1000,4",
        "Z9,1000,1",
        "vMustReplyEmpty",
        "qC",
        "QNonStop:1",
        "R00",
        "vFile:open:2f",
    ] {
        assert_eq!(client.ask(packet), "", "{packet}");
    }
    // A read gives as much as fits into a packet.
    assert_eq!(client.ask("m1000,ffffffffffffffff").len(), 0x3ffc);
    scene.end();
}

#[test]
fn bytes_that_are_no_packet_are_passed_over() {
    let scene = Scene::new(OnDisconnect::Pause);
    let mut client = scene.client();
    let huge = [&b"$"[..], &vec![b'a'; 1 << 20]].concat();
    for bytes in [
        &b"\x03\x03\x03+++"[..],
        b"hello\r\n#00\x00\xff",
        b"$m1000,4",
        b"$m1000,4#",
        b"$m1000,4#0",
        b"$m10$$$",
        b"$X1000,8:\x03\x03",
        b"$qXfer:features:read:\xff\xfe",
        &huge,
    ] {
        client.raw(bytes);
        assert_eq!(client.pc(0), 0x1234, "{}", bytes[..bytes.len().min(20)].escape_ascii());
    }
    // A damaged packet is asked for again, and is not carried out.
    for bytes in [&b"$M1000,1:01#00"[..], b"$M1000,1:01#zz"] {
        client.raw(bytes);
        assert_eq!(client.acknowledgement(), b'-');
    }
    assert_eq!(client.ask("m1000,1"), "00");
    // One that is too long is refused.
    client.send(&[&b"M1000,3000:"[..], &vec![b'0'; 0x6000]].concat());
    assert_eq!(client.receive().unwrap(), "E16");
    // Nobody sends anything again who does not wait for acknowledgements.
    for _ in 0..2 {
        assert_eq!(client.ask("QStartNoAckMode"), "OK");
    }
    client.raw(b"++--$M1000,1:01#00");
    assert_eq!(client.receive().unwrap(), "E16");
    assert_eq!(client.ask("m1000,1"), "00");
    scene.end();
}

#[test]
fn any_thread_and_all_threads_are_understood() {
    let scene = Scene::new(OnDisconnect::Pause);
    let mut client = scene.client();
    client.ask("qSupported:multiprocess+");
    let once = ResumeAction::Step { range: None };
    scene.machine.state().next.push_back(DebuggeeStop::Violation(1));
    assert!(client.ask("vCont;c").starts_with("T05thread:p01.02;"));
    for packet in ["Hg0", "Hg-1", "Hgp1.0", "Hgp1.-1", "Hgp0.0", "Hgp-1.-1", "Hgp1"] {
        assert_eq!(client.ask("Hg1"), "OK");
        assert_eq!(client.ask(packet), "OK", "{packet}");
        assert_eq!(client.ask("p10"), hex(&0x5678u64.to_le_bytes()), "{packet}");
    }
    for packet in ["T0", "T-1", "Tp1.2"] {
        assert_eq!(client.ask(packet), "OK", "{packet}");
    }
    for (packet, actions) in [
        ("vCont;s:0", [ResumeAction::Hold, once]),
        ("vCont;s:p1.0;c", [ResumeAction::Run, once]),
        ("vCont;s", [once, once]),
        ("vCont;s:-1", [once, once]),
        ("vCont;S05:p1.1;C02:p1.-1", [once, ResumeAction::Run]),
        ("vCont;c:1;s", [ResumeAction::Run, once]),
        ("vCont;s:1;c:1", [once, ResumeAction::Hold]),
        ("s", [ResumeAction::Hold, once]),
        ("S05", [ResumeAction::Hold, once]),
        ("c", [ResumeAction::Run, ResumeAction::Run]),
        ("C0b", [ResumeAction::Run, ResumeAction::Run]),
    ] {
        scene.machine.state().next.push_back(DebuggeeStop::Stepped(1));
        assert!(client.ask(packet).starts_with("T05thread:p01.02;"), "{packet}");
        assert_eq!(scene.machine.state().resumed.last().unwrap(), &actions, "{packet}");
    }
    scene.machine.state().next.push_back(DebuggeeStop::Stepped(0));
    assert_eq!(client.ask("Hc1"), "OK");
    assert!(client.ask("s4321").starts_with("T05thread:p01.01;"));
    let inner = scene.machine.state();
    assert_eq!(inner.resumed.last().unwrap(), &[once, ResumeAction::Hold]);
    assert_eq!(inner.registers[0].general.rip, 0x4321);
    drop(inner);
    scene.end();
}

#[test]
fn commands_are_answered_and_wrong_ones_explained() {
    let scene = Scene::new(OnDisconnect::Pause);
    let mut client = scene.client();
    assert!(client.monitor("storlock help").contains("locks [ADDRESS]"));
    assert!(client.monitor("storlock fly").contains("no command `fly`"));
    assert!(
        client
            .monitor("storlock phys")
            .contains("usage: monitor storlock phys ADDRESS [BYTES]")
    );
    assert!(
        client
            .monitor("storlock phys 0x1000 32")
            .contains("0x000000001010  00 00")
    );
    assert!(client.monitor("phys 0x9000").contains("not all memory"));
    assert!(client.monitor("storlock phys 0 99999999").contains("1 to 4096"));
    assert!(client.monitor("storlock callstack 7").contains("0 to 1"));
    assert!(
        client
            .monitor("storlock processors")
            .contains("stood still 17 us after")
    );
    assert!(
        client
            .monitor("storlock ignore NoSuchRule")
            .contains("the rules are SpinLockRelease")
    );
    scene.machine.state().stops.as_ref().unwrap();
    assert!(
        client
            .monitor("storlock ignore SpinLockRelease")
            .contains("SpinLockRelease          is only reported")
    );
    assert!(client.monitor("storlock snapshot").contains("no snapshot file"));
    scene.end();
}

#[test]
fn the_end_of_the_run_is_told_and_a_kill_ends_it() {
    let scene = Scene::new(OnDisconnect::Pause);
    let mut client = scene.client();
    assert!(client.ask("?").starts_with("T05"));
    client.send(b"vCont;c");
    scene.until(|inner| inner.running);
    scene.machine.state().stops = None;
    assert_eq!(client.receive().unwrap(), "W00");
    scene.end();

    for (packet, answer) in [("k", None), ("vKill;1", Some("OK"))] {
        let scene = Scene::new(OnDisconnect::Pause);
        let mut client = scene.client();
        assert!(client.ask("?").starts_with("T05"));
        assert_eq!(client.ask("vKill;2"), "E16", "there is one process");
        client.send(packet.as_bytes());
        assert_eq!(client.receive().as_deref(), answer);
        scene.until(|inner| inner.ended);
        scene.end();
    }
}
