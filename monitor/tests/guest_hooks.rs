//! Hooks in the driver's imports (`--hooks imports`) against breakpoints and against the guest's own counters. Needs a usable
//! /dev/kvm, of whatever kind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::{
    Run, assert_counts_agree, assert_nothing_found, assert_replays_to_the_same_report,
    assert_trace_replays_to_the_same_violations, run, run_counted, violations,
};

/// More operations than a KVM has time for that interprets every instruction.
fn many(append: &'static str) -> &'static str {
    let fast = std::env::var_os("STORLOCK_TEST_PLATFORM").is_some_and(|platform| platform == "svm");
    if fast { append } else { "ops=24 threads=2" }
}

/// What the report says of the hooks.
#[track_caller]
fn hooks(run: &Run) -> Value {
    let report = run.report();
    let notes = report["note_data"].as_array().unwrap();
    let told = notes.iter().find(|note| note["kind"] == "import_hooks");
    told.unwrap_or_else(|| panic!("nothing was hooked: {run}")).clone()
}

fn number(hooks: &Value, field: &str) -> u64 {
    hooks[field].as_u64().unwrap()
}

fn signatures(run: &Run) -> BTreeSet<(String, String)> {
    let report = run.report();
    let of = |finding: &Value| {
        let id = finding["signature"]["id"].as_str().unwrap().to_owned();
        (id, finding["verdict"].as_str().unwrap().to_owned())
    };
    violations(&report).iter().map(of).collect()
}

#[test]
fn guest_hooks_see_every_call_that_the_guest_counts() {
    for miniport in ["vdisk-ok", "nvme-ok"] {
        let append = many("ops=4000 threads=3");
        let run = run_counted(miniport, &["--seed", "11", "--append", append, "--hooks", "imports"]);
        assert_nothing_found(&run);
        let seen = assert_counts_agree(&run);
        assert!(seen.len() >= 2, "{miniport}: {run}");
        let hooks = hooks(&run);
        let calls: u64 = seen.values().sum();
        assert_eq!(number(&hooks, "unfinished"), 0, "{run}");
        assert!(
            number(&hooks, "calls") * 2 > calls,
            "{miniport}: most calls were written: {hooks} of {calls}"
        );
    }
}

#[test]
fn guest_hooks_find_what_breakpoints_find() {
    for bug in [
        "vdisk-release-without-acquire",
        "vdisk-release-other-lock",
        "vdisk-acquire-twice",
        "vdisk-queued-released-twice",
        "nvme-release-twice",
        "nvme-dpc-lock-under-interrupt-lock",
        "nvme-ok",
    ] {
        let arguments = ["--seed", "5", "--append", "ops=8 threads=2"];
        let breakpoints = run(bug, &arguments);
        let hooked = run(bug, &[&arguments[..], &["--hooks", "imports"]].concat());
        assert_eq!(hooked.code(), breakpoints.code(), "{bug}: {hooked}");
        assert_eq!(
            signatures(&hooked),
            signatures(&breakpoints),
            "{bug}: {hooked}\n{breakpoints}"
        );
        assert!(number(&hooks(&hooked), "exits") > 0, "{bug}: {hooked}");
    }
}

#[test]
fn guest_a_hooked_run_replays_from_its_recording_and_its_trace() {
    let files = tempfile::tempdir().unwrap();
    let recording = files.path().join("run.rec");
    let run = run(
        "vdisk-release-without-acquire",
        &[
            "--seed",
            "2",
            "--append",
            "ops=24 threads=2",
            "--hooks",
            "imports",
            "--record",
            recording.to_str().unwrap(),
        ],
    );
    assert_eq!(run.code(), 1, "{run}");
    assert!(number(&hooks(&run), "calls") > 0, "{run}");
    assert_replays_to_the_same_report(&run, &recording);
    assert_trace_replays_to_the_same_violations(&run);
}
