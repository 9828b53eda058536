//! Finds what a loaded driver imports if its import table does not tell by name: ordinals, lock routines imported from
//! other modules, names that the loader has overwritten.
//!
//! The loader has put an address into each slot of the import address table. If that is the address of a lock routine's
//! export, the import is that routine. Otherwise the exporter's table tells what an ordinal means, or which export lies
//! at the address. Talks to the readers of images.

use std::collections::HashMap;

use storlock_check::contract::CONTRACTS;

use super::Guest;
use crate::vmi::GuestMemory;
use crate::windows::{Export, ExportTarget, Exports, Image, Import, ImportName, Imports, KERNEL};

/// Modules whose exports are read for it at most.
const MODULES: usize = 64;
/// Forwarders that are followed from one to the next.
const FORWARDERS: usize = 4;

/// What an import without a name was found to be.
enum Known {
    /// An export with a name.
    Named { module: String, name: String },
    /// An export without, which no lock routine is.
    Nameless,
}

/// Exports of the guest's modules by the names of these, as they are needed.
struct Tables<'a, M> {
    memory: &'a M,
    guest: &'a Guest,
    read: HashMap<u64, Option<Exports>>,
}

impl<M: GuestMemory> Tables<'_, M> {
    /// The exports of the image at that base, which belongs to a module.
    fn of(&mut self, base: u64) -> Option<&Exports> {
        if !self.read.contains_key(&base) {
            if self.read.len() >= MODULES {
                return None;
            }
            let image = Image::read(self.memory, base).ok();
            let exports = image.and_then(|image| Exports::read(self.memory, &image).ok());
            self.read.insert(base, exports);
        }
        self.read.get(&base)?.as_ref()
    }

    /// Base of the module that imports or forwarders call by this name, with or without extension.
    fn base(&self, name: &str) -> Option<u64> {
        let kernel = self.guest.kernel().map(|kernel| kernel.image.base);
        if [KERNEL, "ntoskrnl", "hal.dll", "hal"]
            .iter()
            .any(|own| own.eq_ignore_ascii_case(name))
        {
            return kernel;
        }
        let extensions = ["", ".sys", ".exe", ".dll"].iter();
        let mut names = extensions.map(|extension| format!("{name}{extension}"));
        names.find_map(|name| self.guest.modules.by_name(&name).map(|(module, _)| module.base))
    }

    /// What an ordinal of a module means.
    fn ordinal(&mut self, module: &str, ordinal: u16) -> Option<Known> {
        let base = self.base(module)?;
        let mut export = self.of(base)?.by_ordinal(ordinal)?.clone();
        let mut module = module.to_owned();
        for _ in 0..FORWARDERS {
            let Export { name, target, .. } = &export;
            let ExportTarget::Forwarder(forwarder) = target else {
                return Some(match name {
                    Some(name) => Known::Named {
                        module,
                        name: name.clone(),
                    },
                    None => Known::Nameless,
                });
            };
            let (other, what) = forwarder.rsplit_once('.')?;
            let (base, other) = (self.base(other)?, other.to_owned());
            let table = self.of(base)?;
            let next = match what.strip_prefix('#') {
                Some(ordinal) => table.by_ordinal(ordinal.parse().ok()?),
                None => table.get(what),
            };
            export = next?.clone();
            let own_name = self.guest.modules.find(base).map(|(module, _)| module.name.clone());
            module = own_name.unwrap_or(other);
        }
        None
    }

    /// The export that lies at an address.
    fn at(&mut self, address: u64) -> Option<Known> {
        let (module, _) = self.guest.modules.find(address)?;
        let (base, module) = (module.base, module.name.clone());
        let rva = u32::try_from(address - base).ok()?;
        let entries = self.of(base)?.entries().iter();
        let here: Vec<&Export> = entries
            .filter(|export| export.target == ExportTarget::Rva(rva))
            .collect();
        let name = here.iter().find_map(|export| export.name.clone());
        let nameless = (!here.is_empty()).then_some(Known::Nameless);
        name.map(|name| Known::Named { module, name }).or(nameless)
    }
}

/// See [`Guest::recognise`].
pub(super) fn recognise(guest: &Guest, memory: &impl GuestMemory, base: u64, imports: &Imports) -> Imports {
    let routines = guest.lock_exports(memory);
    let mut tables = Tables {
        memory,
        guest,
        read: HashMap::new(),
    };
    let mut known = Vec::new();
    for import in imports.entries() {
        let slot = base.checked_add(u64::from(import.slot));
        let linked = slot
            .filter(|_| !import.delayed)
            .and_then(|slot| memory.read_u64(slot).ok());
        let own = CONTRACTS
            .iter()
            .any(|row| crate::watch::is_import_of(import, row.module, row.export));
        let routine = linked.and_then(|linked| routines.get(&linked)).filter(|_| !own);
        if let Some((module, export)) = routine {
            known.push(named(import, module.file_name(), export));
            continue;
        }
        let found = match import.name {
            ImportName::Name(_) => {
                known.push(import.clone());
                continue;
            }
            ImportName::Ordinal(ordinal) => tables.ordinal(&import.module, ordinal),
            ImportName::Bound => None,
        };
        match found.or_else(|| tables.at(linked?)) {
            Some(Known::Named { module, name }) => known.push(named(import, &module, &name)),
            Some(Known::Nameless) => {}
            None => known.push(import.clone()),
        }
    }
    known.into_iter().collect()
}

fn named(import: &Import, module: &str, name: &str) -> Import {
    Import {
        module: module.to_owned(),
        name: ImportName::Name(name.to_owned()),
        ..import.clone()
    }
}
