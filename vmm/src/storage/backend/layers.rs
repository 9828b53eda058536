//! Opens a disk image with everything that it is built on.
//!
//! Every file goes through here: which ones may be opened is decided by this module, not by imago and not by the image.
//! Talks to imago's formats. It must not know what becomes of the disk.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use imago::format::gate::ImplicitOpenGate;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::vmdk::Vmdk;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, StorageOpenOptions};

use super::format::{self, ImageFormat};
use super::host_file::HostFile;
use super::{ImageOptions, OpenError};

/// Longest chain of images on top of each other.
const DEPTH_LIMIT: usize = 16;

/// Size of the pieces in which the overlay of a snapshot takes over the image, in bytes.
const OVERLAY_CLUSTER: u64 = 64 << 10;

/// The fields of a qcow2 header that are looked at before imago is: it writes to an image before it has looked at the
/// feature bits, and never looks at the encryption.
const QCOW2_HEADER: usize = 80;

pub(super) type Image = FormatAccess<HostFile>;

/// Opens the image at `path` as the options say.
pub(super) fn open(path: &Path, options: &ImageOptions) -> Result<(Image, ImageFormat), OpenError> {
    let writable = !options.read_only && options.snapshot.is_none();
    let layer = Layer {
        path,
        format: options.format,
        backing: options.backing.as_deref(),
        depth: 1,
    };
    let (image, format) = layer.open(writable)?;
    match options.snapshot {
        Some(limit) if !options.read_only => Ok((overlay(path, image, limit)?, ImageFormat::Qcow2)),
        _ => Ok((image, format)),
    }
}

/// An empty image on top of `base`, which is at `path`, that takes all changes; it is gone when it is closed.
fn overlay(path: &Path, base: Image, limit: u64) -> Result<Image, OpenError> {
    let make = || {
        let file = HostFile::temporary(limit)?.with_slack(OVERLAY_CLUSTER);
        let builder = Qcow2::<HostFile>::create_builder(file)
            .cluster_size(OVERLAY_CLUSTER as usize)
            .size(base.size());
        let open = |file| Ok(Qcow2::builder(file).backing(Some(base)).write(true));
        builder.create_open(DenyImplicitOpenGate::default(), open)
    };
    make().map(FormatAccess::new).map_err(|source| OpenError::Temporary {
        path: path.to_owned(),
        directory: std::env::temp_dir(),
        source,
    })
}

/// One image of a chain.
struct Layer<'a> {
    path: &'a Path,
    /// What the user or the image on top of it says.
    format: Option<ImageFormat>,
    /// The user's choice of a backing file, which may be anywhere.
    backing: Option<&'a Path>,
    /// How many images there are with this one.
    depth: usize,
}

