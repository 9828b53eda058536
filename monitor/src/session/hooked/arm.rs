//! Puts hooks in force: asks the guest for memory by a call of its own allocator, makes the stubs, and has the slots of the
//! driver's import table lead to them.
//!
//! The call is made from the stop before the driver's entry point, where a thread of the kernel runs at `PASSIVE_LEVEL`: the
//! registers are kept, the allocator returns to the instruction at which the thread was stopped, where a breakpoint is, and
//! the thread goes on as if nothing had been. Whatever is not as it has to be leaves breakpoints on the routines. It must not
//! know what the stubs' records mean.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use storlock_check::contract::contracts_of_export;

use super::super::arm::{Evidence, TargetImports};
use super::super::callbacks;
use super::super::decode;
use super::super::discovery;
use super::super::entries::export_name;
use super::super::follow;
use super::super::guest::ModuleId;
use super::super::state::State;
use super::super::watching::{HookExit, Watch};
use super::{Calling, Hooked, InForce, Stage};
use crate::hooks::{Region, Ring, Stub, generate, layout};
use crate::report::{Doubt, ModuleInfo, WatchGap};
use crate::vmi::recorder::Recorder;
use crate::vmi::{
    ArmError, CpuState, GuestMemory, Interception, PAGE_SIZE, PhysicalMemory, ReadError, SharedMemory, SpecialRegisters,
};
use crate::watch::{self, Uses, WITNESS, WatchPlan};
use crate::windows::arguments::first_arguments;
use crate::windows::{Image, Import, Imports};

/// The allocator, and what it is asked: `POOL_TYPE` `NonPagedPool`, which is executable, and a tag.
pub(super) const ALLOCATOR: &str = "ExAllocatePoolWithTag";
const NON_PAGED_POOL: u64 = 0;
const TAG: u64 = u32::from_le_bytes(*b"Slck") as u64;
/// Bytes of the thread's stack that are left alone below its stack pointer.
const GAP: u64 = 0x100;
/// Alignment of a stack at a call.
const ALIGNMENT: u64 = 16;
/// RFLAGS: the trap, interrupt and direction flags.
const TRAP: u64 = 1 << 8;
const INTERRUPTS: u64 = 1 << 9;
const DIRECTION: u64 = 1 << 10;
/// As many registers as a plan could want: each import has its stub.
const ALL: usize = 64;
const LOWEST_KERNEL_ADDRESS: u64 = 0xffff_8000_0000_0000;

/// What hooks are used for, and what is to be set beside them.
pub(in crate::session) struct Chosen {
    pub(in crate::session) plan: WatchPlan,
    pub(in crate::session) watches: Vec<Watch>,
    pub(in crate::session) exit: HookExit,
}

/// The driver is about to run: has the guest call its allocator. `Ok(false)`: hooks are not wanted.
///
/// # Errors
/// Why that cannot be.
pub(in crate::session) fn begin(
    state: &mut State,
    cpu: &mut Recorder<'_>,
    driver: (&ModuleInfo, ModuleId),
) -> Result<bool, String> {
    if !state.hooks.may_begin() {
        return Ok(false);
    }
    let saved = cpu.registers();
    let irql = cpu.special().irql();
    if irql != 0 || saved.rflags & INTERRUPTS == 0 {
        return Err(format!(
            "the thread that starts the driver is at IRQL {irql}, where the guest cannot be asked for memory"
        ));
    }
    let allocator = state.guest.kernel_export(ALLOCATOR);
    let allocator = allocator.ok_or_else(|| format!("the guest's kernel does not export {ALLOCATOR}"))?;
    let frame = (saved.rsp().wrapping_sub(GAP) & !(ALIGNMENT - 1)).wrapping_sub(8);
    let back = saved.rip.to_le_bytes();
    cpu.write_memory(frame, &back).map_err(|error| error.to_string())?;
    let mut call = saved;
    (call.gpr[1], call.gpr[2], call.gpr[8]) = (NON_PAGED_POOL, layout::ALLOCATION, TAG);
    call.gpr[4] = frame;
    call.rip = allocator;
    call.rflags &= !(TRAP | DIRECTION);
    cpu.set_registers(&call).map_err(|error| error.to_string())?;
    state.hooks.stage = Stage::Calling(Box::new(Calling {
        saved,
        thread: decode::context(cpu).thread,
        stack_pointer: frame.wrapping_add(8),
        driver: (driver.0.clone(), driver.1),
    }));
    Ok(true)
}

