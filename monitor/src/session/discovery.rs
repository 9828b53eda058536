//! Finds the kernel at the first write of LSTAR, then waits for the driver under test.
//!
//! Windows maps a driver's image, puts it into `PsLoadedModuleList`, creates the driver object, and then calls
//! `DriverEntry`. Creating an object ends in `nt!ObInsertObject`, which is exported: a breakpoint there sees each
//! driver between its mapping and its first instruction. Public sources of earlier kernels show this order;
//! `docs/windows.md` says how a user with Windows confirms it.
//!
//! A kernel before Windows 10 does not export the list's head. There the first driver object leads to it, whose
//! `DriverSection` is the driver's entry of the list; or else the debugger data block (KDBG), if it is plain.
//!
//! Talks to the guest's structures and to the processor that stopped. It must not know what is watched once the driver
//! is there.

use super::arm::Evidence;
use super::guest::{Guest, ListWitness, ModuleId};
use super::log::Log;
use super::watching::Watching;
use crate::report::{Doubt, ModuleInfo, NoKernelAt, NotArmed, Note};
use crate::vmi::recorder::Recorder;
use crate::vmi::{Breakpoint, CpuState, GuestMemory, Interception};
use crate::watch::WITNESS;
use crate::windows::modules::{DLL_BASE, head_of_list};
use crate::windows::shared_user_data::interrupt_time;
use crate::windows::{DebuggerData, Image, Kernel};

/// The exported head of the module list.
const MODULE_LIST: &str = "PsLoadedModuleList";
/// How many objects may be inserted after the driver under test was mapped before the wait for its driver object is
/// given up, and the breakpoints are armed without knowing whether the driver has run.
const PATIENCE: u32 = 4096;
/// Notes that writes of LSTAR can fill the report with.
const NOTES: usize = 16;
/// Guest time after which that wait is given up, too, in units of 100 ns: a minute. A library of other drivers has no
/// driver object of its own, and few objects may be inserted in the rest of the run.
const PATIENCE_TIME: u64 = 60 * 10_000_000;
/// Offset of `DriverStart` in a `DRIVER_OBJECT`.
const DRIVER_START: u64 = 0x18;
/// Offset of `DriverSection` in a `DRIVER_OBJECT`: the driver's entry of the module list.
const DRIVER_SECTION: u64 = 0x28;
/// Offset of `DriverInit` in a `DRIVER_OBJECT`.
const DRIVER_INIT: u64 = 0x58;
/// `Type` and `Size` of a `DRIVER_OBJECT`: its first two 16-bit fields.
const DRIVER_OBJECT_HEAD: u32 = 0x0150_0004;

/// How far the search has come.
#[derive(Debug, Default)]
enum Stage {
    /// Nothing known.
    #[default]
    Booting,
    /// The kernel is known; waits for the driver under test.
    Waiting(Waiting),
    /// The breakpoints are in force.
    Armed,
    /// The search has failed, for this reason.
    Failed(NotArmed),
}

/// The kernel is known.
#[derive(Debug)]
struct Waiting {
    /// The breakpoint on the witness of driver initialisation.
    breakpoint: Breakpoint,
    /// Objects that were inserted.
    objects: u32,
    /// Objects that may still be inserted before the wait for the driver's own object is given up.
    patience: u32,
    /// The guest's time when the driver under test was first seen in the list.
    mapped_at: Option<u64>,
}

impl Waiting {
    /// Counts an object that is not the driver's. `None` if the wait goes on, `Some` if it is given up.
    fn give_up(&mut self, log: &mut Log, memory: &impl GuestMemory, target: &str) -> Option<()> {
        // Boot drivers are mapped all at once, long before their turn comes.
        self.patience = self.patience.saturating_sub(1);
        let now = interrupt_time(memory);
        self.mapped_at = self.mapped_at.or(now);
        let waited = now
            .zip(self.mapped_at)
            .map_or(0, |(now, mapped)| now.saturating_sub(mapped));
        if self.patience > 0 && waited < PATIENCE_TIME {
            return None;
        }
        log.note(Note::NoDriverObject {
            driver: target.to_owned(),
            objects: u64::from(PATIENCE - self.patience),
            seconds: waited / 10_000_000,
        });
        Some(())
    }
}

