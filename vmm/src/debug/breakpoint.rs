//! Execution breakpoints: a handler is told of each hit and answers with an action. Plain data.
#![forbid(unsafe_code)]

use thiserror::Error;

use crate::translate;

/// How many debug registers there are: DR0 to DR3.
pub const BREAKPOINT_LIMIT: usize = 4;

/// An execution breakpoint, armed on all vCPUs alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breakpoint {
    /// The caller's name for it, handed back on each hit. Unique within a set.
    pub id: u32,
    /// Guest-virtual address of the instruction; canonical.
    pub address: u64,
}

/// What a vCPU does after a [`crate::run::DebugHandler`] call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HitAction {
    /// Go on behind the breakpoint.
    Resume,
    /// Go on, and call [`crate::run::DebugHandler::caught_return`] when the routine just entered returns on this vCPU.
    ///
    /// This takes a debug register that no breakpoint uses; when all that are left
    /// are taken by earlier catches, the oldest catch is given up. A routine that returns on another vCPU (its thread
    /// migrated) or never returns (unwound, or the thread ended) is not caught; a later call with the same return
    /// address and stack pointer replaces its catch.
    ResumeCatchReturn {
        /// Where the routine returns to.
        return_address: u64,
        /// RSP right after the return.
        stack_pointer: u64,
        /// Handed to [`crate::run::DebugHandler::caught_return`].
        cookie: u64,
    },
    /// Pause the whole machine with this vCPU at this very instruction; [`crate::run::RunningMachine::wait`]
    /// then returns [`crate::run::MachineStop::Breakpoint`].
    Stop,
}

/// Why a set of breakpoints was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BreakpointError {
    /// More than four.
    #[error("{0} breakpoints asked for, the processor has {BREAKPOINT_LIMIT} debug registers")]
    TooMany(usize),
    /// Not a canonical address.
    #[error("breakpoint {id} at {address:#x} is not at a canonical address")]
    NonCanonical {
        /// Its id.
        id: u32,
        /// Its address.
        address: u64,
    },
    /// Two with the same id or address.
    #[error("breakpoint {id} at {address:#x} is there twice, by id or by address")]
    Duplicate {
        /// Its id.
        id: u32,
        /// Its address.
        address: u64,
    },
}

/// Checks a set of breakpoints before it is given to the vCPUs.
pub(crate) fn check_breakpoints(set: &[Breakpoint]) -> Result<(), BreakpointError> {
    if set.len() > BREAKPOINT_LIMIT {
        return Err(BreakpointError::TooMany(set.len()));
    }
    for (index, &Breakpoint { id, address }) in set.iter().enumerate() {
        if !translate::is_canonical(address) {
            return Err(BreakpointError::NonCanonical { id, address });
        }
        if set[..index]
            .iter()
            .any(|other| other.id == id || other.address == address)
        {
            return Err(BreakpointError::Duplicate { id, address });
        }
    }
    Ok(())
}
