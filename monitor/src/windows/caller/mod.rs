//! Finds out who called the routine that a processor is about to enter.
//!
//! The return address is not always in the caller: a call in tail position is compiled to a jump, and then the return
//! address is in the caller's caller. So the call instruction before the return address is decoded. If it calls the
//! routine, the function around it is the caller. If it calls another function that jumps to the routine, that function
//! is. Otherwise the caller is unknown, and the report says so. Talks to guest memory and the module list; must not
//! know which routine it is about.

pub(super) mod code;

use serde::{Deserialize, Serialize};

use code::{Target, call_before, jumps_to};

use super::modules::Modules;
use crate::vmi::{GuestMemory, Registers};

/// Who made the call, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribution {
    /// The instruction before the return address calls the routine.
    Call,
    /// It calls this function, which jumps to the routine: the call is this function's, the last thing it does.
    TailCall {
        /// Address of the function.
        function: u64,
    },
    /// It cannot be told; the return address belongs to the caller or to the caller's caller.
    Unknown(UnknownReason),
}

/// Why a caller cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownReason {
    /// There is no call instruction, or the code cannot be read.
    #[error("there is no call instruction before the return address")]
    NoCall,
    /// It goes through a register or memory whose value at the time cannot be told.
    #[error("it was reached through an indirect call, perhaps by a tail call")]
    Indirect,
    /// The function that was called contains no jump to the routine.
    #[error("it was reached by a tail call from within a function that was called")]
    Elsewhere,
}

/// The caller of a routine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The quadword at the stack pointer.
    pub return_address: u64,
    /// Who it belongs to.
    pub(crate) attribution: Attribution,
}

impl Caller {
    /// The address in the code that made the call, for naming its module: the function that ended in the tail call, or
    /// the return address. `None` if it is not known.
    #[must_use]
    pub fn address(&self) -> Option<u64> {
        match self.attribution {
            Attribution::Call => Some(self.return_address),
            Attribution::TailCall { function } => Some(function),
            Attribution::Unknown(_) => None,
        }
    }

    /// What to say beside the return address; nothing for an ordinary call. `name` spells an address.
    pub fn note(&self, name: impl FnOnce(u64) -> String) -> Option<String> {
        match self.attribution {
            Attribution::Call => None,
            Attribution::TailCall { function } => Some(format!("tail call from {}", name(function))),
            Attribution::Unknown(reason) => Some(format!("caller unknown: {reason}")),
        }
    }
}

/// Tells who called the routine whose first instruction is at the instruction pointer.
pub fn attribute(memory: &(impl GuestMemory + ?Sized), modules: &mut Modules, registers: &Registers) -> Caller {
    let routine = registers.rip;
    let return_address = memory.read_u64(registers.rsp()).unwrap_or(0);
    let attribution = match call_before(memory, modules, return_address, registers, routine) {
        None => Attribution::Unknown(UnknownReason::NoCall),
        Some(Target::Unknown) => Attribution::Unknown(UnknownReason::Indirect),
        Some(Target::Address(target)) if target == routine => Attribution::Call,
        Some(Target::Address(target)) => match jumps_to(memory, modules, target, routine) {
            code::Jump::Thunk => Attribution::Call,
            code::Jump::FromFunction => Attribution::TailCall { function: target },
            code::Jump::None => Attribution::Unknown(UnknownReason::Elsewhere),
        },
    };
    Caller {
        return_address,
        attribution,
    }
}
