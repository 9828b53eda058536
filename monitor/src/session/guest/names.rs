//! Names code addresses (module and nearest symbol) and unwinds call stacks of a stopped processor.
//!
//! Talks to the readers of Windows structures. It must not know what a call did. It is slow, so it is used only for
//! findings, at the end of a run and for debuggers.

use std::collections::BTreeSet;

use storlock_check::event::CallerAttributed;
use storlock_check::finding::Finding;

use crate::report::{Called, Location, ModuleInfo, SourceLine, StackEnd};
use crate::session::findings::Attribution;
use crate::vmi::{CpuState, GuestMemory};
use crate::windows::{self, Modules, SymbolTable, unwind};

/// Frames of a stack that are shown.
const FRAMES: usize = 32;

/// Who called the routine that a processor is about to enter.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Where the call was made, or where it returns to if the caller is not known.
    pub(crate) place: Location,
    pub(crate) called: Called,
    /// The function that made the call as the last thing it did, by a jump.
    pub(crate) jumped_from: Option<u64>,
}

/// The guest's module list and the names in these modules. A copy can be asked without changing what the session knows.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    list: Option<Modules>,
    symbols: SymbolTable,
}

impl Names {
    /// With the symbols of files that the run was started with; the guest's modules are not known yet.
    pub(super) fn new(symbols: SymbolTable) -> Self {
        Self { list: None, symbols }
    }

    pub(super) fn set_list(&mut self, list: Option<Modules>) {
        self.list = list;
    }

    pub(super) fn list(&self) -> Option<&Modules> {
        self.list.as_ref()
    }

    pub(super) fn list_mut(&mut self) -> Option<&mut Modules> {
        self.list.as_mut()
    }

    /// The modules as they are in the guest now; none before its kernel is known.
    pub(crate) fn read_modules(&mut self, memory: &(impl GuestMemory + ?Sized)) -> &[windows::Module] {
        let Some(list) = &mut self.list else { return &[] };
        // What can be read of a list that is being changed is worth showing.
        let _ = list.refresh(memory);
        list.known()
    }