/// The search for the kernel and for the driver under test.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    stage: Stage,
    /// Why the last write of LSTAR was not taken for the kernel's.
    no_kernel: Option<NoKernelAt>,
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
                let error = error.to_string();
                let write = NoKernelAt { lstar, error };
                // Each processor writes it; if the kernel is not found, only the first write is told at once.
                if self.no_kernel.is_none() {
                    log.milestone(write.to_string());
                }
                if log.notes().len() < NOTES {
                    log.note(Note::NoKernel(write.clone()));
                }
                self.no_kernel = Some(write);
                return;
            }
        };
        log.milestone(format!(
            "kernel at {:#x}, {:#x} bytes, found by {}",
            kernel.image.base, kernel.image.size, kernel.witness
        ));
        if let Some(other) = kernel.other {
            let watched = kernel.image.base;
            log.doubt(Doubt::TwoKernels { watched, other });
        }
        cpu.end_msr_interception();
        let (witness, head) = (kernel.address_of(WITNESS), kernel.address_of(MODULE_LIST));
        guest.set_kernel(kernel);
        let Some(witness) = witness else {
            let export = WITNESS.to_owned();
            return self.fail(NotArmed::NoWitness { export });
        };
        if let Some(head) = head {
            guest.set_module_list(head, ListWitness::Export);
        }
        let breakpoint = watching.new_breakpoint(witness);
        self.stage = Stage::Waiting(Waiting {
            breakpoint,
            objects: 0,
            patience: PATIENCE,
            mapped_at: None,
        });
        if let Err(error) = cpu.set_breakpoints(&[breakpoint]) {
            let error = error.to_string();
            self.fail(NotArmed::Refused { error });
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
        (guest, log): (&mut Guest, &mut Log),
        cpu: &Recorder<'_>,
        target: &str,
    ) -> Option<(ModuleInfo, ModuleId, Evidence)> {
        let Stage::Waiting(waiting) = &mut self.stage else {
            return None;
        };
        waiting.objects = waiting.objects.saturating_add(1);
        let object = cpu.registers().rcx();
        if guest.listed().is_none() {
            find_module_list(guest, log, cpu, object, waiting.objects);
        }
        if guest.list_has_grown(cpu) {
            guest.refresh_modules(cpu);
        }
        let (module, id) = guest.modules().by_name(target)?;
        let mut evidence = Evidence::BeforeEntry;
        if !is_driver_object_of(cpu, object, module) {
            waiting.give_up(log, cpu, &module.name)?;
            evidence = Evidence::Unknown;
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

    /// The search has failed.
    pub(crate) fn fail(&mut self, reason: NotArmed) {
        tracing::warn!("{}", crate::escape::line(&reason.to_string()));
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
    pub(crate) fn not_armed(&self, guest: &Guest, target: &str) -> Option<NotArmed> {
        match &self.stage {
            Stage::Booting => Some(NotArmed::NoKernel {
                last: self.no_kernel.clone(),
            }),
            Stage::Waiting(_) => Some(never_loaded(guest, target)),
            Stage::Failed(reason) => Some(reason.clone()),
            Stage::Armed => None,
        }
    }
}

/// Also names what the user may have meant.
fn never_loaded(guest: &Guest, target: &str) -> NotArmed {
    if guest.listed().is_none() {
        let export = MODULE_LIST.to_owned();
        return NotArmed::ModulesUnknown { export };
    }
    if let Some((module, _)) = guest.modules().by_name(target) {
        return NotArmed::NoDriverObject {
            driver: target.to_owned(),
            base: module.base,
        };
    }
    let stem = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let similar = guest.modules().all().find(|module| stem(&module.name) == stem(target));
    NotArmed::NeverLoaded {
        driver: target.to_owned(),
        modules: guest.modules().all().count() as u64,
        similar: similar.map(|module| module.name.clone()),
    }
}

/// Whether a driver object is at this address.
fn is_driver_object(memory: &impl GuestMemory, object: u64) -> bool {
    memory.read_u32(object) == Ok(DRIVER_OBJECT_HEAD)
}

/// A field of an object, 0 if it cannot be read.
fn field(memory: &impl GuestMemory, object: u64, offset: u64) -> u64 {
    memory.read_u64(object.wrapping_add(offset)).unwrap_or(0)
}

/// Whether the object that is being inserted is the driver object of this module: then the module's `DriverEntry` has
/// not been called yet.
pub(super) fn is_driver_object_of(memory: &impl GuestMemory, object: u64, module: &ModuleInfo) -> bool {
    is_driver_object(memory, object)
        && (field(memory, object, DRIVER_START) == module.base || module.contains(field(memory, object, DRIVER_INIT)))
}

/// Looks for the head of the module list of a kernel that does not export it, at the insertion of the object with this
/// number. The object leads to it if it is a driver object; the debugger data block is looked for less and less often,
/// since it may come late or never and all of the kernel's data is searched.
fn find_module_list(guest: &mut Guest, log: &mut Log, memory: &impl GuestMemory, object: u64, number: u32) {
    let Some(kernel) = guest.kernel() else { return };
    let by_object = is_driver_object(memory, object)
        .then(|| {
            let (entry, base) = (
                field(memory, object, DRIVER_SECTION),
                field(memory, object, DRIVER_START),
            );
            head_of_list(memory, entry, base, &kernel.image)
        })
        .flatten();
    let by_block = (by_object.is_some() || number.is_power_of_two())
        .then(|| head_by_debugger_data(memory, &kernel.image))
        .flatten();
    if let (Some(by_object), Some(by_block)) = (by_object, by_block)
        && by_object != by_block
    {
        log.doubt(Doubt::TwoModuleLists { by_object, by_block });
    }
    let witness = match (by_object, by_block) {
        (Some(object), Some(block)) if object == block => ListWitness::Both,
        (Some(_), _) => ListWitness::DriverObject,
        (None, _) => ListWitness::DebuggerData,
    };
    if let Some(head) = by_object.or(by_block) {
        log.milestone(format!("module list at {head:#x}, found by {witness}"));
        guest.set_module_list(head, witness);
    }
}

/// The head that the debugger data block names, once the list there has the kernel.
fn head_by_debugger_data(memory: &impl GuestMemory, kernel: &Image) -> Option<u64> {
    let head = DebuggerData::find(memory, kernel).ok()?.ps_loaded_module_list();
    let first = memory.read_u64(head).ok()?;
    let base = field(memory, first, DLL_BASE);
    (head_of_list(memory, first, base, kernel) == Some(head)).then_some(head)
}
