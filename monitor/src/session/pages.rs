//! Which physical page is behind the address of a lock. If the page has changed, the memory was freed and used anew,
//! and the records of the locks in it no longer hold. If it is behind another address, too, both are addresses of one lock.
//!
//! Talks to nothing. It must not know what a lock is. A hit looks at one slot of two tables of fixed size. If two pages
//! share a slot the older one is forgotten, and a change of it, or another address of it, is not noticed.

use crate::vmi::PAGE_SIZE;

/// Slots; a power of two. A driver's locks lie in some tens of pages.
const SLOTS: usize = 4096;

/// A page of addresses, and the page of physical memory that was behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    virtual_page: u64,
    physical_page: u64,
}

impl Page {
    /// The one of these two addresses.
    fn of(address: u64, physical: u64) -> Self {
        Self {
            virtual_page: address / PAGE_SIZE,
            physical_page: physical / PAGE_SIZE,
        }
    }
}

/// The pages in which lock words were read last.
#[derive(Debug)]
pub(crate) struct LockPages {
    by_virtual: Box<[Option<Page>]>,
    /// By the physical page: the addresses by which it was met first.
    by_physical: Box<[Option<Page>]>,
}

impl Default for LockPages {
    fn default() -> Self {
        let empty = || vec![None; SLOTS].into_boxed_slice();
        Self {
            by_virtual: empty(),
            by_physical: empty(),
        }
    }
}

/// The low bits tell neighbours apart, the others what lies far from each other.
fn slot(page: u64) -> usize {
    (page ^ page >> 12 ^ page >> 24) as usize % SLOTS
}

impl LockPages {
    /// A lock word was read at a guest virtual address, and was at this physical one. The address of the page, if there was
    /// another one behind it before.
    pub(crate) fn seen(&mut self, address: u64, physical: u64) -> Option<u64> {
        let page = Page::of(address, physical);
        let before = self.by_virtual.get_mut(slot(page.virtual_page))?.replace(page)?;
        let changed = before.virtual_page == page.virtual_page && before.physical_page != page.physical_page;
        changed.then_some(page.virtual_page * PAGE_SIZE)
    }

    /// The address by which the lock word at this guest virtual address, which is at this physical one, was met first; the
    /// same address if there is no other. `maps` says where an address leads now: what has led to the page may not any more.
    pub(crate) fn first_address(&mut self, address: u64, physical: u64, maps: impl Fn(u64) -> Option<u64>) -> u64 {
        let page = Page::of(address, physical);
        let Some(known) = self.by_physical.get_mut(slot(page.physical_page)) else {
            return address;
        };
        if let Some(first) = known.filter(|first| first.physical_page == page.physical_page) {
            let by_first = first.virtual_page * PAGE_SIZE + address % PAGE_SIZE;
            if first == page || maps(by_first) == Some(physical) {
                return by_first;
            }
        }
        *known = Some(page);
        address
    }

    /// The machine starts again.
    pub(crate) fn forget(&mut self) {
        self.by_virtual.fill(None);
        self.by_physical.fill(None);
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
    fn a_page_is_called_by_its_first_address_while_that_leads_there() {
        const FIRST: u64 = 0xffff_8000_0000_1008;
        const SECOND: u64 = 0xffff_9000_0000_5008;
        let mut pages = LockPages::default();
        let never = |_| -> Option<u64> { panic!("nothing else is known of the page") };
        assert_eq!(pages.first_address(FIRST, 0x7008, never), FIRST);
        assert_eq!(pages.first_address(SECOND, 0x7008, |_| Some(0x7008)), FIRST);
        assert_eq!(pages.first_address(SECOND + 8, 0x7010, |_| Some(0x7010)), FIRST + 8);
        assert_eq!(pages.first_address(FIRST, 0x7008, never), FIRST);
        // The first address leads elsewhere, or nowhere.
        assert_eq!(pages.first_address(SECOND, 0x7008, |_| Some(0x9008)), SECOND);
        assert_eq!(pages.first_address(SECOND, 0x7008, never), SECOND);
        assert_eq!(pages.first_address(FIRST, 0x7008, |_| None), FIRST);
        pages.forget();
        assert_eq!(pages.first_address(SECOND, 0x7008, never), SECOND);
    }

    #[test]
    fn pages_that_meet_in_a_slot_are_not_taken_for_each_other() {
        let mut pages = LockPages::default();
        for page in 0..3 * SLOTS as u64 {
            assert_eq!(pages.seen(page * PAGE_SIZE, page * 2 * PAGE_SIZE), None);
        }
    }
}
