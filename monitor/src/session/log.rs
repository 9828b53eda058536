//! What a run tells beside its findings: notes for the report, milestones for the user who waits, and the reasons why
//! it cannot be Completed.
//!
//! Talks to nothing: the other parts add to it. It must not know what the texts mean.

use super::doubts::{Doubt, Doubts};
use crate::escape;

/// Milestones that are kept: a guest chooses how often some of them happen.
const MILESTONES: usize = 64;

/// All of it, in order.
#[derive(Debug, Default)]
pub(crate) struct Log {
    notes: Vec<String>,
    milestones: Vec<String>,
    doubts: Doubts,
}

impl Log {
    /// Adds a note to the report.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Adds a note, unless the report has it or has `most` notes.
    pub(crate) fn note_once(&mut self, text: &str, most: usize) {
        if self.notes.len() < most && !self.notes.iter().any(|known| known == text) {
            self.note(text);
        }
    }

    /// Takes the notes back that start so: what happens again and again is told once.
    pub(crate) fn retract(&mut self, start: &str) {
        self.notes.retain(|note| !note.starts_with(start));
    }

    /// The notes so far.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Tells who watches the run what has been reached.
    pub(crate) fn milestone(&mut self, text: impl AsRef<str>) {
        let text = escape::line(text.as_ref()).into_owned();
        tracing::info!("{text}");
        if self.milestones.len() < MILESTONES {
            self.milestones.push(text);
        }
    }

    /// The milestones from this number on.
    pub(crate) fn milestones_from(&self, from: usize) -> &[String] {
        self.milestones.get(from..).unwrap_or_default()
    }

    /// Adds a reason why the run cannot be Completed.
    pub(crate) fn doubt(&mut self, kind: Doubt, reason: impl Into<String>) {
        self.doubts.add(kind, reason.into());
    }

    /// These reasons.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = &str> {
        self.doubts.reasons()
    }
}
