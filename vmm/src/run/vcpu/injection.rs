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

/// Interrupts at a local APIC: a bit for each vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalInterrupts {
    /// Requested: the processor has not taken them.
    requested: [u8; 32],
    /// In service: the processor has taken them and not said that it is done.
    in_service: [u8; 32],
}

impl LocalInterrupts {
    fn of(lapic: &kvm_lapic_state) -> Self {
        // Four bytes of each sixteen.
        let bytes = |register: usize| {
            let mut bits = [0; 32];
            for (at, byte) in bits.iter_mut().enumerate() {
                *byte = lapic.regs[register + at / 4 * 16 + at % 4].cast_unsigned();
            }
            bits
        };
        Self {
            requested: bytes(IRR),
            in_service: bytes(ISR),
        }
    }

    /// Whether that vector is requested.
    #[must_use]
    pub fn is_requested(&self, vector: u8) -> bool {
        self.requested[usize::from(vector / 8)] >> (vector % 8) & 1 != 0
    }

    /// Whether that vector is in service.
    #[must_use]
    pub fn is_in_service(&self, vector: u8) -> bool {
        self.in_service[usize::from(vector / 8)] >> (vector % 8) & 1 != 0
    }
}

impl Vcpu {
    /// The interrupts at its local APIC.
    pub(crate) fn local_interrupts(&self) -> Result<LocalInterrupts, Error> {
        let lapic = self.fd.get_lapic().map_err(Error::kvm("read the local APIC"))?;
        Ok(LocalInterrupts::of(&lapic))
    }

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
            let local = LocalInterrupts::of(&lapic);
            assert!(local.is_in_service(vector) && !local.is_requested(vector));
            assert!(request_again(&mut lapic, vector));
            let local = LocalInterrupts::of(&lapic);
            assert!(
                (0..=255).all(|other| !local.is_in_service(other) && local.is_requested(other) == (other == vector))
            );
            for other in 0..256 {
                assert!(!bit(&lapic, ISR, other));
                assert_eq!(bit(&lapic, IRR, other), other == usize::from(vector));
            }
        }
    }
}
