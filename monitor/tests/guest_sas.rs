//! sas-ok and its bugs on the SAS controller: data, faults as the driver sees them, every bug at its place, several disks,
//! and beside NVMe. Needs a usable /dev/kvm, of whatever kind.
#![allow(clippy::print_stdout, reason = "what a test measured is shown on demand")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use serde_json::Value;
use support::zoo::{assert_found_alone, bug, plain_bugs};
use support::{
    Run, assert_counts_agree, assert_nothing_found, assert_replays_to_the_same_report, images, run, run_counted,
    violations,
};

const DISK: [&str; 2] = ["--disk", "mem:16M,controller=sas"];
/// Bug checks of the workload: a command failed for good.
const IO_FAILED: u64 = 0x0d15_c002;

fn fast() -> bool {
    std::env::var("STORLOCK_TEST_PLATFORM").is_ok_and(|platform| platform == "svm")
}

fn run_sas(miniport: &str, settings: &str, more: &[&str]) -> Run {
    let mut arguments = vec!["--seed", "7", "--append", settings];
    if !more.contains(&"--disk") {
        arguments.extend(DISK);
    }
    arguments.extend(more);
    run(miniport, &arguments)
}

/// Seconds after which a command is given up: long enough for one on a busy machine.
fn impatient() -> String {
    format!("ops=16 threads=2 timeout={}", if fast() { 20 } else { 4 })
}

fn run_with(faults: &[&str]) -> Run {
    let gives_up = faults.iter().any(|fault| fault.starts_with("drop:"));
    let settings = if gives_up {
        impatient()
    } else {
        "ops=16 threads=2".to_owned()
    };
    let faults: Vec<&str> = faults.iter().flat_map(|fault| ["--fault", fault]).collect();
    run_sas("sas-ok", &settings, &faults)
}

#[test]
fn guest_a_reply_that_never_comes_is_told_with_who_has_it() {
    let waits = "ops=16 threads=2 timeout=600";
    let run = run_sas(
        "sas-ok",
        waits,
        &["--fault", "drop:write,after=3", "--time-limit", "20s"],
    );
    assert_eq!(run.code(), 3, "{run}");
    let told = &run.report()["in_flight"]["controllers"][0];
    let requests = told["outstanding"].as_array().unwrap();
    let lost: Vec<_> = requests
        .iter()
        .filter(|one| one["with"] == "dropped_by_fault")
        .collect();
    assert_eq!((told["controller"].as_str(), lost.len()), (Some("sas0"), 1), "{told:#}");
    assert_eq!(
        (&lost[0]["command"], &lost[0]["queue"]),
        (&"write".into(), &0.into()),
        "{told:#}"
    );
    assert!(lost[0]["lba"].is_u64() && lost[0]["posted_ms"].is_null(), "{told:#}");
}

fn injected(run: &Run) -> Vec<u64> {
    let report = run.report();
    let faults = report["faults"].as_array().unwrap().iter();
    faults.map(|fault| fault["injected"].as_u64().unwrap()).collect()
}

#[track_caller]
fn assert_saw(run: &Run, line: &str) {
    assert!(run.serial().contains(line), "the guest did not say `{line}`: {run}");
}

#[test]
fn guest_sas_ok_serves_its_disk_by_each_kind_of_interrupt() {
    for (interrupts, told) in [
        ("msix", "sas: interrupts by message"),
        ("msi", "sas: interrupts by message"),
        ("intx", "sas: interrupts by line"),
    ] {
        let run = run_sas("sas-ok", "ops=24 threads=3", &["--interrupts", interrupts]);
        assert_nothing_found(&run);
        assert_saw(&run, told);
        assert_saw(&run, "flushes=3 unmaps=3 expected-failures=3 unsupported=0");
    }
}

#[test]
fn guest_sas_disks_of_one_controller_are_all_served() {
    let disks = [
        "--disk",
        "mem:16M,controller=sas,target",
        "--disk",
        "mem:8M,target=1",
        "--disk",
        "mem:4M,target=2",
    ];
    let run = run_sas("sas-ok", "ops=12 threads=2", &disks);
    assert_nothing_found(&run);
    assert_saw(&run, "workload: PASS seed=7 disks=3");
}

