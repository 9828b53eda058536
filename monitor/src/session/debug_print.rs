//! The log of what drivers print for a debugger, read at the entries of the printing routines: `storlock run
//! --debug-print`.
//!
//! It uses debug registers that neither watched routines nor caught returns need, because verdicts matter more than the
//! log. If no register is left there is no log, and the report says so. Talks to the formatter. It must not know what a
//! line means.

use super::guest::Guest;
use super::watching::Watching;
use crate::report::{DebugLine, DebugPrint};
use crate::vmi::{Breakpoint, CpuState};
use crate::windows::Imports;
use crate::windows::debug_print::Printer;

/// Debug registers that stay free for catching the return of a watched routine.
const FOR_RETURNS: usize = 1;
/// Lines that are kept; a guest can print for ever.
const LINES: usize = 10_000;

/// The log.
#[derive(Debug, Default)]
pub(crate) struct DebugLog {
    wanted: bool,
    log: DebugPrint,
}

impl DebugLog {
    /// An empty log; without `wanted` nothing is printed into it.
    pub(crate) fn new(wanted: bool) -> Self {
        Self {
            wanted,
            log: DebugPrint::default(),
        }
    }

    /// Breakpoints on the printing routines where the watched routines leave so many debug registers, those first that the
    /// driver under test imports.
    pub(crate) fn printers(
        &mut self,
        guest: &Guest,
        watching: &mut Watching,
        imports: &Imports,
        free: usize,
    ) -> Vec<(Breakpoint, Printer)> {
        if !self.wanted {
            return Vec::new();
        }
        let mut wanted = Printer::ALL;
        wanted.sort_by_key(|printer| imports.get(printer.export()).is_none());
        let exported = wanted
            .iter()
            .filter_map(|&printer| Some((printer, guest.kernel_export(printer.export())?)));
        let chosen: Vec<_> = exported.take(free.saturating_sub(FOR_RETURNS)).collect();
        self.log.routines = chosen
            .iter()
            .map(|(printer, _)| format!("nt!{}", printer.export()))
            .collect();
        let breakpoints = chosen.into_iter();
        breakpoints
            .map(|(printer, address)| (watching.new_breakpoint(address), printer))
            .collect()
    }

    /// A printing routine was entered, after this event.
    pub(crate) fn printed(&mut self, cpu: &impl CpuState, printer: Printer, event: u64) {
        if self.log.lines.len() >= LINES {
            self.log.not_kept += 1;
            return;
        }
        let text = printer.line(cpu);
        let vcpu = cpu.index();
        self.log.lines.push(DebugLine { event, vcpu, text });
    }

    /// The log, if it was asked for.
    pub(crate) fn list(&self) -> Option<DebugPrint> {
        self.wanted.then(|| self.log.clone())
    }
}
