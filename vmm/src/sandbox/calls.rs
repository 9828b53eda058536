//! The system calls that every thread may make, and groups of calls that several kinds of thread need in addition.
#![forbid(unsafe_code)]

use super::profile::Argument::{NotStandard, Null, ThisProcess};
use super::profile::{Argument, Call};

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
pub(super) const EVERYWHERE: &[Call] = &[
    // The standard streams are only written to: nobody reads along what is typed, or changes what has been printed. What
    // is open beside them are the files and sockets of the run, and what the user has handed down.
    Call::only(libc::SYS_read, &[NotStandard(0)]),
    Call::any(libc::SYS_write),
    Call::any(libc::SYS_writev),
    Call::any(libc::SYS_close),
    // The language's library looks before it closes a file whether it is open, in builds with debug assertions.
    Call::only(libc::SYS_fcntl, &[Argument::int(1, &[libc::F_GETFD as u32])]),
    // Neither priority inheritance nor requeuing, which nobody uses here.
    Call::only(libc::SYS_futex, &[Argument::bits(1, FUTEX_HINTS, FUTEX_OPERATIONS)]),
    // Memory that is this process's alone. None is ever executable.
    Call::any(libc::SYS_brk),
    Call::only(
        libc::SYS_mmap,
        &[
            Argument::bits(2, READ_WRITE, &[0]),
            Argument::bits(3, MAP_HINTS, &[OWN_MEMORY]),
        ],
    ),
    Call::only(libc::SYS_mprotect, &[Argument::bits(2, READ_WRITE, &[0])]),
    Call::any(libc::SYS_munmap),
    Call::only(libc::SYS_mremap, &[Argument::int(3, &[libc::MREMAP_MAYMOVE as u32])]),
    // Others take pages of the host out of use, if root asks.
    Call::only(
        libc::SYS_madvise,
        &[Argument::int(
            2,
            &[
                libc::MADV_DONTNEED as u32,
                libc::MADV_FREE as u32,
                libc::MADV_HUGEPAGE as u32,
            ],
        )],
    ),
    // New glibc names its memory if the user has tuned it so. The other requests change what the process is to the kernel.
    Call::only(
        libc::SYS_prctl,
        &[
            Argument::int(0, &[PR_SET_VMA]),
            Argument::int(1, &[PR_SET_VMA_ANON_NAME]),
        ],
    ),
    Call::any(libc::SYS_sched_yield),
    // Where the host's clock is none that can be read without a system call.
    Call::any(libc::SYS_clock_gettime),
    Call::any(libc::SYS_clock_nanosleep),
    Call::any(libc::SYS_nanosleep),
    Call::any(libc::SYS_restart_syscall),
    Call::any(libc::SYS_getrandom),
    Call::any(libc::SYS_getpid),
    Call::any(libc::SYS_gettid),
    // Threads of this process only, to take a vCPU out of the guest and to abort.
    Call::only(
        libc::SYS_tgkill,
        &[ThisProcess(0), Argument::int(2, &[KICK, libc::SIGABRT as u32])],
    ),
    Call::any(libc::SYS_sigaltstack),
    // A crash gets its message and its core file. Not SIGSYS: who replaced its handler would be refused in silence.
    Call::only(
        libc::SYS_rt_sigaction,
        &[Argument::int(
            0,
            &[libc::SIGSEGV as u32, libc::SIGBUS as u32, libc::SIGABRT as u32],
        )],
    ),
    Call::any(libc::SYS_rt_sigprocmask),
    Call::any(libc::SYS_rt_sigreturn),
    // The message of a violation waits a moment for who reads it, not longer.
    Call::only(libc::SYS_poll, &[Argument::int(1, &[1])]),
    Call::any(libc::SYS_exit),
    Call::any(libc::SYS_exit_group),
    // A signal's handler, on whatever thread it comes, may wake another thread by a socket that is connected. With an
    // address, or TCP Fast Open among the flags, this call would connect one.
    Call::only(
        libc::SYS_sendto,
        &[Argument::int(3, &[libc::MSG_NOSIGNAL as u32]), Null(4)],
    ),
];

/// Waiting for sockets, as the run-time of asynchronous code does.
pub const EVENTS: &[Call] = &[
    Call::any(libc::SYS_epoll_wait),
    Call::any(libc::SYS_epoll_pwait),
    Call::any(libc::SYS_epoll_ctl),
    Call::only(libc::SYS_recvfrom, &[NotStandard(0), Argument::int(3, &[0]), Null(4)]),
];
