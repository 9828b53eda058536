//! `storlock run` without a driver under test: a Linux kernel, or whatever firmware finds on the disk. Nothing is watched;
//! these guests show that the machine works.
//!
//! Talks to the file system and to the machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use storlock_vmm::boot::{FirmwareRequest, LinuxRequest, NamedFile, VariableStore, is_linux_kernel};
use storlock_vmm::devices::ramfb::Picture;
use storlock_vmm::machine::ExitReason;
use storlock_vmm::storage::backend::lock_for_writing;

use super::interrupt::Interrupt;
use super::run::{self, Arguments};
use super::{Failure, input};
use crate::machine::other::{OtherGuest, Start};
use crate::outcome::Condition;

/// Where the firmware's code is by the packages of Debian, Fedora and Arch, and the template of its variables.
const FIRMWARE: [(&str, &str); 4] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    (
        "/usr/share/edk2/ovmf/OVMF_CODE_4M.fd",
        "/usr/share/edk2/ovmf/OVMF_VARS_4M.fd",
    ),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    (
        "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ),
];
/// Bytes of a kernel that show whether it is Linux.
const HEADER: u64 = 0x400;
/// Largest kernel or RAM disk, in bytes: the boot protocol counts in 32 bits.
const FILE_LIMIT: u64 = 2 << 30;

/// What to boot; `None` if it is a guest to be watched.
///
/// # Errors
/// [`Failure`] if a file cannot be read, or options contradict each other.
pub fn wanted(arguments: &Arguments) -> Result<Option<Start>, Failure> {
    let kernel = match &arguments.kernel {
        Some(path) if is_linux(path).map_err(Failure::infrastructure)? => Some(path),
        _ => None,
    };
    if kernel.is_none() && arguments.firmware.is_none() {
        return match &arguments.initrd {
            None => Ok(None),
            Some(_) => Err(Failure::usage(anyhow!("--initrd goes with a Linux kernel (--kernel)"))),
        };
    }
    if arguments.driver.is_some() {
        return Err(Failure::usage(anyhow!(
            "--driver goes with an NT-compatible kernel that is entered directly; Linux has no such driver, and a guest \
             that boots by firmware cannot be watched yet"
        )));
    }
    if arguments.gdb.is_some() {
        return Err(Failure::usage(anyhow!(
            "--gdb goes with a driver under test (--driver): Linux and firmware run without a debugger so far"
        )));
    }
    if kernel.is_none() && arguments.kernel.is_some() {
        return Err(Failure::usage(anyhow!(
            "firmware can boot a Linux kernel only: this --kernel is none"
        )));
    }
    start(arguments, kernel).map(Some).map_err(Failure::infrastructure)
}

fn is_linux(path: &Path) -> anyhow::Result<bool> {
    let mut start = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot use {} as the kernel", path.display()))?;
    file.take(HEADER)
        .read_to_end(&mut start)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(is_linux_kernel(&start))
}

fn start(arguments: &Arguments, kernel: Option<&PathBuf>) -> anyhow::Result<Start> {
    let linux = match kernel {
        Some(path) => Some(LinuxRequest {
            kernel: read(path)?,
            initrd: arguments.initrd.as_deref().map(read).transpose()?,
            command_line: arguments.append.clone(),
        }),
        None => None,
    };
    match (&arguments.firmware, linux) {
        (None, Some(linux)) => Ok(Start::Linux(linux)),
        (Some(firmware), kernel) => Ok(Start::Firmware(request(arguments, firmware, kernel)?)),
        (None, None) => Err(anyhow!("there is nothing to boot")),
    }
}

fn read(path: &Path) -> anyhow::Result<NamedFile> {
    Ok(NamedFile {
        name: path.display().to_string(),
        data: input::read(path, "", FILE_LIMIT)?,
    })
}

