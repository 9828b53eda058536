//! A processor that executes the instructions of stubs, one at a time, and the memory that several of them share.
//!
//! It knows no more instructions than stubs are made of; any other fails the test.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, MemorySize, Mnemonic, OpKind, Register};

use crate::vmi::{PAGE_SIZE, PhysicalMemory, ReadError, Registers, SharedMemory, SpecialRegisters};

const CF: u64 = 1;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
pub(crate) const IF: u64 = 1 << 9;
const STATUS: u64 = CF | ZF | SF | OF;

/// Memory in which each virtual address is its physical one, and which is there where something was written.
#[derive(Debug, Default)]
pub(crate) struct Ram(Mutex<BTreeMap<u64, Vec<u8>>>);

impl Ram {
    pub(crate) fn map(&self, address: u64, bytes: u64) {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for page in address / PAGE_SIZE..=(address + bytes - 1) / PAGE_SIZE {
            pages.entry(page).or_insert_with(|| vec![0; PAGE_SIZE as usize]);
        }
    }

    fn try_read(&self, address: u64, buf: &mut [u8]) -> bool {
        if address.checked_add(buf.len() as u64).is_none() {
            return false;
        }
        let pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, byte) in (address..).zip(buf) {
            let Some(page) = pages.get(&(at / PAGE_SIZE)) else {
                return false;
            };
            *byte = page[(at % PAGE_SIZE) as usize];
        }
        true
    }

    fn try_write(&self, address: u64, data: &[u8]) -> bool {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, byte) in (address..).zip(data) {
            let Some(page) = pages.get_mut(&(at / PAGE_SIZE)) else {
                return false;
            };
            page[(at % PAGE_SIZE) as usize] = *byte;
        }
        true
    }

    pub(crate) fn u64(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        assert!(self.try_read(address, &mut bytes), "nothing is at {address:#x}");
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn set_u64(&self, address: u64, value: u64) {
        assert!(
            self.try_write(address, &value.to_le_bytes()),
            "nothing is at {address:#x}"
        );
    }

    pub(crate) fn copy(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut copy = vec![0; bytes];
        assert!(self.try_read(address, &mut copy), "nothing is at {address:#x}");
        copy
    }
}

impl PhysicalMemory for Ram {
    fn stretches(&self) -> Vec<(u64, u64)> {
        Vec::new()
    }

    fn read_physical(&self, gpa: u64, buf: &mut [u8]) -> bool {
        self.try_read(gpa, buf)
    }
}

impl SharedMemory for Ram {
    fn write_physical(&self, gpa: u64, data: &[u8]) -> bool {
        self.try_write(gpa, data)
    }

