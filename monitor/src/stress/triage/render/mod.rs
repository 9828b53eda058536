//! The report of a job in its formats, one file each.

pub mod junit;
pub mod text;

use super::JobReport;

/// The report as JSON, with a line feed at the end. What could act on a terminal is escaped.
///
/// # Errors
/// None that a report of this program can cause.
pub fn json(report: &JobReport) -> std::io::Result<String> {
    crate::report::json::text(report)
}
