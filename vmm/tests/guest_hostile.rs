//! A guest that reads and writes ports and model-specific registers by chance, on the real KVM: whatever it hits, the machine
//! ends as a machine may, keeps within its limits, and lets itself be taken down.

#![allow(clippy::print_stdout, reason = "what the guests came to is shown on demand")]
// clippy spares functions marked `#[test]` only, not what they call.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use storlock_vmm::kvm::{Capabilities, Flavour};
use storlock_vmm::run::{MachineConfig, MachineStop};
use support::{Code, Recorder, config, open};

/// Ports of devices, which are hit more often than others: RTC, keyboard, UARTs, debug console, firmware configuration,
/// PCI configuration, power management, PICs, timer. Those of which nearly every write is a reset are left out.
const PORTS: [u16; 32] = [
    0x70, 0x71, 0x60, 0x64, 0x2fb, 0x3f8, 0x3f9, 0x3fb, 0x2f8, 0x402, 0x510, 0x511, 0x514, 0x518, 0xcf8, 0xcfc, 0xcfd,
    0xcfe, 0xb000, 0xb002, 0xb005, 0xb008, 0xb00c, 0xb00e, 0x20, 0x21, 0xa0, 0xa1, 0x40, 0x43, 0x61, 0x4d0,
];
/// Where model-specific registers are: of Intel, of x2APIC, of the hypervisors, of AMD. The last 12 bits of an index come
/// by chance.
const REGISTERS: [u32; 8] = [
    0,
    0x400,
    0x800,
    0x1000,
    0x4000_0000,
    0x4b56_4000,
    0xc000_0000,
    0xc001_0000,
];

fn bytes<const N: usize>(words: impl IntoIterator<Item = [u8; N]>) -> Vec<u8> {
    words.into_iter().flatten().collect()
}

/// In turns by a xorshift generator in R12: which access, to which port or register, with which value.
fn guest(seed: u64) -> Code {
    // Each kind of access ends with a jump to the next turn.
    let access = |code: Code, kind: u8, next: &'static str, instructions: &[u8]| {
        code.raw(&[0x80, 0xfb, kind]) // cmp bl, kind
            .jump_if_not_zero(next)
            .raw(instructions)
            .jump("again")
            .label(next)
    };
    let code = Code::new()
        .relative(&[0x0f, 0x01, 0x1d], "idtr", &[]) // lidt [idtr]
        .raw(&[0x49, 0xbc])
        .raw(&seed.to_le_bytes()) // mov r12, seed
        .label("again")
        .count("turns")
        .raw(&[0x4c, 0x89, 0xe0, 0x48, 0xc1, 0xe0, 13, 0x49, 0x31, 0xc4]) // r12 ^= r12 << 13
        .raw(&[0x4c, 0x89, 0xe0, 0x48, 0xc1, 0xe8, 7, 0x49, 0x31, 0xc4]) // r12 ^= r12 >> 7
        .raw(&[0x4c, 0x89, 0xe0, 0x48, 0xc1, 0xe0, 17, 0x49, 0x31, 0xc4]) // r12 ^= r12 << 17
        .raw(&[0x4c, 0x89, 0xe3, 0x48, 0xc1, 0xeb, 60, 0x83, 0xe3, 15]) // ebx = the topmost 4 bits: which access
        .raw(&[0x4c, 0x89, 0xe1, 0x48, 0xc1, 0xe9, 55, 0x83, 0xe1, 31]) // ecx = the next 5
        .raw(&[0x44, 0x0f, 0xb7, 0xc1]) // movzx r8d, cx
        .relative(&[0x48, 0x8d, 0x35], "ports", &[]) // lea rsi, [ports]
        .raw(&[0x0f, 0xb7, 0x14, 0x4e]) // movzx edx, word [rsi + 2 * rcx]
        .raw(&[0x4c, 0x89, 0xe0, 0x48, 0xc1, 0xe8, 20]); // mov rax, r12; shr rax, 20: the value
    let code = access(code, 0, "in16", &[0xec]); // in al, dx
    let code = access(code, 1, "in32", &[0x66, 0xed]); // in ax, dx
    let code = access(code, 2, "out8", &[0xed]); // in eax, dx
    let code = access(code, 3, "out16", &[0xee]); // out dx, al
    let code = access(code, 4, "out32", &[0x66, 0xef]); // out dx, ax
    let code = access(code, 5, "again8", &[0xef]); // out dx, eax
    let code = access(code, 6, "any", &[0xee]);
    // Any port: mov edx, r12d
    let code = access(code, 7, "anyout", &[0x44, 0x89, 0xe2, 0xec]);
    let code = access(code, 8, "msrs", &[0x44, 0x89, 0xe2, 0xee]);
    // A register: and ecx, 7; mov ecx, [rsi + 4 * rcx]; mov r9d, r12d; and r9d, 0xfff; or ecx, r9d
    let code = code
        .relative(&[0x48, 0x8d, 0x35], "registers", &[]) // lea rsi, [registers]
        .raw(&[0x83, 0xe1, 7, 0x8b, 0x0c, 0x8e])
        .raw(&[0x45, 0x89, 0xe1, 0x41, 0x81, 0xe1, 0xff, 0x0f, 0, 0, 0x44, 0x09, 0xc9])
        .raw(&[0x48, 0x89, 0xc2, 0x48, 0xc1, 0xea, 16]); // mov rdx, rax; shr rdx, 16
    let code = access(code, 9, "wrmsr", &[0x0f, 0x32]); // rdmsr
    let code = access(code, 10, "small", &[0x0f, 0x30]); // wrmsr
    // A small value, which more registers take: and eax, 0xff; xor edx, edx
    let code = access(code, 11, "rest", &[0x25, 0xff, 0, 0, 0, 0x31, 0xd2, 0x0f, 0x30]);
    code.raw(&[0x0f, 0x32]) // rdmsr
        .jump("again")
        .label("protection")
        .raw(&[0x48, 0x83, 0x44, 0x24, 8, 2]) // add qword [rsp + 8], 2
        .raw(&[0x48, 0x83, 0xc4, 8, 0x48, 0xcf]) // add rsp, 8; iretq
        .label("ports")
        .raw(&bytes(PORTS.map(u16::to_le_bytes)))
        .label("registers")
        .raw(&bytes(REGISTERS.map(u32::to_le_bytes)))
        .data("turns", 4)
        .data("idt", 4096)
        .data("idtr", 16)
}

