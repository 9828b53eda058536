//! Carries out a job: starts a child process for each run, and stores the results.
//!
//! Talks to the operating system: processes, files, clock; and to the history. The pure modules beside it decide what
//! to run and what results mean.

mod capacity;
mod child;
mod digest;
mod night;
mod output;
mod repeat;
mod schedule;
mod supervise;

pub(crate) use self::capacity::{Capacity, host_name};
pub(crate) use self::child::{Child, Outcome, end_with_parent};
pub(crate) use self::digest::{Digests, digests};
pub(crate) use self::night::{Begun, Wish, begin};
pub(crate) use self::output::{OutputDirectory, owner, remove_left};
pub(crate) use self::repeat::{Repeated, Repeater, Sought, changed_files, meant, read_case, write_case};
pub(crate) use self::supervise::{Ending, Supervisor, write_reports};

use super::history::HistoryError;

/// Why a job cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunnerError {
    /// The job asks for something impossible.
    #[error("{0}")]
    Usage(String),
    /// A file, a process.
    #[error("{0}: {1}")]
    Io(String, #[source] std::io::Error),
    /// The database.
    #[error("the history {0}: {1}")]
    History(String, #[source] HistoryError),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// An error of the operating system, with what it is about.
fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> RunnerError {
    let what = what.into();
    move |error| RunnerError::Io(what, error)
}

/// Seconds since 1970.
#[must_use]
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
