//! Locks of disk images that QEMU and its tools take and respect too.
//!
//! They are open file description locks (fcntl(2)) on single bytes: one byte for each kind of access that the holder
//! has, and one for each that it forbids to others (QEMU's block/file-posix.c and docs of `share-rw`). They are
//! advisory: a program that does not take them is not kept out. Talks to the kernel; it must not know what an image is.

// The locks have no safe wrapper in the standard library.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Byte of the first permission in use; the others follow.
const USED: libc::off_t = 100;
/// Byte of the first permission that others may not use.
const DENIED: libc::off_t = 200;

/// QEMU's permissions, by the number of their bit.
const CONSISTENT_READ: libc::off_t = 0;
const WRITE: libc::off_t = 1;
const RESIZE: libc::off_t = 3;

/// What any user of an image keeps others from.
const DENIED_TO_OTHERS: [libc::off_t; 2] = [WRITE, RESIZE];

/// Takes the locks of a reader or of the one writer, until the last descriptor of `file` is closed. A second opener in
/// this process is kept out as well. Two programs that try at the same time may both be refused.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`]: somebody else uses the image. Otherwise this file system has no such locks.
pub(super) fn take(file: &File, writable: bool) -> io::Result<()> {
    let used: &[libc::off_t] = if writable {
        &[CONSISTENT_READ, WRITE, RESIZE]
    } else {
        &[CONSISTENT_READ]
    };
    for permission in used {
        lock(file, USED + permission)?;
    }
    for permission in DENIED_TO_OTHERS {
        lock(file, DENIED + permission)?;
    }
    let denied_to_us = used.iter().map(|permission| DENIED + permission);
    for byte in denied_to_us.chain(DENIED_TO_OTHERS.map(|permission| USED + permission)) {
        if is_locked_by_others(file, byte)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
    }
    Ok(())
}

/// Makes a file that is no disk image that of one writer, as QEMU does with all files of its guests, until the last
/// descriptor of `file` is closed.
///
/// # Errors
/// As for an image: [`io::ErrorKind::WouldBlock`] if somebody else uses the file; otherwise there are no such locks here.
pub fn lock_for_writing(file: &File) -> io::Result<()> {
    take(file, true)
}

fn byte_lock(kind: libc::c_int, byte: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

/// Shared, so that several users can hold the same byte.
fn lock(file: &File, byte: libc::off_t) -> io::Result<()> {
    let request = byte_lock(libc::F_RDLCK, byte);
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the request outlives the call, which only
    // reads it.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // fcntl(2) leaves the choice between the two.
            error if error.raw_os_error() == Some(libc::EACCES) => Err(io::ErrorKind::WouldBlock.into()),
            error => Err(error),
        },
    }
}

fn is_locked_by_others(file: &File, byte: libc::off_t) -> io::Result<bool> {
    let mut request = byte_lock(libc::F_WRLCK, byte);
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the kernel writes no more than the request.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut request) } {
        0 => Ok(request.l_type != libc::F_UNLCK as libc::c_short),
        _ => Err(io::Error::last_os_error()),
    }
}
