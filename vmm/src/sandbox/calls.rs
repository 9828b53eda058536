//! The system calls of each kind of thread, and what their arguments may be: the one place to add one.
//!
//! The lists come from reading the code and from strace on runs to every kind of end. An entry says beside it what it can
//! do at worst where that is not plain. A thread's own memory is no bound: whoever has taken a thread over can do all
//! that any kind of thread may, by way of the others.
#![forbid(unsafe_code)]

use libc::c_long;

use super::ThreadKind;

/// What an argument has to be. The kernel takes the lower half of an `int`; what is above it is left to chance.
pub(super) enum Argument {
    /// An `int` that is one of `values`, but for the bits `free`.
    Int {
        index: u8,
        free: u32,
        values: &'static [u32],
    },
    /// A null pointer.
    Null(u8),
    /// The number of this process.
    ThisProcess(u8),
    /// A descriptor, but not of standard input, output or error.
    NotStandard(u8),
}
use Argument::{NotStandard, Null, ThisProcess};

/// A system call that is allowed if all of `arguments` are as they have to be. Two of the same number are alternatives.
pub(super) struct Call {
    pub(super) number: c_long,
    pub(super) arguments: &'static [Argument],
}

/// Allowed whatever its arguments.
const fn any(number: c_long) -> Call {
    Call { number, arguments: &[] }
}

/// Allowed with these arguments.
const fn only(number: c_long, arguments: &'static [Argument]) -> Call {
    Call { number, arguments }
}

/// The `int` argument `index` is one of `values`.
const fn int(index: u8, values: &'static [u32]) -> Argument {
    Argument::Int { index, free: 0, values }
}

/// The `int` argument `index` is one of `values`, and any of the bits `free` may be set beside.
const fn bits(index: u8, free: u32, values: &'static [u32]) -> Argument {
    Argument::Int { index, free, values }
}

const READ_WRITE: u32 = (libc::PROT_READ | libc::PROT_WRITE) as u32;
const OWN_MEMORY: u32 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32;
/// What allocators ask for beside: no reservation, a stack, huge pages (of any size) where the user has tuned glibc so.
const MAP_HINTS: u32 = (libc::MAP_NORESERVE | libc::MAP_STACK | libc::MAP_HUGETLB) as u32
    | (libc::MAP_HUGE_MASK as u32) << libc::MAP_HUGE_SHIFT;
const FUTEX_HINTS: u32 = (libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u32;
const FUTEX_OPERATIONS: &[u32] = &[
    libc::FUTEX_WAIT as u32,
    libc::FUTEX_WAKE as u32,
    libc::FUTEX_WAIT_BITSET as u32,
    libc::FUTEX_WAKE_BITSET as u32,
];
/// The first real-time signal that the C library leaves to programs: it takes a vCPU out of the guest.
pub(super) const KICK: u32 = 34;
/// Linux' uapi/linux/prctl.h.
const PR_SET_VMA: u32 = 0x5356_4d41;
const PR_SET_VMA_ANON_NAME: u32 = 0;

/// What the language's and C's run-time library do on any thread: memory, locks, sleeping, signals, messages, the end.
const EVERYWHERE: &[Call] = &[
    // The standard streams are only written to: nobody reads along what is typed, or changes what has been printed. What
    // is open beside them are the files and sockets of the run, and what the user has handed down.
    only(libc::SYS_read, &[NotStandard(0)]),
    any(libc::SYS_write),
    any(libc::SYS_writev),
    any(libc::SYS_close),
    // The language's library looks before it closes a file whether it is open, in builds with debug assertions.
    only(libc::SYS_fcntl, &[int(1, &[libc::F_GETFD as u32])]),
    // Neither priority inheritance nor requeuing, which nobody uses here.
    only(libc::SYS_futex, &[bits(1, FUTEX_HINTS, FUTEX_OPERATIONS)]),
    // Memory that is this process's alone. None is ever executable.
    any(libc::SYS_brk),
    only(
        libc::SYS_mmap,
        &[bits(2, READ_WRITE, &[0]), bits(3, MAP_HINTS, &[OWN_MEMORY])],
    ),
    only(libc::SYS_mprotect, &[bits(2, READ_WRITE, &[0])]),
    any(libc::SYS_munmap),
    only(libc::SYS_mremap, &[int(3, &[libc::MREMAP_MAYMOVE as u32])]),
    // Others take pages of the host out of use, if root asks.
    only(
        libc::SYS_madvise,
        &[int(
            2,
            &[
                libc::MADV_DONTNEED as u32,
                libc::MADV_FREE as u32,
                libc::MADV_HUGEPAGE as u32,
            ],
        )],
    ),
    // New glibc names its memory if the user has tuned it so. The other requests change what the process is to the kernel.
    only(
        libc::SYS_prctl,
        &[int(0, &[PR_SET_VMA]), int(1, &[PR_SET_VMA_ANON_NAME])],
    ),
    any(libc::SYS_sched_yield),
    // Where the host's clock is none that can be read without a system call.
    any(libc::SYS_clock_gettime),
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_nanosleep),
    any(libc::SYS_restart_syscall),
    any(libc::SYS_getrandom),
    any(libc::SYS_getpid),
    any(libc::SYS_gettid),
    // Threads of this process only, to take a vCPU out of the guest and to abort.
    only(
        libc::SYS_tgkill,
        &[ThisProcess(0), int(2, &[KICK, libc::SIGABRT as u32])],
    ),
    any(libc::SYS_sigaltstack),
    // A crash gets its message and its core file. Not SIGSYS: who replaced its handler would be refused in silence.
    only(
        libc::SYS_rt_sigaction,
        &[int(
            0,
            &[libc::SIGSEGV as u32, libc::SIGBUS as u32, libc::SIGABRT as u32],
        )],
    ),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    // The message of a violation waits a moment for who reads it, not longer.
    only(libc::SYS_poll, &[int(1, &[1])]),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
    // A signal's handler, on whatever thread it comes, wakes the signal thread by a socket that is connected. With an
    // address, or TCP Fast Open among the flags, this call would connect one.
    only(libc::SYS_sendto, &[int(3, &[libc::MSG_NOSIGNAL as u32]), Null(4)]),
];

