//! The user's breakpoints and watchpoints. A hardware breakpoint takes a debug register. A software breakpoint also
//! does, while one is left, because the guest can see an INT3 in its code.
//!
//! Talks to the [`Debuggee`](crate::vmi::debuggee::Debuggee), which knows how many registers are left.

use gdbstub::target::TargetResult;
use gdbstub::target::ext::breakpoints::{
    Breakpoints, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint, SwBreakpointOps, WatchKind,
};

use super::stub::{EINVAL, Errno, Stub};
use crate::vmi::debuggee::{StopPoint, StopPointKind};

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
    /// Its name on the command line.
    pub(super) fn parse(word: &str) -> Result<Self, String> {
        match word {
            "mixed" => Ok(Self::Mixed),
            "soft" => Ok(Self::Soft),
            "hard" => Ok(Self::Hard),
            other => Err(format!("`{other}` is none of mixed, soft, hard")),
        }
    }

    /// The kinds of stop points to be tried, in order.
    fn kinds(self, has_software_breakpoints: bool) -> &'static [StopPointKind] {
        match self {
            Self::Mixed if has_software_breakpoints => {
                &[StopPointKind::HardwareBreakpoint, StopPointKind::SoftwareBreakpoint]
            }
            Self::Soft if has_software_breakpoints => &[StopPointKind::SoftwareBreakpoint],
            Self::Mixed | Self::Soft | Self::Hard => &[StopPointKind::HardwareBreakpoint],
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

/// How gdb asked for a stop point, and how it wants its hit to be reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Software,
    Hardware,
    Watch(WatchKind),
}

impl Stub {
    /// Puts one stop point in beside the others, or tells the user why not: gdb has no text for it.
    fn place(&mut self, stop_point: StopPoint, asked: Asked) -> TargetResult<bool, Self> {
        if self.placed.contains(&(stop_point, asked)) {
            return Ok(true);
        }
        self.placed.push((stop_point, asked));
        match self.machine.set_stop_points(&self.distinct()) {
            Ok(()) => Ok(true),
            Err(error) => {
                self.placed.pop();
                self.notices.say_bounded(&format!(
                    "gdb: no breakpoint or watchpoint at {:#x}: {error}",
                    stop_point.address
                ));
                Err(ENOSPC.into())
            }
        }
    }

    /// Puts a software breakpoint in by the first means that is left.
    fn place_software(&mut self, address: u64) -> TargetResult<bool, Self> {
        if self.software(address).is_some() {
            return Ok(true);
        }
        let kinds = self.policy.kinds(self.machine.has_software_breakpoints());
        let (last, first) = kinds.split_last().unwrap_or((&StopPointKind::HardwareBreakpoint, &[]));
        for &kind in first {
            self.placed.push((instruction(kind, address), Asked::Software));
            if self.machine.set_stop_points(&self.distinct()).is_ok() {
                return Ok(true);
            }
            self.placed.pop();
        }
        let placed = self.place(instruction(*last, address), Asked::Software);
        if placed.is_ok()
            && *last == StopPointKind::SoftwareBreakpoint
            && !std::mem::replace(&mut self.software_told, true)
        {
            self.notices.say_bounded(&format!(
                "gdb: the breakpoint at {address:#x} is an int3 in the guest's code: a guest that checks its code will find \
                 it (`monitor storlock breakpoints hard` forbids that)"
            ));
        }
        placed
    }

    /// The stop point of a software breakpoint.
    fn software(&self, address: u64) -> Option<StopPoint> {
        let there =
            |(stop_point, asked): &&(StopPoint, Asked)| stop_point.address == address && *asked == Asked::Software;
        self.placed.iter().find(there).map(|(stop_point, _)| *stop_point)
    }

    fn take_out(&mut self, stop_point: StopPoint, asked: Asked) -> bool {
        let before = self.placed.len();
        self.placed.retain(|placed| *placed != (stop_point, asked));
        // Fewer stop points are always possible.
        let _ = self.machine.set_stop_points(&self.distinct());
        self.placed.len() < before
    }

    fn distinct(&self) -> Vec<StopPoint> {
        let mut stop_points = Vec::new();
        for (stop_point, _) in &self.placed {
            if !stop_points.contains(stop_point) {
                stop_points.push(*stop_point);
            }
        }
        stop_points
    }
}

fn instruction(kind: StopPointKind, address: u64) -> StopPoint {
    StopPoint {
        kind,
        address,
        length: 1,
    }
}

fn execute(address: u64) -> StopPoint {
    instruction(StopPointKind::HardwareBreakpoint, address)
}

/// A watchpoint. The processor has no register for reads alone, and none for other than 1, 2, 4 or 8 bytes that lie on a
/// multiple of their number.
fn watch(address: u64, length: u64, kind: WatchKind) -> Result<StopPoint, Errno> {
    if !matches!(length, 1 | 2 | 4 | 8) || !address.is_multiple_of(length) {
        return Err(EINVAL);
    }
    Ok(StopPoint {
        kind: match kind {
            WatchKind::Write => StopPointKind::WriteWatchpoint,
            WatchKind::Read | WatchKind::ReadWrite => StopPointKind::AccessWatchpoint,
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
        let stop_point = self.software(addr);
        Ok(stop_point.is_some_and(|stop_point| self.take_out(stop_point, Asked::Software)))
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
