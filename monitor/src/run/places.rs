//! Checks that no output of a run is also another of its files, before anything is opened for writing or removed.
//!
//! Talks to the file system, for reading only. Files are compared by what they are, not by their names.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use storlock_vmm::storage::backend::image_files;

use super::report_directory::{REPORT_FILES, REPORTS};
use super::spec::{DiskPlace, FilePath, OutputPath, RunSpec};
use super::{Failure, firmware, images};
use crate::gdb::Address;
use crate::output::{Identity, PARTIAL};

/// How deep, and how many files of, a directory with symbols are looked at.
const SYMBOLS_DEPTH: usize = 4;
const MOST_SYMBOL_FILES: usize = 20_000;

/// A file and what it is to the command line.
struct Named {
    what: String,
    path: PathBuf,
    /// The parent of this process has opened it.
    inherited: bool,
}

impl Named {
    fn new(option: &str, path: &Path) -> Self {
        Self {
            what: format!("{option} {}", path.display()),
            path: path.to_owned(),
            inherited: false,
        }
    }
}

/// Whether every output of a run is a file of its own. `spec_file` is where its description comes from; `-` is standard
/// input.
///
/// # Errors
/// [`Failure`] that names the two; nothing was touched then.
pub(super) fn check(spec: &RunSpec, spec_file: Option<&Path>) -> Result<(), Failure> {
    let mut inputs = inputs(spec);
    inputs.extend(spec_file.map(|path| {
        let mut named = Named::new("--spec", path);
        if path.as_os_str() == "-" {
            named.path = "/proc/self/fd/0".into();
        }
        named
    }));
    compare(&outputs(spec), &inputs)
}

/// The same for a command without a guest, which reads `inputs` and writes reports into `directory` and to `files`.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_reports(inputs: &[&Path], directory: Option<&Path>, files: &[&Path]) -> Result<(), Failure> {
    let mut outputs = inherited();
    outputs.extend(
        directory
            .into_iter()
            .flat_map(|directory| in_directory(directory, &REPORTS)),
    );
    outputs.extend(files.iter().flat_map(|path| whole("the report", path)));
    let inputs: Vec<_> = inputs.iter().map(|path| Named::new("the input", path)).collect();
    compare(&outputs, &inputs)
}

fn compare(outputs: &[Named], inputs: &[Named]) -> Result<(), Failure> {
    let identified =
        |named: &[Named]| -> Vec<Option<Identity>> { named.iter().map(|named| Identity::of(&named.path)).collect() };
    let (of_outputs, of_inputs) = (identified(outputs), identified(inputs));
    for (index, (output, identity)) in outputs.iter().zip(&of_outputs).enumerate() {
        if identity.is_none() {
            continue;
        }
        let others = outputs.iter().zip(&of_outputs).skip(index + 1);
        let others = others.filter(|(other, _)| !(output.inherited && other.inherited));
        let same = others
            .chain(inputs.iter().zip(&of_inputs))
            .find(|(_, other)| *other == identity);
        if let Some((other, _)) = same {
            return Err(Failure::usage(anyhow!(
                "{} is the same file as {}: an output needs a file of its own; nothing was touched",
                output.what,
                other.what
            )));
        }
    }
    Ok(())
}

/// What standard output and standard error lead to, where that is a file.
fn inherited() -> Vec<Named> {
    let streams = [
        ("standard output", "/proc/self/fd/1"),
        ("standard error", "/proc/self/fd/2"),
    ];
    let files = streams
        .into_iter()
        .filter(|(_, path)| fs::metadata(path).is_ok_and(|found| found.is_file()));
    files
        .map(|(what, path)| Named {
            what: what.to_owned(),
            path: path.into(),
            inherited: true,
        })
        .collect()
}

/// Files of those names in the report directory, and what they are called until they are whole.
fn in_directory(directory: &Path, names: &[&str]) -> Vec<Named> {
    let names = names
        .iter()
        .flat_map(|name| [(*name).to_owned(), format!("{name}{PARTIAL}")]);
    names
        .map(|name| Named::new("the report's", &directory.join(name)))
        .collect()
}

/// A file, and what it is called until it is whole.
fn whole(option: &str, path: &Path) -> [Named; 2] {
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    [path, Path::new(&partial)].map(|path| Named::new(option, path))
}

fn outputs(spec: &RunSpec) -> Vec<Named> {
    let mut all = in_directory(&spec.report_dir, &REPORT_FILES);
    for OutputPath {
        option,
        path,
        whole: by_parts,
    } in spec.outputs()
    {
        if by_parts {
            all.extend(whole(option, &path));
        } else {
            all.push(Named::new(option, &path));
        }
    }
    all.extend(spec.variables.iter().flat_map(|path| whole("--variables", path)));
    if let Some(path) = spec
        .gdb
        .as_ref()
        .and_then(|address| Address::socket(address.as_os_str()))
    {
        all.push(Named::new("--gdb", path));
    }
    all.extend(inherited());
    all
}

fn inputs(spec: &RunSpec) -> Vec<Named> {
    let mut all = vec![Named::new("--kvm", &spec.kvm)];
    let images: Vec<PathBuf> = image_paths(spec);
    all.extend(images.iter().map(|path| Named::new("the guest's", path)));
    for image in &images {
        let unstripped = images::unstripped_candidates(image, None);
        all.extend(unstripped.iter().map(|path| Named::new("the symbols in", path)));
    }
    all.extend(spec.registry.iter().map(|path| Named::new("--registry", path)));
    all.extend(spec.initrd.iter().map(|path| Named::new("--initrd", path)));
    if let Some(code) = &spec.firmware {
        let files = firmware::files(code.file());
        all.extend(files.iter().map(|path| Named::new("the firmware", path)));
    }
    for disk in &spec.disk {
        if let DiskPlace::Image(path, options) = &disk.place {
            let files = image_files(path, options);
            all.extend(files.iter().map(|path| Named::new("the disk", path)));
        }
    }
    if let Some(symbols) = &spec.symbols {
        let mut files = Vec::new();
        walk(symbols, SYMBOLS_DEPTH, &mut files);
        all.extend(files.iter().map(|path| Named::new("--symbols", path)));
    }
    all
}

/// The images that the guest is built from; those that come with the program where none are named.
fn image_paths(spec: &RunSpec) -> Vec<PathBuf> {
    let built = [(&spec.kernel, "ntoskrnl.exe"), (&spec.port_driver, "storport.sys")];
    let built = built.into_iter().filter_map(|(given, name)| {
        let given = given.as_ref().map(|FilePath(path)| path.clone());
        given.or_else(|| images::built_image(name).ok())
    });
    built
        .chain(spec.driver.iter().chain(&spec.load).map(|FilePath(path)| path.clone()))
        .collect()
}

fn walk(path: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    if !path.is_dir() {
        found.push(path.to_owned());
        return;
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries {
        if depth > 0 && found.len() < MOST_SYMBOL_FILES {
            walk(&entry.path(), depth - 1, found);
        }
    }
}