/// Waiting for sockets, as the run-time of asynchronous code does.
const EVENTS: &[Call] = &[
    any(libc::SYS_epoll_wait),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_epoll_ctl),
    only(libc::SYS_recvfrom, &[NotStandard(0), int(3, &[0]), Null(4)]),
];

/// How the main thread opens files: to write them, by name, made if they are not there. It reads none.
const TO_WRITE: u32 = (libc::O_WRONLY | libc::O_CREAT | libc::O_CLOEXEC) as u32;
const WRITE_HINTS: u32 = (libc::O_TRUNC | libc::O_EXCL | libc::O_NOFOLLOW) as u32;
/// Neither executable nor of another user's identity.
const FILE_MODE: u32 = 0o666;

const PUNCH_HOLE: u32 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32;
const ZERO_RANGE: u32 = (libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE) as u32;

/// The firmware's variables.
const VCPU: &[Call] = &[only(libc::SYS_pwrite64, &[NotStandard(0)])];

/// To and from disk images; those under others and what is read-only are open for reading only.
const WORKER: &[Call] = &[
    only(libc::SYS_pread64, &[NotStandard(0)]),
    only(libc::SYS_pwrite64, &[NotStandard(0)]),
    // Between a disk image and the guest's memory.
    only(libc::SYS_preadv, &[NotStandard(0)]),
    only(libc::SYS_pwritev, &[NotStandard(0)]),
    any(libc::SYS_fdatasync),
    // Zeroes in a file that keeps its length.
    only(
        libc::SYS_fallocate,
        &[NotStandard(0), int(1, &[PUNCH_HOLE, ZERO_RANGE])],
    ),
    // Where a disk image ends, to see that nobody has cut it.
    only(libc::SYS_lseek, &[NotStandard(0)]),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_epoll_pwait),
];

/// Trace and recording: the end is written over when the disk is full.
const WRITER: &[Call] = &[
    only(libc::SYS_lseek, &[NotStandard(0)]),
    only(libc::SYS_ftruncate, &[NotStandard(0)]),
];

/// Clients are accepted from a socket that listens already; one that answers is told at once.
const DEBUGGER: &[Call] = &[
    any(libc::SYS_accept4),
    only(
        libc::SYS_setsockopt,
        &[int(1, &[libc::IPPROTO_TCP as u32]), int(2, &[libc::TCP_NODELAY as u32])],
    ),
    // The file of snapshots, for each client anew.
    only(
        libc::SYS_fcntl,
        &[NotStandard(0), int(1, &[libc::F_DUPFD_CLOEXEC as u32])],
    ),
    // The Unix socket that listened. Without Landlock this removes any file that the user could.
    any(libc::SYS_unlink),
];

/// Reports and dumps. Without Landlock rename and unlink replace and remove any file that the user could, openat empties it.
const MAIN: &[Call] = &[
    only(
        libc::SYS_openat,
        &[bits(2, WRITE_HINTS, &[TO_WRITE]), bits(3, FILE_MODE, &[0])],
    ),
    only(libc::SYS_lseek, &[NotStandard(0)]),
    only(libc::SYS_ftruncate, &[NotStandard(0)]),
    // A dump gets its name when it is whole.
    any(libc::SYS_rename),
    any(libc::SYS_unlink),
];

/// What one kind does beside, but for its requests to devices.
fn further(kind: ThreadKind) -> &'static [Call] {
    match kind {
        ThreadKind::Coordinator | ThreadKind::Progress | ThreadKind::Signals => &[],
        ThreadKind::Vcpu => VCPU,
        ThreadKind::Worker => WORKER,
        ThreadKind::Writer => WRITER,
        ThreadKind::Debugger => DEBUGGER,
        ThreadKind::Main => MAIN,
    }
}

/// All that threads of this kind may call.
pub(super) fn calls(kind: ThreadKind) -> Vec<&'static Call> {
    let events: &[Call] = match kind {
        ThreadKind::Debugger | ThreadKind::Signals => EVENTS,
        _ => &[],
    };
    EVERYWHERE.iter().chain(events).chain(further(kind)).collect()
}
