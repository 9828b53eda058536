//! The ring of records in the guest's memory, as the host reads it.
//!
//! The guest can write anything there at any time: what is read is checked, a read is bounded, and nothing that is found
//! here is used as an address of the host.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::layout::{self, field};
use super::record::Record;
use crate::vmi::{PAGE_SIZE, SharedMemory};

/// The guest memory that the hooks share, by the guest physical addresses of its pages.
#[derive(Clone)]
pub(crate) struct Region {
    base: u64,
    pages: Vec<u64>,
    memory: Arc<dyn SharedMemory>,
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Region {
    /// The memory at guest virtual address `base`, which begins a page, with the physical addresses of its pages.
    pub(crate) fn new(base: u64, pages: Vec<u64>, memory: Arc<dyn SharedMemory>) -> Self {
        Self { base, pages, memory }
    }

    /// The guest's memory.
    pub(crate) fn memory(&self) -> &dyn SharedMemory {
        &*self.memory
    }

    fn physical(&self, offset: u64) -> Option<u64> {
        let page = self.pages.get(usize::try_from(offset / PAGE_SIZE).ok()?)?;
        Some(page + offset % PAGE_SIZE)
    }

    /// Whether the stubs' code is at that guest virtual address.
    pub(crate) fn has_code_at(&self, address: u64) -> bool {
        let offset = address.wrapping_sub(self.base);
        (layout::CODE..layout::CODE + layout::CODE_BYTES).contains(&offset)
    }

    /// One quadword, in one piece; `None` if there is no memory any more.
    fn load(&self, offset: u64) -> Option<u64> {
        self.memory.load(self.physical(offset)?)
    }

    fn store(&self, offset: u64, value: u64) -> bool {
        self.physical(offset).is_some_and(|at| self.memory.store(at, value))
    }

    /// Writes bytes; `false` if there is no memory.
    #[must_use]
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        let (mut at, mut left) = (offset, bytes);
        while !left.is_empty() {
            let room = (PAGE_SIZE - at % PAGE_SIZE) as usize;
            let (now, later) = left.split_at(left.len().min(room));
            let written = self
                .physical(at)
                .is_some_and(|gpa| self.memory.write_physical(gpa, now));
            if !written {
                return false;
            }
            (at, left) = (at + now.len() as u64, later);
        }
        true
    }

    /// Has calls from a site written, or not any more; by [`super::site_key`].
    pub(crate) fn set_site(&self, key: u32, known: bool) {
        let at = layout::SITES + 4 * u64::from(key & 0xffff);
        // No key is 0 at a place of 0: that would be the site at address 0.
        let value = if known { key } else { !key };
        // Memory that is gone has no stubs either.
        let _ = self.write(at, &value.to_le_bytes());
    }
}

/// What comes next in a ring.
#[derive(Debug)]
pub(crate) enum Next {
    /// All is taken but what was [skipped](Ring::skip).
    Empty,
    /// A record was begun and is not finished.
    Pending,
    /// A call.
    Call(Box<Record>),
    /// The guest has written what no stub writes, or has taken the memory away.
    Broken,
}

/// A slot of a ring.
enum Slot {
    Unfinished,
    Finished,
    Broken,
}

/// The reader of a ring.
#[derive(Debug)]
pub(crate) struct Ring {
    region: Region,
    /// The number of the next record.
    next: u64,
    /// Earlier records that were not finished when others were taken: at most one for each slot.
    skipped: BTreeSet<u64>,
}

impl Ring {
    /// The ring of that memory, empty and open.
    pub(crate) fn new(region: Region) -> Self {
        region.store(layout::HEAD, 0);
        region.store(layout::TAIL, 0);
        Self {
            region,
            next: 0,
            skipped: BTreeSet::new(),
        }
    }

    /// The memory that it is in.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// How many records have been begun; `None` if there is no memory any more.
    pub(crate) fn begun(&self) -> Option<u64> {
        Some(self.region.load(layout::HEAD)? & !layout::CLOSED)
    }