    fn load(&self, gpa: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.try_read(gpa, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    fn store(&self, gpa: u64, value: u64) -> bool {
        self.try_write(gpa, &value.to_le_bytes())
    }

    fn change_bits(&self, gpa: u64, bits: u64, set: bool) -> bool {
        let value = self.load(gpa);
        value.is_some_and(|value| self.store(gpa, if set { value | bits } else { value & !bits }))
    }

    fn read_virtual(&self, _: &SpecialRegisters, gva: u64, buf: &mut [u8]) -> Result<Option<u64>, ReadError> {
        self.try_read(gva, buf)
            .then_some(Some(gva))
            .ok_or(ReadError::NotMapped(gva))
    }
}

/// A processor.
#[derive(Debug, Clone)]
pub(crate) struct Cpu {
    pub(crate) registers: Registers,
    pub(crate) cr8: u64,
    pub(crate) gs_base: u64,
}

impl Cpu {
    /// Executes one instruction.
    pub(crate) fn step(&mut self, ram: &Ram) {
        let rip = self.registers.rip;
        let code = ram.copy(rip, 15);
        let instruction = Decoder::with_ip(64, &code, rip, DecoderOptions::NONE).decode();
        self.registers.rip = instruction.next_ip();
        self.execute(&instruction, ram);
    }

    fn execute(&mut self, i: &Instruction, ram: &Ram) {
        let size = width(i);
        match i.mnemonic() {
            Mnemonic::Nop => {}
            Mnemonic::Pushfq => self.push(ram, self.registers.rflags),
            Mnemonic::Popfq => self.registers.rflags = self.pop(ram),
            Mnemonic::Cli => self.registers.rflags &= !IF,
            Mnemonic::Push => {
                let value = self.get(i, 0, ram);
                self.push(ram, value);
            }
            Mnemonic::Pop => {
                let value = self.pop(ram);
                self.set(i, 0, value, ram);
            }
            Mnemonic::Ret => {
                self.registers.rip = self.pop(ram);
                if i.op_count() == 1 {
                    self.registers.gpr[4] += u64::from(i.immediate16());
                }
            }
            Mnemonic::Lea => {
                let address = self.address(i);
                self.set(i, 0, address, ram);
            }
            Mnemonic::Mov | Mnemonic::Movzx => {
                let value = self.get(i, 1, ram);
                self.set(i, 0, value, ram);
            }
            Mnemonic::Jmp => self.registers.rip = self.get(i, 0, ram),
            Mnemonic::Je | Mnemonic::Jne | Mnemonic::Js | Mnemonic::Jns | Mnemonic::Ja | Mnemonic::Jge => {
                if self.condition(i.mnemonic()) {
                    self.registers.rip = i.near_branch64();
                }
            }
            Mnemonic::Cmpxchg => {
                assert!(i.has_lock_prefix(), "another processor could come between");
                let (old, expected) = (self.get(i, 0, ram), self.registers.gpr[0]);
                self.subtract(expected, old, size);
                if old == expected {
                    let new = self.get(i, 1, ram);
                    self.set(i, 0, new, ram);
                } else {
                    self.registers.gpr[0] = old;
                }
            }
            _ => self.calculate(i, size, ram),
        }
    }

    fn calculate(&mut self, i: &Instruction, size: u32, ram: &Ram) {
        let left = self.get(i, 0, ram);
        let right = if i.op_count() > 1 { self.get(i, 1, ram) } else { 0 };
        let result = match i.mnemonic() {
            Mnemonic::Cmp => {
                self.subtract(left, right, size);
                return;
            }
            Mnemonic::Test => {
                self.status(left & right, size, false);
                return;
            }
            Mnemonic::Sub => self.subtract(left, right, size),
            Mnemonic::Neg => self.subtract(0, left, size),
            Mnemonic::Add => self.status(
                left.wrapping_add(right),
                size,
                left.wrapping_add(right) & mask(size) < left,
            ),
            Mnemonic::Inc => self.status(left.wrapping_add(1), size, self.registers.rflags & CF != 0),
            Mnemonic::Dec => self.status(left.wrapping_sub(1), size, self.registers.rflags & CF != 0),
            Mnemonic::And => self.status(left & right, size, false),
            Mnemonic::Xor => self.status(left ^ right, size, false),
            Mnemonic::Shl => self.status(left << right, size, false),
            Mnemonic::Shr => self.status(left >> right, size, left >> (right - 1) & 1 != 0),
            other => panic!("no stub has {other:?}: {i}"),
        };
        self.set(i, 0, result, ram);
    }

    fn subtract(&mut self, left: u64, right: u64, size: u32) -> u64 {
        let (left, right) = (left & mask(size), right & mask(size));
        let result = self.status(left.wrapping_sub(right), size, left < right);
        if ((left ^ right) & (left ^ result)) >> (8 * size - 1) & 1 != 0 {
            self.registers.rflags |= OF;
        }
        result
    }

    fn status(&mut self, result: u64, size: u32, carry: bool) -> u64 {
        let result = result & mask(size);
        let flags = &mut self.registers.rflags;
        *flags &= !STATUS;
        *flags |= if carry { CF } else { 0 };
        *flags |= if result == 0 { ZF } else { 0 };
        *flags |= if result >> (8 * size - 1) != 0 { SF } else { 0 };
        result
    }

    fn condition(&self, mnemonic: Mnemonic) -> bool {
        let flag = |flag: u64| self.registers.rflags & flag != 0;
        match mnemonic {
            Mnemonic::Je => flag(ZF),
            Mnemonic::Jne => !flag(ZF),
            Mnemonic::Js => flag(SF),
            Mnemonic::Jns => !flag(SF),
            Mnemonic::Ja => !flag(CF) && !flag(ZF),
            _ => flag(SF) == flag(OF),
        }
    }

    fn push(&mut self, ram: &Ram, value: u64) {
        self.registers.gpr[4] -= 8;
        ram.set_u64(self.registers.rsp(), value);
    }

    fn pop(&mut self, ram: &Ram) -> u64 {
        let value = ram.u64(self.registers.rsp());
        self.registers.gpr[4] += 8;
        value
    }

    fn address(&self, i: &Instruction) -> u64 {
        let value = |register, _, _| {
            Some(match register {
                Register::GS => self.gs_base,
                Register::DS | Register::SS | Register::CS | Register::ES => 0,
                register => self.registers.gpr[register.number()],
            })
        };
        i.virtual_address(memory_operand(i), 0, value).unwrap()
    }

    fn get(&self, i: &Instruction, operand: u32, ram: &Ram) -> u64 {
        match i.op_kind(operand) {
            OpKind::Register => match i.op_register(operand) {
                Register::CR8 => self.cr8,
                register => self.registers.gpr[register.number()] & mask(register.size() as u32),
            },
            OpKind::Memory => {
                let bytes = i.memory_size().size();
                let mut value = [0; 8];
                value[..bytes].copy_from_slice(&ram.copy(self.address(i), bytes));
                u64::from_le_bytes(value)
            }
            OpKind::NearBranch64 => i.near_branch64(),
            _ => i.immediate(operand) & mask(width(i)),
        }
    }

    fn set(&mut self, i: &Instruction, operand: u32, value: u64, ram: &Ram) {
        if i.op_kind(operand) == OpKind::Memory {
            let bytes = i.memory_size().size();
            assert!(ram.try_write(self.address(i), &value.to_le_bytes()[..bytes]), "{i}");
            return;
        }
        let register = i.op_register(operand);
        assert!(register.size() >= 4, "{i}: the rest of the register would stay");
        self.registers.gpr[register.number()] = value & mask(register.size() as u32);
    }
}

fn memory_operand(i: &Instruction) -> u32 {
    (0..i.op_count())
        .find(|&operand| i.op_kind(operand) == OpKind::Memory)
        .unwrap_or(0)
}

/// Bytes that an instruction calculates with.
fn width(i: &Instruction) -> u32 {
    if i.code() == Code::Pushq_imm32 || i.code() == Code::Pushq_imm8 {
        return 8;
    }
    match i.op0_kind() {
        OpKind::Register => i.op0_register().size() as u32,
        OpKind::Memory if i.memory_size() != MemorySize::Unknown => i.memory_size().size() as u32,
        _ => 8,
    }
}

fn mask(size: u32) -> u64 {
    u64::MAX >> (64 - 8 * size)
}
