//! Debian's generic kernel with our SAS controller: its driver, mptsas, binds, finds the disks, keeps a file system, and
//! gets over what the controller does wrong. Needs /dev/kvm with a processor's virtualization behind it; other test
//! platforms are named.

#![allow(clippy::print_stdout, reason = "what a test measured is shown on demand")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that fails is a failed test"
)]

mod disks;
mod exits;
mod firmware;
#[path = "../pc/mod.rs"]
mod pc;
mod system;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pc::{Console, DebianKernel, REPORT, check_report, guest_root, machine_with, run_to};
use storlock_vmm::boot::LinuxRequest;
use storlock_vmm::pci::PciAddress;
use storlock_vmm::storage::backend::{Backend, ImageBackend, ImageOptions};
use storlock_vmm::storage::fault::{Fault, FaultInjector};
use storlock_vmm::storage::{BLOCK_SIZE, ControllerKind, ControllerOptions, InterruptKind};
use storlock_vmm::{Machine, MachineConfig};

/// PCI slot of the controller, behind those of NVMe.
const SLOT: u8 = 8;
/// Bytes of each disk.
const DISK_SIZE: u64 = 32 << 20;
/// Mebibytes that are written and compared.
const PATTERN: &str = "4";

/// As the others', but it waits for SCSI disks, and complains of any I/O error.
const PROLOGUE: &str = r#"#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc none /proc
$B mount -t sysfs none /sys
$B mount -t devtmpfs none /dev
while read -r module; do $B insmod /modules/$module || echo "FAILED: module $module"; done </modules/order
present() { for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do [ -b $1 ] && return; $B sleep 1; done; echo "no $1"; }
gone() { for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do [ -b $1 ] || return; $B sleep 1; done; echo "still $1"; }
step() {
    name=$1
    shift
    if "$@" >/tmp/out 2>&1; then echo "done: $name"; else echo "FAILED: $name ($?)"; $B cat /tmp/out; fi
}
copy() { $B dd if=$1 of=$2 bs=64k count=$((16 * $3)) $4 2>/dev/null; }
same() { copy $1 /tmp/back $2 iflag=direct && $B cmp /tmp/back /tmp/pattern; }
present /dev/sda
"#;

struct Pc {
    machine: Machine,
    console: Console,
    /// What firmware says on its own port.
    log: Console,
    injector: Option<Arc<FaultInjector>>,
    disks: Vec<PathBuf>,
    _directory: tempfile::TempDir,
}

/// Most that a test may change of the root.
const CHANGES_LIMIT: u64 = 256 << 20;

/// Where the system of `scripts/lab/guest` is; nothing of what it changes is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Root {
    /// In a RAM disk of the test's own.
    Ram,
    /// On the first disk of the SAS controller.
    Sas,
    /// On the first NVMe disk.
    Nvme,
}

/// What a machine has besides.
struct Setup {
    cpus: u32,
    root: Root,
    /// Empty disks, on the one SAS controller and on an NVMe controller each.
    sas: usize,
    nvme: usize,
    faults: Vec<Fault>,
}

/// A machine with so many disks on one controller, the system in RAM.
fn pc(cpus: u32, disks: usize, faults: Vec<Fault>) -> Pc {
    pc_of(Setup {
        cpus,
        root: Root::Ram,
        sas: disks,
        nvme: 0,
        faults,
    })
}

