//! Arming: which routines get a breakpoint, where they are, and putting them in force.
//!
//! Talks to the watch plan and to the target. It must not know what a hit means.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use storlock_check::event::EventKind;

use super::doubts::Doubt;
use super::entries::{self, exported};
use super::modules::ModuleId;
use super::state::{Stage, State};
use super::{Session, Watch};
use crate::report::{ModuleInfo, WatchGap};
use crate::vmi::recorder::Recorder;
use crate::vmi::{Breakpoint, GuestMemory, Interception};
use crate::watch::{self, PlanGap, WatchPlan};
use crate::windows::{Image, Imports};

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
        let available = match &found.imports {
            Some(_) => Vec::new(),
            None => exported(state, &*cpu),
        };
        let plan = |registers| match &found.imports {
            Some(imports) => watch::plan(imports, registers),
            None => watch::plan_unknown(&available, registers),
        };
        let no_imports = Imports::default();
        let imports = found.imports.as_ref().unwrap_or(&no_imports);
        let (plan, watches) = match self.entry_points(state, cpu, plan, (base, imports)) {
            Ok(chosen) => chosen,
            Err(reason) => return state.fail(reason),
        };
        state.doubt_plan(&plan, found.imports.is_some(), evidence);
        state.plan_summary.clone_from(&plan.summary);
        // What shares its address with a watched routine is seen there.
        let unseen = |gap: &&PlanGap| watches.iter().all(|watch| !watch.names.contains(&gap.routine));
        let gaps = plan.gaps.iter().filter(unseen).map(|gap| WatchGap {
            routine: gap.routine.clone(),
            consequence: gap.consequence.clone(),
        });
        state.gaps = gaps.collect();
        let free = self.config.breakpoints.saturating_sub(watches.len());
        let printers = self.printers(state, imports, free);
        let locks = watches.iter().map(|watch| watch.breakpoint);
        let breakpoints: Vec<Breakpoint> = locks
            .chain(printers.iter().map(|(breakpoint, _)| *breakpoint))
            .collect();
        // Those of before a reset are not set any more, but the report tells all hits.
        for old in self.watches.load().iter() {
            if let Some(new) = watches.iter().find(|new| new.names == old.names) {
                new.hits.fetch_add(old.hits.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        self.printers.store(Arc::new(printers));
        self.watches.store(Arc::new(watches));
        if let Err(error) = cpu.set_breakpoints(&breakpoints) {
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
        let set = self.watch_set(plan, evidence == Evidence::BeforeEntry);
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
    /// Chooses the exports to watch and finds them. Exports that share an address take one breakpoint together, so that
    /// there may be room for more than the plan took the registers for.
    fn entry_points(
        &self,
        state: &mut State,
        cpu: &Recorder<'_>,
        plan: impl Fn(usize) -> WatchPlan,
        driver: (u64, &Imports),
    ) -> Result<(WatchPlan, Vec<Watch>), String> {
        let mut chosen = plan(self.config.breakpoints);
        let mut found = entries::resolve(state, cpu, &chosen, driver)?;
        for registers in self.config.breakpoints + 1..=2 * self.config.breakpoints {
            let all = chosen.watches.len() + 1 < registers;
            if all || found.watches.len() >= self.config.breakpoints {
                break;
            }
            let wider = plan(registers);
            let more = entries::resolve(state, cpu, &wider, driver)?;
            if more.watches.len() > self.config.breakpoints {
                break;
            }
            (chosen, found) = (wider, more);
        }
        state.notes.extend(found.notes);
        for reason in found.doubts {
            state.doubts.add(Doubt::Imports, reason);
        }
        Ok((chosen, found.watches))
    }

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
