//! Debian's generic kernel in our PC: it boots directly, finds nothing wrong with the tables and the devices, uses the
//! NVMe disk, and switches off. Needs /dev/kvm with a processor's virtualization behind it; other grounds are named.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that fails is a failed test"
)]

mod pc;

use std::fs;
use std::io::Read;

use pc::{Console, DebianKernel, ground_runs_operating_systems, machine, machine_interrupted_by, machine_of, run_to};
use storlock_vmm::boot::LinuxRequest;
use storlock_vmm::machine::MachineConfig;
use storlock_vmm::storage::nvme::InterruptKind;

const DISK_SIZE: usize = 16 << 20;
const PATTERN_SIZE: usize = 1 << 20;
/// What the guest writes, and where, in blocks of 4 KiB.
const MARK: &[u8] = b"written by the guest";
const MARK_BLOCK: usize = 1000;

/// Starts what every test needs; `$B` is busybox.
const PROLOGUE: &str = r#"#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc none /proc
$B mount -t sysfs none /sys
$B mount -t devtmpfs none /dev
while read -r module; do $B insmod /modules/$module || echo "FAILED: module $module"; done </modules/order
for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/nvme0n1 ] && break; $B sleep 1; done
"#;

/// Reports and switches off.
const EPILOGUE: &str = r#"
echo "processors: $($B nproc)"
echo "clocksource: $($B cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "vendor: $($B cat /sys/class/dmi/id/sys_vendor)"
$B dmesg -r | $B grep '^<[0-4]>' | $B sed 's/^/complaint: /'
echo "end of report"
$B poweroff -f
"#;

/// What is as it should be: an i440FX has no memory-mapped configuration space, and the board no mouse.
const EXPECTED: [&str; 2] = [
    "fail to add mmconfig information",
    "ps/2 appears to have aux port disabled",
];

/// Complaints of a kernel (warnings or worse) that are about the machine. A subsystem's mere name is enough.
fn about_the_machine(line: &str) -> bool {
    let line = line.to_lowercase();
    let subsystems = [
        "acpi",
        "pci",
        "nvme",
        "apic",
        "clocksource",
        "tsc",
        "irq",
        "i8042",
        "serial",
        "rtc",
        "dmi",
        "bios",
        "e820",
        "bug",
    ];
    let expected = EXPECTED.iter().any(|part| line.contains(part));
    !expected && subsystems.iter().any(|subsystem| line.contains(subsystem))
}

/// A disk whose first megabyte is a pattern; returns the pattern.
fn make_disk(path: &std::path::Path) -> Vec<u8> {
    let numbers = 0..PATTERN_SIZE as u32;
    let pattern: Vec<u8> = numbers
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut image = pattern.clone();
    image.resize(DISK_SIZE, 0);
    fs::write(path, image).unwrap();
    pattern
}

#[test]
fn debians_kernel_boots_directly_uses_the_disk_and_switches_off() {
    if !ground_runs_operating_systems() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    let pattern = make_disk(&disk);
    let mark = String::from_utf8_lossy(MARK);
    let body = format!(
        r#"
$B dd if=/dev/nvme0n1 bs=64k count=16 2>/dev/null | $B cmp - /pattern && echo "pattern: right"
$B printf '{mark}' >/tmp/mark
$B dd if=/tmp/mark of=/dev/nvme0n1 bs=4k seek={MARK_BLOCK} conv=fsync,sync 2>/dev/null && echo "mark: written"
"#
    );
    let kernel = DebianKernel::find();
    let console = Console::default();
    let mut machine = machine(2, 512, &disk, &console);
    machine
        .boot_linux(&LinuxRequest {
            kernel: kernel.image(),
            initrd: Some(kernel.initramfs(
                &["nvme"],
                &format!("{PROLOGUE}{body}{EPILOGUE}"),
                &[("pattern", &pattern)],
            )),
            command_line: "console=ttyS0 quiet".into(),
        })
        .unwrap();
    run_to(machine, &console, "power-off");
    let said = console.text();
    for line in [
        "pattern: right",
        "mark: written",
        "processors: 2",
        "vendor: Storlock",
        "end of report",
    ] {
        assert!(said.contains(line), "no {line:?} in:\n{said}");
    }
    let complaints: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("complaint: ") && about_the_machine(line))
        .collect();
    assert!(
        complaints.is_empty() && !said.contains("FAILED"),
        "{complaints:#?}\n{said}"
    );
    let mut image = Vec::new();
    fs::File::open(&disk).unwrap().read_to_end(&mut image).unwrap();
    assert_eq!(&image[MARK_BLOCK * 4096..][..MARK.len()], MARK);
}

/// The kernel's own NVMe driver without MSI-X: by MSI, and by the pin, which it finds by the DSDT's routing.
#[test]
#[ignore = "two more boots: a minute"]
fn linux_uses_the_disk_by_msi_and_by_the_pin() {
    if !ground_runs_operating_systems() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    let pattern = make_disk(&disk);
    let body = r#"
$B dd if=/dev/nvme0n1 bs=64k count=16 2>/dev/null | $B cmp - /pattern && echo "pattern: right"
$B grep nvme /proc/interrupts | $B sed 's/^/interrupt: /'
"#;
    for (kind, chip) in [(InterruptKind::Msi, "PCI-MSI"), (InterruptKind::Intx, "IO-APIC")] {
        let kernel = DebianKernel::find();
        let console = Console::default();
        let config = MachineConfig {
            cpus: 2,
            memory: 512 << 20,
            ..MachineConfig::default()
        };
        let mut machine = machine_interrupted_by(kind, config, &disk, &console);
        machine
            .boot_linux(&LinuxRequest {
                kernel: kernel.image(),
                initrd: Some(kernel.initramfs(
                    &["nvme"],
                    &format!("{PROLOGUE}{body}{EPILOGUE}"),
                    &[("pattern", &pattern)],
                )),
                command_line: "console=ttyS0 quiet".into(),
            })
            .unwrap();
        run_to(machine, &console, "power-off");
        let said = console.text();
        let interrupt = said.lines().find(|line| line.starts_with("interrupt: "));
        println!("{kind:?}: {interrupt:?}");
        assert!(interrupt.is_some_and(|line| line.contains(chip)), "{kind:?}: {said}");
        assert!(
            said.contains("pattern: right") && said.contains("end of report"),
            "{said}"
        );
        assert!(!said.contains("FAILED") && !said.contains("nobody cared"), "{said}");
    }
}

#[test]
#[ignore = "a second boot: half a minute"]
fn linux_finds_hyper_v_on_four_processors_and_reboots() {
    if !ground_runs_operating_systems() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    make_disk(&disk);
    let init = format!("{PROLOGUE}\n$B dmesg | $B grep -i hyper\n{EPILOGUE}").replace("poweroff -f", "reboot -f");
    let kernel = DebianKernel::find();
    let console = Console::default();
    let config = MachineConfig {
        cpus: 4,
        memory: 512 << 20,
        hyperv: true,
        ..MachineConfig::default()
    };
    let mut machine = machine_of(config, &disk, &console);
    machine
        .boot_linux(&LinuxRequest {
            kernel: kernel.image(),
            initrd: Some(kernel.initramfs(&["nvme"], &init, &[])),
            command_line: "console=ttyS0 quiet".into(),
        })
        .unwrap();
    run_to(machine, &console, "reset");
    let said = console.text();
    for line in [
        "Hypervisor detected: Microsoft Hyper-V",
        "processors: 4",
        "end of report",
    ] {
        assert!(said.contains(line), "no {line:?} in:\n{said}");
    }
    println!("{said}");
}
