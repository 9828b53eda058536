//! OVMF in our PC: its shell finds the NVMe disk, runs a script from it and switches off, and what it stores in its
//! variables is there again at the next boot. Needs a /dev/kvm that uses hardware virtualization.

#![allow(clippy::print_stdout, reason = "what a test measured is shown on demand")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that fails is a failed test"
)]

mod pc;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pc::firmware::{make_fat_disk, make_variables, ovmf, seabios};
use pc::{Console, DebianKernel, machine, machine_of, places, run_to, test_platform_runs_operating_systems};
use storlock_vmm::boot::{FirmwareRequest, LinuxRequest};
use storlock_vmm::run::MachineConfig;

/// What OVMF does where nothing is: it looks for CPU hot-plug and for a TPM.
const UNASSIGNED: (&str, &str) = ("r32@af00 x1, w32@af00 x2, w8@af05 x1", "r8@fed40000 x2");

/// What the shell does by itself: the map of devices, a variable that stays, and off.
const STARTUP: &str = "@echo -off\r
map -b\r
if \"%StorlockSeen%\" == \"yes\" then\r
  echo variables: kept\r
else\r
  echo variables: new\r
endif\r
set StorlockSeen yes\r
echo script: done\r
reset -s\r
";

fn make_disk(directory: &Path) -> PathBuf {
    make_fat_disk(directory, 16 << 20, &[("startup.nsh", STARTUP.as_bytes())])
}

#[test]
fn ovmf_reaches_its_shell_and_keeps_its_variables_over_two_boots() {
    if !test_platform_runs_operating_systems() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = make_disk(directory.path());
    let variables = make_variables(directory.path());
    for expected in ["variables: new", "variables: kept"] {
        let console = Console::default();
        let mut machine = machine(1, 512, &disk, &console);
        machine.boot_firmware(ovmf(&variables)).unwrap();
        let (pio, mmio) = (Arc::clone(machine.pio()), Arc::clone(machine.mmio()));
        let took = run_to(machine, &console, "power-off");
        println!("OVMF from reset to power-off in {took:?}");
        assert_eq!(
            (&*places(&pio), &*places(&mmio)),
            UNASSIGNED,
            "docs/platform.md tells what these are"
        );
        let said = console.text();
        for line in ["NVMe(0x1", expected, "script: done"] {
            assert!(said.contains(line), "no {line:?} in:\n{said}");
        }
    }
}

/// A boot sector that writes "booted by: BIOS" to COM1, has the BIOS wait for 100 ms, which it does by the clock's periodic
/// interrupt (INT 15h, AH=86h), writes "waited: 100 ms", and switches off.
fn boot_sector() -> Vec<u8> {
    let texts: [(usize, &[u8]); 2] = [(0x50, b"booted by: BIOS\r\n\0"), (0x70, b"waited: 100 ms\r\n\0")];
    #[rustfmt::skip]
    let code = [
        0x31, 0xc0,             // xor ax, ax
        0x8e, 0xd8,             // mov ds, ax
        0x8e, 0xd0,             // mov ss, ax
        0xbc, 0x00, 0x7c,       // mov sp, 7C00h
        0xfb,                   // sti
        0xbe, 0x50, 0x7c,       // mov si, 7C50h: the first text
        0xe8, 0x1a, 0x00,       // call print
        0xb9, 0x01, 0x00,       // mov cx, 1
        0xba, 0xa0, 0x86,       // mov dx, 86A0h: with CX 100,000 us
        0xb4, 0x86,             // mov ah, 86h
        0xcd, 0x15,             // int 15h
        0x72, 0x06,             // jc off
        0xbe, 0x70, 0x7c,       // mov si, 7C70h: the second text
        0xe8, 0x08, 0x00,       // call print
        0xba, 0x04, 0xb0,       // off: mov dx, B004h (PM1 control)
        0xb8, 0x00, 0x20,       // mov ax, 2000h (SLP_EN, S5)
        0xef,                   // out dx, ax
        0xf4,                   // hlt
        0xba, 0xf8, 0x03,       // print: mov dx, 3F8h
        0xac,                   // next: lodsb
        0x84, 0xc0,             // test al, al
        0x74, 0x03,             // jz done
        0xee,                   // out dx, al
        0xeb, 0xf8,             // jmp next
        0xc3,                   // done: ret
    ];
    let mut sector = vec![0; 512];
    sector[..code.len()].copy_from_slice(&code);
    for (at, text) in texts {
        sector[at..at + text.len()].copy_from_slice(text);
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[test]
fn seabios_boots_from_the_disk_and_waits_by_the_real_time_clock() {
    if !test_platform_runs_operating_systems() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    let mut image = boot_sector();
    image.resize(1 << 20, 0);
    fs::write(&disk, image).unwrap();
    let (console, log) = (Console::default(), Console::default());
    let config = MachineConfig {
        cpus: 2,
        debug_console: Some(Box::new(log.clone())),
        ..MachineConfig::default()
    };
    let mut machine = machine_of(config, &disk, &console);
    machine.boot_firmware(seabios()).unwrap();
    run_to(machine, &console, "power-off");
    println!("{}", log.text());
    for line in ["booted by: BIOS", "waited: 100 ms"] {
        assert!(console.text().contains(line), "no {line:?}: {}", log.text());
    }
}

#[test]
#[ignore = "OVMF and Linux one after the other: two minutes"]
fn ovmf_boots_debians_kernel_and_has_a_display() {
    if !test_platform_runs_operating_systems() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = make_disk(directory.path());
    let variables = make_variables(directory.path());
    let kernel = DebianKernel::find();
    let init = "#!/bin/busybox sh\n/bin/busybox mount -t sysfs none /sys\n\
                [ -d /sys/firmware/efi ] && echo 'booted by: EFI'\n/bin/busybox poweroff -f\n";
    let console = Console::default();
    let mut machine = machine(2, 512, &disk, &console);
    let request = FirmwareRequest {
        kernel: Some(LinuxRequest {
            kernel: kernel.image(),
            initrd: Some(kernel.initramfs(&[], init, &[])),
            command_line: "console=ttyS0 quiet".into(),
        }),
        display: true,
        ..ovmf(&variables)
    };
    let display = machine.boot_firmware(request).unwrap().unwrap();
    run_to(machine, &console, "power-off");
    let said = console.text();
    assert!(said.contains("booted by: EFI"), "{said}");
    let picture = display.picture().expect("OVMF has announced a frame buffer");
    println!("display: {} x {}", picture.width, picture.height);
    assert!(picture.width >= 640 && picture.height >= 480);
}
