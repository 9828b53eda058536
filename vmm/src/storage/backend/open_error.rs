//! Why a disk image cannot be used, in words that say what to do about it.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use super::ImageFormat;

/// Why a disk image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened or looked at.
    #[error("cannot open the disk image {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// The file system has no locks.
    #[error("cannot lock the disk image {}: {source}; copy it to a file system with locks", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// Somebody else holds the lock.
    #[error("the disk image {} is in use by another program, or by another disk of this machine", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is neither a regular file nor a block device.
    #[error("the disk image {} is neither a regular file nor a block device", path.display())]
    NotADisk {
        /// The file.
        path: PathBuf,
    },
    /// The size is zero or not a multiple of the block size.
    #[error("the disk image {} has {length} bytes; the size has to be a multiple of {block_size} and not 0", path.display())]
    OddSize {
        /// The file.
        path: PathBuf,
        /// Size of the disk in bytes.
        length: u64,
        /// The block size that it has to be a multiple of, in bytes.
        block_size: u32,
    },
    /// A format that is not read here.
    #[error(
        "the disk image {path} has a format that is not read here; make a qcow2 image of it: \
         qemu-img convert -f {format} -O qcow2 '{path}' '{path}.qcow2' (or say format=raw if the disk's own bytes look like that)",
        path = path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The format as `qemu-img` calls it.
        format: &'static str,
    },
    /// The name of the file says another format than its contents.
    #[error(
        "the disk image {} has the contents of a {contents} image, but its name says otherwise: say format={contents} if \
         that is what it is; say format=raw if a guest may have written it (its header can name any file)",
        path.display()
    )]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// What the contents look like.
        contents: ImageFormat,
    },
    /// The contents make no image of the format.
    #[error("the disk image {} is no sound {format} image: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format that it should have.
        format: ImageFormat,
        /// What is wrong.
        source: io::Error,
    },
    /// Its tables contradict each other; to write to it would destroy more.
    #[error(
        "the disk image {path} is damaged and not written to: {what}; look at it by  qemu-img check '{path}' , mend a copy \
         by  qemu-img check -r all , or say snapshot or readonly to use it as it is",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first thing that is wrong.
        what: String,
    },
    /// Something of the format that is not supported.
    #[error("the disk image {} {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it has, and what to do.
        what: String,
    },
    /// The format can only be read.
    #[error(
        "the disk image {}: {format} images are only read: say snapshot to keep changes for the run, or readonly, or make \
         a qcow2 image on top of it (qemu-img create -f qcow2 -b FILE -F {format} NEW)",
        path.display()
    )]
    OnlyRead {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: ImageFormat,
    },
    /// An image names a file outside its directory.
    #[error(
        "the disk image {} is built on {}, which is not below the image's directory; images may come from anywhere and name \
         any file: if you trust this one, say backing={}, or move the two together",
        path.display(), file.display(), file.display()
    )]
    Elsewhere {
        /// The image.
        path: PathBuf,
        /// What it names.
        file: PathBuf,
    },
    /// The chain of backing files comes back to a file above.
    #[error(
        "the disk image {} is built on itself: {} names it as its backing file; correct that name on a copy: \
         qemu-img rebase -u -b BASE -F FORMAT '{}'",
        path.display(), named_by.display(), named_by.display()
    )]
    OnItself {
        /// The image that would be its own base.
        path: PathBuf,
        /// The image that names it.
        named_by: PathBuf,
    },
    /// The chain of backing files is too long.
    #[error("the disk image {} is the last of {limit} on top of each other: a longer chain is not followed", path.display())]
    TooDeep {
        /// The file.
        path: PathBuf,
        /// Longest chain, in images.
        limit: usize,
    },
    /// The temporary file of a snapshot cannot be made.
    #[error(
        "cannot keep the changes to the disk image {} in a temporary file below {}: {source} (TMPDIR names another directory)",
        path.display(), directory.display()
    )]
    Temporary {
        /// The image.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
        /// What the host says.
        source: io::Error,
    },
}
