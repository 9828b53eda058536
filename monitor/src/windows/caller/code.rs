//! Decodes calls and jumps in machine code.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::super::modules::Modules;
use super::super::unwind::Function;
use crate::vmi::{GuestMemory, PAGE_SIZE, Registers};

/// As much of a function is decoded, in bytes. Callbacks of drivers are far smaller.
const MAX_FUNCTION: usize = 0x1_0000;
/// Without unwind information the end of a function is a guess, so less is decoded.
const MAX_LEAF: usize = 0x400;
/// The longest instruction.
const MAX_INSTRUCTION: usize = 15;
/// Bit n is set if a callee has to preserve register n: RBX, RSP, RBP, RSI, RDI, R12 to R15.
const NON_VOLATILE: u16 = 0b1111_0000_1111_1000;

/// Where a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Address(u64),
    Unknown,
}

/// How a function leads to a routine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Jump {
    /// Its first instruction is the jump: a thunk that a linker made for an import, no function of the source.
    Thunk,
    /// It jumps there from its body.
    FromFunction,
    /// It does not.
    None,
}

/// The target of the call instruction that ends at `return_address`; `None` if there is none.
pub(super) fn call_before(
    memory: &(impl GuestMemory + ?Sized),
    modules: &mut Modules,
    return_address: u64,
    registers: &Registers,
    routine: u64,
) -> Option<Target> {
    if let Some((call, setter)) = in_function(memory, modules, return_address) {
        return Some(target_of(memory, &call, setter.as_ref(), registers));
    }
    // Without the function's start it is not known where instructions begin: take an encoding only if it is the only
    // one that ends here, or if it calls the very routine.
    let mut found = Vec::new();
    for length in 2..=MAX_INSTRUCTION as u64 {
        let start = return_address.wrapping_sub(length);
        let mut bytes = [0; MAX_INSTRUCTION];
        let bytes = &mut bytes[..length as usize];
        if memory.read(start, bytes).is_err() {
            continue;
        }
        let instruction = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE).decode();
        if is_call(&instruction) && instruction.len() as u64 == length {
            let target = target_of(memory, &instruction, None, registers);
            if target == Target::Address(routine) {
                return Some(target);
            }
            if !found.contains(&target) {
                found.push(target);
            }
        }
    }
    match found[..] {
        [] => None,
        [target] => Some(target),
        _ => Some(Target::Unknown),
    }
}

/// Decodes the function around a return address up to it. Gives the call, and if it goes through a register, the last
/// instruction that set this register.
fn in_function(
    memory: &(impl GuestMemory + ?Sized),
    modules: &mut Modules,
    return_address: u64,
) -> Option<(Instruction, Option<Instruction>)> {
    let image = modules.image_at(memory, return_address.wrapping_sub(1))?;
    let function = Function::find(memory, image, return_address.wrapping_sub(1)).ok()??;
    let begin = image.address(function.begin);
    let length = usize::try_from(return_address.checked_sub(begin)?)
        .ok()
        .filter(|&length| length <= MAX_FUNCTION)?;
    let mut bytes = vec![0; length];
    memory.read(begin, &mut bytes).ok()?;
    let mut setters = Setters::default();
    for instruction in Decoder::with_ip(64, &bytes, begin, DecoderOptions::NONE) {
        if instruction.next_ip() == return_address {
            let call = is_call(&instruction).then_some(instruction)?;
            return Some((call, setters.of_operand(&call)));
        }
        setters.note(&instruction);
    }
    None
}

/// For each general register, the last instruction in code order that had it as its first operand.
#[derive(Default)]
struct Setters([Option<Instruction>; 16]);

impl Setters {
    fn note(&mut self, instruction: &Instruction) {
        let register = instruction.op0_register();
        if instruction.op_count() == 0 || !register.is_gpr() {
            return;
        }
        if let Some(slot) = self.0.get_mut(register.number()) {
            *slot = Some(*instruction);
        }
    }

    /// The instruction that set the register that a call or jump goes through.
    fn of_operand(&self, instruction: &Instruction) -> Option<Instruction> {
        let register = instruction.op0_register();
        register
            .is_gpr64()
            .then(|| self.0.get(register.number()).copied().flatten())
            .flatten()
    }
}

pub(in crate::windows) fn is_call(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::Call | FlowControl::IndirectCall
    )
}

