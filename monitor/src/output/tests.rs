//! Writers and readers of every speed, files that are locked, and what a path means.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, symlink};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use storlock_vmm::sandbox::Sandbox;

use super::*;

/// Takes what the other end of a channel allows.
struct Gate(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
        let _ = self.1.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gated(room: usize, limit: u64, when_full: WhenFull) -> (Outlet, mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>) {
    let (open, gate) = mpsc::channel();
    let (sender, written) = mpsc::channel();
    let out = Gate(gate, sender);
    let outlet = Outlet::start(
        "test",
        out,
        Progress::default(),
        (room, limit),
        when_full,
        Sandbox::none(),
    );
    (outlet.unwrap(), open, written)
}

#[test]
fn a_reader_that_takes_nothing_costs_what_has_no_room_and_no_time() {
    let (outlet, open, written) = gated(10, u64::MAX, WhenFull::LeaveOut);
    let began = Instant::now();
    for _ in 0..5 {
        outlet.push(b"12345");
    }
    assert!(began.elapsed() < PATIENCE);
    for _ in 0..3 {
        open.send(()).unwrap();
    }
    // What comes after the gap is told of it.
    assert!(outlet.drain(|_| true));
    outlet.push(b"end");
    let ending = outlet.finish(|_| true);
    assert!(ending.error.is_none() && ending.left_out == 15, "{ending:?}");
    drop(outlet);
    let all: Vec<u8> = written.iter().flatten().collect();
    assert_eq!(all, b"1234512345\n[15 bytes were left out here]\nend");
    assert!(matches!(ending.cut("it", 0), Some(Cut::Note(text)) if text.contains("15 bytes")));
}

#[test]
fn a_reader_that_is_stuck_is_waited_for_once_and_not_at_the_end() {
    let (outlet, _open, _written) = gated(4, u64::MAX, WhenFull::Wait(PATIENCE));
    let began = Instant::now();
    for _ in 0..20 {
        outlet.push(b"12345");
    }
    assert!(
        (PATIENCE..2 * PATIENCE).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    let ending = outlet.finish(|stall| stall < PATIENCE);
    assert_eq!(ending.error.as_ref().unwrap().kind(), io::ErrorKind::TimedOut);
    assert_eq!(ending.left_out, 100);
    assert!(matches!(ending.cut("it", 0), Some(Cut::Failure(_))));
    assert!(began.elapsed() < 4 * PATIENCE, "{:?}", began.elapsed());
}

#[test]
fn a_slow_reader_gets_everything() {
    let (outlet, open, written) = gated(4, u64::MAX, WhenFull::Wait(PATIENCE));
    let reading = thread::spawn(move || {
        for _ in 0..20 {
            thread::sleep(PATIENCE / 10);
            let _ = open.send(());
        }
    });
    for byte in b'a'..b'u' {
        outlet.push(&[byte; 4]);
    }
    let ending = outlet.finish(|stall| stall < PATIENCE);
    assert!(ending.cut("it", 0).is_none(), "{ending:?}");
    reading.join().unwrap();
    drop(outlet);
    assert_eq!(written.iter().flatten().count(), 80);
}

#[test]
fn a_limit_and_an_error_are_told() {
    let (outlet, open, written) = gated(1000, 10, WhenFull::LeaveOut);
    for _ in 0..4 {
        open.send(()).unwrap();
    }
    outlet.push(b"123456789abc");
    outlet.push(b"beyond");
    let ending = outlet.finish(|_| true);
    assert_eq!(ending.beyond_limit, 6);
    assert!(matches!(ending.cut("it", 10), Some(Cut::Note(text)) if text.contains("limit of 10 bytes")));
    drop((outlet, open));
    let all: Vec<u8> = written.iter().flatten().collect();
    assert_eq!(all, b"123456789abc\n[this ends at its limit of 10 bytes]\n");
    let (outlet, open, _written) = gated(1000, 10, WhenFull::LeaveOut);
    drop(open);
    outlet.push(b"1");
    let ending = outlet.finish(|_| true);
    assert!(matches!(ending.cut("it", 10), Some(Cut::Note(text)) if text.contains("reader has gone")));
}

#[test]
fn a_file_is_locked_before_it_is_emptied_and_whole_or_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let mut first = OutputFile::open(&path, PATIENCE).unwrap();
    first.write_all(b"first").unwrap();
    assert!(matches!(OutputFile::open(&path, PATIENCE), Err(OutputError::InUse(_))));
    assert!(matches!(Place::of(&path).clear(), Err(OutputError::InUse(_))));
    assert_eq!(fs::read(&path).unwrap(), b"first");
    drop(first);
    let whole = WholeFile::prepare(&path, PATIENCE).unwrap();
    assert!(!path.exists(), "the earlier one is gone");
    assert!(WholeFile::prepare(&path, PATIENCE).is_err());
    let failed = whole.fill(|file| {
        file.write_all(b"part")?;
        Err::<(), _>(io::ErrorKind::StorageFull.into())
    });
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let whole = WholeFile::prepare(&path, PATIENCE).unwrap();
    whole.fill(|file| file.write_all(b"whole")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"whole");
    drop(WholeFile::prepare(&path, PATIENCE).unwrap());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_pipe_gets_zeroes_for_what_a_file_leaves_out_and_a_stuck_one_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let refused = WholeFile::prepare(&path, PATIENCE);
    assert!(matches!(refused, Err(OutputError::NoReader(_))));
    let mut options = OpenOptions::new();
    let mut reader = options.read(true).custom_flags(0o4000).open(&path).unwrap();
    let whole = WholeFile::prepare(&path, PATIENCE).unwrap();
    whole
        .fill(|file| {
            file.write_all(b"a")?;
            io::Seek::seek(file, io::SeekFrom::Start(5))?;
            file.write_all(b"b")?;
            file.end_at(8)
        })
        .unwrap();
    let mut got = [1; 8];
    reader.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"a\0\0\0\0b\0\0");
    let stuck = WholeFile::prepare(&path, PATIENCE).unwrap();
    stuck.progress().give_up_at(Instant::now() + PATIENCE);
    let began = Instant::now();
    let written = stuck.fill(|file| file.write_all(&vec![0; 1 << 20]));
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(
        (PATIENCE..4 * PATIENCE).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
}

#[test]
fn paths_to_one_file_have_one_identity() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("file"), "").unwrap();
    fs::hard_link(at("file"), at("hard")).unwrap();
    symlink("file", at("soft")).unwrap();
    symlink(directory.path(), at("here")).unwrap();
    symlink("soft", at("softer")).unwrap();
    symlink("later", at("dangling")).unwrap();
    let same = |one: &str, other: &str| Identity::of(&at(one)) == Identity::of(&at(other));
    for name in ["hard", "soft", "softer", "here/file", "here/./soft"] {
        assert!(same("file", name), "{name}");
    }
    assert!(same("dangling", "later") && same("here/later", "dangling"));
    assert!(same("none/below", "here/none/below"));
    assert!(!same("file", "later") && !same("none/below", "none/other"));
    assert_eq!(Place::of(&at("softer")).path(), at("file"));
}
