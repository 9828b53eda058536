//! A debugger at the violation: runs of the guest images under real gdb, and under a client that does what gdb does not.
//!
//! Where a test platform cannot do something (data that is watched, on a KVM that interprets the guest) the test says so.
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

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use debugged::{Debugged, MINIPORT, bug};
use rsp::Client;
use support::{Run, assert_counts_agree, assert_found_once_at_its_place, command, finish};

/// A workload that lasts.
const LONG: &str = "ops=64 threads=2";
/// The text between two markers that the script echoes.
fn part<'a>(text: &'a str, name: &str) -> &'a str {
    let begin = format!("<{name}>\n");
    let end = format!("</{name}>");
    let from = text.find(&begin).unwrap_or_else(|| panic!("no {name}: {text}")) + begin.len();
    let length = text[from..]
        .find(&end)
        .unwrap_or_else(|| panic!("{name} has no end: {text}"));
    &text[from..from + length]
}

/// This test platform stops at data that is watched.
fn watches_data() -> bool {
    let can = std::env::var("STORLOCK_TEST_PLATFORM").is_ok_and(|platform| platform != "native");
    if !can {
        println!("data is not watched here: a KVM that interprets the guest does not stop at it");
    }
    can
}

#[test]
fn gdb_stands_at_the_violation_with_source_lines_and_goes_on_to_the_end() {
    let run = Debugged::start(&["--gdb-wait"]);
    let (watch, go_there) = if watches_data() {
        ("watch -location Srb->SrbStatus\n", "continue\ndelete\n")
    } else {
        ("", "")
    };
    let text = run.gdb(&format!(
        "continue\n\
         echo <reason>\\n\nmonitor storlock violation\necho </reason>\\n\n\
         echo <libraries>\\n\ninfo sharedlibrary\necho </libraries>\\n\n\
         echo <stack>\\n\nbt\necho </stack>\\n\n\
         echo <threads>\\n\ninfo threads\necho </threads>\\n\n\
         echo <lock>\\n\nup\np Handle\necho </lock>\\n\n\
         monitor storlock processors\nmonitor storlock locks\n\
         echo <driver>\\n\nbreak NvmeStartIo\ncontinue\nbt 1\ninfo args\ndelete\n\
         {watch}next\nstepi\necho </driver>\\n\n\
         echo <watched>\\n\n{go_there}echo </watched>\\n\ncontinue\n"
    ));
    assert!(
        part(&text, "reason").contains("the lock is released but was not acquired"),
        "{text}"
    );
    let libraries = part(&text, "libraries");
    for module in ["ntoskrnl.exe", "storport.sys", "nvme-release-without-acquire.sys"] {
        assert!(libraries.contains(module), "{text}");
    }
    let stack = part(&text, "stack");
    assert!(
        stack.contains("#0  StorPortNotification"),
        "the first instruction of the routine: {text}"
    );
    assert!(
        stack.contains("NvmeCountFlush") && stack.contains("miniports/nvme/maintenance.c:"),
        "{text}"
    );
    assert_eq!(part(&text, "threads").matches("vCPU").count(), 2, "{text}");
    assert!(part(&text, "lock").contains("Context"), "{text}");
    let driver = part(&text, "driver");
    assert!(
        driver.contains("NvmeStartIo (DeviceExtension=") && driver.contains("miniports/nvme/io.c:"),
        "{text}"
    );
    if watches_data() {
        assert!(driver.contains("Hardware watchpoint"), "{text}");
        assert!(part(&text, "watched").contains("New value"), "{text}");
    }
    assert!(text.contains("exited normally"), "{text}");
    assert_found_once_at_its_place(bug(), &run.end());
}

/// More breakpoints than there are debug registers, by gdb.
#[test]
fn gdb_has_as_many_breakpoints_as_it_wants() {
    let run = Debugged::start(&["--gdb-wait"]);
    let mut client = run.client();
    if client
        .monitor("storlock breakpoints soft")
        .contains("int3 does not come out of this KVM")
    {
        println!("int3 does not come out of this KVM: there are as many as there are debug registers left");
        assert!(client.ask("vCont;c").starts_with("T05"));
        assert_eq!(client.ask("D"), "OK");
        return assert_found_once_at_its_place(bug(), &run.end());
    }
    drop(client);
    let functions = [
        "CommandSendAndWait",
        "RaidDispatchScsi",
        "RaidUnitSubmit",
        "StartRequest",
        "NvmeBuildIo",
        "NvmeStartIo",
    ];
    let breaks = functions.map(|name| format!("break {name}\n")).concat();
    let looks = "continue\nbt 1\n".repeat(5);
    let text = run.gdb(&format!(
        "continue\n{breaks}monitor storlock breakpoints soft\n\
         echo <stops>\\n\n{looks}echo </stops>\\n\ninfo breakpoints\nx/i RaidUnitSubmit\ndelete\ncontinue\n"
    ));
    assert!(text.contains("exited normally"), "{text}");
    let stops = part(&text, "stops");
    assert_eq!(stops.matches(" hit Breakpoint ").count(), 5, "{text}");
    let met = functions.iter().filter(|name| stops.contains(**name)).count();
    assert!(met >= 3, "{text}");
    assert!(!text.contains("int3   "), "the code is shown as it was: {text}");
    assert_found_once_at_its_place(bug(), &run.end());
}

