//! Drivers that were not adapted to the test guest: one that uses only mingw's headers, and odd ones that break the
//! port driver's contract. Each run ends in a clear verdict, in time. Needs a usable /dev/kvm, of whatever kind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::fs;

use serde_json::Value;
use support::{Run, assert_nothing_found, run};

const WORKLOAD: [&str; 4] = ["--seed", "3", "--append", "ops=8 threads=2"];
/// The code with which the odd miniport ends the system, and the number of the variant that does (`odd/variant.h`).
const ODD_BUG_CHECK: (u64, u64) = (0x0D15_C0DD, 4);
/// `STORAGE_MINIPORT_ERROR`: a miniport failed to complete a request.
const STORAGE_MINIPORT_ERROR: u64 = 0xF0;

fn run_odd(variant: &str, arguments: &[&str]) -> Run {
    let mut all = WORKLOAD.to_vec();
    all.extend(arguments);
    run(&format!("odd-{variant}"), &all)
}

/// As [`run_odd`], and requests time out after two seconds.
fn run_impatient(variant: &str) -> Run {
    let directory = tempfile::tempdir().unwrap();
    let registry = directory.path().join("parameters.reg");
    let key = format!(r"HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\odd-{variant}\Parameters");
    let text = format!("Windows Registry Editor Version 5.00\r\n\r\n[{key}]\r\n\"IoTimeoutValue\"=dword:00000002\r\n");
    fs::write(&registry, text).unwrap();
    run_odd(variant, &["--registry", registry.to_str().unwrap()])
}

fn run_beside(target: &str, other: &str) -> Run {
    let other = support::images().join("miniports").join(format!("{other}.sys"));
    let mut arguments = WORKLOAD.to_vec();
    arguments.extend(["--load", other.to_str().unwrap()]);
    run(target, &arguments)
}

fn count(text: &str, needle: &str) -> usize {
    text.matches(needle).count()
}

#[test]
fn guest_miniport_of_unmodified_ddk_headers_completes() {
    let run = run("ddk-ramdisk", &WORKLOAD);
    assert_nothing_found(&run);
}

#[test]
fn guest_timers_can_be_freed_at_dispatch_level_and_in_their_callback() {
    assert_nothing_found(&run_odd("frees-timers", &[]));
}

#[test]
fn guest_timers_answer_as_documented() {
    assert_nothing_found(&run_odd("times", &[]));
}

#[test]
fn guest_routines_for_a_bug_check_are_called_at_one() {
    let run = run_odd("cleans-up", &[]);
    assert_eq!(run.code(), 3, "{run}");
    let report = run.report();
    assert_eq!(report["end"]["bug_check"]["code"], ODD_BUG_CHECK.0, "{run}");
    assert_eq!(report["end"]["bug_check"]["parameters"][2], 0, "{run}");
    let serial = run.serial();
    let told: Vec<&str> = serial.lines().filter_map(|line| line.strip_prefix("odd: ")).collect();
    let expected = [
        "called at the bug check: 24 bytes, the first is 7, IRQL 15",
        "called for reason 2: 48 bytes, room for 4096",
    ];
    assert_eq!(told, expected, "{run}");
}

#[test]
fn guest_formatted_disk_of_short_commands_is_worked_on_within_its_limits() {
    let run = run_odd("formatted", &[]);
    assert_nothing_found(&run);
    let serial = run.serial();
    for line in [
        "READ(16) is refused",
        "disk 0: 2048 blocks, at most 32 a command",
        "disk 0 is not empty",
    ] {
        assert!(serial.contains(line), "{line}: {run}");
    }
}

/// What Windows tells a miniport beside commands: at the start the power settings that it wants to know, its capabilities and WMI registration are asked for, at
/// the end a control operation takes the place of the power request.
#[test]
fn guest_miniport_is_told_of_start_and_end_as_windows_does() {
    let run = run_odd("tells-controls", &[]);
    assert_nothing_found(&run);
    let serial = run.serial();
    let told: Vec<&str> = serial.lines().filter_map(|line| line.strip_prefix("odd: ")).collect();
    let expected = [
        "adapter control 0 at IRQL 0",
        "unit control 0 at IRQL 0",
        "adapter control 5 at IRQL 0",
        "power setting 0x0b2d69d7 is 0, 4 bytes",
        "adapter control 5 at IRQL 0",
        "power setting 0xdab60367 is 0, 4 bytes",
        "request function 0x25 at IRQL 0",
        "PnP action 0x9, 24 bytes",
        "request function 0x17 at IRQL 0",
        "WMI function 0xb, flags 0x1",
        "unit control 2 at IRQL 0",
        "request function 0x7 at IRQL 0",
        "unit control 3 at IRQL 0",
        "adapter control 6 at IRQL 0",
        "adapter control 1 at IRQL 0",
    ];
    assert_eq!(told, expected, "{run}");
}

/// Two miniports in one guest: each serves a disk, the locks of the one that is not under test are not judged.
#[test]
fn guest_other_miniport_is_served_and_not_judged() {
    let run = run_beside("nvme-ok", "vdisk-release-without-acquire");
    assert_nothing_found(&run);
    assert!(run.serial().contains("workload: PASS seed=3 disks=2"), "{run}");
}

