//! Arming: which routines get a breakpoint, where they are, and putting them in force.
//!
//! Talks to the watch plan and to the target. It must not know what a hit means.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use storlock_check::contract::{SystemModule, contracts_of_export};
use storlock_check::event::{EventKind, WatchSet};

use super::modules::ModuleId;
use super::state::{Stage, State};
use super::{Session, Watch};
use crate::report::{ModuleInfo, WatchGap};
use crate::target::recorder::Recorder;
use crate::target::{GuestMemory, Hook, Interception};
use crate::watch::{self, WatchPlan};
use crate::windows::{Exports, Image, Imports};

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
        target: (ModuleInfo, ModuleId),
        evidence: Evidence,
    ) {
        tracing::info!("{} at {:#x}", target.0.name, target.0.base);
        let base = target.0.base;
        state.target = Some(target);
        let imports = Image::read(&*cpu, base).and_then(|image| Imports::read(&*cpu, &image));
        let imports = match imports {
            Ok(imports) => imports,
            Err(error) => return state.fail(format!("the driver's imports cannot be read: {error}")),
        };
        let plan = watch::plan(&imports, self.config.hooks);
        let watches = match resolve(state, cpu, &plan) {
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
        let hooks: Vec<Hook> = watches.iter().map(|watch| watch.hook).collect();
        // Those of before a reset are not set any more, but the report tells all hits.
        for old in self.watches.load().iter() {
            if let Some(new) = watches.iter().find(|new| new.name == old.name) {
                new.hits.fetch_add(old.hits.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        self.watches.store(Arc::new(watches));
        if let Err(error) = cpu.set_hooks(&hooks) {
            return state.fail(error.to_string());
        }
        self.armed(state, &plan, evidence);
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

/// Finds the planned exports in the guest.
fn resolve(state: &mut State, cpu: &Recorder<'_>, plan: &WatchPlan) -> Result<Vec<Watch>, String> {
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
        let hook = state.new_hook(address);
        watches.push(Watch {
            hook,
            name,
            rows: contracts_of_export(planned.module, planned.export).collect(),
            reason: planned.reason.clone(),
            hits: AtomicU64::new(0),
        });
    }
    Ok(watches)
}

fn exports_of(memory: &impl GuestMemory, state: &State, module: &str) -> Result<(Image, Exports), String> {
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
