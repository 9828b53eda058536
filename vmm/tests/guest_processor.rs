//! What a guest finds in its processor: model-specific registers that KVM knows and does not know, and CPUID. On the real
//! KVM: `cargo test -p storlock-vmm --test guest_processor`.

#![allow(clippy::print_stdout, reason = "what a test platform lacks is shown on demand")]
// clippy spares functions marked `#[test]` only, not what they call.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use storlock_vmm::kvm::{Capabilities, Flavour};
use storlock_vmm::msr::{MsrAccess, MsrAnswer};
use storlock_vmm::run::{AddressWidth, MachineConfig};
use support::{Code, LIMIT, Recorder, Started, config, open};

/// In the place of a value: the access raised #GP.
const FAULT: u32 = 0xbad;
/// On the list of those that read as 0; unknown to every KVM; known, with bits that may not be set.
const LISTED: u32 = 0x88;
const UNKNOWN: u32 = 0x0bad_0000;
const KNOWN: u32 = 0x2ff;
const RESERVED: u32 = 0xff;

/// Loads an interrupt table whose #GP handler skips the instruction, and makes the results' address ready.
fn beginning() -> Code {
    Code::new()
        .relative(&[0x0f, 0x01, 0x1d], "idtr", &[]) // lidt [idtr]
        .relative(&[0x48, 0x8d, 0x3d], "results", &[]) // lea rdi, [results]
}

/// Notes the low half of a register, or [`FAULT`].
fn read(code: Code, index: u32) -> Code {
    code.raw(&[0xb9]).raw(&index.to_le_bytes()).raw(&[0x0f, 0x32, 0xab]) // mov ecx, index; rdmsr; stosd
}

/// Notes 1 after writing a value to a register, or [`FAULT`].
fn write(code: Code, index: u32, value: u32) -> Code {
    code.raw(&[0xb9])
        .raw(&index.to_le_bytes()) // mov ecx, index
        .raw(&[0xb8])
        .raw(&value.to_le_bytes()) // mov eax, value
        .raw(&[0x31, 0xd2, 0xbe, 1, 0, 0, 0]) // xor edx, edx; mov esi, 1
        .raw(&[0x0f, 0x30, 0x39, 0xc0, 0xb8]) // wrmsr; cmp eax, eax; mov eax, FAULT ...
        .raw(&FAULT.to_le_bytes())
        .raw(&[0x81, 0xfe, 1, 0, 0, 0]) // cmp esi, 1
        .raw(&[0x0f, 0x44, 0xc6, 0xab]) // cmove eax, esi; stosd
}

/// Notes EAX and ECX of a leaf.
fn cpuid(code: Code, leaf: u32) -> Code {
    code.raw(&[0xb8])
        .raw(&leaf.to_le_bytes()) // mov eax, leaf
        .raw(&[0x31, 0xc9, 0x0f, 0xa2, 0xab]) // xor ecx, ecx; cpuid; stosd
        .raw(&[0x89, 0xc8, 0xab]) // mov eax, ecx; stosd
}

fn run(code: Code, change: impl FnOnce(MachineConfig) -> MachineConfig) -> Started {
    let guest = code
        .end()
        .label("protection")
        .raw(&[0x48, 0x83, 0x44, 0x24, 8, 2, 0x48, 0x83, 0xc4, 8]) // add qword [rsp + 8], 2; add rsp, 8
        .raw(&[0xb8])
        .raw(&FAULT.to_le_bytes()) // mov eax, FAULT
        .raw(&[0x31, 0xf6, 0x48, 0xcf]) // xor esi, esi; iretq
        .data("idt", 4096)
        .data("idtr", 16)
        .data("results", 64)
        .assemble();
    let prepared = guest.prepare(&open(), change(config(1, &Recorder::resuming())));
    prepared.set_gate(13, "protection");
    prepared.run()
}

fn results<const N: usize>(started: &Started) -> [u32; N] {
    std::array::from_fn(|index| started.u32_at("results", index as u64))
}

/// Every access to a register that KVM may not know.
fn accesses() -> Code {
    let code = read(read(beginning(), LISTED), UNKNOWN);
    write(write(write(code, LISTED, 5), UNKNOWN, 5), KNOWN, RESERVED)
}

/// Whether accesses that KVM would refuse come to us; says so if they do not.
fn are_told() -> bool {
    let told = Capabilities::of(&open()).unknown_msrs;
    if !told {
        println!("this test platform's KVM keeps accesses to unknown MSRs to itself (KVM_CAP_X86_USER_SPACE_MSR)");
    }
    told
}

