//! The limits of threads, on the kernel that runs the tests. What ends a process is tried in a child: this program once
//! more, told what to do by an environment variable.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a test measured is shown on demand"
)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attempts;
mod landlock;
mod promises;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use promises::PROMISES;
use storlock::threads::{self, MAIN, WRITER};
use storlock_vmm::run::VCPU_THREAD;
use storlock_vmm::sandbox::{Sandbox, ThreadProfile, VIOLATION_EXIT_CODE};
use storlock_vmm::storage::WORKER_THREAD;

const ATTEMPT: &str = "STORLOCK_SANDBOX_ATTEMPT";
const DIRECTORY: &str = "STORLOCK_SANDBOX_DIRECTORY";
const START_A_THREAD: &str = "start a thread";
const SHRINK_A_HEAP: &str = "shrink a heap";
const PANIC: &str = "panic";
const CRASH: &str = "crash";
/// How a child ends when nothing stopped it.
const NOT_STOPPED: i32 = 77;
/// How it ends when something was let through, or refused, that is not to be.
const BREACHED: i32 = 78;

/// What ends a process: a name, the kind of thread, the system call's number, and the attempt.
type Violation = (&'static str, &'static ThreadProfile, libc::c_long, fn());

const VIOLATIONS: [Violation; 4] = [
    ("open", &VCPU_THREAD, libc::SYS_openat, || {
        let _ = File::open("/etc/passwd");
    }),
    ("open to read", &MAIN, libc::SYS_openat, || {
        let _ = File::open("/etc/passwd");
    }),
    ("read what is typed", &WRITER, libc::SYS_read, || {
        let _ = io::stdin().read(&mut [0]);
    }),
    ("make a directory", &MAIN, libc::SYS_mkdir, || {
        let _ = fs::create_dir("/tmp/storlock-sandbox-test");
    }),
];

fn child_command(attempt: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "in_a_child", "--nocapture"])
        .env(ATTEMPT, attempt);
    command
}

fn child(attempt: &str, directory: &Path) -> Output {
    child_command(attempt).env(DIRECTORY, directory).output().unwrap()
}

/// Not a test by itself: the child's part of the others.
#[test]
fn in_a_child() {
    let Ok(name) = std::env::var(ATTEMPT) else { return };
    if let Some((_, attempts)) = PROMISES.into_iter().find(|(promise, _)| *promise == name) {
        let breaches = attempts::breaches(attempts);
        println!("\n{}", breaches.join("\n"));
        std::process::exit(if breaches.is_empty() { NOT_STOPPED } else { BREACHED });
    }
    let sandbox = Sandbox::enforced(&threads::all()).unwrap();
    let thread = if let Some((_, kind, _, attempt)) = VIOLATIONS.into_iter().find(|(violation, ..)| *violation == name)
    {
        sandbox.spawn(kind, "attempt", attempt)
    } else if name == START_A_THREAD {
        // The C library blocks all signals around it.
        sandbox.spawn(&VCPU_THREAD, "attempt", || drop(std::thread::spawn(|| ())))
    } else if name == SHRINK_A_HEAP {
        sandbox.spawn(&VCPU_THREAD, "attempt", fills_a_heap_and_empties_it)
    } else if name == CRASH {
        sandbox.spawn(&VCPU_THREAD, "attempt", || std::process::abort())
    } else if name == PANIC {
        // The language's own hook opens files for a backtrace.
        std::panic::set_hook(Box::new(|panic| eprintln!("thread 'attempt': {panic}")));
        let _ = sandbox
            .spawn(&WORKER_THREAD, "attempt", || panic!("on purpose"))
            .unwrap()
            .join();
        std::process::exit(NOT_STOPPED);
    } else {
        let directory = std::env::var_os(DIRECTORY).unwrap();
        sandbox.spawn(&MAIN, "attempt", move || writes_reports(directory.as_ref()))
    };
    thread.unwrap().join().unwrap();
    std::process::exit(NOT_STOPPED);
}

#[test]
fn only_the_main_and_the_debugger_thread_name_files() {
    let naming = threads::all().into_iter().filter(|profile| profile.names_files);
    assert_eq!(
        naming.map(|profile| profile.name).collect::<Vec<_>>(),
        ["debugger", "main"]
    );
}

