//! What this program asks of the host's kernel beside KVM: locks on the files that it writes, and an error instead of a
//! signal where a file reaches its size limit.
//!
//! It must not know what the files are for.

// Neither has a safe wrapper in the standard library.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Locks a file or directory against everybody else who asks for the lock (flock(2)), until the last descriptor of `file`
/// is closed. A second opener in this process is kept out as well.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`]: somebody else has it. Otherwise this file system has no such locks.
pub fn lock_exclusively(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; the call takes no memory.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has a write beyond the limit on the size of files (`ulimit -f`) fail with `EFBIG` from here on, where the process would
/// be killed by SIGXFSZ.
pub fn survive_the_file_size_limit() {
    // SAFETY: ignoring a signal installs no code. The call only fails for a signal that does not exist.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_lock_is_had_once_and_ends_with_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let open = || File::open(directory.path()).unwrap();
        let (first, second) = (open(), open());
        lock_exclusively(&first).unwrap();
        let refused = lock_exclusively(&second).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(first);
        // A process that another test has just forked has the file, too, until it executes its program.
        let deadline = Instant::now() + Duration::from_secs(10);
        while lock_exclusively(&second).is_err() {
            assert!(Instant::now() < deadline, "the lock has outlived its file");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
