//! The built binary on the guest images that come with the project: needs a usable /dev/kvm, of whatever kind.
//!
//! `STORLOCK_IMAGES` names the directory of the images; without it they are built. `STORLOCK_TEST_PLATFORM` is `svm` in the lab,
//! where there is time for more operations than on a KVM that interprets every instruction.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::zoo::plain_bugs;
use support::{
    LIMIT, Run, assert_counts_agree, assert_found_once_at_its_place, assert_nothing_found,
    assert_replays_to_the_same_report, assert_same_wherever_it_was_loaded, assert_trace_replays_to_the_same_violations,
    command, finish, images, run, run_counted, signature,
};

#[test]
fn guest_correct_miniports_complete_and_their_data_is_right() {
    for miniport in ["vdisk-ok", "nvme-ok"] {
        let run = run(miniport, &["--seed", "3", "--append", "ops=24 threads=2"]);
        assert_nothing_found(&run);
    }
}

#[test]
fn guest_a_controller_with_sixteen_namespaces_runs() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let second = format!("{},namespace", image.path().display());
    let mut arguments = vec!["--seed", "3", "--append", "ops=8 threads=1", "--disk", "mem:64M"];
    arguments.extend(["--disk", &second]);
    arguments.extend(["--disk", "mem:1M,namespace"].repeat(14));
    let run = run("nvme-ok", &arguments);
    assert_nothing_found(&run);
}

#[test]
fn guest_kernel_passes_its_self_test() {
    let run = run("vdisk-ok", &["--seed", "3", "--append", "selftest=1"]);
    assert_eq!(run.code(), 0, "{run}");
    assert!(run.serial().contains("selftest: passed"), "{run}");
}

#[test]
fn guest_each_bug_is_found_once_at_its_place() {
    for bug in plain_bugs(&["vdisk", "nvme"]) {
        let mut signatures = Vec::new();
        for seed in ["5", "6"] {
            let run = run(&bug.image, &["--seed", seed, "--append", "ops=8 threads=2"]);
            assert_found_once_at_its_place(bug, &run);
            signatures.push(signature(&run));
        }
        assert_same_wherever_it_was_loaded(&bug.image, &signatures);
    }
}

#[test]
fn guest_every_call_is_counted_as_the_guest_counts_it() {
    for miniport in ["vdisk-ok", "nvme-ok"] {
        let run = run_counted(miniport, &["--seed", "11", "--append", "ops=24 threads=3"]);
        assert_eq!(run.code(), 0, "{run}");
        assert!(assert_counts_agree(&run).len() >= 2, "{miniport}: {run}");
        let cost = &run.report()["cost"];
        assert!(
            cost["handler_ns"]["count"].as_u64() >= cost["hits"].as_u64(),
            "every hit was timed: {run}"
        );
    }
}

#[test]
fn guest_a_recording_and_a_trace_replay_to_the_same_report() {
    let files = tempfile::tempdir().unwrap();
    let recording = files.path().join("run.rec");
    let run = run(
        "vdisk-release-without-acquire",
        &[
            "--seed",
            "2",
            "--append",
            "ops=4 threads=2",
            "--record",
            recording.to_str().unwrap(),
        ],
    );
    assert_eq!(run.code(), 1, "{run}");
    assert_replays_to_the_same_report(&run, &recording);
    assert_trace_replays_to_the_same_violations(&run);
}

#[test]
fn guest_that_does_not_end_in_time_is_a_hang_with_the_processors_shown() {
    let run = run(
        "vdisk-ok",
        // A busy machine is to have its kernel by then.
        &["--time-limit", "8s", "--append", "ops=100000000 threads=2"],
    );
    assert_eq!(run.code(), 3, "{run}");
    let report = run.report();
    assert_eq!(report["end"]["kind"], "time_limit", "{run}");
    assert_eq!(report["end"]["processors"].as_array().unwrap().len(), 2, "{run}");
    assert!(
        report["end"]["processors"][0]["location"]["module"].is_string(),
        "{run}"
    );
}

#[test]
fn guest_that_ignores_its_power_button_is_stopped_after_its_grace() {
    let run = run(
        "vdisk-ok",
        &[
            "--time-limit",
            "3s",
            "--shutdown-grace",
            "1s",
            "--append",
            "ops=100000000 threads=2",
        ],
    );
    assert_eq!(run.code(), 3, "{run}");
    let report = run.report();
    assert_eq!(report["end"]["kind"], "time_limit", "{run}");
    let told = "the power button was pressed at the time limit: the guest did not shut down in time";
    assert!(report["end"]["detail"].as_str().unwrap().contains(told), "{run}");
    assert!(report["run"]["duration_ms"].as_u64().unwrap() >= 4000, "{run}");
}

