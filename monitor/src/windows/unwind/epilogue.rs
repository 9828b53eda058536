//! Unwinds a frame that is stopped within an epilogue: the unwind codes no longer hold there, so the rest of the
//! epilogue is executed on the registers instead. The forms of an epilogue are fixed by the calling convention: release
//! of the fixed allocation, pops, then a return or a jump out of the function.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::super::image::Image;
use super::tables::{Function, UnwindError, pop_return_address};
use super::{Context, RSP};
use crate::vmi::{GuestMemory, PAGE_SIZE};

/// Eight pops, an addition and a return fit.
const MAX_BYTES: usize = 64;

/// If the frame is in an epilogue, the state of its caller.
pub(super) fn finish(
    memory: &(impl GuestMemory + ?Sized),
    image: &Image,
    function: Function,
    context: &Context,
) -> Result<Option<Context>, UnwindError> {
    let mut bytes = [0; MAX_BYTES];
    let end = image.address(function.end);
    let in_function = usize::try_from(end.saturating_sub(context.rip)).unwrap_or(0);
    // The code on the next page may not be there; what is on this one is.
    let on_page = (PAGE_SIZE - context.rip % PAGE_SIZE) as usize;
    let whole = in_function.min(MAX_BYTES);
    let length = if memory.read(context.rip, &mut bytes[..whole]).is_ok() {
        whole
    } else {
        whole.min(on_page)
    };
    memory.read(context.rip, &mut bytes[..length])?;

    let decoder = Decoder::with_ip(64, &bytes[..length], context.rip, DecoderOptions::NONE);
    let mut state = *context;
    for (index, instruction) in decoder.into_iter().enumerate() {
        match instruction.mnemonic() {
            Mnemonic::Add | Mnemonic::Lea if index == 0 => match released(&instruction, &state) {
                Some(rsp) => state.gpr[RSP] = rsp,
                None => return Ok(None),
            },
            Mnemonic::Pop if instruction.code() == Code::Pop_r64 => {
                let rsp = state.gpr[RSP];
                let Some(slot) = state.gpr.get_mut(instruction.op0_register().number()) else {
                    return Ok(None);
                };
                *slot = memory.read_u64(rsp)?;
                state.gpr[RSP] = rsp.wrapping_add(8);
            }
            Mnemonic::Ret if instruction.op_count() == 0 => return Ok(Some(pop_return_address(memory, state)?)),
            Mnemonic::Jmp if leaves(&instruction, image, function) => {
                return Ok(Some(pop_return_address(memory, state)?));
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// RSP after `add rsp, constant` or `lea rsp, [register + constant]`.
fn released(instruction: &Instruction, state: &Context) -> Option<u64> {
    if instruction.op0_register() != Register::RSP {
        return None;
    }
    if instruction.mnemonic() == Mnemonic::Lea {
        let base = instruction.memory_base();
        let constant_only = instruction.memory_index() == Register::None && base.is_gpr64();
        let value = constant_only.then(|| state.gpr.get(base.number()).copied()).flatten()?;
        return Some(value.wrapping_add(instruction.memory_displacement64()));
    }
    let immediate = matches!(instruction.op1_kind(), OpKind::Immediate8to64 | OpKind::Immediate32to64);
    immediate.then(|| state.gpr[RSP].wrapping_add(instruction.immediate(1)))
}

/// Whether a jump leaves the function: only then it ends an epilogue.
fn leaves(instruction: &Instruction, image: &Image, function: Function) -> bool {
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch => image
            .rva(instruction.near_branch_target())
            .is_none_or(|rva| rva < function.begin || rva >= function.end || rva == function.begin),
        FlowControl::IndirectBranch => instruction.op0_kind() == OpKind::Memory,
        _ => false,
    }
}
