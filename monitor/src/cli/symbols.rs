//! `storlock symbols IMAGE`: the lock routines that an image exports or imports.
//!
//! Talks to the file system, the PE readers, the contract table and the watch plan. It must not know guests or KVM.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use serde::Serialize;
use storlock_check::contract::{CONTRACTS, Contract, Role};

use super::options::ListFormat;
use super::output;
use crate::escape;
use crate::report::json;
use crate::run::Failure;
use crate::watch;
use crate::windows::arguments::first_arguments;
use crate::windows::{ExportTarget, Exports, FileImage, ImportName, Imports};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 256 << 20;
/// Debug registers of an x86 processor.
const REGISTERS: usize = 4;

/// Options of `storlock symbols`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A kernel or driver: any PE image for x64.
    image: PathBuf,
    /// How to print the list.
    #[arg(long, value_enum, default_value = "text")]
    format: ListFormat,
}

/// The lock routines of an image.
#[derive(Debug, Serialize)]
pub(crate) struct Listing {
    /// The file.
    file: String,
    /// The image's own name for itself, if it exports anything.
    module: Option<String>,
    /// Bytes of the image in memory.
    image_size: u32,
    /// The address it was linked for.
    preferred_base: u64,
    /// `TimeDateStamp`.
    time_date_stamp: u32,
    /// Lock routines that it exports, by address; forwarders first.
    exports: Vec<ExportedRoutine>,
    /// Lock routines that it imports, in the order of the import table.
    imports: Vec<ImportedRoutine>,
    /// What a run would watch of a driver with these imports.
    watch: Watch,
}

