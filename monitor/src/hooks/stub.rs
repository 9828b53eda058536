//! The code of the hooks: a stub for each import, to which the import's slot leads.
//!
//! A stub keeps all registers, the flags and the stack, and goes on by a jump to where the slot led before. In between it
//! writes one record, with interrupts off; so a record that is begun is finished by the same processor, and no other code
//! of that processor comes in between. It leaves the guest only where it cannot write: at a call site that the host has not
//! yet seen, for a routine whose return is wanted, or while the ring is full or closed. Then it goes through
//! [`Code::exit`], with everything as at the routine's entry but for two quadwords on top of the stack, and the host has a
//! breakpoint there.
//!
//! Reads only what the routine reads itself, by the same addresses: the lock word, the handle, and the page of the stack
//! that the return address is in. The code does not depend on where it lies.

use iced_x86::IcedError;
use iced_x86::code_asm::registers::gpr64::{
    r8, r9, r10, r11, r12, r13, r14, r15, rax, rbp, rbx, rcx, rdi, rdx, rsi, rsp,
};
use iced_x86::code_asm::registers::{cr8, gpr16::r10w, gpr32};
use iced_x86::code_asm::{AsmRegister64, CodeAssembler, CodeLabel, dword_ptr, ptr, qword_ptr};
use storlock_check::contract::{
    Contract, LockClass, OperandPlaces, Place, QUEUE_HANDLE_LOCK, QUEUE_HANDLE_LOCK_FLAGS, Register, Role,
    STOR_DPC_LOCK, STOR_HANDLE_LOCK, STOR_HANDLE_QUEUE, Width,
};
use storlock_check::identity::DPC_LOCKS;

use super::layout::{self, field};
use super::stub_key;

/// Offsets from GS in the kernel: `KPRCB.Number`, `KPRCB.CurrentThread`.
const NUMBER: i32 = 0x1a4;
const THREAD: i32 = 0x188;
const PROCESSOR_BLOCK: i32 = 0x18;
/// Bytes that a stub pushes, and where the flags are in them.
const PUSHED: i32 = 6 * 8;
const PUSHED_FLAGS: i32 = 5 * 8;
const PAGE: i32 = 4096;

/// Why stubs cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StubError {
    /// An instruction cannot be encoded.
    #[error(transparent)]
    Encoding(#[from] IcedError),
    /// A routine has it at a place that stubs do not know.
    #[error("{0} is at a place that hooks do not know")]
    Place(&'static str),
}

/// What a stub stands for.
#[derive(Debug, Clone)]
pub(crate) struct Stub {
    /// Where the import's slot led.
    pub(crate) target: u64,
    /// The routines behind the export.
    pub(crate) rows: Vec<&'static Contract>,
    /// Values of the selector of such an export that are no lock calls, and are judged all the same.
    pub(crate) attention: Vec<u32>,
}

/// The stubs of a driver, for one place in the guest's memory.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) bytes: Vec<u8>,
    /// The first instruction of each stub.
    pub(crate) entries: Vec<u64>,
    /// The instruction through which the guest is left: a return to the routine, whose address is on top of the stack. Below
    /// it is the number of the stub, and then all is as at the routine's entry.
    pub(crate) exit: u64,
}

/// Whether calls of a routine are written by its stub. What others have done is only known from their return.
pub(crate) fn is_written(row: &Contract) -> bool {
    row.role == Role::Release || !row.result.may_fail()
}

/// The offset in the shared memory from where RBX points to.
fn at(offset: u64) -> i64 {
    offset.cast_signed() - layout::CODE.cast_signed()
}

fn register(place: Place) -> Option<AsmRegister64> {
    let (Place::Register(register) | Place::Narrow(register, _)) = place else {
        return None;
    };
    Some(match register {
        Register::Rcx => rcx,
        Register::Rdx => rdx,
        Register::R8 => r8,
        Register::R9 => r9,
    })
}

/// Makes the stubs for memory whose first byte is at `base`.
///
/// # Errors
/// What cannot be encoded: a row of the contract table with operands at places that no row has now.
pub(crate) fn generate(base: u64, stubs: &[Stub]) -> Result<Code, StubError> {
    let mut writer = Writer::new()?;
    let mut entries = Vec::new();
    for (index, stub) in (0..).zip(stubs) {
        entries.push(writer.stub(index, stub)?);
    }
    writer.finish(base, &entries)
}

/// The places of one stub that its parts jump to.
struct Labels {
    /// Puts everything back and jumps to the routine.
    done: CodeLabel,
    /// Puts everything back and leaves the guest.
    leave: CodeLabel,
}

struct Writer {
    code: CodeAssembler,
    start: CodeLabel,
    exit: CodeLabel,
}

