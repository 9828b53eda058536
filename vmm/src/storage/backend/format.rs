//! Decides which format a disk image has.
//!
//! The contents never choose a format: a guest that owns a raw disk can write the header of another format into it, and
//! that header can name any file of the host as its backing file. The name of the image, or the user, says which format
//! it is; if the contents contradict that, the image is refused.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use super::OpenError;
use super::host_file::HostFile;

/// A format that disk images are read in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// Byte n of the disk is byte n of the file.
    Raw,
    /// QEMU's format, version 2 (read-only) or 3 (QEMU's docs/interop/qcow2).
    Qcow2,
    /// VMware's format: a descriptor that names files with flat data; read-only.
    Vmdk,
}

impl FromStr for ImageFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            "vmdk" => Ok(Self::Vmdk),
            _ => Err(format!("unknown format `{text}`: raw, qcow2 or vmdk")),
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        })
    }
}

/// What a name or contents look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Likeness {
    Format(ImageFormat),
    /// A format that has to be converted, as `qemu-img convert -f` calls it.
    Foreign(&'static str),
}

/// Extensions of file names, in lower case; anything else is raw.
const EXTENSIONS: [(&str, Likeness); 9] = [
    ("qcow2", Likeness::Format(ImageFormat::Qcow2)),
    ("vmdk", Likeness::Format(ImageFormat::Vmdk)),
    ("vhd", Likeness::Foreign("vpc")),
    ("avhd", Likeness::Foreign("vpc")),
    ("vhdx", Likeness::Foreign("vhdx")),
    ("avhdx", Likeness::Foreign("vhdx")),
    ("vdi", Likeness::Foreign("vdi")),
    ("qcow", Likeness::Foreign("qcow")),
    ("qed", Likeness::Foreign("qed")),
];

/// A VHD ends with a footer of this many bytes, and one that grows starts with a copy of it.
const VHD_FOOTER: u64 = 512;

fn of_name(path: &Path) -> Likeness {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    let known = EXTENSIONS.iter().find(|(name, _)| extension == *name);
    known.map_or(Likeness::Format(ImageFormat::Raw), |&(_, likeness)| likeness)
}

fn of_contents(file: &HostFile) -> io::Result<Likeness> {
    let (mut head, mut tail) = ([0; 80], [0; 8]);
    file.peek(&mut head, 0)?;
    if let Some(footer) = file.length().checked_sub(VHD_FOOTER) {
        file.peek(&mut tail, footer)?;
    }
    Ok(match &head {
        head if head.starts_with(b"QFI\xfb") && head[4..8] == [0, 0, 0, 1] => Likeness::Foreign("qcow"),
        head if head.starts_with(b"QFI\xfb") => Likeness::Format(ImageFormat::Qcow2),
        head if head.starts_with(b"# Disk DescriptorFile") => Likeness::Format(ImageFormat::Vmdk),
        // Data and descriptor in one file, which imago does not read.
        head if head.starts_with(b"KDMV") || head.starts_with(b"COWD") => Likeness::Foreign("vmdk"),
        head if head.starts_with(b"vhdxfile") => Likeness::Foreign("vhdx"),
        head if head.starts_with(b"conectix") || tail == *b"conectix" => Likeness::Foreign("vpc"),
        head if head.starts_with(b"QED\0") => Likeness::Foreign("qed"),
        head if head[64..68] == [0x7f, 0x10, 0xda, 0xbe] => Likeness::Foreign("vdi"),
        _ => Likeness::Format(ImageFormat::Raw),
    })
}

/// The format of an image for which none was given.
///
/// # Errors
/// It has to be converted, or name and contents do not agree.
pub(super) fn of_image(file: &HostFile) -> Result<ImageFormat, OpenError> {
    let path = || file.path().to_owned();
    let contents = of_contents(file).map_err(|source| OpenError::Open { path: path(), source })?;
    match (of_name(file.path()), contents) {
        (Likeness::Format(by_name), Likeness::Format(by_contents)) if by_name == by_contents => Ok(by_name),
        (_, Likeness::Foreign(format)) | (Likeness::Foreign(format), Likeness::Format(ImageFormat::Raw)) => {
            Err(OpenError::Foreign { path: path(), format })
        }
        (_, Likeness::Format(contents)) => Err(OpenError::Ambiguous { path: path(), contents }),
    }
}
