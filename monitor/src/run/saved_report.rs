//! The report of an earlier run: read from its JSON, or made again from a recording or an event trace.
//!
//! Talks to the file system and to the session's replay. It must not know the formats in which a report is shown.

use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;

use super::input;
use super::report_directory::JSON_FILE;
use crate::report::json::ReadError;
use crate::report::{Note, Report, SCHEMA, json};
use crate::session::replay;
use crate::vmi::recording;

/// Largest report in JSON that is read, in bytes: one with as many findings as are kept has some 40 MB.
const MAX_JSON: u64 = 512 << 20;

/// What a file with a report, a recording or a trace holds.
#[derive(Debug)]
pub(crate) struct Saved {
    /// The report.
    pub report: Report,
    /// It was made now, from a recording or a trace.
    pub replayed: bool,
}

/// The file that is meant by `path`: in a report directory the report.
#[must_use]
pub(crate) fn file(path: &Path) -> PathBuf {
    if path.is_dir() {
        path.join(JSON_FILE)
    } else {
        path.to_owned()
    }
}

/// Reads a report in JSON, or replays a recording or a trace.
///
/// # Errors
/// If it cannot be read or is none of these. A recording or trace that is damaged further on gives a report that says so.
pub(crate) fn read(path: &Path) -> anyhow::Result<Saved> {
    let what = || format!("cannot read a report from {}", path.display());
    let mut file = input::open_regular(path).with_context(what)?;
    let head = head(&mut file).with_context(what)?;
    if head.is_empty() {
        return Err(anyhow!("it is empty")).with_context(what);
    }
    if head.trim_ascii_start().starts_with(b"{") {
        let mut report = from_json(file).with_context(what)?;
        draw(&mut report, path);
        return Ok(Saved {
            report,
            replayed: false,
        });
    }
    let report = replayed(file, &head).with_context(what)?;
    Ok(Saved { report, replayed: true })
}

/// The first bytes of a file, which tell what it is.
fn head(file: &mut (impl Read + Seek)) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    (&mut *file).take(64).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(head)
}

/// Replays a recording or an event trace.
///
/// # Errors
/// If it cannot be read or is neither. One that is damaged further on gives a report that says so.
pub(crate) fn replay(path: &Path) -> anyhow::Result<Report> {
    let what = || format!("cannot replay {}", path.display());
    let mut file = input::open_regular(path).with_context(what)?;
    let head = head(&mut file).with_context(what)?;
    replayed(file, &head).with_context(what)
}

/// Draws the timeline, if the event trace of that very run lies beside the report.
fn draw(report: &mut Report, path: &Path) {
    let Some(trace) = report.trace.clone() else { return };
    let name = Path::new(&trace.file);
    if name.file_name() != Some(name.as_os_str()) {
        // It is a name in the same directory, and not a way to another one.
        return;
    }
    let Ok(file) = input::open_regular(&path.with_file_name(name)) else {
        return;
    };
    let drawn = replay::draw_timeline(report, BufReader::with_capacity(1 << 20, file), None);
    let events = report.timeline.as_ref().map(|timeline| timeline.events);
    if drawn.is_err() || events != Some(trace.events) {
        report.timeline = None;
        report.notes.push(Note::OtherTrace { file: trace.file });
    }
}

fn replayed(file: impl Read, head: &[u8]) -> anyhow::Result<Report> {
    let file = BufReader::with_capacity(1 << 20, file);
    Ok(if head.starts_with(&recording::MAGIC) {
        replay::recording(file)?
    } else {
        replay::trace(file)?
    })
}

fn from_json(file: impl Read) -> anyhow::Result<Report> {
    #[derive(Deserialize)]
    struct Head {
        schema: Option<String>,
    }
    let mut text = Vec::new();
    file.take(MAX_JSON + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_JSON {
        bail!("it has more than {MAX_JSON} bytes, and no report is that long");
    }
    let head: Head = json::read(&text).map_err(|error| match error {
        ReadError::CutOff(_) => error.into(),
        ReadError::Wrong(_) => anyhow!(error).context("it is no JSON object with a text as its `schema`"),
    })?;
    match head.schema.as_deref() {
        Some(SCHEMA) => Ok(json::read(&text)?),
        Some(other) => bail!("its schema is `{other}`; this program reads {SCHEMA}"),
        None => bail!("it has no `schema`: a report in JSON begins with {{\"schema\": \"{SCHEMA}\"}}"),
    }
}
