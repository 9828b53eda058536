//! The order in which imago's writes reach a qcow2 image.
//!
//! After a kill, the image has all writes up to some moment; after a power cut, those before the last sync and any of
//! the later ones. Either way, what was flushed has to be there, and each cluster that the tables refer to has to be
//! counted, or the next user of the image allocates it again. imago orders most of its writes so, but it enters a new
//! table (L2 table, block of reference counts) while the count of the table's cluster is still in a buffer, and it has
//! no barriers. Therefore:
//!
//! - Before an entry of the L1 table or of the table of blocks, or a header that names other tables, goes to the file,
//!   the clusters that it refers to are counted there. imago's buffers hold the same counts; this only writes them
//!   earlier.
//! - *Links* (L2 tables and what is above them) and *contents* (everything else: data, new tables, counts) are synced
//!   before a write of the other kind. So a link never gets to the medium before what it leads to, and nothing is written
//!   to a cluster before the link that led to it is gone.
//! - imago takes an entry for written even if the write failed, and does not write it again. Such an entry is kept
//!   here, and no flush succeeds before it is in the file.
//! - A new table may be put where a link in the file still leads to: see [`WriteOrder::table_of`].
//! - The image is marked as in use from before its first change until it is closed in order.
//!
//! Talks to the file, within the system calls of a device worker.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;

use super::{COPIED, ENTRY, Header, MARK, MARK_AT, PLACE, entry};
use crate::storage::backend::host_file::HostFile;

/// What the writes since the last sync were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Contents,
    Links,
}

/// Orders the writes to one image; see the module.
#[derive(Debug)]
pub(in crate::storage::backend) struct WriteOrder {
    file: Arc<HostFile>,
    header: Header,
    /// The L1 table as it is in the file, or is to be there.
    l1: Vec<u64>,
    /// Places of the L2 tables.
    l2: HashSet<u64>,
    unsynced: Option<Kind>,
    /// Entries that could not be written, by their places.
    late: BTreeMap<u64, Vec<u8>>,
    /// The mark is in the file.
    marked: bool,
}

impl WriteOrder {
    /// For an image whose tables are sound.
    ///
    /// # Errors
    /// The L1 table cannot be read.
    pub(in crate::storage::backend) fn new(file: Arc<HostFile>, header: Header) -> io::Result<Self> {
        let mut order = Self {
            marked: header.marked,
            file,
            header,
            l1: Vec::new(),
            l2: HashSet::new(),
            unsynced: None,
            late: BTreeMap::new(),
        };
        order.read_l1()?;
        Ok(order)
    }

    fn read_l1(&mut self) -> io::Result<()> {
        let (place, entries) = self.header.l1;
        let mut table = vec![0; (entries * ENTRY) as usize];
        self.file.fill(&mut table, place)?;
        self.l1 = table.chunks_exact(ENTRY as usize).map(entry).collect();
        self.l2 = self.l1.iter().map(|entry| entry & PLACE).collect();
        self.l2.remove(&0);
        Ok(())
    }

    /// Where on the disk the L2 table ends that byte `at` of the disk belongs to, and whether imago makes a new one if that
    /// byte is changed.
    ///
    /// imago takes a free cluster for it without a look at whether the file still has links to it, which is otherwise its
    /// rule. So its buffers have to be written first.
    pub(in crate::storage::backend) fn table_of(&self, at: u64) -> (u64, bool) {
        let of_a_table = self.header.cluster * (self.header.cluster / ENTRY);
        let index = at / of_a_table;
        let entry = self.l1.get(index as usize).copied().unwrap_or(0);
        ((index + 1).saturating_mul(of_a_table), entry & COPIED == 0)
    }

    /// A write by imago.
    ///
    /// # Errors
    /// The host failed.
    pub(in crate::storage::backend) fn write(&mut self, data: &[u8], at: u64) -> io::Result<()> {
        self.mark()?;
        if at < self.header.cluster {
            return self.write_header(data, at);
        }
        if within(self.header.l1, at) || within(self.header.blocks, at) {
            return self.write_entries(data, at);
        }
        let cluster = at - at % self.header.cluster;
        if self.l2.contains(&cluster) {
            self.catch_up()?;
            self.turn(Kind::Links)?;
        } else {
            self.turn(Kind::Contents)?;
        }
        self.file.store(data, at)
    }

    /// Contents are about to be changed otherwise than by a write.
    ///
    /// # Errors
    /// The host failed.
    pub(in crate::storage::backend) fn before_contents(&mut self) -> io::Result<()> {
        self.mark()?;
        self.turn(Kind::Contents)
    }

    /// Everything that was written so far to the medium.
    ///
    /// # Errors
    /// The host failed.
    pub(in crate::storage::backend) fn sync(&mut self) -> io::Result<()> {
        self.catch_up()?;
        self.file.sync()?;
        self.unsynced = None;
        Ok(())
    }

    /// Takes the mark away, after everything was flushed.
    ///
    /// # Errors
    /// The host failed.
    pub(in crate::storage::backend) fn close(&mut self) -> io::Result<()> {
        self.sync()?;
        if self.marked {
            self.set_mark(false)?;
        }
        Ok(())
    }

    /// Whether the image says that it is in use.
    pub(in crate::storage::backend) fn is_marked(&self) -> bool {
        self.marked
    }

    fn mark(&mut self) -> io::Result<()> {
        if self.marked { Ok(()) } else { self.set_mark(true) }
    }

