//! Who made a call: module, nearest symbol and call stack of a stopped processor.
//!
//! Talks to the readers of Windows structures. It must not know what the call did. Done for violations and at the end
//! of a run only.

use std::collections::{BTreeSet, HashMap};

use storlock_check::event::{CallerAttributed, Context};

use super::state::State;
use crate::report::{Called, Location};
use crate::vmi::{CpuState, GuestMemory};
use crate::windows::{self, Modules, SymbolTable, unwind};

/// Frames of a stack that are shown.
const FRAMES: usize = 32;

/// Where a violation came from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attribution {
    pub(crate) caller: Location,
    pub(crate) called: Called,
    pub(crate) stack: Vec<Location>,
    pub(crate) stack_note: Option<String>,
    /// Where the lock's earlier calls came from, by return address.
    pub(crate) places: HashMap<u64, Location>,
}

impl State {
    /// Tells who made the call that the processor stands at: its last event. Costs two frames of the stack and no names, since
    /// it is asked for every call in which something was found, new or not.
    pub(crate) fn who_called(&mut self, cpu: &(impl CpuState + ?Sized), context: &Context) -> CallerAttributed {
        let mut told = CallerAttributed {
            call: self.sequence,
            caller: context.return_address,
            ..CallerAttributed::default()
        };
        let Some(list) = self.list.as_mut() else { return told };
        let registers = cpu.registers();
        // The innermost frame is that of whoever called the routine, unless that one has left by a jump.
        let mut inner = 1;
        if let windows::Attribution::TailCall { function } = windows::attribute(cpu, list, &registers).attribution {
            told.caller = function;
            let target = self.target.as_ref().map(|(module, _)| module);
            told.target = target.is_some_and(|module| function.wrapping_sub(module.base) < module.size);
            inner = 0;
        }
        let stack = unwind::walk_callers(cpu, list, &registers, inner + told.frames.len());
        for (frame, known) in told.frames.iter_mut().zip(stack.frames.iter().skip(inner)) {
            *frame = known.rip;
        }
        told
    }

    /// Notes where a new finding came from, while its processor is stopped.
    pub(crate) fn attribute(&mut self, cpu: &(impl CpuState + ?Sized), index: usize) {
        let Some(finding) = self.checker.violations().get(index) else {
            return;
        };
        let return_address = finding.call.context.return_address;
        let at_call = finding.stands_at_call();
        let earlier: BTreeSet<u64> = finding.code_addresses().collect();
        let mut attribution = Attribution {
            caller: self.locate(cpu, return_address, false),
            ..Attribution::default()
        };
        if at_call {
            self.caller(cpu, &mut attribution);
            (attribution.stack, attribution.stack_note) = self.callers(cpu);
        } else {
            attribution.stack_note = Some("the call is over: its stack is gone".to_owned());
        }
        let places = earlier.into_iter();
        attribution.places = places
            .map(|address| (address, self.locate(cpu, address, false)))
            .collect();
        self.findings.insert(index, attribution);
    }

    /// The call stack of a stopped processor.
    pub(crate) fn stack(&mut self, cpu: &(impl CpuState + ?Sized)) -> (Vec<Location>, Option<String>) {
        walk(&mut self.symbols, self.list.as_mut(), cpu)
    }

    /// The call stack of a processor that stands at the first instruction of a routine.
    fn callers(&mut self, cpu: &(impl CpuState + ?Sized)) -> (Vec<Location>, Option<String>) {
        let registers = cpu.registers();
        let routine = self.locate(cpu, registers.rip, true);
        let Some(list) = self.list.as_mut() else {
            return self.stack(cpu);
        };
        let stack = unwind::walk_callers(cpu, list, &registers, FRAMES - 1);
        let (mut frames, note) = named(&mut self.symbols, list, cpu, &stack);
        frames.insert(0, routine);
        (frames, note)
    }

    /// Who called the routine that the processor is about to enter. `known`: as if it were whoever the call returns to.
    pub(crate) fn caller(&mut self, cpu: &(impl CpuState + ?Sized), known: &mut Attribution) {
        let Some(list) = self.list.as_mut() else { return };
        let caller = windows::attribute(cpu, list, &cpu.registers());
        known.called = match caller.attribution {
            windows::Attribution::Call => Called::Call,
            windows::Attribution::Unknown(reason) => Called::Unknown { reason },
            windows::Attribution::TailCall { function } => {
                let caller = self.locate(cpu, function, true);
                let returns_to = std::mem::replace(&mut known.caller, caller);
                Called::TailCall { returns_to }
            }
        };
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
) -> (Vec<Location>, Option<String>) {
    let Some(list) = list else {
        let location = Location::unknown(cpu.registers().rip);
        return (vec![location], Some("the kernel was not found".to_owned()));
    };
    let stack = unwind::walk(cpu, list, &cpu.registers(), FRAMES);
    named(symbols, list, cpu, &stack)
}

/// The places of a stack, and why it ends early if it does.
fn named(
    symbols: &mut SymbolTable,
    list: &mut Modules,
    memory: &(impl GuestMemory + ?Sized),
    stack: &unwind::Stack,
) -> (Vec<Location>, Option<String>) {
    let frames = stack.frames.iter();
    let frames = frames.map(|frame| locate(symbols, list, memory, frame.rip, frame.exact));
    let note = (stack.end != unwind::EndReason::Bottom).then(|| stack.end.to_string());
    (frames.collect(), note)
}
