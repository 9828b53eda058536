//! State that a writer shares with those who wait for it: how far the writer is, and whether they still wait.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
struct Shared {
    steps: AtomicU64,
    given_up: AtomicBool,
    deadline: OnceLock<Instant>,
}

/// Cheap to clone; all clones are of the same writer.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Shared>);

impl Progress {
    /// Something was written.
    pub fn step(&self) {
        self.0.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes whenever something was written.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.0.steps.load(Ordering::Relaxed)
    }

    /// Has the writer end instead of waiting for a reader.
    pub(crate) fn give_up(&self) {
        self.0.given_up.store(true, Ordering::Release);
    }

    /// From `deadline` on the writer is to end when its reader takes nothing for a moment.
    pub(crate) fn give_up_at(&self, deadline: Instant) {
        // A run has one.
        let _ = self.0.deadline.set(deadline);
    }

    /// Whether a writer is to end whose reader has taken nothing for `stall`.
    pub(super) fn is_over(&self, stall: Duration) -> bool {
        let late = || {
            self.0
                .deadline
                .get()
                .is_some_and(|deadline| Instant::now() >= *deadline)
        };
        self.given_up() || (stall >= super::PATIENCE && late())
    }

    /// Whether the writer is to end.
    #[must_use]
    pub(crate) fn given_up(&self) -> bool {
        self.0.given_up.load(Ordering::Acquire)
    }
}

/// Measures for how long a writer has made no progress.
#[derive(Debug)]
pub(crate) struct Stall {
    progress: Progress,
    steps: u64,
    since: Instant,
}

impl Stall {
    /// From now on.
    pub(crate) fn watch(progress: &Progress) -> Self {
        Self {
            steps: progress.steps(),
            progress: progress.clone(),
            since: Instant::now(),
        }
    }

    /// For how long by now.
    pub(crate) fn lasts(&mut self) -> Duration {
        let steps = self.progress.steps();
        if steps != self.steps {
            self.steps = steps;
            self.since = Instant::now();
        }
        self.since.elapsed()
    }
}
