//! From nothing to the driver under test: finds the kernel at the first write of LSTAR, then waits for the driver.
//!
//! Windows maps a driver's image and puts it into `PsLoadedModuleList` before it creates the driver object, and creates
//! the driver object before it calls `DriverEntry`. Creating an object ends in `nt!ObInsertObject`, which is exported:
//! a breakpoint there sees each driver between its mapping and its first instruction. That this holds is known from
//! public sources of earlier kernels; `docs/windows.md` says how a user with Windows confirms it.
//!
//! Talks to the guest's structures and to the processor that stopped. It must not know what is watched once the driver is
//! there.

use std::fmt::Write as _;

use super::arm::Evidence;
use super::doubts::Doubt;
use super::guest::{Guest, ModuleId};
use super::log::Log;
use super::watching::Watching;
use crate::report::ModuleInfo;
use crate::vmi::recorder::Recorder;
use crate::vmi::{Breakpoint, CpuState, GuestMemory, Interception};
use crate::windows::Kernel;

/// The exported routine through which every new object goes.
const WITNESS: &str = "ObInsertObject";
/// The exported head of the module list.
const MODULE_LIST: &str = "PsLoadedModuleList";
/// How many objects may be inserted after the driver under test was mapped before the wait for its driver object is
/// given up, and the breakpoints are armed without knowing whether the driver has run.
const PATIENCE: u32 = 4096;
/// Notes that writes of LSTAR can fill the report with.
const NOTES: usize = 16;
/// Offset of `DriverStart` in a `DRIVER_OBJECT`.
const DRIVER_START: u64 = 0x18;
/// Offset of `DriverInit` in a `DRIVER_OBJECT`.
const DRIVER_INIT: u64 = 0x58;
/// `Type` and `Size` of a `DRIVER_OBJECT`: its first two 16-bit fields.
const DRIVER_OBJECT_HEAD: u32 = 0x0150_0004;

/// How far it has come.
#[derive(Debug, Default)]
enum Stage {
    /// Nothing known.
    #[default]
    Booting,
    /// The kernel is known; waits for the driver under test.
    Waiting(Waiting),
    /// The breakpoints are in force.
    Armed,
    /// It will not come further, and why.
    Failed(String),
}

/// The kernel is known.
#[derive(Debug)]
struct Waiting {
    /// The breakpoint on the witness of driver initialisation.
    breakpoint: Breakpoint,
    /// Objects that may still be inserted before the wait for the driver's own object is given up.
    patience: u32,
}

/// The search for the kernel and for the driver under test.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    stage: Stage,
    /// Why the last write of LSTAR was not taken for the kernel's.
    no_kernel: Option<String>,
}

