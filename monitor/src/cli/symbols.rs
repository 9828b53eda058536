//! `storlock symbols IMAGE`: the lock routines that an image exports or imports.
//!
//! Talks to the file system, the listing and the terminal. It must not know guests or KVM.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::options::ListFormat;
use super::output;
use crate::escape;
use crate::report::json;
use crate::run::Failure;
use crate::run::input::read_small;
use crate::watch::listing::{ListedRoutine, Listing};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// Options of `storlock symbols`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A kernel or driver: any PE image for x64.
    image: PathBuf,
    /// How to print the list.
    #[arg(long, value_enum, default_value = "text")]
    format: ListFormat,
}

/// Prints the lock routines of an image. Always exit code 0: an image without any is an answer, too.
///
/// # Errors
/// [`Failure`] if the file cannot be read (5) or is no complete PE64 image for x64 (2).
pub fn execute(arguments: &Arguments) -> Result<u8, Failure> {
    let data = read_small(&arguments.image, "", MAX_FILE).map_err(Failure::infrastructure)?;
    let listing = Listing::read(&arguments.image, data)
        .with_context(|| format!("{} cannot be listed", arguments.image.display()))
        .map_err(Failure::usage)?;
    let output = match arguments.format {
        ListFormat::Text => text(&listing),
        ListFormat::Json => json::text(&listing).map_err(Failure::infrastructure)?,
    };
    output::print(&output)?;
    Ok(0)
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
    if !listing.prohibited.is_empty() {
        let _ = writeln!(
            out,
            "\nA physical miniport must not call (HwStorPortProhibitedDDIs): {}",
            listing.prohibited.join(", ")
        );
    }
    if !listing.imports.is_empty() || !listing.watch.gaps.is_empty() {
        let (summary, explanation) = listing.watch.choice.sentences();
        let _ = writeln!(out, "\nIn a run: {}", escape::line(&summary));
        for line in explanation.iter().skip(1) {
            let _ = writeln!(out, "  {}", escape::line(line));
        }
    }
    out
}

fn described(rows: &[ListedRoutine]) -> String {
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
    use std::fs;
    use std::path::Path;

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
        let listing = Listing::read(Path::new("hal.dll"), sample()).unwrap();
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
        let listing = Listing::read(Path::new("hal.dll"), sample()).unwrap();
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
        let listing = Listing::read(Path::new("m.sys"), builder.file()).unwrap();
        let text = text(&listing);
        assert!(
            text.contains("no register: 1 import without a name, from storport.sys: a lock routine among them"),
            "{text}"
        );
        assert!(text.contains("nothing to watch; not recognised: 1 import "), "{text}");
    }

    #[test]
    fn json_has_what_the_text_has() {
        let listing = Listing::read(Path::new("hal.dll"), sample()).unwrap();
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
