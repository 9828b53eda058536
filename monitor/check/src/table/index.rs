//! Finds the entries of a table by the hashes of their keys.
//!
//! The index has four bytes for each entry and no keys. A look-up in a large table reads one line of memory here, and
//! then the entry, whose key the caller compares. The index keeps only a few bits of each hash: enough to distinguish
//! most entries that share a place; whoever moves entries asks for the rest. It uses open addressing with linear
//! probing. A removal moves later entries of the same run up, so that no gap is left. It must not know the keys.

/// Places that an entry can have: 0 to one less than this.
pub(super) const PLACES: usize = (1 << PLACE_BITS) - 1;

const PLACE_BITS: u32 = 24;
/// The place plus one; 0: nothing is here.
const PLACE: u32 = (1 << PLACE_BITS) - 1;

/// The place of one entry, and above it the highest bits of its hash.
type Cell = u32;

const fn cell(hash: u32, place: u32) -> Cell {
    (hash & !PLACE) | (place + 1)
}

/// The places of the entries of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// A power of two of them, a quarter of them empty at least; none before the first entry.
    cells: Vec<Cell>,
    len: usize,
}

/// Cells of the first allocation.
const FIRST: usize = 16;

impl Index {
    /// Number of entries.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The place of the entry with this hash for which `same` holds.
    pub(super) fn find(&self, hash: u32, same: impl Fn(u32) -> bool) -> Option<u32> {
        self.cell(hash, same).map(|cell| (self.cells[cell] & PLACE) - 1)
    }

    /// Adds an entry, which must not be there yet. `place`: less than [`PLACES`]; `hash_of` tells the hashes of others.
    pub(super) fn insert(&mut self, hash: u32, place: u32, hash_of: impl Fn(u32) -> u32) {
        if (self.len + 1) * 4 > self.cells.len() * 3 {
            self.grow(hash_of);
        }
        self.len += 1;
        self.put(hash, place);
    }

    /// Takes out the entry with this hash for which `same` holds; its place. `hash_of` tells the hashes of others.
    pub(super) fn remove(
        &mut self,
        hash: u32,
        same: impl Fn(u32) -> bool,
        hash_of: impl Fn(u32) -> u32,
    ) -> Option<u32> {
        let mut gap = self.cell(hash, same)?;
        let place = (self.cells[gap] & PLACE) - 1;
        let mask = self.cells.len() - 1;
        let mut next = (gap + 1) & mask;
        while self.cells[next] & PLACE != 0 {
            let home = hash_of((self.cells[next] & PLACE) - 1) as usize & mask;
            let distance = next.wrapping_sub(home) & mask;
            if distance >= next.wrapping_sub(gap) & mask {
                self.cells[gap] = self.cells[next];
                gap = next;
            }
            next = (next + 1) & mask;
        }
        self.cells[gap] = 0;
        self.len -= 1;
        Some(place)
    }

    /// Takes out all entries.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn cell(&self, hash: u32, same: impl Fn(u32) -> bool) -> Option<usize> {
        let mask = self.cells.len().checked_sub(1)?;
        let mut number = hash as usize & mask;
        loop {
            let cell = self.cells[number];
            if cell & PLACE == 0 {
                return None;
            }
            if (cell ^ hash) & !PLACE == 0 && same((cell & PLACE) - 1) {
                return Some(number);
            }
            number = (number + 1) & mask;
        }
    }

    fn put(&mut self, hash: u32, place: u32) {
        let mask = self.cells.len() - 1;
        let mut number = hash as usize & mask;
        while self.cells[number] & PLACE != 0 {
            number = (number + 1) & mask;
        }
        self.cells[number] = cell(hash, place);
    }

    fn grow(&mut self, hash_of: impl Fn(u32) -> u32) {
        let cells = vec![0; (self.cells.len() * 2).max(FIRST)];
        for cell in std::mem::replace(&mut self.cells, cells) {
            if cell & PLACE != 0 {
                let place = (cell & PLACE) - 1;
                self.put(hash_of(place), place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Index;
    use std::collections::BTreeMap;

    /// Runs at both ends of the cells, and some that wrap around; alike in the bits that are kept, or not.
    fn hash_of(place: u32) -> u32 {
        [0, 1, 7, 7 << 24, u32::MAX, u32::MAX - 1][place as usize % 6]
    }

    /// Hashes that collide all the time, beside a map that does not know hashes.
    #[test]
    fn what_was_put_in_is_found_until_it_is_taken_out() {
        let mut random = 1_u64;
        let (mut index, mut model) = (Index::default(), BTreeMap::new());
        for step in 0..60_000_u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let place = (random >> 33) as u32 % 300;
            let hash = hash_of(place);
            if model.remove(&place).is_some() {
                assert_eq!(index.remove(hash, |at| at == place, hash_of), Some(place));
            } else if model.len() < 200 {
                index.insert(hash, place, hash_of);
                model.insert(place, hash);
            }
            assert_eq!(index.len(), model.len());
            if step % 64 == 0 {
                for place in 0..300 {
                    let found = index.find(hash_of(place), |at| at == place);
                    assert_eq!(found, model.contains_key(&place).then_some(place));
                }
            }
        }
        index.clear();
        assert_eq!(index.find(0, |_| true), None);
    }
}
