//! How often something was seen, with its confidence interval.
//!
//! Talks to nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Quantile of the normal distribution for 95 % on both sides.
const Z: f64 = 1.959_963_984_540_054;

/// Seen in `hits` of `runs`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Runs in which it was seen.
    pub hits: u64,
    /// All runs.
    pub runs: u64,
}

impl Rate {
    /// Wilson's interval for 95 %, from 0 to 1. Nothing is known without a run.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "no night has 2^53 runs")]
    pub(crate) fn interval(self) -> (f64, f64) {
        if self.runs == 0 {
            return (0.0, 1.0);
        }
        let (hits, runs) = (self.hits as f64, self.runs as f64);
        let share = hits / runs;
        let scale = 1.0 + Z * Z / runs;
        let middle = (share + Z * Z / (2.0 * runs)) / scale;
        let half = Z * (share * (1.0 - share) / runs + Z * Z / (4.0 * runs * runs)).sqrt() / scale;
        ((middle - half).max(0.0), (middle + half).min(1.0))
    }

    /// Seen in some runs and not in others.
    #[must_use]
    pub(crate) fn is_partial(self) -> bool {
        self.hits > 0 && self.hits < self.runs
    }

    /// How likely `runs` runs without it are if it still comes as often as before.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "no night has 2^53 runs")]
    pub(crate) fn chance_to_miss(self, runs: u64) -> f64 {
        if self.runs == 0 {
            return 1.0;
        }
        let missed = 1.0 - self.hits as f64 / self.runs as f64;
        missed.powf(runs as f64)
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            runs: self.runs + other.runs,
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.interval();
        let (low, high) = (low * 100.0, high * 100.0);
        write!(f, "{} of {} (95 %: {low:.1} to {high:.1} %)", self.hits, self.runs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wilsons_interval_is_that_of_the_tables() {
        // Computed with R's prop.test(..., correct = FALSE).
        for (hits, runs, low, high) in [
            (0, 10, 0.0, 0.277_5),
            (5, 10, 0.236_6, 0.763_4),
            (10, 10, 0.722_5, 1.0),
            (3, 200, 0.005_1, 0.043_1),
        ] {
            let (found_low, found_high) = Rate { hits, runs }.interval();
            assert!(
                (found_low - low).abs() < 1e-3 && (found_high - high).abs() < 1e-3,
                "{hits} of {runs}: {found_low} {found_high}"
            );
        }
        assert_eq!(Rate::default().interval(), (0.0, 1.0));
    }

    proptest! {
        #[test]
        fn the_interval_holds_the_share_and_narrows(hits in 0u64..100, more in 0u64..100, times in 2u64..50) {
            let rate = Rate { hits, runs: hits + more };
            prop_assume!(rate.runs > 0);
            let (low, high) = rate.interval();
            #[allow(clippy::cast_precision_loss, reason = "the numbers are small")]
            let share = hits as f64 / rate.runs as f64;
            prop_assert!(low <= share + 1e-9 && share <= high + 1e-9);
            let many = Rate { hits: hits * times, runs: rate.runs * times };
            let (inner_low, inner_high) = many.interval();
            prop_assert!(inner_high - inner_low < high - low);
        }
    }

    #[test]
    fn what_came_often_is_hard_to_miss() {
        let often = Rate { hits: 5, runs: 10 };
        assert!((often.chance_to_miss(10) - 1.0 / 1024.0).abs() < 1e-12);
        assert!(Rate { hits: 10, runs: 10 }.chance_to_miss(1) < 1e-12);
    }
}
