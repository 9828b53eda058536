//! What drivers print for a debugger, taken at the entries of the printing routines: `storlock run --debug-print`.
//!
//! Uses debug registers that neither watched routines nor caught returns need: verdicts come before the log. With none left
//! there is no log, and the report says so. Talks to the formatter. It must not know what a line means.

use super::state::State;
use super::{Recorder, Session};
use crate::report::{DebugLine, DebugPrint};
use crate::vmi::{Breakpoint, CpuState};
use crate::windows::Imports;
use crate::windows::debug_print::Printer;

/// Debug registers that stay free for catching the return of a watched routine.
const FOR_RETURNS: usize = 1;
/// Lines that are kept; a guest can print for ever.
const LINES: usize = 10_000;

impl Session {
    /// The printing routines to be watched where the watched routines leave so many debug registers, those first that the
    /// driver under test imports.
    pub(crate) fn printers(&self, state: &mut State, imports: &Imports, free: usize) -> Vec<(Breakpoint, Printer)> {
        if !self.config.debug_print {
            return Vec::new();
        }
        let mut wanted = Printer::ALL;
        wanted.sort_by_key(|printer| imports.get(printer.export()).is_none());
        let exported = wanted.iter().filter_map(|&printer| {
            let address = state.kernel.as_ref()?.address_of(printer.export())?;
            Some((printer, address))
        });
        let chosen: Vec<_> = exported.take(free.saturating_sub(FOR_RETURNS)).collect();
        state.debug_print.routines = chosen
            .iter()
            .map(|(printer, _)| format!("nt!{}", printer.export()))
            .collect();
        let breakpoints = chosen.into_iter();
        breakpoints
            .map(|(printer, address)| (state.new_breakpoint(address), printer))
            .collect()
    }

    /// The breakpoint with that number was hit: notes the line if it is a printing routine's.
    pub(crate) fn printed(&self, state: &mut State, cpu: &Recorder<'_>, id: u32) -> bool {
        let printers = self.printers.load();
        let Some((_, printer)) = printers.iter().find(|(breakpoint, _)| breakpoint.id == id) else {
            return false;
        };
        if state.debug_print.lines.len() >= LINES {
            state.debug_print.not_kept += 1;
            return true;
        }
        let text = printer.line(cpu);
        let event = state.sequence;
        let vcpu = cpu.index();
        state.debug_print.lines.push(DebugLine { event, vcpu, text });
        true
    }

    /// The log, if it was asked for.
    pub(crate) fn debug_log(&self, state: &State) -> Option<DebugPrint> {
        self.config.debug_print.then(|| state.debug_print.clone())
    }
}
