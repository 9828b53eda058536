//! Why a machine stopped, and what its vCPUs counted. Plain data.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions, Formatter as _, NasmFormatter};

use crate::debug::StopPoint;
use crate::run::Error;

/// Why a machine stopped. It is paused then: registers and memory can be looked at.
#[derive(Debug, Clone)]
pub enum MachineStop {
    /// The guest switched the power off (ACPI S5).
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// A processor shut down after a triple fault.
    TripleFault {
        /// Number of the vCPU.
        cpu: u32,
    },
    /// The guest reported its crash through Hyper-V's crash registers.
    Crash {
        /// Number of the vCPU.
        cpu: u32,
        /// The registers P0 to P4: a code of the guest's and its parameters.
        parameters: [u64; 5],
    },
    /// KVM gave up on a guest instruction.
    InternalError(InternalError),
    /// A [`crate::run::DebugHandler`] answered [`crate::debug::HitAction::Stop`].
    Breakpoint {
        /// Number of the vCPU.
        cpu: u32,
    },
    /// A [`StopPoint`] stopped it: before the instruction, or after the access.
    StopPoint {
        /// Number of the vCPU.
        cpu: u32,
        /// Which one.
        stop_point: StopPoint,
    },
    /// [`crate::debug::ResumeAction::Step`] has been carried out.
    Stepped {
        /// Number of the vCPU.
        cpu: u32,
    },
    /// [`crate::run::MachineHandle::interrupt`] was called.
    Interrupted,
    /// Breakpoints took the debug registers of so many stop points, which are no longer in force.
    StopPointsLost {
        /// How many.
        count: usize,
    },
    /// The wall-clock limit of [`crate::run::RunningMachine::wait`] passed.
    TimeLimit,
    /// [`crate::run::MachineHandle::stop`] was called.
    Stopped,
    /// The host failed.
    Failed(Arc<Error>),
}

impl MachineStop {
    /// Whether the machine can be resumed after it.
    #[must_use]
    pub fn can_go_on(&self) -> bool {
        matches!(
            self,
            Self::Breakpoint { .. }
                | Self::StopPoint { .. }
                | Self::Stepped { .. }
                | Self::Interrupted
                | Self::StopPointsLost { .. }
                | Self::TimeLimit
        )
    }
}

impl fmt::Display for MachineStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::TripleFault { cpu } => write!(f, "processor {cpu} shut down after a triple fault"),
            Self::Crash {
                cpu,
                parameters: [code, p1, p2, p3, p4],
            } => write!(
                f,
                "the guest crashed on processor {cpu}: {code:#x} ({p1:#x}, {p2:#x}, {p3:#x}, {p4:#x})"
            ),
            Self::InternalError(error) => error.fmt(f),
            Self::Breakpoint { cpu } => write!(f, "processor {cpu} was stopped at a breakpoint"),
            Self::StopPoint { cpu, stop_point } => write!(
                f,
                "processor {cpu} stopped at the stop point at {:#x}",
                stop_point.address
            ),
            Self::Stepped { cpu } => write!(f, "processor {cpu} has stepped"),
            Self::Interrupted => f.write_str("interrupted by a debugger"),
            Self::StopPointsLost { count } => write!(f, "{count} stop points made way for breakpoints"),
            Self::TimeLimit => f.write_str("the time limit passed"),
            Self::Stopped => f.write_str("stopped on request"),
            Self::Failed(error) => write!(f, "the host failed: {error}"),
        }
    }
}

/// `KVM_EXIT_INTERNAL_ERROR`, with what is needed to name the instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InternalError {
    /// Number of the vCPU.
    pub cpu: u32,
    /// `KVM_INTERNAL_ERROR_*`: 1 emulation, 2 simultaneous exception, 3 delivery of an event, 4 unexpected exit.
    pub suberror: u32,
    /// Instruction pointer.
    pub rip: u64,
    /// Up to 15 bytes at RIP; fewer if the rest is not mapped.
    pub(crate) instruction_bytes: Vec<u8>,
}

impl InternalError {
    /// `KVM_INTERNAL_ERROR_EMULATION`: this KVM cannot execute the instruction at RIP.
    pub const EMULATION: u32 = 1;

    /// The instruction at RIP in Intel syntax and its length in bytes; `None` if the bytes are no instruction.
    #[must_use]
    pub fn instruction(&self) -> Option<(String, usize)> {
        let mut decoder = Decoder::with_ip(64, &self.instruction_bytes, self.rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return None;
        }
        let mut text = String::new();
        NasmFormatter::new().format(&instruction, &mut text);
        Some((text, instruction.len()))
    }
}

impl fmt::Display for InternalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, suberror, rip, .. } = self;
        write!(
            f,
            "KVM gave up on processor {cpu} at {rip:#x} (internal error {suberror})"
        )?;
        match self.instruction() {
            Some((text, length)) => {
                write!(f, ": {text} [")?;
                for (index, byte) in self.instruction_bytes.iter().take(length).enumerate() {
                    write!(f, "{}{byte:02x}", if index == 0 { "" } else { " " })?;
                }
                f.write_str("]")
            }
            None => f.write_str(": the instruction cannot be read"),
        }
    }
}

/// What one vCPU counted since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuStatistics {
    /// KVM_RUN requests.
    pub runs: u64,
    /// Debug exits (breakpoint hits, steps, returns caught).
    pub debug_exits: u64,
    /// Hits of breakpoints handed to the handler.
    pub hits: u64,
    /// Returns caught and handed to the handler.
    pub returns: u64,
    /// Visits of an address where a return is to be caught, by another frame than the one that is waited for.
    pub passes: u64,
    /// Port I/O exits.
    pub pio_exits: u64,
    /// Memory-mapped I/O exits.
    pub mmio_exits: u64,
    /// Exits for a filtered MSR.
    pub msr_exits: u64,
    /// All other exits, interruptions by a request included.
    pub other_exits: u64,
    /// KVM requests other than KVM_RUN that the hit path needed (none with the resume flag and sync registers).
    pub hit_requests: u64,
    /// First instructions executed by the host.
    pub emulated: u64,
    /// Single steps taken.
    pub steps: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internal_error_names_its_instruction() {
        let error = InternalError {
            cpu: 1,
            suberror: InternalError::EMULATION,
            rip: 0xfffff800_00001234,
            instruction_bytes: vec![0xf3, 0x48, 0x0f, 0xb8, 0xc1, 0x90, 0x90],
        };
        assert_eq!(
            error.to_string(),
            "KVM gave up on processor 1 at 0xfffff80000001234 (internal error 1): popcnt rax,rcx [f3 48 0f b8 c1]"
        );
        let cut = InternalError {
            instruction_bytes: vec![0xf3, 0x48],
            ..error
        };
        assert!(cut.to_string().ends_with("the instruction cannot be read"));
    }
}