/// The processor is at the instruction to which the allocator returns: if it has just done so, the thread goes on as it was,
/// and hooks have their memory or are refused. Gives the driver that is about to run.
pub(in crate::session) fn came_back(state: &mut State, cpu: &mut Recorder<'_>) -> Option<(ModuleInfo, ModuleId)> {
    let Stage::Calling(calling) = &state.hooks.stage else {
        return None;
    };
    let registers = cpu.registers();
    if registers.rsp() != calling.stack_pointer || decode::context(cpu).thread != calling.thread {
        // Another thread inserts an object.
        return None;
    }
    let driver = calling.driver.clone();
    let restored = cpu.set_registers(&calling.saved);
    let memory = registers.rax();
    if let Err(error) = restored {
        // It was possible before the call.
        tracing::warn!("a thread of the guest cannot go on as it was: {error}");
    }
    let aligned = memory.checked_next_multiple_of(PAGE_SIZE);
    match aligned.filter(|_| memory >= LOWEST_KERNEL_ADDRESS) {
        Some(base) => state.hooks.stage = Stage::Given(base),
        None => state.hooks.refuse(format!(
            "the guest's {ALLOCATOR} had no {} KiB of nonpaged memory",
            layout::ALLOCATION / 1024
        )),
    }
    Some(driver)
}

/// Hooks the imports of the driver at `base`, which has not run. `None`: hooks are not wanted, or there is no memory.
///
/// # Errors
/// Why they cannot be hooked; nothing of the driver has been changed then.
pub(in crate::session) fn choose(
    state: &mut State,
    cpu: &mut Recorder<'_>,
    base: u64,
    (imports, uses): (&Imports, &Uses),
) -> Result<Option<Chosen>, String> {
    let Stage::Given(memory) = state.hooks.stage else {
        return Ok(None);
    };
    let plan = plan(imports, uses)?;
    let slots = find_slots(cpu, base, &plan, imports)?;
    let (watches, mut hooked, stubs) = imports_of(state, &plan, &slots);
    let code = generate(memory, &stubs).map_err(|error| format!("the stubs cannot be made: {error}"))?;
    let region = region(state, cpu, memory)?;
    let written = code.bytes.len() as u64 <= layout::CODE_BYTES
        && region.write(0, &vec![0; layout::BYTES as usize])
        && region.write(layout::CODE, &code.bytes);
    if !written {
        return Err("the memory that the guest gave cannot be written".to_owned());
    }
    for (hooked, &entry) in hooked.iter_mut().zip(&code.entries) {
        hooked.entry = entry;
    }
    put_into_slots(cpu, &slots, &hooked)?;
    let before = hooked.iter().map(|hooked| (hooked.entry, hooked.target));
    state.watching.hide(before.collect());
    let witness = state.guest.kernel_export(WITNESS).unwrap_or_default();
    let exit = HookExit {
        breakpoint: state.watching.new_breakpoint(code.exit),
        witness: state.watching.new_breakpoint(witness),
        targets: hooked.iter().map(|hooked| (hooked.target, hooked.watch)).collect(),
    };
    state.hooks.imports = hooked.len();
    state.hooks.stage = Stage::InForce(Box::new(InForce {
        ring: Ring::new(region),
        imports: hooked,
        witness: exit.witness,
        base,
        kernel: cpu.special(),
        sites: HashMap::new(),
        processors: BTreeMap::new(),
    }));
    Ok(Some(Chosen { plan, watches, exit }))
}

