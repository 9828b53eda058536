//! Executes the first instruction of a routine in the host, to get past its breakpoint without a single step.
//!
//! It takes only instructions whose effect on registers, flags and memory is simple and exactly known. It refuses all
//! others, and the caller single-steps them. Talks to registers and a view of guest memory; must not know KVM. Source:
//! Intel SDM volume 2 (the instruction pages, "Operation" and "Flags affected").
//!
//! The guest is hostile: each memory operand is checked by walking the guest's page tables. An access that would fault,
//! or that would make the processor change the tables (not present, read-only, not yet marked dirty), is refused.
#![forbid(unsafe_code)]

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, MemorySize, Mnemonic, OpKind, Register};

use crate::registers::{Registers, SpecialRegisters};

/// Longest x86 instruction in bytes.
pub(crate) const INSTRUCTION_LIMIT: usize = 15;

const FLAG_CF: u64 = 1 << 0;
const FLAG_PF: u64 = 1 << 2;
const FLAG_AF: u64 = 1 << 4;
const FLAG_ZF: u64 = 1 << 6;
const FLAG_SF: u64 = 1 << 7;
const FLAG_OF: u64 = 1 << 11;
const FLAGS_STATUS: u64 = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF;
/// RF and VM read as zero in the image that PUSHF stores.
const FLAGS_NOT_PUSHED: u64 = (1 << 16) | (1 << 17);
const EFER_LMA: u64 = 1 << 10;

/// The instruction cannot be executed in the host; step it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// Guest memory as the emulator sees it. An error means: let the processor do it.
pub(crate) trait Memory {
    /// Reads supervisor memory.
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Refused>;
    /// Writes supervisor memory that is writable and marked dirty already.
    fn write(&self, address: u64, data: &[u8]) -> Result<(), Refused>;
}

/// A decoded instruction and the bytes it was decoded from.
#[derive(Debug, Clone)]
pub(crate) struct FirstInstruction {
    bytes: [u8; INSTRUCTION_LIMIT],
    instruction: Instruction,
}

impl FirstInstruction {
    /// Decodes the instruction at `rip`.
    pub(crate) fn decode(code: &[u8], rip: u64) -> Result<Self, Refused> {
        let instruction = Decoder::with_ip(64, code, rip, DecoderOptions::NONE).decode();
        let length = instruction.len();
        if instruction.is_invalid() || length > code.len() {
            return Err(Refused);
        }
        let mut bytes = [0; INSTRUCTION_LIMIT];
        bytes[..length].copy_from_slice(&code[..length]);
        Ok(Self { bytes, instruction })
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.instruction.len()
    }

    /// Whether it was decoded from these bytes.
    pub(crate) fn is(&self, code: &[u8]) -> bool {
        code.get(..self.len()) == Some(&self.bytes[..self.len()])
    }

    /// Whether a single step would be visible: PUSHF stores the trap flag that the step sets.
    pub(crate) fn shows_trap_flag(&self) -> bool {
        matches!(self.instruction.code(), Code::Pushfq)
    }

    /// Executes it: changes `registers` (RIP included) and memory, or refuses and changes nothing.
    pub(crate) fn execute(
        &self,
        registers: &mut Registers,
        special: &SpecialRegisters,
        memory: &impl Memory,
    ) -> Result<(), Refused> {
        let long_kernel = special.efer & EFER_LMA != 0 && special.privilege() == 0;
        // LOCK and REP change what an instruction does; refuse them all.
        let plain = !self.instruction.has_lock_prefix()
            && !self.instruction.has_rep_prefix()
            && !self.instruction.has_repne_prefix();
        if !long_kernel || !plain {
            return Err(Refused);
        }
        let mut machine = Execution {
            instruction: &self.instruction,
            registers: *registers,
            special,
            memory,
        };
        machine.registers.rip = self.instruction.next_ip();
        machine.dispatch()?;
        *registers = machine.registers;
        Ok(())
    }
}

struct Execution<'a, M> {
    instruction: &'a Instruction,
    registers: Registers,
    special: &'a SpecialRegisters,
    memory: &'a M,
}

