//! Opens a disk image with everything that it is built on.
//!
//! Every file of an image is opened here, so that this module, and neither imago nor the image, decides which files may
//! be opened. Talks to imago's formats. It must not know what becomes of the disk.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imago::format::gate::ImplicitOpenGate;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::vmdk::Vmdk;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, StorageOpenOptions};

use super::format::{self, ImageFormat};
use super::host_file::HostFile;
use super::image_file::{ImageFile, SharedOrder};
use super::qcow2::{self, Header, HeaderError, Repaired, WriteOrder};
use super::{ImageOptions, OpenError};

/// Longest chain of images on top of each other.
const DEPTH_LIMIT: usize = 16;

/// Size of the pieces in which the overlay of a snapshot takes over the image, in bytes.
const OVERLAY_CLUSTER: u64 = 64 << 10;

pub(super) type Image = FormatAccess<ImageFile>;

/// An image that is open with everything below it.
pub(super) struct Opened {
    pub(super) image: Image,
    /// The format of what changes go to.
    pub(super) format: ImageFormat,
    /// For a qcow2 image that is written.
    pub(super) order: Option<SharedOrder>,
    /// Its last user had not closed the image: what was put right.
    pub(super) repaired: Option<Repaired>,
}

/// Opens the image at `path` as the options say.
pub(super) fn open(path: &Path, options: &ImageOptions) -> Result<Opened, OpenError> {
    let writable = !options.read_only && options.snapshot.is_none();
    let layer = Layer {
        path,
        format: options.format,
        backing: options.backing.as_deref(),
        on_top: None,
    };
    let opened = layer.open(writable)?;
    match options.snapshot {
        Some(limit) if !options.read_only => Ok(Opened {
            image: overlay(path, opened.image, limit)?,
            format: ImageFormat::Qcow2,
            ..opened
        }),
        _ => Ok(opened),
    }
}

/// An empty image on top of `base`, which is at `path`, that takes all changes; it is gone when it is closed.
fn overlay(path: &Path, base: Image, limit: u64) -> Result<Image, OpenError> {
    let make = || {
        let file = ImageFile::new(HostFile::temporary(limit)?.with_slack(OVERLAY_CLUSTER));
        let builder = Qcow2::<ImageFile>::create_builder(file)
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
    /// The image that is built on this one.
    on_top: Option<&'a Self>,
}

impl Layer<'_> {
    /// This image and those on top of it.
    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |layer| layer.on_top)
    }

    fn open(&self, writable: bool) -> Result<Opened, OpenError> {
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
            ImageFormat::Qcow2 => return self.open_qcow2(file, writable),
            ImageFormat::Raw => FormatAccess::new(Raw::open_image(ImageFile::new(file), writable).map_err(malformed)?),
            ImageFormat::Vmdk if writable => {
                return Err(OpenError::OnlyRead {
                    path: self.path.to_owned(),
                    format,
                });
            }
            ImageFormat::Vmdk => {
                let mut image = Vmdk::<ImageFile>::open_image(ImageFile::new(file), false).map_err(malformed)?;
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
        Ok(Opened {
            image,
            format,
            order: None,
            repaired: None,
        })
    }

    fn unsupported(&self, what: String) -> OpenError {
        OpenError::Unsupported {
            path: self.path.to_owned(),
            what,
        }
    }

    /// Opens a qcow2 image; one that is to be written only if its tables are sound.
    fn open_qcow2(&self, file: HostFile, writable: bool) -> Result<Opened, OpenError> {
        let malformed = |source| OpenError::Malformed {
            path: self.path.to_owned(),
            format: ImageFormat::Qcow2,
            source,
        };
        let header = Header::read(&file, writable).map_err(|error| match error {
            HeaderError::Unsupported(what) => self.unsupported(what),
            HeaderError::Malformed(source) => malformed(source),
        })?;
        let file = Arc::new(file.with_slack(header.cluster));
        let (mut order, mut repaired) = (None, None);
        if writable {
            let found = qcow2::check(&file, &header).map_err(|source| match source.kind() {
                io::ErrorKind::InvalidData => OpenError::Damaged {
                    path: self.path.to_owned(),
                    what: source.to_string(),
                },
                _ => malformed(source),
            })?;
            repaired = header.marked.then_some(found);
            let writes = WriteOrder::new(Arc::clone(&file), header).map_err(malformed)?;
            order = Some(SharedOrder::new(writes));
        }
        let mut image = Qcow2::open_image(ImageFile::qcow2(file, order.clone()), writable).map_err(malformed)?;
        image.set_data_file(None);
        image.set_backing(self.backing_image(&image)?);
        Ok(Opened {
            image: FormatAccess::new(image),
            format: ImageFormat::Qcow2,
            order,
            repaired,
        })
    }

    /// What a qcow2 image is built on.
    fn backing_image(&self, image: &Qcow2<ImageFile>) -> Result<Option<Image>, OpenError> {
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
        let file = Identity::of(&path)?;
        for above in self.chain() {
            if Identity::of(above.path)? == file {
                return Err(OpenError::OnItself {
                    path: above.path.to_owned(),
                    named_by: self.path.to_owned(),
                });
            }
        }
        if self.chain().count() >= DEPTH_LIMIT {
            return Err(OpenError::TooDeep {
                path,
                limit: DEPTH_LIMIT,
            });
        }
        let layer = Layer {
            path: &path,
            format,
            backing: None,
            on_top: Some(self),
        };
        Ok(Some(layer.open(false)?.image))
    }
}

/// Which file a path leads to, whatever names it has.
#[derive(PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    fn of(path: &Path) -> Result<Self, OpenError> {
        let metadata = path.metadata().map_err(|source| OpenError::Open {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self(metadata.dev(), metadata.ino()))
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

impl ImplicitOpenGate<ImageFile> for ExtentGate<'_> {
    fn open_format<F: FormatDriverBuilder<ImageFile>>(&mut self, _: F) -> io::Result<Image> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<ImageFile> {
        let name = options.get_filename().ok_or(io::ErrorKind::InvalidInput)?;
        let opened = beside(self.image, name).and_then(|path| HostFile::open(&path, false).map(ImageFile::new));
        opened.map_err(|error| {
            let text = io::Error::other(error.to_string());
            *self.refusal = Some(error);
            text
        })
    }
}
