//! What one instruction leaves in its first operand, as far as constants and addresses of imports tell.
//!
//! Talks to the decoder. It must not know the way by which the code came to the instruction.

use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind, Register};

use super::code::Code;
use super::values::{State, Value};

/// What an instruction gives whose result can be told.
pub(super) fn result(code: &Code, instruction: &Instruction, state: &State) -> Option<Value> {
    let to = instruction.op0_register();
    if instruction.op_count() == 0 || instruction.op0_kind() != OpKind::Register {
        return None;
    }
    let own = state.get(to);
    let other = || (instruction.op1_kind() == OpKind::Register).then(|| state.get(instruction.op1_register()))?;
    let same =
        instruction.op_count() == 2 && instruction.op1_kind() == OpKind::Register && instruction.op1_register() == to;
    let immediate = || immediate(instruction);
    let with = |operation: fn(u32, u32) -> u32| {
        let by = immediate()?;
        Some(own?.map(|value| operation(value, by)))
    };
    match instruction.mnemonic() {
        Mnemonic::Mov if !to.is_gpr64() && !to.is_gpr32() => None,
        Mnemonic::Mov => match instruction.op1_kind() {
            OpKind::Memory => loaded(code, instruction, to),
            OpKind::Register => other().filter(|value| to.is_gpr64() || value.slots == 0),
            _ => immediate().map(Value::constant),
        },
        Mnemonic::Xor | Mnemonic::Sub if same => own.map(|_| Value::constant(0)),
        Mnemonic::Sbb if same => own.map(|_| Value::constant(0).join(&Value::constant(u32::MAX))),
        Mnemonic::Add => with(u32::wrapping_add),
        Mnemonic::Sub => with(u32::wrapping_sub),
        Mnemonic::And => with(|value, mask| value & mask),
        Mnemonic::Or => with(|value, bits| value | bits),
        Mnemonic::Xor => with(|value, bits| value ^ bits),
        Mnemonic::Shl => with(u32::wrapping_shl),
        Mnemonic::Inc => own.map(|value| value.map(|value| value.wrapping_add(1))),
        Mnemonic::Dec => own.map(|value| value.map(|value| value.wrapping_sub(1))),
        Mnemonic::Neg => own.map(|value| value.map(u32::wrapping_neg)),
        Mnemonic::Not => own.map(|value| value.map(|value| !value)),
        Mnemonic::Lea => address(instruction, state),
        Mnemonic::Movsxd => other().map(|value| value.map(|value| value)),
        Mnemonic::Movzx => narrow(instruction, state),
        _ if is_conditional_move(instruction) => match instruction.op1_kind() {
            OpKind::Register => Some(own?.join(&other()?)),
            _ => None,
        },
        _ => None,
    }
    .filter(|_| to.is_gpr64() || to.is_gpr32())
    .or_else(|| set_byte(instruction, state))
}

/// What a load gives if it is that of an import.
fn loaded(code: &Code, instruction: &Instruction, to: Register) -> Option<Value> {
    let slot = instruction
        .is_ip_rel_memory_operand()
        .then(|| code.slot_at(instruction.ip_rel_memory_address()))??;
    to.is_gpr64().then(|| Value::slot(slot))
}

/// The immediate operand of an instruction with two operands.
fn immediate(instruction: &Instruction) -> Option<u32> {
    if instruction.op_count() != 2 {
        return None;
    }
    instruction.try_immediate(1).ok().map(|value| value as u32)
}

/// The result of a `lea` with a base register at most.
fn address(instruction: &Instruction, state: &State) -> Option<Value> {
    if instruction.is_ip_rel_memory_operand() || instruction.memory_index() != Register::None {
        return None;
    }
    let displacement = instruction.memory_displacement64() as u32;
    match instruction.memory_base() {
        Register::None => Some(Value::constant(displacement)),
        base => Some(state.get(base)?.map(|value| value.wrapping_add(displacement))),
    }
}

/// The result of a `movzx` from a register whose bits are known.
fn narrow(instruction: &Instruction, state: &State) -> Option<Value> {
    let from = instruction.op1_register();
    if instruction.op1_kind() != OpKind::Register {
        return None;
    }
    let high = matches!(from, Register::AH | Register::BH | Register::CH | Register::DH);
    let mask = match from.size() {
        1 if !high => 0xff,
        2 => 0xffff,
        _ => return None,
    };
    let whole = state.0.get(from.full_register().number())?;
    Some(whole.map(|value| value & mask))
}

/// `cmovcc` of whole registers.
fn is_conditional_move(instruction: &Instruction) -> bool {
    instruction.condition_code() != ConditionCode::None && instruction.op_count() == 2
}

/// The result of a `setcc`: the lowest byte becomes 0 or 1.
fn set_byte(instruction: &Instruction, state: &State) -> Option<Value> {
    let to = instruction.op0_register();
    let high = matches!(to, Register::AH | Register::BH | Register::CH | Register::DH);
    let sets = instruction.condition_code() != ConditionCode::None && instruction.op_count() == 1;
    if !sets || !to.is_gpr8() || high {
        return None;
    }
    let whole = state.0.get(to.full_register().number())?;
    let rest = whole.map(|value| value & !0xff);
    Some(rest.join(&rest.map(|value| value | 1)))
}