/// Where a PE file wants to be loaded (PE format, "Optional Header": `ImageBase` of PE32+).
fn image_base(file: &Path) -> u64 {
    let bytes = fs::read(file).unwrap();
    let header = u32::from_le_bytes(bytes[0x3c..0x40].try_into().unwrap()) as usize;
    u64::from_le_bytes(bytes[header + 48..header + 56].try_into().unwrap())
}

#[test]
fn lldb_stands_at_the_violation_with_source_lines() {
    let run = Debugged::start(&["--gdb-wait"]);
    let mut client = run.client();
    assert!(client.ask("vCont;c").starts_with("T05"));
    let modules = client.monitor("storlock modules");
    // The machine stands still until the next one attaches.
    drop(client);
    let symbols = support::images().join("debug");
    let files = [
        symbols.join(format!("miniports/{MINIPORT}.sys")),
        symbols.join("storport.sys"),
    ];
    let loads = files.iter().map(|file| {
        let name = file.file_name().unwrap().to_str().unwrap();
        let line = modules.lines().find(|line| line.ends_with(name)).unwrap();
        let base = u64::from_str_radix(&line[2..18], 16).unwrap();
        let slide = base.wrapping_sub(image_base(file));
        format!("target modules load --file {name} --slide {slide:#x}\n")
    });
    let script = format!(
        "target modules add {}\ngdb-remote {}\n{}bt\nprocess plugin packet monitor storlock violation\n\
         breakpoint set --name NvmeStartIo\ncontinue\nbreakpoint delete --force\nthread step-inst\nprocess detach\n",
        files[1].display(),
        run.address,
        loads.collect::<String>()
    );
    let file = run.directory.path().join("commands.lldb");
    fs::write(&file, script).unwrap();
    let mut lldb = Command::new("timeout");
    lldb.args(["300", "lldb", "--batch", "--arch", "x86_64", "--source"]);
    let output = lldb.arg(&file).arg(&files[0]).stdin(Stdio::null()).output().unwrap();
    if output.status.code() == Some(127) {
        println!("lldb is not installed");
        run.client().ask("D");
        run.end();
        return;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("frame #0") && text.contains("`StorPortNotification("),
        "{text}"
    );
    assert!(
        text.contains("`NvmeCountFlush(") && text.contains("at maintenance.c:"),
        "{text}"
    );
    assert!(text.contains("the lock is released but was not acquired"), "{text}");
    assert!(
        text.contains("stop reason = breakpoint 1.1") && text.contains("`NvmeStartIo("),
        "{text}"
    );
    assert!(text.contains("stop reason = instruction step into"), "{text}");
    assert_found_once_at_its_place(bug(), &run.end());
}

#[test]
fn a_watched_routine_that_is_stepped_over_counts_once() {
    let mut arguments = vec!["--gdb-wait"];
    for counter in support::CALL_COUNTERS.iter().chain([&support::EVENT_COUNTERS]) {
        arguments.extend(["--dump-export", counter]);
    }
    let run = Debugged::start(&arguments);
    let mut client = run.client();
    let stop = client.ask("vCont;c");
    let thread = stop.split_once("thread:").unwrap().1.split(';').next().unwrap();
    // Into the routine, out of it, and on to the next ones: others run on meanwhile.
    for _ in 0..300 {
        let stop = client.ask(&format!("vCont;s:{thread};c"));
        assert!(stop.starts_with("T05"), "{stop}");
    }
    assert_eq!(client.ask("D"), "OK");
    let run = run.end();
    assert_counts_agree(&run);
    assert_found_once_at_its_place(bug(), &run);
}

#[test]
fn a_client_that_vanishes_leaves_the_machine_as_configured() {
    let run = Debugged::start(&["--gdb-wait"]);
    let mut client = run.client();
    assert!(client.ask("?").starts_with("T05"));
    client.send(b"vCont;c");
    assert!(client.receive().unwrap().starts_with("T05"));
    let at = client.pc(0);
    drop(client);
    std::thread::sleep(Duration::from_millis(200));
    let mut client = run.client();
    assert_eq!(client.pc(0), at, "the machine stands still");
    assert!(client.monitor("storlock violations").contains("SpinLock4"));
    assert_eq!(client.ask("D"), "OK");
    assert_found_once_at_its_place(bug(), &run.end());

    let run = Debugged::start(&["--gdb-wait", "--on-disconnect", "resume", "--on-violation", "report"]);
    let mut client = run.client();
    assert!(client.ask("?").starts_with("T05"));
    // Nothing that makes sense to anybody, then gone.
    client.raw(b"$qXfer:features:read:target.xml:zz#00$Z9,#");
    drop(client);
    assert_found_once_at_its_place(bug(), &run.end());
}

