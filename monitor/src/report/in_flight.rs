//! Requests that storage controllers owed the guest at its end, and how far each had come: plain data of a report.

use serde::{Deserialize, Serialize};

use super::finding::{LockIdentity, PriorCall};

/// What was outstanding when the machine stood still for good.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// Controllers that owed something, or had a reset cut something off or the guest end it.
    pub(crate) controllers: Vec<ControllerInFlight>,
    /// Locks that the driver under test held then.
    #[serde(default)]
    pub(crate) held: Vec<HeldLock>,
}

/// What one controller owed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerInFlight {
    /// Its name, such as `nvme0`.
    pub(crate) controller: String,
    /// Requests that it had fetched and whose completions the guest had not taken, in the order in which they were fetched.
    pub(crate) outstanding: Vec<RequestInFlight>,
    /// The last reset that has cut requests off.
    pub(crate) reset: Option<CutOff>,
    /// Requests that were too many to be kept.
    pub(crate) not_kept: u64,
    /// Requests that the guest has ended by task management and that had no completion: nothing is owed for them. The last
    /// ones, the latest last.
    #[serde(default)]
    pub(crate) given_up: Vec<RequestInFlight>,
}

/// A reset at which requests were outstanding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutOff {
    /// When, in milliseconds since the guest's start.
    pub(crate) at_ms: u64,
    /// The requests as they were then.
    pub(crate) outstanding: Vec<RequestInFlight>,
}

/// A request, and how far it had come. Times are milliseconds since the guest's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestInFlight {
    /// The queue that it was submitted to; 0 where there is one.
    pub(crate) queue: u16,
    /// The command identifier, or the message's context.
    pub(crate) id: u32,
    /// The command, as `--fault` names it.
    pub(crate) command: String,
    /// The disk that it was for: namespace or target.
    pub(crate) disk: Option<u32>,
    /// First logical block, and how many.
    pub(crate) lba: Option<u64>,
    /// How many blocks.
    pub(crate) blocks: Option<u32>,
    /// When the controller fetched it.
    pub(crate) fetched_ms: u64,
    /// When its completion was posted.
    pub(crate) posted_ms: Option<u64>,
    /// When an interrupt was sent for it.
    pub(crate) interrupt_ms: Option<u64>,
    /// The message that was sent; `None` with a time: the pin.
    pub(crate) message: Option<u16>,
    /// The processor at whose local APIC that interrupt was at the end.
    pub(crate) vcpu: Option<u32>,
    /// When the guest gave it up: asked for its abort (NVMe), which does not end it here, or ended it by task management (SAS).
    #[serde(default)]
    pub(crate) given_up_ms: Option<u64>,
    /// Who has it, as far as that can be told.
    pub(crate) with: RequestWith,
}

/// Who has a request that has not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestWith {
    /// The controller: it has not posted the completion, and no fault is known to be the reason.
    Controller,
    /// A fault of the plan: its completion is never posted.
    DroppedByFault,
    /// A fault of the plan: its completion was still to come.
    DelayedByFault,
    /// The controller had come to a fatal error, and only a reset helps.
    FatalError,
    /// The guest: the completion was posted, and no interrupt was sent, because the guest wants none.
    NoInterrupt,
    /// The guest: the completion was posted, and no interrupt was sent, because the guest masks it.
    InterruptMasked,
    /// The guest: the completion was posted and an interrupt was sent, which waits at the local APIC of a processor that has not
    /// taken it.
    InterruptPending,
    /// The guest: the completion was posted, and a processor has taken the interrupt and not said that it is done.
    InterruptInService,
    /// The guest: the completion was posted and an interrupt was sent, and the driver has not taken the completion.
    NotTaken,
}

impl RequestWith {
    /// As it is written for people.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Controller => "the controller has not completed it",
            Self::DroppedByFault => "a fault of the plan dropped its completion",
            Self::DelayedByFault => "a fault of the plan delays its completion",
            Self::FatalError => "the controller has reported a fatal error and completes nothing",
            Self::NoInterrupt => "completed; no interrupt was sent, because the guest wants none",
            Self::InterruptMasked => "completed; the guest masks the interrupt",
            Self::InterruptPending => "completed and interrupted; the processor has not taken the interrupt",
            Self::InterruptInService => {
                "completed; the processor is in the interrupt, and the driver has not taken the completion"
            }
            Self::NotTaken => "completed and interrupted; the driver has not taken the completion",
        }
    }
}

/// A lock that the driver held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLock {
    /// The lock.
    pub(crate) lock: LockIdentity,
    /// Its acquire.
    pub(crate) acquire: PriorCall,
}