/// Has threads of every kind try what would break a promise, on this kernel.
fn keeps(promise: &str) {
    let output = child_command(promise).stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(NOT_STOPPED), "{told}");
}

#[test]
fn a_thread_starts_nothing() {
    keeps("starts nothing");
}

#[test]
fn a_thread_reaches_no_other_process() {
    keeps("reaches no other process");
}

#[test]
fn a_thread_connects_to_nothing() {
    keeps("connects to nothing");
}

#[test]
fn a_thread_gets_no_executable_or_shared_memory() {
    keeps("gets no executable or shared memory");
}

#[test]
fn a_thread_asks_devices_for_its_own_work_only() {
    keeps("asks devices for its own work only");
}

#[test]
fn a_thread_reads_no_files_and_changes_only_its_own() {
    keeps("reads no files and changes only its own");
}

#[test]
fn a_thread_only_writes_to_the_standard_streams() {
    keeps("only writes to the standard streams");
}

#[test]
fn a_thread_asks_the_kernel_for_nothing_else() {
    keeps("asks the kernel for nothing else");
}

/// A process that shall live, for one that shall not reach it.
struct Victim(Child);

impl Victim {
    fn start() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }

    fn id(&self) -> libc::pid_t {
        self.0.id().try_into().unwrap()
    }

    /// Whether it is alive after a signal would have come.
    fn lives(&mut self) -> bool {
        std::thread::sleep(Duration::from_millis(100));
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has the kernel signal a process when bytes come; as far as it lets that be done.
fn signal_by_a_socket(victim: libc::pid_t) {
    let (here, there) = UnixStream::pair().unwrap();
    // SAFETY: of all these the arguments are numbers.
    #[allow(unsafe_code)]
    unsafe {
        const F_SETSIG: libc::c_int = 10;
        libc::fcntl(here.as_raw_fd(), libc::F_SETOWN, victim);
        libc::fcntl(here.as_raw_fd(), F_SETSIG, libc::SIGKILL);
        libc::fcntl(here.as_raw_fd(), libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK);
    }
    (&there).write_all(b"x").unwrap();
}

#[test]
fn a_signal_by_a_socket_kills_a_process_that_nothing_protects() {
    // Else the tests that have it live would show nothing.
    let mut victim = Victim::start();
    signal_by_a_socket(victim.id());
    assert!(!victim.lives());
}

#[test]
fn a_violation_ends_the_process_with_a_message() {
    let directory = tempfile::tempdir().unwrap();
    for (name, kind, number, _) in VIOLATIONS {
        let output = child(name, directory.path());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(VIOLATION_EXIT_CODE), "{name}: {message}");
        let wanted = format!("system call {number} of a {} thread", kind.name);
        assert!(message.contains(&wanted), "{name}: {message}");
    }
}

#[test]
fn a_violation_ends_the_process_also_when_nobody_reads_its_messages() {
    let (_reader, writer) = io::pipe().unwrap();
    // SAFETY: the arguments are numbers.
    #[allow(unsafe_code)]
    let room = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    (&writer).write_all(&vec![b'x'; room.try_into().unwrap()]).unwrap();
    let mut child = child_command("open").stderr(writer).spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = child.try_wait().unwrap();
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(ended.and_then(|status| status.code()), Some(VIOLATION_EXIT_CODE));
}

#[test]
fn a_violation_with_signals_blocked_kills_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let output = child(START_A_THREAD, directory.path());
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
}

#[test]
fn an_abort_ends_the_process_as_without_limits() {
    let output = child_command(CRASH).output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
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
    let output = child_command(PANIC).env("RUST_BACKTRACE", "1").output().unwrap();
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
    let sandbox = Sandbox::enforced(&threads::all()).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    let mut copy = file.try_clone().unwrap();
    let write = move || -> io::Result<u64> {
        copy.write_all(b"a record and the rest")?;
        copy.set_len(8)?;
        copy.seek(SeekFrom::End(0))
    };
    let writer = sandbox.spawn(&WRITER, "writer", write).unwrap();
    assert_eq!(writer.join().unwrap().unwrap(), 8);
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "a record");
}

#[test]
fn without_limits_nothing_is_refused() {
    let sandbox = Sandbox::none();
    let opened = sandbox.spawn(&VCPU_THREAD, "free", || File::open("/etc/passwd").is_ok());
    assert!(opened.unwrap().join().unwrap());
}