#[derive(Debug, Serialize)]
struct ExportedRoutine {
    name: String,
    ordinal: u16,
    /// Address relative to the image's base; none for a forwarder.
    rva: Option<u32>,
    /// `module.name` that the export leads to, if it is a forwarder.
    forwarder: Option<String>,
    contract: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct ImportedRoutine {
    module: String,
    name: String,
    /// Its slot in the import address table, relative to the image's base.
    slot_rva: u32,
    contract: Vec<Row>,
}

/// A routine of the contract table behind an export.
#[derive(Debug, Serialize)]
struct Row {
    routine: &'static str,
    role: &'static str,
}

#[derive(Debug, Serialize)]
struct Watch {
    summary: String,
    /// How the debug registers are used, and why, a line each.
    explanation: Vec<String>,
    watched: Vec<&'static str>,
    gaps: Vec<Gap>,
}

#[derive(Debug, Serialize)]
struct Gap {
    routine: String,
    consequence: String,
}

/// Prints the lock routines of an image. Always exit code 0: an image without any is an answer, too.
///
/// # Errors
/// [`Failure`] if the file cannot be read (5) or is no complete PE64 image for x64 (2).
pub fn execute(arguments: &Arguments) -> Result<u8, Failure> {
    let data = read(&arguments.image).map_err(Failure::infrastructure)?;
    let listing = listing(&arguments.image, data)
        .with_context(|| format!("{} cannot be listed", arguments.image.display()))
        .map_err(Failure::usage)?;
    let output = match arguments.format {
        ListFormat::Text => text(&listing),
        ListFormat::Json => json::text(&listing).map_err(Failure::infrastructure)?,
    };
    output::print(&output)?;
    Ok(0)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let what = || format!("cannot read {}", path.display());
    let metadata = fs::metadata(path).with_context(what)?;
    if !metadata.is_file() {
        return Err(anyhow!("it is no regular file")).with_context(what);
    }
    if metadata.len() > MAX_FILE {
        return Err(anyhow!(
            "it has {} bytes, more than any driver or kernel",
            metadata.len()
        ))
        .with_context(what);
    }
    fs::read(path).with_context(what)
}

fn listing(path: &Path, data: Vec<u8>) -> anyhow::Result<Listing> {
    let file = FileImage::parse(data)?;
    let image = file.image();
    let exports = Exports::read(&file, image).context("its exports")?;
    let imports = Imports::read(&file, image).context("its imports")?;
    let uses = watch::Uses::new(first_arguments(&file, image, &watch::Uses::slots(&imports)));
    let plan = watch::plan(&imports, &uses, REGISTERS);
    let explanation = plan.explain();
    Ok(Listing {
        file: path.display().to_string(),
        image_size: image.size,
        preferred_base: image.preferred_base,
        time_date_stamp: image.time_date_stamp,
        exports: exported(&exports),
        imports: imported(&imports),
        module: exports.module,
        watch: Watch {
            summary: plan.summary,
            explanation,
            watched: plan.watches.iter().map(|watch| watch.export).collect(),
            gaps: plan
                .gaps
                .into_iter()
                .map(|gap| Gap {
                    routine: gap.routine,
                    consequence: gap.consequence,
                })
                .collect(),
        },
    })
}

/// Whether a name is that of a lock routine: one of the table, or one that says so itself.
fn is_lock_routine(name: &str) -> bool {
    CONTRACTS.iter().any(|row| row.export == name) || name.contains("SpinLock")
}

fn rows(name: &str) -> Vec<Row> {
    let row = |row: &Contract| Row {
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
    let routine = |export: &crate::windows::Export| {
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
    let routine = |import: &crate::windows::Import| match &import.name {
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

fn text(listing: &Listing) -> String {
    let mut out = String::new();
    let name = listing
        .module
        .as_ref()
        .map(|name| format!(" ({name})"))
        .unwrap_or_default();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{}{name}: {:#x} bytes at {:#x}, time stamp {:#010x}",
        escape::line(&listing.file),
        listing.image_size,
        listing.preferred_base,
        listing.time_date_stamp
    );
    let _ = writeln!(out, "\nExported lock routines: {}", listing.exports.len());
    for export in &listing.exports {
        let place = match export.rva {
            Some(rva) => format!("{rva:#010x}"),
            None => "forwarder ".into(),
        };
        let target = export
            .forwarder
            .as_ref()
            .map(|target| format!(" -> {target}"))
            .unwrap_or_default();
        let _ = writeln!(
            out,
            "  {place}  {:5}  {}{target}{}",
            export.ordinal,
            export.name,
            described(&export.contract)
        );
    }
    let _ = writeln!(out, "\nImported lock routines: {}", listing.imports.len());
    for import in &listing.imports {
        let described = described(&import.contract);
        let _ = writeln!(
            out,
            "  {:#010x}  {}!{}{described}",
            import.slot_rva, import.module, import.name
        );
    }
    if !listing.imports.is_empty() || !listing.watch.gaps.is_empty() {
        let _ = writeln!(out, "\nIn a run: {}", listing.watch.summary);
        for line in listing.watch.explanation.iter().skip(1) {
            let _ = writeln!(out, "  {}", escape::line(line));
        }
    }
    out
}

fn described(rows: &[Row]) -> String {
    match rows {
        [] => "  (no contract: not checked)".into(),
        [row] => format!("  ({})", row.role),
        rows => {
            let list: Vec<_> = rows
                .iter()
                .map(|row| format!("{}: {}", row.routine, row.role))
                .collect();
            format!("  ({})", list.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::windows::testing::{CODE, PeBuilder};

    fn sample() -> Vec<u8> {
        let mut builder = PeBuilder::new(0x1_4000_0000);
        builder.section(".text", CODE, vec![0xcc; 0x100]);
        builder.exports(
            "hal.dll",
            &[
                ("KeReleaseSpinLock", Err("ntoskrnl.KeReleaseSpinLock")),
                ("KeAcquireSpinLockRaiseToDpc", Ok(0x1040)),
                ("KeTestSpinLock", Ok(0x1020)),
                ("HalUnrelated", Ok(0x1010)),
            ],
        );
        let slots = builder.imports(&[("storport.sys", &["StorPortNotification", "StorPortInitialize"])]);
        builder.calls("PAGE", &[(0x1003, slots[0]), (0x1004, slots[0])]);
        builder.file()
    }

    #[test]
    fn exports_are_listed_by_address_and_forwarders_shown() {
        let listing = listing(Path::new("hal.dll"), sample()).unwrap();
        let found: Vec<_> = listing
            .exports
            .iter()
            .map(|e| (e.name.as_str(), e.rva, e.forwarder.as_deref()))
            .collect();
        assert_eq!(
            found,
            [
                ("KeReleaseSpinLock", None, Some("ntoskrnl.KeReleaseSpinLock")),
                ("KeTestSpinLock", Some(0x1020), None),
                ("KeAcquireSpinLockRaiseToDpc", Some(0x1040), None),
            ]
        );
        let text = text(&listing);
        assert!(
            text.contains("KeReleaseSpinLock -> ntoskrnl.KeReleaseSpinLock  (release)"),
            "{text}"
        );
        assert!(text.contains("KeTestSpinLock  (no contract: not checked)"), "{text}");
    }

    #[test]
    fn a_multiplexed_import_names_all_routines_behind_it() {
        let listing = listing(Path::new("hal.dll"), sample()).unwrap();
        let [import] = &listing.imports[..] else {
            panic!("{:?}", listing.imports)
        };
        let routines: Vec<_> = import.contract.iter().map(|row| row.routine).collect();
        assert_eq!(routines, ["StorPortAcquireSpinLock", "StorPortReleaseSpinLock"]);
        assert_eq!(listing.watch.watched, ["StorPortNotification"]);
    }

    #[test]
    fn imports_by_ordinal_are_told_even_if_no_lock_routine_is_named() {
        let mut builder = PeBuilder::new(0x1_4000_0000);
        builder.section(".text", CODE, vec![0xcc; 0x100]);
        builder.imports(&[("storport.sys", &["#7", "StorPortInitialize"])]);
        let listing = listing(Path::new("m.sys"), builder.file()).unwrap();
        let text = text(&listing);
        assert!(
            text.contains("no register: 1 imports without a name, from storport.sys: a lock routine among them"),
            "{text}"
        );
        assert!(text.contains("nothing to watch; not recognised: 1 imports"), "{text}");
    }

    #[test]
    fn json_has_what_the_text_has() {
        let listing = listing(Path::new("hal.dll"), sample()).unwrap();
        let json = serde_json::to_value(&listing).unwrap();
        assert_eq!(json["exports"][2]["rva"], 0x1040);
        assert_eq!(json["imports"][0]["module"], "storport.sys");
        assert_eq!(json["module"], "hal.dll");
    }

    #[test]
    fn a_damaged_file_is_refused_with_the_reason_and_a_missing_one_is_infrastructure() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cut.sys");
        fs::write(&path, &sample()[..0x300]).unwrap();
        let arguments = |image: &Path| Arguments {
            image: image.into(),
            format: ListFormat::Text,
        };
        let failure = execute(&arguments(&path)).unwrap_err();
        assert_eq!(failure.condition, crate::outcome::Condition::Usage);
        assert!(
            format!("{:#}", failure.error).contains("truncated"),
            "{:#}",
            failure.error
        );
        let failure = execute(&arguments(&directory.path().join("missing.sys"))).unwrap_err();
        assert_eq!(failure.condition, crate::outcome::Condition::Infrastructure);
        let failure = execute(&arguments(directory.path())).unwrap_err();
        assert_eq!(failure.condition, crate::outcome::Condition::Infrastructure);
    }
}
