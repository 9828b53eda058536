//! Follows the guest's modules after arming: drivers, the driver under test among them, are loaded and unloaded.
//!
//! Talks to the module list and to the checker. No debug register is left to watch the list, so the entry at its end is
//! compared at every hit. Windows inserts a module there before its code runs, so a new module is known at its first
//! hit. The removal of a module causes no hit; it is noticed when the next module is loaded. If an image is removed and
//! comes back between two hits, at the same address and with the same list entry, nobody can tell. It must not know
//! what the modules call.

use storlock_check::event::{EventKind, Module};

use super::arm::{self, Evidence, TargetImports};
use super::entries::export_name;
use super::state::State;
use crate::escape;
use crate::report::{Doubt, ModuleInfo, Note, WatchGap};
use crate::vmi::recorder::Recorder;
use crate::watch;

/// Modules that may come and go in one run: more than a guest loads, and so few that a guest which does nothing else
/// neither slows its hits down for ever nor fills a disk.
const CHANGES: u32 = 16_384;

/// Modules that have come and gone since arming.
#[derive(Debug, Default)]
pub(crate) struct ModuleChanges(u32);

impl ModuleChanges {
    /// There were too many to follow any longer.
    fn are_too_many(&self) -> bool {
        self.0 >= CHANGES
    }

    fn add(&mut self) {
        self.0 += 1;
    }
}

/// Notices what was loaded and unloaded before a call that returns to this address. Costs one guest read if there is
/// nothing, and one more if the caller is in no known module.
pub(super) fn follow(state: &mut State, cpu: &Recorder<'_>, return_address: u64) {
    if !state.discovery.is_armed() || !state.guest.list_has_changed(cpu, return_address) {
        return;
    }
    if state.module_changes.are_too_many() {
        return;
    }
    let before = state.guest.module_list();
    state.guest.refresh_modules(cpu);
    let returned = state.target.look(&mut state.guest, &mut state.log, cpu);
    state.guest.settle_modules();
    let after = state.guest.module_list();
    // A list that only looked different at that moment counts too: somebody is changing it.
    state.module_changes.add();
    for back in &returned {
        // Whatever happened in between, it was not seen: the locks of before are not those of now.
        module_unloaded(state, back);
        module_loaded(state, back);
        target_came_back(state, cpu, back);
    }
    for gone in before.iter().filter(|module| !after.contains(module)) {
        module_unloaded(state, gone);
    }
    for come in after.iter().filter(|module| !before.contains(module)) {
        state.module_changes.add();
        module_loaded(state, come);
        if come.name.eq_ignore_ascii_case(&state.config.target) {
            target_came_back(state, cpu, come);
        }
    }
    if state.module_changes.are_too_many() {
        let most = u64::from(CHANGES);
        state.log.doubt(Doubt::TooManyModuleChanges { most });
    }
}

fn module_unloaded(state: &mut State, module: &ModuleInfo) {
    state.module_changes.add();
    let (base, size) = (module.base, module.size);
    state.ledger.append(EventKind::ModuleUnload { base, size });
}

/// Tells the checker of a module.
pub(super) fn module_loaded(state: &mut State, module: &ModuleInfo) {
    let event = Module {
        base: module.base,
        size: module.size,
        target: module.name.eq_ignore_ascii_case(&state.config.target),
        name: module.name.clone(),
    };
    state.ledger.append(EventKind::ModuleLoad(event));
}

/// The driver under test was loaded again: perhaps another version of it. The breakpoints stay those of its first
/// load; what they now miss becomes a gap.
fn target_came_back(state: &mut State, cpu: &Recorder<'_>, module: &ModuleInfo) {
    tracing::info!("{} is loaded again, at {:#x}", escape::line(&module.name), module.base);
    let Some((_, id)) = state.guest.modules().find(module.base) else {
        return;
    };
    state.target.settle(&mut state.guest, &mut state.log, cpu, (module, id));
    state.coverage.watched(module);
    // One note, of the last time: how often it happens is the guest's choice.
    state.log.retract(|note| matches!(note, Note::LoadedAgain { .. }));
    let base = module.base;
    let file = state.config.target_file.as_ref();
    let imports = match TargetImports::read(cpu, base, file, Evidence::Unknown) {
        TargetImports::Known { imports, .. } => imports,
        TargetImports::Unknown { why } => return state.log.doubt(Doubt::ReloadedUnread { base, why }),
    };
    state.log.note(Note::LoadedAgain { base });
    let imports = state.guest.recognise(cpu, module.base, &imports);
    let uses = arm::uses_of(cpu, module.base, state.config.target_file.as_ref(), &imports);
    let plan = watch::plan(&imports, &uses, state.watching.capacity());
    arm::doubt_unrecognised(&mut state.log, &plan);
    for planned in &plan.watches {
        let routine = export_name(planned.module, planned.export);
        if !state.watching.knows(&routine) {
            state.log.doubt(Doubt::ReloadedImport {
                routine: routine.clone(),
            });
            state.watching.add_gap(WatchGap::Reloaded { routine });
        }
    }
    let set = state.watching.watch_set(&plan, true);
    // The same routines are watched as before: the checker learns of the imports and forgets nothing.
    state.ledger.append(EventKind::WatchSetChanged(set));
}