#[test]
fn a_guest_that_tries_everything_harms_no_one_but_itself() {
    const GUESTS: u64 = 40;
    const EACH: Duration = Duration::from_millis(200);
    let kvm = open();
    let has_hyperv = Capabilities::of(&kvm).flavour != Flavour::Other;
    let mut ends = BTreeMap::new();
    let mut turns = 0;
    for seed in 1..=GUESTS {
        let configuration = MachineConfig {
            hyperv: has_hyperv && seed % 2 == 0,
            ignore_unknown_msrs: seed % 3 == 0,
            ..config(1, &Recorder::resuming())
        };
        let code = guest(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).assemble();
        let prepared = code.prepare(&kvm, configuration);
        prepared.set_gate(13, "protection");
        let started = prepared.start();
        let reason = started.machine.wait(Some(EACH));
        assert!(
            matches!(
                reason,
                MachineStop::TimeLimit
                    | MachineStop::PowerOff
                    | MachineStop::Reset
                    | MachineStop::TripleFault { .. }
                    | MachineStop::Crash { .. }
                    | MachineStop::InternalError(_)
            ),
            "seed {seed}: {reason}"
        );
        turns += u64::from(started.u32_at("turns", 0));
        let name = format!("{reason:?}");
        let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap();
        *ends.entry(name.to_owned()).or_insert(0) += 1;
        let unserved = started.machine.handle().unserved();
        for kinds in [
            unserved.ports.kinds.len(),
            unserved.memory.kinds.len(),
            unserved.msrs.kinds.len(),
        ] {
            assert!(kinds <= 256, "seed {seed}: {kinds} kinds");
        }
        let began = Instant::now();
        drop(started);
        assert!(began.elapsed() < Duration::from_secs(10), "seed {seed}: {reason}");
    }
    println!("{turns} accesses; {ends:?}");
    assert!(turns > 100 * GUESTS, "{turns} accesses; {ends:?}");
}
