//! Judges the results of a night: findings by signature, known or not, how often, and which are gone.
//!
//! Everything here is pure: the caller gives reports, rows, the baseline and the date. It must not know how runs are
//! carried out.

pub(crate) mod baseline;
pub(crate) mod coverage;
pub(crate) mod finding;
mod judge;
pub(crate) mod rate;
pub(crate) mod render;
pub(crate) mod report;

pub(crate) use self::baseline::{Baseline, Date};
pub(crate) use self::coverage::SiteCoverage;
pub(crate) use self::finding::{Finding, FindingKind, Weight, findings};
pub(crate) use self::judge::{Earlier, Night, Row, Verdict, triage, verdict};
pub(crate) use self::report::JobReport;
