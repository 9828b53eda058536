//! The part of `storlock run` that dumps the machine at a violation, or what else was asked for: where the dump goes, and the kernel's PDB.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};

use super::images::ImageFile;
use super::spec::CheckedSpec;
use super::symbols::{is_pdb, stored};
use super::{Failure, input};
use crate::dump::layout::{SIGNATURE, VALID_DUMP};
use crate::dump::{DumpFile, Plan, Symbols};
use crate::report::ImageRole;
use crate::windows::CodeView;
use crate::windows::pdb::KernelPdb;

/// The PDB of every x64 kernel of Windows since Windows 8.
const KERNEL_PDB: &str = "ntkrnlmp.pdb";
/// Builds of a symbol store that are looked at.
const MOST_PDBS: usize = 64;

/// What is to be dumped, if anything is. An earlier dump of that name is removed; something else is not.
///
/// # Errors
/// [`Failure`] if the file cannot be written, or there is a PDB that is of no use.
pub(super) fn plan(checked: &CheckedSpec, images: &[ImageFile]) -> Result<Option<Plan>, Failure> {
    let Some(wish) = checked.spec.dump_wish() else {
        return Ok(None);
    };
    let kernel = images.iter().find(|image| image.role == ImageRole::Kernel);
    let symbols = symbols(kernel, checked.spec.symbols.as_deref()).map_err(Failure::usage)?;
    check_earlier(&wish.file).context(wish.option).map_err(Failure::usage)?;
    let file = DumpFile::prepare(&wish.file, checked.time_limit())
        .context(wish.option)
        .map_err(Failure::infrastructure)?;
    Ok(Some(Plan { file, symbols }))
}

/// Checks that a file of that name, which the run is to remove, is a dump: its removal is not to be the end of something else.
fn check_earlier(path: &Path) -> anyhow::Result<()> {
    let is_file = fs::metadata(path).is_ok_and(|found| found.is_file());
    let mut head = Vec::new();
    let read = |file: fs::File| file.take(8).read_to_end(&mut head);
    if !is_file
        || fs::File::open(path).and_then(read).is_err()
        || head.is_empty()
        || head == [SIGNATURE, VALID_DUMP].concat()
    {
        return Ok(());
    }
    bail!(
        "{} is there and is no crash dump, and the run would remove it: name another file, or remove it yourself",
        path.display()
    )
}

/// Checks that `--symbols` is a directory or a PDB.
///
/// # Errors
/// [`Failure`] if it is neither a directory nor a PDB.
pub(super) fn check_symbols(given: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = given else { return Ok(()) };
    let what = || format!("--symbols: cannot use {}", path.display());
    let found = fs::metadata(path).with_context(what).map_err(Failure::infrastructure)?;
    if found.is_dir() || (found.is_file() && is_pdb(path)) {
        return Ok(());
    }
    let wanted = "it is neither a directory nor a regular file with the ending .pdb";
    Err(Failure::usage(anyhow!(wanted).context(what())))
}

/// The PDBs that may be the kernel's; which one is, the guest's memory says. A kernel that is known by now, and a PDB that
/// is named, have to fit.
fn symbols(kernel: Option<&ImageFile>, given: Option<&Path>) -> anyhow::Result<Symbols> {
    let Some(given) = given else {
        return Ok(Symbols::default());
    };
    let code_view = kernel.map(|kernel| CodeView::read(&kernel.image, kernel.image.image()));
    if !is_pdb(given) {
        let name = code_view.flatten().map(|code_view| code_view.name);
        let mut files = stored(given, &name.unwrap_or_else(|| KERNEL_PDB.to_owned()), None);
        files.truncate(MOST_PDBS);
        let pdbs = files.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
        return Ok(Symbols { pdbs });
    }
    let pdb = read(given)?;
    match code_view {
        Some(None) => Err(anyhow!("the kernel names no PDB")).with_context(|| unusable(given)),
        Some(Some(code_view)) if code_view.guid != pdb.guid => {
            let wanted = code_view.identifier();
            Err(anyhow!("it belongs to another build; this kernel's is {wanted}")).with_context(|| unusable(given))
        }
        _ => Ok(Symbols { pdbs: vec![pdb] }),
    }
}

