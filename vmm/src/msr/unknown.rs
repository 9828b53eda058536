//! What a guest is answered where KVM would refuse an access to a model-specific register, and a count of such accesses.
//!
//! A processor raises #GP, and so does this machine: system software that is not sure of a register expects that. A few
//! registers are read by systems that are sure, by the processor's model alone: those are on a list, read as 0, and take
//! any value without effect. It must not know KVM.
#![forbid(unsafe_code)]

use crate::tally::{Counts, Tally};

/// An access that KVM did not perform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MsrAccess {
    /// Number of the register, as RDMSR and WRMSR take it in ECX.
    pub index: u32,
    /// A write rather than a read.
    pub write: bool,
    /// What the guest got.
    pub answer: MsrAnswer,
}

/// What a guest gets for an access that KVM did not perform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MsrAnswer {
    /// A read gives 0, a write has no effect: the register is on the list.
    Listed,
    /// The same, because the machine was told to ignore what nobody knows.
    Ignored,
    /// #GP: nobody knows the register.
    Unknown,
    /// #GP: KVM knows the register, and this processor does not have it, or not with that value.
    Refused,
}

impl MsrAnswer {
    /// Whether the guest gets #GP.
    #[must_use]
    pub fn is_fault(self) -> bool {
        matches!(self, Self::Unknown | Self::Refused)
    }
}

/// Registers that read as 0 and take any value, by number from first to last.
///
/// - 17H IA32_PLATFORM_ID, 34H MSR_SMI_COUNT: newer KVM answers them with 0 itself.
/// - 88H to 8AH, 116H, 118H to 11BH, 11EH: the second-level cache's registers of the P6 family (BBL_CR_*). Microsoft's
///   OpenVMM answers them so on KVM (`vmm_core/virt_kvm`), because boot code touches them.
/// - 606H, 611H, 619H, 639H, 641H: energy counters (RAPL). Windows 10 reads 606H and 611H (edk2 issue 91); newer KVM
///   answers them with 0 itself.
/// - C0010299H to C001029BH: the same of AMD's processors.
const LISTED: [(u32, u32); 12] = [
    (0x17, 0x17),
    (0x34, 0x34),
    (0x88, 0x8a),
    (0x116, 0x116),
    (0x118, 0x11b),
    (0x11e, 0x11e),
    (0x606, 0x606),
    (0x611, 0x611),
    (0x619, 0x619),
    (0x639, 0x639),
    (0x641, 0x641),
    (0xc001_0299, 0xc001_029b),
];

/// Answers and counts the accesses of one machine that KVM did not perform.
#[derive(Debug, Default)]
pub struct UnknownMsrs {
    ignore: bool,
    tally: Tally<MsrAccess>,
}

impl UnknownMsrs {
    /// With `ignore` a register that nobody knows reads as 0 and takes any value, as one on the list does.
    pub(crate) fn new(ignore: bool) -> Self {
        Self {
            ignore,
            tally: Tally::default(),
        }
    }

    /// Answers an access; `known` says that KVM knows the register and refuses it all the same.
    pub(crate) fn answer(&self, index: u32, write: bool, known: bool) -> MsrAnswer {
        let listed = LISTED.iter().any(|&(first, last)| (first..=last).contains(&index));
        let answer = match (known, listed, self.ignore) {
            (true, ..) => MsrAnswer::Refused,
            (false, true, _) => MsrAnswer::Listed,
            (false, false, true) => MsrAnswer::Ignored,
            (false, false, false) => MsrAnswer::Unknown,
        };
        self.tally.count(MsrAccess { index, write, answer });
        tracing::debug!(index, write, ?answer, "KVM did not perform an access to an MSR");
        answer
    }

    /// What came so far.
    #[must_use]
    pub fn counts(&self) -> Counts<MsrAccess> {
        self.tally.counts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_on_the_list_read_as_zero_and_all_others_fault() {
        let msrs = UnknownMsrs::new(false);
        for index in [0x17, 0x88, 0x8a, 0x11a, 0x11e, 0x611, 0xc001_029b] {
            assert_eq!(msrs.answer(index, false, false), MsrAnswer::Listed, "{index:#x}");
        }
        for index in [0x87, 0x8b, 0x117, 0x11c, 0x612, 0xc001_029c, u32::MAX] {
            assert_eq!(msrs.answer(index, true, false), MsrAnswer::Unknown, "{index:#x}");
        }
    }

    #[test]
    fn what_kvm_knows_faults_even_where_the_unknown_is_ignored() {
        let msrs = UnknownMsrs::new(true);
        assert_eq!(msrs.answer(0x9999, true, false), MsrAnswer::Ignored);
        assert_eq!(msrs.answer(0x88, false, false), MsrAnswer::Listed);
        assert_eq!(msrs.answer(0x1a0, true, true), MsrAnswer::Refused);
        let faults: Vec<bool> = msrs
            .counts()
            .kinds
            .keys()
            .map(|access| access.answer.is_fault())
            .collect();
        assert_eq!(faults, [false, true, false]);
    }

    #[test]
    fn each_kind_of_access_is_counted() {
        let msrs = UnknownMsrs::new(false);
        msrs.answer(0x88, false, false);
        msrs.answer(0x88, false, false);
        msrs.answer(0x88, true, false);
        let read = MsrAccess {
            index: 0x88,
            write: false,
            answer: MsrAnswer::Listed,
        };
        let write = MsrAccess { write: true, ..read };
        assert_eq!(msrs.counts().kinds, [(read, 2), (write, 1)].into());
    }
}
