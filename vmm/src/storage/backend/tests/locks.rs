//! One writer or many readers, QEMU among them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use super::*;

#[test]
fn an_image_has_one_writer_or_many_readers() {
    let directory = directory();
    for path in [raw(directory.path(), 4096), qcow2(directory.path(), 4096)] {
        let writer = writable(&path);
        for options in [ImageOptions::default(), read_only(), snapshot(MEBIBYTE)] {
            let error = open(&path, &options).unwrap_err();
            assert!(matches!(error, OpenError::InUse { .. }), "{error}");
            assert!(error.to_string().contains("disk."), "{error}");
        }
        drop(writer);
        let readers = [read_only(), read_only(), snapshot(MEBIBYTE)].map(|options| opened(&path, &options));
        assert!(matches!(
            open(&path, &ImageOptions::default()),
            Err(OpenError::InUse { .. })
        ));
        drop(readers);
        writable(&path);
    }
}

#[test]
fn a_backing_file_has_readers_only() {
    let directory = directory();
    let base = raw(directory.path(), 4096);
    let top = directory.path().join("top.qcow2");
    qemu_img(&["create", "-f", "qcow2", "-b", "disk.img", "-F", "raw", text(&top)]);
    let writer = writable(&base);
    let error = open(&top, &ImageOptions::default()).unwrap_err();
    assert!(
        matches!(&error, OpenError::InUse { path } if path.ends_with("disk.img")),
        "{error}"
    );
    drop(writer);
    let _top = writable(&top);
    assert!(matches!(
        open(&base, &ImageOptions::default()),
        Err(OpenError::InUse { .. })
    ));
    opened(&base, &read_only());
}

/// qemu-io with the image open for writing.
fn qemu_io(path: &Path) -> Child {
    let mut child = Command::new("qemu-io")
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("qemu-io: {error}; scripts/setup lint installs it"));
    // Its answer says that the image is open.
    child.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
    let mut answer = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut answer)
        .unwrap();
    child
}

#[test]
fn qemu_and_we_keep_each_other_out() {
    let directory = directory();
    let path = qcow2(directory.path(), 4096);
    let mut qemu = qemu_io(&path);
    for options in [ImageOptions::default(), read_only()] {
        let error = open(&path, &options).unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    }
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    let disk = writable(&path);
    let info = |path: &Path| Command::new("qemu-img").args(["info", text(path)]).output().unwrap();
    let output = info(&path);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.contains("lock"), "{message}");
    drop(disk);
    let _reader = opened(&path, &read_only());
    // Readers do not mind each other.
    qemu_img(&["info", text(&path)]);
}