impl Discovery {
    /// A processor has written LSTAR.
    pub(crate) fn kernel_appeared(
        &mut self,
        (guest, watching, log): (&mut Guest, &mut Watching, &mut Log),
        cpu: &mut Recorder<'_>,
        lstar: u64,
    ) {
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
                    log.milestone(&text);
                }
                if log.notes().len() < NOTES {
                    log.note(text.clone());
                }
                self.no_kernel = Some(text);
                return;
            }
        };
        log.milestone(format!(
            "kernel at {:#x}, {:#x} bytes, found by {}",
            kernel.image.base, kernel.image.size, kernel.witness
        ));
        if let Some(other) = kernel.other {
            let reason = format!(
                "at the first write of LSTAR there were two images that may be the kernel: its page fault handler is in the \
                 one at {:#x}, which was watched, and its system call entry in the one at {other:#x}",
                kernel.image.base
            );
            log.doubt(Doubt::Kernel, reason);
        }
        cpu.end_msr_interception();
        let (witness, head) = (kernel.address_of(WITNESS), kernel.address_of(MODULE_LIST));
        guest.set_kernel(kernel);
        let (Some(witness), Some(head)) = (witness, head) else {
            let missing = if witness.is_none() { WITNESS } else { MODULE_LIST };
            return self.fail(format!(
                "the kernel does not export {missing}, without which the driver's start is not seen"
            ));
        };
        guest.set_module_list(head);
        let breakpoint = watching.new_breakpoint(witness);
        self.stage = Stage::Waiting(Waiting {
            breakpoint,
            patience: PATIENCE,
        });
        if let Err(error) = cpu.set_breakpoints(&[breakpoint]) {
            self.fail(error.to_string());
        }
    }

    /// Whether this is the breakpoint on the witness, and the driver under test is waited for.
    pub(crate) fn waits_at(&self, id: u32) -> bool {
        matches!(&self.stage, Stage::Waiting(waiting) if waiting.breakpoint.id == id)
    }

    /// The witness was reached: whether the driver under test has been mapped and is to be watched now, and what is known
    /// about whether it has run.
    pub(crate) fn object_inserted(
        &mut self,
        guest: &mut Guest,
        cpu: &Recorder<'_>,
        target: &str,
    ) -> Option<(ModuleInfo, ModuleId, Evidence)> {
        if guest.list_has_grown(cpu) {
            guest.refresh_modules(cpu);
        }
        let (module, id) = guest.modules().by_name(target)?;
        let evidence = driver_object_of(cpu, cpu.registers().rcx(), module);
        if let Stage::Waiting(waiting) = &mut self.stage {
            // Boot drivers are mapped all at once, long before their turn comes.
            waiting.patience = waiting.patience.saturating_sub(1);
            if evidence == Evidence::Unknown && waiting.patience > 0 {
                return None;
            }
        }
        Some((module.clone(), id, evidence))
    }

    /// The breakpoints for the driver under test are in force on all processors.
    pub(crate) fn armed(&mut self) {
        self.stage = Stage::Armed;
    }

    /// Whether they are.
    pub(crate) fn is_armed(&self) -> bool {
        matches!(self.stage, Stage::Armed)
    }

    /// It will not come further.
    pub(crate) fn fail(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::warn!("{}", crate::escape::line(&reason));
        self.stage = Stage::Failed(reason);
    }

    /// The machine starts again.
    pub(crate) fn restart(&mut self) {
        *self = Self::default();
    }

    /// How far the run is, for who watches it.
    pub(crate) fn progress(&self, guest: &Guest, target: &str, hits: u64) -> String {
        match &self.stage {
            Stage::Booting => "waiting for the kernel".to_owned(),
            Stage::Waiting(_) => format!("waiting for {target}, {} modules loaded", guest.modules().all().count()),
            Stage::Armed => format!("{hits} hits"),
            Stage::Failed(_) => "not watching".to_owned(),
        }
    }

    /// Why the breakpoints are not in force; `None` if they are.
    pub(crate) fn not_armed(&self, guest: &Guest, target: &str) -> Option<String> {
        match &self.stage {
            Stage::Booting => Some(match &self.no_kernel {
                None => "the guest's kernel was not found: it never wrote LSTAR with an address of its code".to_owned(),
                Some(reason) => format!(
                    "the guest's kernel was not found: only an NT-compatible kernel, which is a PE image, can be watched, \
                     and {reason}"
                ),
            }),
            Stage::Waiting(_) => Some(never_loaded(guest, target)),
            Stage::Failed(reason) => Some(reason.clone()),
            Stage::Armed => None,
        }
    }
}

/// Also names what the user may have meant.
fn never_loaded(guest: &Guest, target: &str) -> String {
    let stem = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let count = guest.modules().all().count();
    let mut text = format!("the guest never loaded {target} ({count} other modules were seen)");
    let similar = guest.modules().all().find(|module| stem(&module.name) == stem(target));
    if let Some(similar) = similar {
        let _ = write!(text, "; it loaded {}: is that the driver under test?", similar.name);
    }
    text
}

/// Whether the object that is being inserted is the driver object of this module: then the module's `DriverEntry` has
/// not been called yet.
fn driver_object_of(memory: &impl GuestMemory, object: u64, module: &ModuleInfo) -> Evidence {
    let field = |offset: u64| memory.read_u64(object.wrapping_add(offset)).unwrap_or(0);
    let is_driver_object = memory.read_u32(object) == Ok(DRIVER_OBJECT_HEAD);
    if is_driver_object && (field(DRIVER_START) == module.base || module.contains(field(DRIVER_INIT))) {
        Evidence::BeforeEntry
    } else {
        Evidence::Unknown
    }
}
