//! The system calls of each kind of thread, as a seccomp program (Linux `Documentation/userspace-api/seccomp_filter.rst`).
//!
//! The lists come from reading the code and from strace on runs to every kind of end. A thread cannot open, execute,
//! connect or start anything (only the main one opens files, for report and dump), and nobody makes memory executable.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use kvm_bindings::{
    kvm_debugregs, kvm_guest_debug, kvm_ioeventfd, kvm_irq_level, kvm_irq_routing, kvm_irqchip, kvm_lapic_state,
    kvm_mp_state, kvm_msr_filter, kvm_msrs, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_userspace_memory_region,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::ThreadKind;
use crate::error::Error;

/// What the language's and C's run-time library do on any thread: memory, locks, sleeping, signals, messages, the end.
const EVERYWHERE: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_futex,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // The signal handlers of the signal thread's run-time wake it by a socket that exists already.
    libc::SYS_sendto,
    libc::SYS_recvfrom,
];

/// Further calls of one kind, whatever their arguments.
fn further(kind: ThreadKind) -> &'static [libc::c_long] {
    match kind {
        ThreadKind::Coordinator | ThreadKind::Progress => &[],
        // The firmware's variables.
        ThreadKind::Vcpu => &[libc::SYS_pwrite64],
        ThreadKind::Worker => &[
            libc::SYS_pread64,
            libc::SYS_pwrite64,
            // Between a disk image and the guest's memory.
            libc::SYS_preadv,
            libc::SYS_pwritev,
            libc::SYS_fdatasync,
            libc::SYS_fallocate,
            // Where a disk image ends, to see that nobody has cut it.
            libc::SYS_lseek,
            libc::SYS_epoll_wait,
            libc::SYS_epoll_pwait,
        ],
        ThreadKind::Writer => &[libc::SYS_lseek, libc::SYS_ftruncate, libc::SYS_fstat, libc::SYS_statx],
        // A socket is accepted, its name asked for and its behaviour set; the one that listened is removed at the end.
        ThreadKind::Debugger => &[
            libc::SYS_epoll_wait,
            libc::SYS_epoll_pwait,
            libc::SYS_epoll_ctl,
            libc::SYS_accept4,
            libc::SYS_setsockopt,
            libc::SYS_getsockopt,
            libc::SYS_shutdown,
            libc::SYS_unlink,
        ],
        ThreadKind::Signals => &[libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_ctl],
        ThreadKind::Main => &[
            libc::SYS_openat,
            libc::SYS_lseek,
            libc::SYS_ftruncate,
            libc::SYS_fstat,
            libc::SYS_statx,
            libc::SYS_epoll_ctl,
            // A dump gets its name when it is whole.
            libc::SYS_rename,
            libc::SYS_unlink,
        ],
    }
}

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// The number of a KVM request (asm-generic/ioctl.h: direction, size of the argument, type AEh, number).
const fn kvm(direction: u32, number: u32, size: usize) -> u32 {
    direction << 30 | (size as u32) << 16 | 0xae << 8 | number
}

/// Requests of linux/kvm.h.
const KVM_SET_USER_MEMORY_REGION: u32 = kvm(WRITE, 0x46, size_of::<kvm_userspace_memory_region>());
/// For historical reasons a request to read as well.
const KVM_SET_IRQCHIP: u32 = kvm(READ, 0x63, size_of::<kvm_irqchip>());
const KVM_IRQ_LINE: u32 = kvm(WRITE, 0x61, size_of::<kvm_irq_level>());
const KVM_SET_GSI_ROUTING: u32 = kvm(WRITE, 0x6a, size_of::<kvm_irq_routing>());
const KVM_IOEVENTFD: u32 = kvm(WRITE, 0x79, size_of::<kvm_ioeventfd>());
const KVM_RUN: u32 = kvm(NONE, 0x80, 0);
const KVM_GET_REGS: u32 = kvm(READ, 0x81, size_of::<kvm_regs>());
const KVM_SET_REGS: u32 = kvm(WRITE, 0x82, size_of::<kvm_regs>());
const KVM_GET_SREGS: u32 = kvm(READ, 0x83, size_of::<kvm_sregs>());
const KVM_SET_SREGS: u32 = kvm(WRITE, 0x84, size_of::<kvm_sregs>());
const KVM_GET_MSRS: u32 = kvm(READ | WRITE, 0x88, size_of::<kvm_msrs>());
const KVM_SET_MSRS: u32 = kvm(WRITE, 0x89, size_of::<kvm_msrs>());
const KVM_GET_LAPIC: u32 = kvm(READ, 0x8e, size_of::<kvm_lapic_state>());
const KVM_SET_LAPIC: u32 = kvm(WRITE, 0x8f, size_of::<kvm_lapic_state>());
const KVM_SET_MP_STATE: u32 = kvm(WRITE, 0x99, size_of::<kvm_mp_state>());
const KVM_GET_VCPU_EVENTS: u32 = kvm(READ, 0x9f, size_of::<kvm_vcpu_events>());
const KVM_SET_VCPU_EVENTS: u32 = kvm(WRITE, 0xa0, size_of::<kvm_vcpu_events>());
const KVM_SET_PIT2: u32 = kvm(WRITE, 0xa0, size_of::<kvm_pit_state2>());
const KVM_SET_XCRS: u32 = kvm(WRITE, 0xa7, size_of::<kvm_xcrs>());
const KVM_GET_XSAVE: u32 = kvm(READ, 0xa4, size_of::<kvm_xsave>());
const KVM_SET_XSAVE: u32 = kvm(WRITE, 0xa5, size_of::<kvm_xsave>());
const KVM_SET_GUEST_DEBUG: u32 = kvm(WRITE, 0x9b, size_of::<kvm_guest_debug>());
const KVM_GET_DEBUGREGS: u32 = kvm(READ, 0xa1, size_of::<kvm_debugregs>());
const KVM_SET_DEBUGREGS: u32 = kvm(WRITE, 0xa2, size_of::<kvm_debugregs>());
const KVM_X86_SET_MSR_FILTER: u32 = kvm(WRITE, 0xc6, size_of::<kvm_msr_filter>());

