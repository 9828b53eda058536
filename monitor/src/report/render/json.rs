//! The report as JSON, for programs. The schema is the serialised form of [`Report`]; its version is
//! [`SCHEMA`](crate::report::SCHEMA). Addresses are numbers; JSON readers need 64-bit integers.

use std::io::{self, Write};

use super::Renderer;
use crate::report::Report;

/// Pretty-printed JSON with a final newline.
#[derive(Debug, Clone, Copy)]
pub struct Json;

impl Renderer for Json {
    fn file_name(&self) -> &'static str {
        "report.json"
    }

    fn render(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, report)?;
        out.write_all(b"\n")
    }
}
