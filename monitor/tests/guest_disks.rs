//! Whole runs on disk images.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use support::run;

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
