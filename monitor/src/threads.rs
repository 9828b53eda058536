//! Sandbox profiles of a run's own threads, beside those of the machine.
//!
//! It must not know what they are started for: the code that starts a thread names its profile.

use storlock_vmm::run;
use storlock_vmm::sandbox::Argument::{self, NotStandard};
use storlock_vmm::sandbox::{Call, EVENTS, ThreadProfile};

/// Every kind of thread that a run has.
#[must_use]
pub fn all() -> Vec<&'static ThreadProfile> {
    let own = [&WRITER, &HOOKS, &DEBUGGER, &SIGNALS, &PROGRESS, &MAIN];
    run::THREADS.into_iter().chain(own).collect()
}

/// Writes a file that is open already.
pub static WRITER: ThreadProfile = ThreadProfile {
    calls: &[FILE_ENDS],
    ..ThreadProfile::new("file writer")
};

/// Reads the records of hooks in guest memory, and judges the calls.
pub(crate) static HOOKS: ThreadProfile = ThreadProfile::new("hooks");

/// Serves a debugger on a socket that listens already.
pub(crate) static DEBUGGER: ThreadProfile = ThreadProfile {
    calls: &[EVENTS, CLIENTS],
    names_files: true,
    ..ThreadProfile::new("debugger")
};

/// Waits for signals.
pub(crate) static SIGNALS: ThreadProfile = ThreadProfile {
    calls: &[EVENTS],
    ..ThreadProfile::new("signal")
};

/// Draws a line on the terminal.
pub(crate) static PROGRESS: ThreadProfile = ThreadProfile {
    requests: &[TERMINAL],
    ..ThreadProfile::new("progress")
};

/// Started the others; waits for the end of the run, then writes the report; dumps the machine while it is paused.
pub static MAIN: ThreadProfile = ThreadProfile {
    calls: &[FILE_ENDS, FILES],
    requests: &[TERMINAL],
    names_files: true,
    ..ThreadProfile::new("main")
};

/// What the standard streams lead to, and how wide that is.
const TERMINAL: &[u32] = &[libc::TCGETS as u32, libc::TIOCGWINSZ as u32];

/// A trace's and a recording's end is written over when the disk is full; a dump has holes.
const FILE_ENDS: &[Call] = &[
    Call::only(libc::SYS_lseek, &[NotStandard(0)]),
    Call::only(libc::SYS_ftruncate, &[NotStandard(0)]),
];

/// Clients are accepted from a socket that listens already; answers are sent at once (`TCP_NODELAY`).
const CLIENTS: &[Call] = &[
    Call::any(libc::SYS_accept4),
    Call::only(
        libc::SYS_setsockopt,
        &[
            Argument::int(1, &[libc::IPPROTO_TCP as u32]),
            Argument::int(2, &[libc::TCP_NODELAY as u32]),
        ],
    ),
    // The Unix socket that listened. Without Landlock this removes any file that the user could.
    Call::any(libc::SYS_unlink),
];

/// How the main thread opens files: to write them, by name, made if they are not there. It reads none.
const TO_WRITE: u32 = (libc::O_WRONLY | libc::O_CREAT | libc::O_CLOEXEC) as u32;
const WRITE_HINTS: u32 = (libc::O_TRUNC | libc::O_EXCL | libc::O_NOFOLLOW) as u32;
/// Neither executable nor of another user's identity.
const FILE_MODE: u32 = 0o666;

/// Reports and dumps. Without Landlock rename and unlink replace and remove any file that the user could, openat empties it.
const FILES: &[Call] = &[
    Call::only(
        libc::SYS_openat,
        &[
            Argument::bits(2, WRITE_HINTS, &[TO_WRITE]),
            Argument::bits(3, FILE_MODE, &[0]),
        ],
    ),
    // A dump gets its name when it is whole.
    Call::any(libc::SYS_rename),
    Call::any(libc::SYS_unlink),
];
