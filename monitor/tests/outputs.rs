//! The outputs of `storlock` before a guest is started or without one: no output is also another file of the run, two
//! runs do not share one, files of an earlier run are not taken for this one's, and a full or missing standard output
//! is reported.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

#[path = "support/outlets.rs"]
mod outlets;
mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use outlets::{Mounted, mkfifo};
use storlock_vmm::host::lock_exclusively;
use support::{finish, images};

/// A directory with a file for everything that a run reads, and the arguments that name them.
struct Inputs {
    directory: tempfile::TempDir,
}

impl Inputs {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("symbols")).unwrap();
        let miniports = images().join("miniports");
        for (file, name) in [
            (miniports.join("vdisk-ok.sys"), "x.sys"),
            (images().join("ntoskrnl.exe"), "kernel.exe"),
            (images().join("storport.sys"), "port.sys"),
            (miniports.join("nvme-ok.sys"), "more.sys"),
            (miniports.join("vdisk-ok.sys"), "symbols/x.sys"),
        ] {
            fs::copy(file, at(name)).unwrap();
        }
        fs::write(at("some.reg"), "Windows Registry Editor Version 5.00\n").unwrap();
        File::create(at("base.img")).unwrap().set_len(1 << 20).unwrap();
        fs::write(at("top.qcow2"), outlets::qcow2_on("base.img")).unwrap();
        File::create(at("raw.img")).unwrap().set_len(1 << 20).unwrap();
        Self { directory }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn all() -> [&'static str; 9] {
        [
            "x.sys",
            "kernel.exe",
            "port.sys",
            "more.sys",
            "symbols/x.sys",
            "some.reg",
            "base.img",
            "top.qcow2",
            "raw.img",
        ]
    }

    fn run(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_storlock"));
        command.current_dir(self.directory.path()).args([
            "run",
            "--driver",
            "x.sys",
            "--kernel",
            "kernel.exe",
            "--port-driver",
            "port.sys",
            "--load",
            "more.sys",
            "--symbols",
            "symbols",
            "--registry",
            "some.reg",
            "--disk",
            "top.qcow2,readonly",
            "--disk",
            "raw.img",
            "--time-limit",
            "2s",
            "--kvm",
            "/nowhere/kvm",
        ]);
        let run = command
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        finish(run.spawn().unwrap())
    }

    /// Every file, by name, with what is in it.
    fn contents(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut directories = vec![self.directory.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
                if kind.is_dir() {
                    directories.push(path);
                } else if kind.is_file() {
                    found.push((path.clone(), fs::read(path).unwrap()));
                } else {
                    found.push((path, Vec::new()));
                }
            }
        }
        found.sort();
        found
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_output_that_is_also_an_input_is_a_usage_error_and_nothing_is_touched() {
    let inputs = Inputs::new();
    for (index, input) in Inputs::all().into_iter().enumerate() {
        // The file itself, by another name of the same file, and by a link to it.
        fs::hard_link(inputs.at(input), inputs.at(&format!("hard{index}"))).unwrap();
        symlink(inputs.at(input), inputs.at(&format!("soft{index}"))).unwrap();
    }
    fs::create_dir(inputs.at("report")).unwrap();
    symlink(inputs.at("x.sys"), inputs.at("report/report.json")).unwrap();
    let before = inputs.contents();
    for option in ["--record", "--serial", "--dump-on-violation"] {
        for (index, input) in Inputs::all().into_iter().enumerate() {
            for name in [input.to_owned(), format!("hard{index}"), format!("soft{index}")] {
                let output = inputs.run(&["--report-dir", "new", option, &name]);
                let said = text(&output);
                assert_eq!(output.status.code(), Some(2), "{option} {name}: {said}");
                assert!(
                    said.contains(option) && said.contains("the same file"),
                    "{option} {name}: {said}"
                );
            }
        }
    }
    let output = inputs.run(&["--report-dir", "report"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(inputs.contents() == before, "a file was touched");
}

#[test]
fn two_outputs_that_are_one_file_are_a_usage_error_also_before_it_is_there() {
    let inputs = Inputs::new();
    symlink("later", inputs.at("link")).unwrap();
    fs::write(inputs.at("there"), "earlier").unwrap();
    fs::create_dir(inputs.at("report")).unwrap();
    let before = inputs.contents();
    for pair in [
        ["--record", "there", "--serial", "./there"],
        ["--record", "later", "--serial", "link"],
        ["--record", "report/report.json", "--serial", "x"],
        [
            "--record",
            "not/there/yet/events.trace",
            "--report-dir",
            "not/there/yet",
        ],
        ["--serial", "v.dmp.partial", "--dump-on-violation", "v.dmp"],
        ["--record", "gdb", "--gdb", "unix:gdb"],
    ] {
        let mut arguments = pair.to_vec();
        if !arguments.contains(&"--report-dir") {
            arguments.extend(["--report-dir", "report"]);
        }
        let output = inputs.run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{pair:?}: {}", text(&output));
        assert!(text(&output).contains("the same file"), "{pair:?}: {}", text(&output));
    }
    assert!(inputs.contents() == before, "a file was touched");
}

#[test]
fn standard_output_in_a_file_that_is_an_output_as_well_is_refused() {
    let inputs = Inputs::new();
    let log = File::create(inputs.at("log")).unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_storlock"))
        .current_dir(inputs.directory.path())
        .args([
            "run",
            "--driver",
            "x.sys",
            "--serial",
            "/dev/stdout",
            "--report-dir",
            "r",
        ])
        .stdout(log)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = finish(run);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("standard output"), "{}", text(&output));
}

#[test]
fn what_is_no_regular_file_is_never_replaced() {
    let inputs = Inputs::new();
    mkfifo(&inputs.at("pipe"));
    let _listener = UnixListener::bind(inputs.at("socket")).unwrap();
    symlink("pipe", inputs.at("to-pipe")).unwrap();
    for option in ["--record", "--serial", "--dump-on-violation"] {
        for name in ["pipe", "to-pipe", "socket"] {
            let _reader = outlets::reader(&inputs.at("pipe"));
            let output = inputs.run(&["--report-dir", "report", option, name]);
            // There is no such KVM.
            assert_eq!(output.status.code(), Some(5), "{option} {name}: {}", text(&output));
            assert!(
                text(&output).contains("/nowhere/kvm"),
                "{option} {name}: {}",
                text(&output)
            );
        }
    }
    let kind = |name: &str| fs::symlink_metadata(inputs.at(name)).unwrap().file_type();
    assert!(kind("pipe").is_fifo() && kind("socket").is_socket() && kind("to-pipe").is_symlink());
}

#[test]
fn a_run_that_is_refused_leaves_nothing_of_an_earlier_one() {
    let names = [
        "report.txt",
        "report.json",
        "serial.log",
        "events.trace",
        "attach.gdb",
        "snapshots.txt",
    ];
    for refused in [["--driver", "none.sys"], ["--disk", "none.img"]] {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("report")).unwrap();
        for name in names {
            fs::write(at("report").join(name), "earlier").unwrap();
        }
        for name in ["run.rec", "v.dmp", "report/report.json.partial"] {
            fs::write(at(name), "earlier").unwrap();
        }
        fs::write(at("report/mine.txt"), "the user's").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_storlock"));
        command.current_dir(directory.path()).arg("run");
        if !refused.contains(&"--driver") {
            command.arg("--driver").arg(images().join("miniports/vdisk-ok.sys"));
        }
        command.args([
            "--report-dir",
            "report",
            "--record",
            "run.rec",
            "--dump-on-violation",
            "v.dmp",
        ]);
        command
            .args(refused)
            .env("STORLOCK_IMAGES", images())
            .args(["--kvm", "/nowhere/kvm"]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{refused:?}: {}", text(&output));
        for (path, content) in outlets::files_below(directory.path()) {
            assert_ne!(content, b"earlier", "{refused:?}: {}", path.display());
        }
        assert_eq!(fs::read(at("report/mine.txt")).unwrap(), b"the user's");
    }
}

#[test]
fn options_that_do_not_go_together_are_refused_before_an_earlier_report_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report");
    fs::create_dir(&report).unwrap();
    fs::write(report.join("report.json"), "earlier").unwrap();
    let specification = directory.path().join("spec.json");
    fs::write(&specification, r#"{"driver": "none.sys", "gdb_wait": true}"#).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_storlock"));
    command.args(["run", "--spec"]).arg(&specification);
    let output = command.arg("--report-dir").arg(&report).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert_eq!(fs::read(report.join("report.json")).unwrap(), b"earlier");
}

#[test]
fn an_output_of_another_run_is_refused_and_left_alone() {
    let inputs = Inputs::new();
    fs::create_dir(inputs.at("report")).unwrap();
    for name in ["report/report.json", "run.rec", "serial.txt", "v.dmp.partial"] {
        fs::write(inputs.at(name), "being written").unwrap();
    }
    for (locked, arguments) in [
        ("report", &["--report-dir", "report"][..]),
        ("run.rec", &["--report-dir", "other", "--record", "run.rec"]),
        ("serial.txt", &["--report-dir", "other", "--serial", "serial.txt"]),
        (
            "v.dmp.partial",
            &["--report-dir", "other", "--dump-on-violation", "v.dmp"],
        ),
    ] {
        let user = File::open(inputs.at(locked)).unwrap();
        lock_exclusively(&user).unwrap();
        let output = inputs.run(arguments);
        assert_eq!(output.status.code(), Some(5), "{locked}: {}", text(&output));
        assert!(
            text(&output).contains("in use by another run"),
            "{locked}: {}",
            text(&output)
        );
        let file = if locked == "report" {
            "report/report.json"
        } else {
            locked
        };
        assert_eq!(fs::read(inputs.at(file)).unwrap(), b"being written", "{locked}");
        drop(user);
        let output = inputs.run(arguments);
        assert!(text(&output).contains("/nowhere/kvm"), "{locked}: {}", text(&output));
    }
}

#[test]
fn a_directory_that_cannot_be_written_to_is_told_before_the_run() {
    let inputs = Inputs::new();
    let Some(mounted) = Mounted::read_only() else { return };
    for (option, name) in [
        ("--report-dir", "report"),
        ("--report-dir", ""),
        ("--record", "run.rec"),
        ("--serial", "serial.txt"),
        ("--dump-on-violation", "v.dmp"),
    ] {
        let path = mounted.path().join(name);
        let mut arguments = vec![option, path.to_str().unwrap()];
        if option != "--report-dir" {
            arguments.extend(["--report-dir", "other"]);
        }
        let output = inputs.run(&arguments);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(5), "{option}: {said}");
        assert!(
            said.contains("Read-only file system") && said.contains(path.to_str().unwrap()),
            "{option}: {said}"
        );
    }
}

