//! Whole runs of a guest that OVMF boots from a disk, in which the driver to watch is given by name only, as with
//! Windows. Needs a KVM that uses hardware virtualization.
#![allow(clippy::print_stdout, reason = "what a test measured is shown on demand")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

#[path = "support/debugged.rs"]
mod debugged;
#[path = "support/rsp.rs"]
mod rsp;
mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use debugged::Debugged;
use support::zoo::{Bug, bug};
use support::{
    Run, assert_found_once_at_its_place, assert_nothing_found, debugger_address, finish, images,
    test_platform_boots_firmware,
};

/// A workload that is short enough for the lab, and reaches the error path.
const WORKLOAD: &str = "ops=24 threads=2";
/// Where the EFI system partition begins and how long it is, in sectors of 512 bytes.
const PARTITION: (u64, u64) = (2048, 120 << 10);

fn tool(command: &mut Command, input: &str) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fdisk, dosfstools and mtools are needed: scripts/setup guests");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A session that begins where processors do after a reset: real mode, then the modes on the way to long mode.
#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one session, of which each step needs those before it"
)]
fn a_debugger_follows_firmware_from_the_reset_vector() {
    const RESET_VECTOR: u64 = 0xffff_fff0;
    if !test_platform_boots_firmware() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_storlock"))
        .args([
            "run",
            "--firmware",
            "--driver",
            "none.sys",
            "--memory",
            "64M",
            "--time-limit",
            "300s",
        ])
        .args(["--gdb", "127.0.0.1:0", "--gdb-wait", "--report-dir"])
        .arg(directory.path().join("report"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let address = debugger_address(directory.path(), &mut child);
    let mut client = rsp::Client::connect(&address);
    client.ask("qSupported:multiprocess+");
    // RIP counts from the base of CS, as QEMU has it; addresses of memory do not.
    assert_eq!(client.pc(0), 0xfff0);
    let vector = client.ask(&format!("m{RESET_VECTOR:x},10"));
    assert_eq!(vector.len(), 32, "{vector}");
    assert_ne!(vector, "00".repeat(16));
    assert_eq!(
        client.ask("mffff0,10"),
        vector,
        "the end of firmware is below 1 MiB, too"
    );
    assert_eq!(client.ask(&format!("m{RESET_VECTOR:x},11")).len(), 32, "up to 4 GiB");
    assert_eq!(client.ask("m100000000,1"), "E0e");
    assert_eq!(client.ask("mc0000000,1"), "E0e", "nothing is there");
    assert_eq!(client.ask("M1000,4:01020304"), "OK");
    assert_eq!(client.ask("m1000,4"), "01020304", "linear is physical");
    assert_eq!(
        client.ask(&format!("M{RESET_VECTOR:x},1:00")),
        "E0e",
        "firmware is read-only"
    );
    assert_eq!(client.ask("Qqemu.PhyMemMode:1"), "OK");
    assert_eq!(client.ask(&format!("m{RESET_VECTOR:x},10")), vector);
    assert_eq!(client.ask("Qqemu.PhyMemMode:0"), "OK");
    assert!(client.monitor("storlock phys 0xfffffff0 16").contains(&vector[..2]));
    assert!(
        client
            .monitor("storlock translate 0xfffffff0")
            .contains("is physical 0xfffffff0")
    );
    // Steps in real mode, then in flat 32-bit code, which the code at the vector leads to.
    assert_eq!(client.ask("Hg1"), "OK");
    let mut flat = Vec::new();
    for _ in 0..400 {
        assert!(client.ask("vCont;s:1").starts_with("T05thread:p01.01;"));
        let at = client.pc(0);
        if at > 0xffff {
            flat.push(at);
        }
        if flat.len() == 6 {
            break;
        }
    }
    let cr0 = |client: &mut rsp::Client| rsp::unhex(&client.ask("p1b"));
    assert_eq!((flat.len(), cr0(&mut client)[3] & 0x80), (6, 0), "no paging yet");
    // Once more, to a breakpoint. (One in real mode ends the lab: its emulator crashes.)
    let back = rsp::hex(&flat[0].to_le_bytes());
    assert_eq!(client.ask(&format!("P10={back}")), "OK");
    assert_eq!(client.ask(&format!("Z1,{:x},1", flat[5])), "OK");
    assert!(client.ask("vCont;c").starts_with("T05thread:p01.01;hwbreak:;"));
    assert_eq!(client.pc(0), flat[5]);
    assert_eq!(client.ask(&format!("z1,{:x},1", flat[5])), "OK");
    // In long mode firmware has its memory one to one, and itself.
    let mut places = Vec::new();
    while cr0(&mut client)[3] & 0x80 == 0 {
        client.send(b"vCont;c");
        std::thread::sleep(std::time::Duration::from_secs(2));
        client.raw(&[3]);
        assert!(client.receive().unwrap().starts_with('T'));
        places.push(client.pc(0));
        assert!(places.len() < 40, "no paging: {places:x?}");
    }
    assert_eq!(client.ask(&format!("m{RESET_VECTOR:x},10")), vector);
    // Five levels are refused, not tried.
    let mut cr4 = rsp::unhex(&client.ask("p1e"));
    cr4[1] |= 0x10;
    assert_eq!(client.ask(&format!("P1e={}", rsp::hex(&cr4))), "E05");
    client.send(b"k");
    finish(child);
}

/// A disk with a GPT and an EFI system partition that holds the boot loader, the kernel and these drivers.
fn make_disk(directory: &Path, drivers: &[&str]) -> PathBuf {
    let disk = directory.join("disk.img");
    let (start, length) = PARTITION;
    File::create(&disk)
        .unwrap()
        .set_len((start + length + 2048) * 512)
        .unwrap();
    let table = format!("label: gpt\nstart={start}, size={length}, type=U\n");
    tool(Command::new("/sbin/sfdisk").arg(&disk), &table);
    let mut format = Command::new("/sbin/mkfs.vfat");
    format.args(["-F", "32", "--offset", &start.to_string()]).arg(&disk);
    tool(format.arg((length / 2).to_string()), "");
    let partition = format!("{}@@{}", disk.display(), start * 512);
    let mtool = |name: &str, arguments: &[&str]| {
        tool(Command::new(name).args(["-i", &partition]).args(arguments), "");
    };
    mtool("mmd", &["::EFI", "::EFI/BOOT", "::drivers"]);
    let copy = |from: &Path, to: &str| mtool("mcopy", &[from.to_str().unwrap(), to]);
    copy(&images().join("bootx64.efi"), "::EFI/BOOT/BOOTX64.EFI");
    for name in ["ntoskrnl.exe", "storport.sys"] {
        copy(&images().join(name), &format!("::{name}"));
    }
    for driver in drivers {
        copy(&images().join(format!("miniports/{driver}.sys")), "::drivers");
    }
    let line = directory.join("cmdline.txt");
    fs::write(&line, format!("{WORKLOAD}\r\n")).unwrap();
    copy(&line, "::cmdline.txt");
    disk
}

/// Boots a disk with these drivers and watches the one that is named so.
fn start(directory: &Path, drivers: &[&str], driver: &str, arguments: &[&str]) -> Child {
    let disk = make_disk(directory, drivers);
    let mut command = Command::new(env!("CARGO_BIN_EXE_storlock"));
    command
        .args([
            "run",
            "--firmware",
            "--memory",
            "256M",
            "--time-limit",
            "500s",
            "--report-dir",
        ])
        .arg(directory.join("report"))
        .arg("--disk")
        .arg(format!("{},snapshot", disk.display()))
        .args(["--driver", driver])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// As [`start`], to the end of the run.
fn boot(drivers: &[&str], driver: &str, arguments: &[&str]) -> Run {
    let directory = tempfile::tempdir().unwrap();
    let child = start(directory.path(), drivers, driver, arguments);
    Run {
        output: finish(child),
        directory,
    }
}

/// What a driver of this name does wrong, and its file: the path gives the symbols, the guest knows nothing of it.
fn buggy_driver() -> (&'static Bug, PathBuf) {
    let bug = bug("vdisk-release-on-error-path");
    (bug, images().join(format!("miniports/{}.sys", bug.image)))
}

fn errors(run: &Run) -> String {
    String::from_utf8_lossy(&run.output.stderr).into_owned()
}

#[test]
fn a_bug_in_a_driver_that_firmware_boots_from_disk_is_found_at_its_place() {
    if !test_platform_boots_firmware() {
        return;
    }
    let (bug, path) = buggy_driver();
    let run = boot(&[&bug.image], path.to_str().unwrap(), &[]);

    assert_found_once_at_its_place(bug, &run);
    let report = run.report();
    let offset = report["violations"][0]["caller"]["offset"].as_u64().unwrap();
    assert!((0x1000..0x10000).contains(&offset), "{offset:#x}");
    let errors = errors(&run);
    let steps = [
        "firmware started",
        "kernel at 0xfffff8",
        ".sys at 0xfffff8",
        "armed before its DriverEntry",
    ];
    let mut at = 0;
    for step in steps {
        at += errors[at..]
            .find(step)
            .unwrap_or_else(|| panic!("no {step:?} after {at} in: {errors}"));
    }
}

#[test]
#[ignore = "a third boot: a minute"]
fn gdb_is_there_from_the_reset_vector_to_the_violation() {
    if !test_platform_boots_firmware() {
        return;
    }
    let (bug, path) = buggy_driver();
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--gdb", "127.0.0.1:0", "--gdb-wait"];
    let mut child = start(directory.path(), &[&bug.image], path.to_str().unwrap(), &arguments);
    let run = Debugged {
        address: debugger_address(directory.path(), &mut child),
        child,
        directory,
    };
    let text = run.gdb(
        "p/x $rip\ncontinue\nmonitor storlock violation\ninfo sharedlibrary\nbt\n\
         stepi\nstepi\nx/i $pc\ndelete\ncontinue\n",
    );
    let (start, rest) = text
        .split_once("released but was not acquired")
        .unwrap_or_else(|| panic!("{text}"));
    assert!(start.contains("= 0xfff0"), "{text}");
    assert!(
        rest.contains("ntoskrnl.exe") && rest.contains(&format!("{}.sys", bug.image)),
        "{text}"
    );
    assert!(
        rest.contains("VdiskTransfer (") && rest.contains("miniports/vdisk/media.c:"),
        "{text}"
    );
    assert!(text.contains("exited normally"), "{text}");
    assert_found_once_at_its_place(bug, &run.end());
}

#[test]
fn a_driver_without_bugs_is_found_by_its_name_alone() {
    if !test_platform_boots_firmware() {
        return;
    }
    // The controller that the firmware used gets its driver, too.
    let run = boot(&["nvme-ok", "vdisk-ok"], "VDISK-OK.SYS", &["--cpus", "3"]);

    assert_nothing_found(&run);
    assert!(run.serial().contains("tinynt: 3 processors"), "{run}");
    let report = run.report();
    assert_eq!(report["run"]["images"].as_array().unwrap().len(), 0, "{run}");
}
