//! The header of a qcow2 image, checked before imago opens the image: imago writes to an image before it looks at the
//! feature bits, never looks at the encryption field, and believes every number.

use std::io;
use std::path::Path;

use super::refcounts::Width;
use super::{ENTRY, MARK};
use crate::storage::backend::host_file::HostFile;

/// The fields up to and with the length of the header (version 3).
const LENGTH: usize = 104;
/// Most entries of an L1 table, and of a table of reference counts, as QEMU and imago have it.
pub(super) const TABLE_LIMIT: u64 = 4 << 20;
/// Most internal snapshots, as QEMU has it.
const SNAPSHOT_LIMIT: u64 = 65536;
/// Type of the header extension of persistent bitmaps, which have clusters that no other table refers to.
const BITMAPS: u32 = 0x2385_2875;
/// Largest place in a file, as the entries of the tables have room for.
const FILE_LIMIT: u64 = 1 << 56;

/// Why an image is not used because of its header.
#[derive(Debug)]
pub(in crate::storage::backend) enum HeaderError {
    /// It has something that is not supported: what it has, and what to do.
    Unsupported(String),
    /// It makes no sense.
    Malformed(io::Error),
}

/// What the header says, within the limits of the format.
#[derive(Debug, Clone)]
pub(in crate::storage::backend) struct Header {
    /// Bytes of a cluster.
    pub(in crate::storage::backend) cluster: u64,
    /// The image was in use when its last user ended: its reference counts may be old.
    pub(in crate::storage::backend) marked: bool,
    /// Clusters may be in use of which the tables say nothing.
    pub(super) has_bitmaps: bool,
    pub(super) counts: Width,
    /// Place of the L1 table and number of its entries.
    pub(super) l1: (u64, u64),
    /// Place of the table of reference count blocks and number of its entries.
    pub(super) blocks: (u64, u64),
    /// Place of the table of internal snapshots and their number.
    pub(super) snapshots: (u64, u64),
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes
        .iter()
        .skip(at)
        .take(4)
        .fold(0, |value, &byte| value << 8 | u32::from(byte))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) << 32 | u64::from(word(bytes, at + 4))
}

fn malformed(text: impl Into<String>) -> HeaderError {
    HeaderError::Malformed(io::Error::other(text.into()))
}

impl Header {
    /// Reads the header of an image that is about to be opened, for writing if it is `writable`.
    ///
    /// # Errors
    /// The image is not to be used.
    pub(in crate::storage::backend) fn read(file: &HostFile, writable: bool) -> Result<Self, HeaderError> {
        let mut bytes = [0; LENGTH];
        file.peek(&mut bytes, 0).map_err(HeaderError::Malformed)?;
        check_features(&bytes, file.path(), writable)?;
        let bits = word(&bytes, 20);
        let cluster = 1_u64.checked_shl(bits).filter(|size| (512..=2 << 20).contains(size));
        let cluster = cluster.ok_or_else(|| malformed(format!("it has clusters of 2^{bits} bytes")))?;
        let order = if word(&bytes, 4) >= 3 { word(&bytes, 96) } else { 4 };
        let counts = Width::new(order);
        let counts = counts.ok_or_else(|| malformed(format!("it has reference counts of 2^{order} bits")))?;
        let header = Self {
            cluster,
            marked: word(&bytes, 4) >= 3 && word(&bytes, 76) & u32::from(MARK) != 0,
            has_bitmaps: has_extension(file, &bytes, cluster, BITMAPS).map_err(HeaderError::Malformed)?,
            counts,
            l1: (long(&bytes, 40), word(&bytes, 36).into()),
            blocks: (
                long(&bytes, 48),
                u64::from(word(&bytes, 56)).saturating_mul(cluster / ENTRY),
            ),
            snapshots: (long(&bytes, 64), word(&bytes, 60).into()),
        };
        header.check_size(long(&bytes, 24))?;
        header.check_places(file.length(), writable)?;
        if writable {
            header.check_first_count(file)?;
        }
        Ok(header)
    }

    /// The header of an image that imago has just written.
    pub(super) fn with_places(&self, bytes: &[u8]) -> Self {
        Self {
            l1: (long(bytes, 40), word(bytes, 36).into()),
            blocks: (long(bytes, 48), u64::from(word(bytes, 56)) * (self.cluster / ENTRY)),
            ..self.clone()
        }
    }

