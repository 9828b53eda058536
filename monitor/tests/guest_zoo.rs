//! The bugs that the miniports can be built with: each that zoo.toml lists is found under its rule, at its place, in a run of
//! the built binary. Needs a usable /dev/kvm, of whatever kind.
//!
//! `scripts/zoo` does the same with more seeds and writes docs/bug-zoo.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::collections::BTreeSet;

use support::zoo::{Bug, is_at_its_place, zoo};
use support::{Run, assert_nothing_found, images, run, violations};

/// Of a bug that not every run sees.
const SEEDS: [&str; 5] = ["1", "2", "3", "4", "5"];

fn run_with(bug: &Bug, seed: &str) -> Run {
    let mut arguments = vec!["--seed", seed, "--append", "ops=8 threads=2"];
    if bug.ends {
        // A guest that is stuck costs so much.
        let fast = std::env::var_os("STORLOCK_TEST_PLATFORM").is_some_and(|platform| platform == "svm");
        arguments.extend(["--time-limit", if fast { "20s" } else { "40s" }]);
    }
    arguments.extend(bug.arguments.iter().map(String::as_str));
    run(&bug.image, &arguments)
}

/// Whether the bug was found under its rule at its place.
fn is_found(bug: &Bug, run: &Run) -> bool {
    violations(&run.report())
        .iter()
        .any(|finding| is_at_its_place(bug, finding))
}

#[track_caller]
fn assert_found(bug: &Bug) {
    let seeds: &[&str] = if bug.turns { &SEEDS } else { &SEEDS[..1] };
    for (index, seed) in seeds.iter().enumerate() {
        let run = run_with(bug, seed);
        if !is_found(bug, &run) {
            assert!(index + 1 < seeds.len(), "{bug:?}: {run}");
            continue;
        }
        if bug.verdict == "semantic" {
            let report = run.report();
            assert_eq!(
                (run.code(), report["outcome"].as_str()),
                (1, Some("defect")),
                "{bug:?}: {run}"
            );
        }
        assert!(bug.ends || run.serial().contains("workload: PASS"), "{bug:?}: {run}");
        return;
    }
}

/// The bugs of one miniport, with or without those that not every run sees, but for those that have a test of their own.
#[track_caller]
fn assert_bugs_of(miniport: &str, turns: bool) {
    let bugs = zoo().iter().filter(|bug| bug.image.starts_with(miniport));
    let bugs: Vec<&Bug> = bugs.filter(|bug| bug.cause.is_none() && bug.turns == turns).collect();
    assert!(bugs.len() > 5, "{miniport}");
    for bug in bugs {
        if bug.missed.is_some() {
            let run = run_with(bug, SEEDS[0]);
            assert_ne!(run.code(), 0, "{bug:?}: {run}");
        } else {
            assert_found(bug);
        }
    }
}

#[test]
fn guest_zoo_lists_every_bug_that_is_built() {
    let listed: BTreeSet<String> = zoo().iter().map(|bug| bug.image.clone()).collect();
    let built = std::fs::read_dir(images().join("miniports")).unwrap();
    let built: BTreeSet<String> = built
        .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".sys")?.to_owned()))
        .filter(|name| !name.ends_with("-ok") && !name.starts_with("odd-") && !name.starts_with("ddk-"))
        .collect();
    assert_eq!(listed, built);
    assert!(listed.len() >= 40, "{}", listed.len());
}

#[test]
fn guest_zoo_bugs_of_the_virtual_disk_are_found() {
    assert_bugs_of("vdisk-", false);
}

#[test]
#[ignore = "takes minutes: each may need several seeds"]
fn guest_zoo_bugs_whose_routines_take_turns_are_found() {
    assert_bugs_of("vdisk-", true);
}

#[test]
fn guest_zoo_bugs_of_nvme_are_found() {
    assert_bugs_of("nvme-", false);
}

/// The right twins, with the same settings.
#[test]
fn guest_zoo_has_nothing_to_find_in_what_is_right() {
    for (miniport, disk) in [
        ("vdisk-ok", "mem:64M"),
        ("nvme-ok", "mem:64M"),
        ("sas-ok", "mem:64M,controller=sas"),
    ] {
        let run = run(
            miniport,
            &["--seed", "1", "--append", "ops=8 threads=2", "--disk", disk],
        );
        assert_nothing_found(&run);
    }
}
