//! The formats of a report, one file each. All show the same data.

pub mod json;
pub mod text;
pub(crate) mod words;

use std::io::{self, Write};

use super::Report;

/// Writes a report in one format.
pub trait Renderer: Sync {
    /// Name of its file in a report directory.
    fn file_name(&self) -> &'static str;

    /// Writes the report.
    ///
    /// # Errors
    /// What `out` returns.
    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()>;
}

/// Every format, in the order in which the files are written.
pub const RENDERERS: &[&dyn Renderer] = &[&text::Text, &json::Json];