/// Starts a run that does not end by itself and waits until its workload runs.
fn start_endless(directory: &Path, arguments: &[&str]) -> Child {
    let child = command(directory, "nvme-ok", &["--append", "ops=100000000 threads=2"])
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let serial = directory.join("report/serial.log");
    let began = Instant::now();
    while !fs::read_to_string(&serial)
        .unwrap_or_default()
        .contains("workload: disk")
        && began.elapsed() < LIMIT
    {
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

fn interrupt(child: Child) -> Output {
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    finish(child)
}

/// Name and seccomp mode (0 off, 2 filter) of every thread of a process.
fn seccomp_modes(process: u32) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks
        .map(|task| {
            let read = |name: &str| fs::read_to_string(task.as_ref().unwrap().path().join(name)).unwrap();
            let status = read("status");
            let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
            (read("comm").trim().to_owned(), mode.unwrap().trim().to_owned())
        })
        .collect()
}

#[test]
fn guest_runs_limited_with_everything_logged() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = command(
        directory.path(),
        "nvme-ok",
        &["--seed", "3", "--append", "ops=4 threads=1"],
    );
    let log = directory.path().join("log");
    command
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .env("RUST_LOG", "trace");
    let output = finish(command.spawn().unwrap());
    let run = Run { directory, output };
    assert_nothing_found(&run);
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("nvme-ok.sys at 0x"), "{text}");
}

#[test]
fn guest_runs_with_every_thread_limited_unless_told_otherwise() {
    for (arguments, mode) in [(&[][..], "2"), (&["--no-sandbox"][..], "0")] {
        let directory = tempfile::tempdir().unwrap();
        let recording = directory.path().join("run.rec");
        let arguments = [arguments, &["--record", recording.to_str().unwrap()]].concat();
        let child = start_endless(directory.path(), &arguments);
        let modes = seccomp_modes(child.id());
        let output = interrupt(child);
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        for name in [
            "storlock",
            "vcpu0",
            "vcpu1",
            "coordinator",
            "nvme0",
            "trace",
            "recording",
            "signals",
        ] {
            assert!(modes.iter().any(|(thread, _)| thread == name), "{name}: {modes:?}");
        }
        assert!(modes.iter().all(|(_, found)| found == mode), "{modes:?}");
    }
}

#[test]
fn guest_interrupted_leaves_a_partial_report() {
    let directory = tempfile::tempdir().unwrap();
    let child = start_endless(directory.path(), &[]);
    let run = Run {
        output: interrupt(child),
        directory,
    };
    assert_eq!(run.code(), 130, "{run}");
    let report = run.report();
    assert_eq!(report["end"]["kind"], "interrupted", "{run}");
    assert!(report["watch"]["armed_at"].as_u64().is_some(), "{run}");
}

#[test]
fn guest_interrupted_has_its_power_button_pressed_first() {
    let directory = tempfile::tempdir().unwrap();
    let child = start_endless(directory.path(), &["--shutdown-grace", "1s"]);
    let run = Run {
        output: interrupt(child),
        directory,
    };
    assert_eq!(run.code(), 130, "{run}");
    let report = run.report();
    assert_eq!(report["end"]["kind"], "interrupted", "{run}");
    let told = "the power button was pressed when the run was interrupted";
    assert!(report["end"]["detail"].as_str().unwrap().contains(told), "{run}");
}

#[test]
fn guest_run_whose_disk_fills_up_says_so_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let inner = command(
        directory.path(),
        "vdisk-ok",
        &["--seed", "4", "--append", "ops=40 threads=2"],
    );
    // A limit on the size of files stands in for the full disk: the same error path, and no mount.
    let mut outer = Command::new("bash");
    outer
        .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$@\"", "bash"])
        .arg(inner.get_program());
    outer
        .args(inner.get_args())
        .env("STORLOCK_IMAGES", images())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let run = Run {
        output: finish(outer.spawn().unwrap()),
        directory,
    };
    assert_eq!(run.code(), 5, "{run}");
    assert!(run.serial().contains("workload: PASS"), "{run}");
    let trace = run.directory.path().join("report/events.trace");
    let mut replay = Command::new(env!("CARGO_BIN_EXE_storlock"));
    let replayed = finish(replay.arg("replay").arg(trace).stdout(Stdio::piped()).spawn().unwrap());
    let text = String::from_utf8_lossy(&replayed.stdout).into_owned();
    assert!(text.contains("the disk was full"), "{text}");
}

/// Runs vdisk-ok with `code` at its entry point.
fn run_with_entry_point(code: &[u8], arguments: &[&str]) -> Run {
    let mut bytes = fs::read(images().join("miniports/vdisk-ok.sys")).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let headers = word(0x3c);
    let (entry, section) = (word(headers + 40), headers + 24 + 240);
    // The code is in the first section: its address and its place in the file.
    let place = entry - word(section + 12) + word(section + 20);
    bytes[place..place + code.len()].copy_from_slice(code);
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("images")).unwrap();
    let driver = directory.path().join("images/odd.sys");
    fs::write(&driver, bytes).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_storlock"));
    command
        .args(["run", "--time-limit", "60s", "--format", "json", "--report-dir"])
        .arg(directory.path().join("report"));
    command
        .arg("--driver")
        .arg(driver)
        .args(arguments)
        .env("STORLOCK_IMAGES", images())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    Run {
        output: finish(command.spawn().unwrap()),
        directory,
    }
}