fn pc_of(setup: Setup) -> Pc {
    let directory = tempfile::tempdir().unwrap();
    let (console, log) = (Console::default(), Console::default());
    let config = MachineConfig {
        cpus: setup.cpus,
        memory: 512 << 20,
        debug_console: Some(Box::new(log.clone())),
        ..MachineConfig::default()
    };
    let make_disks = |kind: &str, count| -> Vec<PathBuf> {
        let path = |index| directory.path().join(format!("{kind}{index}"));
        let made = (0..count).map(path).inspect(|path| {
            File::create(path).unwrap().set_len(DISK_SIZE).unwrap();
        });
        made.collect()
    };
    let snapshot = ImageOptions {
        snapshot: Some(CHANGES_LIMIT),
        ..ImageOptions::default()
    };
    let root = guest_root_if(setup.root != Root::Ram);
    let of = |place: Root| root.as_ref().filter(|_| setup.root == place);
    let nvme = make_disks("nvme", setup.nvme);
    let nvme = nvme.iter().map(|path| (path.as_path(), ImageOptions::default()));
    let nvme: Vec<_> = of(Root::Nvme)
        .map(|path| (path.as_path(), snapshot.clone()))
        .into_iter()
        .chain(nvme)
        .collect();
    let mut machine = machine_with(config, &nvme, &console);
    let disks = make_disks("sas", setup.sas);
    let open = |(path, options): (&PathBuf, &ImageOptions)| {
        Box::new(ImageBackend::open(path, BLOCK_SIZE, options).unwrap()) as Box<dyn Backend>
    };
    let plain = ImageOptions::default();
    let backends = of(Root::Sas).map(|path| (path, &snapshot)).into_iter();
    let backends = backends.chain(disks.iter().map(|path| (path, &plain)));
    let options = ControllerOptions {
        index: 0,
        processors: setup.cpus,
        interrupts: InterruptKind::Msix,
        is_target: true,
        faults: setup.faults,
    };
    let make = ControllerKind::named("sas").unwrap().make;
    let address = PciAddress::new(SLOT, 0).unwrap();
    let backends = backends.map(open).collect();
    let injector = machine
        .attach_storage(address, |connections| make(options, backends, connections))
        .unwrap();
    Pc {
        machine,
        console,
        log,
        injector,
        disks,
        _directory: directory,
    }
}

fn guest_root_if(wanted: bool) -> Option<PathBuf> {
    wanted.then(guest_root)
}

impl Pc {
    /// Boots Debian's kernel with a first process that does `body`, and has it switch off. Returns what it said.
    fn run(self, body: &str, wanted: &[&str]) -> (String, Vec<Vec<u8>>) {
        let Self {
            mut machine, console, ..
        } = self;
        let kernel = DebianKernel::find();
        let init = format!("{PROLOGUE}copy /dev/urandom /tmp/pattern {PATTERN}\n{body}{REPORT}$B poweroff -f\n");
        let modules = ["crc32c_generic", "mptsas", "sd_mod", "nvme", "crc32c-intel", "ext4"];
        machine
            .boot_linux(&LinuxRequest {
                kernel: kernel.image(),
                initrd: Some(kernel.initramfs(&modules, &init, &[])),
                command_line: "console=ttyS0 quiet".into(),
            })
            .unwrap();
        run_to(machine, &console, "power-off");
        let said = console.text();
        println!("{said}");
        check_report(&said, wanted);
        if self.injector.is_none() {
            assert_no_errors(&said);
        }
        let content = self.disks.iter().map(|path: &PathBuf| fs::read::<&Path>(path).unwrap());
        (said, content.collect())
    }
}

/// What a kernel says at the level of errors, and worse, although all is well.
const NO_ERRORS: [&str; 2] = ["reboot: Power down", "reboot: Restarting system"];

/// The kernel has told of no error: neither in its log when that was listed, nor afterwards on the console, which `quiet`
/// leaves to errors.
fn assert_no_errors(said: &str) {
    let is_error = |line: &&str| {
        let of_log = (0..4).any(|level| line.starts_with(&format!("complaint: <{level}>")));
        let on_console = line
            .strip_prefix('[')
            .is_some_and(|rest| rest.trim_start().starts_with(|first: char| first.is_ascii_digit()));
        of_log || on_console
    };
    let is_expected = |line: &&str| NO_ERRORS.iter().any(|part| line.contains(part));
    let errors: Vec<&str> = said
        .lines()
        .filter(is_error)
        .filter(|line| !is_expected(line))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}\n{said}");
}