impl Writer {
    fn new() -> Result<Self, StubError> {
        let mut code = CodeAssembler::new(64)?;
        let (mut start, mut exit) = (code.create_label(), code.create_label());
        code.set_label(&mut start)?;
        // Nobody comes here.
        code.int3()?;
        code.set_label(&mut exit)?;
        code.ret_1(8)?;
        Ok(Self { code, start, exit })
    }

    fn finish(mut self, base: u64, entries: &[CodeLabel]) -> Result<Code, StubError> {
        let options = iced_x86::BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
        let result = self.code.assemble_options(base + layout::CODE, options)?;
        let entries: Result<Vec<u64>, IcedError> = entries.iter().map(|label| result.label_ip(label)).collect();
        Ok(Code {
            entries: entries?,
            exit: result.label_ip(&self.exit)?,
            bytes: result.inner.code_buffer,
        })
    }

    fn stub(&mut self, index: u32, stub: &Stub) -> Result<CodeLabel, StubError> {
        let code = &mut self.code;
        let mut entry = code.create_label();
        let mut target = code.create_label();
        let mut labels = Labels {
            done: code.create_label(),
            leave: code.create_label(),
        };
        code.set_label(&mut entry)?;
        code.pushfq()?;
        code.cli()?;
        for register in [rax, rbx, rdi, r10, r11] {
            code.push(register)?;
        }
        code.lea(rbx, ptr(self.start))?;
        self.rows(index, stub, &labels)?;
        let code = &mut self.code;
        code.set_label(&mut labels.done)?;
        put_back(code)?;
        code.jmp(qword_ptr(target))?;
        code.set_label(&mut labels.leave)?;
        put_back(code)?;
        code.push(index.cast_signed())?;
        code.push(qword_ptr(target))?;
        code.jmp(self.exit)?;
        code.set_label(&mut target)?;
        code.dq(&[stub.target])?;
        Ok(entry)
    }

    /// Writes the call, whichever of the routines it is. Goes on behind it, or at a label.
    fn rows(&mut self, index: u32, stub: &Stub, labels: &Labels) -> Result<(), StubError> {
        let mut selected = Vec::new();
        for row in &stub.rows {
            let Some(selector) = row.selector else {
                return self.row(index, row, labels);
            };
            if register(selector.place) != Some(rcx) {
                return Err(StubError::Place("a selector"));
            }
            let label = self.code.create_label();
            self.code.cmp(gpr32::ecx, selector.value.cast_signed())?;
            self.code.je(label)?;
            selected.push((row, label));
        }
        for &value in &stub.attention {
            self.code.cmp(gpr32::ecx, value.cast_signed())?;
            self.code.je(labels.leave)?;
        }
        self.code.jmp(labels.done)?;
        for (row, mut label) in selected {
            self.code.set_label(&mut label)?;
            self.row(index, row, labels)?;
            self.code.jmp(labels.done)?;
        }
        Ok(())
    }

    fn row(&mut self, index: u32, row: &Contract, labels: &Labels) -> Result<(), StubError> {
        if !is_written(row) {
            self.code.jmp(labels.leave)?;
            return Ok(());
        }
        // Is the site known?
        let code = &mut self.code;
        code.mov(r10, qword_ptr(rsp + PUSHED))?;
        code.xor(gpr32::r10d, stub_key(index).cast_signed())?;
        code.movzx(gpr32::r11d, r10w)?;
        code.cmp(dword_ptr(rbx + r11 * 4 + at(layout::SITES)), gpr32::r10d)?;
        code.jne(labels.leave)?;
        self.reserve(row, labels)?;
        let code = &mut self.code;
        code.mov(qword_ptr(r11 + field::WORD), r10)?;
        code.mov(dword_ptr(r11 + field::HAS_WORD), gpr32::edi)?;
        code.mov(dword_ptr(r11 + field::STUB), index.cast_signed())?;
        code.mov(dword_ptr(r11 + field::ROUTINE), row.routine as i32)?;
        code.mov(gpr32::edi, dword_ptr(NUMBER).gs())?;
        code.mov(dword_ptr(r11 + field::PROCESSOR), gpr32::edi)?;
        code.mov(rdi, qword_ptr(THREAD).gs())?;
        code.mov(qword_ptr(r11 + field::THREAD), rdi)?;
        code.mov(rdi, qword_ptr(PROCESSOR_BLOCK).gs())?;
        code.mov(qword_ptr(r11 + field::PROCESSOR_BLOCK), rdi)?;
        code.mov(rdi, cr8)?;
        code.mov(qword_ptr(r11 + field::CR8), rdi)?;
        code.mov(rdi, qword_ptr(rsp + PUSHED_FLAGS))?;
        code.mov(qword_ptr(r11 + field::FLAGS), rdi)?;
        code.lea(r10, ptr(rsp + PUSHED))?;
        code.mov(qword_ptr(r11 + field::RSP), r10)?;
        for (place, register) in [(field::RCX, rcx), (field::RDX, rdx), (field::R8, r8), (field::R9, r9)] {
            code.mov(qword_ptr(r11 + place), register)?;
        }
        // By their numbers in the record, and on the stack.
        for (number, pushed) in [(0, 4), (1, 3), (4, 2), (5, 1), (6, 0)] {
            code.mov(rdi, qword_ptr(rsp + 8 * pushed))?;
            code.mov(qword_ptr(r11 + (field::OTHERS + 8 * number)), rdi)?;
        }
        for (number, register) in [(2, rbp), (3, rsi), (7, r12), (8, r13), (9, r14), (10, r15)] {
            code.mov(qword_ptr(r11 + (field::OTHERS + 8 * number)), register)?;
        }
        self.handle(row)?;
        self.stack(least_stack(row))?;
        let code = &mut self.code;
        code.inc(rax)?;
        Ok(code.mov(qword_ptr(r11 + field::COMMIT), rax)?)
    }

