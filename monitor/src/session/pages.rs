//! Which physical page is behind the address of a lock. If the page has changed, the memory was freed and used anew,
//! and the records of the locks in it no longer hold.
//!
//! Talks to nothing. It must not know what a lock is. A hit looks at one slot of a table of fixed size. If two pages
//! share a slot the older one is forgotten, and a change of it is not noticed.

use crate::vmi::PAGE_SIZE;

/// Slots; a power of two. A driver's locks lie in some tens of pages.
const SLOTS: usize = 4096;

/// A page of addresses, and the page of physical memory that was behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    virtual_page: u64,
    physical_page: u64,
}

/// The pages in which lock words were read last.
#[derive(Debug)]
pub(crate) struct LockPages(Box<[Option<Page>]>);

impl Default for LockPages {
    fn default() -> Self {
        Self(vec![None; SLOTS].into_boxed_slice())
    }
}

impl LockPages {
    /// A lock word was read at a guest virtual address, and was at this physical one. The address of the page, if there was
    /// another one behind it before.
    pub(crate) fn seen(&mut self, address: u64, physical: u64) -> Option<u64> {
        let page = Page {
            virtual_page: address / PAGE_SIZE,
            physical_page: physical / PAGE_SIZE,
        };
        // The low bits tell neighbours apart, the others what lies far from each other.
        let slot = (page.virtual_page ^ page.virtual_page >> 12 ^ page.virtual_page >> 24) as usize % SLOTS;
        let before = self.0.get_mut(slot)?.replace(page)?;
        let changed = before.virtual_page == page.virtual_page && before.physical_page != page.physical_page;
        changed.then_some(page.virtual_page * PAGE_SIZE)
    }

    /// The machine starts again.
    pub(crate) fn forget(&mut self) {
        self.0.fill(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_physical_page_is_news() {
        let mut pages = LockPages::default();
        assert_eq!(pages.seen(0xffff_8000_0000_1008, 0x7008), None);
        assert_eq!(pages.seen(0xffff_8000_0000_1ff0, 0x7ff0), None);
        assert_eq!(pages.seen(0xffff_8000_0000_2008, 0x9008), None);
        assert_eq!(pages.seen(0xffff_8000_0000_1010, 0x8010), Some(0xffff_8000_0000_1000));
        assert_eq!(pages.seen(0xffff_8000_0000_1010, 0x8010), None);
        pages.forget();
        assert_eq!(pages.seen(0xffff_8000_0000_1010, 0x7010), None);
    }

    #[test]
    fn pages_that_meet_in_a_slot_are_not_taken_for_each_other() {
        let mut pages = LockPages::default();
        for page in 0..3 * SLOTS as u64 {
            assert_eq!(pages.seen(page * PAGE_SIZE, page * 2 * PAGE_SIZE), None);
        }
    }
}
