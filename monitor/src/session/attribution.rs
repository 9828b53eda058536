//! Who made a call: module, nearest symbol and call stack of a stopped processor.
//!
//! Talks to the readers of Windows structures. It must not know what the call did. Done for violations and at the end
//! of a run only.

use std::collections::HashMap;

use super::state::State;
use crate::report::{Frame, Location};
use crate::target::{CpuState, GuestMemory};
use crate::windows::{self, Modules, SymbolTable, unwind};

/// Frames of a stack that are shown.
const FRAMES: usize = 32;

/// Where a violation came from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attribution {
    pub(crate) caller: Location,
    pub(crate) caller_note: Option<String>,
    pub(crate) stack: Vec<Frame>,
    pub(crate) stack_note: Option<String>,
    /// Where the lock's earlier calls came from, by return address.
    pub(crate) places: HashMap<u64, Location>,
}

impl State {
    /// Notes where the violation with this number came from, while its processor is stopped at it.
    pub(crate) fn attribute(&mut self, cpu: &(impl CpuState + ?Sized), index: usize) {
        let Some(violation) = self.checker.violations().get(index) else {
            return;
        };
        let return_address = violation.call.context.return_address;
        let mut earlier: Vec<u64> = violation
            .history
            .iter()
            .map(|entry| entry.call.context.return_address)
            .collect();
        earlier.extend(
            violation
                .acquire
                .iter()
                .chain(&violation.holder)
                .map(|call| call.context.return_address),
        );
        earlier.sort_unstable();
        earlier.dedup();
        let (stack, stack_note) = self.stack(cpu);
        let (caller, caller_note, by_target) = self.caller(cpu, return_address);
        if by_target {
            self.checker.claim(index);
        }
        let places = earlier
            .into_iter()
            .map(|address| (address, self.locate(cpu, address, false)))
            .collect();
        self.findings.insert(
            index,
            Attribution {
                caller,
                caller_note,
                stack,
                stack_note,
                places,
            },
        );
    }

    /// The call stack of a stopped processor.
    pub(crate) fn stack(&mut self, cpu: &(impl CpuState + ?Sized)) -> (Vec<Frame>, Option<String>) {
        walk(&mut self.symbols, self.list.as_mut(), cpu)
    }

    /// Who called the routine that the processor is about to enter, what is to be said beside it, and whether it was the
    /// driver under test by a call in tail position.
    pub(crate) fn caller(
        &mut self,
        cpu: &(impl CpuState + ?Sized),
        return_address: u64,
    ) -> (Location, Option<String>, bool) {
        let Some(mut list) = self.list.take() else {
            return (Location::unknown(return_address), None, false);
        };
        let caller = windows::attribute(cpu, &mut list, &cpu.registers());
        self.list = Some(list);
        let returns_to = self.locate(cpu, return_address, false);
        match caller.attribution {
            windows::Attribution::TailCall { function } => (
                self.locate(cpu, function, true),
                Some(format!("by a tail call; it returns to {returns_to}")),
                self.target
                    .as_ref()
                    .is_some_and(|(module, _)| function.wrapping_sub(module.base) < module.size),
            ),
            windows::Attribution::Call => (returns_to, None, false),
            windows::Attribution::Unknown(reason) => (
                returns_to,
                Some(format!(
                    "this is where the call returns to; the caller is unknown: {reason}"
                )),
                false,
            ),
        }
    }

    /// What is known of a code address. A return address (`exact` is false) belongs to the call before it, which may
    /// be the last instruction of its function.
    pub(crate) fn locate(&mut self, memory: &(impl GuestMemory + ?Sized), address: u64, exact: bool) -> Location {
        match &mut self.list {
            Some(list) => locate(&mut self.symbols, list, memory, address, exact),
            None => self.modules.locate(address, u64::from(!exact)),
        }
    }
}

/// See [`State::locate`].
pub(crate) fn locate(
    symbols: &mut SymbolTable,
    list: &mut Modules,
    memory: &(impl GuestMemory + ?Sized),
    address: u64,
    exact: bool,
) -> Location {
    let before = u32::from(!exact);
    let found = symbols.locate(memory, list, address.wrapping_sub(u64::from(before)));
    let Some((module, offset)) = found.module else {
        return Location::unknown(address);
    };
    Location {
        address,
        module: Some(module),
        offset: Some(u64::from(offset + before)),
        symbol: found
            .symbol
            .map(|(name, distance)| (name, u64::from(distance + before))),
    }
}

/// The call stack of a stopped processor, and why it ends early if it does.
pub(crate) fn walk(
    symbols: &mut SymbolTable,
    list: Option<&mut Modules>,
    cpu: &(impl CpuState + ?Sized),
) -> (Vec<Frame>, Option<String>) {
    let Some(list) = list else {
        let frame = Frame {
            location: Location::unknown(cpu.registers().rip),
            note: None,
        };
        return (vec![frame], Some("the kernel was not found".to_owned()));
    };
    let stack = unwind::walk(cpu, list, &cpu.registers(), FRAMES);
    let frames = stack.frames.iter().map(|frame| Frame {
        location: locate(symbols, list, cpu, frame.rip, frame.exact),
        note: None,
    });
    let frames = frames.collect();
    let note = (stack.end != unwind::EndReason::Bottom).then(|| stack.end.to_string());
    (frames, note)
}
