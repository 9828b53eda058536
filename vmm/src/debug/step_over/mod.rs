//! The ways of getting past an instruction that has a breakpoint; `emulate` executes it in the host.
#![forbid(unsafe_code)]

mod emulate;

pub(crate) use emulate::{FirstInstruction, INSTRUCTION_LIMIT, Memory, Refused};

/// How a vCPU gets past an instruction under a breakpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepOver {
    /// RFLAGS.RF: one KVM_RUN a hit and no other system call. Not honoured by every KVM flavour.
    ResumeFlag,
    /// The host executes the known first instruction on the guest's registers and memory: one KVM_RUN a hit. An
    /// instruction that it does not know is single-stepped.
    EmulateFirst,
    /// Breakpoint off on this vCPU, one single step with interrupts held back, breakpoint on again: two KVM_RUN and two
    /// KVM_SET_GUEST_DEBUG a hit.
    SingleStep,
}

impl std::fmt::Display for StepOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ResumeFlag => "resume flag",
            Self::EmulateFirst => "emulation of the first instruction",
            Self::SingleStep => "single step",
        })
    }
}
