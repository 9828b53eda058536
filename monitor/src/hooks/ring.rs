//! The ring of records in the guest's memory, as the host reads it.
//!
//! The guest can write anything there at any time: what is read is checked, a read is bounded, and nothing that is found
//! here is used as an address of the host.

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
    /// Nothing was begun.
    Empty,
    /// A record was begun and is not finished.
    Pending,
    /// A call.
    Call(Box<Record>),
    /// The guest has written what no stub writes, or has taken the memory away.
    Broken,
}

/// The reader of a ring.
#[derive(Debug)]
pub(crate) struct Ring {
    region: Region,
    /// The number of the next record.
    next: u64,
}

impl Ring {
    /// The ring of that memory, empty and open.
    pub(crate) fn new(region: Region) -> Self {
        region.store(layout::HEAD, 0);
        region.store(layout::TAIL, 0);
        Self { region, next: 0 }
    }

    /// The memory that it is in.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    fn head(&self) -> Option<u64> {
        Some(self.region.load(layout::HEAD)? & !layout::CLOSED)
    }

    /// Whether there is no room for a record.
    pub(crate) fn is_full(&self) -> bool {
        let head = self.head();
        head.is_some_and(|head| head.wrapping_sub(self.next) >= layout::RECORDS)
    }

    /// Has no record begun from here on, or has them begun again. Processors leave the guest at each call meanwhile.
    pub(crate) fn close(&self, closed: bool) {
        if let Some(at) = self.region.physical(layout::HEAD) {
            self.region.memory.change_bits(at, layout::CLOSED, closed);
        }
    }

    /// Takes the next record, in the order in which they were begun.
    pub(crate) fn next(&mut self) -> Next {
        let Some(head) = self.head() else {
            return Next::Broken;
        };
        match head.wrapping_sub(self.next) {
            0 => return Next::Empty,
            1..=layout::RECORDS => {}
            _ => return Next::Broken,
        }
        let at = layout::RING + self.next % layout::RECORDS * layout::RECORD_BYTES;
        let Some(committed) = self.region.load(at + field::COMMIT) else {
            return Next::Broken;
        };
        if committed != self.next + 1 {
            // What a stub has left there is the number of an earlier record.
            return if committed > self.next {
                Next::Broken
            } else {
                Next::Pending
            };
        }
        let mut bytes = [0; layout::RECORD_BYTES as usize];
        let read = self.region.physical(at);
        let read = read.is_some_and(|gpa| self.region.memory.read_physical(gpa, &mut bytes));
        if !read {
            return Next::Broken;
        }
        self.pass();
        Next::Call(Box::new(Record::new(&bytes)))
    }

    /// Whether the record that was begun next is finished.
    pub(crate) fn is_finished(&self) -> bool {
        let at = layout::RING + self.next % layout::RECORDS * layout::RECORD_BYTES;
        self.region.load(at + field::COMMIT) == Some(self.next + 1)
    }

    /// Gives a record up that was begun: its processor will not finish it.
    pub(crate) fn pass(&mut self) {
        self.next += 1;
        self.region.store(layout::TAIL, self.next);
    }
}