    /// What is known of a code address. A return address (`exact` is false) belongs to the call before it, which may be the
    /// last instruction of its function.
    pub(crate) fn locate(&mut self, memory: &(impl GuestMemory + ?Sized), address: u64, exact: bool) -> Location {
        let Some(list) = &mut self.list else {
            return Location::unknown(address);
        };
        let before = u32::from(!exact);
        let found = self
            .symbols
            .locate(memory, list, address.wrapping_sub(u64::from(before)));
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
            source: found.source.map(|(file, line)| SourceLine { file, line }),
        }
    }

    /// By whom the routine is called that the processor is about to enter; `None` before the guest's kernel is known.
    pub(crate) fn attributed(&mut self, cpu: &(impl CpuState + ?Sized)) -> Option<windows::Attribution> {
        let list = self.list.as_mut()?;
        Some(windows::attribute(cpu, list, &cpu.registers()).attribution)
    }

    /// Adds names and lines from the files that the run was started with to a return address of which module and offset are known.
    pub(crate) fn name_place(&self, place: &mut Location, modules: &[ModuleInfo]) {
        self.name(place, modules, 1);
    }

    /// The same for the first instruction of a function.
    pub(crate) fn name_function(&self, place: &mut Location, modules: &[ModuleInfo]) {
        self.name(place, modules, 0);
    }

    /// `back`: so many bytes before the place is the code that it is about.
    fn name(&self, place: &mut Location, modules: &[ModuleInfo], back: u32) {
        let (Some(module), Some(offset)) = (&place.module, place.offset) else {
            return;
        };
        let before = offset.checked_sub(u64::from(back));
        let Some(before) = before.and_then(|offset| u32::try_from(offset).ok()) else {
            return;
        };
        let Some(size) = modules
            .iter()
            .find(|known| known.name == *module)
            .map(|known| known.size)
        else {
            return;
        };
        let (symbol, source) = self.symbols.in_file(module, size, before);
        place.symbol = symbol.map(|(name, distance)| (name.to_owned(), u64::from(distance) + u64::from(back)));
        place.source = source.map(|(file, line)| SourceLine {
            file: file.to_owned(),
            line,
        });
    }

    /// The call stack of a stopped processor, and why it ends early if it does.
    pub(crate) fn stack(&mut self, cpu: &(impl CpuState + ?Sized)) -> (Vec<Location>, Option<StackEnd>) {
        match self.frames(cpu) {
            Some(stack) => self.named(cpu, &stack),
            None => (vec![Location::unknown(cpu.registers().rip)], Some(StackEnd::NoKernel)),
        }
    }

    /// The frames of a stopped processor's stack; `None`: the kernel is not known.
    pub(crate) fn frames(&mut self, cpu: &(impl CpuState + ?Sized)) -> Option<unwind::Stack> {
        let list = self.list.as_mut()?;
        Some(unwind::walk(cpu, list, &cpu.registers(), FRAMES))
    }

    /// The same of a processor that stands at the first instruction of a routine.
    fn stack_at_entry(&mut self, cpu: &(impl CpuState + ?Sized)) -> (Vec<Location>, Option<StackEnd>) {
        let registers = cpu.registers();
        let routine = self.locate(cpu, registers.rip, true);
        let Some(list) = &mut self.list else {
            return self.stack(cpu);
        };
        let stack = unwind::walk_callers(cpu, list, &registers, FRAMES - 1);
        let (mut frames, end) = self.named(cpu, &stack);
        frames.insert(0, routine);
        (frames, end)
    }

    /// The places of a stack, and why it ends early if it does.
    pub(crate) fn named(
        &mut self,
        memory: &(impl GuestMemory + ?Sized),
        stack: &unwind::Stack,
    ) -> (Vec<Location>, Option<StackEnd>) {
        let frames = stack.frames.iter();
        let frames = frames.map(|frame| self.locate(memory, frame.rip, frame.exact));
        let frames = frames.collect();
        (frames, stack_end(stack.end))
    }

    /// Who called the routine that the processor is about to enter, to return to this address.
    pub(crate) fn caller(&mut self, cpu: &(impl CpuState + ?Sized), return_address: u64) -> Caller {
        let returns_to = self.locate(cpu, return_address, false);
        let mut caller = Caller {
            place: returns_to,
            called: Called::Call,
            jumped_from: None,
        };
        let Some(list) = &mut self.list else { return caller };
        match windows::attribute(cpu, list, &cpu.registers()).attribution {
            windows::Attribution::Call => {}
            windows::Attribution::Unknown(reason) => caller.called = Called::Unknown { reason },
            windows::Attribution::TailCall { function } => {
                let place = self.locate(cpu, function, true);
                let returns_to = std::mem::replace(&mut caller.place, place);
                caller.called = Called::TailCall { returns_to };
                caller.jumped_from = Some(function);
            }
        }
        caller
    }

    /// Whether an address lies in a module of that name.
    pub(crate) fn is_in(&self, address: u64, name: &str) -> bool {
        let module = self.list.as_ref().and_then(|list| list.named(name));
        module.is_some_and(|module| module.rva(address).is_some())
    }

    /// The frames of one module on top of the stack of a processor that is about to enter a routine, innermost first, and the
    /// frame that has called the outermost of them.
    pub(crate) fn frames_of(
        &mut self,
        cpu: &(impl CpuState + ?Sized),
        module: &ModuleInfo,
    ) -> (Vec<unwind::Frame>, Option<unwind::Frame>) {
        let Some(list) = &mut self.list else {
            return (Vec::new(), None);
        };
        let stack = unwind::walk_callers(cpu, list, &cpu.registers(), FRAMES);
        // An interrupt's frame is none of a caller.
        let own = |frame: &&unwind::Frame| module.contains(frame.rip) && !frame.exact;
        let count = stack.frames.iter().take_while(own).count();
        let next = stack.frames.get(count).copied();
        (stack.frames.into_iter().take(count).collect(), next)
    }

    /// Tells the checker who made the call that the processor stands at, the event `call`. Costs two frames of the stack and
    /// no names, since it is asked for every call in which something was found, new or not.
    pub(crate) fn attribute_call(
        &mut self,
        cpu: &(impl CpuState + ?Sized),
        call: u64,
        return_address: u64,
        target: Option<&ModuleInfo>,
    ) -> CallerAttributed {
        let mut told = CallerAttributed {
            call,
            caller: return_address,
            ..CallerAttributed::default()
        };
        let Some(list) = &mut self.list else { return told };
        let registers = cpu.registers();
        // The innermost frame is the caller's, unless the caller has left by a jump.
        let mut inner = 1;
        if let windows::Attribution::TailCall { function } = windows::attribute(cpu, list, &registers).attribution {
            told.caller = function;
            told.target = target.is_some_and(|module| module.contains(function));
            inner = 0;
        }
        let stack = unwind::walk_callers(cpu, list, &registers, inner + told.frames.len());
        for (frame, known) in told.frames.iter_mut().zip(stack.frames.iter().skip(inner)) {
            *frame = known.rip;
        }
        told
    }

    /// Where a new finding came from, while its processor is stopped.
    pub(crate) fn attribution(&mut self, cpu: &(impl CpuState + ?Sized), finding: &Finding) -> Attribution {
        let return_address = finding.call.context.return_address;
        let earlier: BTreeSet<u64> = finding.code_addresses().collect();
        let mut attribution = Attribution::default();
        if finding.stands_at_call() {
            let caller = self.caller(cpu, return_address);
            (attribution.caller, attribution.called) = (caller.place, caller.called);
            (attribution.stack, attribution.stack_end) = self.stack_at_entry(cpu);
        } else {
            attribution.caller = self.locate(cpu, return_address, false);
            attribution.stack_end = Some(StackEnd::CallOver);
        }
        let places = earlier.into_iter();
        attribution.places = places
            .map(|address| (address, self.locate(cpu, address, false)))
            .collect();
        attribution
    }
}

/// Why a stack ends, if not at its outermost frame.
fn stack_end(end: unwind::EndReason) -> Option<StackEnd> {
    use unwind::EndReason;
    Some(match end {
        EndReason::Bottom => return None,
        EndReason::NoModule(address) => StackEnd::NoModule { address },
        EndReason::NoInformation(address) => StackEnd::NoInformation { address },
        EndReason::Damaged(address) => StackEnd::Damaged { address },
        EndReason::Unreadable(error) => StackEnd::Unreadable {
            error: error.to_string(),
        },
        EndReason::StackPointer(value) => StackEnd::StackPointer { value },
        EndReason::Limit => StackEnd::Limit,
    })
}
