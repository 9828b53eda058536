//! The least that a hit can cost: one processor in long mode, one breakpoint, and a loop around KVM_RUN that does only
//! what every hit needs. It must not use the machine that it is compared with.

use std::time::Instant;

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_MAX_CPUID_ENTRIES, kvm_guest_debug,
    kvm_regs, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, SyncReg, VcpuExit, VcpuFd};
use storlock_vmm::debug::StepOver;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::{Failure, ROUTINE};

const MEMORY: usize = 4 << 20;
const TOP_TABLE: u64 = 0x1000;
const CODE: u64 = 0x10_0000;
const STACK: u64 = 0x20_0000;
const RESUME_FLAG: u64 = 1 << 16;

fn memory(code: &[u8]) -> Result<GuestMemoryMmap, Failure> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)])?;
    // Present and writable; two pages of 2 MiB, identity mapped.
    memory.write_obj((TOP_TABLE + 0x1000) | 3, GuestAddress(TOP_TABLE))?;
    memory.write_obj((TOP_TABLE + 0x2000) | 3, GuestAddress(TOP_TABLE + 0x1000))?;
    for page in 0..2u64 {
        memory.write_obj(page << 21 | 0x83, GuestAddress(TOP_TABLE + 0x2000 + 8 * page))?;
    }
    memory.write_slice(code, GuestAddress(CODE))?;
    Ok(memory)
}

fn segment(selector: u16, kind: u8, code: bool) -> kvm_segment {
    kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        s: 1,
        g: 1,
        l: u8::from(code),
        db: u8::from(!code),
        ..kvm_segment::default()
    }
}

fn enter_long_mode(vcpu: &VcpuFd) -> Result<(), Failure> {
    let mut special = vcpu.get_sregs()?;
    special.cr0 = 0x8005_0033; // PG, AM, WP, NE, ET, MP, PE
    special.cr3 = TOP_TABLE;
    special.cr4 = 0x20; // PAE
    special.efer = 0x500; // LMA, LME
    special.cs = segment(0x10, 0xb, true);
    let data = segment(0x18, 3, false);
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    vcpu.set_sregs(&special)?;
    vcpu.set_regs(&kvm_regs {
        rip: CODE,
        rsp: STACK,
        rflags: 2,
        ..kvm_regs::default()
    })?;
    Ok(())
}

fn breakpoint(extra: u32, enabled: bool) -> kvm_guest_debug {
    let mut request = kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | extra,
        ..kvm_guest_debug::default()
    };
    if enabled {
        request.control |= KVM_GUESTDBG_USE_HW_BP;
        request.arch.debugreg[0] = CODE + ROUTINE;
        request.arch.debugreg[7] = 0x402; // G0, and the bit that is always set
    }
    request
}

/// Runs `code` with a breakpoint on its routine, and returns when each hit was seen. `sync`: registers come with KVM_RUN.
pub(crate) fn hits(kvm: &Kvm, code: &[u8], method: StepOver, sync: bool) -> Result<Vec<Instant>, Failure> {
    let memory = memory(code)?;
    let vm = kvm.create_vm()?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory.get_host_address(GuestAddress(0))? as u64,
        flags: 0,
    };
    // SAFETY: the mapping outlives the machine: `memory` was made before `vm` and is dropped after it and its processor.
    #[allow(unsafe_code)]
    unsafe {
        vm.set_user_memory_region(region)?;
    }
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    enter_long_mode(&vcpu)?;
    vcpu.set_guest_debug(&breakpoint(0, true))?;
    if sync {
        vcpu.set_sync_valid_reg(SyncReg::Register);
        vcpu.set_sync_valid_reg(SyncReg::SystemRegister);
    }
    let (mut times, mut stepping) = (Vec::new(), false);
    loop {
        match vcpu.run()? {
            VcpuExit::Debug(_) => {}
            VcpuExit::IoOut(..) => return Ok(times),
            other => return Err(format!("the floor's guest ended with {other:?}").into()),
        }
        if std::mem::take(&mut stepping) {
            vcpu.set_guest_debug(&breakpoint(0, true))?;
            continue;
        }
        times.push(Instant::now());
        let mut registers = if sync { vcpu.sync_regs().regs } else { vcpu.get_regs()? };
        match method {
            StepOver::ResumeFlag => registers.rflags |= RESUME_FLAG,
            StepOver::EmulateFirst => {
                // push rbx
                registers.rip += 1;
                registers.rsp -= 8;
                memory.write_obj(registers.rbx, GuestAddress(registers.rsp))?;
            }
            StepOver::SingleStep => {
                vcpu.set_guest_debug(&breakpoint(KVM_GUESTDBG_SINGLESTEP, false))?;
                stepping = true;
                continue;
            }
        }
        if sync {
            vcpu.sync_regs_mut().regs = registers;
            vcpu.set_sync_dirty_reg(SyncReg::Register);
        } else {
            vcpu.set_regs(&registers)?;
        }
    }
}
