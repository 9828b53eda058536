//! The places of a driver's code that call lock routines.
//!
//! Pure. It must not know which of them are watched or reached.

use std::collections::BTreeMap;

use storlock_check::contract::{CONTRACTS, Contract, Routine};

use super::{Uses, exports};
use crate::windows::arguments::NotKnown;
use crate::windows::{Import, ImportName, Imports};

/// A place that calls a lock routine. Offsets from the driver's base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockSite {
    /// The routine.
    pub(crate) routine: Routine,
    /// Where the call returns to; of a jump, where its function begins.
    pub(crate) place: u32,
    /// It is a jump, as the last thing that its function does.
    pub(crate) tail: bool,
    /// Return addresses that the routine can find on the stack.
    pub(crate) returns: Vec<u32>,
    /// Others are possible, too, in the driver or outside of it.
    pub(crate) from_outside: bool,
    /// Of a jump, where the functions begin by which the driver's code comes to it.
    pub(crate) entries: Vec<u32>,
}

/// All that the code shows of such places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LockSites {
    /// By routine and place.
    pub(crate) sites: Vec<LockSite>,
    /// Calls of exports that are many routines in one of which the code does not tell whether they are lock calls.
    pub(crate) untold: u64,
    /// Exports of which there may be more calls, and why.
    pub(crate) open: Vec<(String, Option<NotKnown>)>,
}

impl LockSites {
    /// The places at which a driver with these imports calls lock routines.
    pub(crate) fn new(imports: &Imports, uses: &Uses) -> Self {
        let mut known = Self::default();
        let mut sites: BTreeMap<(Routine, u32, bool), LockSite> = BTreeMap::new();
        for import in imports.entries() {
            let rows: Vec<&Contract> = CONTRACTS.iter().filter(|row| is_row_of(import, row)).collect();
            if rows.is_empty() {
                continue;
            }
            let Some(found) = uses.calls_of(import) else {
                known.open.push((name_of(import), None));
                continue;
            };
            for site in &found.sites {
                let passed = |row: &&&Contract| match row.selector {
                    Some(selector) => site.values.contains(&selector.value),
                    None => true,
                };
                let certain: Vec<&&Contract> = rows.iter().filter(passed).collect();
                known.untold += u64::from(certain.is_empty() && site.open);
                for row in certain {
                    let one = sites
                        .entry((row.routine, site.place, site.tail))
                        .or_insert_with(|| LockSite {
                            routine: row.routine,
                            place: site.place,
                            tail: site.tail,
                            returns: Vec::new(),
                            from_outside: false,
                            entries: Vec::new(),
                        });
                    one.returns.extend(&site.returns);
                    one.from_outside |= site.from_outside;
                    one.entries.extend(&site.entries);
                }
            }
            // What it cannot be asked for, it has no calls for.
            if found
                .not_known
                .is_some_and(|reason| !matches!(reason, NotKnown::Argument(_)))
            {
                known.open.push((name_of(import), found.not_known));
            }
        }
        known.sites = sites.into_values().collect();
        known
    }
}

fn is_row_of(import: &Import, row: &Contract) -> bool {
    import.is_named(row.export) && exports(&import.module, row)
}

fn name_of(import: &Import) -> String {
    match &import.name {
        ImportName::Name(name) => name.clone(),
        ImportName::Ordinal(_) | ImportName::Bound => String::new(),
    }
}