#[test]
fn a_debugger_can_end_the_run_and_the_report_says_so() {
    let run = Debugged::start(&["--gdb-wait"]);
    let mut client = run.client();
    assert!(client.ask("?").starts_with("T05"));
    client.send(b"k");
    let run = run.end();
    assert_eq!(run.report()["end"]["kind"], "stopped", "{run}");
    assert_eq!(run.code(), 4, "{run}");
}

/// Has `session` held so many times, each true one counting, with as many runs as that takes: a run may come to its end
/// before. Each is complete in spite of them.
fn hold_sessions(total: u32, mut session: impl FnMut(&mut Debugged) -> bool) {
    let start = || Debugged::start_with(LONG, &["--on-disconnect", "resume"]);
    let mut run = start();
    let (mut held, mut runs) = (0, 1);
    while held < total {
        if session(&mut run) {
            held += 1;
            continue;
        }
        assert_found_once_at_its_place(bug(), &leave(run));
        assert!(runs < total, "a run is over before a session can be held");
        run = start();
        runs += 1;
    }
    assert_found_once_at_its_place(bug(), &leave(run));
    println!("{held} sessions on {runs} runs");
}

/// Steps, interrupts, attaches, detaches and vanishes at random; the run is not disturbed and nothing is lost.
fn many_sessions(sessions: u32) {
    let mut random = 0x9e37_79b9_u32;
    let mut next = |below: u32| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random % below
    };
    let mut stops = 0;
    hold_sessions(sessions, |run| {
        let Some(mut client) = Client::connect_once(&run.address) else {
            return false;
        };
        if !client.ask_if_there("?").is_some_and(|stop| stop.starts_with('T')) {
            return false;
        }
        for _ in 0..next(4) {
            client.send(match next(3) {
                0 => b"vCont;c",
                1 => b"vCont;s:1;c",
                _ => b"vCont;s:2",
            });
            std::thread::sleep(Duration::from_millis(u64::from(next(30))));
            client.raw_or_closed(&[3]);
            match client.receive() {
                Some(stop) if stop.starts_with('T') => stops += 1,
                Some(stop) => {
                    assert!(stop.starts_with('W'), "{stop}");
                    return false;
                }
                None => return false,
            }
        }
        if next(3) == 0 {
            drop(client);
        } else {
            let _ = client.ask_if_there("D");
        }
        std::thread::sleep(Duration::from_millis(u64::from(next(50))));
        true
    });
    println!("{stops} stops");
}

/// Lets whatever still stands go on until the run is over.
fn leave(mut run: Debugged) -> Run {
    while run.child.try_wait().unwrap().is_none() {
        if let Ok(stream) = std::net::TcpStream::connect(&run.address) {
            drop(stream);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    run.end()
}

#[test]
fn random_sessions_lose_nothing() {
    many_sessions(6);
}

#[test]
#[ignore = "takes minutes"]
fn fifty_random_sessions_lose_nothing() {
    many_sessions(50);
}

/// Sessions of real gdb, each on a run of its own, whose course is left to chance until they stand at the violation.
fn sessions_at_the_violation(sessions: u64) {
    let watches = watches_data();
    for session in 0..sessions {
        let (pauses, began) = (session % 2 == 0, Instant::now());
        let on_disconnect = if pauses { "pause" } else { "resume" };
        let run = Debugged::start(&["--gdb-wait", "--on-disconnect", on_disconnect]);
        for seed in 0.. {
            let text = run.random_session(100 * session + seed, watches, pauses);
            match text.lines().last() {
                Some("held") => break,
                Some("gone") => println!("session {session}: gdb is gone, the next one attaches"),
                _ => panic!("session {session}, seed {seed}: {text}"),
            }
        }
        assert_found_once_at_its_place(bug(), &run.end());
        println!("session {session}: {:?}", began.elapsed());
    }
}

#[test]
fn sessions_left_to_chance_stand_at_the_violation() {
    sessions_at_the_violation(3);
}

#[test]
#[ignore = "takes minutes"]
fn fifty_sessions_left_to_chance_stand_at_the_violation() {
    sessions_at_the_violation(50);
}

#[test]
fn an_address_that_others_reach_needs_a_word_more() {
    let directory = tempfile::tempdir().unwrap();
    let child = command(directory.path(), MINIPORT, &["--gdb", "0.0.0.0:0"])
        .spawn()
        .unwrap();
    let output = finish(child);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("--gdb-expose"), "{text}");
    assert!(!Path::new(&directory.path().join("report/report.json")).exists());
}
