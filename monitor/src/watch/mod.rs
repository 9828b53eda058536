//! Which exports get one of the few debug registers, and why.
//!
//! The choice follows from what the driver under test imports and from the contract table; it is pure. The plan also
//! names what is not watched and what follows from that. It must not know where the exports are in a guest or how
//! breakpoints are set.

mod choice;
mod hidden;
pub(crate) mod listing;
mod prohibited;
#[cfg(test)]
mod tests;
mod turns;
mod uses;
mod words;

use serde::Serialize;
use storlock_check::contract::{CONTRACTS, Contract, Role, Routine, RoutineSet, SystemModule, contract};

use self::choice::{choose, judged};
use self::hidden::{Unnamed, hidden_calls};
pub(crate) use self::prohibited::prohibited_imports;
pub(crate) use self::uses::Uses;
pub(crate) use self::words::WITNESS;
use self::words::{consequence, reason, summary};
use crate::windows::{Import, Imports};

/// An export to put a breakpoint on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedWatch {
    /// The module that exports it.
    pub module: SystemModule,
    /// Its exported name.
    pub export: &'static str,
    /// What it is watched for, in a sentence.
    pub reason: String,
}

/// Something that the plan does not see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PlanGap {
    /// The export, such as `nt!KeReleaseSpinLock`.
    pub routine: String,
    /// What follows for the verdicts, in a sentence.
    pub(crate) consequence: String,
}

/// The choice of breakpoints for one driver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WatchPlan {
    /// The exports to watch, in the order of the contract table.
    pub watches: Vec<PlannedWatch>,
    /// What is not seen, and what follows.
    pub gaps: Vec<PlanGap>,
    /// The routines behind the watched exports.
    pub watched: RoutineSet,
    /// All lock routines that the driver imports, or may import; with a multiplexed export, all routines behind it.
    pub imported: RoutineSet,
    /// Imports of which nobody knows what they are, so that lock routines may be among them: how many, and of which modules.
    pub(crate) unrecognised: Option<String>,
    /// The releases whose every imported feeder is watched: only these can be judged.
    pub judged: RoutineSet,
    /// The driver reaches lock routines by its import table only.
    pub closed: bool,
    /// Debug registers that stay free. With at least one, the return of a routine that may fail can be caught.
    pub(crate) free_registers: usize,
    /// How the choice was made, in a sentence.
    pub(crate) summary: String,
    /// What the driver's code wants of exports that are many routines in one, a line each.
    pub uses: Vec<String>,
    /// Choices that take turns with this one, since not all exports fit: one rotation for each export that may be its
    /// clock.
    pub(crate) turns: Vec<Rotation>,
}

/// Choices that take turns with the first one, all with one export by whose calls the turns are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// That export, as debuggers write it.
    pub(crate) clock: String,
    /// The choices after the first.
    pub(crate) later: Vec<WatchPlan>,
}

/// An export with the routines behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    module: SystemModule,
    export: &'static str,
    routines: RoutineSet,
}

/// Chooses what to watch for a driver with these imports on processors with `registers` debug registers.
///
/// If all its lock routines fit, all are watched. Else the set is chosen that has, in this order:
/// 1. most releases that can be judged,
/// 2. most routines that the Storport rule SpinLockRelease names,
/// 3. fewest routines of which only one half (acquire or release) is seen,
/// 4. most routines whose calls are seen.
///
/// Among equal sets the first in the order of the contract table is taken, so that the choice is always the same. No
/// register is kept free as long as a routine needs it: what a routine returned can often be told later, but a call that
/// was not seen cannot.
#[must_use]
pub(crate) fn plan(imports: &Imports, uses: &Uses, registers: usize) -> WatchPlan {
    let is_imported = |row: &Contract| {
        let mut entries = imports.entries().iter();
        entries.any(|import| is_import_of(import, row.module, row.export) && uses.may_call(import, row))
    };
    let unnamed = Unnamed::of(imports);
    let candidates = candidates(is_imported);
    let open = |candidate: &&Candidate| {
        let mut entries = imports.entries().iter();
        candidate.is_multiplexed()
            && entries.any(|import| is_import_of(import, candidate.module, candidate.export) && uses.is_open(import))
    };
    let clock = candidates.iter().find(open).copied();
    let clock = clock.map_or(Clock::MostCalled, Clock::Open);
    let mut plan = plan_of(&candidates, unnamed.routines, registers, "the driver imports", clock);
    plan.uses = uses.describe(imports);
    let hidden = hidden_calls(imports);
    plan.closed = hidden.is_empty() && unnamed.text.is_none();
    plan.gaps.extend(hidden);
    if let Some(what) = unnamed.text {
        let consequence = "a lock routine among them is not recognised and not watched: what it does to a lock is not seen, so \
                           releases that it may belong to are reported as suspect, not as defects";
        plan.gaps.push(PlanGap {
            routine: what.clone(),
            consequence: consequence.into(),
        });
        plan.summary = format!("{}; not recognised: {what}", plan.summary);
        plan.unrecognised = Some(what);
    }
    plan
}

/// Whether an import is of that lock export.
#[must_use]
pub(crate) fn is_import_of(import: &Import, module: SystemModule, export: &str) -> bool {
    let mut rows = CONTRACTS.iter();
    import.is_named(export)
        && rows.any(|row| row.module == module && row.export == export && exports(&import.module, row))
}

/// Chooses what to watch for a driver whose imports are unknown, from the exports that the guest has: it may import them
/// all, so only those releases are judged whose every feeder is watched.
#[must_use]
pub(crate) fn plan_unknown(available: &[(SystemModule, &str)], registers: usize) -> WatchPlan {
    let is_available = |row: &Contract| available.contains(&(row.module, row.export));
    plan_of(
        &candidates(is_available),
        RoutineSet::EMPTY,
        registers,
        "the driver may import",
        Clock::None,
    )
}

