//! Counts of what a guest does that comes in a few kinds: how often each kind came, for as many kinds as there is room.
//!
//! A guest chooses the kinds, so their number is bounded; what has no place of its own is only counted. It must not know
//! what is counted.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Kinds that are counted separately.
const KINDS: usize = 256;

/// A count of each kind that came, filled by any thread.
#[derive(Debug)]
pub(crate) struct Tally<K> {
    counts: Mutex<Counts<K>>,
}

/// What a [`Tally`] holds at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts<K> {
    /// How often each kind came: the first 256 that came.
    pub kinds: BTreeMap<K, u64>,
    /// How often others came after these.
    pub others: u64,
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self {
            kinds: BTreeMap::new(),
            others: 0,
        }
    }
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self {
            counts: Mutex::default(),
        }
    }
}

impl<K: Ord + Clone> Tally<K> {
    /// Counts one of a kind.
    pub(crate) fn count(&self, kind: K) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let room = counts.kinds.len() < KINDS;
        if let Some(count) = counts.kinds.get_mut(&kind) {
            *count = count.saturating_add(1);
        } else if room {
            counts.kinds.insert(kind, 1);
        } else {
            counts.others = counts.others.saturating_add(1);
        }
    }

    /// What came so far.
    #[must_use]
    pub(crate) fn counts(&self) -> Counts<K> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_kinds_are_told_apart_and_the_others_counted() {
        let tally = Tally::default();
        let kinds = KINDS as u64;
        for _ in 0..2 {
            (0..kinds + 44).for_each(|kind| tally.count(kind));
        }
        let counts = tally.counts();
        assert_eq!(counts.kinds, (0..kinds).map(|kind| (kind, 2)).collect());
        assert_eq!(counts.others, 88);
    }
}
