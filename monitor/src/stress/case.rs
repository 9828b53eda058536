//! One run of a job, kept to be repeated: how it was started and what it showed.
//!
//! Talks to nothing. Written as JSON beside the run's report.

use serde::{Deserialize, Serialize};

use super::planning::SerialFinding;
use super::triage::Finding;
use crate::run::spec::RunSpec;

/// Version of the layout.
pub(crate) const SCHEMA: &str = "storlock-case/1";
/// Name of the file.
pub const FILE: &str = "case.json";
/// Name of the file beside it that holds the run alone, for `storlock run --spec`.
pub(crate) const RUN_FILE: &str = "run.json";

/// A case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of Storlock that wrote it.
    pub(crate) tool_version: String,
    /// Name of the job.
    pub job: String,
    /// Number of the night.
    pub night: u64,
    /// Number of the iteration.
    pub iteration: u64,
    /// Which repetition of it: 0 for the first run.
    pub attempt: u32,
    /// Name of the fault plan.
    pub plan: String,
    /// The run.
    pub run: RunSpec,
    /// Files that it was made from.
    pub files: Vec<FileDigest>,
    /// What it has shown.
    pub findings: Vec<Finding>,
    /// Findings by what the guest says, to be recognised again.
    #[serde(default)]
    pub serial: Vec<SerialFinding>,
}

/// A file that a run was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// What it is for.
    pub(crate) role: String,
    /// Its name without directory.
    pub name: String,
    /// SHA-256 of its contents, in hexadecimal.
    pub(crate) sha256: String,
}