/// All lock routines of a driver that reaches them by its import table only.
fn plan(imports: &Imports, uses: &Uses) -> Result<WatchPlan, String> {
    let plan = watch::plan(imports, uses, ALL).hooked();
    if let Some(gap) = plan.gaps.iter().find(|gap| is_another_way(gap)) {
        return Err(format!(
            "the driver may reach lock routines by another way than its import table ({})",
            gap.what()
        ));
    }
    if plan.watches.is_empty() {
        return Err("the driver imports no lock routine".to_owned());
    }
    Ok(plan)
}

/// What is watched, what is hooked for it, and the stubs, in the same order.
fn imports_of(state: &mut State, plan: &WatchPlan, slots: &[Slots]) -> (Vec<Watch>, Vec<Hooked>, Vec<Stub>) {
    let (mut watches, mut hooked, mut stubs) = (Vec::new(), Vec::new(), Vec::new());
    for (planned, slot) in plan.watches.iter().zip(slots) {
        let rows: Vec<_> = contracts_of_export(planned.module, planned.export).collect();
        let breakpoint = state.watching.new_breakpoint(slot.target);
        hooked.push(Hooked {
            module: planned.module,
            export: planned.export,
            watch: breakpoint.id,
            target: slot.target,
            entry: 0,
        });
        stubs.push(Stub {
            target: slot.target,
            rows: rows.clone(),
            attention: callbacks::attention(planned.module, planned.export),
        });
        watches.push(Watch {
            breakpoint,
            names: vec![export_name(planned.module, planned.export)],
            rows,
            why: vec![planned.purpose.clone()],
            hits: AtomicU64::new(0),
            hooked: true,
        });
    }
    (watches, hooked, stubs)
}

/// Whether calls of watched routines may come by it that breakpoints on the routines would see.
fn is_another_way(gap: &WatchGap) -> bool {
    !matches!(gap, WatchGap::LocksInside { .. } | WatchGap::NoRegister { .. })
}

/// The slots of one export: where they are, and where they lead.
struct Slots {
    addresses: Vec<u64>,
    target: u64,
}

fn find_slots(cpu: &Recorder<'_>, base: u64, plan: &WatchPlan, imports: &Imports) -> Result<Vec<Slots>, String> {
    let image = Image::read(cpu, base).map_err(|error| error.to_string())?;
    let seen = first_arguments(cpu, &image, &Uses::slots(imports));
    let used = |import: &Import| {
        let mut seen = seen.iter();
        seen.any(|seen| seen.slot == import.slot && (!seen.sites.is_empty() || seen.not_known.is_some()))
    };
    let find = |planned: &watch::PlannedWatch| {
        let name = export_name(planned.module, planned.export);
        let own = imports.entries().iter();
        let own: Vec<&Import> = own
            .filter(|import| watch::is_import_of(import, planned.module, planned.export))
            .collect();
        if own.iter().any(|import| import.delayed) {
            return Err(format!(
                "{name} is a delayed import, which is resolved at its first call"
            ));
        }
        if !own.iter().any(|import| used(import)) {
            return Err(format!(
                "no code of the driver refers to its import of {name}: the loader may have made direct calls of them"
            ));
        }
        let addresses: Vec<u64> = own.iter().map(|import| base.wrapping_add(import.slot.into())).collect();
        let mut targets: Vec<u64> = Vec::new();
        for &address in &addresses {
            targets.push(cpu.read_u64(address).map_err(|error| error.to_string())?);
        }
        targets.dedup();
        match targets[..] {
            [target] if target >= LOWEST_KERNEL_ADDRESS => Ok(Slots { addresses, target }),
            _ => Err(format!("the driver's imports of {name} do not lead to one routine")),
        }
    };
    plan.watches.iter().map(find).collect()
}

