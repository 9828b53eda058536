//! Install disks of `scripts/windows/media` in the machine that they are made for: firmware starts their boot loader. In
//! the place of Windows' is the test guest's, which then starts its kernel from the same disk.
#![allow(clippy::print_stdout, reason = "what a test measured is shown on demand")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::zoo::{Bug, bug};
use support::{Run, assert_found_once_at_its_place, finish, images, test_platform_boots_firmware};

/// A workload that is short enough for the lab, and reaches the error path.
const WORKLOAD: &str = "ops=24 threads=2\r\n";

/// Runs one of the scripts for Windows.
fn script(directory: &Path, name: &str, arguments: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../scripts/windows")
        .join(name);
    let output = Command::new(&path)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}: {} (scripts/setup windows-tests installs what is needed)",
        path.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An install disk of what is no Windows: its boot loader is the test guest's, and so is what that starts.
fn make_media(directory: &Path, driver: &Path) -> PathBuf {
    let root = directory.join("root");
    fs::create_dir_all(root.join("drivers")).unwrap();
    for name in ["ntoskrnl.exe", "storport.sys"] {
        fs::copy(images().join(name), root.join(name)).unwrap();
    }
    fs::copy(driver, root.join("drivers").join(driver.file_name().unwrap())).unwrap();
    fs::write(root.join("cmdline.txt"), WORKLOAD).unwrap();
    let name = driver.file_name().unwrap().to_str().unwrap();
    let inf = format!(
        "[Version]\r\nSignature=\"$WINDOWS NT$\"\r\n[Manufacturer]\r\nMade=M,NTamd64\r\n[M.NTamd64]\r\nMade=I,ROOT\\made\r\n\
         [I]\r\nCopyFiles=F\r\n[F]\r\n{name}\r\n"
    );
    fs::write(directory.join("made.inf"), inf).unwrap();
    let loader = images().join("bootx64.efi");
    let iso = ["iso", "made.iso", "--add", "root", "--loader", loader.to_str().unwrap()];
    script(directory, "made", &iso);
    let package = ["--driver", driver.to_str().unwrap(), "--inf", "made.inf"];
    script(
        directory,
        "media",
        &[&["made.iso", "--part-size", "2", "-o", "media.img"], &package[..]].concat(),
    );
    directory.join("media.img")
}

/// Boots with the install disk and an empty one, in this order or the other.
fn boot(media_first: bool) -> (&'static Bug, Run) {
    let bug = bug("vdisk-release-on-error-path");
    let driver = images().join(format!("miniports/{}.sys", bug.image));
    let directory = tempfile::tempdir().unwrap();
    let media = make_media(directory.path(), &driver);
    let empty = directory.path().join("win.img");
    File::create(&empty).unwrap().set_len(64 << 20).unwrap();
    let mut disks = [empty, media];
    if media_first {
        disks.reverse();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_storlock"));
    command
        .args(["run", "--firmware", "--memory", "256M", "--time-limit", "500s"])
        .arg("--driver")
        .arg(&driver)
        .arg("--report-dir")
        .arg(directory.path().join("report"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for disk in &disks {
        command.arg("--disk").arg(disk);
    }
    let output = finish(command.spawn().unwrap());
    (bug, Run { directory, output })
}

#[test]
#[ignore = "makes an ISO and boots from it: a minute"]
fn firmware_passes_an_empty_disk_and_starts_the_loader_of_an_install_disk() {
    if !test_platform_boots_firmware() {
        return;
    }
    let (bug, run) = boot(false);
    assert!(run.serial().contains("tinynt: "), "{run}");
    assert_found_once_at_its_place(bug, &run);
}

#[test]
#[ignore = "makes an ISO and boots from it: a minute"]
fn firmware_starts_the_loader_of_an_install_disk_that_is_the_first() {
    if !test_platform_boots_firmware() {
        return;
    }
    let (bug, run) = boot(true);
    assert!(run.serial().contains("tinynt: "), "{run}");
    assert_found_once_at_its_place(bug, &run);
}
