//! A histogram of how long something takes that happens very often.
//!
//! Any number of threads add to it without a lock. It must not know what is timed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Buckets for each power of two: a bucket is at most a sixteenth of its times wide.
const PER_OCTAVE: usize = 16;
/// Longer times, from about half a minute on, count as this long.
const OCTAVES: usize = 32;

/// Times in buckets whose width grows with the time.
#[derive(Debug)]
pub(crate) struct Histogram([AtomicU64; PER_OCTAVE * OCTAVES]);

/// How times are spread. A percentile is the upper end of its bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// Number of times.
    pub count: u64,
    /// Half of them are not longer, in nanoseconds.
    pub(crate) p50: u64,
    /// 90 % of them are not longer, in nanoseconds.
    pub(crate) p90: u64,
    /// 99 % of them are not longer, in nanoseconds.
    pub(crate) p99: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; PER_OCTAVE * OCTAVES])
    }
}

impl Histogram {
    /// Adds a time.
    pub(crate) fn add(&self, time: Duration) {
        let bucket = bucket_of(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        self.0[bucket].fetch_add(1, Ordering::Relaxed);
    }

    /// What was added so far; nothing if that is nothing.
    #[must_use]
    pub(crate) fn spread(&self) -> Option<Spread> {
        let counts: Vec<u64> = self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let count: u64 = counts.iter().sum();
        let percentile = |percent: u64| {
            let rank = (count * percent).div_ceil(100);
            let mut below = 0;
            let bucket = counts.iter().position(|&count| {
                below += count;
                below >= rank
            });
            last_of(bucket.unwrap_or(0))
        };
        (count > 0).then(|| Spread {
            count,
            p50: percentile(50),
            p90: percentile(90),
            p99: percentile(99),
        })
    }
}

/// The bucket of a time in nanoseconds: times below 16 have one each.
fn bucket_of(time: u64) -> usize {
    let Some(octave) = time.checked_ilog2().filter(|&log| log >= PER_OCTAVE.ilog2()) else {
        return time as usize;
    };
    let shift = octave - PER_OCTAVE.ilog2();
    let within = (time >> shift) as usize - PER_OCTAVE;
    (PER_OCTAVE * (shift as usize + 1) + within).min(PER_OCTAVE * OCTAVES - 1)
}

/// The longest time of a bucket, in nanoseconds.
fn last_of(bucket: usize) -> u64 {
    let (octave, within) = (bucket / PER_OCTAVE, (bucket % PER_OCTAVE) as u64);
    match octave.checked_sub(1) {
        None => within,
        Some(shift) => ((PER_OCTAVE as u64 + within + 1) << shift) - 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bucket_holds_a_time_and_is_no_wider_than_a_sixteenth_of_it(time in 0..1_u64 << 34) {
            let last = last_of(bucket_of(time));
            prop_assert!(time <= last && last - time <= time / 16, "{time}: up to {last}");
            prop_assert_eq!(bucket_of(last), bucket_of(time));
            prop_assert_ne!(bucket_of(last + 1), bucket_of(time));
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let histogram = Histogram::default();
        assert_eq!(histogram.spread(), None);
        for time in 1..=10 {
            histogram.add(Duration::from_nanos(time));
        }
        let expected = Spread {
            count: 10,
            p50: 5,
            p90: 9,
            p99: 10,
        };
        assert_eq!(histogram.spread(), Some(expected));
        histogram.add(Duration::MAX);
        assert_eq!(histogram.spread().map(|spread| spread.p99), Some(last_of(16 * 32 - 1)));
    }
}
