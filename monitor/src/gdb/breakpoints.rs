//! The user's breakpoints and watchpoints. A hardware one takes a debug register. A software one does so, too, while one is
//! left: what is written into the guest's code can be seen there.
//!
//! Talks to the [`Debuggee`](crate::target::debuggee::Debuggee), which knows how many registers are left.

use gdbstub::target::TargetResult;
use gdbstub::target::ext::breakpoints::{
    Breakpoints, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint, SwBreakpointOps, WatchKind,
};

use super::stub::{EINVAL, Errno, Stub};
use crate::target::debuggee::{Trap, TrapKind};

/// There is no debug register left.
const ENOSPC: Errno = Errno(28);

/// What a software breakpoint takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Policy {
    /// A debug register while one is left, then INT3.
    #[default]
    Mixed,
    /// INT3.
    Soft,
    /// A debug register.
    Hard,
}

impl Policy {
    /// As it is said on the command line.
    pub(super) fn parse(word: &str) -> Result<Self, String> {
        match word {
            "mixed" => Ok(Self::Mixed),
            "soft" => Ok(Self::Soft),
            "hard" => Ok(Self::Hard),
            other => Err(format!("`{other}` is none of mixed, soft, hard")),
        }
    }

    /// The kinds of traps to be tried, in order.
    fn kinds(self, can_patch: bool) -> &'static [TrapKind] {
        match self {
            Self::Mixed if can_patch => &[TrapKind::Execute, TrapKind::Patch],
            Self::Soft if can_patch => &[TrapKind::Patch],
            Self::Mixed | Self::Soft | Self::Hard => &[TrapKind::Execute],
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mixed => "a debug register while one is left, then int3 (mixed)",
            Self::Soft => "int3 (soft)",
            Self::Hard => "a debug register (hard)",
        })
    }
}

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
                crate::tell_bounded!("gdb: no breakpoint or watchpoint at {:#x}: {error}", trap.address);
                Err(ENOSPC.into())
            }
        }
    }

    /// Puts a software breakpoint in by the first means that is left.
    fn place_software(&mut self, address: u64) -> TargetResult<bool, Self> {
        if self.software(address).is_some() {
            return Ok(true);
        }
        let kinds = self.policy.kinds(self.machine.can_patch());
        let (last, first) = kinds.split_last().unwrap_or((&TrapKind::Execute, &[]));
        for &kind in first {
            self.placed.push((instruction(kind, address), Asked::Software));
            if self.machine.set_traps(&self.distinct()).is_ok() {
                return Ok(true);
            }
            self.placed.pop();
        }
        let placed = self.place(instruction(*last, address), Asked::Software);
        if placed.is_ok() && *last == TrapKind::Patch && !std::mem::replace(&mut self.patch_told, true) {
            crate::tell_bounded!(
                "gdb: the breakpoint at {address:#x} is an int3 in the guest's code: a guest that checks its code will find \
                 it (`monitor storlock breakpoints hard` forbids that)"
            );
        }
        placed
    }

    /// The trap of a software breakpoint.
    fn software(&self, address: u64) -> Option<Trap> {
        let there = |(trap, asked): &&(Trap, Asked)| trap.address == address && *asked == Asked::Software;
        self.placed.iter().find(there).map(|(trap, _)| *trap)
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

fn instruction(kind: TrapKind, address: u64) -> Trap {
    Trap {
        kind,
        address,
        length: 1,
    }
}

fn execute(address: u64) -> Trap {
    instruction(TrapKind::Execute, address)
}

/// A watchpoint. The processor has no register for reads alone, and none for other than 1, 2, 4 or 8 bytes that lie on a
/// multiple of their number.
fn watch(address: u64, length: u64, kind: WatchKind) -> Result<Trap, Errno> {
    if !matches!(length, 1 | 2 | 4 | 8) || !address.is_multiple_of(length) {
        return Err(EINVAL);
    }
    Ok(Trap {
        kind: match kind {
            WatchKind::Write => TrapKind::Write,
            WatchKind::Read | WatchKind::ReadWrite => TrapKind::Access,
        },
        address,
        length: length as u8,
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
        self.place_software(addr)
    }

    fn remove_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        let trap = self.software(addr);
        Ok(trap.is_some_and(|trap| self.take_out(trap, Asked::Software)))
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
        self.place(watch(addr, len, kind)?, Asked::Watch(kind))
    }

    fn remove_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(self.take_out(watch(addr, len, kind)?, Asked::Watch(kind)))
    }
}
