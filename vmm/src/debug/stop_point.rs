//! What a debugger asks for: stops at instructions and at accesses to data, and single steps.
//!
//! Stop points that need a debug register share the four with the [`Breakpoint`]s, which take theirs first. Plain data.
#![forbid(unsafe_code)]

use thiserror::Error;

use super::{BREAKPOINT_LIMIT, Breakpoint};
use crate::translate;

/// What makes a [`StopPoint`] stop the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopPointKind {
    /// The instruction there is about to be executed. A debug register sees it.
    HardwareBreakpoint,
    /// The same by INT3, which is written over the instruction's first byte: it takes no debug register, but the guest can
    /// see it. Only where [`crate::run::MachineHandle::has_software_breakpoints`].
    SoftwareBreakpoint,
    /// Data there was written.
    WriteWatchpoint,
    /// Data there was read or written. The processor has no register for reads alone.
    AccessWatchpoint,
}

/// Stops the whole machine, unlike a [`Breakpoint`]: [`crate::run::RunningMachine::wait`] then returns
/// [`crate::run::MachineStop::StopPoint`]. In force on all vCPUs alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StopPoint {
    /// When it stops.
    pub kind: StopPointKind,
    /// Guest-virtual address, aligned to `length`.
    pub address: u64,
    /// Bytes of data: 1, 2, 4 or 8. 1 for an instruction.
    pub length: u8,
}

impl StopPoint {
    /// Whether it is one on an instruction.
    pub(crate) fn is_code(&self) -> bool {
        matches!(
            self.kind,
            StopPointKind::HardwareBreakpoint | StopPointKind::SoftwareBreakpoint
        )
    }

    /// Whether one of `breakpoints` already makes the same instruction exit, so that nothing more is needed.
    pub(crate) fn shares_with(&self, breakpoints: &[Breakpoint]) -> bool {
        self.is_code() && breakpoints.iter().any(|other| other.address == self.address)
    }

    /// Whether it needs a register of its own beside `breakpoints`.
    pub(crate) fn needs_register(&self, breakpoints: &[Breakpoint]) -> bool {
        self.kind != StopPointKind::SoftwareBreakpoint && !self.shares_with(breakpoints)
    }

    /// Whether it needs INT3 in memory beside `breakpoints`.
    pub(crate) fn needs_software_breakpoint(&self, breakpoints: &[Breakpoint]) -> bool {
        self.kind == StopPointKind::SoftwareBreakpoint && !self.shares_with(breakpoints)
    }

    /// Its R/W and LEN fields of DR7, as they stand for register 0.
    pub(crate) fn condition(&self) -> u64 {
        let access = match self.kind {
            StopPointKind::HardwareBreakpoint | StopPointKind::SoftwareBreakpoint => 0,
            StopPointKind::WriteWatchpoint => 1,
            StopPointKind::AccessWatchpoint => 3,
        };
        let length = match self.length {
            2 => 1,
            4 => 3,
            8 => 2,
            _ => 0,
        };
        access << 16 | length << 18
    }
}

/// Why stop points were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StopPointError {
    /// There are not so many debug registers left.
    #[error(
        "the processor has {BREAKPOINT_LIMIT} debug registers, {breakpoints} of them watch routines, so that {} are left \
         and {stop_points} are asked for",
        BREAKPOINT_LIMIT - breakpoints
    )]
    TooMany {
        /// Registers that breakpoints hold.
        breakpoints: usize,
        /// Registers that the stop points need.
        stop_points: usize,
    },
    /// Not a canonical address.
    #[error("{0:#x} is not a canonical address")]
    NonCanonical(u64),
    /// The processor watches 1, 2, 4 or 8 bytes at a multiple of their number.
    #[error("{length} bytes at {address:#x} cannot be watched: it has to be 1, 2, 4 or 8 bytes at a multiple of that")]
    Length {
        /// The address.
        address: u64,
        /// Bytes asked for.
        length: u8,
    },
    /// The debug exception of INT3 does not come out of this KVM.
    #[error("this KVM does not tell of int3: breakpoints need a debug register here")]
    NoSoftwareBreakpoints,
    /// There is no memory where INT3 was to be written.
    #[error("{0:#x} is not mapped to memory on any processor")]
    NotMapped(u64),
}

/// Checks stop points before they are given to the vCPUs.
pub(crate) fn check_stop_points(breakpoints: &[Breakpoint], stop_points: &[StopPoint]) -> Result<(), StopPointError> {
    for &stop_point in stop_points {
        let StopPoint { address, length, .. } = stop_point;
        if !translate::is_canonical(address) {
            return Err(StopPointError::NonCanonical(address));
        }
        let possible = if stop_point.is_code() {
            length == 1
        } else {
            matches!(length, 1 | 2 | 4 | 8)
        };
        if !possible || address % u64::from(length.max(1)) != 0 {
            return Err(StopPointError::Length { address, length });
        }
    }
    let needed = stop_points
        .iter()
        .filter(|stop_point| stop_point.needs_register(breakpoints))
        .count();
    if breakpoints.len() + needed > BREAKPOINT_LIMIT {
        return Err(StopPointError::TooMany {
            breakpoints: breakpoints.len(),
            stop_points: needed,
        });
    }
    Ok(())
}

/// Those of `stop points` that can stay beside `breakpoints`: the last ones that need a register go first.
pub(crate) fn fitting(breakpoints: &[Breakpoint], stop_points: &[StopPoint]) -> Vec<StopPoint> {
    let mut left = BREAKPOINT_LIMIT.saturating_sub(breakpoints.len());
    let mut stays = |stop_point: &StopPoint| {
        if !stop_point.needs_register(breakpoints) {
            return true;
        }
        let room = left > 0;
        left = left.saturating_sub(1);
        room
    };
    stop_points
        .iter()
        .filter(|stop_point| stays(stop_point))
        .copied()
        .collect()
}

/// What one vCPU does when the machine goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResumeAction {
    /// It runs.
    #[default]
    Run,
    /// It executes one instruction, or as many as lie one after the other in the range of addresses; then the machine
    /// stops with [`crate::run::MachineStop::Stepped`]. Interrupts are held back meanwhile, where KVM can.
    Step {
        /// First address and the first one behind it.
        range: Option<(u64, u64)>,
    },
    /// It stays where it is.
    Hold,
}
