//! CPUID's part of Hyper-V's guest interface, as far as KVM implements that (Microsoft, "Hypervisor Top Level
//! Functional Specification" 6.0b, chapters 2 and 12; Linux documentation "virt/kvm/x86/hypercalls", "virt/kvm/api").
//!
//! KVM implements the registers and hypercalls; here is what CPUID says of them. By it Windows uses relaxed timing, the
//! reference time, the synthetic timers and the crash registers.
#![forbid(unsafe_code)]

use kvm_bindings::{KVM_CAP_HYPERV_SYNIC2, kvm_cpuid_entry2, kvm_enable_cap};
use kvm_ioctls::VcpuFd;

use crate::kvm::KvmError;
use crate::msr;

/// HV_X64_MSR_CRASH_P0, the first of five.
pub(crate) const CRASH_PARAMETERS: u32 = 0x4000_0100;

/// HV_X64_MSR_SCONTROL: the synthetic interrupt controller is on.
const SYNIC_CONTROL: u32 = 0x4000_0080;

/// Leaves by number.
const VENDOR: u32 = 0x4000_0000;
const INTERFACE: u32 = 0x4000_0001;
const VERSION: u32 = 0x4000_0002;
const FEATURES: u32 = 0x4000_0003;
const RECOMMENDATIONS: u32 = 0x4000_0004;
const LIMITS: u32 = 0x4000_0005;

/// Privileges (table 2-3): run time, reference counter, synthetic interrupts and timers, APIC registers, hypercalls, the
/// virtual processor's index, the reference TSC page, frequencies.
const PRIVILEGES: u32 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 11;
/// Features: the frequency registers are there, and the crash registers.
const FREQUENCIES: u32 = 1 << 8;
const CRASH_REGISTERS: u32 = 1 << 10;
/// Feature: input of a hypercall may be in XMM registers.
const XMM_INPUT: u32 = 1 << 4;
/// Recommended (table 2-5): hypercalls for flushing TLBs here (bit 1) and elsewhere (2), the registers for the APIC (3),
/// relaxed timing, without watchdogs of processors that stand still (5), no automatic end of synthetic interrupts (9), a
/// hypercall for interprocessor interrupts to several processors (10).
const RECOMMENDED: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 10;
/// How often a guest tries to take a lock before it notifies the hypervisor.
const SPIN_RETRIES: u32 = 0xfff;
/// Most virtual processors, and logical ones.
const PROCESSOR_LIMIT: u32 = 64;

/// Whether KVM, which implements these leaves, takes input of hypercalls in XMM registers.
pub(crate) fn takes_xmm_input(implemented: &[kvm_cpuid_entry2]) -> bool {
    let mut features = implemented.iter().filter(|leaf| leaf.function == FEATURES);
    features.any(|leaf| leaf.edx & XMM_INPUT != 0)
}

/// What CPUID tells, the same on each processor.
pub(crate) fn leaves(xmm_input: bool) -> [kvm_cpuid_entry2; 6] {
    let xmm_input = if xmm_input { XMM_INPUT } else { 0 };
    let leaf = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
        function,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    };
    let word = u32::from_le_bytes;
    [
        leaf(VENDOR, LIMITS, word(*b"Micr"), word(*b"osof"), word(*b"t Hv")),
        leaf(INTERFACE, word(*b"Hv#1"), 0, 0, 0),
        // Build and version of Windows Server 2016's hypervisor, 10.0.14393.
        leaf(VERSION, 14393, 10 << 16, 0, 0),
        leaf(FEATURES, PRIVILEGES, 0, 0, FREQUENCIES | CRASH_REGISTERS | xmm_input),
        leaf(RECOMMENDATIONS, RECOMMENDED, SPIN_RETRIES, 0, 0),
        leaf(LIMITS, PROCESSOR_LIMIT, PROCESSOR_LIMIT, 0, 0),
    ]
}

/// Switches the synthetic interrupt controller of a processor on. Under Hyper-V it is on when a guest starts; under KVM the
/// guest would have to switch it on.
pub(crate) fn enable_synthetic_interrupts(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let capability = kvm_enable_cap {
        cap: KVM_CAP_HYPERV_SYNIC2,
        ..Default::default()
    };
    vcpu.enable_cap(&capability)
        .map_err(KvmError::refused("enable Hyper-V's synthetic interrupts"))?;
    if !msr::write(vcpu, SYNIC_CONTROL, 1)? {
        tracing::debug!("KVM leaves the synthetic interrupt controller off");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xmm_input_is_offered_where_kvm_takes_it_only() {
        let features = |leaves: &[kvm_cpuid_entry2]| {
            let mut all = leaves.iter();
            all.find(|leaf| leaf.function == FEATURES).map_or(0, |leaf| leaf.edx)
        };
        assert_eq!(features(&leaves(false)), FREQUENCIES | CRASH_REGISTERS);
        assert_eq!(features(&leaves(true)), FREQUENCIES | CRASH_REGISTERS | XMM_INPUT);
        assert!(takes_xmm_input(&leaves(true)));
        assert!(!takes_xmm_input(&leaves(false)));
    }
}
