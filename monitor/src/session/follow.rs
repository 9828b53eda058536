//! The guest's modules after arming: drivers come and go, the driver under test among them.
//!
//! Talks to the module list and to the checker. No debug register is left for the list, so its end is compared at every
//! hit. What runs in a new image was inserted there before its first hit. A module that only goes makes no hits; that it
//! has gone shows when the next one comes. An image that came back to the same address with the same list entry between
//! two hits cannot be told from one that stayed.

use storlock_check::event::{EventKind, Module};

use super::Session;
use super::arm::Evidence;
use super::doubts::Doubt;
use super::entries::export_name;
use super::state::{Stage, State};
use crate::escape;
use crate::report::{ModuleInfo, WatchGap};
use crate::vmi::GuestMemory;
use crate::vmi::recorder::Recorder;
use crate::watch;

/// Modules that may come and go in one run: more than a guest loads, and so few that a guest which does nothing else
/// neither slows its hits down for ever nor fills a disk.
const CHANGES: u32 = 16_384;

impl Session {
    /// Notices what was loaded and unloaded before a call that returns to this address. Costs one guest read if there is
    /// nothing, and one more if the caller is in no known module.
    pub(crate) fn follow_modules(&self, state: &mut State, cpu: &Recorder<'_>, return_address: u64) {
        if !matches!(state.stage, Stage::Armed) || !state.list_has_changed(cpu, return_address) {
            return;
        }
        if state.module_changes >= CHANGES {
            return;
        }
        let before: Vec<ModuleInfo> = state.modules.all().cloned().collect();
        state.refresh_modules(cpu);
        let returned = state.look_for_target(cpu);
        state.settle_modules();
        let after: Vec<ModuleInfo> = state.modules.all().cloned().collect();
        // A list that only looked different at that moment counts too: somebody is changing it.
        state.module_changes += 1;
        for back in &returned {
            // Whatever happened in between, it was not seen: the locks of before are not those of now.
            state.module_changes += 1;
            let (base, size) = (back.base, back.size);
            self.check(state, EventKind::ModuleUnload { base, size });
            self.module_loaded(state, back);
            self.target_came_back(state, cpu, back);
        }
        for gone in before.iter().filter(|module| !after.contains(module)) {
            state.module_changes += 1;
            let (base, size) = (gone.base, gone.size);
            self.check(state, EventKind::ModuleUnload { base, size });
        }
        for come in after.iter().filter(|module| !before.contains(module)) {
            state.module_changes += 1;
            self.module_loaded(state, come);
            if come.name.eq_ignore_ascii_case(&self.config.target) {
                self.target_came_back(state, cpu, come);
            }
        }
        if state.module_changes >= CHANGES {
            let reason = format!(
                "modules were loaded and unloaded more than {CHANGES} times: what was loaded after that is not known by name"
            );
            state.doubts.add(Doubt::Modules, reason);
        }
    }

    /// Tells the checker of a module.
    pub(crate) fn module_loaded(&self, state: &mut State, module: &ModuleInfo) {
        let event = Module {
            base: module.base,
            size: module.size,
            target: module.name.eq_ignore_ascii_case(&self.config.target),
            name: module.name.clone(),
        };
        self.check(state, EventKind::ModuleLoad(event));
    }

    /// The driver under test was loaded again: perhaps another version of it. The breakpoints stay those of its first
    /// load; what they now miss becomes a gap.
    fn target_came_back(&self, state: &mut State, cpu: &Recorder<'_>, module: &ModuleInfo) {
        tracing::info!("{} is loaded again, at {:#x}", escape::line(&module.name), module.base);
        let Some((_, id)) = state.modules.find(module.base) else {
            return;
        };
        state.settle_target(cpu, module, id);
        // One note, of the last time: how often it happens is the guest's choice.
        let happened = "the driver under test was unloaded and loaded again";
        state.notes.retain(|note| !note.starts_with(happened));
        let again = format!("{happened}, at {:#x}", module.base);
        let found = self.target_imports(cpu, module.base, Evidence::Unknown);
        let Some(imports) = found.imports else {
            let why = found.note.unwrap_or_default();
            let reason = format!("{again}; what it calls is taken to be as before: {why}");
            return state.doubts.add(Doubt::Imports, reason);
        };
        state.notes.push(again);
        let imports = state.recognise(cpu, module.base, &imports);
        let plan = watch::plan(&imports, self.config.breakpoints);
        if let Some(what) = &plan.unrecognised {
            let reason = format!("lock routines may be among {what}: what they do to a lock was not seen");
            state.doubts.add(Doubt::Imports, reason);
        }
        let watched = self.watches.load();
        for planned in &plan.watches {
            let routine = export_name(planned.module, planned.export);
            let known = watched.iter().any(|watch| watch.names.contains(&routine))
                || state.gaps.iter().any(|gap| gap.routine == routine);
            if !known {
                let reason = format!(
                    "{happened} and imports {routine} since then, which is not watched: the breakpoints are those of its \
                     first load"
                );
                state.doubts.add(Doubt::Imports, reason);
                state.gaps.push(WatchGap {
                    routine,
                    consequence:
                        "the driver imports it since it was loaded again; the breakpoints are those of its first load"
                            .to_owned(),
                });
            }
        }
        let set = self.watch_set(&plan, true);
        // The same routines are watched as before: the checker learns of the imports and forgets nothing.
        self.check(state, EventKind::WatchSetChanged(set));
    }
}

impl State {
    /// Whether the module list is another than when it was read last, as far as a call shows that returns to this address.
    fn list_has_changed(&self, memory: &impl GuestMemory, return_address: u64) -> bool {
        let Some(list) = &self.list else { return false };
        let unknown = self.modules.find(return_address).is_none();
        list.has_grown(memory) || unknown && list.last_was_replaced(memory)
    }
}