    /// Takes the next record: R11 is its address then, RAX its number, R10 the lock word, and EDI whether that was read.
    ///
    /// The word is read between the look at the head and the exchange that moves it. If the exchange succeeds no other call
    /// has got a number in between, so the word is neither older than the calls before this one nor newer than those after it.
    fn reserve(&mut self, row: &Contract, labels: &Labels) -> Result<(), StubError> {
        let code = &mut self.code;
        let mut again = code.create_label();
        code.mov(rax, qword_ptr(rbx + at(layout::HEAD)))?;
        code.set_label(&mut again)?;
        code.test(rax, rax)?;
        code.js(labels.leave)?;
        code.mov(r11, rax)?;
        code.sub(r11, qword_ptr(rbx + at(layout::TAIL)))?;
        code.cmp(r11, layout::RECORDS as i32)?;
        // Signed: the record that this head stands for may have been read since, and the exchange fails then.
        code.jge(labels.leave)?;
        code.xor(gpr32::edi, gpr32::edi)?;
        self.word(row)?;
        let code = &mut self.code;
        code.lea(r11, ptr(rax + 1))?;
        code.lock().cmpxchg(qword_ptr(rbx + at(layout::HEAD)), r11)?;
        code.jne(again)?;
        code.mov(gpr32::r11d, gpr32::eax)?;
        code.and(gpr32::r11d, layout::RECORDS as i32 - 1)?;
        code.shl(gpr32::r11d, layout::RECORD_BYTES.trailing_zeros())?;
        Ok(code.lea(r11, ptr(rbx + r11 + at(layout::RING)))?)
    }

    /// Reads the lock word into R10 and puts 1 into EDI, where the routine has one that it reads itself. What is no address of
    /// the kernel is left to the routine to fall over.
    fn word(&mut self, row: &Contract) -> Result<(), StubError> {
        let code = &mut self.code;
        let mut none = code.create_label();
        match row.operands {
            OperandPlaces::Address(lock) | OperandPlaces::Queued { lock, .. } => {
                let lock = register(lock).ok_or_else(no_place)?;
                code.test(lock, lock)?;
                code.jns(none)?;
                if row.class == LockClass::ExSpinLock {
                    code.mov(gpr32::r10d, dword_ptr(lock))?;
                } else {
                    code.mov(r10, qword_ptr(lock))?;
                }
            }
            OperandPlaces::StorPort { kind, context, .. } => {
                if kind != Place::Narrow(Register::R8, Width::Dword) {
                    return Err(no_place());
                }
                code.mov(gpr32::r10d, gpr32::r8d)?;
                self.unless_dpc_lock(none)?;
                let context = register(context).ok_or_else(no_place)?;
                let code = &mut self.code;
                code.test(context, context)?;
                code.jns(none)?;
                code.mov(r10, qword_ptr(context + STOR_DPC_LOCK))?;
            }
            OperandPlaces::QueuedHandle(handle) => {
                let handle = register(handle).ok_or_else(no_place)?;
                code.test(handle, handle)?;
                code.jns(none)?;
                code.mov(r10, qword_ptr(handle + QUEUE_HANDLE_LOCK))?;
                self.follow(none)?;
            }
            OperandPlaces::StorPortHandle { handle, .. } => {
                let handle = register(handle).ok_or_else(no_place)?;
                code.test(handle, handle)?;
                code.jns(none)?;
                code.mov(gpr32::r10d, dword_ptr(handle + STOR_HANDLE_LOCK))?;
                self.unless_dpc_lock(none)?;
                self.code
                    .mov(r10, qword_ptr(handle + (STOR_HANDLE_QUEUE + QUEUE_HANDLE_LOCK)))?;
                self.follow(none)?;
            }
            OperandPlaces::Msi { .. } | OperandPlaces::Interrupt(_) | OperandPlaces::Cancel => return Ok(()),
        }
        self.code.mov(gpr32::edi, 1)?;
        self.code.set_label(&mut none)?;
        // A label has to have an instruction.
        Ok(self.code.nop()?)
    }

