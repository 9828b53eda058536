//! Every output of a run, and what may be wrong with it: a full disk, a pipe whose reader has gone or takes nothing. The exit
//! code says so, the report is there and says so too, and nobody is waited for after the time limit or a signal.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

#[path = "support/outlets.rs"]
mod outlets;
mod support;

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use outlets::{Mounted, SLACK, mkfifo, reader};
use serde_json::Value;
use support::{command, debugger_address, finish};

/// With a bug that every run finds, so that a report is worth something.
const DRIVER: &str = "vdisk-release-without-acquire";
const SHORT: [&str; 4] = ["--seed", "7", "--append", "ops=8 threads=1"];
/// A workload that outlasts every time limit here.
const ENDLESS: [&str; 4] = ["--seed", "7", "--append", "ops=1000000 threads=2"];
const LIMIT: Duration = Duration::from_secs(5);

/// A run whose outputs are in a directory of its own.
struct Case {
    directory: tempfile::TempDir,
    command: Command,
}

impl Case {
    fn new(arguments: &[&str], more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let all = [arguments, more].concat();
        let mut command = command(directory.path(), DRIVER, &all);
        command.current_dir(directory.path()).stdout(Stdio::null());
        Self { directory, command }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn run(&mut self) -> Output {
        finish(self.command.spawn().unwrap())
    }

    fn report(&self) -> Value {
        let text = fs::read(self.path().join("report/report.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// The run has this exit code, which its report says as well, and the report says `told`.
    #[track_caller]
    fn assert_ended(&self, output: &Output, code: i32, told: &str) -> Value {
        self.assert_ended_by(output, &[code], told)
    }

    /// The same with one of several exit codes.
    #[track_caller]
    fn assert_ended_by(&self, output: &Output, codes: &[i32], told: &str) -> Value {
        let said = String::from_utf8_lossy(&output.stderr);
        let report = self.report();
        let code = output
            .status
            .code()
            .unwrap_or_else(|| panic!("{:?}: {said}", output.status));
        assert!(codes.contains(&code), "{code}: {said}\n{report:#}");
        assert_eq!(report["exit_code"], code, "{report:#}");
        let all = format!("{}{}", report["conditions"], report["notes"]);
        assert!(all.contains(told), "{told}: {all}");
        let people = fs::read_to_string(self.path().join("report/report.txt")).unwrap();
        assert!(people.contains(told), "{people}");
        report
    }
}

fn defects(report: &Value) -> usize {
    report["violations"].as_array().unwrap().len()
}

#[test]
fn a_full_disk_below_any_output_is_exit_code_5_and_said_in_the_report() {
    let Some(full) = Mounted::full() else { return };
    let at = |name: &str| full.path().join(name);
    for (option, name, told) in [
        ("--serial", "serial.txt", "the copy of the serial log"),
        ("--dump-on-violation", "v.dmp", "v.dmp"),
    ] {
        let place = at(name);
        let mut case = Case::new(&SHORT, &[option, place.to_str().unwrap()]);
        let output = case.run();
        let report = case.assert_ended(&output, 5, told);
        assert_eq!(defects(&report), 1, "{option}");
        assert!(!at("v.dmp").exists() && !at("v.dmp.partial").exists());
    }
    let mut case = Case::new(&SHORT, &[]);
    case.command.stdout(full.file("out"));
    let output = case.run();
    case.assert_ended(&output, 5, "standard output");
    // What nobody can be told of costs nothing.
    let mut case = Case::new(&SHORT, &["--serial", "-"]);
    case.command.stderr(full.file("err"));
    let output = case.run();
    case.assert_ended(&output, 1, "contracts of lock routines");
}

#[test]
fn a_disk_that_becomes_full_ends_the_recording_and_not_the_run() {
    let Some(small) = Mounted::new("size=400k") else { return };
    let place = small.path().join("run.rec");
    let mut case = Case::new(&SHORT, &["--record", place.to_str().unwrap()]);
    let output = case.run();
    let report = case.assert_ended(&output, 5, "the recording is incomplete");
    assert_eq!(defects(&report), 1);
    // The limit on the size of files is no other thing than a full disk.
    let mut case = Case::new(&SHORT, &["--record", "run.rec"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 800; exec \"$0\" \"$@\""]);
    limited.arg(case.command.get_program()).args(case.command.get_args());
    limited
        .current_dir(case.path())
        .env("STORLOCK_IMAGES", support::images());
    limited.stdout(Stdio::null()).stderr(Stdio::piped());
    let output = finish(limited.spawn().unwrap());
    case.assert_ended(&output, 5, "the recording is incomplete");
    case.command.args(["--output-limit", "200K"]);
    let output = case.run();
    case.assert_ended(&output, 1, "its limit of 204800 bytes");
}

#[test]
fn reports_that_have_no_room_are_printed_and_the_exit_code_is_5() {
    let Some(small) = Mounted::new("size=16k") else { return };
    let mut case = Case::new(&SHORT, &["--output-limit", "1K"]);
    symlink(small.path(), case.path().join("report")).unwrap();
    case.command.stdout(Stdio::piped());
    let output = case.run();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        printed["conditions"].to_string().contains("cannot write"),
        "{printed:#}"
    );
    assert_eq!(defects(&printed), 1);
}

/// Waits until a process has a file open; the time limit is the test's own.
#[track_caller]
fn wait_until_open(child: &Child, file: &Path) {
    let descriptors = format!("/proc/{}/fd", child.id());
    let is_open = || {
        let mut open = fs::read_dir(&descriptors).into_iter().flatten().flatten();
        open.any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|link| link == file))
    };
    let began = Instant::now();
    while !is_open() {
        assert!(began.elapsed() < 12 * LIMIT, "{} was not opened", file.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_reader_that_has_gone_is_forgiven() {
    for (option, told) in [
        ("--record", "the recording ends early: its reader has gone"),
        ("--serial", "the copy of the serial log"),
        ("--dump-on-violation", "the dump ends early"),
    ] {
        let mut case = Case::new(&SHORT, &[option, "pipe"]);
        mkfifo(&case.path().join("pipe"));
        let gone = reader(&case.path().join("pipe"));
        let child = case.command.spawn().unwrap();
        wait_until_open(&child, &case.path().join("pipe"));
        drop(gone);
        let output = finish(child);
        let report = case.assert_ended(&output, 1, told);
        assert_eq!(defects(&report), 1);
    }
    let mut case = Case::new(&SHORT, &["--serial", "-"]);
    case.command
        .stdout(outlets::closed_pipe())
        .stderr(outlets::closed_pipe());
    let output = case.run();
    case.assert_ended(&output, 1, "contracts of lock routines");
}

/// A run that a reader keeps from its end; `hold` is what has to live as long.
fn stalled(mut case: Case, hold: impl Sized, end: &str) -> (Case, Output) {
    if end == "limit" {
        case.command.args(["--time-limit", &format!("{}s", LIMIT.as_secs())]);
    } else {
        case.command.args(["--time-limit", "300s"]);
    }
    let child = case.command.spawn().unwrap();
    let began = Instant::now();
    let deadline = if end == "limit" {
        // The guest starts a moment after the program.
        began + LIMIT + SLACK
    } else {
        std::thread::sleep(LIMIT);
        outlets::signal(&child, end);
        Instant::now() + SLACK
    };
    let output = finish(child);
    assert!(Instant::now() < deadline, "{end}: {:?} too late", deadline.elapsed());
    drop(hold);
    (case, output)
}

#[test]
fn a_reader_that_takes_nothing_is_not_waited_for_after_limit_or_signal() {
    for (end, code) in [("limit", 5), ("INT", 130)] {
        for (option, told) in [
            ("--record", "the recording is incomplete"),
            ("--serial", "ended"),
            ("--dump-on-violation", "ended"),
        ] {
            let case = Case::endless(&[&ENDLESS[..], &[option, "pipe"]].concat());
            mkfifo(&case.path().join("pipe"));
            let hold = reader(&case.path().join("pipe"));
            let (case, output) = stalled(case, hold, end);
            let told = if end == "limit" { told } else { "was interrupted" };
            // Nothing that was asked for is lost where the log has it too, or a slow guest has not come to its bug.
            let codes = if end == "limit" && option != "--record" {
                &[5, 3, 1][..]
            } else {
                &[code]
            };
            case.assert_ended_by(&output, codes, told);
        }
        let mut case = Case::endless(&ENDLESS);
        let (hold, writer) = outlets::stalled_pipe();
        case.command.stdout(writer);
        let (case, output) = stalled(case, hold, end);
        case.assert_ended(&output, code, "standard output is incomplete");
        let mut case = Case::endless(&[&ENDLESS[..], &["--serial", "-"]].concat());
        let (hold, writer) = outlets::stalled_pipe();
        case.command.stderr(writer);
        let (case, output) = stalled(case, hold, end);
        let codes = if end == "limit" { &[1, 3][..] } else { &[130] };
        case.assert_ended_by(&output, codes, "");
    }
}

impl Case {
    /// Without a time limit yet.
    fn endless(arguments: &[&str]) -> Self {
        let mut case = Self::new(arguments, &["--time-limit", "0x"]);
        let kept: Vec<_> = case.command.get_args().map(ToOwned::to_owned).collect();
        let at = kept.iter().rposition(|argument| argument == "--time-limit").unwrap();
        let mut command = Command::new(case.command.get_program());
        command.args(&kept[..at]).args(&kept[at + 2..]);
        command
            .current_dir(case.path())
            .env("STORLOCK_IMAGES", support::images());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        case.command = command;
        case
    }
}

/// Starts a run and waits until its guest speaks.
fn speaking(case: &mut Case) -> Child {
    let mut child = case.command.spawn().unwrap();
    let began = Instant::now();
    let log = case.path().join("report/serial.log");
    while fs::metadata(&log).map_or(0, |log| log.len()) == 0 {
        assert!(began.elapsed() < support::LIMIT && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

#[test]
fn a_debugger_that_does_not_read_is_not_waited_for() {
    let mut case = Case::endless(&[&ENDLESS[..], &["--gdb", "127.0.0.1:0", "--time-limit", "300s"]].concat());
    let mut child = speaking(&mut case);
    let address = debugger_address(case.path(), &mut child);
    let mut client = std::net::TcpStream::connect(address).unwrap();
    // Questions with long answers, until nothing more goes through.
    client.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let question = b"+$qXfer:features:read:target.xml:0,fff#7d".repeat(1000);
    for _ in 0..200 {
        if std::io::Write::write_all(&mut client, &question).is_err() {
            break;
        }
    }
    outlets::signal(&child, "TERM");
    let began = Instant::now();
    let output = finish(child);
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    case.assert_ended(&output, 130, "was interrupted");
}

#[test]
fn a_hangup_ends_a_run_with_a_report_unless_it_is_ignored() {
    let mut case = Case::endless(&[&ENDLESS[..], &["--time-limit", "300s"]].concat());
    let child = speaking(&mut case);
    outlets::signal(&child, "HUP");
    let output = finish(child);
    case.assert_ended(&output, 130, "was interrupted");
    let inner = Case::new(&SHORT, &[]);
    let mut ignoring = Case::new(&SHORT, &[]);
    ignoring.directory = inner.directory;
    ignoring.command = Command::new("sh");
    ignoring.command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]);
    ignoring
        .command
        .arg(inner.command.get_program())
        .args(inner.command.get_args());
    ignoring
        .command
        .current_dir(ignoring.directory.path())
        .env("STORLOCK_IMAGES", support::images());
    ignoring.command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = speaking(&mut ignoring);
    outlets::signal(&child, "HUP");
    let output = finish(child);
    ignoring.assert_ended(&output, 1, "contracts of lock routines");
}

#[test]
fn a_second_signal_ends_at_once_whatever_stalls() {
    let mut case = Case::endless(&[&ENDLESS[..], &["--time-limit", "300s", "--record", "pipe"]].concat());
    mkfifo(&case.path().join("pipe"));
    let _hold = reader(&case.path().join("pipe"));
    let child = speaking(&mut case);
    outlets::signal(&child, "INT");
    outlets::signal(&child, "INT");
    let began = Instant::now();
    let output = finish(child);
    assert_eq!(output.status.code(), Some(130), "{:?}", output.status.signal());
    assert!(began.elapsed() < SLACK / 2, "{:?}", began.elapsed());
}

#[test]
fn a_second_run_is_refused_and_the_first_one_has_its_report() {
    let mut case = Case::endless(&[&ENDLESS[..], &["--time-limit", "300s", "--record", "run.rec"]].concat());
    let first = speaking(&mut case);
    for report in ["report", "other"] {
        let mut second = Command::new(case.command.get_program());
        second
            .args(case.command.get_args())
            .args(["--disk", "mem:1M"])
            .current_dir(case.path());
        second
            .env("STORLOCK_IMAGES", support::images())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if report == "other" {
            second = Command::new(case.command.get_program());
            second.args(["run", "--report-dir", "other", "--record", "run.rec", "--driver"]);
            second
                .arg(support::images().join("miniports/vdisk-ok.sys"))
                .current_dir(case.path());
            second.env("STORLOCK_IMAGES", support::images()).stderr(Stdio::piped());
        }
        let output = finish(second.spawn().unwrap());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains("in use by another run"), "{said}");
    }
    outlets::signal(&first, "TERM");
    let output = finish(first);
    case.assert_ended(&output, 130, "was interrupted");
    let mut recording = Vec::new();
    File::open(case.path().join("run.rec"))
        .unwrap()
        .read_to_end(&mut recording)
        .unwrap();
    assert!(recording.starts_with(b"STLKREC\n") && recording.len() > 1000);
}
