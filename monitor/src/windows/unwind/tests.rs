//! Tests of the unwinder: against a model that executes the same prologue, on any prologue; and on what a compiler
//! makes, with its prologues and epilogues interpreted one instruction at a time.

use std::process::Command;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use proptest::prelude::*;

use super::super::testing::{CODE, EXCEPTION, PeBuilder, READ_ONLY};
use super::super::{FileImage, Image, Modules};
use super::{Context, EndReason, Function, RSP, step, walk};
use crate::vmi::fake::Space;
use crate::vmi::{GuestMemory, ReadError, Registers};

const BASE: u64 = 0xffff_f800_0000_0000;
const STACK: u64 = 0xffff_9000_0010_0000;
const RETURN: u64 = 0xffff_f801_0000_1234;
/// RBX, RBP, RSI, RDI, R12 to R15: what a caller gets back.
const PRESERVED: [usize; 8] = [3, 5, 6, 7, 12, 13, 14, 15];

fn caller_registers() -> [u64; 16] {
    let mut gpr = std::array::from_fn(|index| 0x1111_1111_1111_1111 * index as u64);
    gpr[RSP] = STACK;
    gpr
}

/// Checks that unwinding from `state` gives back the caller.
fn assert_caller(memory: &impl GuestMemory, modules: &mut Modules, state: &Context, what: &str) {
    let outer = step(memory, modules, state).unwrap_or_else(|end| panic!("{what}: {end}"));
    let caller = caller_registers();
    assert_eq!((outer.rip, outer.exact), (RETURN, false), "{what}: return address");
    assert_eq!(outer.gpr[RSP], STACK, "{what}: RSP");
    for register in PRESERVED {
        assert_eq!(outer.gpr[register], caller[register], "{what}: register {register}");
    }
}

/// One step of a prologue, as a compiler may choose it.
#[derive(Debug, Clone)]
enum Op {
    Push(usize),
    Allocate(u32),
    SetFrame { register: usize, offset: u8 },
    Save { register: usize, slot: u32, far: bool },
    SaveXmm { far: bool },
}

/// The codes of an operation, in the order in which they stand in memory.
fn codes(op: &Op, offset: u8) -> Vec<u16> {
    let code = |operation: u8, operand: usize| u16::from_le_bytes([offset, operation | (operand as u8) << 4]);
    match *op {
        Op::Push(register) => vec![code(0, register)],
        Op::Allocate(size) if size <= 128 => vec![code(2, size as usize / 8 - 1)],
        Op::Allocate(size) if size < 0x8_0000 => vec![code(1, 0), (size / 8) as u16],
        Op::Allocate(size) => vec![code(1, 1), size as u16, (size >> 16) as u16],
        Op::SetFrame { .. } => vec![code(3, 0)],
        Op::Save {
            register,
            slot,
            far: false,
        } => vec![code(4, register), slot as u16],
        Op::Save {
            register,
            slot,
            far: true,
        } => vec![code(5, register), (slot * 8) as u16, (slot >> 13) as u16],
        Op::SaveXmm { far: false } => vec![code(8, 6), 1],
        Op::SaveXmm { far: true } => vec![code(9, 6), 16, 0],
    }
}

/// What the processor does for an operation: the reference.
fn execute(op: &Op, space: &mut Space, gpr: &mut [u64; 16]) {
    match *op {
        Op::Push(register) => {
            gpr[RSP] -= 8;
            space.write_u64(gpr[RSP], gpr[register]);
        }
        Op::Allocate(size) => {
            gpr[RSP] -= u64::from(size);
            space.write_u64(gpr[RSP], 0xdead);
        }
        Op::SetFrame { register, offset } => gpr[register] = gpr[RSP] + u64::from(offset) * 16,
        Op::Save { register, slot, .. } => space.write_u64(gpr[RSP] + u64::from(slot) * 8, gpr[register]),
        Op::SaveXmm { .. } => {}
    }
}

