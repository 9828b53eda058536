//! Builds the guest's first page tables.
//!
//! Works in a buffer of table pages, which the caller copies to guest memory. It must not know what is mapped. Source:
//! Intel SDM volume 3, 5.5.

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

pub(super) const PAGE: u64 = 4096;
pub(super) const LARGE_PAGE: u64 = 2 << 20;

type Table = [u64; 512];

/// Tables that will lie one after another from a guest-physical address.
pub(super) struct PageTables {
    base: u64,
    tables: Vec<Table>,
}

/// What one page maps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    pub(super) physical: u64,
    pub(super) writable: bool,
    pub(super) executable: bool,
}

impl Page {
    fn entry(self) -> u64 {
        // Marked accessed and dirty from the start: who looks at these bits looks at the kernel's own tables.
        let mut entry = self.physical | PRESENT | ACCESSED | DIRTY;
        if self.writable {
            entry |= WRITABLE;
        }
        if !self.executable {
            entry |= NO_EXECUTE;
        }
        entry
    }
}

impl PageTables {
    /// An empty page map level 4 at guest-physical `base`.
    pub(super) fn new(base: u64) -> Self {
        Self {
            base,
            tables: vec![[0; 512]],
        }
    }

    /// Maps a 4 KiB page.
    pub(super) fn map(&mut self, gva: u64, page: Page) {
        let table = self.table(gva, 1);
        self.tables[table][index(gva, 1)] = page.entry();
    }

    /// Maps a 2 MiB page.
    pub(super) fn map_large(&mut self, gva: u64, page: Page) {
        let table = self.table(gva, 2);
        self.tables[table][index(gva, 2)] = page.entry() | LARGE;
    }

    /// The table of `level` for `gva`, made if need be.
    fn table(&mut self, gva: u64, level: u32) -> usize {
        let mut table = 0;
        for above in (level + 1..=4).rev() {
            let entry = self.tables[table][index(gva, above)];
            table = if entry & PRESENT == 0 {
                let new = self.tables.len();
                self.tables.push([0; 512]);
                self.tables[table][index(gva, above)] = (self.base + new as u64 * PAGE) | PRESENT | WRITABLE | ACCESSED;
                new
            } else {
                (((entry & ADDRESS) - self.base) / PAGE) as usize
            };
        }
        table
    }

    /// Bytes of all tables together.
    pub(super) fn size(&self) -> u64 {
        self.tables.len() as u64 * PAGE
    }

    /// The tables as they have to lie at the base.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.tables
            .iter()
            .flatten()
            .flat_map(|entry| entry.to_le_bytes())
            .collect()
    }
}

fn index(gva: u64, level: u32) -> usize {
    (gva >> (12 + 9 * (level - 1))) as usize & 0x1ff
}
