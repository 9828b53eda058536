//! The state in which KVM makes a machine: saved at the start, and put back into processors and interrupt controllers
//! at a reset.
//!
//! Before its first instruction each processor has its power-on state: the first one is at the reset vector, the others
//! wait for INIT and a start-up message. That state is saved once and put back as a whole, so that no register is
//! forgotten. Talks to KVM. It must not know devices, nor who asks for a reset.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, MsrList, kvm_debugregs, kvm_irqchip,
    kvm_lapic_state, kvm_mp_state, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{VcpuFd, VmFd};

use crate::msr;
use crate::run::Error;

/// IA32_TIME_STAMP_COUNTER: goes on over a reset, on all processors alike. Set one after the other they would differ.
const TIME_STAMP_COUNTER: u32 = 0x10;

/// CR4: page size extensions.
const CR4_PSE: u64 = 1 << 4;

/// The memory type ranges, which KVM does not list (Intel SDM volume 3, 12.11): variable ones, fixed ones, default type.
fn memory_type_ranges() -> impl Iterator<Item = u32> {
    (0x200..=0x20f)
        .chain([0x250, 0x258, 0x259])
        .chain(0x268..=0x26f)
        .chain([0x2ff])
}

/// One processor after power-on.
pub(crate) struct PoweredCpu {
    regs: kvm_regs,
    sregs: kvm_sregs,
    lapic: kvm_lapic_state,
    xcrs: kvm_xcrs,
    xsave: Box<kvm_xsave>,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    running: kvm_mp_state,
    msrs: Vec<(u32, u64)>,
}

impl PoweredCpu {
    /// Saves the state of a processor that has not been run; `list` are the MSRs that KVM saves.
    pub(crate) fn save(vcpu: &VcpuFd, list: &MsrList) -> Result<Self, Error> {
        const ACTION: &str = "save the state of a processor";
        let listed = list.as_slice().iter().copied().chain(memory_type_ranges());
        let msrs = listed.filter(|&index| index != TIME_STAMP_COUNTER);
        // The list has registers that this processor lacks, which cannot be read.
        let msrs = msrs.filter_map(|index| Some((index, msr::read(vcpu, index).ok()?)));
        Ok(Self {
            regs: vcpu.get_regs().map_err(Error::kvm(ACTION))?,
            sregs: vcpu.get_sregs().map_err(Error::kvm(ACTION))?,
            lapic: vcpu.get_lapic().map_err(Error::kvm(ACTION))?,
            xcrs: vcpu.get_xcrs().map_err(Error::kvm(ACTION))?,
            xsave: Box::new(vcpu.get_xsave().map_err(Error::kvm(ACTION))?),
            debug: vcpu.get_debug_regs().map_err(Error::kvm(ACTION))?,
            events: vcpu.get_vcpu_events().map_err(Error::kvm(ACTION))?,
            running: vcpu.get_mp_state().map_err(Error::kvm(ACTION))?,
            msrs: msrs.collect(),
        })
    }

    /// Puts it back. The base of the local APIC comes with the special registers, so its own registers come after them, and
    /// the timer's deadline, an MSR, after those.
    pub(crate) fn restore(&self, vcpu: &VcpuFd) -> Result<(), Error> {
        const ACTION: &str = "reset a processor";
        // After a triple fault KVM for AMD makes the processor's control block anew, without the root of the page tables by
        // which the guest sees its memory if the guest's own paging was off. A change of CR4 has it put there again.
        let mut other = self.sregs;
        other.cr4 ^= CR4_PSE;
        vcpu.set_sregs(&other).map_err(Error::kvm(ACTION))?;
        vcpu.set_sregs(&self.sregs).map_err(Error::kvm(ACTION))?;
        vcpu.set_lapic(&self.lapic).map_err(Error::kvm(ACTION))?;
        vcpu.set_regs(&self.regs).map_err(Error::kvm(ACTION))?;
        vcpu.set_xcrs(&self.xcrs).map_err(Error::kvm(ACTION))?;
        // SAFETY: the kernel reads more than the structure only if the process has asked for features whose state does
        // not fit (arch_prctl ARCH_REQ_XCOMP_GUEST_PERM), which this program never does.
        #[allow(unsafe_code)]
        let set = unsafe { vcpu.set_xsave(&self.xsave) };
        set.map_err(Error::kvm(ACTION))?;
        for &(index, value) in &self.msrs {
            // Some say what KVM can do, and take nothing.
            if !msr::write(vcpu, index, value)? {
                tracing::debug!(index, value, "a model-specific register stays as it is over the reset");
            }
        }
        vcpu.set_debug_regs(&self.debug).map_err(Error::kvm(ACTION))?;
        vcpu.set_vcpu_events(&self.events).map_err(Error::kvm(ACTION))?;
        vcpu.set_mp_state(self.running).map_err(Error::kvm(ACTION))
    }
}

/// The interrupt controllers and the timer, which are in the kernel, after power-on.
pub(crate) struct PoweredChips {
    controllers: Vec<kvm_irqchip>,
    timer: kvm_pit_state2,
}

impl PoweredChips {
    /// Saves the state of chips that no guest has touched.
    pub(crate) fn save(vm: &VmFd) -> Result<Self, Error> {
        const ACTION: &str = "save the state of the interrupt controllers";
        let ids = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];
        let controllers = ids.map(|chip_id| {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            vm.get_irqchip(&mut chip).map(|()| chip)
        });
        let controllers = controllers.into_iter().collect::<Result<_, _>>();
        Ok(Self {
            controllers: controllers.map_err(Error::kvm(ACTION))?,
            timer: vm.get_pit2().map_err(Error::kvm(ACTION))?,
        })
    }

    /// Puts it back.
    pub(crate) fn restore(&self, vm: &VmFd) -> Result<(), Error> {
        const ACTION: &str = "reset the interrupt controllers";
        for chip in &self.controllers {
            vm.set_irqchip(chip).map_err(Error::kvm(ACTION))?;
        }
        vm.set_pit2(&self.timer).map_err(Error::kvm(ACTION))
    }
}
