//! What a run boots: the project's test guest or another PE kernel with its drivers, entered directly; Linux; or a
//! system on the disks, which firmware finds.
//!
//! Talks to the file system. It must not know how a guest is watched.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use storlock_vmm::boot::{BootFile, BootRequest, KERNEL_FILE, KernelImage, LinuxRequest, is_linux_kernel};

use super::images::{self, ImageFile};
use super::registry::Registry;
use super::spec::{CheckedSpec, FilePath, guest_name};
use super::{Failure, Start, firmware, input};
use crate::notices::Notices;
use crate::report::ImageRole;

/// What files beside a kernel are to it (docs/loader-block.md).
const PORT_DRIVER: u32 = 2;
const TARGET: u32 = 3;
const DRIVER: u32 = 4;
const REGISTRY: u32 = 5;
/// Bytes of a kernel that show whether it is Linux.
const HEADER: u64 = 0x400;
/// Largest registry file, in bytes.
const REGISTRY_LIMIT: u64 = 1 << 20;
/// Lines that are reported one by one if they are not understood.
const MOST_WARNINGS: usize = 100;

/// A guest to be watched.
pub(super) struct WatchedBoot {
    /// File name of the driver under test.
    pub(super) target: String,
    /// The files that were read; of a guest that boots by firmware at most the driver under test.
    pub(super) images: Vec<ImageFile>,
    /// What the machine starts with.
    pub(super) start: Start,
}

/// What a watched run boots.
///
/// # Errors
/// [`Failure`] if a file cannot be used.
pub(super) fn watched(checked: &CheckedSpec, driver: &FilePath, notices: &dyn Notices) -> Result<WatchedBoot, Failure> {
    if let Some(code) = &checked.spec.firmware {
        let target = guest_name(driver).map_err(Failure::usage)?;
        let images = driver_file(driver, checked.time_limit())?;
        let request = firmware::request(checked, code.file(), None, notices).map_err(Failure::infrastructure)?;
        return Ok(WatchedBoot {
            target,
            images,
            start: Start::Firmware(request),
        });
    }
    direct(checked, driver, notices).map_err(Failure::infrastructure)
}

/// Whether a kernel is one of Linux.
///
/// # Errors
/// If it cannot be read.
pub(super) fn is_linux(path: &Path) -> anyhow::Result<bool> {
    let mut start = Vec::new();
    let file = input::open_regular(path).with_context(|| format!("cannot use {} as the kernel", path.display()))?;
    file.take(HEADER)
        .read_to_end(&mut start)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(is_linux_kernel(&start))
}

/// What a run boots in which nothing is watched.
///
/// # Errors
/// If a file cannot be used.
pub(super) fn unwatched(checked: &CheckedSpec, notices: &dyn Notices) -> anyhow::Result<Start> {
    let (spec, patience) = (&checked.spec, checked.time_limit());
    let linux = match &spec.kernel {
        Some(path) => Some(LinuxRequest {
            kernel: firmware::read(path, patience)?,
            initrd: spec
                .initrd
                .as_deref()
                .map(|path| firmware::read(path, patience))
                .transpose()?,
            command_line: spec.append.clone(),
        }),
        None => None,
    };
    match (&spec.firmware, linux) {
        (Some(code), linux) => firmware::request(checked, code.file(), linux, notices).map(Start::Firmware),
        (None, Some(linux)) => Ok(Start::Linux(linux)),
        (None, None) => Err(anyhow!("there is nothing to boot")),
    }
}

/// The file of the driver under test, if the guest's name for it is a path to a file here.
fn driver_file(driver: &Path, patience: Duration) -> Result<Vec<ImageFile>, Failure> {
    let is_path = driver.components().count() > 1;
    if !is_path && !driver.exists() {
        return Ok(Vec::new());
    }
    let file = ImageFile::read(driver, ImageRole::Target, patience).map_err(Failure::infrastructure)?;
    Ok(vec![file])
}

fn direct(checked: &CheckedSpec, driver: &Path, notices: &dyn Notices) -> anyhow::Result<WatchedBoot> {
    let images = read_files(checked, driver)?;
    images::check_relocations(&images)?;
    images::check_imports(&images)?;
    let target = images.iter().find(|image| image.role == ImageRole::Target);
    let target = target.map(|image| image.name.clone()).unwrap_or_default();
    let mut files: Vec<BootFile> = images.iter().map(boot_file).collect();
    let kernel = files.remove(0);
    if let Some(path) = &checked.spec.registry {
        files.push(registry_file(path, notices)?);
    }
    let request = BootRequest {
        kernel: KernelImage::parse(&kernel.name, kernel.data)?,
        files,
        command_line: checked.spec.append.clone(),
        seed: checked.seed,
    };
    Ok(WatchedBoot {
        target,
        images,
        start: Start::Kernel(request),
    })
}

/// The kernel comes first.
fn read_files(checked: &CheckedSpec, driver: &Path) -> anyhow::Result<Vec<ImageFile>> {
    let (spec, patience) = (&checked.spec, checked.time_limit());
    let given = |path: &Option<FilePath>| path.as_ref().map(|FilePath(path)| path.clone());
    let kernel = given(&spec.kernel).map_or_else(|| images::built_image("ntoskrnl.exe"), Ok)?;
    let port_driver = given(&spec.port_driver).map_or_else(|| images::built_image("storport.sys"), Ok)?;
    let mut files = vec![
        ImageFile::read(&kernel, ImageRole::Kernel, patience)?,
        ImageFile::read(&port_driver, ImageRole::PortDriver, patience)?,
        ImageFile::read(driver, ImageRole::Target, patience)?,
    ];
    for path in &spec.load {
        files.push(ImageFile::read(path, ImageRole::Driver, patience)?);
    }
    Ok(files)
}

fn boot_file(file: &ImageFile) -> BootFile {
    BootFile {
        name: file.name.clone(),
        kind: match file.role {
            ImageRole::Kernel => KERNEL_FILE,
            ImageRole::PortDriver => PORT_DRIVER,
            ImageRole::Target => TARGET,
            ImageRole::Driver => DRIVER,
        },
        data: file.image.data().to_vec(),
    }
}

/// The guest's registry. Lines that are not understood are reported and left out: the guest would leave them out silently.
fn registry_file(path: &Path, notices: &dyn Notices) -> anyhow::Result<BootFile> {
    let data = input::read_small(path, " as the registry file", REGISTRY_LIMIT)?;
    let registry = Registry::read(&data);
    for warning in registry.warnings.iter().take(MOST_WARNINGS) {
        notices.say(&format!("warning: {}: {warning}", path.display()));
    }
    let more = registry.warnings.len().saturating_sub(MOST_WARNINGS);
    if more > 0 {
        notices.say(&format!(
            "warning: {}: {more} more lines are not understood and left out",
            path.display()
        ));
    }
    Ok(BootFile {
        name: "registry".to_owned(),
        kind: REGISTRY,
        data: registry.plain(),
    })
}
