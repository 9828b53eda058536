//! The open acquires of a lock: one in place, since most locks never have more; a list only where there are several.

use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};

use super::record::Record;

/// Open acquires, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Records {
    /// None.
    #[default]
    None,
    /// One.
    One(Record),
    /// Several, or several before.
    Many(Vec<Record>),
}

impl Records {
    /// Adds the youngest.
    pub(crate) fn push(&mut self, record: Record) {
        match self {
            Self::None => *self = Self::One(record),
            Self::One(first) => *self = Self::Many(vec![*first, record]),
            Self::Many(list) => {
                if list.len() == list.capacity() {
                    list.reserve_exact(list.len().max(2));
                }
                list.push(record);
            }
        }
    }

    /// How many there are, after giving back the room of those that were.
    pub(crate) fn shrink(&mut self) -> usize {
        if let Self::Many(list) = self {
            list.shrink_to_fit();
        }
        self.len()
    }

    /// Takes out the one at a place, which must be one.
    pub(crate) fn remove(&mut self, place: usize) -> Record {
        match self {
            Self::Many(list) => list.remove(place),
            Self::One(record) => {
                let record = *record;
                *self = Self::None;
                record
            }
            Self::None => unreachable!("an empty list has no places"),
        }
    }

    /// Drops those that are not wanted.
    pub(crate) fn retain(&mut self, mut wanted: impl FnMut(&Record) -> bool) {
        match self {
            Self::None => {}
            Self::One(record) => {
                if !wanted(record) {
                    *self = Self::None;
                }
            }
            Self::Many(list) => list.retain(wanted),
        }
    }
}

impl Deref for Records {
    type Target = [Record];

    fn deref(&self) -> &[Record] {
        match self {
            Self::None => &[],
            Self::One(record) => std::slice::from_ref(record),
            Self::Many(list) => list,
        }
    }
}

impl DerefMut for Records {
    fn deref_mut(&mut self) -> &mut [Record] {
        match self {
            Self::None => &mut [],
            Self::One(record) => std::slice::from_mut(record),
            Self::Many(list) => list,
        }
    }
}
