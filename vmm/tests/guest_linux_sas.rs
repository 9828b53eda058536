//! Debian's generic kernel with our SAS controller: its driver, mptsas, binds, finds the disks, keeps a file system, and
//! gets over what the controller does wrong. Needs /dev/kvm with a processor's virtualization behind it; other test
//! platforms are named.

#![allow(clippy::print_stdout, reason = "what a test measured is shown on demand")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that fails is a failed test"
)]

mod pc;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pc::{
    Console, DebianKernel, REPORT, check_report, guest_root, guest_system, machine_with, run_to,
    test_platform_runs_operating_systems,
};
use storlock_vmm::boot::LinuxRequest;
use storlock_vmm::pci::PciAddress;
use storlock_vmm::storage::backend::{Backend, ImageBackend, ImageOptions};
use storlock_vmm::storage::fault::{
    CommandCode, CommandMatch, CompletionFault, Fault, FaultInjector, FaultKind, FetchFault,
};
use storlock_vmm::storage::{BLOCK_SIZE, ControllerKind, ControllerOptions, InterruptKind};
use storlock_vmm::{Machine, MachineConfig};

/// PCI slot of the controller.
const SLOT: u8 = 4;
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
    injector: Option<Arc<FaultInjector>>,
    disks: Vec<PathBuf>,
    _directory: tempfile::TempDir,
}

/// Most that a test may change of the root.
const CHANGES_LIMIT: u64 = 256 << 20;

/// A machine with so many disks on one controller.
fn pc(cpus: u32, disks: usize, interrupts: InterruptKind, faults: Vec<Fault>) -> Pc {
    pc_of(cpus, None, disks, interrupts, faults)
}

/// As [`pc`], with `root` as the first disk, of which nothing is kept.
fn pc_of(cpus: u32, root: Option<&Path>, disks: usize, interrupts: InterruptKind, faults: Vec<Fault>) -> Pc {
    let directory = tempfile::tempdir().unwrap();
    let console = Console::default();
    let config = MachineConfig {
        cpus,
        memory: 512 << 20,
        ..MachineConfig::default()
    };
    let mut machine = machine_with(config, &[], &console);
    let disks: Vec<PathBuf> = (0..disks)
        .map(|index| {
            let path = directory.path().join(format!("disk{index}"));
            File::create(&path).unwrap().set_len(DISK_SIZE).unwrap();
            path
        })
        .collect();
    let open = |path: &PathBuf| {
        let image = ImageBackend::open(path, BLOCK_SIZE, &ImageOptions::default()).unwrap();
        Box::new(image) as Box<dyn Backend>
    };
    let snapshot = ImageOptions {
        snapshot: Some(CHANGES_LIMIT),
        ..ImageOptions::default()
    };
    let root = root.map(|path| ImageBackend::open(path, BLOCK_SIZE, &snapshot).unwrap());
    let root = root.map(|image| Box::new(image) as Box<dyn Backend>);
    let backends = root.into_iter().chain(disks.iter().map(open)).collect();
    let options = ControllerOptions {
        index: 0,
        processors: cpus,
        interrupts,
        is_target: true,
        faults,
    };
    let make = ControllerKind::named("sas").unwrap().make;
    let address = PciAddress::new(SLOT, 0).unwrap();
    let injector = machine
        .attach_storage(address, |connections| make(options, backends, connections))
        .unwrap();
    Pc {
        machine,
        console,
        injector,
        disks,
        _directory: directory,
    }
}

impl Pc {
    /// Boots Debian's kernel with a first process that does `body`, and has it switch off. Returns what it said.
    fn run(self, body: &str, wanted: &[&str]) -> (String, Vec<Vec<u8>>) {
        let Self {
            mut machine, console, ..
        } = self;
        let kernel = DebianKernel::find();
        let init = format!("{PROLOGUE}copy /dev/urandom /tmp/pattern {PATTERN}\n{body}{REPORT}$B poweroff -f\n");
        let modules = ["crc32c_generic", "mptsas", "sd_mod", "crc32c-intel", "ext4"];
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
        let content = self.disks.iter().map(|path: &PathBuf| fs::read::<&Path>(path).unwrap());
        (said, content.collect())
    }
}

fn scsi(opcode: u16) -> CommandMatch {
    CommandMatch::Code(CommandCode { class: 0, code: opcode })
}

const READ: u16 = 0x28;
const WRITE: u16 = 0x2a;

fn fetch(opcode: u16, fault: FetchFault, after: u64, count: u64) -> Fault {
    Fault {
        kind: FaultKind::Fetch(scsi(opcode), fault),
        after,
        count,
    }
}

