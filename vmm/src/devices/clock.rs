//! The time that devices show to the guest.
//!
//! Devices must not ask the host for the time: a paused guest must not see time pass, and tests need time of their own.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock as the guest sees it: stands still while the machine is paused.
pub trait Clock: Send + Sync {
    /// Guest time since the machine was created; never goes backwards.
    fn elapsed(&self) -> Duration;

    /// The guest's wall clock: time since 1970-01-01 00:00 UTC.
    fn wall(&self) -> Duration;
}

/// The clock of a running machine: the host's monotonic clock without the pauses.
///
/// The wall clock is the host's at creation plus [`Clock::elapsed`], so a paused guest falls behind the host.
#[derive(Debug)]
pub struct GuestClock {
    started_at: Duration,
    state: Mutex<ClockState>,
}

/// What has to be kept to carry on with the same guest time.
#[derive(Debug, Clone, Copy)]
struct ClockState {
    /// Guest time up to the last resume, or up to the pause if paused.
    accumulated: Duration,
    /// When it was last resumed; `None` while paused.
    running_since: Option<Instant>,
}

impl GuestClock {
    /// A clock that starts at once.
    #[must_use]
    pub fn new() -> Self {
        let started_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let state = ClockState {
            accumulated: Duration::ZERO,
            running_since: Some(Instant::now()),
        };
        Self {
            started_at,
            state: Mutex::new(state),
        }
    }

    /// Stops guest time; nothing happens if it stands still already.
    pub fn pause(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = state.running_since.take() {
            state.accumulated += since.elapsed();
        }
    }

    /// Lets guest time go on; nothing happens if it runs already.
    pub fn resume(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running_since.get_or_insert_with(Instant::now);
    }
}

impl Default for GuestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for GuestClock {
    fn elapsed(&self) -> Duration {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.accumulated + state.running_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn wall(&self) -> Duration {
        self.started_at + self.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_while_paused() {
        let clock = GuestClock::new();
        std::thread::sleep(Duration::from_millis(5));
        clock.pause();
        let before = (clock.elapsed(), clock.wall());
        assert!(before.0 >= Duration::from_millis(5));
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!((clock.elapsed(), clock.wall()), before);
        clock.resume();
        std::thread::sleep(Duration::from_millis(1));
        assert!(clock.elapsed() > before.0);
        assert!(clock.elapsed() < before.0 + Duration::from_secs(3600));
    }
}
