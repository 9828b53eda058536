//! What an import table does not tell: imports without a name, and ways past it to a lock routine.
//!
//! Pure. It must not know what is watched.

use storlock_check::contract::{CONTRACTS, Contract, RoutineSet};

use super::{KERNEL_NAMES, exports};
use crate::report::{UnnamedImports, WatchGap};
use crate::windows::{Import, ImportName, Imports, KERNEL};

/// Gaps of imports from modules that are not known, at most.
const FOREIGN: usize = 16;
/// Modules of imports without a name that are told.
const MODULES: usize = 4;

/// The imports that have no name.
pub(super) struct Unnamed {
    /// The lock routines that they may be.
    pub(super) routines: RoutineSet,
    /// How many there are, and of which modules; nothing if there is none.
    pub(super) imports: Option<UnnamedImports>,
}

impl Unnamed {
    pub(super) fn of(imports: &Imports) -> Self {
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
        let more = modules.len() > MODULES;
        modules.truncate(MODULES);
        let told = UnnamedImports {
            imports: unnamed.len() as u64,
            modules: modules.into_iter().map(str::to_owned).collect(),
            more,
        };
        Self {
            routines,
            imports: (!unnamed.is_empty()).then_some(told),
        }
    }
}

/// Modules of the system, none of which takes or releases a driver's lock behind its back.
const SYSTEM: &[&str] = &[
    KERNEL,
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

/// Routines that find others by name, with the module as debuggers write it.
const FINDERS: [(&str, &str); 4] = [
    ("nt", "MmGetSystemRoutineAddress"),
    ("fltmgr", "FltGetRoutineAddress"),
    ("nt", "RtlFindExportedRoutineByName"),
    ("ndis", "NdisGetRoutineAddress"),
];

/// Routines of the kernel that take a spin lock of their caller's and give it back before they return. Those on an `SLIST_HEADER`
/// take none.
const TAKERS: [&str; 7] = [
    "ExInterlockedInsertHeadList",
    "ExInterlockedInsertTailList",
    "ExInterlockedRemoveHeadList",
    "ExInterlockedPopEntryList",
    "ExInterlockedPushEntryList",
    "ExInterlockedAddLargeInteger",
    "ExInterlockedAddUlong",
];

/// Imports by which a driver can reach a lock routine that its import table does not name, or have its locks taken.
pub(super) fn hidden_calls(imports: &Imports) -> Vec<WatchGap> {
    let mut gaps = Vec::new();
    for (module, name) in FINDERS {
        if imports.get(name).is_some() {
            let routine = format!("{module}!{name}");
            gaps.push(WatchGap::LookedUp { routine });
        }
    }
    let takers: Vec<String> = TAKERS
        .into_iter()
        .filter(|name| imports.get(name).is_some())
        .map(|name| format!("nt!{name}"))
        .collect();
    if !takers.is_empty() {
        gaps.push(WatchGap::LocksInside { routines: takers });
    }
    for import in imports.entries() {
        let ImportName::Name(name) = &import.name else { continue };
        let rows = CONTRACTS.iter().filter(|row| row.export == name.as_str());
        if rows.clone().count() > 0 && !rows.clone().any(|row| exports(&import.module, row)) && gaps.len() < FOREIGN {
            let routine = format!("{}!{name}", import.module);
            gaps.push(WatchGap::OtherModule { routine });
        }
    }
    let mut others: Vec<&str> = imports.entries().iter().map(|import| import.module.as_str()).collect();
    others.retain(|module| !is_system(module));
    others.sort_unstable();
    others.dedup();
    if !others.is_empty() {
        let modules = others.into_iter().map(str::to_owned).collect();
        gaps.push(WatchGap::Modules { modules });
    }
    gaps
}