    /// The L1 table has an entry for each byte of the disk.
    fn check_size(&self, size: u64) -> Result<(), HeaderError> {
        let of_an_entry = self.cluster * (self.cluster / ENTRY);
        let needed = size.div_ceil(of_an_entry);
        if needed > TABLE_LIMIT || self.l1.1 > TABLE_LIMIT {
            return Err(malformed(format!(
                "a disk of {size} bytes is too large for its clusters of {} bytes",
                self.cluster
            )));
        }
        if self.l1.1 < needed {
            let text = format!(
                "its L1 table has {} entries where a disk of {size} bytes needs {needed}",
                self.l1.1
            );
            return Err(malformed(text));
        }
        Ok(())
    }

    /// The tables lie where tables may lie, and those that are needed within the file.
    fn check_places(&self, length: u64, writable: bool) -> Result<(), HeaderError> {
        let (snapshots, count) = self.snapshots;
        if count > SNAPSHOT_LIMIT || (count > 0 && snapshots % self.cluster != 0) {
            return Err(malformed(format!(
                "its table of {count} snapshots at {snapshots:#x} cannot be"
            )));
        }
        let tables = [
            ("L1 table", self.l1, true),
            ("table of reference counts", self.blocks, writable),
        ];
        for (name, (place, entries), needed) in tables {
            let end = entries.saturating_mul(ENTRY).checked_add(place);
            if place % self.cluster != 0 || entries > TABLE_LIMIT || end.is_none_or(|end| end > FILE_LIMIT) {
                return Err(malformed(format!(
                    "its {name} of {entries} entries at {place:#x} cannot be"
                )));
            }
            if needed
                && entries > 0
                && (place == 0 || end.is_none_or(|end| end > length.next_multiple_of(self.cluster)))
            {
                let text =
                    format!("its {name} of {entries} entries at {place:#x} is not within the file of {length} bytes");
                return Err(malformed(text));
            }
        }
        Ok(())
    }

    /// Without a first block imago would take the header's own place for reference counts, for ever.
    fn check_first_count(&self, file: &HostFile) -> Result<(), HeaderError> {
        let mut first = [0; ENTRY as usize];
        file.peek(&mut first, self.blocks.0).map_err(HeaderError::Malformed)?;
        if self.blocks.1 == 0 || long(&first, 0) >> 9 == 0 {
            let path = file.path().display();
            return Err(malformed(format!(
                "it counts no references to its header; qemu-img check -r all '{path}'  mends that"
            )));
        }
        Ok(())
    }
}

/// What has to be changed by `qemu-img` first.
fn check_features(bytes: &[u8], path: &Path, writable: bool) -> Result<(), HeaderError> {
    let unsupported = |what: String| Err(HeaderError::Unsupported(what));
    let path = path.display();
    if !bytes.starts_with(b"QFI\xfb") {
        return Err(malformed("it does not start like one"));
    }
    let version = word(bytes, 4);
    if version == 2 && writable {
        return unsupported(format!(
            "is of version 2 of qcow2, which cannot give room back: change it by  qemu-img amend -f qcow2 -o compat=1.1 '{path}'"
        ));
    }
    if word(bytes, 32) != 0 {
        return unsupported(
            "is encrypted: make a plain copy by  qemu-img convert  (its --image-opts take the secret)".to_owned(),
        );
    }
    // Incompatible features: bit 0 in use, bit 1 corrupt, bit 2 external data file; others are known by name only.
    let features = if version >= 3 { long(bytes, 72) } else { 0 };
    if features & 0b10 != 0 {
        return unsupported(format!(
            "was found damaged by another program: look at it by  qemu-img check '{path}'  and mend it by  qemu-img check -r all '{path}'"
        ));
    }
    if features & 0b100 != 0 {
        return unsupported(format!(
            "keeps its data in another file: bring the two together by  qemu-img convert -O qcow2 '{path}' '{path}.qcow2'"
        ));
    }
    if features & !u64::from(MARK) != 0 {
        return unsupported(format!(
            "has features that are not known here (compression types, extended L2 entries): rewrite it by  \
             qemu-img convert -O qcow2 '{path}' '{path}.qcow2'"
        ));
    }
    Ok(())
}

/// Whether the header has an extension of that type.
fn has_extension(file: &HostFile, header: &[u8], cluster: u64, wanted: u32) -> io::Result<bool> {
    if word(header, 4) < 3 {
        return Ok(false);
    }
    let mut at = u64::from(word(header, 100));
    while at + ENTRY <= cluster {
        let mut extension = [0; ENTRY as usize];
        file.peek(&mut extension, at)?;
        let (kind, length) = (word(&extension, 0), word(&extension, 4));
        if kind == 0 || kind == wanted {
            return Ok(kind == wanted);
        }
        at += ENTRY + u64::from(length).next_multiple_of(ENTRY);
    }
    Ok(false)
}