    /// The number of the oldest record that is not taken. Its slot, and those of later ones, are not used again.
    fn oldest(&self) -> u64 {
        self.skipped.first().copied().unwrap_or(self.next)
    }

    /// Whether there is no room for a record.
    pub(crate) fn is_full(&self) -> bool {
        let begun = self.begun();
        begun.is_some_and(|begun| begun.wrapping_sub(self.oldest()) >= layout::RECORDS)
    }

    /// Has no record begun from here on. Processors leave the guest at each call meanwhile.
    pub(crate) fn close(&self) {
        if let Some(at) = self.region.physical(layout::HEAD) {
            self.region.memory.change_bits(at, layout::CLOSED, true);
        }
    }

    /// Has records begun again. All that were begun before are taken or skipped.
    ///
    /// One number is used up: a processor that has looked at the head before, and at a lock word, does not get the number
    /// that it would have got then, and looks again. If there is no room for one it would not have got it.
    pub(crate) fn open(&mut self) {
        if self.begun() == Some(self.next) && !self.is_full() {
            self.region.store(slot(self.next) + field::COMMIT, self.next + 1);
            self.next += 1;
            self.region.store(layout::TAIL, self.oldest());
            self.region.store(layout::HEAD, self.next);
        } else if let Some(at) = self.region.physical(layout::HEAD) {
            self.region.memory.change_bits(at, layout::CLOSED, false);
        }
    }

    /// Takes the next record before that with number `end`, in the order in which they were begun.
    pub(crate) fn next(&mut self, end: u64) -> Next {
        match end.wrapping_sub(self.oldest()) {
            0..=layout::RECORDS if end >= self.next => {}
            _ => return Next::Broken,
        }
        if end == self.next {
            return Next::Empty;
        }
        match self.look(self.next) {
            Slot::Finished => self.take(self.next),
            Slot::Unfinished => Next::Pending,
            Slot::Broken => Next::Broken,
        }
    }

    /// Goes on behind a record that is not finished. Its processor has not come to the routine, so that what comes after it
    /// may be taken before it.
    pub(crate) fn skip(&mut self) {
        self.skipped.insert(self.next);
        self.next += 1;
    }

    /// Takes one of the skipped records that is finished by now. Without its lock word, which may be older than the calls that
    /// were taken meanwhile.
    pub(crate) fn next_skipped(&mut self) -> Next {
        let finished = self
            .skipped
            .iter()
            .copied()
            .find(|&number| !matches!(self.look(number), Slot::Unfinished));
        let Some(number) = finished else { return Next::Empty };
        match self.look(number) {
            Slot::Finished => match self.take(number) {
                Next::Call(record) => Next::Call(Box::new(record.without_word())),
                other => other,
            },
            _ => Next::Broken,
        }
    }

    /// How many records are skipped and not taken.
    pub(crate) fn unfinished(&self) -> usize {
        self.skipped.len()
    }

    /// Whether the record that was begun next is finished, or spoilt.
    pub(crate) fn is_finished(&self) -> bool {
        !matches!(self.look(self.next), Slot::Unfinished)
    }

    fn look(&self, number: u64) -> Slot {
        // What a stub has left in that slot, one lap ago.
        let before = (number + 1).saturating_sub(layout::RECORDS);
        match self.region.load(slot(number) + field::COMMIT) {
            Some(committed) if committed == number + 1 => Slot::Finished,
            Some(committed) if committed == before => Slot::Unfinished,
            _ => Slot::Broken,
        }
    }

    fn take(&mut self, number: u64) -> Next {
        let mut bytes = [0; layout::RECORD_BYTES as usize];
        let read = self.region.physical(slot(number));
        let read = read.is_some_and(|gpa| self.region.memory.read_physical(gpa, &mut bytes));
        if !read {
            return Next::Broken;
        }
        if !self.skipped.remove(&number) {
            self.next = number + 1;
        }
        self.region.store(layout::TAIL, self.oldest());
        Next::Call(Box::new(Record::new(&bytes)))
    }
}

/// The offset of the record with that number.
fn slot(number: u64) -> u64 {
    layout::RING + number % layout::RECORDS * layout::RECORD_BYTES
}
