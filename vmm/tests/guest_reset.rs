//! Resets after which the run goes on: firmware of a few instructions that counts its starts in CMOS memory, which a
//! reset keeps, and asks for a reset in each way that a PC has until it has started five times. Needs /dev/kvm.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod pc;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pc::test_platform_runs_operating_systems;
use storlock_vmm::boot::{FirmwareRequest, NamedFile};
use storlock_vmm::debug::HitAction;
use storlock_vmm::kvm;
use storlock_vmm::run::{AtReset, Machine, MachineConfig, MachineStop, RunningMachine};
use storlock_vmm::run::{DebugHandler, StoppedCpu};
use storlock_vmm::sandbox::Sandbox;

const LIMIT: Duration = Duration::from_secs(120);
const STARTS: u8 = 5;

/// mov dx, CF9h; mov al, 6; out dx, al
const RESET_CONTROL: &[u8] = &[0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee];
/// mov al, FEh; out 64h, al
const KEYBOARD: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64];
/// mov al, 3; out 92h, al
const PORT_A: &[u8] = &[0xb0, 0x03, 0xe6, 0x92];
/// lidt cs:[FE00h] (zeroes); mov eax, cr0; or al, 1; mov cr0, eax (protected mode); ud2
const TRIPLE_FAULT: &[u8] = &[
    0x2e, 0x0f, 0x01, 0x1e, 0x00, 0xfe, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0x0f, 0x0b,
];

/// Firmware that asks for a reset by `reset` unless it has started so many times; `None`: always.
fn firmware(reset: &[u8], starts: Option<u8>) -> FirmwareRequest {
    let off = match starts {
        Some(_) => [0x74, reset.len() as u8 + 3], // je off
        None => [0x90, 0x90],                     // nop; nop
    };
    #[rustfmt::skip]
    let mut code = vec![
        0xb0, 0x40,             // mov al, 40h
        0xe6, 0x70,             // out 70h, al
        0xe4, 0x71,             // in al, 71h
        0xfe, 0xc0,             // inc al
        0xe6, 0x71,             // out 71h, al
        0x3c, starts.unwrap_or(0), // cmp al, starts
    ];
    code.extend(off);
    code.extend(reset);
    #[rustfmt::skip]
    code.extend([
        0xf4,                   // hlt
        0xeb, 0xfd,             // jmp to it
        0xba, 0x04, 0xb0,       // off: mov dx, B004h (PM1 control)
        0xb8, 0x00, 0x20,       // mov ax, 2000h (SLP_EN, S5)
        0xef,                   // out dx, ax
        0xf4,                   // hlt
    ]);
    let mut data = vec![0; 4096];
    data[0xf00..0xf00 + code.len()].copy_from_slice(&code);
    // The reset vector: jmp FF00h.
    data[0xff0..0xff3].copy_from_slice(&[0xe9, 0x0d, 0xff]);
    FirmwareRequest {
        code: NamedFile {
            name: "the test's firmware".into(),
            data,
        },
        variables: None,
        kernel: None,
        display: false,
    }
}

/// What a handler saw of resets.
#[derive(Default)]
struct Resets {
    count: AtomicU64,
    /// Those of a first processor at its reset vector.
    right: AtomicU64,
}

impl DebugHandler for Resets {
    fn breakpoint(&self, _: &mut StoppedCpu<'_>, _: u32) -> HitAction {
        HitAction::Resume
    }

    fn caught_return(&self, _: &mut StoppedCpu<'_>, _: u64) -> HitAction {
        HitAction::Resume
    }

    fn msr_write(&self, _: &mut StoppedCpu<'_>, _: u32, _: u64) -> HitAction {
        HitAction::Resume
    }

    fn reset(&self, cpu: &mut StoppedCpu<'_>) {
        let right = cpu.index() == 0 && cpu.registers().rip == 0xfff0 && cpu.special().cr0 & 1 == 0;
        self.count.fetch_add(1, Ordering::SeqCst);
        self.right.fetch_add(u64::from(right), Ordering::SeqCst);
    }
}

/// Runs it to its end, or for so long.
fn run(request: FirmwareRequest, at_reset: AtReset, limit: Duration) -> (MachineStop, RunningMachine, Arc<Resets>) {
    let kvm = kvm::open(Path::new(kvm::DEFAULT_DEVICE)).unwrap();
    let resets = Arc::new(Resets::default());
    let config = MachineConfig {
        cpus: 2,
        memory: 16 << 20,
        handler: Some(Arc::clone(&resets) as _),
        at_reset,
        sandbox: Sandbox::enforced(&storlock_vmm::run::THREADS).unwrap(),
        ..MachineConfig::default()
    };
    let mut machine = Machine::new(&kvm, config).unwrap();
    machine.boot_firmware(request).unwrap();
    let running = machine.start().unwrap();
    let reason = running.wait(Some(limit));
    (reason, running, resets)
}

#[test]
fn firmware_starts_again_after_a_reset_of_every_kind() {
    let mut kinds = vec![
        ("reset control register", RESET_CONTROL, AtReset::Restart),
        ("keyboard controller", KEYBOARD, AtReset::Restart),
        ("port 92h", PORT_A, AtReset::Restart),
    ];
    // A KVM without hardware behind it gives up on exceptions before paging is on.
    if test_platform_runs_operating_systems() {
        kinds.push(("triple fault", TRIPLE_FAULT, AtReset::RestartAtTripleFault));
    }
    for (name, reset, at_reset) in kinds {
        let (reason, running, resets) = run(firmware(reset, Some(STARTS)), at_reset, LIMIT);
        assert!(matches!(reason, MachineStop::PowerOff), "{name}: {reason}");
        let wanted = u64::from(STARTS) - 1;
        assert_eq!(running.restarts(), wanted, "{name}");
        let seen = (resets.count.load(Ordering::SeqCst), resets.right.load(Ordering::SeqCst));
        assert_eq!(seen, (wanted, wanted), "{name}");
    }
}

#[test]
fn a_reset_ends_the_run_where_that_is_wanted() {
    let (reason, running, _) = run(firmware(RESET_CONTROL, Some(STARTS)), AtReset::End, LIMIT);
    assert!(matches!(reason, MachineStop::Reset), "{reason}");
    assert_eq!(running.restarts(), 0);
    if !test_platform_runs_operating_systems() {
        return;
    }
    let (reason, ..) = run(firmware(TRIPLE_FAULT, Some(STARTS)), AtReset::Restart, LIMIT);
    assert!(matches!(reason, MachineStop::TripleFault { cpu: 0 }), "{reason}");
}

#[test]
fn a_guest_that_only_resets_itself_ends_by_the_time_limit_and_can_be_paused() {
    let (reason, running, _) = run(firmware(PORT_A, None), AtReset::Restart, Duration::from_millis(500));
    assert!(matches!(reason, MachineStop::TimeLimit), "{reason}");
    assert!(running.restarts() > 1);
    running.resume().unwrap();
    running.pause();
    let before = running.restarts();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(running.restarts(), before, "nothing moves in a pause");
}
