//! A machine for tests: memory that a test fills, and a stopped processor whose registers it sets.
//!
//! Talks to the traits of this module only. It must not know Windows, nor what a test is about.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::cpu::{ArmError, Breakpoint, CpuState, Interception, Registers, SpecialRegisters};
use super::memory::{GuestMemory, PAGE_SIZE, ReadError};

/// Sparse memory that counts how often and how much was read.
#[derive(Default, Clone)]
pub(crate) struct Space {
    pages: BTreeMap<u64, Vec<u8>>,
    /// Physical page numbers by virtual ones.
    backing: BTreeMap<u64, u64>,
    pub(crate) reads: Cell<u64>,
    pub(crate) bytes: Cell<u64>,
}

impl Space {
    /// Maps what is not mapped yet and writes.
    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) {
        let mut at = address;
        let mut left = bytes;
        while !left.is_empty() {
            let start = (at % PAGE_SIZE) as usize;
            let (now, later) = left.split_at(left.len().min(PAGE_SIZE as usize - start));
            let page = self
                .pages
                .entry(at / PAGE_SIZE)
                .or_insert_with(|| vec![0; PAGE_SIZE as usize]);
            page[start..start + now.len()].copy_from_slice(now);
            (at, left) = (at + now.len() as u64, later);
        }
    }

    pub(crate) fn write_u64(&mut self, address: u64, value: u64) {
        self.write(address, &value.to_le_bytes());
    }

    pub(crate) fn unmap(&mut self, address: u64) {
        self.pages.remove(&(address / PAGE_SIZE));
    }

    /// Puts a physical page behind the address; without one it is told of no physical address.
    pub(crate) fn back(&mut self, address: u64, physical: u64) {
        self.backing.insert(address / PAGE_SIZE, physical / PAGE_SIZE);
    }
}

impl GuestMemory for Space {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.reads.set(self.reads.get() + 1);
        self.bytes.set(self.bytes.get() + buf.len() as u64);
        for (offset, byte) in buf.iter_mut().enumerate() {
            let at = gva.checked_add(offset as u64).ok_or(ReadError::Invalid(gva))?;
            let page = self.pages.get(&(at / PAGE_SIZE)).ok_or(ReadError::NotMapped(at))?;
            *byte = page[(at % PAGE_SIZE) as usize];
        }
        Ok(())
    }
}

impl Space {
    fn physical(&self, gva: u64) -> Option<u64> {
        let page = self.backing.get(&(gva / PAGE_SIZE))?;
        Some(page * PAGE_SIZE + gva % PAGE_SIZE)
    }
}

/// A stopped processor that takes every set of breakpoints, unless it is to refuse. Processors of one machine share their
/// memory.
#[derive(Default, Clone)]
pub(crate) struct FakeCpu {
    pub(crate) index: u32,
    pub(crate) space: Rc<RefCell<Space>>,
    pub(crate) registers: Registers,
    pub(crate) special: SpecialRegisters,
    /// Those in force.
    pub(crate) breakpoints: Vec<Breakpoint>,
    /// No set of breakpoints is taken any more.
    pub(crate) refuse: bool,
}

impl GuestMemory for FakeCpu {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.space.borrow().read(gva, buf)
    }

    fn read_at(&self, gva: u64, buf: &mut [u8]) -> Result<Option<u64>, ReadError> {
        self.read(gva, buf).map(|()| self.space.borrow().physical(gva))
    }
}

impl CpuState for FakeCpu {
    fn index(&self) -> u32 {
        self.index
    }

    fn registers(&self) -> Registers {
        self.registers
    }

    fn special(&self) -> SpecialRegisters {
        self.special
    }
}

impl Interception for FakeCpu {
    fn set_breakpoints(&mut self, breakpoints: &[Breakpoint]) -> Result<(), ArmError> {
        if self.refuse {
            return Err(ArmError("no".to_owned()));
        }
        self.breakpoints = breakpoints.to_vec();
        Ok(())
    }

    fn end_msr_interception(&mut self) {}
}
