//! What `storlock symbols` tells of an image: the lock routines that it exports and imports, and what a run would watch of
//! a driver with these imports.
//!
//! Talks to the readers of images and to the plan. It must not know how it is shown.

use std::path::Path;

use serde::Serialize;
use storlock_check::contract::{CONTRACTS, Contract, Role};

use super::{Uses, plan, prohibited_imports};
use crate::report::{Choice, WatchGap, told_choice, told_gaps};
use crate::windows::arguments::first_arguments;
use crate::windows::{Export, ExportTarget, Exports, FileImage, ImageError, Import, ImportName, Imports};

/// Debug registers of an x86 processor.
const REGISTERS: usize = 4;

/// The lock routines of an image, and what would be watched of a driver with its imports.
#[derive(Debug, Serialize)]
pub(crate) struct Listing {
    /// The file.
    pub(crate) file: String,
    /// The image's own name for itself, if it exports anything.
    pub(crate) module: Option<String>,
    /// Bytes of the image in memory.
    pub(crate) image_size: u32,
    /// The address it was linked for.
    pub(crate) preferred_base: u64,
    /// `TimeDateStamp`.
    pub(crate) time_date_stamp: u32,
    /// Lock routines that it exports, by address; forwarders first.
    pub(crate) exports: Vec<ExportedRoutine>,
    /// Lock routines that it imports, in the order of the import table.
    pub(crate) imports: Vec<ImportedRoutine>,
    /// Lock routines that it imports and that a physical miniport must not call (HwStorPortProhibitedDDIs).
    pub(crate) prohibited: Vec<String>,
    /// What a run would watch of a driver with these imports.
    pub(crate) watch: Watch,
}

#[derive(Debug, Serialize)]
pub(crate) struct ExportedRoutine {
    pub(crate) name: String,
    pub(crate) ordinal: u16,
    /// Address relative to the image's base; none for a forwarder.
    pub(crate) rva: Option<u32>,
    /// `module.name` that the export leads to, if it is a forwarder.
    pub(crate) forwarder: Option<String>,
    pub(crate) contract: Vec<ListedRoutine>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ImportedRoutine {
    pub(crate) module: String,
    pub(crate) name: String,
    /// Its slot in the import address table, relative to the image's base.
    pub(crate) slot_rva: u32,
    pub(crate) contract: Vec<ListedRoutine>,
}

/// A routine of the contract table behind an export.
#[derive(Debug, Serialize)]
pub(crate) struct ListedRoutine {
    pub(crate) routine: &'static str,
    pub(crate) role: &'static str,
}

#[derive(Debug, Serialize)]
pub(crate) struct Watch {
    /// How the debug registers are used, and why.
    #[serde(flatten, with = "told_choice")]
    pub(crate) choice: Choice,
    pub(crate) watched: Vec<&'static str>,
    #[serde(with = "told_gaps")]
    pub(crate) gaps: Vec<WatchGap>,
}

/// Why an image cannot be listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListingError {
    /// It is no image of the kind that is read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// One of its tables cannot be read.
    #[error("its {what}: {source}")]
    Table {
        /// Which.
        what: &'static str,
        /// Why not.
        source: ImageError,
    },
}

impl Listing {
    /// Reads the image in a file's bytes.
    pub(crate) fn read(path: &Path, data: Vec<u8>) -> Result<Self, ListingError> {
        let table = |what| move |source| ListingError::Table { what, source };
        let file = FileImage::parse(data)?;
        let image = file.image();
        let exports = Exports::read(&file, image).map_err(table("exports"))?;
        let imports = Imports::read(&file, image).map_err(table("imports"))?;
        let uses = Uses::new(first_arguments(&file, image, &Uses::slots(&imports)));
        let plan = plan(&imports, &uses, REGISTERS);
        Ok(Self {
            file: path.display().to_string(),
            image_size: image.size,
            preferred_base: image.preferred_base,
            time_date_stamp: image.time_date_stamp,
            exports: exported(&exports),
            imports: imported(&imports),
            prohibited: prohibited_imports(&imports),
            module: exports.module,
            watch: Watch {
                choice: Choice::Made(Box::new(plan.choice())),
                watched: plan.watches.iter().map(|watch| watch.export).collect(),
                gaps: plan.gaps,
            },
        })
    }
}

/// Whether a name is a lock routine's: it is in the contract table, or has `SpinLock` in it.
fn is_lock_routine(name: &str) -> bool {
    CONTRACTS.iter().any(|row| row.export == name) || name.contains("SpinLock")
}

fn rows(name: &str) -> Vec<ListedRoutine> {
    let row = |row: &Contract| ListedRoutine {
        routine: row.routine.name(),
        role: role(row.role),
    };
    CONTRACTS.iter().filter(|row| row.export == name).map(row).collect()
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Acquire => "acquire",
        Role::TryAcquire => "try to acquire",
        Role::Release => "release",
        Role::Convert => "convert",
    }
}

fn exported(exports: &Exports) -> Vec<ExportedRoutine> {
    let routine = |export: &Export| {
        let name = export.name.clone().filter(|name| is_lock_routine(name))?;
        let (rva, forwarder) = match &export.target {
            ExportTarget::Rva(rva) => (Some(*rva), None),
            ExportTarget::Forwarder(target) => (None, Some(target.clone())),
        };
        Some(ExportedRoutine {
            contract: rows(&name),
            ordinal: export.ordinal,
            name,
            rva,
            forwarder,
        })
    };
    let mut list: Vec<_> = exports.entries().iter().filter_map(routine).collect();
    list.sort_by(|a, b| (a.rva, &a.name).cmp(&(b.rva, &b.name)));
    list
}

fn imported(imports: &Imports) -> Vec<ImportedRoutine> {
    let routine = |import: &Import| match &import.name {
        ImportName::Name(name) if is_lock_routine(name) => Some(ImportedRoutine {
            module: import.module.clone(),
            name: name.clone(),
            slot_rva: import.slot,
            contract: rows(name),
        }),
        _ => None,
    };
    imports.entries().iter().filter_map(routine).collect()
}
