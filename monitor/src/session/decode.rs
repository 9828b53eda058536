//! Makes an event from a hit: reads the operands of the lock call as its contract says.
//!
//! Talks to the contract table and to the stopped processor. It must not know what is legal, nor keep anything between
//! hits. The routine determines the number of guest reads: return address, thread, at most one stack argument, the
//! fields of a handle and one lock word.

use storlock_check::contract::{Contract, Place, QUEUE_HANDLE_LOCK_FLAGS, Register, Width};
use storlock_check::event::{Context, LockCall, LockOperand};

use crate::vmi::{CpuState, Registers};

/// Offset of `CurrentThread` from the GS base of a processor in kernel mode: `KPCR.Prcb` at 180h, `CurrentThread` at 8.
const CURRENT_THREAD: u64 = 0x188;
/// RFLAGS.IF.
const INTERRUPT_FLAG: u64 = 1 << 9;

/// Who runs on this processor, as seen at the first instruction of a routine.
pub(crate) fn context(cpu: &(impl CpuState + ?Sized)) -> Context {
    let return_address = read_quadword(cpu, cpu.registers().rsp()).unwrap_or(0);
    context_in(cpu, return_address)
}

/// Who runs on this processor right after a routine has returned. The instruction pointer is the return address then.
pub(crate) fn context_after(cpu: &(impl CpuState + ?Sized)) -> Context {
    context_in(cpu, cpu.registers().rip)
}

fn context_in(cpu: &(impl CpuState + ?Sized), return_address: u64) -> Context {
    let registers = cpu.registers();
    let special = cpu.special();
    let thread = special.gs_base.wrapping_add(CURRENT_THREAD);
    Context {
        processor: cpu.index(),
        irql: special.irql(),
        interrupts: registers.rflags & INTERRUPT_FLAG != 0,
        thread: read_quadword(cpu, thread).unwrap_or(0),
        stack_pointer: registers.rsp(),
        return_address,
    }
}

/// A call and its row of the contract table.
pub(crate) type Decoded = (LockCall, &'static Contract);

/// The call at the first instruction of the routines `rows`, without its lock word. `None`: a multiplexed export was called
/// for something else, or an operand is not readable without which nothing can be said.
pub(crate) fn lock_call(
    cpu: &(impl CpuState + ?Sized),
    rows: &[&'static Contract],
    context: Context,
) -> Option<Decoded> {
    lock_calls(cpu, rows, context).next()
}

/// Every call that this can be: more than one where several routines have one address.
pub(crate) fn lock_calls<'a>(
    cpu: &'a (impl CpuState + ?Sized),
    rows: &'a [&'static Contract],
    context: Context,
) -> impl Iterator<Item = Decoded> + 'a {
    let registers = cpu.registers();
    rows.iter()
        .filter(move |row| row.selected(|place| argument(cpu, &registers, place)))
        .filter_map(move |row| decode(cpu, &registers, row, context))
}

fn decode(
    cpu: &(impl CpuState + ?Sized),
    registers: &Registers,
    row: &'static Contract,
    context: Context,
) -> Option<Decoded> {
    let read = |place| argument(cpu, registers, place);
    let mut operand = row.decode(read)?;
    let named = Contract::handle_lock_field(&operand).and_then(|field| read_quadword(cpu, field));
    if let LockOperand::QueuedHandle { lock, .. } | LockOperand::StorPortHandle { lock, .. } = &mut operand {
        *lock = named.map(|value| value & !QUEUE_HANDLE_LOCK_FLAGS);
    }
    let of_kind = Contract::handle_kind_field(&operand).and_then(|field| cpu.read_u32(field).ok());
    if let LockOperand::StorPortHandle { kind, .. } = &mut operand {
        *kind = of_kind;
    }
    let call = LockCall {
        routine: row.routine,
        context,
        operand,
        old_irql: row.decode_old_irql(read),
        word: None,
    };
    Some((call, row))
}

/// The lock word of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockWord {
    /// What it holds.
    pub(crate) value: u64,
    /// Its guest virtual address, and the physical one if that is known.
    pub(crate) address: u64,
    pub(crate) physical: Option<u64>,
}

/// Reads the lock word of a call when the call gets its number, and not before: a word that is older than the events of
/// other processors before it would contradict them.
pub(crate) fn lock_word(cpu: &(impl CpuState + ?Sized), row: &Contract, operand: &LockOperand) -> Option<LockWord> {
    let (address, width) = row.lock_word(operand)?;
    let length = match width {
        Width::Byte => 1,
        Width::Dword => 4,
        Width::Qword => 8,
    };
    let mut bytes = [0; 8];
    let physical = cpu.read_at(address, bytes.get_mut(..length)?).ok()?;
    Some(LockWord {
        value: u64::from_le_bytes(bytes),
        address,
        physical,
    })
}

fn argument(cpu: &(impl CpuState + ?Sized), registers: &Registers, place: Place) -> Option<u64> {
    match place {
        Place::Register(register) | Place::Narrow(register, _) => Some(match register {
            Register::Rcx => registers.rcx(),
            Register::Rdx => registers.rdx(),
            Register::R8 => registers.r8(),
            Register::R9 => registers.r9(),
        }),
        Place::Stack(offset) => read_quadword(cpu, registers.rsp().checked_add(u64::from(offset))?),
    }
}

fn read_quadword(cpu: &(impl CpuState + ?Sized), address: u64) -> Option<u64> {
    cpu.read_u64(address).ok()
}