/// A driver with one function whose prologue is `ops`, each four bytes of code long; its body is nops. With `split`,
/// the second half of the body is a part of its own that is chained to the first.
fn driver(ops: &[Op], split: bool) -> Space {
    let mut info = Vec::new();
    let mut count = 0u8;
    for (index, op) in ops.iter().enumerate().rev() {
        for code in codes(op, (index as u8 + 1) * 4) {
            info.extend_from_slice(&code.to_le_bytes());
            count += 1;
        }
    }
    if count % 2 == 1 {
        info.extend_from_slice(&[0, 0]);
    }
    let frame = ops.iter().find_map(|op| match op {
        Op::SetFrame { register, offset } => Some(*register as u8 | offset << 4),
        _ => None,
    });
    let frame = frame.unwrap_or(0);
    let head = [1, ops.len() as u8 * 4, count, frame];
    let mut builder = PeBuilder::new(BASE);
    let code = builder.section(".text", CODE, vec![0x90; 0x400]);
    let first_info = builder.next_rva();
    let first = [code, code + 0x200, first_info];
    let second_info = first_info + 0x200;
    let mut bytes = [&head[..], &info].concat();
    bytes.resize(0x200, 0);
    bytes.extend_from_slice(&[1 | 4 << 3, 0, 0, frame]);
    bytes.extend(first.iter().flat_map(|field| field.to_le_bytes()));
    builder.section(".xdata", READ_ONLY, bytes);
    let mut table = first.to_vec();
    if split {
        table.extend([code + 0x200, code + 0x400, second_info]);
    }
    let table: Vec<u8> = table.into_iter().flat_map(u32::to_le_bytes).collect();
    let size = table.len() as u32;
    let rva = builder.section(".pdata", READ_ONLY, table);
    builder.directory(EXCEPTION, rva, size);
    let mut space = Space::default();
    builder.map(&mut space);
    space
}

fn modules(space: &Space) -> Modules {
    Modules::with_kernel(0, &Image::read(space, BASE).unwrap())
}

fn any_prologue() -> impl Strategy<Value = Vec<Op>> {
    let pushes = prop::sample::subsequence(PRESERVED.to_vec(), 0..=4).prop_shuffle();
    let size = prop_oneof![1u32..=16, 17u32..0x1000, 0x1_0000u32..0x1_1000].prop_map(|size| size * 8);
    let frame = prop::option::of(0u8..16);
    (pushes, prop::option::of(size), frame, any::<[bool; 4]>()).prop_map(|(pushes, size, frame, flags)| {
        let mut ops: Vec<Op> = pushes.iter().map(|&register| Op::Push(register)).collect();
        let mut left: Vec<usize> = PRESERVED
            .iter()
            .copied()
            .filter(|register| !pushes.contains(register))
            .collect();
        ops.extend(size.map(Op::Allocate));
        // A frame register has been saved before it is set; other registers are saved before or after that.
        let set_frame = frame
            .zip(pushes.first())
            .map(|(offset, &register)| Op::SetFrame { register, offset });
        let saves_first = flags[3];
        ops.extend(set_frame.clone().filter(|_| !saves_first));
        if let Some(size) = size.filter(|size| *size >= 64) {
            ops.push(Op::Save {
                register: left.remove(0),
                slot: size / 8 - 1,
                far: flags[0] || size / 8 > 0xffff,
            });
            ops.push(Op::SaveXmm { far: flags[1] });
            if flags[2] {
                ops.push(Op::Save {
                    register: left.remove(0),
                    slot: 2,
                    far: false,
                });
            }
        }
        ops.extend(set_frame.filter(|_| saves_first));
        ops
    })
}

