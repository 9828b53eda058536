//! What a run reports beside its findings: notes for the report, milestones for the user who waits, and the reasons why
//! it cannot be Completed.
//!
//! Talks to nothing: the other parts add to it. It must not know what they mean.

use super::doubts::Doubts;
use crate::escape;
use crate::report::{Doubt, Note};

/// Milestones that are kept: a guest chooses how often some of them happen.
const MILESTONES: usize = 64;

/// All of it, in order.
#[derive(Debug, Default)]
pub(crate) struct Log {
    notes: Vec<Note>,
    milestones: Vec<String>,
    doubts: Doubts,
}

impl Log {
    /// Adds a note to the report.
    pub(crate) fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Adds a note, unless the report has it.
    pub(crate) fn note_once(&mut self, note: Note) {
        if !self.notes.contains(&note) {
            self.note(note);
        }
    }

    /// Takes such notes back: what happens again and again is noted once.
    pub(crate) fn retract(&mut self, is_told: impl Fn(&Note) -> bool) {
        self.notes.retain(|note| !is_told(note));
    }

    /// The notes so far.
    pub(crate) fn notes(&self) -> &[Note] {
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
    pub(crate) fn doubt(&mut self, doubt: Doubt) {
        self.doubts.add(doubt);
    }

    /// These reasons.
    pub(crate) fn doubts(&self) -> &[Doubt] {
        self.doubts.list()
    }
}
