//! Requests to KVM that `kvm-ioctls` has no function for (Linux `Documentation/virt/kvm/api.rst`, 4.107, 4.118).

use kvm_bindings::{CpuId, KVM_CAP_SYS_HYPERV_CPUID, KVMIO, kvm_cpuid2};
use kvm_ioctls::{Kvm, VcpuFd};
use vmm_sys_util::ioctl::{ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_ior_nr, ioctl_iow_nr, ioctl_iowr_nr};

use super::KvmError;

ioctl_iow_nr!(KVM_X86_SETUP_MCE, KVMIO, 0x9c, u64);
ioctl_ior_nr!(KVM_X86_GET_MCE_CAP_SUPPORTED, KVMIO, 0x9d, u64);
ioctl_iowr_nr!(KVM_GET_SUPPORTED_HV_CPUID, KVMIO, 0xc1, kvm_cpuid2);

/// More entries than KVM has leaves of Hyper-V's interface.
const HYPERV_LEAVES: usize = 32;

fn last_error(action: &'static str) -> KvmError {
    KvmError::Refused {
        action,
        source: std::io::Error::last_os_error(),
    }
}

/// What KVM implements of Hyper-V's interface, as CPUID leaves; `None` if it cannot say that of itself (before Linux
/// 5.11).
pub(crate) fn supported_hyperv_cpuid(kvm: &Kvm) -> Result<Option<CpuId>, KvmError> {
    if kvm.check_extension_raw(u64::from(KVM_CAP_SYS_HYPERV_CPUID)) <= 0 {
        return Ok(None);
    }
    let mut list = CpuId::new(HYPERV_LEAVES).map_err(|_| KvmError::TooLong("the list of Hyper-V's leaves"))?;
    // SAFETY: KVM writes at most as many entries behind the header as its `nent` says, and the list has room for them.
    #[allow(unsafe_code)]
    let result = unsafe { ioctl_with_mut_ptr(kvm, KVM_GET_SUPPORTED_HV_CPUID(), list.as_mut_fam_struct_ptr()) };
    match result {
        0 => Ok(Some(list)),
        _ => Err(last_error("list what it has of Hyper-V's interface")),
    }
}

/// The bits of IA32_MCG_CAP that a processor can have here.
pub(crate) fn supported_machine_checks(kvm: &Kvm) -> Result<u64, KvmError> {
    let mut capabilities = 0u64;
    // SAFETY: KVM writes the one word that the reference is of.
    #[allow(unsafe_code)]
    let result = unsafe { ioctl_with_mut_ref(kvm, KVM_X86_GET_MCE_CAP_SUPPORTED(), &mut capabilities) };
    match result {
        0 => Ok(capabilities),
        _ => Err(last_error("say what it has of the machine check architecture")),
    }
}

/// Gives a processor this IA32_MCG_CAP, which is read-only for the guest.
pub(crate) fn set_up_machine_checks(vcpu: &VcpuFd, capabilities: u64) -> Result<(), KvmError> {
    // SAFETY: KVM reads the one word that the reference is of.
    #[allow(unsafe_code)]
    let result = unsafe { ioctl_with_ref(vcpu, KVM_X86_SETUP_MCE(), &capabilities) };
    match result {
        0 => Ok(()),
        _ => Err(last_error("set the machine check architecture up")),
    }
}
