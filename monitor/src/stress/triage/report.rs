//! The report of a job: plain data. The renderers make the words.
//!
//! Everything but [`JobReport::execution`] follows from the results of the iterations, so that merged shards give the
//! same report as one machine that ran them all.

use serde::{Deserialize, Serialize};

use super::baseline::Date;
use super::coverage::CoverageReport;
use super::finding::{FindingKind, Weight};
use super::rate::Rate;

/// Version of the JSON schema. It changes when a field changes its meaning or goes away.
pub(crate) const SCHEMA: &str = "storlock-stress/1";

/// Everything that a night of a job reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobReport {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of Storlock that wrote this.
    pub(crate) tool_version: String,
    /// Name of the job.
    pub job: String,
    /// Number of the night.
    pub night: u64,
    /// The driver under test.
    pub driver: Option<DriverInfo>,
    /// Exit code of the process.
    pub exit_code: u8,
    /// Whether all shards came to the end of their shares.
    pub complete: bool,
    /// Shards that have not, or are not here.
    pub missing_shards: Vec<String>,
    /// What the iterations came to.
    pub iterations: Counts,
    /// The same by plan, in the order of their names.
    pub plans: Vec<PlanReport>,
    /// Lock call sites of the driver that were reached; nothing if no run has watched it.
    #[serde(default)]
    pub(crate) coverage: Option<CoverageReport>,
    /// Findings of this night, by status and kind.
    pub findings: Vec<FindingReport>,
    /// Findings of earlier nights or of the baseline that were not seen.
    pub gone: Vec<GoneReport>,
    /// Why iterations were inconclusive, each with how often; at most 20.
    pub inconclusive: Vec<ReasonCount>,
    /// What else should be known.
    pub(crate) warnings: Vec<String>,
    /// When and how long; nothing else depends on it.
    pub execution: Execution,
}

/// The driver under test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverInfo {
    /// File name.
    pub name: String,
    /// SHA-256 of its contents; nothing if it is in the guest only.
    pub(crate) sha256: Option<String>,
}

/// What iterations came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// All.
    pub total: u64,
    /// The guest ran to its end and nothing was found.
    pub completed: u64,
    /// Something was found.
    pub found: u64,
    /// The guest never came to where a fault was planned; else nothing was found.
    pub(crate) not_reached: u64,
    /// The run did not show enough.
    pub inconclusive: u64,
    /// The host or this program failed.
    pub host_failed: u64,
    /// Further runs of a case, to see whether a finding comes again.
    pub(crate) confirmations: u64,
}

/// A fault plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlanReport {
    /// Its name.
    pub name: String,
    /// What its iterations came to.
    pub iterations: Counts,
    /// Different faults that were tried, if each is tried once.
    pub(crate) points: Option<u64>,
}

/// What is known about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// Never seen before, and not in the baseline.
    New,
    /// Seen in earlier nights, and not in the baseline.
    Open,
    /// In the baseline.
    Known,
}

/// A finding of this night.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FindingReport {
    /// Its signature.
    pub signature: String,
    /// What kind of thing.
    pub kind: FindingKind,
    /// What it does to the job.
    pub(crate) weight: Weight,
    /// New, open or known.
    pub status: Status,
    /// One line.
    pub title: String,
    /// Iterations in which it was seen, of those of the plans in which it was.
    pub seen: Rate,
    /// Runs of cases that were run several times and showed it at least once.
    pub same_case: Rate,
    /// It came and went although the case was the same.
    pub(crate) flaky: bool,
    /// The first iteration in which it was seen.
    pub first: CaseReference,
    /// Plans in which it was seen.
    pub plans: Vec<String>,
    /// Night in which it was seen first.
    pub(crate) first_night: u64,
    /// The baseline's reason and reference.
    pub(crate) accepted: Option<Accepted>,
}

/// An entry of the baseline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    /// Why.
    pub reason: String,
    /// Where it is followed up.
    pub(crate) reference: String,
    /// Until when.
    pub(crate) expires: Option<Date>,
    /// That day is past.
    pub(crate) expired: bool,
}

/// An iteration, and what repeats it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CaseReference {
    /// Its number.
    pub iteration: u64,
    /// Its directory below the output directory, while it is kept.
    pub case: String,
    /// Seed of the guest.
    pub seed: u64,
    /// vCPUs.
    pub cpus: u32,
    /// Faults.
    pub faults: Vec<String>,
}

/// A finding that was not seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct GoneReport {
    /// Its signature.
    pub signature: String,
    /// One line; nothing if it is known from the baseline only.
    pub title: Option<String>,
    /// Night in which it was seen last.
    pub last_night: Option<u64>,
    /// How often it came in the nights in which it was seen.
    pub seen: Rate,
    /// How likely it is that it is still there and was missed.
    pub(crate) missed: f64,
    /// The baseline's reason and reference.
    pub(crate) accepted: Option<Accepted>,
}

/// A reason, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReasonCount {
    /// One sentence.
    pub reason: String,
    /// Iterations.
    pub count: u64,
}

/// When and how long.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    /// First start, in ISO 8601.
    pub started: String,
    /// Last end.
    pub ended: String,
    /// Seconds of running, over all shards and starts.
    pub seconds: u64,
    /// Processor time is not in here: seconds that the runs took, added up.
    pub(crate) run_seconds: u64,
    /// Where a share was done, and why it ended.
    pub shards: Vec<ShardReport>,
}

/// A share of the night.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReport {
    /// Which.
    pub shard: String,
    /// Name of the machine.
    pub host: String,
    /// Why it ended.
    pub ended: String,
}

/// Where the files of a run are kept, below the output directory.
#[must_use]
pub(crate) fn case_directory(night: u64, iteration: u64, attempt: u32) -> String {
    let again = if attempt == 0 {
        String::new()
    } else {
        format!(".{attempt}")
    };
    format!("cases/{night}-{iteration}{again}")
}

/// Faults as options of `storlock run`, each with a space before it.
#[must_use]
pub(crate) fn fault_options(faults: &[String]) -> String {
    faults
        .iter()
        .fold(String::new(), |text, fault| text + " --fault " + fault)
}
