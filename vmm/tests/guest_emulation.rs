//! First instructions executed by the host, against the same bytes single-stepped by the real KVM.

// clippy spares functions marked `#[test]` only, not what they call.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, Mutex, OnceLock};

use storlock_vmm::debug::{HitAction, StepOver};
use storlock_vmm::registers::Registers;
use storlock_vmm::run::MachineConfig;
use storlock_vmm::run::StoppedCpu;
use support::{Call, Code, Recorder, config, open};

const ROUNDS: u64 = 24;
/// Adjust flag: undefined after logic instructions.
const AF: u64 = 1 << 4;
const STATUS: u64 = 0x8d5;

/// State after the instruction: registers and the memory around RSP and RCX.
type State = (Registers, [u8; 256]);

/// Reproducible bits.
fn random(round: u64, number: u64) -> u64 {
    let mut value = (round * 31 + number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value ^= value >> 29;
    value = value.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value ^ value >> 32
}

/// Registers before the instruction: pointers in RCX and RSP, anything (and now and then a special value) in the rest.
fn before(round: u64, rip: u64, data: u64) -> Registers {
    let value = |number: u64| match random(round, number + 100) % 6 {
        0 => 0,
        1 => u64::MAX,
        2 => 0x8000_0000_8000_0080,
        3 => random(round, number) & 0xff,
        _ => random(round, number),
    };
    Registers {
        rax: value(0),
        rbx: value(1),
        rcx: data + 64,
        rdx: value(2),
        rsi: value(3),
        rdi: value(4),
        rbp: value(5),
        rsp: data + 128 + random(round, 6) % 4 * 8,
        r8: value(7),
        r9: value(8),
        r10: value(9),
        r11: value(10),
        r12: value(11),
        r13: value(12),
        r14: value(13),
        r15: value(14),
        rip,
        rflags: 2 | random(round, 15) & STATUS,
    }
}

fn observe(cpu: &StoppedCpu<'_>, data: u64) -> State {
    let mut memory = [0; 256];
    cpu.read_virtual(data, &mut memory).unwrap();
    (*cpu.registers(), memory)
}

/// The states after `instruction`, one a round, and how many the host executed.
fn states(instruction: &[u8], method: StepOver) -> (Vec<State>, u64) {
    let kvm = open();
    let places = Arc::new(OnceLock::<(u64, u64, u64)>::new());
    let known = Arc::clone(&places);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let collected = Arc::clone(&seen);
    let recorder = Recorder::new(move |cpu, call| {
        let (start, data, end) = *known.get().unwrap();
        let mut seen = collected.lock().unwrap();
        let round = seen.len() as u64;
        if let Call::Breakpoint { id: 0, .. } = call {
            let pattern: Vec<u8> = (0..256u64).map(|byte| random(round, byte + 200) as u8).collect();
            cpu.write_virtual(data, &pattern).unwrap();
            cpu.set_registers(&before(round, start, data));
        } else {
            seen.push(observe(cpu, data));
            let mut registers = *cpu.registers();
            registers.rip = if seen.len() as u64 == ROUNDS { end } else { start };
            cpu.set_registers(&registers);
        }
        HitAction::Resume
    });
    let guest = Code::new()
        .jump("start")
        .label("start")
        .raw(instruction)
        .label("after")
        .raw(&[0x90])
        .label("end")
        .end()
        .data("data", 256)
        .assemble();
    let configuration = MachineConfig {
        step_over: Some(method),
        ..config(1, &recorder)
    };
    let prepared = guest.prepare(&kvm, configuration).break_at(&["start", "after"]);
    let place = |label| prepared.place.address(label);
    places.set((place("start"), place("data"), place("end"))).unwrap();
    let started = prepared.run();
    let emulated = started.machine.statistics()[0].emulated;
    let states = seen.lock().unwrap().clone();
    (states, emulated)
}

fn compare(name: &str, instruction: &[u8], ignored_flags: u64, rounds_emulated: u64) {
    let (stepped, _) = states(instruction, StepOver::SingleStep);
    let (executed, emulated) = states(instruction, StepOver::EmulateFirst);
    assert_eq!(stepped.len(), ROUNDS as usize, "{name}");
    for (round, (stepped, executed)) in stepped.iter().zip(&executed).enumerate() {
        let visible = |state: &State| {
            let mut registers = state.0;
            registers.rflags &= !ignored_flags;
            (registers, state.1)
        };
        assert_eq!(visible(executed), visible(stepped), "{name}, round {round}");
    }
    assert_eq!(executed.len(), stepped.len(), "{name}");
    // The instruction after it is left by a changed RIP, so it counts for nothing.
    assert_eq!(emulated, rounds_emulated, "{name}: executed by the host");
}

#[test]
fn known_first_instructions_do_what_the_processor_does() {
    let instructions: &[(&str, &[u8], u64)] = &[
        ("push rbx", &[0x53], 0),
        ("push r15", &[0x41, 0x57], 0),
        ("push rsp", &[0x54], 0),
        ("push imm8", &[0x6a, 0x80], 0),
        ("push imm32", &[0x68, 1, 2, 3, 0x84], 0),
        ("push [rcx+8]", &[0xff, 0x71, 0x08], 0),
        ("pushfq", &[0x9c], 0),
        ("nop", &[0x90], 0),
        ("endbr64", &[0xf3, 0x0f, 0x1e, 0xfa], 0),
        ("nop [rax+rax]", &[0x0f, 0x1f, 0x44, 0, 0], 0),
        ("xchg ax, ax", &[0x66, 0x90], 0),
        ("mov [rsp+8], rbx", &[0x48, 0x89, 0x5c, 0x24, 0x08], 0),
        ("mov [rsp+8], ebx", &[0x89, 0x5c, 0x24, 0x08], 0),
        ("mov [rsp+8], bl", &[0x88, 0x5c, 0x24, 0x08], 0),
        ("mov dword [rcx], imm", &[0xc7, 0x01, 1, 2, 3, 4], 0),
        ("mov qword [rcx], imm", &[0x48, 0xc7, 0x01, 1, 2, 3, 0x84], 0),
        ("mov rax, rsp", &[0x48, 0x89, 0xe0], 0),
        ("mov r11, rsp", &[0x4c, 0x8b, 0xdc], 0),
        ("mov eax, edx", &[0x89, 0xd0], 0),
        ("mov al, dl", &[0x88, 0xd0], 0),
        ("mov ax, dx", &[0x66, 0x89, 0xd0], 0),
        ("mov rax, [rcx]", &[0x48, 0x8b, 0x01], 0),
        ("mov eax, [rcx]", &[0x8b, 0x01], 0),
        ("mov rdx, imm64", &[0x48, 0xba, 1, 2, 3, 4, 5, 6, 7, 0x88], 0),
        ("mov rax, cr8", &[0x44, 0x0f, 0x20, 0xc0], 0),
        ("movzx eax, byte [rcx]", &[0x0f, 0xb6, 0x01], 0),
        ("movzx eax, dl", &[0x0f, 0xb6, 0xc2], 0),
        ("movsx rax, dl", &[0x48, 0x0f, 0xbe, 0xc2], 0),
        ("movsxd rax, edx", &[0x48, 0x63, 0xc2], 0),
        ("lea rax, [rcx+rdx*4+8]", &[0x48, 0x8d, 0x44, 0x91, 0x08], 0),
        ("lea eax, [rcx+rdx]", &[0x8d, 0x04, 0x11], 0),
        ("lea rax, [rip+16]", &[0x48, 0x8d, 0x05, 0x10, 0, 0, 0], 0),
        ("sub rsp, 28h", &[0x48, 0x83, 0xec, 0x28], 0),
        ("sub eax, edx", &[0x29, 0xd0], 0),
        ("sub al, dl", &[0x28, 0xd0], 0),
        ("add rax, rdx", &[0x48, 0x01, 0xd0], 0),
        ("add ax, dx", &[0x66, 0x01, 0xd0], 0),
        ("add rbx, [rcx]", &[0x48, 0x03, 0x19], 0),
        ("cmp rdx, rsi", &[0x48, 0x39, 0xf2], 0),
        ("cmp byte [rcx], 80h", &[0x80, 0x39, 0x80], 0),
        ("xor eax, eax", &[0x31, 0xc0], AF),
        ("xor rax, rdx", &[0x48, 0x31, 0xd0], AF),
        ("and eax, edx", &[0x21, 0xd0], AF),
        ("or rax, imm", &[0x48, 0x83, 0xc8, 0x81], AF),
        ("test rdx, rdx", &[0x48, 0x85, 0xd2], AF),
        ("test cl, cl", &[0x84, 0xc9], AF),
        ("jmp $+2", &[0xeb, 0x00], 0),
    ];
    for (name, bytes, ignored_flags) in instructions {
        compare(name, bytes, *ignored_flags, ROUNDS);
    }
}

#[test]
fn what_the_host_does_not_know_is_stepped() {
    let instructions: &[(&str, &[u8])] = &[
        ("lock bts qword [rcx], 0", &[0xf0, 0x48, 0x0f, 0xba, 0x29, 0]),
        ("xchg [rcx], rax", &[0x48, 0x87, 0x01]),
        ("mov al, ah", &[0x88, 0xe0]),
        ("inc dword [rcx]", &[0xff, 0x01]),
        ("add [rcx], rax", &[0x48, 0x01, 0x01]),
        ("shl rax, 1", &[0x48, 0xd1, 0xe0]),
        ("movups [rcx], xmm0", &[0x0f, 0x11, 0x01]),
    ];
    for (name, bytes) in instructions {
        // The flags that a bit test or shift leaves undefined are the same processor's both times.
        compare(name, bytes, 0, 0);
    }
}
