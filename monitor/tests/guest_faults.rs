//! Fault plans on the guest images that come with the project: what the driver saw of each kind of fault, what became of
//! the data, and what the report says.
//!
//! Each run ends by itself, long before its time limit. Where a completion never comes the guest's command times out, its
//! port driver resets the controller, and the workload sends again what was lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::fs;

use support::{Run, assert_nothing_found, assert_replays_to_the_same_report, run, violations};

/// Bug checks of the workload: a command failed for good, no disk was found.
const IO_FAILED: u64 = 0x0d15_c002;
const NO_DISK: u64 = 0x0d15_c003;

fn run_with(miniport: &str, faults: &[&str], more: &[&str]) -> Run {
    let mut arguments = vec!["--seed", "7", "--time-limit", "300s"];
    if !more.contains(&"--append") {
        arguments.extend(["--append", "ops=16 threads=2"]);
    }
    for fault in faults {
        arguments.extend(["--fault", fault]);
    }
    arguments.extend(more);
    run(miniport, &arguments)
}

/// How often each fault of the plan was injected, in order.
fn injected(run: &Run) -> Vec<u64> {
    let report = run.report();
    let faults = report["faults"].as_array().unwrap().iter();
    faults.map(|fault| fault["injected"].as_u64().unwrap()).collect()
}

#[track_caller]
fn assert_saw(run: &Run, line: &str) {
    assert!(run.serial().contains(line), "the guest did not say `{line}`: {run}");
}

/// The retries of a workload that passed.
fn retries(run: &Run) -> u64 {
    let serial = run.serial();
    let (_, count) = serial
        .rsplit_once("retries=")
        .unwrap_or_else(|| panic!("no result: {run}"));
    count.split_whitespace().next().unwrap().parse().unwrap()
}

/// The guest gave up because of its data, and the report says so; whether it was the driver's fault is another matter.
#[track_caller]
fn assert_lost(run: &Run, bug_check: u64, why: &str) {
    let report = run.report();
    assert_eq!(report["end"]["bug_check"]["code"].as_u64(), Some(bug_check), "{run}");
    assert_saw(run, why);
}

#[test]
fn guest_a_failed_command_is_reported_by_the_driver_and_sent_again() {
    let run = run_with("nvme-ok", &["fail:read,after=4,count=2,status=0x281"], &[]);
    assert_nothing_found(&run);
    assert_saw(&run, "nvme: command 0x2 failed: status 0x2281");
    assert_eq!((injected(&run), retries(&run)), (vec![2], 2), "{run}");
    let text = fs::read_to_string(run.directory.path().join("report/report.txt")).unwrap();
    let line = "faults       fail:read,after=4,count=2,status=0x281: injected 2 times";
    assert!(text.contains(line), "{text}");
}

#[test]
fn guest_the_lock_call_sites_of_the_driver_are_known_and_those_of_the_error_path_reached_only_after_a_fault() {
    let plain = run_with("nvme-ok", &[], &[]);
    let failed = run_with("nvme-ok", &["fail:read,after=4,count=2,status=0x281"], &[]);
    for run in [&plain, &failed] {
        assert_nothing_found(run);
        let coverage = &run.report()["coverage"];
        let sites = coverage["sites"].as_array().unwrap();
        // Whatever was reached, the code has shown before.
        assert!(sites.iter().all(|site| site["found"] == "code"), "{coverage:#}");
        assert_eq!(coverage["open"], serde_json::json!([]), "{run}");
        let calls: u64 = sites.iter().map(|site| site["calls"].as_u64().unwrap()).sum();
        assert_eq!(
            Some(calls),
            driver_calls(run),
            "every call of the driver is at a site: {run}"
        );
        let reached: Vec<_> = sites.iter().filter(|site| site["state"] == "reached").collect();
        assert_eq!(coverage["totals"]["reached"].as_u64(), Some(reached.len() as u64));
        assert!(reached.len() > 2 && reached.len() < sites.len(), "{coverage:#}");
        let callbacks = reached.iter().flat_map(|site| site["paths"].as_array().unwrap());
        assert!(
            callbacks.clone().any(|path| path["callback"] == "HwStorStartIo"),
            "{coverage:#}"
        );
    }
    let after = |run: &Run| run.report()["coverage"]["totals"]["only_after_fault"].as_u64();
    assert_eq!(after(&plain), Some(0));
    assert!(after(&failed) > Some(0), "{failed}");
    let text = fs::read_to_string(failed.directory.path().join("report/report.txt")).unwrap();
    assert!(
        text.contains("lock call sites reached, ") && text.contains("after a fault only"),
        "{text}"
    );
}

