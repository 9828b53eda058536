//! The medium behind a namespace: which blocks were made unreadable, and whether it is read-only.
//!
//! Resets keep it, as they keep the data. It knows ranges of bytes; it must not know commands.

use std::collections::BTreeMap;

/// Ranges of unreadable blocks that are kept for one namespace: the host has to be able to hold them.
pub(super) const MAX_UNREADABLE: usize = 1024;

/// There would be more than [`MAX_UNREADABLE`] ranges. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManyRanges;

/// Bytes of a namespace, checked to lie within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl ByteRange {
    fn end(self) -> u64 {
        self.offset + self.length
    }
}

/// The state of one namespace's medium.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Media {
    /// Nothing can be written any more.
    pub read_only: bool,
    /// What Write Uncorrectable has marked: first byte and end of each range, which neither overlap nor touch.
    unreadable: BTreeMap<u64, u64>,
}

impl Media {
    /// Whether a block in the range cannot be read.
    #[must_use]
    pub(super) fn is_unreadable(&self, range: ByteRange) -> bool {
        let mut before_end = self.unreadable.range(..range.end());
        range.length > 0 && before_end.next_back().is_some_and(|(_, &end)| end > range.offset)
    }

    /// Makes the range unreadable.
    ///
    /// # Errors
    /// [`TooManyRanges`].
    pub(super) fn mark(&mut self, range: ByteRange) -> Result<(), TooManyRanges> {
        if range.length == 0 {
            return Ok(());
        }
        let touching: Vec<(u64, u64)> = self
            .unreadable
            .range(..=range.end())
            .rev()
            .map(|(&start, &end)| (start, end))
            .take_while(|&(_, end)| end >= range.offset)
            .collect();
        if touching.is_empty() && self.unreadable.len() >= MAX_UNREADABLE {
            return Err(TooManyRanges);
        }
        let (mut start, mut end) = (range.offset, range.end());
        for (old_start, old_end) in touching {
            self.unreadable.remove(&old_start);
            (start, end) = (start.min(old_start), end.max(old_end));
        }
        self.unreadable.insert(start, end);
        Ok(())
    }

    /// Whether [`clear`](Self::clear) has room for what is left of a range that it cuts in two.
    #[must_use]
    pub(super) fn can_clear(&self, range: ByteRange) -> bool {
        let cut = self.unreadable.range(..range.offset).next_back();
        self.unreadable.len() < MAX_UNREADABLE || cut.is_none_or(|(_, &end)| end <= range.end())
    }

    /// The range holds data again.
    pub(super) fn clear(&mut self, range: ByteRange) {
        if range.length == 0 {
            return;
        }
        while let Some((&start, &end)) = self.unreadable.range(..range.end()).next_back() {
            if end <= range.offset {
                break;
            }
            self.unreadable.remove(&start);
            if start < range.offset {
                self.unreadable.insert(start, range.offset);
            }
            if end > range.end() {
                self.unreadable.insert(range.end(), end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = ByteRange> {
        (0..40u64, 0..12u64).prop_map(|(offset, length)| ByteRange { offset, length })
    }

    proptest! {
        #[test]
        fn ranges_are_a_set_of_bytes(steps in prop::collection::vec((any::<bool>(), range(), range()), 1..40)) {
            let (mut media, mut model) = (Media::default(), BTreeSet::new());
            for (mark, changed, asked) in steps {
                let bytes = changed.offset..changed.end();
                if mark {
                    media.mark(changed).unwrap();
                    model.extend(bytes);
                } else {
                    media.clear(changed);
                    model.retain(|byte| !bytes.contains(byte));
                }
                let expected = (asked.offset..asked.end()).any(|byte| model.contains(&byte));
                prop_assert_eq!(media.is_unreadable(asked), expected);
                let ends: Vec<_> = media.unreadable.iter().collect();
                prop_assert!(ends.windows(2).all(|pair| pair[0].1 < pair[1].0), "neither overlap nor touch: {:?}", ends);
            }
        }
    }

    #[test]
    fn the_number_of_ranges_is_bounded() {
        let one = |offset| ByteRange { offset, length: 1 };
        let mut media = Media::default();
        for place in 0..MAX_UNREADABLE as u64 {
            media
                .mark(ByteRange {
                    offset: place * 8,
                    length: 4,
                })
                .unwrap();
        }
        assert_eq!(media.mark(one(1 << 40)), Err(TooManyRanges));
        assert_eq!(media.mark(one(4)), Ok(()), "grows one that is there");
        assert!(!media.can_clear(one(9)), "would cut one in two");
        assert!(media.can_clear(one(8)) && media.can_clear(one(11)) && media.can_clear(one(7)));
        media.clear(ByteRange { offset: 16, length: 4 });
        assert!(media.can_clear(one(9)));
    }
}
