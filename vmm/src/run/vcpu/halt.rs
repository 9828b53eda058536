//! Executes HLT in the host where the instruction is to be single-stepped.
//!
//! A KVM that interprets the guest notes that the processor is to halt, and halts it after the instruction. With a
//! single step, the step's exit comes in between, and the processor halts after the *next* instruction instead. If an
//! interrupt was pending, that is the first instruction of its handler, with interrupts disabled, and nothing wakes the
//! processor again. Sources: Linux, arch/x86/kvm (`halt_request`); Intel SDM volume 2, HLT.
#![forbid(unsafe_code)]

use kvm_bindings::{KVM_MP_STATE_HALTED, kvm_mp_state};

use super::Vcpu;
use crate::registers::RFLAGS_TF;
use crate::run::Error;
use crate::translate;

const HLT: u8 = 0xf4;

impl Vcpu {
    /// Executes HLT if that is what RIP is at, and says whether: then the vCPU is behind it and waits for an interrupt.
    /// One that would raise an exception is left to the processor, and so is one before which an interrupt is on its
    /// way in.
    pub(super) fn halt(&mut self) -> Result<bool, Error> {
        const ACTION: &str = "halt a processor";
        let (ram, space) = (&self.shared.ram, self.special.address_space());
        let mut code = [0];
        let halts = translate::read_virtual(ram, space, self.at(), &mut code).is_ok() && code == [HLT];
        let faults = self.special.privilege() != 0 || self.registers.rflags & RFLAGS_TF != 0;
        if !halts || faults {
            return Ok(false);
        }
        let mut events = self.fd.get_vcpu_events().map_err(Error::kvm(ACTION))?;
        if events.interrupt.injected != 0 {
            return Ok(false);
        }
        self.registers.rip = self.registers.rip.wrapping_add(1);
        self.store_by_request()?;
        // What STI or MOV SS held back is held back no longer; a processor that waits would not be woken.
        events.interrupt.shadow = 0;
        self.fd.set_vcpu_events(&events).map_err(Error::kvm(ACTION))?;
        let mp_state = KVM_MP_STATE_HALTED;
        self.fd
            .set_mp_state(kvm_mp_state { mp_state })
            .map_err(Error::kvm(ACTION))?;
        Ok(true)
    }
}
