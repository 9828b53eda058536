//! What happens at a system call that is not allowed: the kernel sends SIGSYS instead of making it.
//!
//! The handler writes which call it was and ends the process, even if nobody reads what it writes. Where the thread
//! blocks the signal (the C library does around the start of threads and processes), the kernel kills the whole
//! process, and the shell says "Bad system call".

use std::cell::Cell;
use std::ptr;

use vmm_sys_util::signal::register_signal_handler;

use super::{SandboxError, ThreadProfile, VIOLATION_EXIT_CODE};

/// How long the message waits for room on standard error, in milliseconds.
const PATIENCE: libc::c_int = 500;

thread_local! {
    static PROFILE: Cell<Option<&'static ThreadProfile>> = const { Cell::new(None) };
}

/// For the message of a later violation by this thread.
pub(super) fn note_profile(profile: &'static ThreadProfile) {
    PROFILE.set(Some(profile));
}

/// Installs the handler, for the process.
pub(super) fn catch() -> Result<(), SandboxError> {
    register_signal_handler(libc::SIGSYS, on_violation).map_err(|error| SandboxError::Limit {
        action: "catch violations",
        reason: error.to_string(),
    })
}

/// The part of `siginfo_t` that a SIGSYS fills and the libc crate does not describe (asm-generic/siginfo.h, x86-64).
#[repr(C)]
struct SigSys {
    signal: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    _padding: libc::c_int,
    call_address: *mut libc::c_void,
    system_call: libc::c_int,
    architecture: libc::c_uint,
}

extern "C" fn on_violation(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo_t, which is larger than SigSys, and for SIGSYS these are its fields.
    #[allow(unsafe_code)]
    let system_call = unsafe { ptr::read(info.cast::<SigSys>()) }.system_call;
    let mut message = Message::default();
    message.add(b"error: the sandbox refused system call ");
    message.add_number(system_call.unsigned_abs());
    message.add(b" of a ");
    message.add(PROFILE.get().map_or("", |profile| profile.name).as_bytes());
    message.add(
        b" thread (numbers: asm/unistd_64.h); the run was ended at once and has no report. It is a defect of this \
          program, or the guest has taken it over; --no-sandbox runs without the check\n",
    );
    let mut room = libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: `room` is one entry, the buffer is `length` bytes long at least; poll, write and _exit may be called in a
    // signal handler.
    #[allow(unsafe_code)]
    unsafe {
        // Nobody may keep the process alive by not reading its messages.
        if libc::poll(&raw mut room, 1, PATIENCE) == 1 {
            libc::write(libc::STDERR_FILENO, message.text.as_ptr().cast(), message.length);
        }
        libc::_exit(VIOLATION_EXIT_CODE);
    }
}

/// A text of bounded length without allocation: in a signal handler nothing else may be used.
struct Message {
    text: [u8; 512],
    length: usize,
}

impl Default for Message {
    fn default() -> Self {
        Self {
            text: [0; 512],
            length: 0,
        }
    }
}

impl Message {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(place) = self.text.get_mut(self.length) {
                *place = *byte;
                self.length += 1;
            }
        }
    }

    fn add_number(&mut self, number: u32) {
        if number >= 10 {
            self.add_number(number / 10);
        }
        self.add(&[b'0' + (number % 10) as u8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_holds_numbers_and_never_more_than_its_room() {
        let mut message = Message::default();
        message.add_number(4_294_967_295);
        message.add_number(0);
        assert_eq!(&message.text[..message.length], b"42949672950");
        message.add(&[b'x'; 1000]);
        assert_eq!(message.length, 512);
    }
}