/// What the disks are told, and that they work.
const USE: &str = r"
echo hosts: $($B ls /sys/class/scsi_host) phys: $($B ls /sys/class/sas_phy | $B wc -l)
echo disk: $($B cat /sys/block/sda/device/vendor /sys/block/sda/device/model) $($B cat /sys/block/sda/size)
echo address: $($B cat /sys/class/sas_device/end_device-*/sas_address)
echo discard: $($B cat /sys/block/sda/queue/discard_max_bytes)
echo cache: $($B cat /sys/block/sda/queue/write_cache) rotating: $($B cat /sys/block/sda/queue/rotational)
step write copy /tmp/pattern /dev/sda 4 oflag=direct
step compare same /dev/sda 4
present /dev/sdb
step mkfs $B mke2fs /dev/sdb
step mount $B mount -t ext4 /dev/sdb /mnt
step file $B cp /tmp/pattern /mnt/file
step unmount $B umount /mnt
step again $B mount -t ext4 /dev/sdb /mnt
step same $B cmp /tmp/pattern /mnt/file
step end $B umount /mnt
step discard $B blkdiscard -o 1048576 -l 1048576 /dev/sda
$B dd if=/dev/sda bs=1M skip=1 count=1 iflag=direct 2>/dev/null | $B cmp -n 1048576 - /dev/zero && echo discarded: zeroes
";

const USED: [&str; 15] = [
    "disk: STORLOCK DISK 65536",
    "phys: 8",
    "cache: write back rotating: 0",
    "done: write",
    "done: compare",
    "done: mkfs",
    "done: mount",
    "done: file",
    "done: unmount",
    "done: again",
    "done: same",
    "done: end",
    "done: discard",
    "discarded: zeroes",
    "address: 0x3000",
];

#[test]
fn linux_keeps_data_and_a_file_system_on_sas_disks() {
    if !test_platform_runs_operating_systems() {
        return;
    }
    let pc = pc(2, 2, InterruptKind::Msix, Vec::new());
    let (said, disks) = pc.run(USE, &USED);
    // By the pin, which is what the driver chooses; nothing had to be tried again.
    assert!(!said.contains("nobody cared") && !said.contains("attempting"), "{said}");
    // Disks are named as they are found.
    let has_file_system = |disk: &&Vec<u8>| disk[1080..1082] == [0x53, 0xef];
    assert_eq!(disks.iter().filter(has_file_system).count(), 1);
    let raw = disks.iter().find(|disk| !has_file_system(disk)).unwrap();
    assert!(raw[..1 << 20].iter().any(|byte| *byte != 0));
    assert!(raw[1 << 20..2 << 20].iter().all(|byte| *byte == 0));
}

/// The driver is loaded again and told to use MSI: that takes a reset of the message unit as well.
#[test]
#[ignore = "one more boot: a minute"]
fn linux_loads_its_driver_again_and_uses_msi() {
    if !test_platform_runs_operating_systems() {
        return;
    }
    let body = r"
step unload $B rmmod mptsas mptscsih mptbase
gone /dev/sda
step base $B insmod /modules/mptbase.ko mpt_msi_enable_sas=1
step scsi $B insmod /modules/mptscsih.ko
step sas $B insmod /modules/mptsas.ko
present /dev/sda
step write copy /tmp/pattern /dev/sda 4 oflag=direct
step compare same /dev/sda 4
$B grep -i ioc /proc/interrupts | $B sed 's/^/interrupt: /'
";
    let wanted = ["done: unload", "done: sas", "done: write", "done: compare", "PCI-MSI"];
    pc(2, 1, InterruptKind::Msix, Vec::new()).run(body, &wanted);
}

#[test]
#[ignore = "one more boot: a minute"]
fn a_disk_goes_under_io_and_comes_back() {
    if !test_platform_runs_operating_systems() {
        return;
    }
    let back = Some(Duration::from_secs(15));
    let body = r"
present /dev/sdb
copy /tmp/pattern /dev/sdb 4 oflag=direct && echo FAILED: the disk did not go || echo went
gone /dev/sdb
step other copy /tmp/pattern /dev/sda 4 oflag=direct
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
    back=$($B ls /dev/sd[b-z] 2>/dev/null) && break
    $B sleep 1
done
echo back: $back
step again copy /tmp/pattern $back 4 oflag=direct
step compare same $back 4
";
    let remove = fetch(WRITE, FetchFault::Remove(back), 5, 1);
    let pc = pc(2, 2, InterruptKind::Msix, vec![remove]);
    let injector = pc.injector.clone().unwrap();
    pc.run(
        body,
        &["went", "done: other", "back: /dev/sd", "done: again", "done: compare"],
    );
    assert_eq!(injector.counts()[0].injected, 1);
}

