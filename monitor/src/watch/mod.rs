//! Which exports get one of the few debug registers, and why.
//!
//! The choice follows from what the driver under test imports and from the contract table; it is pure. The plan also
//! names what is not watched and what follows from that. It must not know where the exports are in a guest or how
//! breakpoints are set.

#[cfg(test)]
mod tests;
mod turns;
mod uses;

use std::cmp::Reverse;

use storlock_check::contract::{CONTRACTS, Contract, Role, Routine, RoutineSet, SystemModule, contract};

pub(crate) use self::uses::Uses;
use crate::windows::{Import, ImportName, Imports};

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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Choices that take turns with this one, since not all exports fit and which of them the driver needs is not known.
    pub(crate) turns: Vec<WatchPlan>,
}

/// The export on whose entry a register waits for the driver object, until the driver is loaded.
pub(crate) const WITNESS: &str = "nt!ObInsertObject";

impl WatchPlan {
    /// How the debug registers are used, and why, a line each.
    #[must_use]
    pub(crate) fn explain(&self) -> Vec<String> {
        let mut lines = vec![format!("debug registers: {}", self.summary)];
        lines.extend(self.uses.iter().cloned());
        lines.push(format!(
            "until the driver is loaded, 1 register waits for its driver object ({WITNESS}); it is given back for these:"
        ));
        for (index, watch) in self.watches.iter().enumerate() {
            lines.push(format!(
                "register {}: {}: {}",
                index + 1,
                name_of(watch.module, watch.export),
                watch.reason
            ));
        }
        let needed: Vec<&str> = self
            .watched
            .iter()
            .filter(|&routine| contract(routine).result.may_fail())
            .map(Routine::name)
            .collect();
        lines.push(match (self.free_registers, needed.is_empty()) {
            (0, true) => "caught returns: no watched routine needs them".to_owned(),
            (0, false) => format!(
                "caught returns: no register, since a call that is not seen is lost, and what {} returned is told from later events",
                needed.join(", ")
            ),
            (free, true) => format!("{free} free; no watched routine needs its return caught"),
            (free, false) => format!("{free} free: the returns of {} are caught", needed.join(", ")),
        });
        lines.extend(
            self.gaps
                .iter()
                .map(|gap| format!("no register: {}: {}", gap.routine, gap.consequence)),
        );
        for (index, turn) in self.turns.iter().enumerate() {
            let exports = turn.watches.iter().map(|watch| name_of(watch.module, watch.export));
            lines.push(format!(
                "in turn {}: {}",
                index + 2,
                exports.collect::<Vec<_>>().join(", ")
            ));
        }
        lines
    }
}

/// Gaps of imports from modules that are not known, at most.
const FOREIGN: usize = 16;

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
    let clock = candidates.iter().find(open);
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

/// The imports that have no name.
struct Unnamed {
    /// The lock routines that they may be.
    routines: RoutineSet,
    /// How many there are, and of which modules.
    text: Option<String>,
}

impl Unnamed {
    fn of(imports: &Imports) -> Self {
        let unnamed = |import: &&Import| !matches!(import.name, ImportName::Name(_));
        let unnamed: Vec<&Import> = imports.entries().iter().filter(unnamed).collect();
        let may_be = |row: &&Contract| {
            let mut modules = unnamed.iter().map(|import| import.module.as_str());
            modules.any(|module| exports(module, row) || !CONTRACTS.iter().any(|other| exports(module, other)))
        };
        let routines = CONTRACTS.iter().filter(may_be).map(|row| row.routine).collect();
        let mut modules: Vec<&str> = unnamed.iter().map(|import| import.module.as_str()).collect();
        modules.sort_unstable();
        modules.dedup();
        let more = if modules.len() > 4 { " and others" } else { "" };
        modules.truncate(4);
        let text = format!(
            "{} imports without a name, from {}{more}",
            unnamed.len(),
            modules.join(", ")
        );
        Self {
            routines,
            text: (!unnamed.is_empty()).then_some(text),
        }
    }
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
        None,
    )
}

