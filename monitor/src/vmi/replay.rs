//! The replay backend: a stopped processor that answers from a recording.
//!
//! Talks to the recording's plain types. It must not know why something is read: it gives the recorded answer to a
//! recorded read, and [`ReadError::NotRecorded`] to any other.

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;

use super::cpu::{ArmError, Breakpoint, CpuState, Interception, Registers, SpecialRegisters};
use super::memory::{GuestMemory, ReadError};
use super::recording::{RecordedRead, RecordedStop};

/// A processor as it was at one recorded stop.
#[derive(Debug)]
pub(crate) struct ReplayCpu<'a> {
    stop: &'a RecordedStop,
    next_read: Cell<usize>,
    next_arm: usize,
    /// Where a question was recorded first; built when questions come in another order than recorded.
    by_question: OnceCell<HashMap<(u64, u32), usize>>,
}

impl<'a> ReplayCpu<'a> {
    /// The processor at `stop`.
    #[must_use]
    pub(crate) fn new(stop: &'a RecordedStop) -> Self {
        Self {
            stop,
            next_read: Cell::new(0),
            next_arm: 0,
            by_question: OnceCell::new(),
        }
    }

    /// What the machine has answered to being changed.
    fn answer(&mut self) -> Result<(), ArmError> {
        let arm = self.stop.arms.get(self.next_arm);
        self.next_arm += 1;
        match arm {
            Some(None) => Ok(()),
            Some(Some(text)) => Err(ArmError(text.clone())),
            None => Err(ArmError("the recording has no answer to this".to_owned())),
        }
    }

    fn find(&self, gva: u64, length: u32) -> Option<&RecordedRead> {
        let asked = |read: &&RecordedRead| read.address == gva && read.length == length;
        let next = self.next_read.get();
        if let Some(read) = self.stop.reads.get(next).filter(asked) {
            self.next_read.set(next + 1);
            return Some(read);
        }
        let by_question = self.by_question.get_or_init(|| {
            let numbered = self.stop.reads.iter().enumerate().rev();
            numbered.map(|(i, read)| ((read.address, read.length), i)).collect()
        });
        let index = *by_question.get(&(gva, length))?;
        self.next_read.set(index + 1);
        self.stop.reads.get(index)
    }
}

impl GuestMemory for ReplayCpu<'_> {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read_at(gva, buf).map(|_| ())
    }

    fn read_at(&self, gva: u64, buf: &mut [u8]) -> Result<Option<u64>, ReadError> {
        let length = u32::try_from(buf.len()).map_err(|_| ReadError::NotRecorded(gva))?;
        let read = self.find(gva, length).ok_or(ReadError::NotRecorded(gva))?;
        match &read.result {
            Ok(bytes) if bytes.len() == buf.len() => {
                buf.copy_from_slice(bytes);
                Ok(read.physical)
            }
            Err(error) => Err(*error),
            Ok(_) => Err(ReadError::NotRecorded(gva)),
        }
    }
}

impl CpuState for ReplayCpu<'_> {
    fn index(&self) -> u32 {
        self.stop.vcpu
    }

    fn registers(&self) -> Registers {
        self.stop.registers
    }

    fn special(&self) -> SpecialRegisters {
        self.stop.special
    }
}

impl Interception for ReplayCpu<'_> {
    fn set_breakpoints(&mut self, _hooks: &[Breakpoint]) -> Result<(), ArmError> {
        self.answer()
    }

    fn end_msr_interception(&mut self) {}

    fn set_registers(&mut self, _registers: &Registers) -> Result<(), ArmError> {
        self.answer()
    }

    fn write_memory(&mut self, _gva: u64, _data: &[u8]) -> Result<(), ArmError> {
        self.answer()
    }

    fn check_executable(&mut self, _gva: u64, _length: u64) -> Result<(), ArmError> {
        self.answer()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(reads: Vec<RecordedRead>) -> RecordedStop {
        RecordedStop {
            vcpu: 0,
            reason: None,
            registers: Registers::default(),
            special: SpecialRegisters::default(),
            reads,
            arms: Vec::new(),
        }
    }

    fn word(address: u64, value: u64) -> RecordedRead {
        RecordedRead {
            address,
            length: 8,
            physical: None,
            result: Ok(value.to_le_bytes().to_vec()),
        }
    }

    #[test]
    fn one_address_read_twice_gives_both_values_in_order() {
        let stop = stop(vec![word(0x10, 1), word(0x10, 2)]);
        let cpu = ReplayCpu::new(&stop);
        assert_eq!(cpu.read_u64(0x10), Ok(1));
        assert_eq!(cpu.read_u64(0x10), Ok(2));
    }

    #[test]
    fn questions_in_another_order_are_answered_too() {
        let stop = stop(vec![word(0x10, 1), word(0x20, 2)]);
        let cpu = ReplayCpu::new(&stop);
        assert_eq!(cpu.read_u64(0x20), Ok(2));
        assert_eq!(cpu.read_u64(0x10), Ok(1));
    }

    #[test]
    fn the_physical_address_is_told_if_it_was_recorded() {
        let mut located = word(0x20, 2);
        located.physical = Some(0x7020);
        let stop = stop(vec![word(0x10, 1), located]);
        let cpu = ReplayCpu::new(&stop);
        let mut bytes = [0; 8];
        assert_eq!(cpu.read_at(0x10, &mut bytes), Ok(None));
        assert_eq!(cpu.read_at(0x20, &mut bytes), Ok(Some(0x7020)));
    }

    #[test]
    fn a_question_that_was_not_asked_has_no_answer() {
        let stop = stop(vec![word(0x10, 1)]);
        assert_eq!(ReplayCpu::new(&stop).read_u64(0x18), Err(ReadError::NotRecorded(0x18)));
    }
}
