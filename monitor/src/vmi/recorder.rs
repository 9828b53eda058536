//! A stopped processor that notes everything that is read through it.
//!
//! Talks to any backend and to the recording's plain types. It must not know why something is read.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::cpu::{ArmError, Breakpoint, CpuState, CpuStop, Interception, Registers, SpecialRegisters, StoppedCpu};
use super::memory::{GuestMemory, ReadError};
use super::recording::{RecordedRead, RecordedStop};

/// Bytes of a pointer.
const QUADWORD: u64 = 8;

/// Wraps a stopped processor for the length of one stop. With recording off it only passes on.
pub(crate) struct Recorder<'a> {
    cpu: &'a mut dyn StoppedCpu,
    reason: Option<CpuStop>,
    reads: Option<RefCell<Vec<RecordedRead>>>,
    arms: Vec<Option<String>>,
    /// As they were at the stop, whatever they are changed to; with recording on.
    registers: Registers,
    missed: Cell<bool>,
    hidden: Hidden,
}

/// Pointers that this program has put into the guest, and what was there before.
pub(crate) type Hidden = Arc<Vec<(u64, u64)>>;

impl<'a> Recorder<'a> {
    /// Wraps `cpu`, which stopped for `reason`; notes what is read if `recording`.
    pub(crate) fn new(cpu: &'a mut dyn StoppedCpu, reason: Option<CpuStop>, recording: bool) -> Self {
        Self {
            missed: Cell::new(false),
            hidden: Hidden::default(),
            registers: if recording {
                cpu.registers()
            } else {
                Registers::default()
            },
            cpu,
            reason,
            reads: recording.then(RefCell::default),
            arms: Vec::new(),
        }
    }

    /// Has these pointers, wherever the guest has them, read as what they were.
    pub(crate) fn hiding(self, hidden: Hidden) -> Self {
        Self { hidden, ..self }
    }

    /// Has them read as they are, for the rest of the stop.
    pub(crate) fn uncover(&mut self) {
        self.hidden = Hidden::default();
    }

    /// What a pointer was.
    fn before(&self, pointer: u64) -> Option<u64> {
        let hidden = self.hidden.iter().find(|(hidden, _)| *hidden == pointer);
        hidden.map(|(_, before)| *before)
    }

    /// Shows the pointers of what was read as they were.
    fn cover(&self, gva: u64, buf: &mut [u8]) {
        if self.hidden.is_empty() {
            return;
        }
        let unaligned = (gva.wrapping_neg() % QUADWORD) as usize;
        let pointers = buf.get_mut(unaligned..).unwrap_or_default();
        for pointer in pointers.chunks_exact_mut(QUADWORD as usize) {
            let known = pointer
                .first_chunk()
                .and_then(|bytes| self.before(u64::from_le_bytes(*bytes)));
            if let Some(before) = known {
                pointer.copy_from_slice(&before.to_le_bytes());
            }
        }
    }

    /// Notes a read: where the bytes are in physical memory, as far as it was asked.
    fn note(&self, gva: u64, result: Result<Option<u64>, ReadError>, buf: &[u8]) {
        if let Err(ReadError::NotKept(_)) = result {
            self.missed.set(true);
        }
        if let Some(reads) = &self.reads {
            reads.borrow_mut().push(RecordedRead {
                address: gva,
                length: buf.len() as u32,
                physical: result.ok().flatten(),
                result: result.map(|_| buf.to_vec()),
            });
        }
    }

    /// Whether something of the stack was asked for that was not kept.
    pub(crate) fn has_missed(&self) -> bool {
        self.missed.get()
    }

    /// Sets that: what was asked since does not count.
    pub(crate) fn set_missed(&self, missed: bool) {
        self.missed.set(missed);
    }

    /// Notes what the machine has answered to being changed.
    fn answer(&mut self, result: Result<(), ArmError>) -> Result<(), ArmError> {
        if self.reads.is_some() {
            self.arms.push(result.as_ref().err().map(|e| e.0.clone()));
        }
        result
    }

    /// What was noted; `None` with recording off.
    pub(crate) fn finish(self) -> Option<RecordedStop> {
        let reads = self.reads?.into_inner();
        Some(RecordedStop {
            vcpu: self.cpu.index(),
            reason: self.reason,
            registers: self.registers,
            special: self.cpu.special(),
            reads,
            arms: self.arms,
        })
    }
}

impl GuestMemory for Recorder<'_> {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let result = self.cpu.read(gva, buf);
        self.cover(gva, buf);
        self.note(gva, result.map(|()| None), buf);
        result
    }

    fn read_at(&self, gva: u64, buf: &mut [u8]) -> Result<Option<u64>, ReadError> {
        let result = self.cpu.read_at(gva, buf);
        self.cover(gva, buf);
        self.note(gva, result, buf);
        result
    }
}

impl CpuState for Recorder<'_> {
    fn index(&self) -> u32 {
        self.cpu.index()
    }

    fn registers(&self) -> Registers {
        let mut registers = self.cpu.registers();
        for register in &mut registers.gpr {
            *register = self.before(*register).unwrap_or(*register);
        }
        registers
    }

    fn special(&self) -> SpecialRegisters {
        self.cpu.special()
    }
}

impl Interception for Recorder<'_> {
    fn set_breakpoints(&mut self, breakpoints: &[Breakpoint]) -> Result<(), ArmError> {
        let result = self.cpu.set_breakpoints(breakpoints);
        self.answer(result)
    }

    fn end_msr_interception(&mut self) {
        self.cpu.end_msr_interception();
    }

    fn set_registers(&mut self, registers: &Registers) -> Result<(), ArmError> {
        let result = self.cpu.set_registers(registers);
        self.answer(result)
    }

    fn write_memory(&mut self, gva: u64, data: &[u8]) -> Result<(), ArmError> {
        let result = self.cpu.write_memory(gva, data);
        self.answer(result)
    }

    fn check_executable(&mut self, gva: u64, length: u64) -> Result<(), ArmError> {
        let result = self.cpu.check_executable(gva, length);
        self.answer(result)
    }
}
