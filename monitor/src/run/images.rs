//! Finds, reads and checks the files that go into a guest, before anything is booted.
//!
//! Talks to the file system and to the PE readers. It must not know how they are booted.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use sha2::{Digest, Sha256};

use super::failure::Lines;
use super::input;
use crate::report::{ImageInfo, ImageRole};
use crate::windows::{Exports, FileImage, ImportName, Imports};

/// Directory of the built guest images, if it is not beside the binary.
pub(crate) const IMAGES_VARIABLE: &str = "STORLOCK_IMAGES";
/// Largest image that is read, in bytes.
const SIZE_LIMIT: u64 = 256 << 20;

/// The file name that the guest knows a file by: kernel and port driver are what imports name, whatever the file is called.
fn guest_name(role: ImageRole, path: &Path) -> String {
    match role {
        ImageRole::Kernel => "ntoskrnl.exe".to_owned(),
        ImageRole::PortDriver => "storport.sys".to_owned(),
        ImageRole::Target | ImageRole::Driver => path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
    }
}

/// A file that has been read and is a PE64 image.
#[derive(Debug, Clone)]
pub(crate) struct ImageFile {
    /// What it is for.
    pub(crate) role: ImageRole,
    /// Where it came from.
    pub path: PathBuf,
    /// The file name by which the guest knows it.
    pub name: String,
    /// Its parsed headers and contents.
    pub image: FileImage,
}

impl ImageFile {
    /// Reads and parses a file; a pipe is waited for as long as `patience`.
    ///
    /// # Errors
    /// If it cannot be read or is no whole PE64 image for x64.
    pub(crate) fn read(path: &Path, role: ImageRole, patience: Duration) -> anyhow::Result<Self> {
        let what = || format!("cannot use {} as the {}", path.display(), role.text());
        let data = input::read(path, &format!(" as the {}", role.text()), SIZE_LIMIT, patience)?;
        let image = FileImage::parse(data).with_context(what)?;
        Ok(Self {
            role,
            path: path.to_owned(),
            name: guest_name(role, path),
            image,
        })
    }

    /// The image as it was before its symbols were stripped, if it lies in `directory`, or else in `debug` beside the
    /// file or beside its directory; and where. It is the same build if its code is the same.
    #[must_use]
    pub(crate) fn unstripped(&self, directory: Option<&Path>) -> Option<(PathBuf, FileImage)> {
        let read = |path: PathBuf| {
            let mut data = Vec::new();
            let file = input::open_regular(&path).ok()?;
            file.take(SIZE_LIMIT).read_to_end(&mut data).ok()?;
            let image = FileImage::parse(data).ok()?;
            Some((path, image))
        };
        unstripped_candidates(&self.path, directory)
            .into_iter()
            .filter_map(read)
            .find(|(_, other)| same_code(&self.image, other))
    }

    /// How the report lists it.
    #[must_use]
    pub(crate) fn info(&self) -> ImageInfo {
        let data = self.image.data();
        ImageInfo {
            role: self.role,
            name: self.name.clone(),
            size: data.len() as u64,
            sha256: format!("{:x}", Sha256::digest(data)),
        }
    }
}

/// Where the image at `path` may be as it was before its symbols were stripped.
#[must_use]
pub(crate) fn unstripped_candidates(path: &Path, directory: Option<&Path>) -> Vec<PathBuf> {
    let Some(file_name) = path.file_name() else {
        return Vec::new();
    };
    let parents = path.ancestors().skip(1).take(2);
    let beside = parents.flat_map(|dir| [dir.join("debug"), dir.join("debug/miniports")]);
    let candidates = directory.map(Path::to_owned).into_iter().chain(beside);
    candidates.map(|directory| directory.join(file_name)).collect()
}

/// Where an installation keeps the guest images, seen from the directory above the binary's.
const INSTALLED: &str = "lib/storlock/guest-images";