#[test]
fn guest_a_request_that_never_comes_back_is_told_with_who_has_it() {
    // The guest waits longer than the run lasts.
    let waits = ["--append", "ops=16 threads=2 timeout=600", "--time-limit", "20s"];
    let fault = ["--seed", "7", "--fault", "drop:write,after=3"];
    let run = support::run("nvme-ok", &[&fault[..], &waits].concat());
    assert_eq!(run.code(), 3, "{run}");
    let told = &run.report()["in_flight"]["controllers"];
    let requests = told[0]["outstanding"].as_array().unwrap();
    let lost: Vec<_> = requests
        .iter()
        .filter(|one| one["with"] == "dropped_by_fault")
        .collect();
    assert_eq!(
        (told[0]["controller"].as_str(), lost.len()),
        (Some("nvme0"), 1),
        "{told:#}"
    );
    let lost = lost[0];
    assert_eq!(
        (&lost["command"], &lost["disk"]),
        (&"write".into(), &1.into()),
        "{told:#}"
    );
    assert!(
        lost["queue"].as_u64() > Some(0) && lost["lba"].is_u64() && lost["posted_ms"].is_null(),
        "{told:#}"
    );
    assert!(lost["fetched_ms"].as_u64() < Some(20_000), "{told:#}");
    let text = fs::read_to_string(run.directory.path().join("report/report.txt")).unwrap();
    assert!(text.contains("a fault of the plan dropped its completion"), "{text}");
    // One that is given up is cut off by the driver's reset, and sent again.
    let settings = ["--append", "ops=16 threads=2 timeout=4"];
    let run = run_with("nvme-ok", &["drop:write,after=3"], &settings);
    let told = &run.report()["in_flight"]["controllers"][0];
    let cut_off = told["reset"]["outstanding"].as_array().unwrap();
    assert!(cut_off.iter().any(|one| one["with"] == "dropped_by_fault"), "{told:#}");
    assert_eq!(told["outstanding"], serde_json::json!([]), "{run}");
    // A guest whose requests all came back owes nobody anything.
    assert!(run_with("nvme-ok", &[], &[]).report()["in_flight"].is_null());
}

/// Lock calls that return to the driver.
fn driver_calls(run: &Run) -> Option<u64> {
    let report = run.report();
    let driver = report["target"]["name"].as_str()?;
    let calls = report["calls"]
        .as_array()?
        .iter()
        .filter(|call| call["module"] == driver);
    Some(calls.filter_map(|call| call["calls"].as_u64()).sum())
}

#[test]
fn guest_data_that_cannot_be_written_is_lost_and_the_workload_says_why() {
    let run = run_with("nvme-ok", &["fail:write,after=6,count=all,status=0x280"], &[]);
    assert_lost(&run, IO_FAILED, "workload: LOST: command 0x");
    assert_saw(
        &run,
        "bytes: medium error (SRB status 0x84, sense 0x303) after 4 retries",
    );
    assert_eq!(run.code(), 3, "{run}");
    assert!(injected(&run)[0] >= 5, "{run}");
}

#[test]
fn guest_a_late_completion_is_only_late() {
    let run = run_with("nvme-ok", &["delay:io,after=3,count=3,for=200ms"], &[]);
    assert_nothing_found(&run);
    assert_eq!((injected(&run), retries(&run)), (vec![3], 0), "{run}");
}

#[test]
fn guest_a_completion_that_never_comes_ends_in_a_reset() {
    // Long enough for a command on a busy machine, where each of the lab's instructions is emulated.
    let svm = std::env::var("STORLOCK_TEST_PLATFORM").is_ok_and(|platform| platform == "svm");
    let settings = format!("ops=16 threads=2 timeout={}", if svm { 20 } else { 4 });
    let run = run_with("nvme-ok", &["drop:write,after=3"], &["--append", &settings]);
    assert_nothing_found(&run);
    assert_saw(&run, "storport: reset of bus 0");
    assert_saw(&run, "nvme: the controller was reset");
    assert!(injected(&run) == [1] && retries(&run) >= 1, "{run}");
}

