//! How often a command leaves the guest for the program, with each kind of controller, counted while Linux reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use storlock_vmm::boot::LinuxRequest;
use storlock_vmm::run::{MachineStop, RunningMachine};

use super::pc::{Console, DebianKernel, LIMIT, test_platform_runs_operating_systems};
use super::{PROLOGUE, Pc, Root, Setup, pc_of};

/// Commands of each section.
const COMMANDS: u32 = 512;

/// Reads of 64 KiB one after the other, and eight at a time. Nothing else happens around a mark, so that it does not matter
/// when it is seen.
const BODY: &str = r"
present /dev/nvme0n1
mark() { $B sleep 4; echo mark $1; $B sleep 4; }
read_part() { $B dd if=/dev/$1 of=/dev/null bs=64k skip=$2 count=$3 iflag=direct 2>/dev/null; }
for disk in nvme0n1 sda; do
    mark $disk-0
    read_part $disk 0 512
    mark $disk-1
    for part in 0 1 2 3 4 5 6 7; do read_part $disk $((64 * part)) 64 & done
    wait
    mark $disk-8
done
$B poweroff -f
";

fn mmio_exits(running: &RunningMachine) -> u64 {
    running.statistics().iter().map(|cpu| cpu.mmio_exits).sum()
}

/// The exits at each mark, until the machine has ended.
fn watch(running: &RunningMachine, console: &Console, ended: &AtomicBool) -> BTreeMap<String, u64> {
    let mut marks = BTreeMap::new();
    while !ended.load(Ordering::Acquire) {
        for line in console.text().lines().filter_map(|line| line.strip_prefix("mark ")) {
            marks.entry(line.to_owned()).or_insert_with(|| mmio_exits(running));
        }
        thread::sleep(Duration::from_millis(100));
    }
    marks
}

#[test]
#[ignore = "one more boot: a minute"]
fn a_sas_command_leaves_the_guest_as_often_as_its_driver_touches_registers() {
    if !test_platform_runs_operating_systems() {
        return;
    }
    let Pc {
        mut machine,
        console,
        _directory,
        ..
    } = pc_of(Setup {
        cpus: 2,
        root: Root::Ram,
        sas: 1,
        nvme: 1,
        faults: Vec::new(),
    });
    let kernel = DebianKernel::find();
    let init = format!("{PROLOGUE}{BODY}");
    let modules = ["mptsas", "sd_mod", "nvme"];
    machine
        .boot_linux(&LinuxRequest {
            kernel: kernel.image(),
            initrd: Some(kernel.initramfs(&modules, &init, &[])),
            command_line: "console=ttyS0 quiet".into(),
        })
        .unwrap();
    let running = machine.start().unwrap();
    let ended = AtomicBool::new(false);
    let (marks, reason) = thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&running, &console, &ended));
        let reason = running.wait(Some(LIMIT));
        ended.store(true, Ordering::Release);
        (watching.join().unwrap(), reason)
    });
    assert!(matches!(reason, MachineStop::PowerOff), "{reason}: {}", console.text());
    let exits = |from: &str, to: &str| {
        let all = u32::try_from(marks[to] - marks[from]).unwrap();
        f64::from(all) / f64::from(COMMANDS)
    };
    let nvme = [exits("nvme0n1-0", "nvme0n1-1"), exits("nvme0n1-1", "nvme0n1-8")];
    let sas = [exits("sda-0", "sda-1"), exits("sda-1", "sda-8")];
    println!("exits a command, one at a time and eight: NVMe {nvme:.2?}, SAS {sas:.2?}");
    // NVMe's doorbells are the kernel's. For SAS the driver writes the request, reads its reply, and reads once more to
    // find that there is none; eight at a time share the last of these.
    assert!(nvme.iter().all(|exits| *exits < 0.3), "{nvme:?}");
    assert!((2.9..3.5).contains(&sas[0]) && (2.0..3.5).contains(&sas[1]), "{sas:?}");
}
