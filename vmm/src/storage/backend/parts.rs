//! Which files a disk image is made of, found from their headers without opening the image as a disk. A run compares
//! its outputs with these files before it writes any.
//!
//! It reads a little of each file, takes no lock, and follows names as opening the disk does. A malformed image has no
//! parts: opening the disk will refuse it.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::ImageOptions;

/// Longest chain of images, and most files, that are followed; more than a disk may have.
const MOST_FILES: usize = 64;
/// Longest name of a backing file in a qcow2 header, in bytes (its specification).
const LONGEST_NAME: u32 = 1023;
/// Largest descriptor of a VMDK image, in bytes.
const LARGEST_DESCRIPTOR: u64 = 1 << 20;
/// Bytes of a sector.
const SECTOR: u64 = 512;

/// The image at `path` and the files that it is built on, as far as they can be read, the image first.
#[must_use]
pub fn image_files(path: &Path, options: &ImageOptions) -> Vec<PathBuf> {
    let mut files = vec![path.to_owned()];
    files.extend(options.backing.clone());
    let mut next = 0;
    while let Some(file) = files.get(next).cloned() {
        for named in names(&file) {
            let part = file.parent().unwrap_or(Path::new("")).join(named);
            if !files.contains(&part) && files.len() < MOST_FILES {
                files.push(part);
            }
        }
        next += 1;
    }
    files
}

/// The names of other files in a file's header.
fn names(path: &Path) -> Vec<PathBuf> {
    // Without waiting for who writes a named pipe.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let Some(file) = file
        .ok()
        .filter(|file| file.metadata().is_ok_and(|found| found.is_file()))
    else {
        return Vec::new();
    };
    let mut header = [0; 64];
    if file.read_exact_at(&mut header, 0).is_err() {
        // A descriptor may be shorter.
        return descriptor_names(&file, 0, LARGEST_DESCRIPTOR);
    }
    if header.starts_with(b"QFI\xfb") {
        return backing_name(&file, &header).into_iter().collect();
    }
    if header.starts_with(b"KDMV") {
        let field = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| header[at + index]));
        // Sectors at which the embedded descriptor begins, and its length (VMware, "Virtual Disk Format 5.0").
        let (at, length) = (field(28).saturating_mul(SECTOR), field(36).saturating_mul(SECTOR));
        return descriptor_names(&file, at, length);
    }
    descriptor_names(&file, 0, LARGEST_DESCRIPTOR)
}

fn backing_name(file: &File, header: &[u8; 64]) -> Option<PathBuf> {
    let at = u64::from_be_bytes(std::array::from_fn(|index| header[8 + index]));
    let length = u32::from_be_bytes(std::array::from_fn(|index| header[16 + index]));
    if at == 0 || length == 0 || length > LONGEST_NAME {
        return None;
    }
    let mut name = vec![0; length as usize];
    file.read_exact_at(&mut name, at).ok()?;
    let name = String::from_utf8(name).ok()?;
    Some(name.strip_prefix("file:").unwrap_or(&name).into())
}

/// The names in quotes of a VMDK descriptor: its extents and its parent.
fn descriptor_names(file: &File, at: u64, length: u64) -> Vec<PathBuf> {
    let mut start = [0; 21];
    if file.read_exact_at(&mut start, at).is_err() || !start.eq_ignore_ascii_case(b"# Disk DescriptorFile") {
        return Vec::new();
    }
    let mut text = Vec::new();
    let mut whole = file;
    if std::io::Seek::seek(&mut whole, std::io::SeekFrom::Start(at)).is_err()
        || whole
            .take(length.min(LARGEST_DESCRIPTOR))
            .read_to_end(&mut text)
            .is_err()
    {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&text);
    let named = text.lines().filter(|line| {
        let word = line.split_whitespace().next().unwrap_or_default();
        matches!(word, "RW" | "RDONLY" | "NOACCESS") || line.trim_start().starts_with("parentFileNameHint")
    });
    named
        .filter_map(|line| line.split('"').nth(1).map(PathBuf::from))
        .take(MOST_FILES)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The start of a qcow2 header that names a backing file.
    fn qcow2(backing: &str) -> Vec<u8> {
        let mut header = vec![0; 104];
        header[..4].copy_from_slice(b"QFI\xfb");
        header[7] = 3;
        header[15] = 104;
        header[16..20].copy_from_slice(&(backing.len() as u32).to_be_bytes());
        header.extend_from_slice(backing.as_bytes());
        header
    }

    fn found(path: &Path, options: &ImageOptions) -> Vec<String> {
        let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        image_files(path, options).into_iter().map(name).collect()
    }

    #[test]
    fn backing_files_and_extents_are_found_and_a_circle_ends() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("top.qcow2"), qcow2("file:middle.qcow2")).unwrap();
        fs::write(at("middle.qcow2"), qcow2("base.vmdk")).unwrap();
        let descriptor =
            "# Disk DescriptorFile\nversion=1\nRW 8 FLAT \"base-flat.vmdk\" 0\nRW 8 FLAT \"top.qcow2\" 0\n";
        fs::write(at("base.vmdk"), descriptor).unwrap();
        let options = ImageOptions::default();
        let all = ["top.qcow2", "middle.qcow2", "base.vmdk", "base-flat.vmdk"];
        assert_eq!(found(&at("top.qcow2"), &options), all);
        let chosen = ImageOptions {
            backing: Some(at("other.img")),
            ..options
        };
        assert_eq!(found(&at("middle.qcow2"), &chosen)[..2], ["middle.qcow2", "other.img"]);
    }

    #[test]
    fn an_embedded_descriptor_is_read_where_the_header_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sparse.vmdk");
        let mut image = vec![0; 2048];
        image[..4].copy_from_slice(b"KDMV");
        image[28] = 2;
        image[36] = 2;
        let descriptor = b"# Disk DescriptorFile\nRW 8 SPARSE \"other.vmdk\"\n";
        image[1024..1024 + descriptor.len()].copy_from_slice(descriptor);
        fs::write(&path, &image).unwrap();
        assert_eq!(found(&path, &ImageOptions::default()), ["sparse.vmdk", "other.vmdk"]);
        // Where there is nothing to read there are no parts, and no harm.
        for at in [28, 36] {
            let mut damaged = image.clone();
            damaged[at..at + 8].fill(0xff);
            fs::write(&path, &damaged).unwrap();
            assert!(found(&path, &ImageOptions::default()).len() <= 2);
        }
    }
}
