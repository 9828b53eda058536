//! The driver and its disks: data, a file system, reloading, sixteen disks, disks that go and come back, faults.

use std::time::Duration;

use storlock_vmm::storage::fault::{CommandCode, CommandMatch, CompletionFault, Fault, FaultKind, FetchFault};

use super::pc::test_platform_runs_operating_systems;
use super::{Root, Setup, pc, pc_of};

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
    let pc = pc(2, 2, Vec::new());
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
    pc(2, 1, Vec::new()).run(body, &wanted);
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
    let pc = pc(2, 2, vec![remove]);
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
    let pc = pc(2, 1, faults);
    let injector = pc.injector.clone().unwrap();
    let (said, _) = pc.run(body, &["done: write", "done: compare", "error: read"]);
    assert!(said.contains("IOC is in FAULT state"), "{said}");
    let counts = injector.counts();
    assert!(counts.iter().all(|count| count.injected > 0), "{counts:?}");
}

/// Every disk of a controller with as many as it can have is a disk of its own.
#[test]
#[ignore = "one more boot: a minute"]
fn linux_finds_sixteen_disks_on_one_controller() {
    if !test_platform_runs_operating_systems() {
        return;
    }
    let body = r#"
present /dev/sdp
echo disks: $($B ls /dev/sd? | $B wc -l) addresses: $($B cat /sys/class/sas_device/end_device-*/sas_address | $B sort -u | $B wc -l)
echo phys: $($B ls /sys/class/sas_phy | $B wc -l)
own() { $B dd if=/tmp/pattern bs=4k skip=$((16 * $1)) count=64 2>/dev/null; }
n=0
for disk in /dev/sd?; do
    own $n >/tmp/own$n
    $B dd if=/tmp/own$n of=$disk bs=64k oflag=direct 2>/dev/null &
    n=$((n + 1))
done
wait
n=0
for disk in /dev/sd?; do
    step $disk sh -c "/bin/busybox dd if=$disk bs=64k count=4 iflag=direct 2>/dev/null | /bin/busybox cmp -n 262144 - /tmp/own$n"
    n=$((n + 1))
done
"#;
    let setup = Setup {
        cpus: 2,
        root: Root::Ram,
        sas: 16,
        nvme: 0,
        faults: Vec::new(),
    };
    let wanted = [
        "disks: 16 addresses: 16",
        "phys: 16",
        "done: /dev/sda",
        "done: /dev/sdp",
    ];
    let (_, disks) = pc_of(setup).run(body, &wanted);
    let mut contents: Vec<&[u8]> = disks.iter().map(|disk| &disk[..256 << 10]).collect();
    contents.sort_unstable();
    contents.dedup();
    assert_eq!(contents.len(), 16, "two disks have the same data");
}

/// The disk of one controller goes and comes back while the other one works.
#[test]
#[ignore = "one more boot: a minute"]
fn a_sas_disk_goes_and_comes_back_while_nvme_goes_on() {
    if !test_platform_runs_operating_systems() {
        return;
    }
    let body = r"
present /dev/nvme0n1
present /dev/sdb
echo 0 >/tmp/rounds
rounds() { $B cat /tmp/rounds; }
on_nvme() {
    while [ ! -e /tmp/stop ]; do
        copy /tmp/pattern /dev/nvme0n1 4 oflag=direct || echo FAILED: a write to NVMe
        $B dd if=/dev/nvme0n1 bs=64k count=64 iflag=direct 2>/dev/null | $B cmp - /tmp/pattern || echo FAILED: data on NVMe
        echo $(($(rounds) + 1)) >/tmp/next && $B mv /tmp/next /tmp/rounds
    done
}
on_nvme &
copy /tmp/pattern /dev/sdb 4 oflag=direct && echo FAILED: the disk did not go || echo went
gone /dev/sdb
before=$(rounds)
step other copy /tmp/pattern /dev/sda 4 oflag=direct
step compare same /dev/sda 4
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
    back=$($B ls /dev/sd[b-z] 2>/dev/null) && break
    $B sleep 1
done
after=$(rounds)
[ $after -gt $before ] && echo nvme went on || echo FAILED: NVMe stood still, $before $after
step again copy /tmp/pattern $back 4 oflag=direct
step returned same $back 4
: >/tmp/stop
wait
step nvme same /dev/nvme0n1 4
";
    let setup = Setup {
        cpus: 2,
        root: Root::Ram,
        sas: 2,
        nvme: 1,
        faults: vec![fetch(WRITE, FetchFault::Remove(Some(Duration::from_secs(15))), 5, 1)],
    };
    let pc = pc_of(setup);
    let injector = pc.injector.clone().unwrap();
    let wanted = [
        "went",
        "done: other",
        "done: compare",
        "nvme went on",
        "done: returned",
        "done: nvme",
    ];
    pc.run(body, &wanted);
    assert_eq!(injector.counts()[0].injected, 1);
}
