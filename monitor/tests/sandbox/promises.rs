//! The promises of docs/security.md, each as the system calls that would break it, with arguments that do no harm if a
//! call is let through.

use crate::attempts::{Attempt, OWN};

/// Refused for every kind.
const fn never(name: &'static str, number: libc::c_long, arguments: [u64; 5]) -> Attempt {
    except(name, number, arguments, &[])
}

const fn except(
    name: &'static str,
    number: libc::c_long,
    arguments: [u64; 5],
    allowed: &'static [&'static str],
) -> Attempt {
    Attempt {
        name,
        number,
        arguments,
        allowed,
    }
}

/// Refused with each of these arguments at `index`, the others 0 but the first: that is no open descriptor.
macro_rules! each {
    ($number:expr, $index:expr, $($value:expr),+ $(,)?) => {
        [$(never(concat!(stringify!($number), " ", stringify!($value)), $number, {
            let mut arguments = [NOBODY, 0, 0, 0, 0];
            arguments[$index] = $value as u64;
            arguments
        })),+]
    };
}

/// Refused whatever the arguments.
macro_rules! all {
    ($($number:ident),+ $(,)?) => {
        [$(never(stringify!($number), libc::$number, [NOBODY, 0, 0, 0, 0])),+]
    };
}

/// No descriptor, no address that can be read, no process.
const NOBODY: u64 = u64::MAX;
/// No argument of 32 bits reaches so high.
const UPPER: u64 = 1 << 40;
const NOWHERE: u64 = 8;

const START: &[&[Attempt]] = &[&all! {
    SYS_fork, SYS_vfork, SYS_clone, SYS_clone3, SYS_execve, SYS_execveat
}];

const FIOASYNC: u64 = 0x5452;
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;
const F_SETSIG: u64 = 10;

/// Process 1 is none of ours; signal 0 does nothing.
const PROCESSES: &[&[Attempt]] = &[
    &all! {
        SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_pidfd_open, SYS_pidfd_send_signal, SYS_pidfd_getfd,
        SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_process_madvise, SYS_process_mrelease,
        SYS_kcmp, SYS_perf_event_open, SYS_prlimit64, SYS_setpriority, SYS_ioprio_set, SYS_sched_setaffinity,
        SYS_sched_setscheduler, SYS_sched_setparam, SYS_sched_setattr, SYS_migrate_pages, SYS_move_pages,
        SYS_mq_notify, SYS_timer_create, SYS_setpgid, SYS_setsid, SYS_shmget, SYS_semget, SYS_msgget,
        SYS_mq_open
    },
    &[
        never("kill", libc::SYS_kill, [1, 0, 0, 0, 0]),
        never("kill this process", libc::SYS_kill, [0, 0, 0, 0, 0]),
        never("tkill", libc::SYS_tkill, [1, 0, 0, 0, 0]),
        never(
            "tgkill of another process",
            libc::SYS_tgkill,
            [NOBODY, NOBODY, 34, 0, 0],
        ),
        never(
            "tgkill of another process, abort",
            libc::SYS_tgkill,
            [NOBODY, NOBODY, 6, 0, 0],
        ),
        never(
            "another signal to this process",
            libc::SYS_tgkill,
            [OWN, NOBODY, 19, 0, 0],
        ),
    ],
    &each![
        libc::SYS_fcntl,
        1,
        libc::F_SETOWN,
        libc::F_GETOWN,
        15, // F_SETOWN_EX
        F_SETSIG,
        UPPER | F_SETSIG,
        libc::F_SETFL,
        libc::F_SETLEASE,
        libc::F_NOTIFY,
        libc::F_SETPIPE_SZ,
        libc::F_ADD_SEALS,
        libc::F_SETLK,
        libc::F_SETLKW,
        libc::F_OFD_SETLK,
        libc::F_DUPFD,
        libc::F_DUPFD_CLOEXEC,
    ],
    &each![libc::SYS_ioctl, 1, FIOASYNC, FIOSETOWN, SIOCSPGRP],
];

