//! A system with its root on SAS or on NVMe: fio and sg3_utils, to the power-off and to a reboot.

use std::fs;

use super::pc::{REPORT, check_report, guest_system, run_to, test_platform_runs_operating_systems};
use super::{Pc, Root, Setup, assert_no_errors, pc_of};

/// What a job of the system that `scripts/lab/guest` makes begins with. `refused` wants a command to fail.
const STEP: &str = r#"#!/bin/sh
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
"#;

/// fio on the file system of the root and on the other disk.
const FIO: &str = r#"
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

/// What a job of the guest's system has left: what it said, and its disks. `None`: this test platform runs no such
/// systems.
fn run_job(setup: Setup, job: &str, reason: &str, wanted: &[&str]) -> Option<Vec<Vec<u8>>> {
    if !test_platform_runs_operating_systems() {
        return None;
    }
    let Pc {
        mut machine,
        console,
        disks,
        _directory,
        ..
    } = pc_of(setup);
    machine.boot_linux(&guest_system(&format!("{STEP}{job}\n"))).unwrap();
    run_to(machine, &console, reason);
    let said = console.text();
    println!("{said}");
    check_report(&said, wanted);
    assert_no_errors(&said);
    Some(disks.iter().map(|disk| fs::read(disk).unwrap()).collect())
}

/// The root is on the first disk, fio and sg3_utils work on the second one.
fn everything(cpus: u32, end: &str, reason: &str) {
    let setup = Setup {
        cpus,
        root: Root::Sas,
        sas: 1,
        nvme: 0,
        faults: Vec::new(),
    };
    if let Some(disks) = run_job(setup, &format!("{FIO}{SG}{REPORT}{end}"), reason, &STEPS) {
        assert!(disks[0].iter().any(|byte| *byte != 0), "fio has written nothing");
    }
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

/// fio on two SAS disks and an NVMe disk at once, all of which it verifies; the root is on a further NVMe disk.
const MIXED: &str = r#"
{
    printf '[global]\nioengine=libaio\ndirect=1\nverify=crc32c\nverify_fatal=1\ndo_verify=1\niodepth=8\n'
    for disk in /dev/sda /dev/sdb /dev/nvme1n1; do
        name=$(basename $disk)
        printf '[%s-random]\nfilename=%s\nrw=randwrite\nbs=4k\nsize=3m\n' $name $disk
        printf '[%s-sizes]\nfilename=%s\nrw=randwrite\nbsrange=512-64k\noffset=4m\nsize=3m\n' $name $disk
        printf '[%s-sequential]\nfilename=%s\nrw=write\nbs=64k\noffset=8m\nsize=8m\n' $name $disk
    done
} >/run/jobs
step mixed fio /run/jobs
# Each disk has its own data: what was written to one is not on another.
for disk in sda sdb nvme1n1; do
    head -c 262144 /dev/urandom >/run/$disk
    step "write $disk" dd if=/run/$disk of=/dev/$disk bs=64k seek=256 oflag=direct
done
for disk in sda sdb nvme1n1; do
    step "compare $disk" sh -c "dd if=/dev/$disk bs=64k skip=256 count=4 iflag=direct 2>/dev/null | cmp - /run/$disk"
done
"#;

#[test]
#[ignore = "one more boot, and fio: minutes in the lab"]
fn linux_verifies_its_data_on_nvme_and_sas_disks_at_once() {
    let setup = Setup {
        cpus: 2,
        root: Root::Nvme,
        sas: 2,
        nvme: 1,
        faults: Vec::new(),
    };
    let wanted = [
        "root: /dev/nvme0n1",
        "done: mixed",
        "done: compare sda",
        "done: compare sdb",
        "done: compare nvme1n1",
    ];
    if let Some(disks) = run_job(setup, &format!("{MIXED}{REPORT}poweroff"), "power-off", &wanted) {
        let place = 16 << 20..(16 << 20) + (256 << 10);
        assert_ne!(disks[0][place.clone()], disks[1][place]);
    }
}
