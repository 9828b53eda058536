//! Arming: which routines get a breakpoint, where they are, and putting them in force.
//!
//! Talks to the watch plan and to the target. It must not know what a hit means.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use storlock_check::contract::{CONTRACTS, SystemModule, contracts_of_export};
use storlock_check::event::{EventKind, WatchSet};

use super::doubts::Doubt;
use super::modules::ModuleId;
use super::state::{Stage, State};
use super::{Session, Watch};
use crate::report::{ModuleInfo, WatchGap};
use crate::target::recorder::Recorder;
use crate::target::{GuestMemory, Hook, Interception};
use crate::watch::{self, WatchPlan};
use crate::windows::{Exports, Image, Import, Imports};

/// What is known about whether the driver under test has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// Its driver object is just being made: `DriverEntry` has not been called.
    BeforeEntry,
    /// Nothing.
    Unknown,
}

impl Session {
    /// Puts the breakpoints for `target` in force. The session's lock is held throughout: a processor that runs into a
    /// new breakpoint before all have it waits for the lock outside of the guest, so its event comes after the arming.
    pub(crate) fn arm(
        &self,
        state: &mut State,
        cpu: &mut Recorder<'_>,
        target: &(ModuleInfo, ModuleId),
        evidence: Evidence,
    ) {
        let modules = state.modules.all().count();
        state.milestone(format!(
            "{} at {:#x}, {modules} modules loaded",
            target.0.name, target.0.base
        ));
        let base = target.0.base;
        state.settle_target(&*cpu, &target.0, target.1);
        let mut found = self.target_imports(&*cpu, base, evidence);
        found.imports = found.imports.map(|imports| state.recognise(&*cpu, base, &imports));
        state.notes.extend(found.note);
        let plan = match &found.imports {
            Some(imports) => watch::plan(imports, self.config.hooks),
            None => watch::plan_unknown(&exported(state, &*cpu), self.config.hooks),
        };
        state.doubt_plan(&plan, found.imports.is_some(), evidence);
        let imports = found.imports.unwrap_or_default();
        let watches = match resolve(state, cpu, &plan, (base, &imports)) {
            Ok(watches) => watches,
            Err(reason) => return state.fail(reason),
        };
        state.plan_summary.clone_from(&plan.summary);
        state.gaps = plan
            .gaps
            .iter()
            .map(|gap| WatchGap {
                routine: gap.routine.clone(),
                consequence: gap.consequence.clone(),
            })
            .collect();
        let free = self.config.hooks.saturating_sub(watches.len());
        let printers = self.printers(state, &imports, free);
        let locks = watches.iter().map(|watch| watch.hook);
        let hooks: Vec<Hook> = locks.chain(printers.iter().map(|(hook, _)| *hook)).collect();
        // Those of before a reset are not set any more, but the report tells all hits.
        for old in self.watches.load().iter() {
            if let Some(new) = watches.iter().find(|new| new.name == old.name) {
                new.hits.fetch_add(old.hits.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        self.printers.store(Arc::new(printers));
        self.watches.store(Arc::new(watches));
        if let Err(error) = cpu.set_hooks(&hooks) {
            return state.fail(error.to_string());
        }
        state.check_at_arming(&*cpu, evidence);
        self.armed(state, &plan, evidence);
        let before = if evidence == Evidence::BeforeEntry {
            "before its DriverEntry"
        } else {
            "but it may have run already"
        };
        state.milestone(format!("armed {before}: {}", plan.summary));
        state.dump_exports(&*cpu, &self.config.exports, |export, bytes| {
            export.at_arming = Some(bytes);
        });
    }

    /// The breakpoints are in force on all processors.
    fn armed(&self, state: &mut State, plan: &WatchPlan, evidence: Evidence) {
        state.stage = Stage::Armed;
        state.armed = Some(Instant::now());
        let modules: Vec<ModuleInfo> = state.modules.all().cloned().collect();
        for module in &modules {
            self.module_loaded(state, module);
        }
        let set = WatchSet {
            watched: plan.watched,
            imported: plan.imported,
            processors: self.config.processors,
            before_target: evidence == Evidence::BeforeEntry,
        };
        self.check(state, EventKind::WatchSetChanged(set));
        state.armed_at = Some(state.sequence);
    }
}

impl State {
    /// Notes what the plan may miss.
    fn doubt_plan(&mut self, plan: &WatchPlan, imports_known: bool, evidence: Evidence) {
        if let Some(what) = &plan.unrecognised {
            let reason = format!("lock routines may be among {what}: what they do to a lock was not seen");
            self.doubts.add(Doubt::Imports, reason);
        }
        if !imports_known && !plan.gaps.is_empty() {
            let reason = "what the driver imports is not known, and not every lock routine of the guest is watched";
            self.doubts.add(Doubt::Imports, reason.to_owned());
        }
        if evidence == Evidence::Unknown {
            let reason = "the driver may have run before its locks were watched: what it did until then was not seen";
            self.doubts.add(Doubt::Late, reason.to_owned());
        }
    }
}

/// What the driver under test imports.
pub(crate) struct TargetImports {
    /// Nothing is known without them.
    pub(crate) imports: Option<Imports>,
    /// Where they are from, or why they are unknown, if that is worth telling.
    pub(crate) note: Option<String>,
}

impl Session {
    /// The imports of the driver under test at `base`: from the guest's memory, or from the driver's file if they are not
    /// there any more.
    pub(crate) fn target_imports(&self, memory: &impl GuestMemory, base: u64, evidence: Evidence) -> TargetImports {
        let known = |imports, note| TargetImports {
            imports: Some(imports),
            note,
        };
        let unknown = |reason: String| TargetImports {
            imports: None,
            note: Some(format!("the driver's imports are unknown: {reason}")),
        };
        let image = match Image::read(memory, base) {
            Ok(image) => image,
            Err(error) => return unknown(error.to_string()),
        };
        let discarded = evidence == Evidence::Unknown && Imports::are_discardable(&image);
        let reason = match Imports::read(memory, &image) {
            Ok(imports) if !discarded => return known(imports, None),
            Err(error) if !discarded => error.to_string(),
            _ => "they are named in a section that may be thrown away after the driver's initialisation".to_owned(),
        };
        match &self.config.target_file {
            Some(file) if file.is(&image) => known(
                file.imports.clone(),
                Some(format!(
                    "the driver's imports are those of its file, not of the guest's memory: {reason}"
                )),
            ),
            Some(_) => unknown(format!(
                "{reason}; and the file that was given is another build: its time stamp, check sum or size is not that of \
                 the driver in the guest"
            )),
            None => unknown(format!("{reason}; give the path of the driver's file by --driver")),
        }
    }
}

/// The lock exports that the guest has.
fn exported(state: &State, memory: &impl GuestMemory) -> Vec<(SystemModule, &'static str)> {
    let kernel = state.kernel.as_ref();
    let storport = exports_of(memory, state, SystemModule::Storport.file_name()).ok();
    let is_there = |module, export: &str| match module {
        SystemModule::Ntoskrnl => kernel.is_some_and(|kernel| kernel.address_of(export).is_some()),
        SystemModule::Storport => storport
            .as_ref()
            .is_some_and(|(_, exports)| exports.rva(export).is_some()),
    };
    let rows = CONTRACTS.iter().map(|row| (row.module, row.export));
    rows.filter(|(module, export)| is_there(*module, export)).collect()
}

/// Finds the planned exports in the guest, or what the imports of the driver at that base lead to in their place.
fn resolve(
    state: &mut State,
    cpu: &Recorder<'_>,
    plan: &WatchPlan,
    (base, imports): (u64, &Imports),
) -> Result<Vec<Watch>, String> {
    let mut port_driver = None;
    let mut watches = Vec::new();
    for planned in &plan.watches {
        let address = match planned.module {
            SystemModule::Ntoskrnl => state
                .kernel
                .as_ref()
                .and_then(|kernel| kernel.address_of(planned.export)),
            SystemModule::Storport => {
                if port_driver.is_none() {
                    port_driver = Some(exports_of(cpu, state, SystemModule::Storport.file_name())?);
                }
                let (image, exports) = port_driver.as_ref().ok_or("no port driver")?;
                exports.rva(planned.export).map(|rva| image.address(rva))
            }
        };
        let name = export_name(planned.module, planned.export);
        let address = address.ok_or_else(|| format!("the guest does not export {name}, which the driver imports"))?;
        let mut reason = planned.reason.clone();
        let mut place = address;
        let slots = imports.entries().iter();
        let slots = slots.filter(|import| watch::is_import_of(import, planned.module, planned.export));
        let linked = slots.filter_map(|import| linked_elsewhere(state, cpu, address, base, import));
        let mut linked: Vec<u64> = linked.collect();
        linked.dedup();
        if let Some(second) = linked.get(1) {
            let second = state.locate(cpu, *second, true);
            let reason = format!("an import of {name} leads to {second}, which is not watched: another import is");
            state.doubts.add(Doubt::Imports, reason);
        }
        if let Some(&linked) = linked.first() {
            let at = state.locate(cpu, linked, true);
            let detour = format!("the driver's import of {name} leads to {at} in its place");
            reason = format!("{reason}; {detour}, which is watched");
            state.notes.push(format!(
                "{detour}, as with Driver Verifier: calls by other modules are not seen there"
            ));
            place = linked;
        }
        let hook = state.new_hook(place);
        watches.push(Watch {
            hook,
            name,
            rows: contracts_of_export(planned.module, planned.export).collect(),
            reason,
            hits: AtomicU64::new(0),
        });
    }
    Ok(watches)
}

/// Where a loaded driver's import leads if that is not the export: Driver Verifier replaces the imports of the drivers that
/// it verifies by wrappers. Code of a known module only.
fn linked_elsewhere(state: &State, memory: &impl GuestMemory, export: u64, base: u64, import: &Import) -> Option<u64> {
    if import.delayed {
        return None;
    }
    let slot = base.checked_add(u64::from(import.slot))?;
    let linked = memory.read_u64(slot).ok().filter(|&linked| linked != export)?;
    let (module, _) = state.modules.find(linked)?;
    let image = Image::read(memory, module.base).ok()?;
    let section = image.section(image.rva(linked)?)?;
    (section.is_executable() && !section.is_discardable()).then_some(linked)
}

pub(super) fn exports_of(memory: &impl GuestMemory, state: &State, module: &str) -> Result<(Image, Exports), String> {
    let (info, _) = state
        .modules
        .by_name(module)
        .ok_or_else(|| format!("{module} is not loaded"))?;
    let image = Image::read(memory, info.base).map_err(|error| format!("{module}: {error}"))?;
    let exports = Exports::read(memory, &image).map_err(|error| format!("{module}: {error}"))?;
    Ok((image, exports))
}

/// `nt!KeReleaseSpinLock`, `storport!StorPortNotification`.
pub(crate) fn export_name(module: SystemModule, export: &str) -> String {
    match module {
        SystemModule::Ntoskrnl => format!("nt!{export}"),
        SystemModule::Storport => format!("storport!{export}"),
    }
}