proptest! {
    #[test]
    fn any_prologue_is_undone_from_any_of_its_points(ops in any_prologue(), alloca in 0u64..0x100) {
        let mut space = driver(&ops, true);
        let mut modules = modules(&space);
        let mut gpr = caller_registers();
        gpr[RSP] -= 8;
        space.write_u64(gpr[RSP], RETURN);
        let text = BASE + 0x1000;
        for (index, op) in ops.iter().enumerate() {
            let context = Context { gpr, rip: text + index as u64 * 4, exact: true };
            assert_caller(&space, &mut modules, &context, &format!("before {op:?}"));
            execute(op, &mut space, &mut gpr);
        }
        // In the body a function with a frame register may move RSP, and clobber what it has saved.
        if let Some(Op::SetFrame { register, .. }) = ops.iter().find(|op| matches!(op, Op::SetFrame { .. })) {
            gpr[RSP] -= alloca * 16;
            for op in &ops {
                match op {
                    Op::Push(saved) | Op::Save { register: saved, .. } if saved != register => gpr[*saved] = 0xbad,
                    _ => {}
                }
            }
        }
        // The body, also as the caller of something, and a chained part of it.
        for offset in [0x100, 0x1fe, 0x200, 0x3ff] {
            for exact in [true, false] {
                let rip = text + offset + u64::from(!exact);
                let context = Context { gpr, rip, exact };
                assert_caller(&space, &mut modules, &context, &format!("body at {offset:#x}, exact {exact}"));
            }
        }
    }

    #[test]
    fn any_tables_and_stacks_end_without_panic(
        edits in prop::collection::vec((0u64..0x3000, any::<u32>()), 1..24),
        stack in prop::collection::vec(prop_oneof![any::<u64>(), (0u64..0x4000).prop_map(|at| BASE + at)], 64),
        gpr in any::<[u64; 16]>(), rip in 0u64..0x500, ops in any_prologue(),
    ) {
        let mut space = driver(&ops, true);
        let mut modules = modules(&space);
        for (at, value) in edits {
            space.write(BASE + 0x2000 + at % 0x2000, &value.to_le_bytes());
        }
        for (index, value) in stack.iter().enumerate() {
            space.write_u64(STACK + index as u64 * 8, *value);
        }
        let mut registers = Registers { gpr, rip: BASE + 0x1000 + rip, rflags: 0 };
        registers.gpr[RSP] = STACK;
        space.reads.set(0);
        let found = walk(&space, &mut modules, &registers, 64);
        prop_assert!(found.frames.len() <= 64);
        prop_assert!(space.reads.get() < 64 * 32 * 300, "{} reads", space.reads.get());
    }
}

#[test]
fn a_machine_frame_leads_to_the_interrupted_code() {
    for with_error_code in [false, true] {
        let mut space = driver(&[Op::Push(5)], false);
        // The only code becomes: machine frame, then the push.
        let info = BASE + 0x2000;
        space.write(info, &[1, 4, 2, 0, 4, 5 << 4, 0, 0xa | u8::from(with_error_code) << 4]);
        let frame = STACK - 0x100;
        space.write_u64(frame - 8, 0x5555);
        let at = frame + if with_error_code { 8 } else { 0 };
        let interrupted = BASE + 0x1300;
        space.write_u64(at, interrupted);
        space.write_u64(at + 24, STACK);
        let mut gpr = caller_registers();
        gpr[RSP] = frame - 8;
        let context = Context {
            gpr,
            rip: BASE + 0x1100,
            exact: true,
        };
        let outer = step(&space, &mut modules(&space), &context).unwrap();
        assert_eq!(
            (outer.rip, outer.gpr[RSP], outer.gpr[5], outer.exact),
            (interrupted, STACK, 0x5555, true)
        );
    }
}