impl Layer<'_> {
    fn open(&self, writable: bool) -> Result<(Image, ImageFormat), OpenError> {
        let file = HostFile::open(self.path, writable)?;
        let format = self.format.map_or_else(|| format::of_image(&file), Ok)?;
        let malformed = |source| OpenError::Malformed {
            path: self.path.to_owned(),
            format,
            source,
        };
        if self.backing.is_some() && format != ImageFormat::Qcow2 {
            return Err(self.unsupported(format!("is a {format} image, which has no backing file")));
        }
        let image = match format {
            ImageFormat::Raw => FormatAccess::new(Raw::open_image(file, writable).map_err(malformed)?),
            ImageFormat::Qcow2 => {
                let cluster = self.check_header(&file, writable, malformed)?;
                let mut image = Qcow2::open_image(file.with_slack(cluster), writable).map_err(malformed)?;
                image.set_data_file(None);
                image.set_backing(self.backing_image(&image)?);
                FormatAccess::new(image)
            }
            ImageFormat::Vmdk if writable => {
                return Err(OpenError::OnlyRead {
                    path: self.path.to_owned(),
                    format,
                });
            }
            ImageFormat::Vmdk => {
                let mut image = Vmdk::<HostFile>::open_image(file, false).map_err(malformed)?;
                let mut refusal = None;
                let gate = ExtentGate {
                    image: self.path,
                    refusal: &mut refusal,
                };
                let opened = image.open_implicit_dependencies_gated(gate);
                if let Some(refusal) = refusal {
                    return Err(refusal);
                }
                opened.map_err(malformed)?;
                FormatAccess::new(image)
            }
        };
        Ok((image, format))
    }

    fn unsupported(&self, what: String) -> OpenError {
        OpenError::Unsupported {
            path: self.path.to_owned(),
            what,
        }
    }

    /// Looks at the header of a qcow2 image before anything is written to it. Returns the size of its clusters, in bytes.
    fn check_header(
        &self,
        file: &HostFile,
        writable: bool,
        malformed: impl Fn(io::Error) -> OpenError,
    ) -> Result<u64, OpenError> {
        let path = self.path.display();
        let mut header = [0; QCOW2_HEADER];
        file.peek(&mut header, 0).map_err(&malformed)?;
        let word = |offset: usize| u32::from_be_bytes(std::array::from_fn(|index| header[offset + index]));
        if !header.starts_with(b"QFI\xfb") {
            return Err(malformed(io::Error::other("it does not start like one")));
        }
        if word(4) == 2 && writable {
            return Err(self.unsupported(format!(
                "is of version 2 of qcow2, which cannot give room back: change it by  qemu-img amend -f qcow2 -o compat=1.1 '{path}'"
            )));
        }
        if word(32) != 0 {
            return Err(self.unsupported(
                "is encrypted: make a plain copy by  qemu-img convert  (its --image-opts take the secret)".to_owned(),
            ));
        }
        // Incompatible features: bit 0 dirty, bit 1 corrupt, bit 2 external data file; others are known by name only.
        let features = if word(4) >= 3 { word(76) } else { 0 };
        if features & 0b11 != 0 {
            return Err(self.unsupported(format!(
                "was not closed properly: look at it by  qemu-img check '{path}'  and mend it by  qemu-img check -r all '{path}'"
            )));
        }
        if features & 0b100 != 0 {
            return Err(self.unsupported(format!(
                "keeps its data in another file: bring the two together by  qemu-img convert -O qcow2 '{path}' '{path}.qcow2'"
            )));
        }
        if features != 0 || (word(4) >= 3 && word(72) != 0) {
            return Err(self.unsupported(format!(
                "has features that are not known here (compression types, extended L2 entries): rewrite it by  \
                 qemu-img convert -O qcow2 '{path}' '{path}.qcow2'"
            )));
        }
        if writable {
            // Without a first entry imago would take the header's own place for reference counts, for ever.
            let table = (u64::from(word(48)) << 32) | u64::from(word(52));
            let mut first = [0; 8];
            file.peek(&mut first, table).map_err(&malformed)?;
            if word(56) == 0 || u64::from_be_bytes(first) >> 9 == 0 {
                let text = format!("it counts no references to its header; qemu-img check -r all '{path}'  mends that");
                return Err(malformed(io::Error::other(text)));
            }
        }
        let cluster = 1_u64
            .checked_shl(word(20))
            .filter(|size| (512..=2 << 20).contains(size));
        cluster.ok_or_else(|| malformed(io::Error::other(format!("it has clusters of 2^{} bytes", word(20)))))
    }

    /// What a qcow2 image is built on.
    fn backing_image(&self, image: &Qcow2<HostFile>) -> Result<Option<Image>, OpenError> {
        let Some(named) = image.implicit_backing_file() else {
            return match self.backing {
                Some(_) => Err(self.unsupported("has no backing file".to_owned())),
                None => Ok(None),
            };
        };
        let format = match image.implicit_backing_format().map(String::as_str) {
            None => None,
            // QEMU's older names for the same.
            Some("file" | "host_device") => Some(ImageFormat::Raw),
            Some(text) => Some(text.parse().map_err(|error: String| {
                self.unsupported(format!("is built on an image of an {error}; convert that one"))
            })?),
        };
        let path = match self.backing {
            Some(chosen) => chosen.to_owned(),
            None => beside(self.path, Path::new(named.strip_prefix("file:").unwrap_or(named)))?,
        };
        if self.depth >= DEPTH_LIMIT {
            return Err(OpenError::TooDeep {
                path,
                limit: DEPTH_LIMIT,
            });
        }
        let layer = Layer {
            path: &path,
            format,
            backing: None,
            depth: self.depth + 1,
        };
        Ok(Some(layer.open(false)?.0))
    }
}

/// The file that `image` names, if it lies in the directory of the image or below it.
fn beside(image: &Path, named: &Path) -> Result<PathBuf, OpenError> {
    let directory = match image.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let file = directory.join(named);
    let real = |path: &Path| {
        path.canonicalize().map_err(|source| OpenError::Open {
            path: path.to_owned(),
            source,
        })
    };
    if real(&file)?.starts_with(real(directory)?) {
        Ok(file)
    } else {
        Err(OpenError::Elsewhere {
            path: image.to_owned(),
            file,
        })
    }
}

/// Opens the files with the data of a VMDK image.
struct ExtentGate<'a> {
    image: &'a Path,
    /// Why one of them was not opened.
    refusal: &'a mut Option<OpenError>,
}

impl ImplicitOpenGate<HostFile> for ExtentGate<'_> {
    fn open_format<F: FormatDriverBuilder<HostFile>>(&mut self, _: F) -> io::Result<Image> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<HostFile> {
        let name = options.get_filename().ok_or(io::ErrorKind::InvalidInput)?;
        let opened = beside(self.image, name).and_then(|path| HostFile::open(&path, false));
        opened.map_err(|error| {
            let text = io::Error::other(error.to_string());
            *self.refusal = Some(error);
            text
        })
    }
}