#[test]
fn guest_target_beside_another_miniport_is_judged() {
    let run = run_beside("vdisk-release-without-acquire", "nvme-ok");
    assert_eq!(run.code(), 1, "{run}");
    assert!(run.serial().contains("workload: PASS seed=3 disks=2"), "{run}");
}

/// Why a run came to what it came.
fn reasons(report: &Value) -> Vec<&Value> {
    let conditions = report["conditions"].as_array().unwrap().iter();
    conditions.map(|condition| &condition["why"]).collect()
}

#[test]
fn guest_driver_that_hides_is_watched_as_before_and_never_completes() {
    for (variant, doubt, name, place) in [
        ("renames-itself", "entry_changed", "innocent.sys", "/listed/name"),
        ("leaves-the-list", "image_stays", "odd-leaves-the-list.sys", "/name"),
    ] {
        let run = run_odd(variant, &[]);
        let report = run.report();
        assert_eq!(
            (run.code(), report["outcome"].as_str()),
            (4, Some("inconclusive")),
            "{run}"
        );
        assert!(run.serial().contains("workload: PASS"), "{run}");
        let reasons = reasons(&report);
        let told = |why: &Value| why["doubt"] == doubt && why.pointer(place) == Some(&name.into());
        assert!(reasons.iter().any(|why| told(why)), "{reasons:?}");
        // Its calls are its own, before and after.
        let calls = report["calls"].as_array().unwrap().iter();
        let own: Vec<_> = calls
            .filter(|call| call["module"] == format!("odd-{variant}.sys"))
            .collect();
        assert!(!own.is_empty() && own.iter().all(|call| call["calls"] == 3), "{run}");
    }
}

#[test]
fn guest_unknown_function_code_is_refused_and_logged_once() {
    let run = run_odd("unknown-function", &[]);
    assert_nothing_found(&run);
    let line = "StorPortExtendedFunction: code 0xee is not implemented";
    assert_eq!(count(&run.serial(), line), 1, "{run}");
}

#[test]
fn guest_request_that_never_completes_is_reset_and_ends_in_a_bug_check() {
    let run = run_impatient("never-completes");
    assert_eq!(run.code(), 3, "{run}");
    let bug_check = &run.report()["end"]["bug_check"];
    assert_eq!(bug_check["code"], STORAGE_MINIPORT_ERROR, "{run}");
    assert_eq!(bug_check["parameters"][0], 1, "{run}");
    let serial = run.serial();
    assert!(serial.contains("timed out: function 0x0, operation code 0x35"), "{run}");
    assert!(serial.contains("storport: reset of bus 0"), "{run}");
}

#[test]
fn guest_request_that_comes_back_at_the_bus_reset_goes_on() {
    let run = run_impatient("completes-at-reset");
    assert_nothing_found(&run);
    assert_eq!(count(&run.serial(), "storport: reset of bus 0"), 1, "{run}");
}

#[test]
fn guest_driver_that_bug_checks_is_shown_on_the_stack() {
    let run = run_odd("bug-checks", &[]);
    assert_eq!(run.code(), 3, "{run}");
    let report = run.report();
    let bug_check = &report["end"]["bug_check"];
    assert_eq!(bug_check["code"], ODD_BUG_CHECK.0, "{run}");
    assert_eq!(bug_check["parameters"][0], ODD_BUG_CHECK.1, "{run}");
    assert!(
        stack_modules(&report).contains(&"odd-bug-checks.sys".to_owned()),
        "{run}"
    );
}

#[test]
fn guest_driver_that_loops_at_dispatch_level_is_a_hang_at_its_place() {
    // Enough for a slow test platform to get there; the run takes all of it.
    let run = run_odd("loops-at-dispatch", &["--time-limit", "40s"]);
    assert_eq!(run.code(), 3, "{run}");
    let report = run.report();
    assert_eq!(report["end"]["kind"], "time_limit", "{run}");
    let looping = report["end"]["processors"]
        .as_array()
        .unwrap()
        .iter()
        .any(|processor| processor["irql"] == 2 && processor["location"]["module"] == "odd-loops-at-dispatch.sys");
    assert!(looping, "{run}");
}

#[test]
fn guest_registry_file_that_is_not_one_is_said_and_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let registry = directory.path().join("parameters.reg");
    fs::write(&registry, "\0\u{1}[[[\n\"unfinished\n[HKEY_USERS\\x]\n").unwrap();
    let mut arguments = WORKLOAD.to_vec();
    arguments.extend(["--registry", registry.to_str().unwrap()]);
    let run = run("ddk-ramdisk", &arguments);
    assert_nothing_found(&run);
    let told = String::from_utf8_lossy(&run.output.stderr);
    assert_eq!(count(&told, "not understood and left out"), 3, "{run}");
    for line in 1..=3 {
        let numbered = format!("parameters.reg: line {line}: not understood");
        assert_eq!(count(&told, &numbered), 1, "{run}");
    }
}

/// The modules on the processors' stacks.
fn stack_modules(report: &Value) -> Vec<String> {
    let processors = report["end"]["processors"].as_array().unwrap();
    let frames = processors
        .iter()
        .flat_map(|processor| processor["stack"].as_array().unwrap());
    let module = |frame: &Value| frame["module"].as_str().map(str::to_owned);
    frames.filter_map(module).collect()
}
