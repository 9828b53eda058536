//! The bugs that the miniports can be built with, and what has to be found of each: guest-images/miniports/zoo.toml.

use std::sync::OnceLock;

use serde::Deserialize;

use super::{Run, violations};

/// An entry of zoo.toml, which says what its keys mean.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bug {
    pub(crate) image: String,
    pub(crate) rule: String,
    pub(crate) cause: Option<String>,
    pub(crate) at: Vec<String>,
    pub(crate) like: String,
    #[serde(default = "semantic")]
    pub(crate) verdict: String,
    #[serde(default)]
    pub(crate) ends: bool,
    #[serde(default)]
    pub(crate) turns: bool,
    #[serde(default)]
    pub(crate) arguments: Vec<String>,
    pub(crate) missed: Option<String>,
}

fn semantic() -> String {
    "semantic".to_owned()
}

/// All bugs.
pub(crate) fn zoo() -> &'static [Bug] {
    #[derive(Deserialize)]
    struct Zoo {
        bug: Vec<Bug>,
    }
    static ZOO: OnceLock<Vec<Bug>> = OnceLock::new();
    let text = include_str!("../../../guest-images/miniports/zoo.toml");
    ZOO.get_or_init(|| toml::from_str::<Zoo>(text).unwrap().bug)
}

/// The bug of that image.
pub(crate) fn bug(image: &str) -> &'static Bug {
    zoo().iter().find(|bug| bug.image == image).unwrap()
}

/// The bugs of these miniports of which every run finds one thing and nothing else, and the guest runs to its end.
pub(crate) fn plain_bugs(miniports: &[&str]) -> Vec<&'static Bug> {
    let is_of = |bug: &&Bug| {
        miniports
            .iter()
            .any(|miniport| bug.image.starts_with(&format!("{miniport}-")))
    };
    let plain = zoo().iter().filter(|bug| bug.cause.is_some() && !bug.ends);
    let bugs: Vec<_> = plain.filter(is_of).collect();
    assert!(bugs.len() >= 10, "{miniports:?}");
    bugs
}

/// Whether a finding is under the rule and at the place that it has to be.
pub(crate) fn is_at_its_place(bug: &Bug, finding: &serde_json::Value) -> bool {
    let symbol = finding["caller"]["symbol"][0].as_str().unwrap_or_default();
    // The compiler may have made a clone of the function.
    let function = symbol.split('.').next().unwrap();
    // What shows at the end of the run is told by its offset only.
    let unnamed = finding["cause"] == "missing_release" && symbol.is_empty();
    finding["rule"] == *bug.rule
        && finding["verdict"] == *bug.verdict
        && bug.cause.as_ref().is_none_or(|cause| finding["cause"] == **cause)
        && (unnamed || bug.at.iter().any(|place| place == function))
        && finding["caller"]["module"] == format!("{}.sys", bug.image)
}

/// The run is a Defect, and all that was found is the bug.
#[track_caller]
pub(crate) fn assert_found_alone(bug: &Bug, run: &Run) {
    let report = run.report();
    assert_eq!(
        (run.code(), report["outcome"].as_str()),
        (1, Some("defect")),
        "{bug:?}: {run}"
    );
    let found = violations(&report);
    assert!(!found.is_empty(), "{bug:?}: {run}");
    for finding in found {
        assert!(is_at_its_place(bug, finding), "{bug:?}: {finding}: {run}");
    }
}
