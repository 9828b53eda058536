//! The user's breakpoints and watchpoints. Each takes a debug register, a software breakpoint, too: nothing is written into
//! the guest's code.
//!
//! Talks to the [`Debuggee`](crate::target::debuggee::Debuggee), which knows how many registers are left.

use gdbstub::target::ext::breakpoints::{
    Breakpoints, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::{TargetError, TargetResult};

use super::stub::{EINVAL, Stub};
use crate::target::debuggee::{Trap, TrapKind};

/// `ENOSPC` of the protocol: there is no debug register left.
const ENOSPC: u8 = 28;

/// How gdb asked for a trap, and how it wants its hit to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Software,
    Hardware,
    Watch(WatchKind),
}

impl Stub {
    /// Puts one trap in beside the others, or says on standard error why not: gdb has no text for it.
    fn place(&mut self, trap: Trap, asked: Asked) -> TargetResult<bool, Self> {
        if self.placed.contains(&(trap, asked)) {
            return Ok(true);
        }
        self.placed.push((trap, asked));
        match self.machine.set_traps(&self.distinct()) {
            Ok(()) => Ok(true),
            Err(error) => {
                self.placed.pop();
                eprintln!("gdb: no breakpoint or watchpoint at {:#x}: {error}", trap.address);
                Err(TargetError::Errno(ENOSPC))
            }
        }
    }

    fn take_out(&mut self, trap: Trap, asked: Asked) -> bool {
        let before = self.placed.len();
        self.placed.retain(|placed| *placed != (trap, asked));
        // Fewer traps are always possible.
        let _ = self.machine.set_traps(&self.distinct());
        self.placed.len() < before
    }

    fn distinct(&self) -> Vec<Trap> {
        let mut traps = Vec::new();
        for (trap, _) in &self.placed {
            if !traps.contains(trap) {
                traps.push(*trap);
            }
        }
        traps
    }
}

fn execute(address: u64) -> Trap {
    Trap {
        kind: TrapKind::Execute,
        address,
        length: 1,
    }
}

/// A watchpoint; `None` if its length is none that a debug register has. The processor has no register for reads alone.
fn watch(address: u64, length: u64, kind: WatchKind) -> Option<Trap> {
    Some(Trap {
        kind: match kind {
            WatchKind::Write => TrapKind::Write,
            WatchKind::Read | WatchKind::ReadWrite => TrapKind::Access,
        },
        address,
        length: u8::try_from(length).ok()?,
    })
}

impl Breakpoints for Stub {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Stub {
    fn add_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        self.place(execute(addr), Asked::Software)
    }

    fn remove_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.take_out(execute(addr), Asked::Software))
    }
}

impl HwBreakpoint for Stub {
    fn add_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        self.place(execute(addr), Asked::Hardware)
    }

    fn remove_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.take_out(execute(addr), Asked::Hardware))
    }
}

impl HwWatchpoint for Stub {
    fn add_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        match watch(addr, len, kind) {
            Some(trap) => self.place(trap, Asked::Watch(kind)),
            None => Err(TargetError::Errno(EINVAL)),
        }
    }

    fn remove_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(watch(addr, len, kind).is_some_and(|trap| self.take_out(trap, Asked::Watch(kind))))
    }
}
