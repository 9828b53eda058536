//! Turns exported names into breakpoints: finds where the planned exports are in the guest, and makes one breakpoint an
//! address.
//!
//! Talks to the watch plan and to the readers of Windows structures. It must not know what a hit means. Windows has exports
//! that are one piece of code: two names for a routine, or routines that the linker found to be alike.

use std::sync::atomic::AtomicU64;

use storlock_check::contract::{CONTRACTS, Contract, SystemModule, contracts_of_export};

use super::guest::Guest;
use super::watching::{Watch, Watching};
use crate::report::{Doubt, NotArmed, Note, Purpose};
use crate::vmi::GuestMemory;
use crate::vmi::recorder::Recorder;
use crate::watch::{self, WatchPlan};
use crate::windows::{Exports, Image, Import, Imports};

/// The lock exports that the guest has.
pub(crate) fn exported(guest: &Guest, memory: &impl GuestMemory) -> Vec<(SystemModule, &'static str)> {
    let storport = guest.exports_of(memory, SystemModule::Storport.file_name()).ok();
    let is_there = |module, export: &str| match module {
        SystemModule::Ntoskrnl => guest.kernel_export(export).is_some(),
        SystemModule::Storport => storport
            .as_ref()
            .is_some_and(|(_, exports)| exports.rva(export).is_some()),
    };
    let rows = CONTRACTS.iter().map(|row| (row.module, row.export));
    rows.filter(|(module, export)| is_there(*module, export)).collect()
}

/// The breakpoints of a plan.
pub(crate) struct Entries {
    /// One an address.
    pub(crate) watches: Vec<Watch>,
    /// Notes on their addresses.
    pub(crate) notes: Vec<Note>,
    /// Calls of the driver's imports that they may miss.
    pub(crate) doubts: Vec<Doubt>,
}

/// Finds the planned exports in the guest, or what the imports of the driver at that base lead to in their place.
///
/// # Errors
/// If the guest does not export one of them.
pub(crate) fn resolve(
    guest: &mut Guest,
    watching: &mut Watching,
    cpu: &Recorder<'_>,
    plan: &WatchPlan,
    (base, imports): (u64, &Imports),
) -> Result<Entries, NotArmed> {
    let mut port_driver = PortDriver::default();
    let mut entries = Entries {
        watches: Vec::new(),
        notes: Vec::new(),
        doubts: Vec::new(),
    };
    for planned in &plan.watches {
        let name = export_name(planned.module, planned.export);
        let address = port_driver.address_of(guest, cpu, planned.module, planned.export)?;
        let address = address.ok_or_else(|| NotArmed::NotExported { routine: name.clone() })?;
        let mut purpose = planned.purpose.clone();
        let slots = imports.entries().iter();
        let slots = slots.filter(|import| watch::is_import_of(import, planned.module, planned.export));
        let linked = slots.filter_map(|import| linked_elsewhere(guest, cpu, address, base, import));
        let mut linked: Vec<u64> = linked.collect();
        linked.dedup();
        if let Some(second) = linked.get(1) {
            let (routine, place) = (name.clone(), guest.names_mut().locate(cpu, *second, true));
            entries.doubts.push(Doubt::ImportElsewhere { routine, place });
        }
        let linked = linked.first().copied();
        let rows = match linked {
            None => port_driver.rows_at(guest, cpu, planned.module, address)?,
            Some(linked) => {
                let place = guest.names_mut().locate(cpu, linked, true);
                purpose.leads_to = Some(place.clone());
                let routine = name.clone();
                entries.notes.push(Note::Detour { routine, place });
                contracts_of_export(planned.module, planned.export).collect()
            }
        };
        entries.add(watching, linked.unwrap_or(address), name, purpose, rows);
    }
    Ok(entries)
}

impl Entries {
    /// Adds a breakpoint, or one more routine at the address of a breakpoint that exists.
    fn add(
        &mut self,
        watching: &mut Watching,
        address: u64,
        name: String,
        purpose: Purpose,
        rows: Vec<&'static Contract>,
    ) {
        let Some(known) = self
            .watches
            .iter_mut()
            .find(|watch| watch.breakpoint.address == address)
        else {
            let mut watch = Watch {
                breakpoint: watching.new_breakpoint(address),
                names: vec![name],
                rows,
                why: vec![purpose],
                hits: AtomicU64::new(0),
                hooked: false,
            };
            let names: Vec<_> = watch
                .rows
                .iter()
                .map(|row| export_name(row.module, row.export))
                .collect();
            watch.add_names(names);
            return self.watches.push(watch);
        };
        known.why.push(purpose);
        known.add_names([name]);
        for row in rows {
            if known.rows.iter().all(|seen| seen.routine != row.routine) {
                known.rows.push(row);
            }
        }
    }
}

impl Watch {
    fn add_names(&mut self, names: impl IntoIterator<Item = String>) {
        for name in names {
            if !self.names.contains(&name) {
                self.names.push(name);
            }
        }
    }
}

/// The exports of the port driver, once they are asked for.
#[derive(Default)]
struct PortDriver(Option<(Image, Exports)>);

impl PortDriver {
    /// Where an export of the kernel or of the port driver is.
    fn address_of(
        &mut self,
        guest: &Guest,
        memory: &impl GuestMemory,
        module: SystemModule,
        export: &str,
    ) -> Result<Option<u64>, NotArmed> {
        if module == SystemModule::Ntoskrnl {
            return Ok(guest.kernel_export(export));
        }
        if self.0.is_none() {
            let found = guest.exports_of(memory, SystemModule::Storport.file_name());
            self.0 = Some(found.map_err(|error| NotArmed::ExportsUnread { error })?);
        }
        let Some((image, exports)) = &self.0 else {
            return Ok(None);
        };
        Ok(exports.rva(export).map(|rva| image.address(rva)))
    }

    /// Every routine of the contract table that this module exports at this address.
    fn rows_at(
        &mut self,
        guest: &Guest,
        memory: &impl GuestMemory,
        module: SystemModule,
        address: u64,
    ) -> Result<Vec<&'static Contract>, NotArmed> {
        let mut rows = Vec::new();
        for row in CONTRACTS.iter().filter(|row| row.module == module) {
            if self.address_of(guest, memory, module, row.export)? == Some(address) {
                rows.push(row);
            }
        }
        Ok(rows)
    }
}

/// Where a loaded driver's import leads if that is not the export: Driver Verifier replaces the imports of the drivers that
/// it verifies by wrappers. Code of a known module only.
fn linked_elsewhere(guest: &Guest, memory: &impl GuestMemory, export: u64, base: u64, import: &Import) -> Option<u64> {
    if import.delayed {
        return None;
    }
    let slot = base.checked_add(u64::from(import.slot))?;
    let linked = memory.read_u64(slot).ok().filter(|&linked| linked != export)?;
    let (module, _) = guest.modules().find(linked)?;
    let image = Image::read(memory, module.base).ok()?;
    let section = image.section(image.rva(linked)?)?;
    (section.is_executable() && !section.is_discardable()).then_some(linked)
}

/// `nt!KeReleaseSpinLock`, `storport!StorPortNotification`.
pub(crate) fn export_name(module: SystemModule, export: &str) -> String {
    match module {
        SystemModule::Ntoskrnl => format!("nt!{export}"),
        SystemModule::Storport => format!("storport!{export}"),
    }
}