/// The file `name` among the built guest images: in the directory that the environment names, else in `guest-images`
/// beside the binary or at most two levels above it, else where they are installed.
///
/// # Errors
/// If there is none; the message says how to build them.
pub(crate) fn built_image(name: &str) -> anyhow::Result<PathBuf> {
    if let Some(directory) = std::env::var_os(IMAGES_VARIABLE) {
        let path = Path::new(&directory).join(name);
        if path.exists() {
            return Ok(path);
        }
        return Err(anyhow!(
            "{} does not exist: {IMAGES_VARIABLE} names no directory of guest images",
            path.display()
        ));
    }
    let binary = std::env::current_exe().context("cannot tell where this program is")?;
    let built = binary.ancestors().skip(1).take(3).map(|dir| dir.join("guest-images"));
    let installed = binary.ancestors().nth(2).map(|dir| dir.join(INSTALLED));
    let mut candidates = built.chain(installed).map(|dir| dir.join(name));
    candidates.find(|path| path.exists()).ok_or_else(|| {
        anyhow!(
            "there is no built {name}: run guest-images/build, or name the file on the command line, or set \
             {IMAGES_VARIABLE} to the directory of the guest images"
        )
    })
}

/// Checks that every image can be moved: the kernel and its drivers are put at addresses chosen by the seed.
///
/// # Errors
/// One message that names all images that cannot.
pub(crate) fn check_relocations(images: &[ImageFile]) -> anyhow::Result<()> {
    let fixed = images.iter().filter(|file| file.image.image().relocations_stripped);
    let names: Vec<String> = fixed.map(|file| file.path.display().to_string()).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(anyhow!(
        "cannot use {}: it has no relocations (IMAGE_FILE_RELOCS_STRIPPED), so it could be loaded at the address only for \
         which it was linked, and kernels and drivers have to run at any address; link it without /FIXED",
        names.join(", ")
    ))
}

/// Checks that every import of every image is exported by another one.
///
/// # Errors
/// One message that names all imports that are not.
pub(crate) fn check_imports(images: &[ImageFile]) -> anyhow::Result<()> {
    let mut exports = Vec::new();
    for file in images {
        let table = Exports::read(&file.image, file.image.image())
            .with_context(|| format!("the exports of {}", file.path.display()))?;
        exports.push((file.name.as_str(), table));
    }
    let mut missing = Vec::new();
    for file in images {
        let imports = Imports::read(&file.image, file.image.image())
            .with_context(|| format!("the imports of {}", file.path.display()))?;
        for import in imports.entries() {
            let module = exports
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(&import.module));
            let found = match (&module, &import.name) {
                (Some((_, table)), ImportName::Name(name)) => table.get(name).is_some(),
                (Some((_, table)), ImportName::Ordinal(ordinal)) => table.by_ordinal(*ordinal).is_some(),
                (Some(_), ImportName::Bound) | (None, _) => false,
            };
            if !found {
                let name = import.name.text();
                let note = if module.is_none() { " (no such module)" } else { "" };
                missing.push(format!("{} imports {}!{name}{note}", file.name, import.module));
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let text = format!(
        "this guest does not have what its drivers import, so it was not booted:\n  {}\nName a kernel, a port driver or \
         further drivers that export it (--kernel, --port-driver, --load).",
        missing.join("\n  ")
    );
    Err(Lines(text).into())
}

/// Whether two files have the same code at the same places.
fn same_code(one: &FileImage, other: &FileImage) -> bool {
    let code = |file: &FileImage| -> Vec<(u32, Vec<u8>)> {
        let sections = file.image().sections.iter().filter(|section| section.is_executable());
        let bytes = |offset: u32, size: u32| {
            let start = offset as usize;
            start
                .checked_add(size as usize)
                .and_then(|end| file.data().get(start..end))
                .unwrap_or_default()
                .to_vec()
        };
        sections
            .map(|s| (s.rva, bytes(s.file_offset, s.file_size.min(s.size))))
            .collect()
    };
    code(one) == code(other)
}
