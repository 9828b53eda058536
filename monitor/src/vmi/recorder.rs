//! A stopped processor that notes everything that is read through it.
//!
//! Talks to any backend and to the recording's plain types. It must not know why something is read.

use std::cell::RefCell;

use super::cpu::{ArmError, Breakpoint, CpuState, CpuStop, Interception, Registers, SpecialRegisters, StoppedCpu};
use super::memory::{GuestMemory, ReadError};
use super::recording::{RecordedRead, RecordedStop};

/// Wraps a stopped processor for the length of one stop. With recording off it only passes on.
pub(crate) struct Recorder<'a> {
    cpu: &'a mut dyn StoppedCpu,
    reason: Option<CpuStop>,
    reads: Option<RefCell<Vec<RecordedRead>>>,
    arms: Vec<Option<String>>,
}

impl<'a> Recorder<'a> {
    /// Wraps `cpu`, which stopped for `reason`; notes what is read if `recording`.
    pub(crate) fn new(cpu: &'a mut dyn StoppedCpu, reason: Option<CpuStop>, recording: bool) -> Self {
        Self {
            cpu,
            reason,
            reads: recording.then(RefCell::default),
            arms: Vec::new(),
        }
    }

    /// Notes a read: where the bytes are in physical memory, as far as it was asked.
    fn note(&self, gva: u64, result: Result<Option<u64>, ReadError>, buf: &[u8]) {
        if let Some(reads) = &self.reads {
            reads.borrow_mut().push(RecordedRead {
                address: gva,
                length: buf.len() as u32,
                physical: result.ok().flatten(),
                result: result.map(|_| buf.to_vec()),
            });
        }
    }

    /// What was noted; `None` with recording off.
    pub(crate) fn finish(self) -> Option<RecordedStop> {
        let reads = self.reads?.into_inner();
        Some(RecordedStop {
            vcpu: self.cpu.index(),
            reason: self.reason,
            registers: self.cpu.registers(),
            special: self.cpu.special(),
            reads,
            arms: self.arms,
        })
    }
}

impl GuestMemory for Recorder<'_> {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let result = self.cpu.read(gva, buf);
        self.note(gva, result.map(|()| None), buf);
        result
    }

    fn read_at(&self, gva: u64, buf: &mut [u8]) -> Result<Option<u64>, ReadError> {
        let result = self.cpu.read_at(gva, buf);
        self.note(gva, result, buf);
        result
    }
}

impl CpuState for Recorder<'_> {
    fn index(&self) -> u32 {
        self.cpu.index()
    }

    fn registers(&self) -> Registers {
        self.cpu.registers()
    }

    fn special(&self) -> SpecialRegisters {
        self.cpu.special()
    }
}

impl Interception for Recorder<'_> {
    fn set_breakpoints(&mut self, breakpoints: &[Breakpoint]) -> Result<(), ArmError> {
        let result = self.cpu.set_breakpoints(breakpoints);
        if self.reads.is_some() {
            self.arms.push(result.as_ref().err().map(|e| e.0.clone()));
        }
        result
    }

    fn end_msr_interception(&mut self) {
        self.cpu.end_msr_interception();
    }
}
