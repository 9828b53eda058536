//! A hash table of bounded size for keys that the guest chooses.
//!
//! Entries live in a slab that never grows over its limit. When it is full, of the entries under the clock hand the one
//! that would be missed least makes room (second-chance order). The hash is keyed by a seed that the guest does not
//! know, so that it cannot choose keys that collide; the limit bounds the damage if it could.

mod index;

use std::hash::{Hash, Hasher};

use index::{Index, PLACES};

/// How many entries an insertion into a full table looks at before it takes one that is in use.
const SEARCH: usize = 64;

/// A map with a limit. `V: Evict` says which entries can be missed.
#[derive(Clone, Debug)]
pub(crate) struct Table<K, V> {
    index: Index,
    seed: u64,
    slots: Vec<Slot<K, V>>,
    free: Vec<u32>,
    limit: usize,
    hand: usize,
}

/// Laid out in this order: what a look-up reads is in front, at the beginning of a line of the processor's cache, so that an
/// entry that is in no cache costs as few waits as may be.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct Slot<K, V> {
    key: K,
    used: bool,
    value: Option<V>,
}

/// How much the checker would miss an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// Nothing but history of other drivers would be lost.
    Idle,
    /// Nothing but history of the driver under test.
    TargetIdle,
    /// Something of other drivers that is in use.
    Used,
    /// Something of the driver under test that is in use.
    TargetUsed,
}

impl Rank {
    /// By whether it is in use and whether it is of the driver under test.
    pub(crate) const fn of(used: bool, target: bool) -> Self {
        match (used, target) {
            (false, false) => Self::Idle,
            (false, true) => Self::TargetIdle,
            (true, false) => Self::Used,
            (true, true) => Self::TargetUsed,
        }
    }
}

/// What an entry is worth.
pub(crate) trait Evict {
    /// See [`Rank`].
    fn rank(&self) -> Rank;
}

impl<K: Copy + Eq + Hash, V: Evict> Table<K, V> {
    /// An empty table of at most `limit` entries, one at least and some 16 million at most.
    pub(crate) fn new(limit: usize, seed: u64) -> Self {
        Self {
            index: Index::default(),
            seed,
            slots: Vec::new(),
            free: Vec::new(),
            limit: limit.clamp(1, PLACES),
            hand: 0,
        }
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Where a key is.
    pub(crate) fn find(&self, key: &K) -> Option<u32> {
        self.index.find(hash(self.seed, key), |place| {
            self.slots.get(place as usize).is_some_and(|slot| slot.key == *key)
        })
    }

    /// The key of the entry at a place.
    pub(crate) fn key_at(&self, place: u32) -> Option<&K> {
        let slot = self.slots.get(place as usize)?;
        slot.value.as_ref().map(|_| &slot.key)
    }

    /// The entry at a place that [`Table::find`] or [`Table::insert`] gave, if it still holds one.
    pub(crate) fn at(&self, place: u32) -> Option<&V> {
        self.slots.get(place as usize)?.value.as_ref()
    }

    /// Like [`Table::at`], and marks the entry as used.
    pub(crate) fn at_mut(&mut self, place: u32) -> Option<&mut V> {
        let slot = self.slots.get_mut(place as usize)?;
        slot.used = true;
        slot.value.as_mut()
    }

    /// The entry of a key.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.at(self.find(key)?)
    }

