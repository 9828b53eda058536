//! What Landlock keeps a thread from by itself, as far as this kernel has it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use storlock::threads;
use storlock_vmm::sandbox::{FileLimit, Sandbox};

use super::{Victim, signal_by_a_socket};

/// Whether the kernel's Landlock has what came with `abi`; says so if not.
fn has(limit: FileLimit, abi: i32) -> bool {
    let there = match limit {
        FileLimit::Full => true,
        FileLimit::Partial { abi: present } => present >= abi,
        FileLimit::Missing | FileLimit::Off => false,
    };
    if !there {
        println!("NOTE: not tried: {limit}");
    }
    there
}

/// Landlock limits a thread for good, so this one is not the test's own.
fn on_a_thread(body: impl FnOnce(Sandbox) + Send + 'static) {
    let limited = std::thread::spawn(move || body(Sandbox::enforced(&threads::all()).unwrap()));
    limited.join().unwrap();
}

fn is_denied<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::PermissionDenied)
}

#[test]
fn only_files_below_the_named_directory_can_be_created() {
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for directory in [&inside, &outside] {
        fs::write(directory.path().join("old"), "old").unwrap();
    }
    let (inside_path, outside_path) = (inside.path().to_owned(), outside.path().to_owned());
    on_a_thread(move |sandbox| {
        let (inside, outside) = (inside_path, outside_path);
        if !has(sandbox.limit_files(&[&inside]).unwrap(), 1) {
            return;
        }
        File::create(inside.join("new")).unwrap();
        File::create(inside.join("old")).unwrap();
        assert!(is_denied(&File::open(inside.join("old"))));
        assert!(is_denied(&File::create(outside.join("new"))));
        assert!(is_denied(&OpenOptions::new().write(true).open(outside.join("old"))));
        assert!(is_denied(&File::open("/etc/passwd")));
        assert!(is_denied(&fs::remove_file(outside.join("old"))));
        assert!(is_denied(&fs::create_dir(inside.join("directory"))));
        assert!(is_denied(&UnixListener::bind(inside.join("socket"))));
        assert!(is_denied(&std::os::unix::fs::symlink(
            "/etc/passwd",
            inside.join("link")
        )));
    });
    assert_eq!(fs::read_to_string(outside.path().join("old")).unwrap(), "old");
}

#[test]
fn files_can_be_renamed_and_removed_only_where_that_was_asked_for() {
    let (dumps, reports) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (dumps_path, reports_path) = (dumps.path().to_owned(), reports.path().to_owned());
    fs::write(reports.path().join("old"), "old").unwrap();
    on_a_thread(move |sandbox| {
        let (dumps, reports) = (dumps_path, reports_path);
        if !has(sandbox.limit_files_with_names(&[&reports], &[&dumps]).unwrap(), 1) {
            return;
        }
        for text in ["once", "again"] {
            fs::write(dumps.join("partial"), text).unwrap();
            fs::rename(dumps.join("partial"), dumps.join("whole")).unwrap();
        }
        assert!(is_denied(&File::open(dumps.join("whole"))));
        fs::remove_file(dumps.join("whole")).unwrap();
        assert!(is_denied(&fs::rename(reports.join("old"), reports.join("new"))));
        assert!(is_denied(&fs::remove_file(reports.join("old"))));
    });
}

#[test]
fn a_debuggers_thread_can_only_remove_and_only_there() {
    let (sockets, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sockets_path, others_path) = (sockets.path().to_owned(), others.path().to_owned());
    for directory in [&sockets, &others] {
        fs::write(directory.path().join("old"), "old").unwrap();
    }
    on_a_thread(move |sandbox| {
        let (sockets, others) = (sockets_path, others_path);
        if !has(sandbox.limit_files_to_removal(&sockets).unwrap(), 1) {
            return;
        }
        assert!(is_denied(&File::create(sockets.join("new"))));
        assert!(is_denied(&File::open(sockets.join("old"))));
        assert!(is_denied(&fs::remove_file(others.join("old"))));
        fs::remove_file(sockets.join("old")).unwrap();
    });
}