/// Chooses among the lock exports that the driver imports, or may import, as `whether` says; it may also import
/// `hidden` ones, of which nobody can say that they are watched. `clock` counts the turns if there are any.
fn plan_of(candidates: &[Candidate], hidden: RoutineSet, registers: usize, whether: &str, clock: Clock) -> WatchPlan {
    let imported = union(candidates).union(hidden);
    let chosen = choose(candidates, registers, imported);
    let plan_of = |set: &Vec<Candidate>| plan_of_set(candidates, set, imported, registers, whether);
    let rotation = |clock: &Candidate| {
        let sets = turns::sets(candidates, &chosen, registers, imported, clock);
        let mut plans = sets.iter().map(plan_of);
        let first = plans.next().unwrap_or_default();
        let later = plans.collect();
        (
            first,
            Rotation {
                clock: clock.name(),
                later,
            },
        )
    };
    let (mut plan, why) = match clock {
        Clock::Open(clock) => {
            let (first, rotation) = rotation(&clock);
            let turns = vec![rotation];
            (
                WatchPlan { turns, ..first },
                "what the driver wants of an export is not told by its code",
            )
        }
        Clock::MostCalled if registers > 1 && candidates.len() > registers => {
            let turns = chosen.iter().map(|clock| rotation(clock).1).collect();
            let first = plan_of(&chosen);
            (WatchPlan { turns, ..first }, "each of them has to be seen")
        }
        Clock::MostCalled | Clock::None => (plan_of(&chosen), ""),
    };
    plan.turns.retain(|rotation| !rotation.later.is_empty());
    if let Some(sets) = plan.turns.iter().map(|rotation| rotation.later.len() + 1).max() {
        plan.summary = format!("{}; {why}, so {sets} sets of exports take turns", plan.summary);
    }
    plan
}

/// By whose calls turns are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// There are no turns.
    None,
    /// An export that the driver calls for other things all the time, and of which nobody knows what it wants.
    Open(Candidate),
    /// Whichever of the first choice is called most.
    MostCalled,
}

/// The plan by which these candidates are watched.
fn plan_of_set(
    candidates: &[Candidate],
    chosen: &[Candidate],
    imported: RoutineSet,
    registers: usize,
    whether: &str,
) -> WatchPlan {
    let watched = union(chosen);
    let judged = judged(watched, imported);
    let left_out: Vec<Candidate> = candidates
        .iter()
        .copied()
        .filter(|other| !chosen.contains(other))
        .collect();
    let planned = chosen
        .iter()
        .map(|chosen| PlannedWatch {
            module: chosen.module,
            export: chosen.export,
            reason: reason(chosen, whether, watched, imported),
        })
        .collect();
    let gaps = left_out
        .iter()
        .map(|left_out| PlanGap {
            routine: left_out.name(),
            consequence: consequence(left_out, watched),
        })
        .collect();
    WatchPlan {
        watches: planned,
        gaps,
        watched,
        imported,
        unrecognised: None,
        judged,
        closed: false,
        free_registers: registers.saturating_sub(chosen.len()),
        summary: summary(candidates, chosen, registers, whether),
        uses: Vec::new(),
        turns: Vec::new(),
    }
}

impl Candidate {
    /// As debuggers write it: `nt!KeReleaseSpinLock`.
    fn name(&self) -> String {
        name_of(self.module, self.export)
    }

    /// Whether it is many routines in one.
    fn is_multiplexed(&self) -> bool {
        self.routines.iter().any(|routine| contract(routine).selector.is_some())
    }

    fn releases(&self) -> impl Iterator<Item = Routine> {
        self.routines
            .iter()
            .filter(|&routine| contract(routine).role == Role::Release)
    }

    fn acquires(&self) -> impl Iterator<Item = Routine> {
        self.routines
            .iter()
            .filter(|&routine| contract(routine).role != Role::Release)
    }
}

fn name_of(module: SystemModule, export: &str) -> String {
    let module = match module {
        SystemModule::Ntoskrnl => "nt",
        SystemModule::Storport => "storport",
    };
    format!("{module}!{export}")
}

/// The lock exports that are wanted, in the order of the table.
fn candidates(wanted: impl Fn(&Contract) -> bool) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = Vec::new();
    for row in &CONTRACTS {
        if !wanted(row) {
            continue;
        }
        let known = candidates
            .iter_mut()
            .find(|known| known.module == row.module && known.export == row.export);
        match known {
            Some(known) => known.routines.insert(row.routine),
            None => candidates.push(Candidate {
                module: row.module,
                export: row.export,
                routines: RoutineSet::of(&[row.routine]),
            }),
        }
    }
    candidates
}

/// Other names under which the kernel's routines are imported: `hal.dll` forwards what it no longer has to the kernel, and
/// the kernel's file for several processors was called `ntkrnlmp.exe`.
const KERNEL_NAMES: [&str; 2] = ["hal.dll", "ntkrnlmp.exe"];

/// Whether an import from `module` is the table's routine.
fn exports(module: &str, row: &Contract) -> bool {
    let is = |name: &str| module.eq_ignore_ascii_case(name);
    is(row.module.file_name()) || (row.module == SystemModule::Ntoskrnl && KERNEL_NAMES.into_iter().any(is))
}

fn union(candidates: &[Candidate]) -> RoutineSet {
    candidates
        .iter()
        .fold(RoutineSet::EMPTY, |set, candidate| set.union(candidate.routines))
}
