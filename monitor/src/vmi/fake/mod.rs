//! A machine for tests: memory that a test fills, and stopped processors whose registers it sets. Unit tests use it,
//! and so do the fuzz targets, through the feature `fakes`.
//!
//! Talks to the traits of this module only. It must not know Windows, nor what a test is about.

mod machine;
mod memory;

use std::cell::RefCell;
use std::rc::Rc;

#[cfg(test)]
pub(crate) use self::machine::{DEBUG_REGISTERS, FakeProcessor};
pub use self::machine::{FakeMachine, FakeState};
pub use self::memory::Space;
use super::cpu::{ArmError, Breakpoint, CpuState, Interception, Registers, SpecialRegisters};
use super::memory::{GuestMemory, ReadError};

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
    /// No memory is executable, as far as it tells.
    pub(crate) no_code: bool,
}

impl GuestMemory for FakeCpu {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.space.borrow().read(gva, buf)
    }

    fn read_at(&self, gva: u64, buf: &mut [u8]) -> Result<Option<u64>, ReadError> {
        self.space.borrow().read_at(gva, buf)
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

    fn set_registers(&mut self, registers: &Registers) -> Result<(), ArmError> {
        self.registers = *registers;
        Ok(())
    }

    fn write_memory(&mut self, gva: u64, data: &[u8]) -> Result<(), ArmError> {
        let readable = self.space.borrow().read(gva, &mut vec![0; data.len()]);
        readable.map_err(|error| ArmError(error.to_string()))?;
        self.space.borrow_mut().write(gva, data);
        Ok(())
    }

    fn check_executable(&mut self, gva: u64, _length: u64) -> Result<(), ArmError> {
        let answer = Err(ArmError(format!("the page of {gva:#x} is not executable")));
        if self.no_code { answer } else { Ok(()) }
    }
}
