//! How a guest ended, and what its processors did then: plain data of a report.

use serde::{Deserialize, Serialize};

use super::finding::{LockIdentity, PriorCall};
use super::model::Location;
use super::reason::StackEnd;

/// What ended the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndKind {
    /// The guest powered the machine off.
    PowerOff,
    /// The guest reset the machine.
    Reset,
    /// A processor shut down after a triple fault.
    TripleFault,
    /// The guest reported its crash to the hypervisor.
    Crash,
    /// The wall-clock limit was reached.
    TimeLimit,
    /// KVM could not execute an instruction.
    InternalError,
    /// The user interrupted the run.
    Interrupted,
    /// The session or another handler stopped the machine.
    Stopped,
    /// A processor was about to wait for itself for ever, and the run was ended there.
    Deadlock,
    /// The host failed.
    Failed,
    /// An event trace does not say how its run ended.
    NotRecorded,
    /// The recording ends without saying how.
    #[default]
    Unknown,
}

impl EndKind {
    /// As it is written for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::PowerOff => "power off",
            Self::Reset => "reset",
            Self::TripleFault => "triple fault",
            Self::Crash => "crash",
            Self::TimeLimit => "time limit",
            Self::InternalError => "internal error",
            Self::Interrupted => "interrupted",
            Self::Stopped => "stopped",
            Self::Deadlock => "deadlock",
            Self::Failed => "failed",
            Self::NotRecorded => "not recorded",
            Self::Unknown => "unknown",
        }
    }
}

/// How the guest ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndOfRun {
    /// What ended it.
    pub kind: EndKind,
    /// One sentence more, where there is more to say.
    pub detail: Option<String>,
    /// The bug check that the guest recorded.
    pub bug_check: Option<BugCheck>,
    /// What each virtual processor was doing, if the guest did not end by itself.
    pub processors: Vec<ProcessorState>,
    /// Processors that wait for each other: each for a lock that the next has, and the last for one of the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deadlock: Vec<u32>,
}

/// A Windows bug check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BugCheck {
    /// Bug check code, such as 0xD1.
    pub code: u64,
    /// Its four parameters.
    pub parameters: [u64; 4],
}

/// What a virtual processor was doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessorState {
    /// Number of the vCPU.
    pub vcpu: u32,
    /// Where it was.
    pub location: Location,
    /// Its IRQL.
    pub irql: u8,
    /// What it was doing there, where known (`halted`, an instruction).
    pub(crate) activity: Option<String>,
    /// Its call stack, innermost first.
    pub stack: Vec<Location>,
    /// Why the stack ends where it does, if not at its outermost frame.
    #[serde(flatten, with = "super::render::told::stack_end")]
    pub stack_end: Option<StackEnd>,
    /// The lock that it waits for, if it stands in an acquire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) waits_for: Option<WaitsFor>,
}

/// A lock that a processor waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WaitsFor {
    /// Which.
    pub lock: LockIdentity,
    /// The acquire in which it stands.
    pub acquire: PriorCall,
    /// Who took the lock last; `None` if no acquire of it was seen.
    pub holder: Option<LockHolder>,
}

/// Who took a lock last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LockHolder {
    /// The processor that has it.
    pub vcpu: u32,
    /// Its acquire has certainly come back with the lock.
    pub certain: bool,
    /// The release that followed, if one was seen.
    pub released: Option<PriorCall>,
    /// Its acquire.
    pub acquire: PriorCall,
}
