//! Takes back an interrupt that KVM has accepted for a processor and not yet delivered.
//!
//! A kick between the injection and the entry leaves the interrupt with KVM: no longer requested, not yet delivered.
//! The next entry delivers it even where `KVM_GUESTDBG_BLOCKIRQ` holds back interrupts, and if that entry is a single
//! step, the flags in the interrupt's frame have TF set. The interrupt can be given back to the local APIC as long as
//! nothing else changes that APIC's state. Source: Intel SDM volume 3, 12.8.4 (acceptance of interrupts: IRR and ISR).
#![forbid(unsafe_code)]

use kvm_bindings::kvm_lapic_state;

use super::Vcpu;
use crate::run::Error;

/// Offsets of the in-service and the interrupt-request registers: 32 vectors each 16 bytes.
const ISR: usize = 0x100;
const IRR: usize = 0x200;

impl Vcpu {
    /// Has the local APIC request again what it has handed over and the processor has not begun to serve. The machine stands
    /// still: an interrupt that came meanwhile would be lost. One that is not in service there (an 8259's) stays where it is.
    pub(crate) fn take_back_interrupt(&mut self) -> Result<(), Error> {
        const ACTION: &str = "take back an interrupt";
        let mut events = self.fd.get_vcpu_events().map_err(Error::kvm(ACTION))?;
        if events.interrupt.injected == 0 || events.interrupt.soft != 0 {
            return Ok(());
        }
        let mut lapic = self.fd.get_lapic().map_err(Error::kvm(ACTION))?;
        if !request_again(&mut lapic, events.interrupt.nr) {
            return Ok(());
        }
        events.interrupt.injected = 0;
        self.fd.set_vcpu_events(&events).map_err(Error::kvm(ACTION))?;
        self.fd.set_lapic(&lapic).map_err(Error::kvm(ACTION))
    }
}

/// Makes an interrupt in service a requested one; `false` if it is not in service.
fn request_again(lapic: &mut kvm_lapic_state, vector: u8) -> bool {
    let (byte, bit) = (
        usize::from(vector) / 32 * 16 + usize::from(vector) % 32 / 8,
        1 << (vector % 8),
    );
    if lapic.regs[ISR + byte] & bit == 0 {
        return false;
    }
    lapic.regs[ISR + byte] &= !bit;
    lapic.regs[IRR + byte] |= bit;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bit of a vector in one of the two, counted as the manual does.
    fn bit(lapic: &kvm_lapic_state, register: usize, vector: usize) -> bool {
        let at = register + vector / 32 * 16;
        let word: Vec<u8> = lapic.regs[at..at + 4]
            .iter()
            .flat_map(|byte| byte.to_le_bytes())
            .collect();
        u32::from_le_bytes(word.try_into().unwrap()) & (1 << (vector % 32)) != 0
    }

    #[test]
    fn each_vector_in_service_is_requested_again_and_no_other() {
        for vector in 16..=255_u8 {
            let mut lapic = kvm_lapic_state::default();
            assert!(!request_again(&mut lapic, vector));
            assert_eq!(lapic, kvm_lapic_state::default(), "vector {vector}");
            let at = usize::from(vector) / 32 * 16 + usize::from(vector) % 32 / 8;
            lapic.regs[ISR + at] = 1 << (vector % 8);
            assert!(request_again(&mut lapic, vector));
            for other in 0..256 {
                assert!(!bit(&lapic, ISR, other));
                assert_eq!(bit(&lapic, IRR, other), other == usize::from(vector));
            }
        }
    }
}
