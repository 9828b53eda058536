//! What a watched run boots: the project's test guest or another PE kernel with its drivers, entered directly, or what
//! firmware finds on the disks.
//!
//! Talks to the file system. It must not know how a guest is watched.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use storlock_vmm::boot::{BootFile, BootRequest, FileKind, KernelImage};

use super::images::{self, ImageFile, Role};
use super::registry::Registry;
use super::run::Arguments;
use super::{Failure, firmware, input};
use crate::machine::Start;

/// Largest registry file, in bytes.
const REGISTRY_LIMIT: u64 = 1 << 20;
/// Lines of it that are told one by one if they are not understood.
const MOST_WARNINGS: usize = 100;

/// A guest to be watched.
pub struct Boot {
    /// File name of the driver under test.
    pub target: String,
    /// The files that were read; of a guest that boots by firmware at most the driver under test.
    pub images: Vec<ImageFile>,
    /// What the machine starts with.
    pub start: Start,
}

/// What the options say is to be booted.
///
/// # Errors
/// [`Failure`] if options contradict each other, or a file cannot be used.
pub fn plan(arguments: &Arguments, seed: u64) -> Result<Boot, Failure> {
    let Some(driver) = &arguments.driver else {
        return Err(Failure::usage(anyhow!(
            "--driver is needed: the miniport whose locks are to be watched (a guest that is Linux, or boots by \
             --firmware, may run without)"
        )));
    };
    if let Some(code) = &arguments.firmware {
        check_firmware_options(arguments)?;
        let target = base_name(driver)?;
        let images = driver_file(driver, arguments.time_limit.0)?;
        let request = firmware::request(arguments, code.as_deref(), None).map_err(Failure::infrastructure)?;
        return Ok(Boot {
            target,
            images,
            start: Start::Firmware(request),
        });
    }
    direct(arguments, driver, seed).map_err(Failure::infrastructure)
}

/// Options that say what a kernel is given mean nothing to a guest that loads its files itself.
fn check_firmware_options(arguments: &Arguments) -> Result<(), Failure> {
    let given = [
        ("--port-driver", arguments.port_driver.is_some()),
        ("--load", !arguments.load.is_empty()),
        ("--registry", arguments.registry.is_some()),
        ("--append", !arguments.append.is_empty()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(Failure::usage(anyhow!(
            "{option} is for a kernel that is entered directly: a guest that boots by firmware has its drivers and \
             settings on its disk"
        ))),
    }
}

/// The file of the driver under test, if the guest's name for it is a path to a file here.
fn driver_file(driver: &Path, patience: Duration) -> Result<Vec<ImageFile>, Failure> {
    let is_path = driver.components().count() > 1;
    if !is_path && !driver.exists() {
        return Ok(Vec::new());
    }
    let file = ImageFile::read(driver, Role::Target, patience).map_err(Failure::infrastructure)?;
    Ok(vec![file])
}

fn base_name(driver: &Path) -> Result<String, Failure> {
    let name = driver.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name.contains('.') {
        return Ok(name.to_owned());
    }
    Err(Failure::usage(anyhow!(
        "--driver {}: the file name by which the guest knows the driver is needed, with its extension, such as \
         mydriver.sys",
        driver.display()
    )))
}

fn direct(arguments: &Arguments, driver: &Path, seed: u64) -> anyhow::Result<Boot> {
    let images = read_files(arguments, driver)?;
    images::check_relocations(&images)?;
    images::check_imports(&images)?;
    let target = images.iter().find(|image| image.role == Role::Target);
    let target = target.map(|image| image.name.clone()).unwrap_or_default();
    let mut files: Vec<BootFile> = images.iter().map(boot_file).collect();
    let kernel = files.remove(0);
    if let Some(path) = &arguments.registry {
        files.push(registry_file(path, arguments.time_limit.0)?);
    }
    let request = BootRequest {
        kernel: KernelImage::parse(&kernel.name, kernel.data)?,
        files,
        command_line: arguments.append.clone(),
        seed,
    };
    Ok(Boot {
        target,
        images,
        start: Start::Kernel(request),
    })
}

/// The kernel comes first.
fn read_files(arguments: &Arguments, driver: &Path) -> anyhow::Result<Vec<ImageFile>> {
    let patience = arguments.time_limit.0;
    let kernel = arguments
        .kernel
        .clone()
        .map_or_else(|| images::built_image("ntoskrnl.exe"), Ok)?;
    let port_driver = arguments
        .port_driver
        .clone()
        .map_or_else(|| images::built_image("storport.sys"), Ok)?;
    let mut files = vec![
        ImageFile::read(&kernel, Role::Kernel, patience)?,
        ImageFile::read(&port_driver, Role::PortDriver, patience)?,
        ImageFile::read(driver, Role::Target, patience)?,
    ];
    for path in &arguments.load {
        files.push(ImageFile::read(path, Role::Driver, patience)?);
    }
    Ok(files)
}

fn boot_file(file: &ImageFile) -> BootFile {
    BootFile {
        name: file.name.clone(),
        kind: match file.role {
            Role::Kernel => FileKind::Kernel,
            Role::PortDriver => FileKind::PortDriver,
            Role::Target => FileKind::Driver,
            Role::Driver => FileKind::OtherDriver,
        },
        data: file.image.data().to_vec(),
    }
}

/// The guest's registry. What is not understood is told and left out: the guest would do the same, but nobody would know.
fn registry_file(path: &Path, patience: Duration) -> anyhow::Result<BootFile> {
    let data = input::read(path, " as the registry file", REGISTRY_LIMIT, patience)?;
    let registry = Registry::read(&data);
    for warning in registry.warnings.iter().take(MOST_WARNINGS) {
        crate::tell!("warning: {}: {warning}", path.display());
    }
    let more = registry.warnings.len().saturating_sub(MOST_WARNINGS);
    if more > 0 {
        crate::tell!(
            "warning: {}: {more} more lines are not understood and left out",
            path.display()
        );
    }
    Ok(BootFile {
        name: "registry".to_owned(),
        kind: FileKind::Registry,
        data: registry.plain(),
    })
}