#[test]
fn a_stack_ends_with_the_reason() {
    let mut space = driver(&[Op::Allocate(0x28)], false);
    let registers = |rip| {
        let mut registers = Registers {
            rip,
            ..Registers::default()
        };
        registers.gpr[RSP] = STACK;
        registers
    };
    let end = |space: &Space, rip| walk(space, &mut modules(space), &registers(rip), 8).end;
    let body = BASE + 0x1100;
    assert!(matches!(end(&space, body), EndReason::Unreadable(_)));
    space.write_u64(STACK + 0x28, 0x7fff_0000_0000);
    assert_eq!(end(&space, body), EndReason::Bottom);
    space.write_u64(STACK + 0x28, RETURN);
    assert_eq!(end(&space, body), EndReason::NoModule(RETURN - 1));
    // A return address in code without unwind information.
    space.write_u64(STACK + 0x28, BASE + 0x1301);
    assert_eq!(end(&space, body), EndReason::NoInformation(BASE + 0x1300));
    // A function that returns into itself for ever is cut.
    space.write(STACK, &(body + 1).to_le_bytes().repeat(512));
    assert_eq!(end(&space, body), EndReason::Limit);
    space.write(BASE + 0x2000, &[7]);
    assert_eq!(end(&space, body), EndReason::Damaged(body));
}

/// A compiled image with a stack of its own.
struct Compiled {
    file: FileImage,
    stack: Space,
}

impl GuestMemory for Compiled {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.stack.read(gva, buf).or_else(|_| self.file.read(gva, buf))
    }
}

fn compile(options: &[&str]) -> FileImage {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("frames.exe");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/windows/unwind/frames.c");
    let status = Command::new("x86_64-w64-mingw32-gcc")
        .args(options)
        .args([
            "-std=c11",
            "-mgeneral-regs-only",
            "-nostdlib",
            "-Wl,--entry=entry,--subsystem=native",
        ])
        .args(["-Wl,--image-base=0xfffff80000000000", "-o"])
        .args([output.as_os_str(), source.as_ref()])
        .args(["-lgcc"])
        .status()
        .expect("x86_64-w64-mingw32-gcc has to be installed: scripts/setup does it");
    assert!(status.success());
    FileImage::parse(std::fs::read(output).unwrap()).unwrap()
}

/// Executes an instruction of a prologue or epilogue; `None` for one that leaves the function. What an instruction
/// does to other registers does not matter to a caller.
fn interpret(instruction: &Instruction, memory: &mut Compiled, gpr: &mut [u64; 16]) -> Option<()> {
    let number = |register: Register| register.number();
    let address =
        |gpr: &[u64; 16]| gpr[number(instruction.memory_base())].wrapping_add(instruction.memory_displacement64());
    match instruction.mnemonic() {
        Mnemonic::Push => {
            gpr[RSP] -= 8;
            memory
                .stack
                .write_u64(gpr[RSP], gpr[number(instruction.op0_register())]);
        }
        Mnemonic::Pop => {
            gpr[number(instruction.op0_register())] = memory.read_u64(gpr[RSP]).unwrap();
            gpr[RSP] += 8;
        }
        Mnemonic::Sub if instruction.op0_register() == Register::RSP => {
            let by = match instruction.op1_kind() {
                OpKind::Register => gpr[number(instruction.op1_register())],
                _ => instruction.immediate(1),
            };
            gpr[RSP] = gpr[RSP].wrapping_sub(by);
        }
        Mnemonic::Add if instruction.op0_register() == Register::RSP => {
            gpr[RSP] = gpr[RSP].wrapping_add(instruction.immediate(1));
        }
        Mnemonic::Lea if instruction.memory_base().is_gpr64() && instruction.memory_index() == Register::None => {
            gpr[number(instruction.op0_register())] = address(gpr);
        }
        Mnemonic::Mov if instruction.code() == Code::Mov_r32_imm32 => {
            gpr[number(instruction.op0_register())] = instruction.immediate(1);
        }
        Mnemonic::Mov if instruction.op0_register().is_gpr64() && instruction.op1_kind() == OpKind::Register => {
            gpr[number(instruction.op0_register())] = gpr[number(instruction.op1_register())];
        }
        Mnemonic::Mov if instruction.op0_kind() == OpKind::Memory && instruction.op1_register().is_gpr64() => {
            let at = address(gpr);
            memory.stack.write_u64(at, gpr[number(instruction.op1_register())]);
        }
        Mnemonic::Ret | Mnemonic::Jmp => return None,
        _ => {}
    }
    Some(())
}

