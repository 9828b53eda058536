//! What this KVM can do. It is asked once; the answer decides the way of stepping over and is shown to the user.
//!
//! Talks to KVM. What KVM does not tell is tried elsewhere, on a throw-away machine ([`crate::run::probe_step_over`]).
#![forbid(unsafe_code)]

use kvm_bindings::{
    KVM_CAP_SET_GUEST_DEBUG2, KVM_CAP_SYNC_REGS, KVM_CAP_X86_MSR_FILTER, KVM_CAP_X86_USER_SPACE_MSR,
    KVM_GUESTDBG_BLOCKIRQ, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS,
};
use kvm_ioctls::{Cap, Kvm};

/// Which KVM this seems to be. KVM does not say; this is told from what it supports and is for messages only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// `kvm_intel` on a processor with VMX.
    Intel,
    /// `kvm_amd` on a processor with SVM.
    Amd,
    /// Neither module is loaded, or the processor shows neither extension: a KVM without hardware virtualization (such
    /// as PVM), which interprets much of the guest and knows fewer instructions.
    Other,
}

impl std::fmt::Display for Flavour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Intel => "Intel VMX (kvm_intel)",
            Self::Amd => "AMD SVM (kvm_amd)",
            Self::Other => "without hardware virtualization (such as PVM)",
        })
    }
}

/// What KVM says it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Each is a capability of its own.
pub struct Capabilities {
    /// Which KVM this seems to be.
    pub flavour: Flavour,
    /// Registers and special registers come with KVM_RUN (`KVM_CAP_SYNC_REGS`), so that a hit needs no request for them.
    pub sync_registers: bool,
    /// MSR writes can be filtered and reported (`KVM_CAP_X86_MSR_FILTER`, `KVM_CAP_X86_USER_SPACE_MSR`).
    pub msr_filter: bool,
    /// Accesses to MSRs that KVM would refuse come to user space (`KVM_CAP_X86_USER_SPACE_MSR`).
    pub unknown_msrs: bool,
    /// `KVM_GUESTDBG_*` flags that `KVM_SET_GUEST_DEBUG` takes; 0 if this KVM does not say (before Linux 5.13).
    pub guest_debug_flags: u32,
    /// A single step can hold interrupts back (`KVM_GUESTDBG_BLOCKIRQ`).
    pub block_interrupts: bool,
    /// Interrupt controllers in the kernel.
    pub irqchip: bool,
    /// PIT in the kernel.
    pub pit: bool,
    /// Interrupts and doorbells by eventfd.
    pub irqfd: bool,
    /// See [`Capabilities::irqfd`].
    pub ioeventfd: bool,
    /// The TSC deadline timer.
    pub tsc_deadline: bool,
    /// vCPUs that KVM recommends at most for a machine.
    pub recommended_cpus: u32,
    /// vCPUs that KVM allows at most.
    pub maximum_cpus: u32,
}

impl Capabilities {
    /// Asks KVM. Cheap.
    #[must_use]
    pub fn of(kvm: &Kvm) -> Self {
        let raw = |capability: u32| u32::try_from(kvm.check_extension_raw(u64::from(capability))).unwrap_or(0);
        let sync = raw(KVM_CAP_SYNC_REGS);
        let wanted = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
        let guest_debug_flags = raw(KVM_CAP_SET_GUEST_DEBUG2);
        Self {
            flavour: flavour(),
            sync_registers: sync & wanted == wanted,
            unknown_msrs: raw(KVM_CAP_X86_USER_SPACE_MSR) != 0,
            msr_filter: raw(KVM_CAP_X86_MSR_FILTER) != 0 && raw(KVM_CAP_X86_USER_SPACE_MSR) != 0,
            guest_debug_flags,
            block_interrupts: guest_debug_flags & KVM_GUESTDBG_BLOCKIRQ != 0,
            irqchip: kvm.check_extension(Cap::Irqchip),
            pit: kvm.check_extension(Cap::Pit2),
            irqfd: kvm.check_extension(Cap::Irqfd),
            ioeventfd: kvm.check_extension(Cap::Ioeventfd),
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            recommended_cpus: kvm.get_nr_vcpus() as u32,
            maximum_cpus: kvm.get_max_vcpus() as u32,
        }
    }
}

fn flavour() -> Flavour {
    let module = |name: &str| std::path::Path::new("/sys/module").join(name).exists();
    // The modules may be built in; then the processor's own word has to do.
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flag = |name: &str| {
        flags
            .lines()
            .find(|line| line.starts_with("flags"))
            .is_some_and(|line| line.split_whitespace().any(|word| word == name))
    };
    if module("kvm_amd") || flag("svm") {
        Flavour::Amd
    } else if module("kvm_intel") || flag("vmx") {
        Flavour::Intel
    } else {
        Flavour::Other
    }
}