/// Each driver takes the controller that is its own, whichever is asked first, and only the target's calls are judged.
#[test]
fn guest_nvme_and_sas_in_one_guest_are_each_served_by_their_driver() {
    for (target, other, disks) in [
        (
            "sas-ok",
            "nvme-ok",
            ["mem:16M,controller=sas,target", "mem:16M,controller=nvme"],
        ),
        (
            "nvme-ok",
            "sas-ok",
            ["mem:16M,controller=nvme,target", "mem:16M,controller=sas"],
        ),
    ] {
        let other = images().join("miniports").join(format!("{other}.sys"));
        let run = run_sas(
            target,
            "ops=8 threads=2",
            &[
                "--disk",
                disks[0],
                "--disk",
                disks[1],
                "--load",
                other.to_str().unwrap(),
            ],
        );
        assert_nothing_found(&run);
        assert_saw(&run, "workload: PASS seed=7 disks=2");
    }
}

/// What another driver does wrong is told and not judged, also by routines that both use.
#[test]
fn guest_bug_of_the_sas_driver_beside_the_target_is_not_the_targets() {
    let other = images().join("miniports/sas-release-twice.sys");
    let disks = ["mem:16M,controller=nvme,target", "mem:16M,controller=sas"];
    let run = run_sas(
        "nvme-ok",
        "ops=8 threads=2",
        &[
            "--disk",
            disks[0],
            "--disk",
            disks[1],
            "--load",
            other.to_str().unwrap(),
        ],
    );
    let report = run.report();
    assert_eq!(
        (run.code(), report["outcome"].as_str()),
        (0, Some("completed")),
        "{run}"
    );
    assert_saw(&run, "workload: PASS seed=7 disks=2");
    let mut callers = violations(&report)
        .iter()
        .map(|violation| violation["caller"]["module"].as_str());
    assert!(callers.all(|module| module == Some("sas-release-twice.sys")), "{run}");
}

/// A fault, what the driver says of it, and whether the workload passes.
type Row = (&'static [&'static str], &'static [&'static str]);

/// Faults that the driver gets over.
const SURVIVED: &[Row] = &[
    (
        &["fail:read,after=4,count=2"],
        &["sas: command 0x28 failed: SCSI status 0x2, IOCStatus 0x45"],
    ),
    (
        &["fail:write,after=2,status=0x02031100"],
        &["failed: SCSI status 0x2, IOCStatus 0x45"],
    ),
    (
        &["fail:write,after=2,status=0x08"],
        &["failed: SCSI status 0x8, IOCStatus 0x45"],
    ),
    (
        &["fail:write,after=2,status=0x28"],
        &["failed: SCSI status 0x28, IOCStatus 0x45"],
    ),
    (
        &["fail:write,after=2,status=0x40"],
        &["failed: SCSI status 0x40, IOCStatus 0x45"],
    ),
    (
        &["fail:write,after=2,count=2,status=0x8000004b"],
        &["failed: SCSI status 0x0, IOCStatus 0x4b"],
    ),
    (&["delay:io,after=30,count=3,for=200ms"], &[]),
    (&["duplicate:io,after=40,count=2"], &["which is not outstanding"]),
    (&["stray:io,after=40,count=2"], &["which is not outstanding"]),
    (
        &["fatal:io,after=40"],
        &["sas: the IOC is in FAULT state, code 0x81ff", "sas: the IOC was reset"],
    ),
    (
        &["fatal:request-queue,after=40"],
        &["sas: the IOC is in FAULT state, code 0x81ff", "sas: the IOC was reset"],
    ),
    (
        &["remove:write,after=3,for=2s"],
        &["sas: target 0 is missing", "sas: target 0 is there"],
    ),
    (
        &["drop:write,after=3"],
        &[
            "timed out: function 0x0",
            "sas: task management of target 0: IOCStatus 0x0, response 0x0",
            "storport: reset (function 0x20) completed with SRB status 0x1",
        ],
    ),
    (
        &["drop:request-queue,after=40"],
        &["timed out: function 0x0", "completed with SRB status 0x1"],
    ),
    (
        &["drop:write,after=3", "fail:lun-reset"],
        &[
            "sas: task management of target 0: IOCStatus 0x4a, response 0x5",
            "storport: reset (function 0x13) completed with SRB status 0x1",
        ],
    ),
    (
        &["drop:write,after=3", "fail:lun-reset", "fail:target-reset"],
        &["storport: reset of bus 0", "sas: the IOC was reset"],
    ),
];