    fn set_mark(&mut self, mark: bool) -> io::Result<()> {
        let mut byte = [0];
        self.file.fill(&mut byte, MARK_AT)?;
        byte[0] = if mark { byte[0] | MARK } else { byte[0] & !MARK };
        self.file.store(&byte, MARK_AT)?;
        self.file.sync()?;
        self.marked = mark;
        Ok(())
    }

    /// Syncs what was written of the other kind.
    fn turn(&mut self, kind: Kind) -> io::Result<()> {
        if self.unsynced.is_some_and(|unsynced| unsynced != kind) {
            self.file.sync()?;
        }
        self.unsynced = Some(kind);
        Ok(())
    }

    /// Writes what could not be written before, which what is linked now may depend on: blocks of counts first.
    fn catch_up(&mut self) -> io::Result<()> {
        let blocks = self.header.blocks;
        let mut places: Vec<u64> = self.late.keys().copied().collect();
        places.sort_by_key(|&at| !within(blocks, at));
        for at in places {
            if let Some(entries) = self.late.get(&at).cloned() {
                self.enter(&entries, at)?;
                self.late.remove(&at);
            }
        }
        Ok(())
    }

    /// Puts entries in their place, after what they depend on.
    fn enter(&mut self, data: &[u8], at: u64) -> io::Result<()> {
        self.count_entries(data, at)?;
        self.turn(Kind::Links)?;
        self.file.store(data, at)
    }

    /// Entries of the L1 table or of the table of blocks.
    fn write_entries(&mut self, data: &[u8], at: u64) -> io::Result<()> {
        let written = self.catch_up().and_then(|()| self.enter(data, at));
        match &written {
            Ok(()) => self.late.remove(&at),
            Err(_) => self.late.insert(at, data.to_vec()),
        };
        if within(self.header.l1, at) {
            let first = ((at - self.header.l1.0) / ENTRY) as usize;
            for (known, new) in self.l1.iter_mut().skip(first).zip(data.chunks_exact(ENTRY as usize)) {
                let old = std::mem::replace(known, entry(new));
                self.l2.remove(&(old & PLACE));
                self.l2.extend(Some(*known & PLACE).filter(|&place| place != 0));
            }
        }
        written
    }

    /// Sees to it that what the entries, which are about to be written at `at`, refer to is counted in the file.
    fn count_entries(&mut self, data: &[u8], at: u64) -> io::Result<()> {
        for place in data.chunks_exact(ENTRY as usize).map(|bytes| entry(bytes) & PLACE) {
            if place != 0 {
                self.count(place, (data, at))?;
            }
        }
        Ok(())
    }

    /// Sees to it that the cluster at `place` is counted in the file. Its block has to be there already, and to be entered
    /// by the table of blocks or by what is about to be written: a block may count itself.
    fn count(&mut self, place: u64, (data, at): (&[u8], u64)) -> io::Result<()> {
        let (width, cluster) = (self.header.counts, place / self.header.cluster);
        let in_block = width.in_block(self.header.cluster);
        let (block, index) = (cluster / in_block, cluster % in_block);
        let mut pointer = [0; ENTRY as usize];
        if block < self.header.blocks.1 {
            let pointer_at = self.header.blocks.0 + block * ENTRY;
            self.file.fill(&mut pointer, pointer_at)?;
            let coming = pointer_at
                .checked_sub(at)
                .and_then(|offset| data.get(offset as usize..));
            if let Some(coming) = coming.and_then(|data| data.first_chunk()) {
                pointer = *coming;
            }
        }
        let block = entry(&pointer) & PLACE;
        if block == 0 {
            return Err(io::Error::other(format!(
                "the cluster at {place:#x} has no reference count in the image"
            )));
        }
        let bytes = width.place(index);
        // The bytes of that count alone, of which it is the first, or one of several in a byte.
        let index = index % width.in_block(bytes.end - bytes.start);
        let mut count = vec![0; (bytes.end - bytes.start) as usize];
        self.file.fill(&mut count, block + bytes.start)?;
        if width.get(&count, index) == 0 {
            width.set(&mut count, index, 1);
            self.turn(Kind::Contents)?;
            self.file.store(&count, block + bytes.start)?;
        }
        Ok(())
    }

    /// The header, or a part of it from the beginning on.
    fn write_header(&mut self, data: &[u8], at: u64) -> io::Result<()> {
        let mut data = data.to_vec();
        if let Some(byte) = MARK_AT.checked_sub(at).and_then(|index| data.get_mut(index as usize)) {
            *byte |= MARK;
        }
        let mut named = vec![0; MARK_AT as usize];
        self.file.fill(&mut named, 0)?;
        for (known, new) in named.iter_mut().skip(at as usize).zip(&data) {
            *known = *new;
        }
        let (old, new) = (self.header.clone(), self.header.with_places(&named));
        let moved = new.l1 != old.l1;
        // Their own blocks are among the new ones.
        self.header = new;
        let written = self.catch_up().and_then(|()| self.count_tables()).and_then(|()| {
            self.turn(Kind::Links)?;
            self.file.store(&data, at)
        });
        if written.is_err() {
            self.header = old;
        } else if moved {
            self.read_l1()?;
        }
        written
    }

    /// Sees to it that the tables that the header names are counted in the file.
    fn count_tables(&mut self) -> io::Result<()> {
        for (place, entries) in [self.header.l1, self.header.blocks] {
            for cluster in 0..(entries * ENTRY).div_ceil(self.header.cluster) {
                self.count(place + cluster * self.header.cluster, (&[], 0))?;
            }
        }
        Ok(())
    }
}

/// Whether `at` lies within a table of a place and a number of entries.
fn within((place, entries): (u64, u64), at: u64) -> bool {
    at.checked_sub(place).is_some_and(|offset| offset < entries * ENTRY)
}
