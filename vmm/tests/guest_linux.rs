//! Debian's generic kernel in our PC: it boots directly, finds nothing wrong with the tables and the devices, uses the
//! NVMe disk, and switches off. Needs a /dev/kvm that uses hardware virtualization; on others the test says that it
//! does not run.

#![allow(clippy::print_stdout, reason = "what a test measured is shown on demand")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that fails is a failed test"
)]

mod pc;

use std::fs;
use std::io::Read;

use pc::{
    Console, DebianKernel, PROLOGUE, REPORT, check_report, machine, machine_interrupted_by, machine_of, run_to,
    test_platform_runs_operating_systems,
};
use storlock_vmm::boot::LinuxRequest;
use storlock_vmm::run::{Machine, MachineConfig};
use storlock_vmm::storage::InterruptKind;
use storlock_vmm::storage::backend::ImageOptions;

const DISK_SIZE: usize = 16 << 20;
const PATTERN_SIZE: usize = 1 << 20;
/// What the guest writes, and where, in blocks of 4 KiB.
const MARK: &[u8] = b"written by the guest";
const MARK_BLOCK: usize = 1000;

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

/// Loads Debian's kernel with a first process that does `body`, and has the pattern in a file.
fn boot(machine: &mut Machine, body: &str, pattern: &[u8]) {
    let kernel = DebianKernel::find();
    let init = format!("{PROLOGUE}{body}");
    machine
        .boot_linux(&LinuxRequest {
            kernel: kernel.image(),
            initrd: Some(kernel.initramfs(&["nvme"], &init, &[("pattern", pattern)])),
            command_line: "console=ttyS0 quiet".into(),
        })
        .unwrap();
}

#[test]
fn debians_kernel_boots_directly_uses_the_disk_and_switches_off() {
    if !test_platform_runs_operating_systems() {
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
    let console = Console::default();
    let mut machine = machine(2, 512, &disk, &console);
    boot(&mut machine, &format!("{body}{REPORT}$B poweroff -f\n"), &pattern);
    run_to(machine, &console, "power-off");
    let said = console.text();
    let wanted = ["pattern: right", "mark: written", "processors: 2", "vendor: Storlock"];
    check_report(&said, &wanted);
    let mut image = Vec::new();
    fs::File::open(&disk).unwrap().read_to_end(&mut image).unwrap();
    assert_eq!(&image[MARK_BLOCK * 4096..][..MARK.len()], MARK);
}

/// The kernel's own NVMe driver without MSI-X: by MSI, and by the pin, which it finds by the DSDT's routing.
#[test]
#[ignore = "two more boots: a minute"]
fn linux_uses_the_disk_by_msi_and_by_the_pin() {
    if !test_platform_runs_operating_systems() {
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
        let console = Console::default();
        let config = MachineConfig {
            cpus: 2,
            memory: 512 << 20,
            ..MachineConfig::default()
        };
        let mut machine = machine_interrupted_by(kind, config, &[(&disk, ImageOptions::default())], &console);
        boot(&mut machine, &format!("{body}{REPORT}$B poweroff -f\n"), &pattern);
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
    if !test_platform_runs_operating_systems() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    let pattern = make_disk(&disk);
    let console = Console::default();
    let config = MachineConfig {
        cpus: 4,
        memory: 512 << 20,
        hyperv: true,
        ..MachineConfig::default()
    };
    let mut machine = machine_of(config, &disk, &console);
    let body = format!("$B dmesg | $B grep -i hyper\n{REPORT}$B reboot -f\n");
    boot(&mut machine, &body, &pattern);
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