#[test]
fn guest_sas_faults_are_seen_by_the_driver_as_intended() {
    for (faults, lines) in SURVIVED {
        let run = run_with(faults);
        assert_nothing_found(&run);
        for line in *lines {
            assert_saw(&run, line);
        }
        assert!(injected(&run).iter().all(|&count| count > 0), "{run}");
    }
}

#[test]
fn guest_sas_disk_that_does_not_come_back_is_given_up() {
    let run = run_with(&["remove:write,after=3"]);
    assert_eq!(run.code(), 3, "{run}");
    assert_eq!(
        run.report()["end"]["bug_check"]["code"].as_u64(),
        Some(IO_FAILED),
        "{run}"
    );
    assert_saw(&run, "sas: target 0 is missing");
    assert_saw(&run, "the driver refused it (SRB status 0x8");
    assert!(violations(&run.report()).is_empty(), "{run}");
}

#[test]
fn guest_sas_bugs_are_found_at_their_places() {
    for bug in plain_bugs(&["sas"]) {
        let run = run_sas(&bug.image, "ops=8 threads=2", &[]);
        assert_found_alone(bug, &run);
        assert_saw(&run, "workload: PASS");
    }
}

/// A lock that is held for ever hangs the guest: the run ends where that is certain, and the report says why.
#[test]
fn guest_sas_bugs_that_hang_are_found_at_their_places() {
    let limit = ["--time-limit", if fast() { "60s" } else { "40s" }];
    let run = run_sas("sas-acquire-twice", "ops=8 threads=2", &limit);
    assert_found_alone(bug("sas-acquire-twice"), &run);
    assert_eq!(run.report()["end"]["kind"], "deadlock", "{run}");
    let run = run_sas("sas-handle-for-two-locks", "ops=8 threads=2", &limit);
    let report = run.report();
    assert_eq!(run.code(), 1, "{run}");
    let first: &Value = &violations(&report)[0];
    assert_eq!(
        (first["rule"].as_str(), first["cause"].as_str()),
        (Some("StorPortSpinLock4"), Some("released_twice")),
        "{run}"
    );
}

#[test]
fn guest_sas_recording_gives_the_same_report() {
    let directory = tempfile::tempdir().unwrap();
    let recording = directory.path().join("run.rec");
    let run = run_sas(
        "sas-release-twice",
        "ops=8 threads=2",
        &["--record", recording.to_str().unwrap()],
    );
    assert_eq!(run.code(), 1, "{run}");
    assert_replays_to_the_same_report(&run, &recording);
}

#[test]
#[ignore = "runs for minutes"]
fn guest_sas_no_false_finding_in_a_million_calls() {
    let (wanted, settings) = if fast() {
        (1_000_000, "ops=500 threads=8 depth=4")
    } else {
        println!("this test platform is not known to be fast (STORLOCK_TEST_PLATFORM is not svm): few calls only");
        (10_000, "ops=100 threads=3")
    };
    let (mut calls, mut seed) = (0, 0);
    while calls < wanted {
        seed += 1;
        let text = seed.to_string();
        let mut arguments = vec!["--seed", &text, "--append", settings, "--time-limit", "590s"];
        arguments.extend(DISK);
        let run = run_counted("sas-ok", &arguments);
        assert_nothing_found(&run);
        calls += assert_counts_agree(&run).values().sum::<u64>();
        println!("{calls} calls in {seed} runs");
    }
}
