//! Arming: chooses the routines that get a breakpoint, finds their addresses, and puts the breakpoints in force.
//!
//! Talks to the watch plan and to the stopped processor. It must not know what a hit means.

use storlock_check::event::EventKind;

use super::callbacks;
use super::config::DriverFile;
use super::entries::{self, exported};
use super::follow;
use super::guest::{Guest, ModuleId};
use super::hooked;
use super::log::Log;
use super::state::State;
use super::turns::Rotation;
use super::watching::{Watch, Watching};
use crate::report::{Doubt, ImportsFile, ImportsNote, ImportsUnread, ModuleInfo, NotArmed, Note};
use crate::vmi::recorder::Recorder;
use crate::vmi::{ArmError, GuestMemory};
use crate::watch::{self, LockSites, Uses, WatchPlan};
use crate::windows::arguments::first_arguments;
use crate::windows::{Image, Imports};

/// What is known about whether the driver under test has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// Its driver object is just being made: `DriverEntry` has not been called.
    BeforeEntry,
    /// Nothing.
    Unknown,
}

/// What to do once the breakpoints are in force.
#[derive(Default)]
pub(crate) struct AtArming(Option<Box<dyn Fn() + Send>>);

impl AtArming {
    /// Sets the function to call, on the thread of the processor that arms.
    pub(super) fn set(&mut self, then: impl Fn() + Send + 'static) {
        self.0 = Some(Box::new(then));
    }
}

impl std::fmt::Debug for AtArming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AtArming").field(&self.0.is_some()).finish()
    }
}

/// Puts the breakpoints for the driver under test in force.
///
/// The caller holds the session's lock throughout. A processor that hits a new breakpoint before all processors have it
/// waits for that lock outside of the guest, so its event comes after the arming.
pub(super) fn arm(state: &mut State, cpu: &mut Recorder<'_>, module: &ModuleInfo, id: ModuleId, evidence: Evidence) {
    let modules = state.guest.modules().all().count();
    state.log.milestone(format!(
        "{} at {:#x}, {modules} modules loaded",
        module.name, module.base
    ));
    state
        .target
        .settle(&mut state.guest, &mut state.log, &*cpu, (module, id));
    if let Err(reason) = set_breakpoints(state, cpu, module.base, evidence) {
        state.discovery.fail(reason);
    }
}

/// Plans for what the driver at `base` imports, and puts the plan's breakpoints in force. Fails with the reason why
/// nothing is watched.
fn set_breakpoints(state: &mut State, cpu: &mut Recorder<'_>, base: u64, evidence: Evidence) -> Result<(), NotArmed> {
    let known = known_imports(state, &*cpu, base, evidence);
    let file = state.config.target_file.as_ref();
    let uses = known.as_ref().map(|imports| uses_of(&*cpu, base, file, imports));
    let uses = uses.unwrap_or_default();
    let hooks = hooks(state, cpu, base, (known.as_ref(), &uses), evidence);
    let planner = Planner::new(&state.guest, &*cpu, known.as_ref(), &uses);
    let no_imports = Imports::default();
    let imports = known.as_ref().unwrap_or(&no_imports);
    let (guest, watching, log) = (&mut state.guest, &mut state.watching, &mut state.log);
    let (plan, watches) = match hooks {
        Some(hooked::Chosen { plan, watches, exit }) => {
            watching.leave_at(exit);
            (plan, watches)
        }
        None => entry_points(guest, watching, log, cpu, &planner, (base, imports))?,
    };
    doubt_plan(log, &plan, known.is_some(), evidence);
    let rotations = rotations(guest, watching, cpu, &plan, (base, imports))?;
    watching.take_plan(&plan, &watches, rotations);
    state.coverage.take(LockSites::new(imports, &uses));
    if state.config.explain {
        for line in plan.choice().explanation() {
            log.milestone(line);
        }
    }
    let free = watching.free_beside(&watches);
    let printers = state.debug_log.printers(guest, watching, imports, free);
    let set = watching.put_in_force(cpu, watches, printers);
    set.map_err(|error| refused(&error))?;
    if let Some(checks) = &mut state.guest_checks {
        checks.check_at_arming(&mut state.guest, &*cpu, evidence);
    }
    in_force(state, &plan, evidence);
    if evidence == Evidence::BeforeEntry {
        state.callbacks.forget();
        state.callbacks.may_ask(imports, &uses, &state.watching);
        callbacks::wait_for_registration(state, cpu, imports);
    }
    let before = if evidence == Evidence::BeforeEntry {
        "before its DriverEntry"
    } else {
        "but it may have run already"
    };
    state
        .log
        .milestone(format!("armed {before}: {}", plan.choice().summary()));
    state.exports.read_at_arming(&state.guest, &*cpu);
    Ok(())
}