const NETWORK: &[&[Attempt]] = &[
    &all! {
        SYS_socket, SYS_socketpair, SYS_connect, SYS_bind, SYS_listen, SYS_accept, SYS_getsockopt,
        SYS_shutdown, SYS_getpeername, SYS_sendmsg, SYS_sendmmsg, SYS_recvmsg, SYS_recvmmsg
    },
    &[
        never(
            "send to an address",
            libc::SYS_sendto,
            [NOBODY, NOWHERE, 0, libc::MSG_NOSIGNAL as u64, NOWHERE],
        ),
        never(
            "send to an address that is no int",
            libc::SYS_sendto,
            [NOBODY, NOWHERE, 0, libc::MSG_NOSIGNAL as u64, UPPER],
        ),
        never(
            "connect by sending",
            libc::SYS_sendto,
            [NOBODY, NOWHERE, 0, (libc::MSG_NOSIGNAL | libc::MSG_FASTOPEN) as u64, 0],
        ),
        except("accept", libc::SYS_accept4, [NOBODY, 0, 0, 0, 0], &["debugger"]),
        except(
            "send small packets at once",
            libc::SYS_setsockopt,
            [NOBODY, libc::IPPROTO_TCP as u64, libc::TCP_NODELAY as u64, 0, 0],
            &["debugger"],
        ),
        never(
            "filter packets",
            libc::SYS_setsockopt,
            [NOBODY, libc::SOL_SOCKET as u64, libc::SO_ATTACH_FILTER as u64, 0, 0],
        ),
        never(
            "repair a connection",
            libc::SYS_setsockopt,
            [NOBODY, libc::IPPROTO_TCP as u64, 19, 0, 0],
        ),
        never(
            "an option of another level with the same number",
            libc::SYS_setsockopt,
            [NOBODY, libc::SOL_SOCKET as u64, libc::TCP_NODELAY as u64, 0, 0],
        ),
        never(
            "receive and leave it there",
            libc::SYS_recvfrom,
            [NOBODY, NOWHERE, 0, libc::MSG_PEEK as u64, 0],
        ),
        never(
            "receive and ask from whom",
            libc::SYS_recvfrom,
            [NOBODY, NOWHERE, 0, 0, NOWHERE],
        ),
    ],
];

const PAGE: u64 = 4096;
const NO_EXEC: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
const ANONYMOUS: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;

