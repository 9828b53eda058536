//! OVMF in our PC: its shell finds the NVMe disk, runs a script from it and switches off, and what it stores in its
//! variables is there again at the next boot. Needs /dev/kvm with a processor's virtualization behind it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that fails is a failed test"
)]

mod pc;

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use pc::{Console, DebianKernel, ground_runs_operating_systems, machine, places, run_to};
use storlock_vmm::boot::{FirmwareRequest, LinuxRequest, NamedFile, VariableStore};

const OVMF: &str = "/usr/share/OVMF";

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

fn tool(command: &mut Command) {
    let output = command
        .output()
        .expect("dosfstools and mtools are needed: scripts/setup guests");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A FAT disk with the shell's script.
fn make_disk(directory: &Path) -> std::path::PathBuf {
    let (disk, script) = (directory.join("disk"), directory.join("startup.nsh"));
    fs::write(&disk, vec![0; 16 << 20]).unwrap();
    fs::write(&script, STARTUP).unwrap();
    tool(Command::new("/sbin/mkfs.vfat").arg(&disk));
    tool(
        Command::new("mcopy")
            .arg("-i")
            .arg(&disk)
            .arg(&script)
            .arg("::startup.nsh"),
    );
    disk
}

fn firmware(variables: &Path) -> FirmwareRequest {
    let code = format!("{OVMF}/OVMF_CODE_4M.fd");
    let file = OpenOptions::new().read(true).write(true).open(variables).unwrap();
    FirmwareRequest {
        code: NamedFile {
            data: fs::read(&code).expect("OVMF is needed: Debian's package ovmf"),
            name: code,
        },
        variables: Some(VariableStore {
            name: variables.display().to_string(),
            content: fs::read(variables).unwrap(),
            file: Some(file),
        }),
        kernel: None,
        display: false,
    }
}

/// A store of variables as OVMF's package has it.
fn make_variables(directory: &Path) -> PathBuf {
    let variables = directory.join("variables");
    fs::copy(format!("{OVMF}/OVMF_VARS_4M.fd"), &variables).unwrap();
    variables
}

#[test]
fn ovmf_reaches_its_shell_and_keeps_its_variables_over_two_boots() {
    if !ground_runs_operating_systems() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = make_disk(directory.path());
    let variables = make_variables(directory.path());
    for expected in ["variables: new", "variables: kept"] {
        let console = Console::default();
        let mut machine = machine(1, 512, &disk, &console);
        machine.boot_firmware(firmware(&variables)).unwrap();
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

#[test]
#[ignore = "OVMF and Linux one after the other: two minutes"]
fn ovmf_boots_debians_kernel_and_has_a_display() {
    if !ground_runs_operating_systems() {
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
        ..firmware(&variables)
    };
    let display = machine.boot_firmware(request).unwrap().unwrap();
    run_to(machine, &console, "power-off");
    let said = console.text();
    assert!(said.contains("booted by: EFI"), "{said}");
    let picture = display.picture().expect("OVMF has announced a frame buffer");
    println!("display: {} x {}", picture.width, picture.height);
    assert!(picture.width >= 640 && picture.height >= 480);
}