/// Hooks in the driver's imports, if they are wanted and can be; else notes why not.
fn hooks(
    state: &mut State,
    cpu: &mut Recorder<'_>,
    base: u64,
    (known, uses): (Option<&Imports>, &Uses),
    evidence: Evidence,
) -> Option<hooked::Chosen> {
    let imports = known.filter(|_| evidence == Evidence::BeforeEntry);
    let chosen = imports.map_or(Ok(None), |imports| hooked::choose(state, cpu, base, (imports, uses)));
    let chosen = chosen.unwrap_or_else(|why| {
        state.hooks.refuse(why);
        None
    });
    if chosen.is_none() {
        state
            .hooks
            .refuse_if_wanted("the driver may have run already, or its imports are not known");
    }
    if let Some(note) = state.hooks.take_refusal() {
        state.log.milestone(note.to_string());
        state.log.note(note);
    }
    chosen
}

/// The breakpoints of the sets that take turns with the first one.
fn rotations(
    guest: &mut Guest,
    watching: &mut Watching,
    cpu: &Recorder<'_>,
    plan: &WatchPlan,
    driver: (u64, &Imports),
) -> Result<Vec<Rotation>, NotArmed> {
    let mut rotations = Vec::new();
    for rotation in &plan.turns {
        let mut later = Vec::new();
        for turn in &rotation.later {
            let watches = entries::resolve(guest, watching, cpu, turn, driver)?.watches;
            // Where exports share addresses the choice may have counted on that.
            if watches.len() <= watching.capacity() {
                later.push((turn.clone(), watches));
            }
        }
        rotations.push((rotation.clock.clone(), later));
    }
    Ok(rotations)
}

/// What the driver at `base` imports, if that can be told; notes where it was read.
fn known_imports(state: &mut State, memory: &Recorder<'_>, base: u64, evidence: Evidence) -> Option<Imports> {
    let file = state.config.target_file.as_ref();
    let (known, note) = match TargetImports::read(memory, base, file, evidence) {
        TargetImports::Known { imports, note } => (Some(imports), note),
        TargetImports::Unknown { why } => (None, Some(why)),
    };
    let known = known.map(|imports| state.guest.recognise(memory, base, &imports));
    if let Some(note) = note {
        state.log.note(Note::Imports(note));
    }
    known
}

/// How the code of the driver at `base` uses its imports: read from its file, or else from the guest's memory.
pub(super) fn uses_of(memory: &impl GuestMemory, base: u64, file: Option<&DriverFile>, imports: &Imports) -> Uses {
    let Ok(image) = Image::read(memory, base) else {
        return Uses::default();
    };
    match file.filter(|file| file.is(&image) && file.uses.cover(imports)) {
        Some(file) => file.uses.clone(),
        None => Uses::new(first_arguments(memory, &image, &Uses::slots(imports))),
    }
}

/// Puts the next set of breakpoints in force, if the turn of this one is over.
pub(super) fn take_turn(state: &mut State, cpu: &mut Recorder<'_>) {
    let hits = state.ledger.hits().0;
    // The release of a lock that is held now might not be seen.
    if !state.watching.turn_is_over(hits) || state.ledger.checker().target_holds_a_lock() {
        return;
    }
    match state.watching.next_turn(cpu, hits) {
        Ok(set) => {
            state.ledger.append(EventKind::WatchSetChanged(set));
        }
        Err(error) => state.discovery.fail(refused(&error)),
    }
}

fn refused(error: &ArmError) -> NotArmed {
    let error = error.to_string();
    NotArmed::Refused { error }
}

/// The breakpoints are in force on all processors: tells the checker.
fn in_force(state: &mut State, plan: &WatchPlan, evidence: Evidence) {
    state.discovery.armed();
    if let Some(driver) = state.target.module() {
        state.coverage.watched(driver);
    }
    if let AtArming(Some(then)) = &state.at_arming {
        then();
    }
    for module in &state.guest.module_list() {
        follow::module_loaded(state, module);
    }
    let set = state.watching.watch_set(plan, evidence == Evidence::BeforeEntry);
    state.ledger.append(EventKind::WatchSetChanged(set));
    state.watching.armed(state.ledger.sequence());
}

