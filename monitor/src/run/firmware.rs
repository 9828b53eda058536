//! Firmware for a guest: finds OVMF, keeps its variables, and writes the picture of its display.
//!
//! Talks to the file system. It must not know what the firmware boots.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use storlock_vmm::boot::{FirmwareRequest, LinuxRequest, NamedFile, VariableStore};
use storlock_vmm::devices::ramfb::Picture;
use storlock_vmm::storage::backend::lock_for_writing;

use super::input;
use super::spec::CheckedSpec;
use crate::notices::Notices;
use crate::output::{Cut, Place, WholeFile, replace};

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
/// Largest kernel or RAM disk, in bytes: the boot protocol counts in 32 bits.
const FILE_LIMIT: u64 = 2 << 30;

/// A file for the guest; a pipe is waited for as long as `patience`.
///
/// # Errors
/// If it cannot be read or is too large.
pub fn read(path: &Path, patience: Duration) -> anyhow::Result<NamedFile> {
    Ok(NamedFile {
        name: path.display().to_string(),
        data: input::read(path, "", FILE_LIMIT, patience)?,
    })
}

/// What the options say of firmware, with a Linux kernel for it to boot, if there is one.
///
/// # Errors
/// If there is no firmware, or a file cannot be read or made.
pub fn request(
    checked: &CheckedSpec,
    firmware: Option<&Path>,
    kernel: Option<LinuxRequest>,
    notices: &dyn Notices,
) -> anyhow::Result<FirmwareRequest> {
    let (code, template) = find(firmware).context(
        "no OVMF was found: install it (Debian's package ovmf, edk2-ovmf elsewhere), or name its code by --firmware FILE",
    )?;
    Ok(FirmwareRequest {
        code: read(&code, checked.time_limit())?,
        variables: variables(checked, template.as_deref(), notices)?,
        kernel,
        display: checked.spec.screenshot.is_some(),
    })
}

/// The firmware's code, that which is named or what is installed, and the template of its variables.
fn find(named: Option<&Path>) -> Option<(PathBuf, Option<PathBuf>)> {
    if let Some(code) = named {
        return Some((code.to_owned(), template_beside(code)));
    }
    let (code, template) = FIRMWARE.iter().find(|(code, _)| Path::new(code).exists())?;
    Some((PathBuf::from(code), Some(PathBuf::from(template))))
}

/// The files that a firmware is read from.
#[must_use]
pub fn files(named: Option<&Path>) -> Vec<PathBuf> {
    let found = find(named);
    found
        .into_iter()
        .flat_map(|(code, template)| [Some(code), template])
        .flatten()
        .collect()
}

/// The template of variables that belongs to a firmware's code by its name: OVMF_VARS... beside OVMF_CODE...
fn template_beside(code: &Path) -> Option<PathBuf> {
    let name = code.file_name()?.to_str()?;
    let template = code.with_file_name(name.replace("CODE", "VARS"));
    (template != code && template.exists()).then_some(template)
}

fn variables(
    checked: &CheckedSpec,
    template: Option<&Path>,
    notices: &dyn Notices,
) -> anyhow::Result<Option<VariableStore>> {
    let patience = checked.time_limit();
    let Some(path) = checked.spec.variables.as_deref() else {
        let template = template.map(|path| read(path, patience)).transpose()?;
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
        let made = fs::read(template).and_then(|template| replace(Place::of(path).path(), &template));
        made.with_context(|| format!("cannot make {}", path.display()))?;
    }
    if !path.is_file() {
        bail!(
            "the firmware's variables {} are kept in a regular file only",
            path.display()
        );
    }
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.with_context(|| format!("cannot write the firmware's variables {}", path.display()))?;
    lock(&file, path, notices)?;
    let NamedFile { name, data } = read(path, patience)?;
    Ok(Some(VariableStore {
        name,
        content: data,
        file: Some(file),
    }))
}

/// Keeps a second guest, of this program or of QEMU, from the same variables.
fn lock(file: &File, path: &Path, notices: &dyn Notices) -> anyhow::Result<()> {
    let name = path.display();
    match lock_for_writing(file) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            bail!("the firmware's variables {name} are in use by another program: give each guest a file of its own")
        }
        Err(error) => notices.say(&format!(
            "note: the firmware's variables {name} cannot be locked: {error}"
        )),
    }
    Ok(())
}

/// Makes sure that the screenshot can be written, while files can still be opened.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn prepare_screenshot(checked: &CheckedSpec) -> anyhow::Result<Option<WholeFile>> {
    let Some(path) = &checked.spec.screenshot else {
        return Ok(None);
    };
    let file = WholeFile::prepare(path, checked.time_limit());
    let file = file.with_context(|| format!("cannot write the screenshot {}", path.display()))?;
    Ok(Some(file))
}

/// Writes what the display showed, if there is something. Says why there is no screenshot, or not all of it.
#[must_use]
pub(crate) fn write_screenshot(file: &WholeFile, picture: Option<&Picture>) -> Option<Cut> {
    let what = format!("the screenshot {}", file.path().display());
    let Some(picture) = picture else {
        let note = format!("{} was not written: the guest has shown nothing", file.path().display());
        return Some(Cut::Note(note));
    };
    let bytes = png(picture).map_err(io::Error::other);
    let written = bytes.and_then(|bytes| file.fill(|file| file.write_all(&bytes)));
    written.err().map(|error| Cut::by(&error, &what))
}

fn png(picture: &Picture) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header()?.write_image_data(&picture.rgb)?;
    Ok(bytes)
}
