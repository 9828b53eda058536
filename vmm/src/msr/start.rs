//! Model-specific registers as firmware leaves them, where KVM's own choice keeps some system from booting.
//!
//! Talks to KVM. It must not know firmware.
#![forbid(unsafe_code)]

use kvm_ioctls::VcpuFd;

use super::{read, write};
use crate::kvm::KvmError;
use crate::kvm::unwrapped::set_up_machine_checks;

const MISC_ENABLE: u32 = 0x1a0;
/// IA32_MISC_ENABLE (Intel SDM volume 4): fast strings (without them Linux takes slower copies), thermal control, no
/// branch trace store, no precise event sampling, enhanced SpeedStep, no xTPR messages: what Hyper-V shows its guests. Its
/// bit for MONITOR and MWAIT is left out: KVM would show these in CPUID, and a guest that waits by MWAIT never rests there.
const MISC_ENABLE_BITS: u64 = 1 << 0 | 1 << 3 | 1 << 11 | 1 << 12 | 1 << 16 | 1 << 23;

const FEATURE_CONTROL: u32 = 0x3a;
/// IA32_FEATURE_CONTROL: locked, with nothing allowed. Firmware locks it; a system that finds it open tries to.
const FEATURE_CONTROL_LOCKED: u64 = 1;

const MCG_CAP: u32 = 0x179;
/// IA32_MCG_CAP: corrected machine checks interrupt. Only with it KVM's local APIC has the register for that interrupt, and
/// Windows Server 2025 in x2APIC mode reboots in a loop without (reported for OpenVMM in its pull request 3874).
const MCG_CMCI: u64 = 1 << 10;

/// Sets a new processor's registers up; `machine_checks` are the bits of IA32_MCG_CAP that it can have here.
pub(crate) fn set_up(vcpu: &VcpuFd, machine_checks: u64) -> Result<(), KvmError> {
    let capabilities = read(vcpu, MCG_CAP)?;
    if machine_checks & MCG_CMCI & !capabilities != 0 {
        set_up_machine_checks(vcpu, capabilities | MCG_CMCI)?;
    }
    let enabled = read(vcpu, MISC_ENABLE)? | MISC_ENABLE_BITS;
    for (index, value) in [(MISC_ENABLE, enabled), (FEATURE_CONTROL, FEATURE_CONTROL_LOCKED)] {
        // A processor by AMD has no IA32_FEATURE_CONTROL.
        if !write(vcpu, index, value)? {
            tracing::debug!(index, value, "a model-specific register stays as KVM has it");
        }
    }
    Ok(())
}
