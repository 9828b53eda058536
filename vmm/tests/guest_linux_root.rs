//! Debian's generic kernel with its root file system on our NVMe disk (ext4): fio with verification, nvme-cli, power
//! off and reset. `scripts/lab/guest` makes that system. Needs a /dev/kvm that uses hardware virtualization.

#![allow(clippy::print_stdout, reason = "what a test measured is shown on demand")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that fails is a failed test"
)]

mod pc;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use pc::firmware::{make_fat_disk, make_variables, ovmf};
use pc::{
    Console, REPORT, check_report, guest_root, guest_system, machine_with, run_to, test_platform_runs_operating_systems,
};
use storlock_vmm::boot::{FirmwareRequest, LinuxRequest};
use storlock_vmm::run::{Machine, MachineConfig};
use storlock_vmm::storage::backend::ImageOptions;

/// Bytes of the second disk, which fio and nvme-cli work on.
const SCRATCH_SIZE: u64 = 64 << 20;
/// Most that a test may change of the root.
const CHANGES_LIMIT: u64 = 256 << 20;

/// What a job begins with: how its steps are run.
const JOB: &str = r#"#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin LD_LIBRARY_PATH=/lib64 HOME=/root
step() {
    name=$1
    shift
    if "$@" >/run/out 2>&1; then echo "done: $name"; else echo "FAILED: $name ($?)"; cat /run/out; fi
}
echo "root: $(grep ' / ' /proc/mounts | tail -n 1 | cut -d ' ' -f 1,3)"
"#;

/// Random and sequential mixes, written and read back, by a job on each processor, which has a queue of its own.
const FIO: &str = r#"
verified() {
    name=$1
    shift
    step "$name" fio --name="$name" --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --numjobs="$(nproc)" \
        --cpus_allowed_policy=split --group_reporting "$@"
}
verified random --filename=/dev/nvme1n1 --rw=randrw --bs=4k --iodepth=16 --size=6m --offset_increment=8m
verified sequential --filename=/dev/nvme1n1 --rw=rw --bs=128k --iodepth=4 --size=8m --offset_increment=8m
verified sizes --filename=/dev/nvme1n1 --rw=randwrite --bsrange=512-64k --iodepth=8 --size=4m --offset_increment=8m --do_verify=1
verified trims --filename=/dev/nvme1n1 --rw=randtrim --bs=16k --iodepth=8 --size=1m --offset_increment=8m
verified files --directory=/var/tmp --rw=randwrite --bs=8k --iodepth=8 --size=3m --fsync=16 --do_verify=1
echo "queues: $(ls /sys/block/nvme1n1/mq | wc -l)"
"#;

const NVME_CLI: &str = r#"
step list nvme list
step id-ctrl nvme id-ctrl /dev/nvme1
step id-ns nvme id-ns /dev/nvme1n1
step smart-log nvme smart-log /dev/nvme1
step error-log nvme error-log /dev/nvme1
step list-subsys nvme list-subsys
step get-feature nvme get-feature /dev/nvme1 -f 7 -H
step flush nvme flush /dev/nvme1n1 -n 1
step dsm nvme dsm /dev/nvme1n1 -n 1 --ad --slbs=0 --blocks=16
step zeroes sh -c 'dd if=/dev/nvme1n1 bs=8k count=1 iflag=direct 2>/dev/null | cmp -n 8192 - /dev/zero'
step reset nvme reset /dev/nvme1
step "read after reset" dd if=/dev/nvme1n1 of=/dev/null bs=64k count=16 iflag=direct
sync
"#;

/// What must be in the report of a job with both.
const STEPS: [&str; 17] = [
    "done: random",
    "done: sequential",
    "done: sizes",
    "done: trims",
    "done: files",
    "done: list",
    "done: id-ctrl",
    "done: id-ns",
    "done: smart-log",
    "done: error-log",
    "done: list-subsys",
    "done: get-feature",
    "done: flush",
    "done: dsm",
    "done: zeroes",
    "done: reset",
    "done: read after reset",
];

/// A machine with the root, of which nothing is kept, behind or before the other disk.
fn root_machine(cpus: u32, console: &Console, before: Option<&Path>, behind: Option<&Path>) -> Machine {
    let config = MachineConfig {
        cpus,
        memory: 768 << 20,
        ..MachineConfig::default()
    };
    let snapshot = ImageOptions {
        snapshot: Some(CHANGES_LIMIT),
        ..ImageOptions::default()
    };
    let root = guest_root();
    let other = |path| (path, ImageOptions::default());
    let disks: Vec<_> = (before.map(other).into_iter())
        .chain([(&*root, snapshot)])
        .chain(behind.map(other))
        .collect();
    machine_with(config, &disks, console)
}

