//! The part of `storlock run` that dumps the machine at a violation: where the dump goes, and the kernel's PDB.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use super::Failure;
use super::images::{ImageFile, Role};
use super::run::Arguments;
use crate::dump::{DumpFile, Plan, Symbols};
use crate::windows::{CodeView, pdb};

/// What is to be dumped, if anything is. An earlier dump of that name is removed.
///
/// # Errors
/// [`Failure`] if the file cannot be written, or there is a PDB that is of no use.
pub(super) fn plan(arguments: &Arguments, images: &[ImageFile]) -> Result<Option<Plan>, Failure> {
    let Some(path) = &arguments.dump_on_violation else {
        return Ok(None);
    };
    let symbols = match images.iter().find(|image| image.role == Role::Kernel) {
        Some(kernel) => symbols(kernel, arguments.symbols.as_deref()).map_err(Failure::usage)?,
        None => Symbols::default(),
    };
    let file = DumpFile::prepare(path)
        .context("--dump-on-violation")
        .map_err(Failure::infrastructure)?;
    Ok(Some(Plan { file, symbols }))
}

/// Opens the directory of the dump, which is to be kept open as long as the dump may be written.
///
/// # Errors
/// If it cannot be opened.
pub(super) fn open_directory(plan: &Plan) -> anyhow::Result<File> {
    let directory = plan.file.directory();
    File::open(directory).with_context(|| format!("cannot open the directory {}", directory.display()))
}

/// What the kernel's PDB says, if there is one among the symbols.
fn symbols(kernel: &ImageFile, given: Option<&Path>) -> anyhow::Result<Symbols> {
    let Some(code_view) = CodeView::read(&kernel.image, kernel.image.image()) else {
        return match given.filter(|path| is_pdb(path)) {
            Some(path) => Err(anyhow!(
                "{} cannot be used: the kernel {} names no PDB",
                path.display(),
                kernel.path.display()
            )),
            None => Ok(Symbols::default()),
        };
    };
    let places = match given.and_then(|given| find(given, &code_view)) {
        Some(path) => Some(places(&path, &code_view)?),
        None => None,
    };
    Ok(Symbols {
        places,
        pdb: Some((code_view.name.clone(), code_view.identifier())),
    })
}

fn is_pdb(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("pdb"))
}

/// The PDB: the file itself; or in the directory, as it is or by the names of a symbol store.
fn find(given: &Path, code_view: &CodeView) -> Option<PathBuf> {
    if is_pdb(given) {
        return Some(given.to_owned());
    }
    let plain = given.join(&code_view.name);
    let stored = plain.join(code_view.identifier()).join(&code_view.name);
    [stored, plain].into_iter().find(|path| path.is_file())
}

fn places(path: &Path, code_view: &CodeView) -> anyhow::Result<crate::windows::debugger_data::DebuggerDataPlaces> {
    let what = || format!("cannot use {} as the PDB of the kernel", path.display());
    let file = File::open(path).with_context(what)?;
    pdb::debugger_data_places(file, code_view).with_context(what)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// An image and its PDB in a directory, by these names.
    fn files(pdb: &str) -> (tempfile::TempDir, ImageFile) {
        let directory = tempfile::tempdir().unwrap();
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let pdb = directory.path().join(pdb);
        fs::create_dir_all(pdb.parent().unwrap()).unwrap();
        fs::copy(data.join("kernel.pdb"), pdb).unwrap();
        let kernel = ImageFile::read(&data.join("kernel.dll"), Role::Kernel).unwrap();
        (directory, kernel)
    }

    #[test]
    fn the_pdb_is_found_by_itself_in_a_directory_and_in_a_symbol_store() {
        let (_, kernel) = files("kernel.pdb");
        let (name, identifier) = symbols(&kernel, None).unwrap().pdb.unwrap();
        assert_eq!((name.as_str(), identifier.len()), ("kernel.pdb", 33));
        let stored = format!("kernel.pdb/{identifier}/kernel.pdb");
        for (place, given) in [("any.PDB", "any.PDB"), ("kernel.pdb", ""), (&stored, "")] {
            let (directory, kernel) = files(place);
            let found = symbols(&kernel, Some(&directory.path().join(given))).unwrap();
            assert!(found.places.is_some(), "{place}");
        }
        let (directory, kernel) = files("other.pdb");
        assert!(symbols(&kernel, Some(directory.path())).unwrap().places.is_none());
    }

    #[test]
    fn a_pdb_that_is_named_and_of_no_use_is_told() {
        let (directory, kernel) = files("kernel.pdb");
        let path = directory.path().join("broken.pdb");
        fs::write(&path, "no PDB").unwrap();
        let told = format!("{:#}", symbols(&kernel, Some(&path)).unwrap_err());
        assert!(told.contains("broken.pdb") && told.contains("no PDB"), "{told}");
        let missing = directory.path().join("missing.pdb");
        let told = format!("{:#}", symbols(&kernel, Some(&missing)).unwrap_err());
        assert!(told.contains("missing.pdb"), "{told}");
    }
}