/// Notes which calls the plan may miss.
fn doubt_plan(log: &mut Log, plan: &WatchPlan, imports_known: bool, evidence: Evidence) {
    doubt_unrecognised(log, plan);
    if !imports_known && !plan.gaps.is_empty() {
        log.doubt(Doubt::ImportsUnknown);
    }
    if evidence == Evidence::Unknown {
        log.doubt(Doubt::Late);
    }
}

/// Notes that lock routines may be among the imports that nobody knows.
pub(super) fn doubt_unrecognised(log: &mut Log, plan: &WatchPlan) {
    if let Some(unnamed) = plan.unnamed.clone() {
        log.doubt(Doubt::ImportsUnrecognised { unnamed });
    }
}

/// The input of the plan: the imports of the driver under test, or else all exports that it may import.
enum Planner<'a> {
    Imports(&'a Imports, &'a Uses),
    Available(Vec<(storlock_check::contract::SystemModule, &'static str)>),
}

impl<'a> Planner<'a> {
    fn new(guest: &Guest, memory: &impl GuestMemory, imports: Option<&'a Imports>, uses: &'a Uses) -> Self {
        let available = || Self::Available(exported(guest, memory));
        imports.map_or_else(available, |imports| Self::Imports(imports, uses))
    }

    /// The plan for processors with this many debug registers.
    fn plan(&self, registers: usize) -> WatchPlan {
        match self {
            Self::Imports(imports, uses) => watch::plan(imports, uses, registers),
            Self::Available(available) => watch::plan_unknown(available, registers),
        }
    }
}

/// Chooses the exports to watch and finds them. Exports that share an address need only one breakpoint, so
/// there may be room for more than the plan took the registers for.
fn entry_points(
    guest: &mut Guest,
    watching: &mut Watching,
    log: &mut Log,
    cpu: &Recorder<'_>,
    planner: &Planner<'_>,
    driver: (u64, &Imports),
) -> Result<(WatchPlan, Vec<Watch>), NotArmed> {
    let registers = watching.capacity();
    let mut chosen = planner.plan(registers);
    let mut found = entries::resolve(guest, watching, cpu, &chosen, driver)?;
    for more in registers + 1..=2 * registers {
        let all = chosen.watches.len() + 1 < more;
        if all || found.watches.len() >= registers {
            break;
        }
        let wider = planner.plan(more);
        let entries = entries::resolve(guest, watching, cpu, &wider, driver)?;
        if entries.watches.len() > registers {
            break;
        }
        (chosen, found) = (wider, entries);
    }
    for note in found.notes {
        log.note(note);
    }
    for doubt in found.doubts {
        log.doubt(doubt);
    }
    Ok((chosen, found.watches))
}

/// What the driver under test imports.
pub(super) enum TargetImports {
    /// These.
    Known {
        imports: Imports,
        /// Where they are from, if they are not those in the guest's memory.
        note: Option<ImportsNote>,
    },
    /// They cannot be read.
    Unknown { why: ImportsNote },
}

impl TargetImports {
    /// The imports of the driver under test at `base`: from the guest's memory, or from the driver's file if they are not
    /// there any more.
    pub(super) fn read(memory: &impl GuestMemory, base: u64, file: Option<&DriverFile>, evidence: Evidence) -> Self {
        let unreadable = |error: &dyn std::error::Error| ImportsUnread::Unreadable {
            error: error.to_string(),
        };
        let unknown = |memory, file| Self::Unknown {
            why: ImportsNote { memory, file },
        };
        let image = match Image::read(memory, base) {
            Ok(image) => image,
            Err(error) => return unknown(unreadable(&error), ImportsFile::NotCompared),
        };
        let discarded = evidence == Evidence::Unknown && Imports::are_discardable(&image);
        let unread = match Imports::read(memory, &image) {
            Ok(imports) if !discarded => return Self::Known { imports, note: None },
            Err(error) if !discarded => unreadable(&error),
            _ => ImportsUnread::Discardable,
        };
        match file {
            Some(file) if file.is(&image) => Self::Known {
                imports: file.imports.clone(),
                note: Some(ImportsNote {
                    memory: unread,
                    file: ImportsFile::Taken,
                }),
            },
            Some(_) => unknown(unread, ImportsFile::AnotherBuild),
            None => unknown(unread, ImportsFile::NotGiven),
        }
    }
}
