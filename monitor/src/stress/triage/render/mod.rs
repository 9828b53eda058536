//! The report of a job in its formats, one file each.

pub(crate) mod junit;
pub(crate) mod text;

use super::JobReport;

/// The report as JSON, with a line feed at the end. What could act on a terminal is escaped.
///
/// # Errors
/// None that a report of this program can cause.
pub(crate) fn json(report: &JobReport) -> std::io::Result<String> {
    crate::report::json::text(report)
}
