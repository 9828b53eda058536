//! Guest memory of pages that a test maps.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use crate::vmi::memory::{GuestMemory, PAGE_SIZE, PhysicalMemory, ReadError};

/// Virtual pages on physical ones. It counts how often and how much was read.
#[derive(Default, Clone)]
pub struct Space {
    /// Contents, by physical page number.
    frames: BTreeMap<u64, Vec<u8>>,
    /// Physical page numbers by virtual ones.
    map: BTreeMap<u64, u64>,
    /// The virtual pages whose physical address a reader is told.
    told: BTreeSet<u64>,
    /// The physical page that is mapped next.
    next: u64,
    pub(crate) reads: Cell<u64>,
    pub(crate) bytes: Cell<u64>,
}

impl Space {
    /// Physical memory in these stretches (address and length), all zero and mapped nowhere; pages from the one at
    /// `first` on are mapped as they are needed.
    pub(crate) fn with_memory(stretches: &[(u64, u64)], first: u64) -> Self {
        let pages = stretches
            .iter()
            .flat_map(|&(base, length)| base / PAGE_SIZE..(base + length) / PAGE_SIZE);
        Self {
            frames: pages.map(|page| (page, zeroes())).collect(),
            next: first / PAGE_SIZE,
            ..Self::default()
        }
    }

    /// Maps what is not mapped yet and writes.
    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        let (mut at, mut left) = (address, bytes);
        while !left.is_empty() {
            let start = (at % PAGE_SIZE) as usize;
            let (now, later) = left.split_at(left.len().min(PAGE_SIZE as usize - start));
            let next = self.next;
            let frame = *self.map.entry(at / PAGE_SIZE).or_insert(next);
            self.next += u64::from(frame == next);
            self.frames.entry(frame).or_insert_with(zeroes)[start..start + now.len()].copy_from_slice(now);
            (at, left) = (at + now.len() as u64, later);
        }
    }

    pub(crate) fn write_u64(&mut self, address: u64, value: u64) {
        self.write(address, &value.to_le_bytes());
    }

    pub(crate) fn unmap(&mut self, address: u64) {
        self.map.remove(&(address / PAGE_SIZE));
    }

    /// Puts a physical page behind the address, with what could be read there. A reader is told the physical address of no
    /// other page.
    pub(crate) fn back(&mut self, address: u64, physical: u64) {
        let (page, frame) = (address / PAGE_SIZE, physical / PAGE_SIZE);
        let old = self
            .map
            .insert(page, frame)
            .and_then(|old| self.frames.get(&old).cloned());
        self.frames.insert(frame, old.unwrap_or_else(zeroes));
        self.told.insert(page);
    }

    /// Where a virtual address leads.
    pub(crate) fn physical(&self, gva: u64) -> Option<u64> {
        let frame = self.map.get(&(gva / PAGE_SIZE))?;
        Some(frame * PAGE_SIZE + gva % PAGE_SIZE)
    }

    /// All physical pages, by address.
    pub(crate) fn frames(&self) -> BTreeMap<u64, Vec<u8>> {
        self.frames
            .iter()
            .map(|(page, bytes)| (page * PAGE_SIZE, bytes.clone()))
            .collect()
    }
}

fn zeroes() -> Vec<u8> {
    vec![0; PAGE_SIZE as usize]
}

impl GuestMemory for Space {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.reads.set(self.reads.get() + 1);
        self.bytes.set(self.bytes.get() + buf.len() as u64);
        for (offset, byte) in buf.iter_mut().enumerate() {
            let at = gva.checked_add(offset as u64).ok_or(ReadError::Invalid(gva))?;
            let frame = self.map.get(&(at / PAGE_SIZE)).and_then(|frame| self.frames.get(frame));
            *byte = frame.ok_or(ReadError::NotMapped(at))?[(at % PAGE_SIZE) as usize];
        }
        Ok(())
    }

    fn read_at(&self, gva: u64, buf: &mut [u8]) -> Result<Option<u64>, ReadError> {
        self.read(gva, buf)?;
        Ok(self.physical(gva).filter(|_| self.told.contains(&(gva / PAGE_SIZE))))
    }
}

impl PhysicalMemory for Space {
    fn stretches(&self) -> Vec<(u64, u64)> {
        let mut found: Vec<(u64, u64)> = Vec::new();
        for base in self.frames.keys().map(|page| page * PAGE_SIZE) {
            match found.last_mut() {
                Some((start, length)) if *start + *length == base => *length += PAGE_SIZE,
                _ => found.push((base, PAGE_SIZE)),
            }
        }
        found
    }

    fn read_physical(&self, gpa: u64, buf: &mut [u8]) -> bool {
        (gpa..)
            .zip(buf)
            .all(|(at, byte)| match self.frames.get(&(at / PAGE_SIZE)) {
                Some(frame) => {
                    *byte = frame[(at % PAGE_SIZE) as usize];
                    true
                }
                None => false,
            })
    }
}