#[test]
fn an_unknown_register_faults_but_one_on_the_list_is_zero_and_all_are_counted() {
    if !are_told() {
        return;
    }
    let started = run(accesses(), |config| config);
    assert_eq!(results(&started), [0, FAULT, 1, FAULT, FAULT]);
    let access = |index, write, answer| MsrAccess { index, write, answer };
    let expected = [
        (access(LISTED, false, MsrAnswer::Listed), 1),
        (access(LISTED, true, MsrAnswer::Listed), 1),
        (access(KNOWN, true, MsrAnswer::Refused), 1),
        (access(UNKNOWN, false, MsrAnswer::Unknown), 1),
        (access(UNKNOWN, true, MsrAnswer::Unknown), 1),
    ];
    let counts = started.machine.handle().unserved().msrs;
    assert_eq!((counts.kinds, counts.others), (expected.into(), 0));
}

#[test]
fn what_nobody_knows_is_zero_where_it_is_ignored_and_what_kvm_refuses_still_faults() {
    if !are_told() {
        return;
    }
    let started = run(accesses(), |config| MachineConfig {
        ignore_unknown_msrs: true,
        ..config
    });
    assert_eq!(results(&started), [0, 0, 1, 1, FAULT]);
}

#[test]
fn registers_are_as_firmware_leaves_them_and_mwait_is_not_offered() {
    let code = cpuid(read(beginning(), 0x1a0), 1);
    let started = run(code, |config| config);
    let [enabled, _, features] = results(&started);
    // Fast strings, thermal control, no branch trace store, no precise sampling, SpeedStep, no xTPR; not MONITOR.
    assert_eq!(enabled & 0x85_1809, 0x81_1809, "{enabled:#x}");
    assert_eq!(features & 1 << 3, 0, "MONITOR");
}

#[test]
fn hyper_vs_synthetic_interrupts_are_on_from_the_start() {
    if Capabilities::of(&open()).flavour == Flavour::Other {
        println!("this test platform's KVM has no synthetic interrupts of Hyper-V");
        return;
    }
    let started = run(read(beginning(), 0x4000_0080), |config| MachineConfig {
        hyperv: true,
        ..config
    });
    assert_eq!(results(&started), [1]);
}

#[test]
fn hyper_vs_reference_time_stands_still_over_a_pause() {
    const PAUSE: Duration = Duration::from_secs(8);
    if Capabilities::of(&open()).flavour == Flavour::Other {
        println!("this test platform's KVM has no reference time of Hyper-V");
        return;
    }
    let guest = Code::new()
        .label("again")
        .raw(&[0xb9, 0x20, 0, 0, 0x40, 0x0f, 0x32]) // mov ecx, HV_X64_MSR_TIME_REF_COUNT; rdmsr
        .raw(&[0x48, 0xc1, 0xe2, 32, 0x48, 0x09, 0xd0]) // shl rdx, 32; or rax, rdx
        .relative(&[0x48, 0x89, 0x05], "now", &[]) // mov [now], rax
        .jump("again")
        .data("now", 8)
        .assemble();
    let configuration = MachineConfig {
        hyperv: true,
        ..config(1, &Recorder::resuming())
    };
    let started = guest.prepare(&open(), configuration).start();
    let now = || started.u64_at("now", 0);
    let change = |before| {
        let began = Instant::now();
        while now() == before {
            assert!(began.elapsed() < LIMIT, "the guest's time stands still");
            std::thread::yield_now();
        }
        now()
    };
    let mut before = change(0);
    for _ in 0..2 {
        before = change(before);
        started.machine.pause();
        let stopped = now();
        assert!(stopped >= before);
        std::thread::sleep(PAUSE);
        started.machine.resume().unwrap();
        before = change(stopped);
        // In units of 100 ns.
        let passed = Duration::from_nanos(100 * before.checked_sub(stopped).unwrap());
        assert!(passed < PAUSE / 2, "{passed:?}");
    }
}

#[test]
fn corrected_machine_checks_interrupt_where_kvm_can_do_that() {
    // MCG_CAP; the local APIC's register for that interrupt, in x2APIC mode, is there with it only.
    let code = read(beginning(), 0x179).raw(&[0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32, 0x80, 0xcc, 0x0c, 0x0f, 0x30]);
    let started = run(read(code, 0x82f), |config| config);
    let [capabilities, vector] = results(&started);
    if capabilities & 1 << 10 == 0 {
        println!("this test platform's KVM has no CMCI");
        return;
    }
    assert_ne!(vector, FAULT);
}

#[test]
fn both_numbers_of_physical_address_bits_are_those_that_were_asked_for() {
    for width in [AddressWidth::Bits(37), AddressWidth::Usual] {
        let started = run(cpuid(beginning(), 0x8000_0008), |config| MachineConfig {
            address_width: width,
            ..config
        });
        let [sizes, _] = results(&started);
        let bits = (sizes & 0xff, sizes >> 16 & 0xff);
        match width {
            AddressWidth::Bits(wanted) => assert_eq!(bits, (wanted, wanted)),
            _ => assert!(bits.0 == bits.1 && bits.0 <= 40, "{bits:?}"),
        }
    }
}