/// Whether an instruction can be a part of an epilogue.
fn is_epilogue(instruction: &Instruction) -> bool {
    let rsp = instruction.op0_register() == Register::RSP;
    instruction.mnemonic() == Mnemonic::Pop
        || (rsp && matches!(instruction.mnemonic(), Mnemonic::Add | Mnemonic::Lea | Mnemonic::Mov))
}

/// All functions of the image's table.
fn functions(file: &FileImage) -> Vec<Function> {
    let image = file.image();
    let table = image.directory(EXCEPTION);
    let begins = (0..table.size / 12).map(|index| file.read_u32(image.address(table.rva + index * 12)).unwrap());
    begins
        .map(|begin| Function::find(file, image, image.address(begin)).unwrap().unwrap())
        .collect()
}

/// Checks the caller at each instruction of the prologue and of each epilogue; gives the number of checks.
fn check_function(memory: &mut Compiled, modules: &mut Modules, function: Function) -> usize {
    let image = memory.file.image().clone();
    let begin = image.address(function.begin);
    let mut code = vec![0; (function.end - function.begin) as usize];
    memory.read(begin, &mut code).unwrap();
    let instructions: Vec<Instruction> = Decoder::with_ip(64, &code, begin, DecoderOptions::NONE)
        .into_iter()
        .collect();
    let table = image.directory(EXCEPTION);
    let entry = (0..table.size / 12).map(|index| image.address(table.rva + index * 12));
    let entry = entry
        .filter(|&at| memory.read_u32(at).unwrap() == function.begin)
        .last()
        .unwrap();
    let info = image.address(memory.read_u32(entry + 8).unwrap());
    let prologue_end = begin + u64::from(memory.read_u8(info + 1).unwrap());

    let mut gpr = caller_registers();
    gpr[RSP] -= 8;
    memory.stack.write_u64(gpr[RSP], RETURN);
    let mut checks = 0;
    for instruction in &instructions {
        let context = Context {
            gpr,
            rip: instruction.ip(),
            exact: true,
        };
        assert_caller(memory, modules, &context, &format!("{:#x}", instruction.ip()));
        checks += 1;
        if instruction.ip() >= prologue_end || interpret(instruction, memory, &mut gpr).is_none() {
            break;
        }
    }
    for (index, end) in instructions.iter().enumerate() {
        let out = |target| {
            image
                .rva(target)
                .is_none_or(|rva| rva < function.begin || rva >= function.end)
        };
        let leaves = end.flow_control() == FlowControl::Return
            || (end.flow_control() == FlowControl::UnconditionalBranch && out(end.near_branch_target()));
        if !leaves || end.ip() < prologue_end {
            continue;
        }
        let first = instructions[..index]
            .iter()
            .rposition(|one| !is_epilogue(one))
            .map_or(0, |before| before + 1);
        let mut state = gpr;
        for instruction in &instructions[first..=index] {
            let context = Context {
                gpr: state,
                rip: instruction.ip(),
                exact: true,
            };
            assert_caller(memory, modules, &context, &format!("epilogue {:#x}", instruction.ip()));
            checks += 1;
            let _ = interpret(instruction, memory, &mut state);
        }
    }
    checks
}

#[test]
fn compiled_functions_unwind_at_each_step_of_prologue_and_epilogue() {
    for options in [&["-O2"][..], &["-O0"], &["-O1", "-fno-omit-frame-pointer"], &["-Os"]] {
        let file = compile(options);
        let mut modules = Modules::with_kernel(0, file.image());
        let all = functions(&file);
        let mut memory = Compiled {
            file,
            stack: Space::default(),
        };
        let checks: usize = all
            .iter()
            .map(|&function| check_function(&mut memory, &mut modules, function))
            .sum();
        assert!(
            all.len() >= 10 && checks >= 55,
            "{options:?}: {checks} checks of {} functions",
            all.len()
        );
    }
}