    /// Goes to `none` unless the kind in R10 is the lock of a `STOR_DPC`.
    fn unless_dpc_lock(&mut self, none: CodeLabel) -> Result<(), StubError> {
        let mut is_one = self.code.create_label();
        for kind in DPC_LOCKS {
            self.code.cmp(gpr32::r10d, kind.cast_signed())?;
            self.code.je(is_one)?;
        }
        self.code.jmp(none)?;
        self.code.set_label(&mut is_one)?;
        Ok(self.code.nop()?)
    }

    /// Reads the word of the lock that the field of a handle in R10 leads to.
    fn follow(&mut self, none: CodeLabel) -> Result<(), StubError> {
        self.code.and(r10, !(QUEUE_HANDLE_LOCK_FLAGS as i32))?;
        self.code.jns(none)?;
        Ok(self.code.mov(r10, qword_ptr(r10))?)
    }

    /// Writes what a handle says.
    fn handle(&mut self, row: &Contract) -> Result<(), StubError> {
        let (handle, lock, kind) = match row.operands {
            OperandPlaces::QueuedHandle(handle) => (handle, QUEUE_HANDLE_LOCK, None),
            OperandPlaces::StorPortHandle { handle, .. } => {
                (handle, STOR_HANDLE_QUEUE + QUEUE_HANDLE_LOCK, Some(STOR_HANDLE_LOCK))
            }
            _ => return Ok(()),
        };
        let handle = register(handle).ok_or_else(no_place)?;
        let code = &mut self.code;
        let mut none = code.create_label();
        code.test(handle, handle)?;
        code.jns(none)?;
        code.mov(rdi, qword_ptr(handle + lock))?;
        code.mov(qword_ptr(r11 + field::HANDLE), rdi)?;
        if let Some(kind) = kind {
            code.mov(gpr32::edi, dword_ptr(handle + kind))?;
            code.mov(dword_ptr(r11 + field::KIND), gpr32::edi)?;
        }
        code.set_label(&mut none)?;
        Ok(code.nop()?)
    }

    /// Copies the stack from R10 on, as far as the record has room, but not beyond its page unless that is less than `least`
    /// quadwords, which the routine will read. Uses RBX and RDI.
    fn stack(&mut self, least: i32) -> Result<(), StubError> {
        let code = &mut self.code;
        let (mut short, mut copy, mut copied) = (code.create_label(), code.create_label(), code.create_label());
        let mut enough = code.create_label();
        code.mov(gpr32::edi, gpr32::r10d)?;
        code.and(gpr32::edi, PAGE - 1)?;
        code.cmp(gpr32::edi, PAGE - 8 * field::MOST as i32)?;
        code.ja(short)?;
        for word in 0..field::MOST {
            code.mov(rdi, qword_ptr(r10 + 8 * word))?;
            code.mov(qword_ptr(r11 + (field::STACK + 8 * word)), rdi)?;
        }
        code.mov(dword_ptr(r11 + field::COUNT), field::MOST as i32)?;
        code.jmp(copied)?;
        code.set_label(&mut short)?;
        code.neg(gpr32::edi)?;
        code.add(gpr32::edi, PAGE)?;
        code.shr(gpr32::edi, 3u32)?;
        code.cmp(gpr32::edi, least)?;
        code.ja(enough)?;
        code.mov(gpr32::edi, least)?;
        code.set_label(&mut enough)?;
        code.mov(dword_ptr(r11 + field::COUNT), gpr32::edi)?;
        code.set_label(&mut copy)?;
        code.mov(rbx, qword_ptr(r10 + rdi * 8 - 8))?;
        code.mov(qword_ptr(r11 + rdi * 8 + (field::STACK - 8)), rbx)?;
        code.dec(gpr32::edi)?;
        code.jne(copy)?;
        code.set_label(&mut copied)?;
        Ok(code.nop()?)
    }
}

fn put_back(code: &mut CodeAssembler) -> Result<(), StubError> {
    for register in [r11, r10, rdi, rbx, rax] {
        code.pop(register)?;
    }
    Ok(code.popfq()?)
}

/// Quadwords of the stack that a routine reads, the return address included.
fn least_stack(row: &Contract) -> i32 {
    match row.operands {
        OperandPlaces::StorPort {
            handle: Place::Stack(offset),
            ..
        } => (offset / 8 + 1).cast_signed(),
        _ => 1,
    }
}

fn no_place() -> StubError {
    StubError::Place("an operand")
}