/// Each command that prints, and what it prints to.
#[test]
fn standard_output_that_cannot_be_written_is_told_and_one_that_nobody_reads_is_not() {
    let driver = images().join("miniports/vdisk-ok.sys");
    let Some(full) = Mounted::full() else { return };
    for arguments in [
        &["symbols", driver.to_str().unwrap()][..],
        &["doctor"],
        &["--help"],
        &["run", "--help"],
    ] {
        let run = |stdout: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_storlock"));
            let child = command.args(arguments).stdout(stdout).stderr(Stdio::piped()).spawn();
            finish(child.unwrap())
        };
        let output = run(full.file("out").into());
        assert_eq!(output.status.code(), Some(5), "{arguments:?}: {}", text(&output));
        assert!(
            text(&output).contains("standard output"),
            "{arguments:?}: {}",
            text(&output)
        );
        let usual = run(Stdio::null()).status.code();
        let output = run(outlets::closed_pipe());
        assert_eq!(output.status.code(), usual, "{arguments:?}: {}", text(&output));
        assert_eq!(text(&output), "", "{arguments:?}");
    }
}

#[test]
fn a_usage_error_that_nobody_reads_is_one_all_the_same() {
    let run = Command::new(env!("CARGO_BIN_EXE_storlock"))
        .args(["run", "--cpus", "none"])
        .stderr(outlets::closed_pipe())
        .spawn();
    assert_eq!(finish(run.unwrap()).status.code(), Some(2));
}