#[test]
#[ignore = "one more boot: a minute"]
fn linux_gets_over_busy_disks_failing_commands_and_a_fault_of_the_ioc() {
    if !test_platform_runs_operating_systems() {
        return;
    }
    let faults = vec![
        // Busy, task set full, ABORTED COMMAND: they are tried again.
        fetch(WRITE, FetchFault::Fail(0x08), 2, 1),
        fetch(WRITE, FetchFault::Fail(0x28), 4, 1),
        fetch(WRITE, FetchFault::Fail(0x020b_4700), 6, 1),
        fetch(WRITE, FetchFault::Fail(0x8000_004b), 8, 1),
        // The IOC stops: the driver sees that within a second and resets it.
        fetch(WRITE, FetchFault::Fatal, 20, 1),
        // A reply that never comes: the command times out, is aborted, and at last the adapter is reset.
        Fault {
            kind: FaultKind::Completion(scsi(WRITE), CompletionFault::Drop),
            after: 40,
            count: 1,
        },
        // A medium error is told to whoever reads.
        fetch(READ, FetchFault::Fail(0x0203_1100), 200, u64::MAX),
    ];
    let body = r"
echo 5 >/sys/block/sda/device/timeout
step write copy /tmp/pattern /dev/sda 4 oflag=direct
step compare same /dev/sda 4
$B dd if=/dev/sda of=/dev/null bs=4k count=400 iflag=direct 2>/dev/null && echo FAILED: no error || echo error: read
";
    let pc = pc(2, 1, InterruptKind::Msix, faults);
    let injector = pc.injector.clone().unwrap();
    let (said, _) = pc.run(body, &["done: write", "done: compare", "error: read"]);
    assert!(said.contains("IOC is in FAULT state"), "{said}");
    let counts = injector.counts();
    assert!(counts.iter().all(|count| count.injected > 0), "{counts:?}");
}

/// What a job of the system that `scripts/lab/guest` makes begins with. `refused` wants a command to fail.
const JOB: &str = r#"#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin LD_LIBRARY_PATH=/lib64 HOME=/root
step() {
    name=$1
    shift
    if "$@" >/run/out 2>&1; then echo "done: $name"; else echo "FAILED: $name ($?)"; cat /run/out; fi
}
refused() {
    name=$1
    wanted=$2
    shift 2
    if "$@" >/run/out 2>&1 || ! grep -qi "$wanted" /run/out; then echo "FAILED: $name"; cat /run/out; else echo "refused: $name"; fi
}
echo "root: $(grep ' / ' /proc/mounts | tail -n 1 | cut -d ' ' -f 1,3)"
# Disks are named as they are found; the other one is to be worked on.
D=/dev/sdb
grep -q '^/dev/sdb / ' /proc/mounts && D=/dev/sda
verified() {
    name=$1
    shift
    step "$name" fio --name="$name" --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --numjobs="$(nproc)" \
        --cpus_allowed_policy=split --group_reporting "$@"
}
verified random --filename=$D --rw=randrw --bs=4k --iodepth=16 --size=3m --offset_increment=4m
verified sequential --filename=$D --rw=rw --bs=128k --iodepth=4 --size=4m --offset_increment=4m
verified sizes --filename=$D --rw=randwrite --bsrange=512-64k --iodepth=8 --size=2m --offset_increment=4m --do_verify=1
verified trims --filename=$D --rw=randtrim --bs=16k --iodepth=8 --size=1m --offset_increment=4m
verified files --directory=/var/tmp --rw=randwrite --bs=8k --iodepth=8 --size=2m --fsync=16 --do_verify=1
"#;