/// Chooses among the lock exports that the driver imports, or may import, as `whether` says; it may also import
/// `hidden` ones, of which nobody can say that they are watched. What is wanted of `clock` is not known.
fn plan_of(
    candidates: &[Candidate],
    hidden: RoutineSet,
    registers: usize,
    whether: &str,
    clock: Option<&Candidate>,
) -> WatchPlan {
    let imported = union(candidates).union(hidden);
    let chosen = choose(candidates, registers, imported);
    let sets = match clock {
        Some(clock) => turns::sets(candidates, &chosen, registers, imported, clock),
        None => vec![chosen],
    };
    let mut plans = sets
        .iter()
        .map(|set| plan_of_set(candidates, set, imported, registers, whether));
    let mut plan = plans.next().unwrap_or_default();
    plan.turns = plans.collect();
    if !plan.turns.is_empty() {
        let sets = plan.turns.len() + 1;
        plan.summary = format!(
            "{}; what the driver wants of an export is not told by its code, so {sets} sets of exports take turns",
            plan.summary
        );
    }
    plan
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

/// The watched releases all of whose imported feeders are watched too.
fn judged(watched: RoutineSet, imported: RoutineSet) -> RoutineSet {
    let is_judged = |&routine: &Routine| {
        let row = contract(routine);
        row.role == Role::Release && watched.contains_all(row.fed_by.intersection(imported))
    };
    watched.iter().filter(is_judged).collect()
}

/// The watched routines that are only half of what has to be seen: releases that cannot be judged, and acquires some of
/// whose imported releases are not watched. They give suspicions instead of verdicts.
fn loose(watched: RoutineSet, imported: RoutineSet) -> RoutineSet {
    let judged = judged(watched, imported);
    let has_unseen_release = |acquire: Routine| {
        let unseen = imported.difference(watched);
        unseen.iter().any(|release| contract(release).fed_by.contains(acquire))
    };
    let is_loose = |&routine: &Routine| match contract(routine).role {
        Role::Release => !judged.contains(routine),
        _ => has_unseen_release(routine),
    };
    watched.iter().filter(is_loose).collect()
}

/// The routines in the text of the rule SpinLockRelease.
const RULE: RoutineSet = RoutineSet::of(&[Routine::KeAcquireSpinLockRaiseToDpc, Routine::KeReleaseSpinLock]);

/// The best set of at most `registers` candidates.
fn choose(candidates: &[Candidate], registers: usize, imported: RoutineSet) -> Vec<Candidate> {
    if candidates.len() <= registers {
        return candidates.to_vec();
    }
    choose_by(candidates, registers, |_, watched| {
        Some((
            judged(watched, imported).len(),
            watched.intersection(RULE).len(),
            Reverse(loose(watched, imported).len()),
            watched.len(),
        ))
    })
}

/// The first set of `registers` candidates that is worth most, by trying all: there are at most some twenty thousand. `None`
/// is worth nothing; without a set that is worth anything there is none.
fn choose_by<W: Ord>(
    candidates: &[Candidate],
    registers: usize,
    worth: impl Fn(&[Candidate], RoutineSet) -> Option<W>,
) -> Vec<Candidate> {
    let mut picked: Vec<usize> = (0..registers.min(candidates.len())).collect();
    let (mut best, mut best_worth) = (Vec::new(), None);
    loop {
        let set: Vec<Candidate> = picked
            .iter()
            .filter_map(|&index| candidates.get(index).copied())
            .collect();
        let own = worth(&set, union(&set));
        if own > best_worth {
            (best, best_worth) = (set, own);
        }
        if !next_combination(&mut picked, candidates.len()) {
            return best;
        }
    }
}

/// Steps to the next combination of indices below `count` in lexicographic order; `false` after the last one.
fn next_combination(picked: &mut [usize], count: usize) -> bool {
    let length = picked.len();
    let Some(position) = (0..length).rev().find(|&at| picked[at] + length - at < count) else {
        return false;
    };
    picked[position] += 1;
    for at in position + 1..length {
        picked[at] = picked[at - 1] + 1;
    }
    true
}

fn names(routines: impl Iterator<Item = Routine>) -> String {
    routines.map(Routine::name).collect::<Vec<_>>().join(", ")
}

fn reason(candidate: &Candidate, whether: &str, watched: RoutineSet, imported: RoutineSet) -> String {
    let mut parts = Vec::new();
    let feeds = |release: &Routine| {
        let fed_by = contract(*release).fed_by;
        watched.contains(*release) && !fed_by.intersection(candidate.routines).is_empty()
    };
    let fed: RoutineSet = RoutineSet::ALL.iter().filter(feeds).collect();
    if candidate.acquires().next().is_some() {
        parts.push(if fed.is_empty() {
            format!("acquires ({}), to see a second acquire", names(candidate.acquires()))
        } else {
            format!(
                "acquires ({}) that may come before {}",
                names(candidate.acquires()),
                names(fed.iter())
            )
        });
    }
    if candidate.releases().next().is_some() {
        let judged = judged(watched, imported);
        let (can, cannot): (Vec<_>, Vec<_>) = candidate.releases().partition(|&release| judged.contains(release));
        if !can.is_empty() {
            parts.push(format!("releases to judge ({})", names(can.into_iter())));
        }
        if !cannot.is_empty() {
            let list = names(cannot.into_iter());
            parts.push(format!(
                "releases that are suspect at most, since not every acquire is watched ({list})"
            ));
        }
    }
    format!("{whether} it: {}", parts.join("; "))
}

fn consequence(left_out: &Candidate, watched: RoutineSet) -> String {
    let mut parts = Vec::new();
    if left_out.releases().next().is_some() {
        parts.push(format!(
            "calls of {} are not seen and not judged",
            names(left_out.releases())
        ));
    }
    let feeds = |release: &Routine| !contract(*release).fed_by.intersection(left_out.routines).is_empty();
    let fed: RoutineSet = watched.iter().filter(feeds).collect();
    if fed.is_empty() {
        if left_out.acquires().next().is_some() {
            parts.push(format!("acquires by {} are not seen", names(left_out.acquires())));
        }
    } else {
        parts.push(format!(
            "a release by {} without a record may follow an acquire by {}: it is reported as suspect, not as a defect",
            names(fed.iter()),
            names(left_out.acquires())
        ));
    }
    parts.join("; ")
}

/// Modules of the system, none of which takes or releases a driver's lock behind its back.
const SYSTEM: &[&str] = &[
    "ntoskrnl.exe",
    "storport.sys",
    "wdfldr.sys",
    "wmilib.sys",
    "wpprecorder.sys",
    "ndis.sys",
    "cng.sys",
    "ksecdd.sys",
    "tbs.sys",
    "bootvid.dll",
    "kdcom.dll",
];

fn is_system(module: &str) -> bool {
    let mut known = SYSTEM.iter().chain(&KERNEL_NAMES);
    known.any(|system| module.eq_ignore_ascii_case(system))
}

/// Imports by which a driver can reach a lock routine that its import table does not name.
fn hidden_calls(imports: &Imports) -> Vec<PlanGap> {
    let mut gaps = Vec::new();
    for name in ["MmGetSystemRoutineAddress", "FltGetRoutineAddress"] {
        if imports.get(name).is_some() {
            gaps.push(PlanGap {
                routine: format!("nt!{name}"),
                consequence: "lock routines that the driver looks up by name at run time are watched only if it \
                              imports them, too"
                    .into(),
            });
        }
    }
    for import in imports.entries() {
        let ImportName::Name(name) = &import.name else { continue };
        let rows = CONTRACTS.iter().filter(|row| row.export == name.as_str());
        if rows.clone().count() > 0 && !rows.clone().any(|row| exports(&import.module, row)) && gaps.len() < FOREIGN {
            gaps.push(PlanGap {
                routine: format!("{}!{name}", import.module),
                consequence:
                    "that module is none whose lock routines are known: it is watched only if its import leads to \
                              the routine of that name"
                        .into(),
            });
        }
    }
    let mut others: Vec<&str> = imports.entries().iter().map(|import| import.module.as_str()).collect();
    others.retain(|module| !is_system(module));
    others.sort_unstable();
    others.dedup();
    if !others.is_empty() {
        gaps.push(PlanGap {
            routine: format!("imports from {}", others.join(", ")),
            consequence:
                "code of these modules may take and release the driver's locks by routines that are not watched".into(),
        });
    }
    gaps
}

fn summary(candidates: &[Candidate], chosen: &[Candidate], registers: usize, whether: &str) -> String {
    let free = registers.saturating_sub(chosen.len());
    if candidates.is_empty() {
        format!("{whether} no lock routine: there is nothing to watch")
    } else if candidates.len() <= registers {
        let returns = if free > 0 {
            format!("{free} of {registers} debug registers stay free, for catching returns")
        } else {
            "no debug register stays free, so what a routine returned is told from later events".into()
        };
        format!(
            "all {} lock exports that {whether} are watched; {returns}",
            candidates.len()
        )
    } else {
        format!(
            "{whether} {} lock exports and there are {registers} debug registers: chosen are those by which \
             most releases can be judged; no register stays free, so what a routine returned is told from later events",
            candidates.len()
        )
    }
}