/// The memory that the guest has given: all of it mapped, and executable where the stubs will be.
fn region(state: &State, cpu: &mut Recorder<'_>, base: u64) -> Result<Region, String> {
    let mut pages = Vec::new();
    for page in (0..layout::BYTES).step_by(PAGE_SIZE as usize) {
        let physical = cpu.read_at(base.wrapping_add(page), &mut [0]);
        let physical = physical.map_err(|error| error.to_string())?;
        pages.push(physical.ok_or("where the memory is that the guest gave cannot be told")?);
    }
    cpu.check_executable(base.wrapping_add(layout::CODE), layout::CODE_BYTES)
        .map_err(|error| format!("the memory that the guest gave is not for code ({error})"))?;
    let memory = state.hooks.memory.clone();
    Ok(Region::new(base, pages, memory.unwrap_or_else(|| Arc::new(Replayed))))
}

/// Has all slots lead to the stubs, or none.
fn put_into_slots(cpu: &mut Recorder<'_>, slots: &[Slots], hooked: &[Hooked]) -> Result<(), String> {
    let all = slots.iter().zip(hooked);
    let mut all = all.flat_map(|(slot, hooked)| slot.addresses.iter().map(move |&at| (at, hooked)));
    let failed = all.find_map(|(at, hooked)| put_into_slot(cpu, at, hooked.entry).err());
    let Some(why) = failed else { return Ok(()) };
    for slot in slots {
        for &at in &slot.addresses {
            // One that cannot be written is as it was.
            let _ = put_into_slot(cpu, at, slot.target);
        }
    }
    Err(why)
}

fn put_into_slot(cpu: &mut Recorder<'_>, slot: u64, entry: u64) -> Result<(), String> {
    cpu.write_memory(slot, &entry.to_le_bytes())
        .map_err(|error: ArmError| format!("the driver's import table cannot be written: {error}"))
}

/// An object is being inserted while hooks are in force: if it is the driver's, that was loaded again, and its new import
/// table leads to the routines.
pub(in crate::session) fn object_inserted(state: &mut State, cpu: &mut Recorder<'_>) {
    let context = decode::context(cpu);
    follow::follow(state, cpu, context.return_address);
    let object = cpu.registers().rcx();
    let Some(driver) = state.target.module().cloned() else {
        return;
    };
    if !discovery::is_driver_object_of(cpu, object, &driver) {
        return;
    }
    let file = state.config.target_file.as_ref();
    let read = TargetImports::read(cpu, driver.base, file, Evidence::BeforeEntry);
    // If it cannot be read, that has been told.
    let TargetImports::Known { imports, .. } = read else {
        return;
    };
    let imports = state.guest.recognise(cpu, driver.base, &imports);
    cpu.uncover();
    let Some(in_force) = state.hooks.in_force() else { return };
    in_force.base = driver.base;
    for hooked in in_force.imports.clone() {
        let own = imports.entries().iter();
        let own = own.filter(|import| watch::is_import_of(import, hooked.module, hooked.export));
        for import in own {
            let slot = driver.base.wrapping_add(import.slot.into());
            let leads_to = cpu.read_u64(slot).ok();
            let known = leads_to == Some(hooked.target) && !import.delayed;
            if leads_to != Some(hooked.entry) && (!known || put_into_slot(cpu, slot, hooked.entry).is_err()) {
                let routine = export_name(hooked.module, hooked.export);
                state.log.doubt(Doubt::ReloadedImport { routine });
            }
        }
    }
}

/// The memory of a guest that is only replayed: what was written has been, and what was read is in the recording.
struct Replayed;

impl PhysicalMemory for Replayed {
    fn stretches(&self) -> Vec<(u64, u64)> {
        Vec::new()
    }

    fn read_physical(&self, _gpa: u64, _buf: &mut [u8]) -> bool {
        false
    }
}

impl SharedMemory for Replayed {
    fn write_physical(&self, _gpa: u64, _data: &[u8]) -> bool {
        true
    }

    fn load(&self, _gpa: u64) -> Option<u64> {
        None
    }

    fn store(&self, _gpa: u64, _value: u64) -> bool {
        true
    }

    fn change_bits(&self, _gpa: u64, _bits: u64, _set: bool) -> bool {
        true
    }

    fn read_virtual(&self, _: &SpecialRegisters, gva: u64, _: &mut [u8]) -> Result<Option<u64>, ReadError> {
        Err(ReadError::NotRecorded(gva))
    }
}
