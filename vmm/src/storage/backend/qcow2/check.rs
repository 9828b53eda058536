//! Checks every table of a qcow2 image before the image is written to, and corrects its reference counts if its last
//! user did not close it.
//!
//! imago believes what the tables say. If an entry leads to another table, or a cluster is in use and not counted,
//! imago would write a guest's data over the image's metadata. So this module counts every reference, from the tables
//! of the disk and of the internal snapshots, and compares the result with the counts in the image. The bytes that the
//! file holds bound the work: a table in a hole is empty and not read, and each table is read once, however many
//! entries lead to it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use super::header::TABLE_LIMIT;
use super::{COPIED, ENTRY, Header, PLACE, entry};
use crate::storage::backend::host_file::HostFile;

/// Clusters that are counted at a time: four bytes of memory each.
const WINDOW: u64 = 16 << 20;
/// In a count: the cluster is one of a table.
const TABLE: u32 = 1 << 31;
/// In a count: an entry of the disk says that it is the only one to refer to the cluster.
const SOLE: u32 = 1 << 30;
/// Most references that are counted to one cluster.
const COUNT: u32 = SOLE - 1;
/// In an entry of an L2 table: the data are compressed.
const COMPRESSED: u64 = 1 << 62;
/// Bytes of which compressed data have a whole number, but for their first.
const SECTOR: u64 = 512;
/// Bytes of an entry of the table of snapshots, without its strings.
const SNAPSHOT: u64 = 40;
/// Most further bytes of an entry of the table of snapshots, as QEMU has it.
const FURTHER_LIMIT: u64 = 1024;

/// What was put right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::storage::backend) struct Repaired {
    /// Clusters that are in use and were counted too low.
    pub(in crate::storage::backend) raised: u64,
    /// Clusters that nothing uses any more, or that were counted too high otherwise.
    pub(in crate::storage::backend) lowered: u64,
}

/// Checks the image, which is open for writing; one that is marked as in use is repaired.
///
/// # Errors
/// It is damaged, or cannot be read. Nothing was written to it then.
pub(in crate::storage::backend) fn check(file: &HostFile, header: &Header) -> io::Result<Repaired> {
    let mut check = Check::new(file, header)?;
    let found = check.go_through(false)?;
    if found == Repaired::default() {
        return Ok(found);
    }
    if !header.marked {
        return unmarked(found);
    }
    let repaired = check.go_through(true)?;
    file.sync()?;
    Ok(repaired)
}

/// What differs in an image that nobody says to have old counts.
fn unmarked(differing: Repaired) -> io::Result<Repaired> {
    if differing.raised == 0 {
        // Leaked clusters harm nobody.
        return Ok(Repaired::default());
    }
    damaged(format!(
        "{} clusters that are in use are not, or too seldom, counted as such",
        differing.raised
    ))
}

fn damaged<T>(text: impl Into<String>) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, text.into()))
}

/// A table of a place and a number of entries. Nothing is read of one in a hole.
fn read_table(file: &HostFile, (place, entries): (u64, u64)) -> io::Result<Vec<u64>> {
    let bytes = entries * ENTRY;
    if place
        .checked_add(bytes)
        .is_none_or(|end| end > file.length().saturating_add(2 << 20))
    {
        return damaged(format!("its table at {place:#x} is not within the file"));
    }
    if !file.has_data(place, bytes) {
        return Ok(Vec::new());
    }
    let mut table = vec![0; bytes as usize];
    file.peek(&mut table, place)?;
    Ok(table.chunks_exact(ENTRY as usize).map(entry).collect())
}

/// What leads to an L2 table.
#[derive(Default)]
struct Leads {
    count: u32,
    /// The disk's own L1 table does.
    from_disk: bool,
    /// It says that nothing else does.
    sole: bool,
}

struct Check<'a> {
    file: &'a HostFile,
    header: &'a Header,
    /// Places of the blocks of reference counts.
    blocks: Vec<u64>,
    /// Of which windows there are counts.
    windows: Vec<bool>,
    window: Range<u64>,
    /// For each cluster of the window.
    counts: Vec<u32>,
}

impl<'a> Check<'a> {
    fn new(file: &'a HostFile, header: &'a Header) -> io::Result<Self> {
        let blocks = read_table(file, header.blocks)?;
        let blocks: Vec<u64> = blocks.into_iter().map(|entry| entry & !(SECTOR - 1)).collect();
        let of_window = WINDOW / header.counts.in_block(header.cluster);
        let counts_something = |&block: &u64| block != 0 && file.has_data(block, header.cluster);
        let windows = blocks.chunks(of_window as usize);
        // The header is in the first one, whatever the blocks say.
        let windows = std::iter::once(true).chain(windows.skip(1).map(|blocks| blocks.iter().any(counts_something)));
        Ok(Self {
            windows: windows.collect(),
            file,
            header,
            blocks,
            window: 0..0,
            counts: Vec::new(),
        })
    }

