//! What the driver's code does with the lock routines that it imports: where it calls them, and what it wants from exports
//! that are many routines in one, as their first argument shows.
//!
//! Talks to the reader of code and to the contract table. It must not choose anything.

use serde::{Deserialize, Serialize};
use storlock_check::contract::{CONTRACTS, Contract, SystemModule};

use super::why::listed;
use super::{exports, name_of};
use crate::report::ImportUse;
use crate::windows::arguments::{FirstArguments, SLOTS, Slot};
use crate::windows::{Import, ImportName, Imports};

/// What the driver's code does with lock routines. By default nothing is known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uses(Vec<FirstArguments>);

impl Uses {
    /// What was found of the imports with these [slots](Self::slots).
    #[must_use]
    pub fn new(known: Vec<FirstArguments>) -> Self {
        Self(known)
    }

    /// The slots of the imports to look at: those that are many routines in one, then other lock routines.
    #[must_use]
    pub(crate) fn slots(imports: &Imports) -> Vec<Slot> {
        let of = |wanted: fn(&Import) -> bool| imports.entries().iter().filter(move |import| wanted(import));
        let multiplexed = of(is_multiplexed).map(|import| Slot::Values(import.slot));
        let plain = of(is_plain).map(|import| Slot::Calls(import.slot));
        multiplexed.chain(plain).take(SLOTS).collect()
    }

    /// Whether all imports that are many routines in one were looked at.
    #[must_use]
    pub(crate) fn cover(&self, imports: &Imports) -> bool {
        let mut slots = Self::slots(imports).into_iter();
        slots.all(|slot| matches!(slot, Slot::Calls(_)) || self.of(slot.rva()).is_some())
    }

    /// What was found of an import.
    pub(super) fn calls_of(&self, import: &Import) -> Option<&FirstArguments> {
        self.of(import.slot)
    }

    /// Whether the driver can call a routine by its import. What is not known it can.
    #[must_use]
    pub(crate) fn may_call(&self, import: &Import, row: &Contract) -> bool {
        let (Some(selector), Some(known)) = (row.selector, self.of(import.slot)) else {
            return true;
        };
        known.may_be(selector.value)
    }

    /// Whether the driver's code may pass this number to an import that is many routines in one.
    #[must_use]
    pub(crate) fn may_pass(&self, import: &Import, number: u32) -> bool {
        self.of(import.slot).is_none_or(|known| known.may_be(number))
    }

    /// Whether it is not known what the driver wants of an import.
    #[must_use]
    pub fn is_open(&self, import: &Import) -> bool {
        self.of(import.slot).is_none_or(|known| known.not_known.is_some())
    }

    /// What is passed to each import.
    #[must_use]
    pub(crate) fn describe(&self, imports: &Imports) -> Vec<ImportUse> {
        let entries = imports.entries().iter().filter(|import| is_multiplexed(import));
        let mut named: Vec<(&String, &Import)> = entries
            .filter_map(|import| match &import.name {
                ImportName::Name(name) => Some((name, import)),
                _ => None,
            })
            .collect();
        named.sort_by_key(|(name, import)| (*name, import.slot));
        let told = named.into_iter().map(|(name, import)| self.describe_one(name, import));
        told.collect()
    }

    fn describe_one(&self, name: &str, imported: &Import) -> ImportUse {
        let import = name_of(SystemModule::Storport, name);
        let Some(known) = self.of(imported.slot) else {
            return ImportUse::NotLookedAt { import };
        };
        let values = known.values.clone();
        if let Some(reason) = known.not_known {
            return ImportUse::NotKnown { import, reason, values };
        }
        let wanted =
            |row: &&Contract| rows_of(imported).any(|own| own.routine == row.routine) && self.may_call(imported, row);
        let routines = CONTRACTS.iter().filter(wanted).map(|row| row.routine);
        ImportUse::Known {
            import,
            calls: known.calls.into(),
            values,
            routines: listed(routines),
        }
    }

    fn of(&self, slot: u32) -> Option<&FirstArguments> {
        self.0.iter().find(|known| known.slot == slot)
    }
}

/// The rows behind an import that is many routines in one.
fn rows_of(import: &Import) -> impl Iterator<Item = &'static Contract> {
    let rows = CONTRACTS.iter().filter(|row| row.selector.is_some());
    rows.filter(|row| import.is_named(row.export) && exports(&import.module, row))
}

fn is_multiplexed(import: &Import) -> bool {
    rows_of(import).next().is_some()
}

/// Whether an import is one lock routine and nothing else.
fn is_plain(import: &Import) -> bool {
    let mut rows = CONTRACTS.iter().filter(|row| row.selector.is_none());
    rows.any(|row| import.is_named(row.export) && exports(&import.module, row))
}