/// sg3_utils, which look closer than a kernel does.
const SG: &str = r#"
step sg_inq sg_inq $D
for page in sv sn di bl bdc lbpv; do step "sg_vpd $page" sg_vpd -p $page $D; done
step sg_readcap sg_readcap $D
step "sg_readcap 16" sg_readcap -16 $D
step sg_luns sg_luns $D
step sg_turs sg_turs $D
step sg_requests sg_requests $D
step sg_modes sg_modes -a $D
step "sg_modes 6" sg_modes -6 -a $D
step sg_logs sg_logs -a $D
step sg_opcodes sg_opcodes $D
step sg_sync sg_sync $D
step sg_verify sg_verify --lba=0 --count=64 $D
step "sg_verify 16" sg_verify --16 --lba=0 --count=64 $D
step sg_write_same sg_write_same --10 --unmap --lba=0 --num=64 --in=/dev/zero --xferlen=512 $D
step "sg_write_same 16" sg_write_same --16 --lba=64 --num=64 --in=/dev/zero --xferlen=512 $D
step "sg_write_same ndob" sg_write_same --16 --ndob --lba=128 --num=64 $D
step sg_unmap sg_unmap --lba=192 --num=64 $D
step zeroes sh -c "dd if=$D bs=64k count=2 iflag=direct 2>/dev/null | cmp -n 131072 - /dev/zero"
refused "an unmap beyond the end" "out of range" sg_unmap -v --lba=0xffffffff --num=1 $D
refused "a write same of nothing" "illegal request" sg_write_same -v --16 --lba=0 --num=0 --in=/dev/zero --xferlen=512 $D
refused "a page that there is not" "page" sg_vpd -v -p 0xb5 $D
refused "enclosure services" "illegal\|not supported\|not seem" sg_ses -v $D
step "register" sg_persist --out --register --param-sark=123abc $D
step "reserve" sg_persist --out --reserve --param-rk=123abc --prout-type=1 $D
step "read keys" sg_persist --in -k $D
step "read reservation" sg_persist --in -r $D
step "read full status" sg_persist --in -s $D
step "report capabilities" sg_persist --in -c $D
step "release" sg_persist --out --release --param-rk=123abc --prout-type=1 $D
step "unregister" sg_persist --out --register --param-rk=123abc $D
step "stop" sg_start --stop $D
refused "a stopped disk" "not ready" sg_turs -v $D
step "start" sg_start --start $D
for what in device target bus host; do
    step "sg_reset $what" sg_reset --$what $D
    sleep 1
    sg_turs $D >/dev/null 2>&1
    sg_turs $D >/dev/null 2>&1
    step "after $what reset" dd if=$D of=/dev/null bs=64k count=4 iflag=direct
done
sync
"#;

const STEPS: [&str; 40] = [
    "root: /dev/sd",
    "done: random",
    "done: sequential",
    "done: sizes",
    "done: trims",
    "done: files",
    "done: sg_inq",
    "done: sg_vpd sv",
    "done: sg_vpd di",
    "done: sg_vpd bl",
    "done: sg_vpd bdc",
    "done: sg_vpd lbpv",
    "done: sg_readcap 16",
    "done: sg_luns",
    "done: sg_requests",
    "done: sg_modes",
    "done: sg_modes 6",
    "done: sg_logs",
    "done: sg_opcodes",
    "done: sg_sync",
    "done: sg_verify",
    "done: sg_verify 16",
    "done: sg_write_same",
    "done: sg_write_same 16",
    "done: sg_write_same ndob",
    "done: sg_unmap",
    "done: zeroes",
    "refused: an unmap beyond the end",
    "refused: a write same of nothing",
    "refused: a page that there is not",
    "refused: enclosure services",
    "done: reserve",
    "done: read full status",
    "done: unregister",
    "refused: a stopped disk",
    "done: start",
    "done: after device reset",
    "done: after target reset",
    "done: after bus reset",
    "done: after host reset",
];

/// The root is on the first disk, fio and sg3_utils work on the second one.
fn everything(cpus: u32, end: &str, reason: &str) {
    if !test_platform_runs_operating_systems() {
        return;
    }
    let Pc {
        mut machine,
        console,
        disks,
        _directory,
        ..
    } = pc_of(cpus, Some(&guest_root()), 1, InterruptKind::Msix, Vec::new());
    let job = format!("{JOB}{SG}{REPORT}{end}\n");
    machine.boot_linux(&guest_system(&job)).unwrap();
    run_to(machine, &console, reason);
    let said = console.text();
    println!("{said}");
    check_report(&said, &STEPS);
    let content = fs::read(&disks[0]).unwrap();
    assert!(content.iter().any(|byte| *byte != 0), "fio has written nothing");
}

#[test]
#[ignore = "fio and sg3_utils: some minutes in the lab"]
fn linux_on_ext4_with_two_processors_passes_fio_and_sg3_utils_and_powers_off() {
    everything(2, "poweroff", "power-off");
}

#[test]
#[ignore = "fio and sg3_utils: some minutes in the lab"]
fn linux_on_ext4_with_four_processors_passes_fio_and_sg3_utils_and_reboots() {
    everything(4, "reboot", "reset");
}