impl<M: Memory> Execution<'_, M> {
    fn dispatch(&mut self) -> Result<(), Refused> {
        match self.instruction.mnemonic() {
            Mnemonic::Nop | Mnemonic::Endbr64 | Mnemonic::Prefetchw | Mnemonic::Prefetch => Ok(()),
            Mnemonic::Push => {
                let value = self.operand(0)?;
                self.push(value)
            }
            Mnemonic::Pushfq => self.push(self.registers.rflags & !FLAGS_NOT_PUSHED),
            Mnemonic::Jmp if self.instruction.op0_kind() == OpKind::NearBranch64 => {
                self.registers.rip = self.instruction.near_branch64();
                Ok(())
            }
            Mnemonic::Jmp if self.instruction.memory_size() == MemorySize::QwordOffset => {
                let target = self.operand(0)?;
                if !crate::translate::is_canonical(target) {
                    return Err(Refused);
                }
                self.registers.rip = target;
                Ok(())
            }
            Mnemonic::Lea => {
                let address = self.address_of(0, 1)?;
                self.set_operand(0, address)
            }
            Mnemonic::Mov | Mnemonic::Movzx => {
                let value = self.operand(1)?;
                self.set_operand(0, value)
            }
            Mnemonic::Movsxd | Mnemonic::Movsx => {
                let value = self.operand(1)?;
                let value = sign_extend(value, self.operand_size(1)?);
                self.set_operand(0, value)
            }
            mnemonic => self.arithmetic(mnemonic),
        }
    }

    fn arithmetic(&mut self, mnemonic: Mnemonic) -> Result<(), Refused> {
        let known = matches!(
            mnemonic,
            Mnemonic::Add
                | Mnemonic::Sub
                | Mnemonic::Cmp
                | Mnemonic::Xor
                | Mnemonic::And
                | Mnemonic::Or
                | Mnemonic::Test
        );
        // A destination in memory would have to be read and written as one; nobody starts a routine so.
        let stores = !matches!(mnemonic, Mnemonic::Cmp | Mnemonic::Test);
        if !known || (stores && self.instruction.op0_kind() != OpKind::Register) {
            return Err(Refused);
        }
        let size = self.operand_size(0)?;
        let mask = mask(size);
        let (left, right) = (self.operand(0)? & mask, self.operand(1)? & mask);
        let sign = 1u64 << (8 * size - 1);
        let (result, carry, overflow) = match mnemonic {
            Mnemonic::Add => {
                let result = left.wrapping_add(right) & mask;
                (result, result < left, (left ^ result) & (right ^ result) & sign != 0)
            }
            Mnemonic::Sub | Mnemonic::Cmp => {
                let result = left.wrapping_sub(right) & mask;
                (result, left < right, (left ^ right) & (left ^ result) & sign != 0)
            }
            Mnemonic::Xor => (left ^ right, false, false),
            Mnemonic::Or => (left | right, false, false),
            _ => (left & right, false, false),
        };
        let adjust =
            matches!(mnemonic, Mnemonic::Add | Mnemonic::Sub | Mnemonic::Cmp) && (left ^ right ^ result) & 0x10 != 0;
        let flags = [
            (carry, FLAG_CF),
            ((result as u8).count_ones() % 2 == 0, FLAG_PF),
            (adjust, FLAG_AF),
            (result == 0, FLAG_ZF),
            (result & sign != 0, FLAG_SF),
            (overflow, FLAG_OF),
        ];
        if stores {
            self.set_operand(0, result)?;
        }
        let set: u64 = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
        self.registers.rflags = self.registers.rflags & !FLAGS_STATUS | set;
        Ok(())
    }

    fn push(&mut self, value: u64) -> Result<(), Refused> {
        // 16-bit pushes exist in long mode; nobody uses them.
        if self.instruction.stack_pointer_increment() != -8 {
            return Err(Refused);
        }
        let top = self.registers.rsp.wrapping_sub(8);
        self.memory.write(top, &value.to_le_bytes())?;
        self.registers.rsp = top;
        Ok(())
    }

    /// Size of an operand in bytes: 1, 2, 4 or 8.
    fn operand_size(&self, index: u32) -> Result<usize, Refused> {
        let size = match self.instruction.op_kind(index) {
            OpKind::Register => self.instruction.op_register(index).size(),
            OpKind::Memory => self.instruction.memory_size().size(),
            _ => return Err(Refused),
        };
        matches!(size, 1 | 2 | 4 | 8).then_some(size).ok_or(Refused)
    }

    fn operand(&self, index: u32) -> Result<u64, Refused> {
        match self.instruction.op_kind(index) {
            OpKind::Register => self.register(self.instruction.op_register(index)),
            OpKind::Memory => {
                let size = self.operand_size(index)?;
                let mut data = [0; 8];
                self.memory.read(self.address_of(size, index)?, &mut data[..size])?;
                Ok(u64::from_le_bytes(data))
            }
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => Ok(self.instruction.immediate(index)),
            _ => Err(Refused),
        }
    }

    fn set_operand(&mut self, index: u32, value: u64) -> Result<(), Refused> {
        let size = self.operand_size(index)?;
        match self.instruction.op_kind(index) {
            OpKind::Register => {
                let register = self.instruction.op_register(index);
                let old = self.register(register.full_register())?;
                let value = match size {
                    // A 32-bit result clears the upper half; smaller ones leave the rest.
                    4 => value & mask(4),
                    8 => value,
                    _ => old & !mask(size) | value & mask(size),
                };
                self.register(register)?;
                *self.place(register)? = value;
                Ok(())
            }
            _ => self
                .memory
                .write(self.address_of(size, index)?, &value.to_le_bytes()[..size]),
        }
    }

    /// Linear address of a memory operand, canonical over its whole `size`.
    fn address_of(&self, size: usize, index: u32) -> Result<u64, Refused> {
        let address = self
            .instruction
            .virtual_address(index, 0, |register, _, _| match register {
                Register::CS | Register::DS | Register::ES | Register::SS => Some(0),
                Register::FS => Some(self.special.fs_base()),
                Register::GS => Some(self.special.gs_base()),
                register => self.register(register).ok(),
            })
            .ok_or(Refused)?;
        let last = address.wrapping_add((size as u64).saturating_sub(1));
        // LEA (size 0) accesses nothing.
        let canonical = crate::translate::is_canonical(address) && crate::translate::is_canonical(last);
        (size == 0 || canonical).then_some(address).ok_or(Refused)
    }

    fn register(&self, register: Register) -> Result<u64, Refused> {
        let full = register.full_register();
        let registers = &self.registers;
        let value = match full {
            Register::RAX => registers.rax,
            Register::RBX => registers.rbx,
            Register::RCX => registers.rcx,
            Register::RDX => registers.rdx,
            Register::RSI => registers.rsi,
            Register::RDI => registers.rdi,
            Register::RBP => registers.rbp,
            Register::RSP => registers.rsp,
            Register::R8 => registers.r8,
            Register::R9 => registers.r9,
            Register::R10 => registers.r10,
            Register::R11 => registers.r11,
            Register::R12 => registers.r12,
            Register::R13 => registers.r13,
            Register::R14 => registers.r14,
            Register::R15 => registers.r15,
            Register::RIP => registers.rip,
            Register::CR8 => self.special.cr8,
            _ => return Err(Refused),
        };
        if matches!(register, Register::AH | Register::BH | Register::CH | Register::DH) {
            return Err(Refused);
        }
        Ok(value & mask(register.size()))
    }

    fn place(&mut self, register: Register) -> Result<&mut u64, Refused> {
        let registers = &mut self.registers;
        Ok(match register.full_register() {
            Register::RAX => &mut registers.rax,
            Register::RBX => &mut registers.rbx,
            Register::RCX => &mut registers.rcx,
            Register::RDX => &mut registers.rdx,
            Register::RSI => &mut registers.rsi,
            Register::RDI => &mut registers.rdi,
            Register::RBP => &mut registers.rbp,
            Register::RSP => &mut registers.rsp,
            Register::R8 => &mut registers.r8,
            Register::R9 => &mut registers.r9,
            Register::R10 => &mut registers.r10,
            Register::R11 => &mut registers.r11,
            Register::R12 => &mut registers.r12,
            Register::R13 => &mut registers.r13,
            Register::R14 => &mut registers.r14,
            Register::R15 => &mut registers.r15,
            _ => return Err(Refused),
        })
    }
}

/// The low `size` (1 to 8) bytes.
fn mask(size: usize) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (8 * size)) - 1 }
}

fn sign_extend(value: u64, size: usize) -> u64 {
    let negative = value & (1 << (8 * size - 1)) != 0;
    if negative {
        value | !mask(size)
    } else {
        value & mask(size)
    }
}
