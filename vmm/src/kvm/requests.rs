//! Numbers of KVM's ioctl requests (linux/kvm.h), for the system call filters of the threads that make them.
#![forbid(unsafe_code)]

use kvm_bindings::{
    kvm_clock_data, kvm_debugregs, kvm_guest_debug, kvm_ioeventfd, kvm_irq_level, kvm_irq_routing, kvm_irqchip,
    kvm_lapic_state, kvm_mp_state, kvm_msr_filter, kvm_msrs, kvm_pit_state2, kvm_regs, kvm_sregs,
    kvm_userspace_memory_region, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// The number of a KVM request (asm-generic/ioctl.h: direction, size of the argument, type AEh, number).
const fn kvm(direction: u32, number: u32, size: usize) -> u32 {
    direction << 30 | (size as u32) << 16 | 0xae << 8 | number
}

/// Requests of linux/kvm.h.
pub(crate) const KVM_SET_USER_MEMORY_REGION: u32 = kvm(WRITE, 0x46, size_of::<kvm_userspace_memory_region>());
/// For historical reasons a request to read as well.
pub(crate) const KVM_SET_IRQCHIP: u32 = kvm(READ, 0x63, size_of::<kvm_irqchip>());
pub(crate) const KVM_IRQ_LINE: u32 = kvm(WRITE, 0x61, size_of::<kvm_irq_level>());
pub(crate) const KVM_SET_GSI_ROUTING: u32 = kvm(WRITE, 0x6a, size_of::<kvm_irq_routing>());
pub(crate) const KVM_SET_CLOCK: u32 = kvm(WRITE, 0x7b, size_of::<kvm_clock_data>());
pub(crate) const KVM_GET_CLOCK: u32 = kvm(READ, 0x7c, size_of::<kvm_clock_data>());
pub(crate) const KVM_IOEVENTFD: u32 = kvm(WRITE, 0x79, size_of::<kvm_ioeventfd>());
pub(crate) const KVM_RUN: u32 = kvm(NONE, 0x80, 0);
pub(crate) const KVM_GET_REGS: u32 = kvm(READ, 0x81, size_of::<kvm_regs>());
pub(crate) const KVM_SET_REGS: u32 = kvm(WRITE, 0x82, size_of::<kvm_regs>());
pub(crate) const KVM_GET_SREGS: u32 = kvm(READ, 0x83, size_of::<kvm_sregs>());
pub(crate) const KVM_SET_SREGS: u32 = kvm(WRITE, 0x84, size_of::<kvm_sregs>());
pub(crate) const KVM_GET_MSRS: u32 = kvm(READ | WRITE, 0x88, size_of::<kvm_msrs>());
pub(crate) const KVM_SET_MSRS: u32 = kvm(WRITE, 0x89, size_of::<kvm_msrs>());
pub(crate) const KVM_GET_LAPIC: u32 = kvm(READ, 0x8e, size_of::<kvm_lapic_state>());
pub(crate) const KVM_SET_LAPIC: u32 = kvm(WRITE, 0x8f, size_of::<kvm_lapic_state>());
pub(crate) const KVM_SET_MP_STATE: u32 = kvm(WRITE, 0x99, size_of::<kvm_mp_state>());
pub(crate) const KVM_GET_VCPU_EVENTS: u32 = kvm(READ, 0x9f, size_of::<kvm_vcpu_events>());
pub(crate) const KVM_SET_VCPU_EVENTS: u32 = kvm(WRITE, 0xa0, size_of::<kvm_vcpu_events>());
pub(crate) const KVM_SET_PIT2: u32 = kvm(WRITE, 0xa0, size_of::<kvm_pit_state2>());
pub(crate) const KVM_SET_XCRS: u32 = kvm(WRITE, 0xa7, size_of::<kvm_xcrs>());
pub(crate) const KVM_GET_XSAVE: u32 = kvm(READ, 0xa4, size_of::<kvm_xsave>());
pub(crate) const KVM_SET_XSAVE: u32 = kvm(WRITE, 0xa5, size_of::<kvm_xsave>());
pub(crate) const KVM_SET_GUEST_DEBUG: u32 = kvm(WRITE, 0x9b, size_of::<kvm_guest_debug>());
pub(crate) const KVM_GET_DEBUGREGS: u32 = kvm(READ, 0xa1, size_of::<kvm_debugregs>());
pub(crate) const KVM_SET_DEBUGREGS: u32 = kvm(WRITE, 0xa2, size_of::<kvm_debugregs>());
pub(crate) const KVM_KVMCLOCK_CTRL: u32 = kvm(NONE, 0xad, 0);
pub(crate) const KVM_X86_SET_MSR_FILTER: u32 = kvm(WRITE, 0xc6, size_of::<kvm_msr_filter>());

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
        assert_eq!((KVM_SET_CLOCK, KVM_GET_CLOCK), (0x4030_ae7b, 0x8030_ae7c));
        assert_eq!(KVM_KVMCLOCK_CTRL, 0xaead);
    }
}