#[test]
fn existing_files_elsewhere_keep_their_length() {
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (inside_path, old) = (inside.path().to_owned(), outside.path().join("old"));
    fs::write(&old, "old").unwrap();
    on_a_thread(move |sandbox| {
        if has(sandbox.limit_files(&[&inside_path]).unwrap(), 3) {
            let name = std::ffi::CString::new(old.into_os_string().into_encoded_bytes()).unwrap();
            // SAFETY: the name is a string that ends by zero.
            #[allow(unsafe_code)]
            let cut = unsafe { libc::truncate(name.as_ptr(), 0) };
            assert!(cut < 0 && is_denied::<()>(&Err(io::Error::last_os_error())));
        }
    });
}

#[test]
fn tcp_is_out_of_reach() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    on_a_thread(move |sandbox| {
        if has(sandbox.limit_files(&[]).unwrap(), 4) {
            assert!(is_denied(&TcpStream::connect(address)));
            assert!(is_denied(&TcpListener::bind("127.0.0.1:0")));
        }
    });
    // What listens already goes on.
    TcpStream::connect(address).unwrap();
    listener.accept().unwrap();
}

#[test]
fn device_nodes_that_are_opened_later_obey_no_requests() {
    on_a_thread(|sandbox| {
        if has(sandbox.limit_files(&["/dev".as_ref()]).unwrap(), 5) {
            let device = OpenOptions::new().write(true).open("/dev/full").unwrap();
            // SAFETY: the request writes a terminal's settings to where it is told, if the device is one.
            #[allow(unsafe_code)]
            let asked = unsafe {
                let mut settings: libc::termios = std::mem::zeroed();
                libc::ioctl(device.as_raw_fd(), libc::TCGETS, &raw mut settings)
            };
            assert!(asked < 0 && is_denied::<()>(&Err(io::Error::last_os_error())));
        }
    });
}

#[test]
fn abstract_sockets_of_others_are_out_of_reach() {
    let name = format!("storlock-sandbox-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let theirs = address.clone();
    on_a_thread(move |sandbox| {
        if has(sandbox.limit_files(&[]).unwrap(), 6) {
            assert!(is_denied(&UnixStream::connect_addr(&theirs)));
        }
    });
    drop(listener);
}

#[test]
fn other_processes_cannot_be_signalled_and_own_threads_can() {
    let mut victim = Victim::start();
    let id = victim.id();
    let tried = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let note = std::sync::Arc::clone(&tried);
    // SAFETY: gettid has no arguments.
    #[allow(unsafe_code)]
    let this = unsafe { libc::gettid() };
    on_a_thread(move |sandbox| {
        if sandbox.limit_files(&[]).unwrap() != FileLimit::Full {
            println!("NOTE: not tried: this kernel's Landlock does not bound signals");
            return;
        }
        note.store(true, std::sync::atomic::Ordering::Relaxed);
        signal_by_a_socket(id);
        // SAFETY: the arguments are numbers, and signal 0 does nothing.
        #[allow(unsafe_code)]
        unsafe {
            assert_eq!(libc::kill(id, 0), -1);
            assert!(is_denied::<()>(&Err(io::Error::last_os_error())));
            // As a thread takes a vCPU out of the guest.
            let own = libc::syscall(libc::SYS_tgkill, libc::getpid(), this, 0);
            assert_eq!(own, 0, "{}", io::Error::last_os_error());
        }
    });
    if tried.load(std::sync::atomic::Ordering::Relaxed) {
        assert!(victim.lives());
    }
}

#[test]
fn without_limits_there_is_no_landlock() {
    assert_eq!(Sandbox::none().limit_files(&[]).unwrap(), FileLimit::Off);
}
