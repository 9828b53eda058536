//! The registers of a processor at a kernel's entry point: 64-bit mode, paging on, interrupts off.
//!
//! Talks to KVM's register requests. Source: Intel SDM volume 3, 3.4.5 and 10.8.5; Windows x64 calling convention; Linux
//! documentation "arch/x86/boot", "64-bit boot protocol".

use kvm_bindings::{KVM_MP_STATE_RUNNABLE, kvm_dtable, kvm_mp_state, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::linux::LinuxInfo;
use super::{BootInfo, CODE_SELECTOR, DATA_SELECTOR, GDT};
use crate::kvm::KvmError;
use crate::msr;

const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_AM: u64 = 1 << 18;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_PGE: u64 = 1 << 7;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const EFER_SCE: u64 = 1 << 0;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
/// Bit 1 of RFLAGS always reads as one.
const RFLAGS_FIXED: u64 = 1 << 1;
/// IA32_MTRR_DEF_TYPE: memory type ranges are on, and what they do not name is cached (Intel SDM volume 3, 12.11.2.1).
const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// Puts vCPU `index` at the entry point of a PE kernel, ready to run.
pub(crate) fn set_entry_state(vcpu: &VcpuFd, info: &BootInfo, index: u32) -> Result<(), KvmError> {
    set_long_mode(vcpu, info.cr3, info.gdt)?;
    let regs = kvm_regs {
        rip: info.entry_point,
        rsp: info.stack_pointer(index),
        rcx: info.loader_block,
        rdx: u64::from(index),
        rflags: RFLAGS_FIXED,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(KvmError::refused("set the registers"))?;
    // Without this all but the first would wait for a start-up message.
    let state = kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    };
    vcpu.set_mp_state(state).map_err(KvmError::refused("start a processor"))
}

/// Puts the first vCPU at the entry point of Linux; the others wait for its start-up message.
pub(crate) fn set_linux_entry_state(vcpu: &VcpuFd, info: &LinuxInfo, index: u32) -> Result<(), KvmError> {
    // Firmware leaves memory cached, on every processor.
    msr::write(vcpu, MTRR_DEFAULT_TYPE, MTRR_ENABLED_WRITE_BACK)?;
    if index > 0 {
        return Ok(());
    }
    set_long_mode(vcpu, info.cr3, info.gdt)?;
    let regs = kvm_regs {
        rip: info.entry_point,
        rsi: info.zero_page,
        rflags: RFLAGS_FIXED,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(KvmError::refused("set the registers"))
}

fn set_long_mode(vcpu: &VcpuFd, cr3: u64, gdt: u64) -> Result<(), KvmError> {
    let mut sregs = vcpu
        .get_sregs()
        .map_err(KvmError::refused("read the special registers"))?;
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    sregs.cr3 = cr3;
    sregs.cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    sregs.cr8 = 0;
    sregs.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    sregs.cs = segment(CODE_SELECTOR, 0xb, true);
    let data = segment(DATA_SELECTOR, 0x3, false);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.gdt = kvm_dtable {
        base: gdt,
        limit: (size_of_val(&GDT) - 1) as u16,
        ..Default::default()
    };
    sregs.idt = kvm_dtable::default();
    // Processors insist on a present, busy task register and an unusable local descriptor table.
    sregs.tr = kvm_segment {
        type_: 0xb,
        present: 1,
        limit: 0x67,
        ..Default::default()
    };
    sregs.ldt = kvm_segment {
        unusable: 1,
        ..Default::default()
    };
    vcpu.set_sregs(&sregs)
        .map_err(KvmError::refused("set the special registers"))
}

/// A flat segment: 64-bit code if `code`, else data.
fn segment(selector: u16, kind: u8, code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    }
}
