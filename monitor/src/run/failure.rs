//! Why a command could not do its work, with the condition that gives the exit code.
//!
//! Talks to nothing.

use crate::outcome::Condition;

/// A command that could not do its work.
#[derive(Debug)]
pub struct Failure {
    /// What holds.
    pub condition: Condition,
    /// What happened and what to do about it.
    pub error: anyhow::Error,
}

impl Failure {
    /// What was asked for is impossible.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self {
            condition: Condition::Usage,
            error: error.into(),
        }
    }

    /// The host failed: KVM, files.
    pub(crate) fn infrastructure(error: impl Into<anyhow::Error>) -> Self {
        Self {
            condition: Condition::Infrastructure,
            error: error.into(),
        }
    }
}

/// An error whose message has several lines on purpose. That of any other is shown on one line: it may quote a file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Lines(pub String);
