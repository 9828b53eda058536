//! Model-specific registers: which accesses of the guest come to user space, and what they are answered.
//!
//! Writes of a few registers that a handler wants to see are *filtered* (`KVM_X86_SET_MSR_FILTER`, one filter for the
//! whole virtual machine): KVM does not perform such a write; the vCPU loop does, and then tells the handler. Accesses
//! that KVM would refuse, because it does not know the register or the value is not allowed, come as well, where KVM can
//! do that: [`UnknownMsrs`] answers and counts them. Talks to KVM.
#![forbid(unsafe_code)]

mod start;
mod unknown;

use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN,
    Msrs, kvm_enable_cap, kvm_msr_entry,
};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};

use crate::kvm::KvmError;
pub(crate) use start::set_up;
pub use unknown::{MsrAccess, MsrAnswer, UnknownMsrs};

/// Has filtered accesses exit, and those that KVM would refuse; once, before [`set_filter`].
pub(crate) fn report_accesses(vm: &VmFd) -> Result<(), KvmError> {
    let mut capability = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        ..Default::default()
    };
    let reasons = KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL;
    capability.args[0] = u64::from(reasons);
    vm.enable_cap(&capability)
        .map_err(KvmError::refused("report accesses to MSRs"))
}

/// Makes writes of `msrs` exit. At most 16.
pub(crate) fn set_filter(vm: &VmFd, msrs: &[u32]) -> Result<(), KvmError> {
    // A clear bit in the bitmap denies.
    let ranges: Vec<_> = msrs
        .iter()
        .map(|&base| MsrFilterRange {
            flags: MsrFilterRangeFlags::WRITE,
            base,
            msr_count: 1,
            bitmap: &[0],
        })
        .collect();
    vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges)
        .map_err(KvmError::refused("filter MSR writes"))
}

/// Allows everything again.
pub(crate) fn drop_filter(vm: &VmFd) -> Result<(), KvmError> {
    vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &[])
        .map_err(KvmError::refused("drop the MSR filter"))
}

/// Performs a write on the guest's behalf; `false` if the processor would raise #GP.
pub(crate) fn write(vcpu: &VcpuFd, index: u32, data: u64) -> Result<bool, KvmError> {
    let written = vcpu
        .set_msrs(&one(index, data)?)
        .map_err(KvmError::refused("write an MSR"))?;
    Ok(written == 1)
}

/// Reads a register as the guest would see it.
pub(crate) fn read(vcpu: &VcpuFd, index: u32) -> Result<u64, KvmError> {
    let mut msrs = one(index, 0)?;
    let read = vcpu.get_msrs(&mut msrs).map_err(KvmError::refused("read an MSR"))?;
    match msrs.as_slice() {
        [entry] if read == 1 => Ok(entry.data),
        _ => Err(KvmError::Refused {
            action: "read an MSR",
            source: std::io::Error::from_raw_os_error(libc::EINVAL),
        }),
    }
}

fn one(index: u32, data: u64) -> Result<Msrs, KvmError> {
    let entry = kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    Msrs::from_entries(&[entry]).map_err(|_| KvmError::TooLong("the list of one MSR"))
}