/// The device requests of one kind.
fn requests(kind: ThreadKind) -> &'static [u32] {
    match kind {
        ThreadKind::Vcpu => &[
            KVM_RUN,
            KVM_GET_REGS,
            KVM_SET_REGS,
            KVM_GET_SREGS,
            // A dump shows these registers, too.
            KVM_GET_XSAVE,
            KVM_GET_MSRS,
            KVM_SET_MSRS,
            KVM_SET_GUEST_DEBUG,
            KVM_GET_DEBUGREGS,
            KVM_SET_DEBUGREGS,
            // A step first takes back an interrupt that is on its way.
            KVM_GET_VCPU_EVENTS,
            KVM_SET_VCPU_EVENTS,
            KVM_GET_LAPIC,
            KVM_SET_LAPIC,
            KVM_X86_SET_MSR_FILTER,
            KVM_IRQ_LINE,
            KVM_SET_GSI_ROUTING,
            KVM_IOEVENTFD,
            // The firmware's variables are taken out of the guest's sight while it writes them.
            KVM_SET_USER_MEMORY_REGION,
            // A reset puts back the state after power-on.
            KVM_SET_SREGS,
            KVM_SET_XCRS,
            KVM_SET_XSAVE,
            KVM_SET_MP_STATE,
            KVM_SET_IRQCHIP,
            KVM_SET_PIT2,
        ],
        // A controller gives its doorbells back on whatever thread it ends. Its worker sets the level of its pin.
        ThreadKind::Worker => &[KVM_IOEVENTFD, KVM_IRQ_LINE],
        ThreadKind::Coordinator => &[KVM_IOEVENTFD],
        ThreadKind::Main => &[KVM_IOEVENTFD, libc::TCGETS as u32, libc::TIOCGWINSZ as u32],
        ThreadKind::Progress => &[libc::TCGETS as u32, libc::TIOCGWINSZ as u32],
        ThreadKind::Writer | ThreadKind::Debugger | ThreadKind::Signals => &[],
    }
}

/// The signals whose handling a thread may change: those by which a crash gets its message and its core file.
const CRASH_SIGNALS: [libc::c_int; 3] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT];

/// One allowed value of argument `index`, as a rule; `mask` says which bits count.
fn argument(index: u8, mask: u32, value: u32) -> Result<SeccompRule, seccompiler::BackendError> {
    let operator = SeccompCmpOp::MaskedEq(u64::from(mask));
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, u64::from(value))?;
    SeccompRule::new(vec![condition])
}

fn filter(kind: ThreadKind) -> Result<SeccompFilter, seccompiler::BackendError> {
    // A call without rules is allowed whatever its arguments.
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = EVERYWHERE
        .iter()
        .chain(further(kind))
        .map(|&call| (call, Vec::new()))
        .collect();
    let executable = libc::PROT_EXEC as u32;
    rules.insert(libc::SYS_mmap, vec![argument(2, executable, 0)?]);
    rules.insert(libc::SYS_mprotect, vec![argument(2, executable, 0)?]);
    // Threads of this process only.
    rules.insert(libc::SYS_tgkill, vec![argument(0, u32::MAX, std::process::id())?]);
    let crash = CRASH_SIGNALS
        .iter()
        .map(|&signal| argument(0, u32::MAX, signal.unsigned_abs()));
    rules.insert(libc::SYS_rt_sigaction, crash.collect::<Result<_, _>>()?);
    let requests = requests(kind).iter().map(|&request| argument(1, u32::MAX, request));
    let requests: Vec<_> = requests.collect::<Result<_, _>>()?;
    if !requests.is_empty() {
        rules.insert(libc::SYS_ioctl, requests);
    }
    SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, TargetArch::x86_64)
}

/// The filter of a kind of thread, ready to be installed.
pub(super) fn program(kind: ThreadKind) -> Result<BpfProgram, Error> {
    filter(kind)
        .and_then(BpfProgram::try_from)
        .map_err(|error| Error::Sandbox {
            action: "build a system call filter",
            reason: error.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_of_the_kernels_header() {
        // As strace and the kernel's documentation show them.
        assert_eq!(KVM_RUN, 0xae80);
        assert_eq!(KVM_GET_REGS, 0x8090_ae81);
        assert_eq!(KVM_SET_GUEST_DEBUG, 0x4048_ae9b);
        assert_eq!(KVM_IOEVENTFD, 0x4040_ae79);
        assert_eq!(KVM_GET_XSAVE, 0x9000_aea4);
        assert_eq!(KVM_SET_IRQCHIP, 0x8208_ae63);
        assert_eq!(KVM_SET_LAPIC, 0x4400_ae8f);
        assert_eq!(KVM_SET_PIT2, 0x4070_aea0);
        assert_eq!(KVM_SET_VCPU_EVENTS, 0x4040_aea0);
        assert_eq!(KVM_SET_XCRS, 0x4188_aea7);
        assert_eq!(KVM_SET_USER_MEMORY_REGION, 0x4020_ae46);
    }

    #[test]
    fn every_kind_has_a_program() {
        for kind in ThreadKind::ALL {
            assert!(!program(kind).unwrap().is_empty(), "{kind:?}");
        }
    }
}