const MEMORY: &[&[Attempt]] = &[
    &all! {
        SYS_pkey_mprotect, SYS_shmat, SYS_remap_file_pages, SYS_memfd_create, SYS_personality, SYS_modify_ldt,
        SYS_userfaultfd, SYS_msync, SYS_mlockall, SYS_mbind
    },
    &[
        never(
            "map executable",
            libc::SYS_mmap,
            [0, PAGE, libc::PROT_EXEC as u64, ANONYMOUS, NOBODY],
        ),
        never(
            "map writable and executable",
            libc::SYS_mmap,
            [0, PAGE, 7, ANONYMOUS, NOBODY],
        ),
        never(
            "map a file",
            libc::SYS_mmap,
            [0, PAGE, NO_EXEC, libc::MAP_PRIVATE as u64, NOBODY],
        ),
        never(
            "share a file",
            libc::SYS_mmap,
            [0, PAGE, NO_EXEC, libc::MAP_SHARED as u64, NOBODY],
        ),
        never(
            "share memory",
            libc::SYS_mmap,
            [
                0,
                PAGE,
                NO_EXEC,
                (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u64,
                NOBODY,
            ],
        ),
        never(
            "map over what is there",
            libc::SYS_mmap,
            [1, PAGE, NO_EXEC, ANONYMOUS | libc::MAP_FIXED as u64, NOBODY],
        ),
        never(
            "lock memory",
            libc::SYS_mmap,
            [0, PAGE, NO_EXEC, ANONYMOUS | libc::MAP_LOCKED as u64, NOBODY],
        ),
        never("make executable", libc::SYS_mprotect, [1, PAGE, 5, 0, 0]),
        never("make writable and executable", libc::SYS_mprotect, [1, PAGE, 7, 0, 0]),
        never("move memory to a place", libc::SYS_mremap, [1, PAGE, PAGE, 3, 0]),
        never("leave memory behind", libc::SYS_mremap, [1, PAGE, PAGE, 5, 0]),
    ],
    &each![
        libc::SYS_madvise,
        2,
        libc::MADV_HWPOISON,
        libc::MADV_SOFT_OFFLINE,
        libc::MADV_MERGEABLE,
        libc::MADV_DOFORK,
        libc::MADV_REMOVE,
    ],
];

/// A request of linux/kvm.h.
const fn kvm(direction: u64, number: u64, size: u64) -> u64 {
    direction << 30 | size << 16 | 0xae00 | number
}

const fn request(name: &'static str, number: u64, allowed: &'static [&'static str]) -> Attempt {
    except(name, libc::SYS_ioctl, [NOBODY, number, 0, 0, 0], allowed)
}

const VCPU: &[&str] = &["vCPU"];
const DEVICE: &[&str] = &["vCPU", "device worker"];
const LINE: &[&str] = &["vCPU", "device worker", "clock timer"];
const TERMINAL: &[&str] = &["main", "progress"];

const DEVICES: &[&[Attempt]] = &[&[
    request("KVM_CREATE_VM", kvm(0, 0x01, 0), &[]),
    request("KVM_CREATE_VCPU", kvm(0, 0x41, 0), &[]),
    request("KVM_CREATE_IRQCHIP", kvm(0, 0x60, 0), &[]),
    request("KVM_CREATE_DEVICE", kvm(3, 0xe0, 12), &[]),
    request("KVM_CREATE_GUEST_MEMFD", kvm(3, 0xd4, 64), &[]),
    request("KVM_ENABLE_CAP", kvm(1, 0xa3, 104), &[]),
    request("KVM_IRQFD", kvm(1, 0x76, 32), &[]),
    request("KVM_SET_CPUID2", kvm(1, 0x90, 8), &[]),
    request("KVM_ASSIGN_PCI_DEVICE", kvm(2, 0x69, 64), &[]),
    request("KVM_MEMORY_ENCRYPT_OP", kvm(3, 0xba, 8), &[]),
    request("KVM_CREATE_VM behind 32 bits", UPPER | kvm(0, 0x01, 0), &[]),
    request("KVM_RUN", kvm(0, 0x80, 0), VCPU),
    request("KVM_SET_REGS", kvm(1, 0x82, 144), VCPU),
    request("KVM_SET_SREGS", kvm(1, 0x84, 312), VCPU),
    request("KVM_SET_MSRS", kvm(1, 0x89, 8), VCPU),
    request("KVM_SET_USER_MEMORY_REGION", kvm(1, 0x46, 32), VCPU),
    request("KVM_X86_SET_MSR_FILTER", kvm(1, 0xc6, 392), VCPU),
    request("KVM_SET_GSI_ROUTING", kvm(1, 0x6a, 8), VCPU),
    request("KVM_IRQ_LINE", kvm(1, 0x61, 8), LINE),
    request("KVM_IOEVENTFD", kvm(1, 0x79, 64), DEVICE),
    request("type at the terminal (TIOCSTI)", 0x5412, &[]),
    request("TIOCSTI behind 32 bits", UPPER | 0x5412, &[]),
    request("paste at the console (TIOCLINUX)", 0x541c, &[]),
    request("change the terminal (TCSETS)", 0x5402, &[]),
    request("take the terminal (TIOCSCTTY)", 0x540e, &[]),
    request("redirect the console (TIOCCONS)", 0x541d, &[]),
    request("look at the terminal (TCGETS)", 0x5401, TERMINAL),
    request("measure the terminal (TIOCGWINSZ)", 0x5413, TERMINAL),
    request("discard blocks (BLKDISCARD)", 0x1277, &[]),
    request("partitions (BLKPG)", 0x1269, &[]),
    request("a SCSI command (SG_IO)", 0x2285, &[]),
    request("attributes of a file (FS_IOC_SETFLAGS)", 0x4008_6602, &[]),
    request("share blocks (FICLONE)", 0x4004_9409, &[]),
    request("not to wait (FIONBIO)", 0x5421, &[]),
]];

const AT_FDCWD: u64 = libc::AT_FDCWD.cast_unsigned() as u64;
const CREATE: u64 = (libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC) as u64;

/// A file whose name cannot be read.
const fn open(name: &'static str, flags: u64, mode: u64, allowed: &'static [&'static str]) -> Attempt {
    except(name, libc::SYS_openat, [AT_FDCWD, NOWHERE, flags, mode, 0], allowed)
}

const MAIN: &[&str] = &["main"];
const NAMING: &[&str] = &["main", "debugger"];

const FILES: &[&[Attempt]] = &[
    &all! {
        SYS_open, SYS_openat2, SYS_creat, SYS_open_by_handle_at, SYS_mkdir, SYS_mkdirat, SYS_rmdir, SYS_link,
        SYS_linkat, SYS_symlink, SYS_symlinkat, SYS_mknod, SYS_mknodat, SYS_truncate, SYS_chmod, SYS_fchmod,
        SYS_fchmodat, SYS_chown, SYS_fchown, SYS_fchownat, SYS_lchown, SYS_setxattr, SYS_fsetxattr,
        SYS_utimensat, SYS_chdir, SYS_fchdir, SYS_chroot, SYS_pivot_root, SYS_mount, SYS_umount2,
        SYS_move_mount, SYS_open_tree, SYS_fsopen, SYS_stat, SYS_lstat, SYS_newfstatat, SYS_statx, SYS_access,
        SYS_faccessat, SYS_faccessat2, SYS_readlink, SYS_readlinkat, SYS_getdents64, SYS_getcwd, SYS_getxattr,
        SYS_statfs, SYS_inotify_add_watch, SYS_fanotify_init, SYS_copy_file_range, SYS_sendfile, SYS_splice,
        SYS_tee, SYS_vmsplice
    },
    &[
        open("read a file", libc::O_CLOEXEC as u64, 0, &[]),
        open("read and write a file", CREATE ^ 3, 0o666, &[]),
        open("look up a file", (libc::O_PATH | libc::O_CLOEXEC) as u64, 0, &[]),
        open("append to a file", CREATE | libc::O_APPEND as u64, 0o666, &[]),
        open(
            "write a file that has to be there",
            CREATE ^ libc::O_CREAT as u64,
            0,
            &[],
        ),
        open("make an executable", CREATE, 0o777, &[]),
        open("make a program of another identity", CREATE, 0o4666, &[]),
        open("create a file", CREATE, 0o666, MAIN),
        except("rename", libc::SYS_rename, [NOWHERE, NOWHERE, 0, 0, 0], MAIN),
        except("remove", libc::SYS_unlink, [NOWHERE, 0, 0, 0, 0], NAMING),
        except(
            "cut",
            libc::SYS_ftruncate,
            [NOBODY, 0, 0, 0, 0],
            &["main", "file writer"],
        ),
        except(
            "punch a hole",
            libc::SYS_fallocate,
            [NOBODY, 3, 0, 0, 0],
            &["device worker"],
        ),
        never("move the rest of a file", libc::SYS_fallocate, [NOBODY, 8, 0, 0, 0]),
        never("reserve room", libc::SYS_fallocate, [NOBODY, 0, 0, 0, 0]),
    ],
];

/// The standard streams of the child are at their ends or cannot do this.
const STREAMS: &[&[Attempt]] = &[
    &all! {
        SYS_dup, SYS_dup2, SYS_dup3, SYS_close_range, SYS_readv, SYS_preadv2, SYS_pwritev2
    },
    &[
        never("read standard input", libc::SYS_read, [0, NOWHERE, 0, 0, 0]),
        never(
            "read standard input behind 32 bits",
            libc::SYS_read,
            [UPPER, NOWHERE, 0, 0, 0],
        ),
        never(
            "read the terminal by standard error",
            libc::SYS_read,
            [2, NOWHERE, 0, 0, 0],
        ),
        never("receive from standard input", libc::SYS_recvfrom, [0, NOWHERE, 0, 0, 0]),
        never(
            "read standard input at a place",
            libc::SYS_pread64,
            [0, NOWHERE, 0, 0, 0],
        ),
        never(
            "read standard input into pieces",
            libc::SYS_preadv,
            [0, NOWHERE, 0, 0, 0],
        ),
        never("write over standard output", libc::SYS_pwrite64, [1, NOWHERE, 0, 0, 0]),
        never(
            "write pieces over standard output",
            libc::SYS_pwritev,
            [1, NOWHERE, 0, 0, 0],
        ),
        never("go back in standard output", libc::SYS_lseek, [1, 0, 1, 0, 0]),
        never("cut standard output", libc::SYS_ftruncate, [1, NOBODY, 0, 0, 0]),
        never(
            "punch a hole into standard output",
            libc::SYS_fallocate,
            [1, 3, 0, 0, 0],
        ),
        never(
            "double standard input",
            libc::SYS_fcntl,
            [0, libc::F_DUPFD_CLOEXEC as u64, 0, 0, 0],
        ),
    ],
];

const KERNEL: &[&[Attempt]] = &[
    &all! {
        SYS_bpf, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, SYS_io_setup, SYS_io_submit,
        SYS_keyctl, SYS_add_key, SYS_request_key, SYS_seccomp, SYS_landlock_restrict_self, SYS_unshare,
        SYS_setns, SYS_setuid, SYS_setresuid, SYS_setgid, SYS_setgroups, SYS_capset, SYS_reboot,
        SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_kexec_file_load, SYS_swapon,
        SYS_swapoff, SYS_sethostname, SYS_settimeofday, SYS_clock_settime, SYS_clock_adjtime, SYS_adjtimex,
        SYS_acct, SYS_quotactl, SYS_syslog, SYS_iopl, SYS_ioperm, SYS_arch_prctl, SYS_uselib, SYS_futex_waitv,
        SYS_get_robust_list, SYS_set_mempolicy, SYS_membarrier, SYS_rseq, SYS_signalfd4
    },
    &each![
        libc::SYS_prctl,
        0,
        libc::PR_SET_PDEATHSIG,
        libc::PR_SET_DUMPABLE,
        libc::PR_SET_NAME,
        libc::PR_SET_SECCOMP,
        libc::PR_SET_PTRACER,
        libc::PR_CAP_AMBIENT,
        libc::PR_SET_MM,
    ],
    &[
        never(
            "another name than that of memory",
            libc::SYS_prctl,
            [0x5356_4d41, 1, 0, 0, 0],
        ),
        never(
            "handle a violation",
            libc::SYS_rt_sigaction,
            [libc::SIGSYS as u64, 0, 0, 8, 0],
        ),
        never(
            "handle the end",
            libc::SYS_rt_sigaction,
            [libc::SIGTERM as u64, 0, 0, 8, 0],
        ),
        never("wait for many files", libc::SYS_poll, [NOWHERE, 2, 0, 0, 0]),
        never(
            "x32: open",
            0x4000_0000 | libc::SYS_openat,
            [AT_FDCWD, NOWHERE, CREATE, 0o666, 0],
        ),
        never("x32: write", 0x4000_0000 | libc::SYS_write, [NOBODY, 0, 0, 0, 0]),
    ],
    // Of operations on futexes the four that only wait and wake are allowed.
    &each![
        libc::SYS_futex,
        1,
        libc::FUTEX_FD,
        libc::FUTEX_REQUEUE,
        libc::FUTEX_CMP_REQUEUE,
        libc::FUTEX_WAKE_OP,
        libc::FUTEX_LOCK_PI | libc::FUTEX_PRIVATE_FLAG,
        libc::FUTEX_UNLOCK_PI | libc::FUTEX_PRIVATE_FLAG,
        libc::FUTEX_TRYLOCK_PI,
        libc::FUTEX_WAIT_REQUEUE_PI,
        libc::FUTEX_CMP_REQUEUE_PI,
    ],
];

/// The promises of docs/security.md, with what would break them.
pub(crate) const PROMISES: [(&str, &[&[Attempt]]); 8] = [
    ("starts nothing", START),
    ("reaches no other process", PROCESSES),
    ("connects to nothing", NETWORK),
    ("gets no executable or shared memory", MEMORY),
    ("asks devices for its own work only", DEVICES),
    ("reads no files and changes only its own", FILES),
    ("only writes to the standard streams", STREAMS),
    ("asks the kernel for nothing else", KERNEL),
];
