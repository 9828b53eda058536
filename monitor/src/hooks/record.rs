//! A record of a lock call, and the processor that made it as far as the record shows it.
//!
//! [`RecordCpu`] answers as the processor would have at the first instruction of the routine, so that whoever decodes a
//! call at a breakpoint decodes a record too. What the record has not kept of the caller's stack cannot be read: the
//! processor has run on, and something else may be there. All other memory is read as it is now.

use storlock_check::contract::{
    Contract, OperandPlaces, Place, QUEUE_HANDLE_LOCK, QUEUE_HANDLE_LOCK_FLAGS, Register, STOR_DPC_LOCK,
    STOR_HANDLE_LOCK, STOR_HANDLE_QUEUE,
};
use storlock_check::identity::DPC_LOCKS;

use super::layout::{RECORD_BYTES, field};
use crate::vmi::{
    ArmError, Breakpoint, CpuState, GuestMemory, Interception, ReadError, Registers, SharedMemory, SpecialRegisters,
};

/// `CurrentThread` from the GS base of a processor.
const THREAD: u64 = 0x188;
/// Bytes around the stack pointer that may be of the same stack: a kernel's are not larger, but for those of a few threads
/// that draw.
const STACK: u64 = 0x6000;
/// The longest read that may be of one value on a stack.
const VALUE: usize = 8;

/// In [`field::HAS_WORD`]: the word was read, and is too old.
const LOST: u32 = 2;

/// A record as the guest has written it.
#[derive(Debug)]
pub(crate) struct Record([u8; RECORD_BYTES as usize]);

impl Record {
    pub(super) fn new(bytes: &[u8; RECORD_BYTES as usize]) -> Self {
        Self(*bytes)
    }

