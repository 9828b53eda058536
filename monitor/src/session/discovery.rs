//! From nothing to the driver under test: finds the kernel at the first write of LSTAR, then waits for the driver.
//!
//! Windows maps a driver's image and puts it into `PsLoadedModuleList` before it creates the driver object, and creates
//! the driver object before it calls `DriverEntry`. Creating an object ends in `nt!ObInsertObject`, which is exported:
//! a breakpoint there sees each driver between its mapping and its first instruction. That this holds is known from
//! public sources of earlier kernels; `docs/windows.md` says how a user with Windows confirms it.

use super::Session;
use super::arm::Evidence;
use super::doubts::Doubt;
use super::modules::ModuleMap;
use super::state::{Stage, State, Waiting};
use crate::report::ModuleInfo;
use crate::vmi::recorder::Recorder;
use crate::vmi::{CpuState, GuestMemory, Interception};
use crate::windows::{Kernel, Module, Modules};

/// The exported routine through which every new object goes.
const WITNESS: &str = "ObInsertObject";
/// The exported head of the module list.
const MODULE_LIST: &str = "PsLoadedModuleList";
/// How many objects may be inserted after the driver under test was mapped before the wait for its driver object is
/// given up, and the breakpoints are armed without knowing whether the driver has run.
const PATIENCE: u32 = 4096;
/// Offset of `DriverStart` in a `DRIVER_OBJECT`.
const DRIVER_START: u64 = 0x18;
/// Offset of `DriverInit` in a `DRIVER_OBJECT`.
const DRIVER_INIT: u64 = 0x58;
/// `Type` and `Size` of a `DRIVER_OBJECT`: its first two 16-bit fields.
const DRIVER_OBJECT_HEAD: u32 = 0x0150_0004;

impl State {
    /// A processor has written LSTAR.
    pub(crate) fn kernel_appeared(&mut self, cpu: &mut Recorder<'_>, lstar: u64) {
        if !matches!(self.stage, Stage::Booting) {
            return;
        }
        let special = cpu.special();
        let kernel = match Kernel::find(&*cpu, lstar, special.idt_base, special.idt_limit) {
            Ok(kernel) => kernel,
            Err(error) => {
                // Firmware and loaders write LSTAR too: the next write may be the kernel's.
                tracing::debug!("LSTAR = {lstar:#x}: {error}");
                let text = format!("a write of {lstar:#x} to LSTAR led to no kernel: {error}");
                // Each processor writes it; where there is no kernel, none of them is news but the first.
                if self.no_kernel.is_none() {
                    self.milestone(text.clone());
                }
                if self.notes.len() < 16 {
                    self.notes.push(text.clone());
                }
                self.no_kernel = Some(text);
                return;
            }
        };
        self.milestone(format!(
            "kernel at {:#x}, {:#x} bytes, found by {}",
            kernel.image.base, kernel.image.size, kernel.witness
        ));
        if let Some(other) = kernel.other {
            let reason = format!(
                "at the first write of LSTAR there were two images that may be the kernel: its page fault handler is in the \
                 one at {:#x}, which was watched, and its system call entry in the one at {other:#x}",
                kernel.image.base
            );
            self.doubts.add(Doubt::Kernel, reason);
        }
        cpu.end_msr_interception();
        let (Some(witness), Some(head)) = (kernel.address_of(WITNESS), kernel.address_of(MODULE_LIST)) else {
            let missing = [WITNESS, MODULE_LIST]
                .iter()
                .find(|name| kernel.address_of(name).is_none());
            let missing = missing.unwrap_or(&WITNESS);
            self.fail(format!(
                "the kernel does not export {missing}, without which the driver's start is not seen"
            ));
            self.kernel = Some(kernel);
            return;
        };
        self.list = Some(Modules::new(head));
        self.kernel = Some(kernel);
        let breakpoint = self.new_breakpoint(witness);
        self.stage = Stage::Waiting(Box::new(Waiting {
            breakpoint,
            patience: PATIENCE,
        }));
        if let Err(error) = cpu.set_breakpoints(&[breakpoint]) {
            self.fail(error.to_string());
        }
    }
}

impl Session {
    /// The witness was reached: looks whether the driver under test has been mapped.
    pub(crate) fn driver_object_inserted(&self, state: &mut State, cpu: &mut Recorder<'_>) {
        if state.list.as_ref().is_some_and(|list| list.has_grown(&*cpu)) {
            state.refresh_modules(&*cpu);
        }
        let Some((target, id)) = state.modules.by_name(&self.config.target) else {
            return;
        };
        let target = (target.clone(), id);
        let evidence = driver_object_of(&*cpu, cpu.registers().rcx(), &target.0);
        if let Stage::Waiting(waiting) = &mut state.stage {
            // Boot drivers are mapped all at once, long before their turn comes.
            waiting.patience = waiting.patience.saturating_sub(1);
            if evidence == Evidence::Unknown && waiting.patience > 0 {
                return;
            }
        }
        self.arm(state, cpu, &target, evidence);
    }
}

impl State {
    /// Reads the module list again.
    pub(crate) fn refresh_modules(&mut self, memory: &impl GuestMemory) {
        let Some(list) = &mut self.list else { return };
        if let Err(error) = list.refresh(memory) {
            tracing::debug!("{error}");
        }
        self.settle_modules();
    }

    /// Takes the modules from the list as it was last read.
    pub(crate) fn settle_modules(&mut self) {
        if let Some(list) = &self.list {
            self.modules.replace(list.known().iter().map(ModuleInfo::from));
        }
    }
}

impl From<&Module> for ModuleInfo {
    fn from(module: &Module) -> Self {
        Self {
            name: module.name.clone(),
            base: module.base,
            size: u64::from(module.size),
        }
    }
}

/// Whether the object that is being inserted is the driver object of this module: then the module's `DriverEntry` has
/// not been called yet.
fn driver_object_of(memory: &impl GuestMemory, object: u64, module: &ModuleInfo) -> Evidence {
    let inside = |address: u64| address.wrapping_sub(module.base) < module.size;
    let field = |offset: u64| memory.read_u64(object.wrapping_add(offset)).unwrap_or(0);
    let is_driver_object = memory.read_u32(object) == Ok(DRIVER_OBJECT_HEAD);
    if is_driver_object && (field(DRIVER_START) == module.base || inside(field(DRIVER_INIT))) {
        Evidence::BeforeEntry
    } else {
        Evidence::Unknown
    }
}

/// The modules as the report lists them.
pub(crate) fn module_list(modules: &ModuleMap) -> Vec<ModuleInfo> {
    modules.all().cloned().collect()
}
