//! The report as JSON, for programs. The schema is the serialised form of [`Report`]; its version is
//! [`SCHEMA`](super::SCHEMA). Addresses are numbers; JSON readers need 64-bit integers.

use std::io::{self, Write};

use super::Report;

/// Writes the report as pretty-printed JSON with a final newline.
///
/// # Errors
/// What `out` returns.
pub fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    out.write_all(b"\n")
}
