//! Which exports get one of the few debug registers, and why.
//!
//! The choice follows from what the driver under test imports and from the contract table; it is pure. The plan also
//! names what is not watched and what follows from that. It must not know where the exports are in a guest or how
//! breakpoints are set.

mod choice;
mod hidden;
pub(crate) mod listing;
mod prohibited;
mod sites;
#[cfg(test)]
mod tests;
mod turns;
mod uses;
mod why;

use storlock_check::contract::{CONTRACTS, Contract, Role, Routine, RoutineSet, SystemModule, contract};

use self::choice::{choose, judged};
use self::hidden::{Unnamed, hidden_calls};
pub(crate) use self::prohibited::prohibited_imports;
pub(crate) use self::sites::LockSites;
pub(crate) use self::uses::Uses;
pub(crate) use self::why::WITNESS;
use self::why::{left_out, purpose};
use crate::report::{ImportUse, Purpose, TurnsBecause, UnnamedImports, WatchGap};
use crate::windows::{Import, Imports};

/// An export to put a breakpoint on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedWatch {
    /// The module that exports it.
    pub module: SystemModule,
    /// Its exported name.
    pub export: &'static str,
    /// What it is watched for.
    pub purpose: Purpose,
}

/// The choice of breakpoints for one driver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WatchPlan {
    /// The exports to watch, in the order of the contract table.
    pub watches: Vec<PlannedWatch>,
    /// What is not seen, and what follows.
    pub gaps: Vec<WatchGap>,
    /// The routines behind the watched exports.
    pub watched: RoutineSet,
    /// All lock routines that the driver imports, or may import; with a multiplexed export, all routines behind it.
    pub imported: RoutineSet,
    /// Imports of which nobody knows what they are, so that lock routines may be among them.
    pub(crate) unnamed: Option<UnnamedImports>,
    /// The releases whose every imported feeder is watched: only these can be judged.
    pub judged: RoutineSet,
    /// The driver reaches lock routines by its import table only.
    pub closed: bool,
    /// The driver's imports are known.
    imports_known: bool,
    /// Lock exports that the driver imports, or may import.
    exports: usize,
    /// Debug registers of a processor. With one that stays free, the return of a routine that may fail can be caught.
    registers: usize,
    /// What the driver's code wants of exports that are many routines in one.
    pub uses: Vec<ImportUse>,
    /// Choices that take turns with this one, since not all exports fit: one rotation for each export that may be its
    /// clock.
    pub(crate) turns: Vec<Rotation>,
    /// Why they do.
    turns_because: Option<TurnsBecause>,
    /// The exports have no breakpoints: the driver's imports are hooked.
    hooked: bool,
}

impl WatchPlan {
    /// The same with hooks in the driver's imports in place of breakpoints.
    pub(crate) fn hooked(self) -> Self {
        Self { hooked: true, ..self }
    }
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
    let mut plan = plan_of(&candidates, unnamed.routines, registers, true, clock);
    plan.uses = uses.describe(imports);
    let hidden = hidden_calls(imports);
    plan.closed = hidden.is_empty() && unnamed.imports.is_none();
    plan.gaps.extend(hidden);
    plan.gaps.extend(unnamed.imports.clone().map(WatchGap::Unnamed));
    plan.unnamed = unnamed.imports;
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
        false,
        Clock::None,
    )
}

/// Chooses among the lock exports that the driver imports, or may import if that is not `known`; it may also import
/// `hidden` ones, of which nobody can say that they are watched. `clock` counts the turns if there are any.
fn plan_of(candidates: &[Candidate], hidden: RoutineSet, registers: usize, known: bool, clock: Clock) -> WatchPlan {
    let imported = union(candidates).union(hidden);
    let chosen = choose(candidates, registers, imported);
    let plan_of = |set: &Vec<Candidate>| plan_of_set(candidates, set, imported, registers, known);
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
    let mut plan = match clock {
        Clock::Open(clock) => {
            let (first, rotation) = rotation(&clock);
            WatchPlan {
                turns: vec![rotation],
                turns_because: Some(TurnsBecause::UseNotKnown),
                ..first
            }
        }
        Clock::MostCalled if registers > 1 && candidates.len() > registers => WatchPlan {
            turns: chosen.iter().map(|clock| rotation(clock).1).collect(),
            turns_because: Some(TurnsBecause::TooMany),
            ..plan_of(&chosen)
        },
        Clock::MostCalled | Clock::None => plan_of(&chosen),
    };
    plan.turns.retain(|rotation| !rotation.later.is_empty());
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
    known: bool,
) -> WatchPlan {
    let watched = union(chosen);
    let judged = judged(watched, imported);
    let planned = chosen.iter().map(|chosen| PlannedWatch {
        module: chosen.module,
        export: chosen.export,
        purpose: purpose(chosen, imported, known, watched),
    });
    let others = candidates.iter().filter(|other| !chosen.contains(other));
    WatchPlan {
        watches: planned.collect(),
        gaps: others.map(|other| left_out(other, watched)).collect(),
        watched,
        imported,
        unnamed: None,
        judged,
        closed: false,
        imports_known: known,
        exports: candidates.len(),
        registers,
        uses: Vec::new(),
        turns: Vec::new(),
        turns_because: None,
        hooked: false,
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