fn read(path: &Path) -> anyhow::Result<KernelPdb> {
    let file = input::open_regular(path).with_context(|| unusable(path))?;
    KernelPdb::read(file).with_context(|| unusable(path))
}

fn unusable(path: &Path) -> String {
    format!("cannot use {} as the PDB of the kernel", path.display())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    /// An image and its PDB in a directory, by these names.
    fn files(pdb: &str) -> (tempfile::TempDir, ImageFile) {
        let directory = tempfile::tempdir().unwrap();
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let pdb = directory.path().join(pdb);
        fs::create_dir_all(pdb.parent().unwrap()).unwrap();
        fs::copy(data.join("kernel.pdb"), pdb).unwrap();
        let kernel = ImageFile::read(&data.join("kernel.dll"), ImageRole::Kernel, Duration::ZERO).unwrap();
        (directory, kernel)
    }

    #[test]
    fn only_a_dump_may_be_removed_for_a_dump() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.dmp");
        check_earlier(&path).unwrap();
        for head in ["", "PAGEDU64 and more"] {
            fs::write(&path, head).unwrap();
            check_earlier(&path).unwrap();
        }
        for other in ["PAGEDUMP", "PAGE", "my notes"] {
            fs::write(&path, other).unwrap();
            let told = check_earlier(&path).unwrap_err().to_string();
            assert!(told.contains("x.dmp") && told.contains("name another file"), "{told}");
        }
        // What it is not, is refused elsewhere.
        check_earlier(directory.path()).unwrap();
    }

    #[test]
    fn the_pdb_is_found_by_itself_in_a_directory_and_in_a_symbol_store() {
        for (place, given) in [
            ("any.PDB", "any.PDB"),
            ("kernel.pdb", ""),
            ("kernel.pdb/1234ABCD1/kernel.pdb", ""),
        ] {
            let (directory, kernel) = files(place);
            let code_view = CodeView::read(&kernel.image, kernel.image.image()).unwrap();
            let found = symbols(Some(&kernel), Some(&directory.path().join(given))).unwrap();
            assert_eq!(found.pdbs.len(), 1, "{place}");
            assert_eq!(found.pdbs[0].guid, code_view.guid);
        }
        let (directory, kernel) = files("other.pdb");
        assert!(symbols(Some(&kernel), Some(directory.path())).unwrap().pdbs.is_empty());
        assert!(symbols(Some(&kernel), None).unwrap().pdbs.is_empty());
        // The kernel is not known yet where firmware boots it.
        let (directory, _) = files("ntkrnlmp.pdb/1/ntkrnlmp.pdb");
        assert_eq!(symbols(None, Some(directory.path())).unwrap().pdbs.len(), 1);
    }

    #[test]
    fn a_pdb_that_is_named_and_of_no_use_is_told() {
        let (directory, kernel) = files("kernel.pdb");
        let path = directory.path().join("broken.pdb");
        fs::write(&path, "no PDB").unwrap();
        let told = format!("{:#}", symbols(Some(&kernel), Some(&path)).unwrap_err());
        assert!(told.contains("broken.pdb") && told.contains("no PDB"), "{told}");
        let missing = directory.path().join("missing.pdb");
        let told = format!("{:#}", symbols(Some(&kernel), Some(&missing)).unwrap_err());
        assert!(told.contains("missing.pdb"), "{told}");
        let mut other = fs::read(&kernel.path).unwrap();
        let guid = other.windows(4).position(|bytes| bytes == b"RSDS").unwrap() + 4;
        other[guid] ^= 1;
        let path = directory.path().join("other.dll");
        fs::write(&path, other).unwrap();
        let other = ImageFile::read(&path, ImageRole::Kernel, Duration::ZERO).unwrap();
        let pdb = directory.path().join("kernel.pdb");
        let told = format!("{:#}", symbols(Some(&other), Some(&pdb)).unwrap_err());
        assert!(told.contains("kernel.pdb") && told.contains("another build"), "{told}");
    }
}
