//! The limits of threads, on the kernel that runs the tests. What ends a process is tried in a child: this program once
//! more, told what to do by an environment variable.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::ptr;

use storlock_vmm::sandbox::{FileLimit, Sandbox, ThreadKind, VIOLATION_EXIT_CODE};

const ATTEMPT: &str = "STORLOCK_SANDBOX_ATTEMPT";
const DIRECTORY: &str = "STORLOCK_SANDBOX_DIRECTORY";
const START_A_THREAD: &str = "start a thread";
const SHRINK_A_HEAP: &str = "shrink a heap";
const PANIC: &str = "panic";
/// How a child ends when nothing stopped it.
const NOT_STOPPED: i32 = 77;

/// What a thread may try: a name, the kind of thread, the system call's number, and the attempt.
type Attempt = (&'static str, ThreadKind, libc::c_long, fn());

const FORBIDDEN: [Attempt; 11] = [
    ("open", ThreadKind::Vcpu, libc::SYS_openat, || {
        let _ = File::open("/etc/passwd");
    }),
    (
        "open by the debugger's thread",
        ThreadKind::Debugger,
        libc::SYS_openat,
        || {
            let _ = File::open("/etc/passwd");
        },
    ),
    (
        "connect by the debugger's thread",
        ThreadKind::Debugger,
        libc::SYS_socket,
        || {
            let _ = TcpStream::connect("127.0.0.1:9");
        },
    ),
    (
        "change registers by a worker",
        ThreadKind::Worker,
        libc::SYS_ioctl,
        || {
            const KVM_SET_XSAVE: libc::c_ulong = 0x5000_aea5;
            // SAFETY: there is no such descriptor.
            #[allow(unsafe_code)]
            unsafe {
                libc::ioctl(-1, KVM_SET_XSAVE, 0);
            }
        },
    ),
    ("open by a worker", ThreadKind::Worker, libc::SYS_openat, || {
        let _ = File::create("/tmp/storlock-sandbox-test");
    }),
    ("connect", ThreadKind::Main, libc::SYS_socket, || {
        let _ = TcpStream::connect("127.0.0.1:9");
    }),
    ("start a process", ThreadKind::Main, libc::SYS_fork, || {
        // SAFETY: the C library's own fork would do more; the call is refused.
        #[allow(unsafe_code)]
        unsafe {
            libc::syscall(libc::SYS_fork);
        }
    }),
    ("make a directory", ThreadKind::Main, libc::SYS_mkdir, || {
        let _ = fs::create_dir("/tmp/storlock-sandbox-test");
    }),
    ("make memory executable", ThreadKind::Worker, libc::SYS_mmap, || {
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a mapping at a place of the kernel's choice, which nobody uses.
        #[allow(unsafe_code)]
        unsafe {
            libc::mmap(ptr::null_mut(), 4096, protection, flags, -1, 0);
        }
    }),
    ("make a virtual machine", ThreadKind::Vcpu, libc::SYS_ioctl, || {
        // SAFETY: KVM_CREATE_VM on a descriptor that does not exist.
        #[allow(unsafe_code)]
        unsafe {
            libc::ioctl(-1, 0xae01);
        }
    }),
    ("signal another process", ThreadKind::Vcpu, libc::SYS_tgkill, || {
        // SAFETY: signal 0 does nothing.
        #[allow(unsafe_code)]
        unsafe {
            libc::syscall(libc::SYS_tgkill, 1, 1, 0);
        }
    }),
];

fn child(attempt: &str, directory: &Path) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "in_a_child", "--nocapture"]);
    command
        .env(ATTEMPT, attempt)
        .env(DIRECTORY, directory)
        .output()
        .unwrap()
}

/// Not a test by itself: the child's part of the others.
#[test]
fn in_a_child() {
    let Ok(name) = std::env::var(ATTEMPT) else { return };
    let sandbox = Sandbox::enforced().unwrap();
    let thread = if let Some((_, kind, _, attempt)) = FORBIDDEN.into_iter().find(|(forbidden, ..)| *forbidden == name) {
        sandbox.spawn(kind, "attempt", attempt)
    } else if name == START_A_THREAD {
        // The C library blocks all signals around it.
        sandbox.spawn(ThreadKind::Vcpu, "attempt", || drop(std::thread::spawn(|| ())))
    } else if name == SHRINK_A_HEAP {
        sandbox.spawn(ThreadKind::Vcpu, "attempt", fills_a_heap_and_empties_it)
    } else if name == PANIC {
        let _ = sandbox
            .spawn(ThreadKind::Worker, "attempt", || panic!("on purpose"))
            .unwrap()
            .join();
        std::process::exit(NOT_STOPPED);
    } else {
        let directory = std::env::var_os(DIRECTORY).unwrap();
        sandbox.spawn(ThreadKind::Main, "attempt", move || writes_reports(directory.as_ref()))
    };
    thread.unwrap().join().unwrap();
    std::process::exit(NOT_STOPPED);
}

#[test]
fn a_system_call_that_is_not_allowed_ends_the_process_with_a_message() {
    let directory = tempfile::tempdir().unwrap();
    for (name, kind, number, _) in FORBIDDEN {
        let output = child(name, directory.path());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(VIOLATION_EXIT_CODE), "{name}: {message}");
        let wanted = format!("system call {number} of a {} thread", kind.name());
        assert!(message.contains(&wanted), "{name}: {message}");
    }
}

