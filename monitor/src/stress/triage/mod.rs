//! Judges the results of a night: findings by signature, known or not, how often, and which are gone.
//!
//! Everything here is pure: reports, rows, the baseline and the date are given. It must not know how runs are carried out.

pub mod baseline;
pub mod finding;
mod judge;
pub mod rate;
pub mod render;
pub mod report;

pub use self::baseline::{Baseline, Date};
pub use self::finding::{Finding, FindingKind, Weight, findings};
pub use self::judge::{Earlier, Night, Row, Verdict, triage, verdict};
pub use self::report::JobReport;
