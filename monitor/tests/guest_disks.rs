//! Whole runs on disk images.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::{LIMIT, command, run};

/// A workload that writes, trims, flushes and reads back, short enough for a KVM that emulates every instruction.
const SHORT: &str = "ops=24 threads=2";

fn qemu_img(arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("qemu-img: {error}; scripts/setup lint installs it"));
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn guest_writes_to_a_qcow2_image_and_leaves_it_sound() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.qcow2");
    qemu_img(&["create", "-f", "qcow2", text(&image), "64M"]);
    let empty = fs::metadata(&image).unwrap().len();
    let run = run("nvme-ok", &["--seed", "5", "--append", SHORT, "--disk", text(&image)]);
    assert_eq!(run.code(), 0, "{run}");
    qemu_img(&["check", text(&image)]);
    assert!(
        fs::metadata(&image).unwrap().len() > empty,
        "the workload has written: {run}"
    );
}

#[test]
fn guest_on_snapshots_of_two_disks_leaves_both_files_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (raw, image) = (directory.path().join("disk.img"), directory.path().join("disk.qcow2"));
    File::create(&raw).unwrap().set_len(64 << 20).unwrap();
    qemu_img(&["create", "-f", "qcow2", text(&image), "64M"]);
    let before = [&raw, &image].map(|path| (fs::read(path).unwrap(), fs::metadata(path).unwrap().modified().unwrap()));
    let disks = [&raw, &image].map(|path| format!("{},snapshot=64M", path.display()));
    let run = run(
        "nvme-ok",
        &[
            "--seed", "5", "--append", SHORT, "--disk", &disks[0], "--disk", &disks[1],
        ],
    );
    assert_eq!(run.code(), 0, "{run}");
    let after = [&raw, &image].map(|path| (fs::read(path).unwrap(), fs::metadata(path).unwrap().modified().unwrap()));
    assert!(before == after);
}

#[test]
fn guest_whose_snapshot_is_full_is_told_and_so_is_the_user() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.qcow2");
    qemu_img(&["create", "-f", "qcow2", text(&image), "64M"]);
    // Room for the tables and hardly any data.
    let disk = format!("{},snapshot=330K", image.display());
    let run = run("nvme-ok", &["--seed", "5", "--append", SHORT, "--disk", &disk]);
    let report = run.report();
    assert_eq!(run.code(), 5, "{run}");
    let failures = report.to_string();
    assert!(
        failures.contains("no space left") && failures.contains("temporary file"),
        "{failures}"
    );
}

/// Where a qcow2 image says that somebody writes to it.
const MARK: u64 = 79;

#[test]
fn guest_works_on_an_image_that_a_killed_run_has_left() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.qcow2");
    // So large, and with so many more threads in the second run, that it comes to clusters which the first one has not
    // touched: only these change tables, and so mark the image.
    qemu_img(&["create", "-f", "qcow2", text(&image), "64M"]);
    let is_marked = || {
        let mut byte = [0];
        File::open(&image).unwrap().read_exact_at(&mut byte, MARK).unwrap();
        byte[0] & 1 != 0
    };
    let before = run("nvme-ok", &["--seed", "5", "--append", SHORT, "--disk", text(&image)]);
    assert_eq!(before.code(), 0, "{before}");
    let report = directory.path().join("killed");
    fs::create_dir(&report).unwrap();
    let arguments = [
        "--seed",
        "6",
        "--append",
        "ops=100000000 threads=8",
        "--disk",
        text(&image),
    ];
    let mut child = command(&report, "nvme-ok", &arguments);
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    // It has found what the first run left, and writes over that.
    let serial = || fs::read_to_string(report.join("report/serial.log")).unwrap_or_default();
    while !serial().contains("not empty") || !is_marked() {
        assert!(child.try_wait().unwrap().is_none() && began.elapsed() < LIMIT);
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_secs(1));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_marked());
    let check = Command::new("qemu-img").args(["check", text(&image)]).output().unwrap();
    assert!(matches!(check.status.code(), Some(0 | 3)), "{check:?}");
    let run = run("nvme-ok", &["--seed", "7", "--append", SHORT, "--disk", text(&image)]);
    assert_eq!(run.code(), 0, "{run}");
    let (notes, errors) = (
        run.report()["notes"].to_string(),
        String::from_utf8_lossy(&run.output.stderr),
    );
    assert!(notes.contains("was not closed by its last user"), "{run}");
    assert!(errors.contains("was not closed by its last user"), "{run}");
    assert!(run.serial().contains("is not empty"), "{run}");
    qemu_img(&["check", text(&image)]);
    assert!(!is_marked(), "closed in order");
}

#[test]
fn guest_works_on_the_smallest_disks() {
    let directory = tempfile::tempdir().unwrap();
    for blocks in [1, 2, 7, 8, 63, 64] {
        let image = directory.path().join(format!("{blocks}.img"));
        File::create(&image).unwrap().set_len(blocks * 512).unwrap();
        let run = run("nvme-ok", &["--seed", "5", "--append", SHORT, "--disk", text(&image)]);
        assert_eq!(run.code(), 0, "{blocks} blocks: {run}");
        assert!(run.serial().contains("workload: PASS"), "{run}");
        let bytes = fs::read(&image).unwrap();
        assert!(bytes.len() as u64 == blocks * 512 && bytes.iter().any(|&byte| byte != 0));
    }
}