fn request(arguments: &Arguments, firmware: &Path, kernel: Option<LinuxRequest>) -> anyhow::Result<FirmwareRequest> {
    let (code, template) = if firmware.as_os_str().is_empty() {
        let found = FIRMWARE.iter().find(|(code, _)| Path::new(code).exists());
        let (code, template) = found.context(
            "no OVMF was found: install it (Debian's package ovmf, edk2-ovmf elsewhere), or name its code by --firmware FILE",
        )?;
        (PathBuf::from(code), Some(PathBuf::from(template)))
    } else {
        (firmware.to_owned(), template_beside(firmware))
    };
    Ok(FirmwareRequest {
        code: read(&code)?,
        variables: variables(arguments.variables.as_deref(), template.as_deref())?,
        kernel,
        display: arguments.screenshot.is_some(),
    })
}

/// The template of variables that belongs to a firmware's code by its name: OVMF_VARS... beside OVMF_CODE...
fn template_beside(code: &Path) -> Option<PathBuf> {
    let name = code.file_name()?.to_str()?;
    let template = code.with_file_name(name.replace("CODE", "VARS"));
    (template != code && template.exists()).then_some(template)
}

fn variables(file: Option<&Path>, template: Option<&Path>) -> anyhow::Result<Option<VariableStore>> {
    let Some(path) = file else {
        let template = template.map(read).transpose()?;
        return Ok(template.map(|NamedFile { name, data }| VariableStore {
            name,
            content: data,
            file: None,
        }));
    };
    if !path.exists() {
        let template = template.with_context(|| {
            format!(
                "{} is not there, nor a template of variables beside the firmware",
                path.display()
            )
        })?;
        fs::copy(template, path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.with_context(|| format!("cannot write the firmware's variables {}", path.display()))?;
    lock(&file, path)?;
    let NamedFile { name, data } = read(path)?;
    Ok(Some(VariableStore {
        name,
        content: data,
        file: Some(file),
    }))
}

/// Keeps a second guest, of this program or of QEMU, from the same variables.
fn lock(file: &File, path: &Path) -> anyhow::Result<()> {
    lock_for_writing(file).or_else(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Err(anyhow!(
            "the firmware's variables {} are in use by another program: give each guest a file of its own",
            path.display()
        )),
        _ => {
            eprintln!("note: the firmware's variables {} cannot be locked: {error}", path.display());
            Ok(())
        }
    })
}

/// Runs the guest to its end.
///
/// # Errors
/// [`Failure`] if it cannot be started.
pub fn execute(arguments: &Arguments, start: Start) -> Result<u8, Failure> {
    run::create_directory(&arguments.report_dir).map_err(Failure::infrastructure)?;
    let sandbox = run::sandbox(arguments)?;
    let screenshot = match &arguments.screenshot {
        Some(path) => Some(
            File::create(path)
                .with_context(|| format!("cannot write the screenshot {}", path.display()))
                .map_err(Failure::infrastructure)?,
        ),
        None => None,
    };
    let options = run::machine_options(arguments, sandbox);
    let guest = OtherGuest::prepare(&options, start).map_err(Failure::infrastructure)?;
    sandbox.limit_files(&[]).map_err(Failure::infrastructure)?;
    let interrupt = Interrupt::catch(guest.control(), sandbox)
        .context("signals cannot be caught")
        .map_err(Failure::infrastructure)?;
    let end = guest.run(arguments.time_limit.0).map_err(Failure::infrastructure)?;
    if let (Some(file), Some(picture)) = (screenshot, &end.picture) {
        write_png(file, picture)
            .context("cannot write the screenshot")
            .map_err(Failure::infrastructure)?;
    }
    for failure in &end.disk_failures {
        eprintln!("warning: {failure}");
    }
    let restarts = match end.restarts {
        0 => String::new(),
        1 => ", started again once".to_owned(),
        more => format!(", started again {more} times"),
    };
    println!("{} (after {:.1} s{restarts})", end.reason, end.duration.as_secs_f64());
    let condition = match end.reason {
        ExitReason::PowerOff | ExitReason::Reset => return Ok(0),
        ExitReason::Stopped if interrupt.happened() => Condition::Interrupted,
        ExitReason::Failed(_) => Condition::Infrastructure,
        _ => Condition::GuestFailed,
    };
    Ok(condition.exit_code())
}

fn write_png(file: File, picture: &Picture) -> anyhow::Result<()> {
    let mut encoder = png::Encoder::new(BufWriter::new(file), picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header()?.write_image_data(&picture.rgb)?;
    Ok(())
}