fn target_of(
    memory: &(impl GuestMemory + ?Sized),
    call: &Instruction,
    setter: Option<&Instruction>,
    registers: &Registers,
) -> Target {
    if call.flow_control() == FlowControl::Call {
        return Target::Address(call.near_branch_target());
    }
    if let Some(target) = through_slot(memory, call) {
        return Target::Address(target);
    }
    let number = call.op0_register().number();
    if call.op0_kind() == OpKind::Register && call.op0_register().is_gpr64() {
        // A callee preserves it, so what it holds now is what it held at the call.
        if NON_VOLATILE >> number & 1 != 0 {
            return registers
                .gpr
                .get(number)
                .map_or(Target::Unknown, |&value| Target::Address(value));
        }
        // Anything may have become of it since, but not of the import slot that it was loaded from.
        if let Some(target) = setter.and_then(|setter| loaded_from_slot(memory, setter)) {
            return Target::Address(target);
        }
    }
    Target::Unknown
}

/// The pointer that an instruction loads from an import slot.
fn loaded_from_slot(memory: &(impl GuestMemory + ?Sized), setter: &Instruction) -> Option<u64> {
    (setter.mnemonic() == Mnemonic::Mov)
        .then(|| through_slot(memory, setter))
        .flatten()
}

/// The pointer in the slot at a fixed address that an instruction reads: an import slot.
fn through_slot(memory: &(impl GuestMemory + ?Sized), instruction: &Instruction) -> Option<u64> {
    let operand = if instruction.mnemonic() == Mnemonic::Mov {
        instruction.op1_kind()
    } else {
        instruction.op0_kind()
    };
    let fixed = operand == OpKind::Memory && instruction.memory_base() == Register::RIP;
    fixed
        .then(|| memory.read_u64(instruction.memory_displacement64()).ok())
        .flatten()
}

/// Whether the function at `function` contains a jump to `routine`, directly or through an import slot or thunk.
pub(super) fn jumps_to(
    memory: &(impl GuestMemory + ?Sized),
    modules: &mut Modules,
    function: u64,
    routine: u64,
) -> Jump {
    let known_end = modules.image_at(memory, function).and_then(|image| {
        let entry = Function::find(memory, image, function).ok()??;
        Some(image.address(entry.end))
    });
    let limit = known_end.map_or(MAX_LEAF, |end| {
        (end.saturating_sub(function) as usize).min(MAX_FUNCTION)
    });
    let bytes = read_code(memory, function, limit);
    let (mut reach, mut setters) = (function, Setters::default());
    for instruction in Decoder::with_ip(64, &bytes, function, DecoderOptions::NONE) {
        if instruction.is_invalid() {
            break;
        }
        let target = match instruction.flow_control() {
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => Some(instruction.near_branch_target()),
            FlowControl::IndirectBranch => through_slot(memory, &instruction).or_else(|| {
                setters
                    .of_operand(&instruction)
                    .and_then(|setter| loaded_from_slot(memory, &setter))
            }),
            _ => None,
        };
        setters.note(&instruction);
        if let Some(target) = target {
            if target == routine || thunk_target(memory, target) == Some(routine) {
                // Compilers describe the functions of the source for unwinding, linkers do not describe their thunks.
                let thunk = instruction.ip() == function && known_end.is_none();
                return if thunk { Jump::Thunk } else { Jump::FromFunction };
            }
            reach = reach.max(target.min(function.saturating_add(limit as u64)));
        }
        // Where the end is not known, code goes on only as far as something before it jumps.
        let falls_through = !matches!(
            instruction.flow_control(),
            FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Return
                | FlowControl::Interrupt
        );
        if known_end.is_none() && !falls_through && instruction.next_ip() > reach {
            break;
        }
    }
    Jump::None
}

/// Where a single jump through an import slot at this address leads.
fn thunk_target(memory: &(impl GuestMemory + ?Sized), address: u64) -> Option<u64> {
    let bytes = read_code(memory, address, MAX_INSTRUCTION);
    let instruction = Decoder::with_ip(64, &bytes, address, DecoderOptions::NONE).decode();
    (instruction.flow_control() == FlowControl::IndirectBranch)
        .then(|| through_slot(memory, &instruction))
        .flatten()
}

/// The code at an address, up to `limit` bytes and as far as pages are there.
fn read_code(memory: &(impl GuestMemory + ?Sized), address: u64, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < limit {
        let at = address.wrapping_add(bytes.len() as u64);
        let start = bytes.len();
        bytes.resize(start + ((PAGE_SIZE - at % PAGE_SIZE) as usize).min(limit - start), 0);
        if memory.read(at, &mut bytes[start..]).is_err() {
            bytes.truncate(start);
            break;
        }
    }
    bytes
}