#[test]
fn guest_memory_is_read_after_a_triple_fault() {
    for seed in ["1", "2", "3"] {
        // push 0; push 0; lidt [rsp]; ud2
        let code = [0x6a, 0, 0x6a, 0, 0x0f, 0x01, 0x1c, 0x24, 0x0f, 0x0b];
        let run = run_with_entry_point(&code, &["--seed", seed, "--dump-export", "nt!KiLockCallCounters:1792"]);
        let report = run.report();
        assert_eq!(
            (run.code(), report["end"]["kind"].as_str()),
            (3, Some("triple_fault")),
            "{run}"
        );
        assert!(report["exports"][0]["at_end"].is_string(), "{run}");
        let vcpus: Vec<_> = report["end"]["processors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["vcpu"].as_u64())
            .collect();
        assert_eq!(vcpus, [Some(0), Some(1)], "{run}");
    }
}

#[test]
fn guest_instruction_that_this_kvm_cannot_execute_is_named_with_its_place() {
    // The driver's entry point begins with an instruction that a KVM without hardware virtualization does not know.
    let run = run_with_entry_point(&[0xf3, 0x48, 0x0f, 0xb8, 0xc1], &[]);
    let report = run.report();
    if report["end"]["kind"] != "internal_error" {
        // This KVM executes it, and what is left of the entry point does not work.
        return assert_ne!(run.code(), 5, "{run}");
    }
    assert_eq!(run.code(), 5, "{run}");
    let why = &report["conditions"][0]["why"];
    assert_eq!(why["kind"], "not_executable", "{run}");
    assert!(why["what"].as_str().unwrap().contains("popcnt rax,rcx"), "{why}");
    assert_eq!(why["at"]["module"], "odd.sys", "{why}");
}

/// What of a report is the same in every run of a description, however its processors interleave.
fn of_the_description(run: &Run) -> serde_json::Value {
    let report = run.report();
    let violations: Vec<_> = support::violations(&report)
        .iter()
        .map(|v| serde_json::json!([v["signature"], v["rule"], v["cause"], v["verdict"], v["caller"]]))
        .collect();
    let routines = report["watch"]["routines"].as_array().unwrap().iter();
    let watched: Vec<_> = routines.map(|routine| routine["address"].clone()).collect();
    let run = &report["run"];
    serde_json::json!({
        "outcome": report["outcome"], "exit_code": report["exit_code"], "conditions": report["conditions"],
        "end": report["end"]["kind"], "target": report["target"], "modules": report["modules"], "rules": report["rules"],
        "violations": violations, "watched": watched, "faults": report["faults"],
        "run": [run["seed"], run["cpus"], run["memory"], run["images"]],
    })
}

#[test]
fn guest_a_run_by_the_description_in_a_report_is_the_same_run() {
    let first = run(
        "vdisk-release-without-acquire",
        &[
            "--seed",
            "2",
            "--append",
            "ops=4 threads=2",
            "--fault",
            "delay:read,for=1ms",
        ],
    );
    assert_eq!(first.code(), 1, "{first}");
    let report = first.directory.path().join("report/report.json");
    let directory = tempfile::tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_storlock"))
        .args(["run", "--spec", "-", "--report-dir"])
        .arg(directory.path().join("report"))
        .env("STORLOCK_IMAGES", images())
        .stdin(fs::File::open(&report).unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let second = Run {
        output: finish(child),
        directory,
    };
    assert_eq!(of_the_description(&second), of_the_description(&first), "{second}");
    // But for where the report goes the descriptions are the same, and the command line needs neither of them.
    let spec = |run: &Run| {
        let mut spec = run.report()["run"]["spec"].clone();
        spec.as_object_mut().unwrap().remove("report_dir").unwrap();
        spec
    };
    assert_eq!(spec(&second), spec(&first));
    let again = second.report()["run"]["command_line"].to_string();
    assert!(
        again.contains("delay:read,for=1ms") && !again.contains("--spec"),
        "{again}"
    );
}

#[test]
fn guest_whose_monitor_is_killed_leaves_what_was_seen() {
    let directory = tempfile::tempdir().unwrap();
    let recording = directory.path().join("run.rec");
    let mut child = start_endless(directory.path(), &["--record", recording.to_str().unwrap()]);
    let trace = directory.path().join("report/events.trace");
    let size = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    let began = Instant::now();
    // Both grow while the run goes on.
    let (first, second) = (size(&trace), size(&recording));
    while size(&trace) <= first || size(&recording) <= second {
        assert!(began.elapsed() < LIMIT);
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for file in [&trace, &recording] {
        let output = Command::new(env!("CARGO_BIN_EXE_storlock"))
            .args(["replay", "--format", "json"])
            .arg(file)
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(
            report["cost"]["hits"].as_u64() > Some(0),
            "{}: {report}",
            file.display()
        );
    }
}