#[test]
fn a_pipe_that_nobody_opens_is_waited_for_until_the_time_limit_or_a_signal() {
    let inputs = Inputs::new();
    mkfifo(&inputs.at("pipe"));
    let start = |limit: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_storlock"));
        command.current_dir(inputs.directory.path());
        command.args([
            "run",
            "--driver",
            "x.sys",
            "--report-dir",
            "r",
            "--record",
            "pipe",
            "--time-limit",
            limit,
        ]);
        command.env("STORLOCK_IMAGES", images()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let began = Instant::now();
    let output = finish(start("2s"));
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(began.elapsed() < Duration::from_secs(2) + outlets::SLACK);
    assert!(text(&output).contains("nobody has opened"), "{}", text(&output));
    let child = start("500s");
    std::thread::sleep(Duration::from_secs(2));
    let began = Instant::now();
    outlets::signal(&child, "INT");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert!(text(&output).contains("nothing was run"), "{}", text(&output));
    assert!(began.elapsed() < outlets::SLACK, "{:?}", began.elapsed());
}

#[test]
fn an_input_that_is_a_pipe_is_waited_for_until_the_time_limit_and_read_if_somebody_writes() {
    let inputs = Inputs::new();
    mkfifo(&inputs.at("pipe.sys"));
    let start = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_storlock"));
        command.current_dir(inputs.directory.path()).args(arguments);
        command.env("STORLOCK_IMAGES", images()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let ends = ["--report-dir", "r", "--time-limit", "1s"];
    for named in [
        &["run", "--driver", "./pipe.sys"][..],
        &["run", "--driver", "x.sys", "--load", "pipe.sys"],
        &["run", "--driver", "x.sys", "--port-driver", "pipe.sys"],
        &["run", "--firmware", "pipe.sys"],
        &["run", "--firmware", "pipe.sys", "--driver", "some.sys"],
    ] {
        let began = Instant::now();
        let output = finish(start(&[named, &ends].concat()));
        assert_eq!(output.status.code(), Some(5), "{named:?}: {}", text(&output));
        assert!(text(&output).contains("nobody has written it"), "{}", text(&output));
        assert!(began.elapsed() < Duration::from_secs(1) + outlets::SLACK, "{named:?}");
    }
    // Small, or looked at twice, so that a pipe is of no use.
    for named in [
        &["run", "--driver", "x.sys", "--kernel", "pipe.sys"][..],
        &["run", "--driver", "x.sys", "--registry", "pipe.sys"],
        &["run", "--spec", "pipe.sys"],
        &["replay", "pipe.sys"],
    ] {
        let began = Instant::now();
        let more = if named[0] == "run" { &ends[..] } else { &[] };
        let output = finish(start(&[named, more].concat()));
        assert_eq!(output.status.code(), Some(5), "{named:?}: {}", text(&output));
        assert!(text(&output).contains("no regular file"), "{}", text(&output));
        assert!(began.elapsed() < outlets::SLACK, "{named:?}");
    }
    let child = start(&[
        "run",
        "--driver",
        "./pipe.sys",
        "--report-dir",
        "r",
        "--time-limit",
        "60s",
    ]);
    // Opened once for each: the writer waits for the program.
    fs::write(inputs.at("pipe.sys"), b"MZ, but nothing else").unwrap();
    let output = finish(child);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(!text(&output).contains("nobody has written"), "{}", text(&output));
    assert!(
        text(&output).contains("cannot use ./pipe.sys as the driver under test"),
        "{}",
        text(&output)
    );
}

/// With few file descriptors something cannot be opened: which one depends on how many there are.
#[test]
fn a_low_limit_on_open_files_is_told_by_a_sentence() {
    let inputs = Inputs::new();
    for limit in 4..40 {
        let script = format!(
            "ulimit -n {limit}; exec \"$0\" run --driver x.sys --report-dir r --time-limit 1s --append 'ops=1 threads=1'"
        );
        let run = Command::new("sh")
            .current_dir(inputs.directory.path())
            .args(["-c", &script, env!("CARGO_BIN_EXE_storlock")])
            .env("STORLOCK_IMAGES", images())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let output = finish(run.unwrap());
        let code = output
            .status
            .code()
            .unwrap_or_else(|| panic!("{limit}: {:?}", output.status));
        let said = text(&output);
        assert!(!said.contains("panicked"), "{limit}: {said}");
        if code == 5 {
            assert!(said.contains("error: "), "{limit}: {said}");
        } else {
            // Enough of them.
            assert!(
                limit > 8 && !inputs.at("r/report.json").metadata().unwrap().is_dir(),
                "{limit}: {said}"
            );
            return;
        }
    }
}
