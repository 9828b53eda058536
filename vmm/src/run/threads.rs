//! Sandbox profiles of a machine's own threads: what each may ask of the host.
#![forbid(unsafe_code)]

use crate::devices::rtc::TIMER_THREAD;
use crate::kvm::clock;
use crate::kvm::requests::{
    KVM_GET_DEBUGREGS, KVM_GET_LAPIC, KVM_GET_MSRS, KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_VCPU_EVENTS, KVM_GET_XSAVE,
    KVM_KVMCLOCK_CTRL, KVM_RUN, KVM_SET_DEBUGREGS, KVM_SET_GUEST_DEBUG, KVM_SET_IRQCHIP, KVM_SET_LAPIC,
    KVM_SET_MP_STATE, KVM_SET_MSRS, KVM_SET_PIT2, KVM_SET_REGS, KVM_SET_SREGS, KVM_SET_USER_MEMORY_REGION,
    KVM_SET_VCPU_EVENTS, KVM_SET_XCRS, KVM_SET_XSAVE, KVM_X86_SET_MSR_FILTER,
};
use crate::sandbox::{Argument, Call, ThreadProfile};
use crate::storage::WORKER_THREAD;
use crate::{doorbell, irq};

/// Every kind of thread that this crate starts.
pub static THREADS: [&ThreadProfile; 4] = [&VCPU_THREAD, &COORDINATOR_THREAD, &WORKER_THREAD, &TIMER_THREAD];

/// Runs a vCPU and the devices that answer at once.
pub static VCPU_THREAD: ThreadProfile = ThreadProfile {
    // The firmware's variables.
    calls: &[&[Call::only(libc::SYS_pwrite64, &[Argument::NotStandard(0)])]],
    requests: &[PROCESSOR, irq::REQUESTS, doorbell::REQUESTS],
    ..ThreadProfile::new("vCPU")
};

/// Collects the other threads of a machine at a pause.
pub(super) static COORDINATOR_THREAD: ThreadProfile = ThreadProfile {
    requests: &[clock::REQUESTS],
    ..ThreadProfile::new("coordinator")
};

const PROCESSOR: &[u32] = &[
    KVM_RUN,
    // After a pause.
    KVM_KVMCLOCK_CTRL,
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
    // The firmware's variables are taken out of the guest's sight while it writes them.
    KVM_SET_USER_MEMORY_REGION,
    // A reset puts back the state after power-on.
    KVM_SET_SREGS,
    KVM_SET_XCRS,
    KVM_SET_XSAVE,
    KVM_SET_MP_STATE,
    KVM_SET_IRQCHIP,
    KVM_SET_PIT2,
];