    fn quadword(&self, offset: u64) -> u64 {
        let bytes = self.0.get(offset as usize..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn doubleword(&self, offset: u64) -> u32 {
        let bytes = self.0.get(offset as usize..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    /// The same call, and nothing known of the lock word.
    pub(super) fn without_word(mut self) -> Self {
        let at = field::HAS_WORD as usize;
        if let Some(has_word) = self.0.get_mut(at..at + 4) {
            has_word.copy_from_slice(&LOST.to_le_bytes());
        }
        self
    }

    /// Number of the stub.
    pub(crate) fn stub(&self) -> u32 {
        self.doubleword(field::STUB)
    }

    /// Number of the routine.
    pub(crate) fn routine(&self) -> u32 {
        self.doubleword(field::ROUTINE)
    }

    /// Number of the processor in the guest.
    pub(crate) fn processor(&self) -> u32 {
        self.doubleword(field::PROCESSOR)
    }

    /// Where the call returns to.
    pub(crate) fn return_address(&self) -> u64 {
        self.quadword(field::STACK)
    }

    /// The part of the stack that was kept.
    fn stack(&self) -> &[u8] {
        let count = u64::from(self.doubleword(field::COUNT)).min(field::MOST) as usize;
        self.0
            .get(field::STACK as usize..field::STACK as usize + 8 * count)
            .unwrap_or_default()
    }
}

/// What the stub has read of memory by the operands of a call: address, value and length of at most three.
type Values = [Option<(u64, u64, usize)>; 3];

/// The processor that has made a call, as its record shows it.
pub(crate) struct RecordCpu<'a> {
    record: &'a Record,
    index: u32,
    registers: Registers,
    special: SpecialRegisters,
    memory: &'a dyn SharedMemory,
    values: Values,
    /// The address of a lock word that is not known.
    lost: Option<u64>,
}

impl<'a> RecordCpu<'a> {
    /// The processor with that number, at the routine `rip`. `kernel` are the special registers of some processor in the
    /// kernel, by whose page tables memory is read.
    pub(crate) fn new(
        record: &'a Record,
        (index, rip): (u32, u64),
        row: &Contract,
        kernel: SpecialRegisters,
        memory: &'a dyn SharedMemory,
    ) -> Self {
        let mut registers = Registers {
            rip,
            rflags: record.quadword(field::FLAGS),
            ..Registers::default()
        };
        let arguments = [
            (1, field::RCX),
            (2, field::RDX),
            (4, field::RSP),
            (8, field::R8),
            (9, field::R9),
        ];
        let others = [0, 3, 5, 6, 7, 10, 11, 12, 13, 14, 15];
        let others = others.into_iter().zip((field::OTHERS..).step_by(8));
        for (register, place) in arguments.into_iter().chain(others) {
            registers.gpr[register] = record.quadword(place);
        }
        let (word, mut values) = values(record, &registers, row);
        let has_word = record.doubleword(field::HAS_WORD);
        values[0] = word
            .filter(|_| has_word == 1)
            .map(|at| (at, record.quadword(field::WORD), 8));
        let lost = word.filter(|_| has_word == LOST);
        Self {
            record,
            index,
            registers,
            special: SpecialRegisters {
                cr8: record.quadword(field::CR8),
                gs_base: record.quadword(field::PROCESSOR_BLOCK),
                cpl: 0,
                ..kernel
            },
            memory,
            values,
            lost,
        }
    }

    /// From what the record has; `None` if it is about memory that the record says nothing of.
    fn recorded(&self, gva: u64, buf: &mut [u8]) -> Option<Result<(), ReadError>> {
        let value = |address: u64, value: u64, length: usize| {
            let bytes = value.to_le_bytes();
            let offset = usize::try_from(gva.checked_sub(address)?).ok()?;
            bytes
                .get(..length)?
                .get(offset..offset.checked_add(buf.len())?)
                .map(<[u8]>::to_vec)
        };
        let thread = self.special.gs_base.wrapping_add(THREAD);
        let known = value(thread, self.record.quadword(field::THREAD), 8);
        let mut values = self.values.iter().flatten();
        let known = known.or_else(|| values.find_map(|&(address, known, length)| value(address, known, length)));
        if let Some(bytes) = known {
            buf.copy_from_slice(&bytes);
            return Some(Ok(()));
        }
        if self.lost.is_some_and(|word| gva.wrapping_sub(word) < VALUE as u64) {
            return Some(Err(ReadError::NotMapped(gva)));
        }
        let top = self.registers.rsp();
        if gva < top.saturating_sub(STACK) || gva >= top.saturating_add(STACK) {
            return None;
        }
        let offset = gva.checked_sub(top).and_then(|offset| usize::try_from(offset).ok());
        let kept = offset.and_then(|offset| self.record.stack().get(offset..offset.checked_add(buf.len())?));
        if let Some(kept) = kept {
            buf.copy_from_slice(kept);
            return Some(Ok(()));
        }
        // Who asks for more than a value is content with less.
        let value = gva >= top && buf.len() <= VALUE;
        let error = if value {
            ReadError::NotKept
        } else {
            ReadError::NotMapped
        };
        Some(Err(error(gva)))
    }
}

/// The address of the lock word, and the other values that the stub has read for this routine.
fn values(record: &Record, registers: &Registers, row: &Contract) -> (Option<u64>, Values) {
    let argument = |place: Place| match place {
        Place::Register(register) | Place::Narrow(register, _) => match register {
            Register::Rcx => registers.rcx(),
            Register::Rdx => registers.rdx(),
            Register::R8 => registers.r8(),
            Register::R9 => registers.r9(),
        },
        Place::Stack(_) => 0,
    };
    let is_kernel = |address: &u64| *address >> 63 == 1;
    let lock = record.quadword(field::HANDLE) & !QUEUE_HANDLE_LOCK_FLAGS;
    let kind = record.doubleword(field::KIND);
    let mut values: Values = [None; 3];
    let word = match row.operands {
        OperandPlaces::Address(lock) | OperandPlaces::Queued { lock, .. } => Some(argument(lock)),
        OperandPlaces::StorPort { kind, context, .. } => {
            let is_dpc = DPC_LOCKS.contains(&(argument(kind) as u32));
            is_dpc.then(|| argument(context).wrapping_add(STOR_DPC_LOCK))
        }
        OperandPlaces::QueuedHandle(handle) => {
            let handle = Some(argument(handle)).filter(is_kernel);
            values[1] = handle.map(|handle| {
                (
                    handle.wrapping_add(QUEUE_HANDLE_LOCK),
                    record.quadword(field::HANDLE),
                    8,
                )
            });
            handle.map(|_| lock)
        }
        OperandPlaces::StorPortHandle { handle, .. } => {
            let handle = Some(argument(handle)).filter(is_kernel);
            let field = |offset: u64| handle.map(|handle| handle.wrapping_add(offset));
            values[1] = field(STOR_HANDLE_QUEUE + QUEUE_HANDLE_LOCK).map(|at| (at, record.quadword(field::HANDLE), 8));
            values[2] = field(STOR_HANDLE_LOCK).map(|at| (at, u64::from(kind), 4));
            handle.filter(|_| DPC_LOCKS.contains(&kind)).map(|_| lock)
        }
        OperandPlaces::Msi { .. } | OperandPlaces::Interrupt(_) | OperandPlaces::Cancel => None,
    };
    (word, values)
}

impl GuestMemory for RecordCpu<'_> {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if let Some(known) = self.recorded(gva, buf) {
            return known;
        }
        self.memory.read_virtual(&self.special, gva, buf).map(|_| ())
    }

    fn read_at(&self, gva: u64, buf: &mut [u8]) -> Result<Option<u64>, ReadError> {
        // Where the address led at the call is not known: it may have been freed since, which belongs behind the call.
        self.read(gva, buf).map(|()| None)
    }
}

impl CpuState for RecordCpu<'_> {
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

impl Interception for RecordCpu<'_> {
    fn set_breakpoints(&mut self, _breakpoints: &[Breakpoint]) -> Result<(), ArmError> {
        Err(ArmError("the processor has run on".to_owned()))
    }

    fn end_msr_interception(&mut self) {}
}
