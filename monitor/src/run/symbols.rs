//! Finds the files from which names and lines of the guest's images are read: unstripped builds and PDBs, beside an
//! image or in the directory that `--symbols` names, which may be a symbol store.
//!
//! Talks to the file system and to the readers of images and PDBs. It must not know what names are for. A note names
//! each file that cannot be used; the run then goes on without its names.

use std::fs;
use std::path::{Path, PathBuf};

use super::images::ImageFile;
use super::input;
use crate::notices::Notices;
use crate::report::ImageRole;
use crate::windows::pdb::{DriverPdb, PdbError};
use crate::windows::{CodeView, SymbolTable, Symbols};

/// The most builds of one PDB in a symbol store that are looked at, and that are read if the guest's build is not known yet.
const MOST_BUILDS: usize = 256;
const MOST_READ: usize = 4;
/// PDBs of the system that calls of a driver come from, in every Windows since Windows 8.
const SYSTEM: [&str; 2] = ["ntkrnlmp.pdb", "storport.pdb"];

/// Names and lines for the images that the guest is built from. For one that the guest has on its own disk, `target` is the name of
/// the driver under test: PDBs of its name, and of the kernel and the port driver, wait for the image that names them.
pub(super) fn table(images: &[ImageFile], target: &str, given: Option<&Path>, notices: &dyn Notices) -> SymbolTable {
    let mut table = SymbolTable::default();
    for image in images {
        let symbols = match image.unstripped(given) {
            Some((_, unstripped)) => Symbols::from_file(&unstripped),
            None => Symbols::from_file(&image.image),
        };
        let symbols = match pdb_of(image, given, notices) {
            Some(pdb) => symbols.with_pdb(pdb),
            None => symbols,
        };
        table.add(&image.name, image.image.image(), symbols);
    }
    let known = |role| images.iter().any(|image| image.role == role);
    if let (Some(given), false) = (given, known(ImageRole::Kernel)) {
        let own = Path::new(target).with_extension("pdb");
        let own = own.file_name().and_then(|name| name.to_str());
        let wanted = own.into_iter().filter(|_| !known(ImageRole::Target)).chain(SYSTEM);
        for pdb in wanted.flat_map(|name| stored(given, name, None).into_iter().take(MOST_READ)) {
            match read(&pdb) {
                Ok(pdb) => table.add_pdb(pdb),
                Err(error) => unusable(&pdb, &error, notices),
            }
        }
    }
    table
}

/// The PDB of an image's build.
fn pdb_of(image: &ImageFile, given: Option<&Path>, notices: &dyn Notices) -> Option<DriverPdb> {
    let named = CodeView::read(&image.image, image.image.image())?;
    let mut candidates = Vec::new();
    if let Some(given) = given {
        candidates.extend(stored(given, &named.name, Some(&named.identifier())));
    }
    let beside = image.path.ancestors().skip(1).take(2);
    candidates
        .extend(beside.flat_map(|directory| [directory.join(&named.name), directory.join("debug").join(&named.name)]));
    let mut other = None;
    for path in candidates.iter().filter(|path| path.is_file()) {
        let guid = input::open_regular(path)
            .map_err(PdbError::from)
            .and_then(DriverPdb::guid);
        match guid {
            Ok(guid) if guid == named.guid => match read(path) {
                Ok(pdb) => return Some(pdb),
                Err(error) => unusable(path, &error, notices),
            },
            Ok(_) => other = Some(path),
            Err(error) => unusable(path, &error, notices),
        }
    }
    if let Some(path) = other {
        notices.say(&format!(
            "note: {} belongs to another build than {}, which names {}: no names are taken from it",
            path.display(),
            image.path.display(),
            named.identifier()
        ));
    }
    None
}

fn unusable(path: &Path, error: &PdbError, notices: &dyn Notices) {
    notices.say(&format!("note: no names are taken from {}: {error}", path.display()));
}

fn read(path: &Path) -> Result<DriverPdb, PdbError> {
    DriverPdb::read(input::open_regular(path)?)
}

/// The PDBs of that name in what `--symbols` names: the file itself, or in a directory as it is, or as a symbol store keeps them,
/// below the identifiers of builds; the build that is wanted first.
pub(super) fn stored(given: &Path, name: &str, identifier: Option<&str>) -> Vec<PathBuf> {
    if is_pdb(given) && !given.is_dir() {
        return vec![given.to_owned()];
    }
    let plain = given.join(name);
    let builds = fs::read_dir(&plain).into_iter().flatten().flatten().take(MOST_BUILDS);
    let mut files: Vec<PathBuf> = builds.map(|build| build.path().join(name)).collect();
    files.sort();
    if let Some(identifier) = identifier {
        files.insert(0, plain.join(identifier).join(name));
    }
    files.push(plain);
    files.retain(|path| path.is_file());
    files.dedup();
    files
}

/// Whether a file's name is that of a PDB.
pub(super) fn is_pdb(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("pdb"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;

    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<String>>);

    impl Notices for Told {
        fn say(&self, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
        }

        fn say_bounded(&self, text: &str) {
            self.say(text);
        }

        fn serial(&self, _bytes: &[u8]) {}
    }

    fn data(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
    }

    /// The driver in a directory of its own, and a directory with its PDB at a place.
    fn files(pdb: &str) -> (tempfile::TempDir, ImageFile) {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (from, to) in [("symbols-pdb.dll", "driver/symbols-pdb.dll"), ("symbols-pdb.pdb", pdb)] {
            fs::create_dir_all(at(to).parent().unwrap()).unwrap();
            fs::copy(data(from), at(to)).unwrap();
        }
        let image = ImageFile::read(&at("driver/symbols-pdb.dll"), ImageRole::Target, Duration::ZERO).unwrap();
        (directory, image)
    }

    #[test]
    fn the_pdb_of_the_build_is_found_wherever_people_keep_it() {
        let (_, image) = files("x.pdb");
        let identifier = CodeView::read(&image.image, image.image.image()).unwrap().identifier();
        for (place, given) in [
            ("driver/symbols-pdb.pdb".to_owned(), None),
            ("driver/debug/symbols-pdb.pdb".to_owned(), None),
            ("s/symbols-pdb.pdb".to_owned(), Some("s")),
            (format!("s/symbols-pdb.pdb/{identifier}/symbols-pdb.pdb"), Some("s")),
            ("s/symbols-pdb.pdb/OTHER1/symbols-pdb.pdb".to_owned(), Some("s")),
            ("s/renamed.pdb".to_owned(), Some("s/renamed.pdb")),
        ] {
            let (directory, image) = files(&place);
            let (told, given) = (Told::default(), given.map(|given| directory.path().join(given)));
            let pdb = pdb_of(&image, given.as_deref(), &told);
            assert!(pdb.is_some(), "{place}: {told:?}");
            assert!(told.0.lock().unwrap().is_empty(), "{place}: {told:?}");
        }
    }

    #[test]
    fn a_pdb_that_is_of_no_use_is_told_and_the_run_goes_on() {
        let (directory, image) = files("s/symbols-pdb.pdb");
        let pdb = directory.path().join("s/symbols-pdb.pdb");
        for (content, why) in [
            (fs::read(data("kernel.pdb")).unwrap(), "belongs to another build"),
            (b"What is this?".to_vec(), "it is no PDB that can be read"),
        ] {
            fs::write(&pdb, content).unwrap();
            let told = Told::default();
            assert!(pdb_of(&image, pdb.parent(), &told).is_none());
            let told = told.0.lock().unwrap();
            assert!(told.len() == 1 && told[0].contains(why), "{told:?}");
        }
    }
}
