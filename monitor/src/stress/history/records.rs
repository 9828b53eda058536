//! What the history keeps of nights, shards and runs.
//!
//! Plain data. It must not know SQLite.

use super::HistoryError;

/// What a night is, before it has iterations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNight {
    /// Name of the job.
    pub job: String,
    /// Number of the night.
    pub number: u64,
    /// Digest of all that decides what the iterations are.
    pub identity: String,
    /// Digest of the guest and its files: what a systematic plan tried counts as long as this is the same.
    pub setup: String,
    /// The job, for people.
    pub(crate) definition: String,
    /// Name of the driver under test and SHA-256 of its file.
    pub driver: Option<(String, Option<String>)>,
}

/// A night that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NightKey {
    /// Its key in this database.
    pub id: i64,
    /// Its number.
    pub number: u64,
    /// Digest of all that decides what the iterations are.
    pub identity: String,
    /// Digest of the guest and its files.
    pub setup: String,
}

/// How far a share of a night is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardState {
    /// It runs, or was killed.
    Running,
    /// The user ended it.
    Interrupted,
    /// It came to its end.
    Complete,
}

impl ShardState {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Complete => "complete",
        }
    }

    pub(super) fn named(text: &str) -> Result<Self, HistoryError> {
        let all = [Self::Running, Self::Interrupted, Self::Complete];
        let found = all.into_iter().find(|state| state.text() == text);
        found.ok_or_else(|| HistoryError::Damaged(format!("a shard is `{text}`")))
    }
}

/// A share of a night.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardRecord {
    /// Which, as [`Shard`](crate::stress::planning::Shard) shows it.
    pub shard: String,
    /// Name of the machine.
    pub host: String,
    /// How far it is.
    pub state: ShardState,
    /// Why it ended.
    pub ended: String,
    /// First start, in seconds since 1970.
    pub(crate) started_at: i64,
    /// Last sign of life.
    pub(crate) ended_at: i64,
    /// Milliseconds of running, over all starts.
    pub(crate) active_ms: u64,
}

/// When a run was, and how long it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// In seconds since 1970.
    pub(crate) started_at: i64,
    /// In milliseconds.
    pub duration_ms: u64,
}