/// The second disk.
fn make_scratch(directory: &Path) -> PathBuf {
    let scratch = directory.join("scratch");
    File::create(&scratch).unwrap().set_len(SCRATCH_SIZE).unwrap();
    scratch
}

/// Boots with so many processors by `boot`, does everything, and ends by `end`.
fn everything(cpus: u32, end: &str, reason: &str, boot: impl FnOnce(&mut Machine, LinuxRequest)) {
    let directory = tempfile::tempdir().unwrap();
    let console = Console::default();
    let scratch = make_scratch(directory.path());
    let mut machine = root_machine(cpus, &console, None, Some(&scratch));
    let job = format!("{JOB}{FIO}{NVME_CLI}{REPORT}{end}\n");
    boot(&mut machine, guest_system(&job));
    run_to(machine, &console, reason);
    let said = console.text();
    println!("{said}");
    let mut wanted = STEPS.to_vec();
    let (processors, queues) = (format!("processors: {cpus}"), format!("queues: {cpus}"));
    wanted.extend(["root: /dev/nvme0n1 ext4", &processors, &queues]);
    check_report(&said, &wanted);
    let content = fs::read(scratch).unwrap();
    assert!(content.iter().any(|byte| *byte != 0), "fio has written nothing");
}

/// Without firmware.
fn everything_directly(cpus: u32, end: &str, reason: &str) {
    everything(cpus, end, reason, |machine, kernel| {
        machine.boot_linux(&kernel).unwrap();
    });
}

#[test]
#[ignore = "fio and nvme-cli: some minutes in the lab"]
fn linux_on_ext4_with_two_processors_passes_fio_and_nvme_cli_and_powers_off() {
    if test_platform_runs_operating_systems() {
        everything_directly(2, "poweroff", "power-off");
    }
}

#[test]
#[ignore = "fio and nvme-cli: some minutes in the lab"]
fn linux_on_ext4_with_four_processors_passes_fio_and_nvme_cli_and_reboots() {
    if test_platform_runs_operating_systems() {
        everything_directly(4, "reboot", "reset");
    }
}

#[test]
#[ignore = "OVMF, fio and nvme-cli: some minutes in the lab"]
fn ovmf_boots_linux_on_ext4_with_four_processors_which_passes_fio_and_nvme_cli() {
    if !test_platform_runs_operating_systems() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let variables = make_variables(directory.path());
    everything(4, "poweroff", "power-off", |machine, kernel| {
        let kernel = Some(kernel);
        let request = FirmwareRequest {
            kernel,
            ..ovmf(&variables)
        };
        machine.boot_firmware(request).unwrap();
    });
}

/// Counts its boots on the disk; reboots after the first one.
const TWICE: &str = r#"
echo boot >>/root/boots
sync
boots=$(wc -l </root/boots)
echo "boot number $boots by $([ -d /sys/firmware/efi ] && echo EFI)"
if [ "$boots" = 1 ]; then reboot; exit; fi
"#;

#[test]
#[ignore = "OVMF and Linux, twice: some minutes in the lab"]
fn ovmf_loads_linux_from_a_disk_twice_because_it_reboots_and_then_powers_off() {
    if !test_platform_runs_operating_systems() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let job = format!("{JOB}{TWICE}{REPORT}poweroff\n");
    let LinuxRequest { kernel, initrd, .. } = guest_system(&job);
    let script = "@echo -off\r\nfs0:\r\nvmlinuz.efi initrd=\\initrd console=ttyS0 quiet\r\n";
    let files: [(&str, &[u8]); 3] = [
        ("startup.nsh", script.as_bytes()),
        ("vmlinuz.efi", &kernel.data),
        ("initrd", &initrd.unwrap().data),
    ];
    let disk = make_fat_disk(directory.path(), 64 << 20, &files);
    let variables = make_variables(directory.path());
    let console = Console::default();
    let mut machine = root_machine(2, &console, Some(&disk), None);
    machine.boot_firmware(ovmf(&variables)).unwrap();
    run_to(machine, &console, "power-off");
    let said = console.text();
    println!("{said}");
    check_report(
        &said,
        &["boot number 1 by EFI", "boot number 2 by EFI", "processors: 2"],
    );
}
