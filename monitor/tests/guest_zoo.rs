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
use std::path::Path;

use serde::Deserialize;
use support::{Run, assert_nothing_found, images, run, violations};

/// An entry of zoo.toml.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bug {
    image: String,
    rule: String,
    at: Vec<String>,
    #[allow(dead_code, reason = "for the page")]
    like: String,
    #[serde(default = "semantic")]
    verdict: String,
    #[serde(default)]
    ends: bool,
    #[serde(default)]
    arguments: Vec<String>,
    /// Why the monitor does not find it, where it does not.
    missed: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Zoo {
    bug: Vec<Bug>,
}

fn semantic() -> String {
    "semantic".to_owned()
}

fn zoo() -> Vec<Bug> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-images/miniports/zoo.toml");
    let zoo: Zoo = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    zoo.bug
}

fn run_with(bug: &Bug) -> Run {
    let mut arguments = vec!["--seed", "1", "--append", "ops=8 threads=2"];
    if bug.image.starts_with("sas-") {
        arguments.extend(["--disk", "mem:64M,controller=sas"]);
    }
    if bug.ends {
        // A guest that is stuck costs so much.
        arguments.extend(["--time-limit", "60s"]);
    }
    arguments.extend(bug.arguments.iter().map(String::as_str));
    run(&bug.image, &arguments)
}

#[track_caller]
fn assert_found(bug: &Bug, run: &Run) {
    let report = run.report();
    let is_it = |finding: &&serde_json::Value| {
        let symbol = finding["caller"]["symbol"][0].as_str().unwrap_or_default();
        // The compiler may have made a clone of the function.
        let function = symbol.split('.').next().unwrap();
        finding["rule"] == *bug.rule
            && finding["verdict"] == *bug.verdict
            // What shows at the end of the run is told by its offset only.
            && (bug.at.iter().any(|place| place == function) || (finding["cause"] == "missing_release" && symbol.is_empty()))
            && finding["caller"]["module"] == format!("{}.sys", bug.image)
    };
    assert!(
        violations(&report).iter().any(|finding| is_it(&finding)),
        "{bug:?}: {run}"
    );
    if bug.verdict == "semantic" {
        assert_eq!(
            (run.code(), report["outcome"].as_str()),
            (1, Some("defect")),
            "{bug:?}: {run}"
        );
    }
    if !bug.ends {
        assert!(run.serial().contains("workload: PASS"), "{bug:?}: {run}");
    }
}

/// The bugs of one miniport. What has a test of its own elsewhere is run again: the list is the promise.
#[track_caller]
fn assert_bugs_of(miniport: &str) {
    let bugs: Vec<Bug> = zoo()
        .into_iter()
        .filter(|bug| bug.image.starts_with(miniport))
        .collect();
    assert!(bugs.len() > 10, "{miniport}");
    for bug in bugs {
        let run = run_with(&bug);
        if bug.missed.is_some() {
            assert_ne!(run.code(), 0, "{bug:?}: {run}");
        } else {
            assert_found(&bug, &run);
        }
    }
}

#[test]
fn guest_zoo_lists_every_bug_that_is_built() {
    let listed: BTreeSet<String> = zoo().into_iter().map(|bug| bug.image).collect();
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
    assert_bugs_of("vdisk-");
}

#[test]
fn guest_zoo_bugs_of_nvme_are_found() {
    assert_bugs_of("nvme-");
}

#[test]
fn guest_zoo_bugs_of_sas_are_found() {
    assert_bugs_of("sas-");
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