#[test]
fn guest_completions_of_nothing_are_ignored_by_the_driver() {
    for (fault, line) in [
        ("duplicate:io,after=5,count=2", "which is not outstanding"),
        (
            "stray:io,after=5,count=2",
            "completion of command 0xfffe, which is not outstanding",
        ),
    ] {
        let run = run_with("nvme-ok", &[fault], &[]);
        assert_nothing_found(&run);
        assert_saw(&run, line);
        assert_eq!(run.serial().matches("which is not outstanding").count(), 2, "{run}");
        assert_eq!((injected(&run), retries(&run)), (vec![2], 0), "{run}");
    }
}

#[test]
fn guest_a_fatal_error_ends_in_a_reset() {
    let run = run_with("nvme-ok", &["fatal:write,after=3"], &[]);
    assert_nothing_found(&run);
    assert_saw(&run, "nvme: the controller reports a fatal error");
    assert_saw(&run, "nvme: the controller was reset");
    assert!(injected(&run) == [1] && retries(&run) >= 1, "{run}");
}

#[test]
fn guest_a_controller_that_dies_when_it_is_enabled_is_no_disk() {
    let run = run_with("nvme-ok", &["fatal:cc,count=all"], &[]);
    assert_lost(&run, NO_DISK, "");
    assert_eq!(run.code(), 3, "{run}");
}

#[test]
fn guest_media_that_become_read_only_lose_what_is_written_later() {
    let run = run_with("nvme-ok", &["read-only:write,after=6"], &[]);
    assert_lost(&run, IO_FAILED, "workload: LOST: command 0x");
    assert_saw(&run, "bytes: the medium is write protected");
    assert_eq!((run.code(), injected(&run)), (3, vec![1]), "{run}");
}

#[test]
fn guest_a_lost_doorbell_is_made_up_for() {
    // The second doorbell that is rung is the head of the admin completion queue; the next value of it says it all.
    let run = run_with("nvme-ok", &["drop:doorbell,after=1"], &[]);
    assert_nothing_found(&run);
    assert_eq!(injected(&run), [1], "{run}");
}

#[test]
fn guest_a_planned_fault_that_never_happens_is_no_success() {
    let run = run_with("nvme-ok", &["fail:compare", "fail:flush,after=1000"], &[]);
    let report = run.report();
    assert_eq!(
        (run.code(), report["outcome"].as_str()),
        (4, Some("inconclusive")),
        "{run}"
    );
    let conditions = report["conditions"].as_array().unwrap().iter();
    let why = conditions.map(|condition| &condition["why"]);
    let never: Vec<_> = why.filter(|why| why["kind"] == "fault_never_injected").collect();
    let [compare, flush] = never[..] else { panic!("{run}") };
    assert_eq!(
        (&compare["spec"], &compare["matched"]),
        (&"fail:compare".into(), &0.into())
    );
    assert_eq!(flush["spec"], "fail:flush,after=1000");
    assert!((1..1000).contains(&flush["matched"].as_u64().unwrap()), "{flush}");
    assert_saw(&run, "workload: PASS");
}

#[test]
fn guest_a_bug_on_the_error_path_is_found_where_a_fault_leads_to_it() {
    // The guest gives up in the first phase of the workload: without the fault no command would have failed by then.
    let fault = ["fail:write,after=4,count=all,status=0x280"];
    let run = run_with("nvme-release-on-error-path", &fault, &[]);
    let report = run.report();
    assert_eq!((run.code(), report["outcome"].as_str()), (1, Some("defect")), "{run}");
    let found = violations(&report);
    assert_eq!(found.len(), 1, "{run}");
    assert_eq!(found[0]["cause"], "release_without_acquire", "{run}");
    assert_eq!(
        found[0]["caller"]["symbol"][0].as_str().unwrap().split('.').next(),
        Some("FailRequest"),
        "{run}"
    );
    assert_lost(&run, IO_FAILED, "workload: LOST: command 0x");
}

#[test]
fn guest_faults_are_in_a_recording() {
    let files = tempfile::tempdir().unwrap();
    let recording = files.path().join("run.rec");
    let more = ["--record", recording.to_str().unwrap()];
    let run = run_with("nvme-release-on-error-path", &["fail:read,after=2,status=0x281"], &more);
    assert_eq!((run.code(), injected(&run)), (1, vec![1]), "{run}");
    assert_replays_to_the_same_report(&run, &recording);
}
