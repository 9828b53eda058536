//! A debugger at the violation: runs of the guest images under real gdb, and under a client that does what gdb does not.
//!
//! Where a ground cannot do something (data that is watched, on a KVM that interprets the guest) the test says so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

#[path = "support/rsp.rs"]
mod rsp;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rsp::Client;
use support::{BUGS, Run, assert_counts_agree, assert_found_once_at_its_place, command, debugger_address, finish};

/// A workload that is short wherever it runs, and one that lasts.
const SHORT: &str = "ops=16 threads=2";
const LONG: &str = "ops=64 threads=2";
const MINIPORT: &str = "nvme-release-without-acquire";

/// A run that serves a debugger.
struct Debugged {
    directory: tempfile::TempDir,
    child: Child,
    address: String,
}

impl Debugged {
    fn start(miniport: &str, arguments: &[&str]) -> Self {
        Self::start_with(miniport, SHORT, arguments)
    }

    fn start_with(miniport: &str, workload: &str, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut all = vec!["--gdb", "127.0.0.1:0", "--seed", "7", "--append", workload];
        all.extend(arguments);
        let mut child = command(directory.path(), miniport, &all)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let address = debugger_address(directory.path(), &mut child);
        Self {
            directory,
            child,
            address,
        }
    }

    fn script(&self) -> PathBuf {
        self.directory.path().join("report/attach.gdb")
    }

    /// Runs gdb's commands in one session; gives all that it prints.
    fn gdb(&self, commands: &str) -> String {
        let file = self.directory.path().join("commands.gdb");
        fs::write(&file, commands).unwrap();
        // What the server says comes on standard error: in one stream with the rest it stays in order.
        let gdb = Command::new("sh")
            .args(["-c", "exec timeout 300 gdb -nx -batch -x \"$0\" -x \"$1\" 2>&1"])
            .arg(self.script())
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&gdb.stdout).into_owned();
        assert!(gdb.status.success(), "{}: {text}", gdb.status);
        text
    }

    fn client(&self) -> Client {
        Client::connect(&self.address)
    }

    /// Waits for the end.
    fn end(self) -> Run {
        Run {
            output: finish(self.child),
            directory: self.directory,
        }
    }
}

fn bug() -> &'static support::Bug {
    BUGS.iter().find(|(miniport, ..)| *miniport == MINIPORT).unwrap()
}

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

/// This ground stops at data that is watched.
fn watches_data() -> bool {
    let can = std::env::var("STORLOCK_GROUND").is_ok_and(|ground| ground != "native");
    if !can {
        println!("data is not watched here: a KVM that interprets the guest does not stop at it");
    }
    can
}

#[test]
fn gdb_stands_at_the_violation_with_source_lines_and_goes_on_to_the_end() {
    let run = Debugged::start(MINIPORT, &["--gdb-wait"]);
    let watch = if watches_data() {
        "echo <watched>\\n\nwatch *(unsigned long long *)$sp\ncontinue\necho </watched>\\n\ndelete\n"
    } else {
        ""
    };
    let text = run.gdb(&format!(
        "continue\n\
         echo <reason>\\n\nmonitor storlock violation\necho </reason>\\n\n\
         echo <libraries>\\n\ninfo sharedlibrary\necho </libraries>\\n\n\
         echo <stack>\\n\nbt\necho </stack>\\n\n\
         echo <threads>\\n\ninfo threads\necho </threads>\\n\n\
         echo <lock>\\n\nup\np Handle\necho </lock>\\n\n\
         monitor storlock processors\nmonitor storlock locks\n\
         echo <driver>\\n\nbreak NvmeStartIo\ncontinue\nbt 1\ninfo args\nnext\nstepi\ndelete\necho </driver>\\n\n\
         {watch}continue\n"
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
        assert!(part(&text, "watched").contains("Old value"), "{text}");
    }
    assert!(text.contains("exited normally"), "{text}");
    assert_found_once_at_its_place(bug(), &run.end());
}

#[test]
fn a_watched_routine_that_is_stepped_over_counts_once() {
    let mut arguments = vec!["--gdb-wait"];
    for counter in support::CALL_COUNTERS.iter().chain([&support::EVENT_COUNTERS]) {
        arguments.extend(["--dump-export", counter]);
    }
    let run = Debugged::start(MINIPORT, &arguments);
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
    let run = Debugged::start(MINIPORT, &["--gdb-wait"]);
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

    let run = Debugged::start(
        MINIPORT,
        &["--gdb-wait", "--on-disconnect", "resume", "--on-violation", "report"],
    );
    let mut client = run.client();
    assert!(client.ask("?").starts_with("T05"));
    // Nothing that makes sense to anybody, then gone.
    client.raw(b"$qXfer:features:read:target.xml:zz#00$Z9,#");
    drop(client);
    assert_found_once_at_its_place(bug(), &run.end());
}

#[test]
fn a_debugger_can_end_the_run_and_the_report_says_so() {
    let run = Debugged::start(MINIPORT, &["--gdb-wait"]);
    let mut client = run.client();
    assert!(client.ask("?").starts_with("T05"));
    client.send(b"k");
    let run = run.end();
    assert_eq!(run.report()["end"]["kind"], "stopped", "{run}");
    assert_eq!(run.code(), 4, "{run}");
}

/// Interrupts, attaches, detaches and vanishes at random; the run is not disturbed and nothing is lost.
fn many_sessions(sessions: u32) {
    let run = Debugged::start_with(MINIPORT, LONG, &["--on-disconnect", "resume"]);
    let mut random = 0x9e37_79b9_u32;
    let mut next = |below: u32| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random % below
    };
    let mut stops = 0;
    for _ in 0..sessions {
        let mut client = run.client();
        if client.ask("?").starts_with('W') {
            break;
        }
        for _ in 0..next(4) {
            client.send(match next(3) {
                0 => b"vCont;c",
                1 => b"vCont;s:1;c",
                _ => b"vCont;s:2",
            });
            std::thread::sleep(Duration::from_millis(u64::from(next(30))));
            client.raw(&[3]);
            let Some(stop) = client.receive() else { break };
            if stop.starts_with('W') {
                break;
            }
            assert!(stop.starts_with('T'), "{stop}");
            stops += 1;
        }
        if next(3) == 0 {
            drop(client);
        } else {
            client.send(b"D");
            let _ = client.receive();
        }
        std::thread::sleep(Duration::from_millis(u64::from(next(50))));
    }
    println!("{stops} stops");
    assert_found_once_at_its_place(bug(), &leave(run));
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

#[test]
#[ignore = "takes minutes"]
fn fifty_sessions_of_gdb_attach_look_and_leave() {
    let run = Debugged::start_with(MINIPORT, LONG, &["--gdb-wait", "--on-violation", "report"]);
    for session in 0..50 {
        let text = run.gdb("info threads\nbt\nx/i $pc\nstepi\nthread 2\nstepi\nmonitor storlock locks\ndetach\n");
        assert!(text.contains("detached"), "session {session}: {text}");
        if session == 0 {
            assert_eq!(text.matches("vCPU").count(), 2, "{text}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_found_once_at_its_place(bug(), &run.end());
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