    /// Goes through all that is counted, and puts it right if `repair` says so.
    fn go_through(&mut self, repair: bool) -> io::Result<Repaired> {
        let mut found = Repaired::default();
        for window in 0..self.windows.len() {
            let start = window as u64 * WINDOW;
            if self.windows[window] && start < self.clusters() {
                self.count(start..self.clusters().min(start + WINDOW))?;
                found = self.compare(repair, found)?;
            }
        }
        Ok(found)
    }

    /// Clusters of the file, with one that is not whole.
    fn clusters(&self) -> u64 {
        self.file.length().div_ceil(self.header.cluster)
    }

    /// Counts the references to the clusters of `window`.
    fn count(&mut self, window: Range<u64>) -> io::Result<()> {
        self.counts.clear();
        self.counts.resize((window.end - window.start) as usize, 0);
        self.window = window;
        self.add_table(0, self.header.cluster, "header")?;
        self.add_table(
            self.header.blocks.0,
            self.header.blocks.1 * ENTRY,
            "table of reference counts",
        )?;
        for index in 0..self.blocks.len() {
            let block = self.blocks[index];
            if block != 0 {
                self.add_table(block, self.header.cluster, "block of reference counts")?;
            }
        }
        let mut l2 = BTreeMap::new();
        self.add_l1(self.header.l1, true, &mut l2)?;
        for table in self.snapshots()? {
            self.add_l1(table, false, &mut l2)?;
        }
        for (&place, leads) in &l2 {
            self.add_table(place, self.header.cluster, "L2 table")?;
            self.add_references(place, leads.count - 1, leads.sole)?;
        }
        for (&place, leads) in &l2 {
            self.add_l2(place, leads)?;
        }
        Ok(())
    }

    /// The clusters of a table, which nothing else may be in.
    fn add_table(&mut self, place: u64, bytes: u64, name: &str) -> io::Result<()> {
        if place % self.header.cluster != 0 {
            return damaged(format!("its {name} at {place:#x} does not begin with a cluster"));
        }
        for cluster in 0..bytes.div_ceil(self.header.cluster) {
            let place = place.saturating_add(cluster * self.header.cluster);
            if let Some(count) = self.counted(place)? {
                if *count != 0 {
                    return damaged(format!("its {name} at {place:#x} lies where another table does"));
                }
                *count = TABLE + 1;
            }
        }
        Ok(())
    }

    /// The count of the cluster at `place`, if it is in the window.
    fn counted(&mut self, place: u64) -> io::Result<Option<&mut u32>> {
        let cluster = place / self.header.cluster;
        if cluster >= self.clusters() {
            return damaged(format!(
                "it refers to {place:#x}, and the file ends at {:#x}: somebody has cut it, or it was not copied to its end",
                self.file.length()
            ));
        }
        if !self
            .windows
            .get((cluster / WINDOW) as usize)
            .is_some_and(|counted| *counted)
        {
            return damaged(format!("it refers to {place:#x}, for which it has no reference counts"));
        }
        let index = cluster.checked_sub(self.window.start);
        Ok(index.and_then(|index| self.counts.get_mut(index as usize)))
    }

    /// `more` references to the cluster at `place`, of which an entry of the disk may say that they are one.
    fn add_references(&mut self, place: u64, more: u32, sole: bool) -> io::Result<()> {
        if let Some(count) = self.counted(place)? {
            let sum = (*count & COUNT).saturating_add(more).min(COUNT);
            *count = *count & !COUNT | sum | if sole { SOLE } else { 0 };
        }
        Ok(())
    }

    /// An L1 table with what it leads to.
    fn add_l1(&mut self, table: (u64, u64), of_disk: bool, l2: &mut BTreeMap<u64, Leads>) -> io::Result<()> {
        self.add_table(table.0, table.1 * ENTRY, "L1 table")?;
        for entry in read_table(self.file, table)? {
            let place = entry & PLACE;
            if entry & !(PLACE | COPIED) != 0 {
                return damaged(format!("its L1 table at {:#x} has the entry {entry:#x}", table.0));
            }
            if place != 0 {
                let leads = l2.entry(place).or_default();
                leads.count = leads.count.saturating_add(1).min(COUNT);
                leads.from_disk |= of_disk;
                leads.sole |= of_disk && entry & COPIED != 0;
            }
        }
        Ok(())
    }

