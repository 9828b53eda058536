//! Things to write to that do not take everything: full and read-only file systems, pipes that nobody reads.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::print_stdout, reason = "what could not be tried is said")]

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What the end of a run may take after a signal or the time limit: a second, and what a busy machine below a hypervisor
/// adds.
pub(crate) const SLACK: Duration = Duration::from_secs(5);

/// O_NONBLOCK of x86-64 Linux.
const NONBLOCK: i32 = 0o4000;

/// Makes a named pipe.
pub(crate) fn mkfifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Opens a named pipe for reading and never reads. A writer finds it open.
pub(crate) fn reader(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(NONBLOCK).open(path).unwrap()
}

/// The end for writing of a pipe whose reader has gone.
pub(crate) fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A pipe without room for another byte. As long as the reader lives its writer is stuck.
pub(crate) fn stalled_pipe() -> (std::io::PipeReader, OwnedFd) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // The room of a pipe (pipe(7)).
    writer.write_all(&vec![b'x'; 64 << 10]).unwrap();
    (reader, writer.into())
}

/// Sends a signal by name.
pub(crate) fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Every regular file below a directory, with what is in it.
pub(crate) fn files_below(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else if path.is_file() {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found
}

/// The header of a qcow2 image on top of `backing`, enough to tell which files it is made of.
pub(crate) fn qcow2_on(backing: &str) -> Vec<u8> {
    let mut header = vec![0; 104];
    header[..4].copy_from_slice(b"QFI\xfb");
    header[7] = 3;
    header[15] = 104;
    header[16..20].copy_from_slice(&u32::try_from(backing.len()).unwrap().to_be_bytes());
    header.extend_from_slice(backing.as_bytes());
    header
}

/// A file system of its own in memory; unmounted at the end.
pub(crate) struct Mounted(tempfile::TempDir);

impl Mounted {
    /// With so many bytes. `None` where nobody lets us mount; the test says so.
    pub(crate) fn new(options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(directory.path())
            .output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            return Some(Self(directory));
        }
        println!("not tried: this machine lets nobody mount");
        None
    }

    /// That nobody can write to.
    pub(crate) fn read_only() -> Option<Self> {
        Self::new("ro,size=64k")
    }

    /// Without room for another byte.
    pub(crate) fn full() -> Option<Self> {
        let mounted = Self::new("size=64k")?;
        let mut file = mounted.file("filler");
        while file.write_all(&[0; 4096]).is_ok() {}
        Some(mounted)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self, name: &str) -> File {
        File::create(self.path().join(name)).unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Also while something is open.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
