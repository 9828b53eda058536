//! Which files a command line names, and that no output is also something else: looked at before anything is opened for
//! writing or removed.
//!
//! Talks to the file system, for reading only. Files are compared by what they are, not by their names.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use storlock_vmm::storage::backend::image_files;

use super::output::{REPORT_FILES, STANDARD_OUTPUT};
use super::run::Arguments;
use super::{Failure, debugger, firmware, images};
use crate::gdb;
use crate::machine::DiskPlace;
use crate::output::{Identity, PARTIAL};

/// How deep, and how many files of, a directory with symbols are looked at.
const SYMBOLS_DEPTH: usize = 4;
const MOST_SYMBOL_FILES: usize = 20_000;

/// A file and what it is to the command line.
struct Named {
    what: String,
    path: PathBuf,
    /// It was opened by whoever started this program.
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

/// Whether every output of a run is a file of its own.
///
/// # Errors
/// [`Failure`] that names the two; nothing was touched then.
pub(super) fn check(arguments: &Arguments) -> Result<(), Failure> {
    compare(&outputs(arguments), &inputs(arguments))
}

/// The same for `storlock replay`, which reads `file` and writes into `directory`.
///
/// # Errors
/// As [`check`].
pub(super) fn check_replay(file: &Path, directory: Option<&Path>) -> Result<(), Failure> {
    let mut outputs = inherited();
    outputs.extend(
        directory
            .into_iter()
            .flat_map(|directory| in_directory(directory, &REPORT_FILES[..2])),
    );
    compare(&outputs, &[Named::new("the file to replay,", file)])
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
        (STANDARD_OUTPUT, "/proc/self/fd/1"),
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

fn outputs(arguments: &Arguments) -> Vec<Named> {
    let mut all = in_directory(&arguments.report_dir, &REPORT_FILES);
    let named = [
        ("--record", &arguments.record),
        ("--serial", &arguments.serial),
        ("--screenshot", &arguments.screenshot),
        ("--dump-on-violation", &arguments.dump_on_violation),
        ("--variables", &arguments.variables),
    ];
    for (option, path) in named {
        let Some(path) = path.as_deref().filter(|path| path.as_os_str() != "-") else {
            continue;
        };
        all.push(Named::new(option, path));
        if matches!(option, "--screenshot" | "--dump-on-violation" | "--variables") {
            let mut partial = path.as_os_str().to_owned();
            partial.push(PARTIAL);
            all.push(Named::new(option, Path::new(&partial)));
        }
    }
    if let Some(gdb::Address::Unix(path)) = &arguments.gdb {
        all.push(Named::new(debugger::OPTION, path));
    }
    all.extend(inherited());
    all
}

fn inputs(arguments: &Arguments) -> Vec<Named> {
    let mut all = vec![Named::new("--kvm", &arguments.kvm)];
    let images: Vec<PathBuf> = image_paths(arguments);
    all.extend(images.iter().map(|path| Named::new("the guest's", path)));
    for image in &images {
        let unstripped = images::unstripped_candidates(image, None);
        all.extend(unstripped.iter().map(|path| Named::new("the symbols in", path)));
    }
    all.extend(arguments.registry.iter().map(|path| Named::new("--registry", path)));
    all.extend(arguments.initrd.iter().map(|path| Named::new("--initrd", path)));
    if let Some(code) = &arguments.firmware {
        let files = firmware::files(code.as_deref());
        all.extend(files.iter().map(|path| Named::new("the firmware", path)));
    }
    for disk in &arguments.disk {
        if let DiskPlace::Image(path, options) = &disk.place {
            let files = image_files(path, options);
            all.extend(files.iter().map(|path| Named::new("the disk", path)));
        }
    }
    if let Some(symbols) = &arguments.symbols {
        let mut files = Vec::new();
        walk(symbols, SYMBOLS_DEPTH, &mut files);
        all.extend(files.iter().map(|path| Named::new("--symbols", path)));
    }
    all
}

/// The images that the guest is built from; those that come with the program where none are named.
fn image_paths(arguments: &Arguments) -> Vec<PathBuf> {
    let built = [
        (&arguments.kernel, "ntoskrnl.exe"),
        (&arguments.port_driver, "storport.sys"),
    ];
    let built = built.into_iter().filter_map(|(given, name)| {
        let given = given.clone();
        given.or_else(|| images::built_image(name).ok())
    });
    built
        .chain(arguments.driver.clone())
        .chain(arguments.load.iter().cloned())
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