#[test]
fn a_violation_with_signals_blocked_kills_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let output = child(START_A_THREAD, directory.path());
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
}

/// Megabytes of small allocations of this thread, freed in one go: the C library's cue to give memory back.
fn fills_a_heap_and_empties_it() {
    for _ in 0..4 {
        let blocks: Vec<Box<[u8; 500]>> = (0..8192).map(|_| Box::new([1; 500])).collect();
        assert_eq!(blocks.iter().map(|block| usize::from(block[0])).sum::<usize>(), 8192);
    }
}

#[test]
fn memory_can_be_freed_and_a_panic_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let output = child(SHRINK_A_HEAP, directory.path());
    assert_eq!(output.status.code(), Some(NOT_STOPPED), "{output:?}");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "in_a_child", "--nocapture"])
        .env(ATTEMPT, PANIC)
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(NOT_STOPPED), "{message}");
    assert!(
        message.contains("thread 'attempt'") && message.contains("on purpose"),
        "{message}"
    );
}

/// What the main thread does at the end of a run, and for a dump.
fn writes_reports(directory: &Path) {
    for text in ["once", "again"] {
        let mut file = File::create(directory.join("report.txt")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
    let mut file = File::create(directory.join("dump.partial")).unwrap();
    file.seek(SeekFrom::Start(1 << 20)).unwrap();
    file.write_all(b"page").unwrap();
    file.set_len(2 << 20).unwrap();
    fs::rename(directory.join("dump.partial"), directory.join("dump")).unwrap();
    fs::remove_file(directory.join("dump")).unwrap();
}

#[test]
fn the_main_thread_can_write_its_reports() {
    let directory = tempfile::tempdir().unwrap();
    let output = child("write reports", directory.path());
    assert_eq!(output.status.code(), Some(NOT_STOPPED), "{output:?}");
    assert_eq!(
        fs::read_to_string(directory.path().join("report.txt")).unwrap(),
        "again"
    );
}

#[test]
fn a_writer_goes_on_with_the_file_that_it_has() {
    let sandbox = Sandbox::enforced().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    let mut copy = file.try_clone().unwrap();
    let write = move || -> io::Result<u64> {
        copy.write_all(b"a record and the rest")?;
        copy.set_len(8)?;
        copy.seek(SeekFrom::Start(2))?;
        copy.metadata().map(|metadata| metadata.len())
    };
    let writer = sandbox.spawn(ThreadKind::Writer, "writer", write).unwrap();
    assert_eq!(writer.join().unwrap().unwrap(), 8);
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "a record");
}

#[test]
fn only_files_below_the_named_directory_can_be_created() {
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (inside, outside) = (inside.path().to_owned(), outside.path().to_owned());
    fs::create_dir_all(&inside).unwrap();
    fs::write(inside.join("old"), "old").unwrap();
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("old"), "old").unwrap();
    let kind = |result: io::Result<File>| result.err().map(|error| error.kind());
    // Landlock limits a thread for good, so this one is not the test's own.
    let limited = std::thread::spawn(move || {
        let limit = Sandbox::enforced().unwrap().limit_files(&[&inside]).unwrap();
        if limit == FileLimit::Missing {
            println!("NOTE: {limit}");
            return;
        }
        println!("{limit}");
        assert_eq!(kind(File::create(inside.join("new"))), None);
        assert_eq!(kind(File::create(inside.join("old"))), None);
        let denied = Some(ErrorKind::PermissionDenied);
        assert_eq!(kind(File::open(inside.join("old"))), denied);
        assert_eq!(kind(File::create(outside.join("new"))), denied);
        assert_eq!(kind(File::create(outside.join("old"))), denied);
        assert_eq!(kind(File::open("/etc/passwd")), denied);
        let removed = fs::remove_file(outside.join("old")).err().map(|error| error.kind());
        assert_eq!(removed, denied);
    });
    limited.join().unwrap();
}

#[test]
fn files_can_be_renamed_and_removed_only_where_that_was_asked_for() {
    let (dumps, reports) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (dumps, reports) = (dumps.path().to_owned(), reports.path().to_owned());
    fs::write(reports.join("old"), "old").unwrap();
    let limited = std::thread::spawn(move || {
        let limit = Sandbox::enforced()
            .unwrap()
            .limit_files_with_names(&[&reports], &[&dumps]);
        if limit.unwrap() == FileLimit::Missing {
            println!("NOTE: {}", FileLimit::Missing);
            return;
        }
        for text in ["once", "again"] {
            fs::write(dumps.join("partial"), text).unwrap();
            fs::rename(dumps.join("partial"), dumps.join("whole")).unwrap();
        }
        let denied = |result: io::Result<()>| result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
        assert!(denied(File::open(dumps.join("whole")).map(drop)));
        fs::remove_file(dumps.join("whole")).unwrap();
        assert!(denied(fs::rename(reports.join("old"), reports.join("new"))));
        assert!(denied(fs::remove_file(reports.join("old"))));
    });
    limited.join().unwrap();
}

#[test]
fn without_limits_nothing_is_refused() {
    let sandbox = Sandbox::none();
    assert_eq!(sandbox.limit_files(&[]).unwrap(), FileLimit::Off);
    let opened = sandbox.spawn(ThreadKind::Vcpu, "free", || File::open("/etc/passwd").is_ok());
    assert!(opened.unwrap().join().unwrap());
}