    /// What the L2 table at `place` refers to.
    fn add_l2(&mut self, place: u64, leads: &Leads) -> io::Result<()> {
        let entries = self.header.cluster / ENTRY;
        for entry in read_table(self.file, (place, entries))? {
            if entry & COMPRESSED != 0 && entry & COPIED == 0 {
                self.add_compressed(entry, leads.count)?;
                continue;
            }
            let data = entry & PLACE;
            // The lowest bit: the data are zeroes.
            if entry & !(PLACE | COPIED | 1) != 0 || data % self.header.cluster != 0 {
                return damaged(format!("its L2 table at {place:#x} has the entry {entry:#x}"));
            }
            if data == 0 {
                continue;
            }
            self.add_data(data, leads.count)?;
            if leads.from_disk && entry & COPIED != 0 {
                self.add_references(data, 0, true)?;
            }
        }
        Ok(())
    }

    /// The clusters in which compressed data lie.
    fn add_compressed(&mut self, entry: u64, references: u32) -> io::Result<()> {
        // A cluster of 2^n bytes leaves the place 70 - n bits; the number of further sectors is above it.
        let bits = 70 - self.header.cluster.trailing_zeros();
        let place = entry & ((1 << bits) - 1) & (PLACE | (SECTOR - 1));
        let sectors = (entry & !(COPIED | COMPRESSED)) >> bits;
        let end = place - place % SECTOR + (sectors + 1) * SECTOR;
        let mut cluster = place - place % self.header.cluster;
        while cluster < end {
            self.add_data(cluster, references)?;
            cluster += self.header.cluster;
        }
        Ok(())
    }

    fn add_data(&mut self, place: u64, references: u32) -> io::Result<()> {
        if self.counted(place)?.is_some_and(|count| *count & TABLE != 0) {
            return damaged(format!(
                "it has the disk's data at {place:#x}, where one of its tables is"
            ));
        }
        self.add_references(place, references, false)
    }

    /// Places and sizes of the L1 tables of the snapshots.
    fn snapshots(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let (start, count) = self.header.snapshots;
        let (mut tables, mut at) = (Vec::new(), start);
        for _ in 0..count {
            let mut fixed = [0; SNAPSHOT as usize];
            self.file.peek(&mut fixed, at)?;
            let table = entry(&fixed);
            let numbers = entry(&fixed[8..]);
            let (entries, identifier, name) = (numbers >> 32, numbers >> 16 & 0xffff, numbers & 0xffff);
            let further = entry(&fixed[32..]) & 0xffff_ffff;
            if table % self.header.cluster != 0 || entries > TABLE_LIMIT || further > FURTHER_LIMIT {
                return damaged(format!(
                    "its snapshot at {at:#x} has an L1 table of {entries} entries at {table:#x}"
                ));
            }
            tables.push((table, entries));
            at += SNAPSHOT + (further + identifier + name).next_multiple_of(ENTRY);
        }
        if count > 0 {
            self.add_table(start, at - start, "table of snapshots")?;
        }
        Ok(tables)
    }

    /// Compares the counts of the window with those in the image, and has the latter put right if `repair` says so.
    fn compare(&self, repair: bool, mut found: Repaired) -> io::Result<Repaired> {
        let in_block = self.header.counts.in_block(self.header.cluster);
        let mut start = self.window.start;
        while start < self.window.end {
            let end = (start / in_block + 1) * in_block;
            self.compare_block(start..end.min(self.window.end), repair, &mut found)?;
            start = end;
        }
        Ok(found)
    }

    /// Compares the counts of `clusters`, which are all in one block.
    fn compare_block(&self, clusters: Range<u64>, repair: bool, found: &mut Repaired) -> io::Result<()> {
        let width = self.header.counts;
        let in_block = width.in_block(self.header.cluster);
        let place = self
            .blocks
            .get((clusters.start / in_block) as usize)
            .copied()
            .unwrap_or(0);
        let mut block = vec![0; if place == 0 { 0 } else { self.header.cluster as usize }];
        self.file.peek(&mut block, place)?;
        let before = *found;
        for cluster in clusters {
            let at = cluster * self.header.cluster;
            let count = self
                .counts
                .get((cluster - self.window.start) as usize)
                .copied()
                .unwrap_or(0);
            let (references, index) = (u64::from(count & COUNT), cluster % in_block);
            if count & SOLE != 0 && references > 1 {
                return damaged(format!(
                    "what is at {at:#x} has {references} references, and one says that it is alone"
                ));
            }
            let counted = width.get(&block, index);
            if counted == references {
                continue;
            }
            if place == 0 || references > width.largest() {
                return damaged(format!(
                    "it has no room to count the {references} references to {at:#x}"
                ));
            }
            if counted < references {
                found.raised += 1;
            } else if self.header.has_bitmaps {
                continue;
            } else {
                found.lowered += 1;
            }
            width.set(&mut block, index, references);
        }
        if repair && *found != before {
            self.file.store(&block, place)?;
        }
        Ok(())
    }
}