    /// The entry of a key, marked as used.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.at_mut(self.find(key)?)
    }

    /// Puts an entry in place of whatever the key had. Returns its place and the entry of another key that had to go.
    pub(crate) fn insert(&mut self, key: K, value: V) -> (u32, Option<(K, V)>) {
        if let Some(place) = self.find(&key) {
            if let Some(old) = self.at_mut(place) {
                *old = value;
            }
            return (place, None);
        }
        let (place, evicted) = self.room();
        let slot = Slot {
            key,
            value: Some(value),
            used: true,
        };
        if let Some(old) = self.slots.get_mut(place as usize) {
            *old = slot;
        } else {
            self.slots.push(slot);
        }
        let (seed, slots) = (self.seed, &self.slots);
        let hash_of = |place: u32| slots.get(place as usize).map_or(0, |slot| hash(seed, &slot.key));
        self.index.insert(hash(seed, &key), place, hash_of);
        (place, evicted)
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.unlist(key)?;
        self.free.push(place);
        self.slots.get_mut(place as usize)?.value.take()
    }

    /// All entries, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots
            .iter()
            .filter_map(|slot| slot.value.as_ref().map(|value| (&slot.key, value)))
    }

    /// All values, to change them. Does not count as use.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_mut())
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.index.clear();
        self.slots.clear();
        self.free.clear();
        self.hand = 0;
    }

    /// Takes a key out of the index; its place.
    fn unlist(&mut self, key: &K) -> Option<u32> {
        let (seed, slots) = (self.seed, &self.slots);
        let same = |place: u32| slots.get(place as usize).is_some_and(|slot| slot.key == *key);
        let hash_of = |place: u32| slots.get(place as usize).map_or(0, |slot| hash(seed, &slot.key));
        self.index.remove(hash(seed, key), same, hash_of)
    }

    /// A free place: a fresh one, one that was given back, or somebody's.
    fn room(&mut self) -> (u32, Option<(K, V)>) {
        if let Some(place) = self.free.pop() {
            return (place, None);
        }
        if self.slots.len() < self.limit {
            return (self.slots.len() as u32, None);
        }
        let mut candidate: Option<(Rank, usize)> = None;
        for _ in 0..SEARCH.min(self.slots.len()) {
            let slot = &mut self.slots[self.hand];
            let rank = slot.value.as_ref().map_or(Rank::Idle, Evict::rank);
            if rank == Rank::Idle && !slot.used {
                candidate = Some((rank, self.hand));
                break;
            }
            if candidate.is_none_or(|(best, _)| rank < best) {
                candidate = Some((rank, self.hand));
            }
            slot.used = false;
            self.hand = (self.hand + 1) % self.slots.len();
        }
        let place = candidate.map_or(self.hand, |(_, place)| place);
        self.hand = (place + 1) % self.slots.len();
        let key = self.slots[place].key;
        self.unlist(&key);
        let slot = &mut self.slots[place];
        (place as u32, slot.value.take().map(|value| (slot.key, value)))
    }
}

/// The hash of a key, which starts from a secret.
fn hash(seed: u64, key: &impl Hash) -> u32 {
    let mut hasher = FoldHasher {
        state: seed ^ 0x9e37_79b9_7f4a_7c15,
        seed,
    };
    key.hash(&mut hasher);
    hasher.finish() as u32
}

/// Folded multiplication of 64 by 64 to 128 bits, once a word: not cryptographic, fast, and keyed.
struct FoldHasher {
    state: u64,
    seed: u64,
}

impl FoldHasher {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.seed | 0x2545_f491_4f6c_dd1d);
        self.state = (product as u64) ^ ((product >> 64) as u64).rotate_left(23) ^ word;
    }
}

impl Hasher for FoldHasher {
    fn finish(&self) -> u64 {
        let product = u128::from(self.state) * 0xd6e8_feb8_6659_fd93_u128;
        (product as u64) ^ ((product >> 64) as u64)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    /// The number of a variant: few, so that a step of the secret for each tells them apart.
    fn write_isize(&mut self, word: isize) {
        let step = (word.unsigned_abs() as u64).wrapping_add(1).wrapping_mul(self.seed | 1);
        self.state = self.state.wrapping_add(step);
    }
}

#[cfg(test)]
mod tests {
    use super::{Evict, Rank, Table};

    #[derive(Clone, Debug, PartialEq)]
    struct Entry(bool);
    impl Evict for Entry {
        fn rank(&self) -> Rank {
            Rank::of(!self.0, false)
        }
    }

    #[test]
    fn full_table_gives_up_an_idle_entry_before_one_in_use() {
        let mut table = Table::new(8, 1);
        for key in 0..8_u64 {
            table.insert(key, Entry(key == 5));
        }
        let (_, evicted) = table.insert(100, Entry(false));
        assert_eq!(evicted, Some((5, Entry(true))));
        assert!(table.get(&5).is_none());
        assert_eq!(table.len(), 8);
    }

    #[test]
    fn full_table_of_entries_in_use_stays_within_its_limit() {
        let mut table = Table::new(4, 1);
        for key in 0..1000_u64 {
            table.insert(key, Entry(false));
            assert!(table.len() <= 4);
            assert!(table.get(&key).is_some());
        }
    }

    #[test]
    fn removed_place_is_used_again() {
        let mut table = Table::new(4, 1);
        let (place, _) = table.insert(1_u64, Entry(true));
        assert_eq!(table.remove(&1), Some(Entry(true)));
        assert!(table.at(place).is_none());
        assert_eq!(table.insert(2, Entry(false)).0, place);
        assert_eq!(table.remove(&1), None);
    }
}
