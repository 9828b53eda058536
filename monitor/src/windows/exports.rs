//! The export directory of an image in memory layout: names, ordinals, forwarders.
//!
//! Talks to [`GuestMemory`] and the `object` crate's table parser. It must not know which exports matter.

use std::cell::Cell;
use std::collections::HashMap;

use object::LittleEndian as LE;
use object::pe::IMAGE_DIRECTORY_ENTRY_EXPORT;
use object::read::pe::ExportTable;

use super::image::{Image, ImageError};
use super::strings::c_string_in;
use crate::target::GuestMemory;

/// The largest export directory that is read, in bytes. That of a Windows kernel has about 0.1 MiB.
const MAX_DIRECTORY: u32 = 0x10_0000;
/// Ordinals have 16 bits, so no useful directory has more names.
const MAX_NAMES: usize = 0x1_0000;
/// The longest name or forwarder, in bytes. C++ names of the kernel stay below 256.
const MAX_NAME: usize = 1024;

/// Where an export leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportTarget {
    /// Code or data in this image, relative to its base.
    Rva(u32),
    /// An export of another image, written `module.name` or `module.#ordinal`.
    Forwarder(String),
}

/// One export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Its name; none if it is exported by ordinal only.
    pub name: Option<String>,
    /// Its ordinal, the directory's base included.
    pub ordinal: u16,
    /// Where it leads.
    pub target: ExportTarget,
}

/// All exports of one image.
#[derive(Debug, Clone, Default)]
pub struct Exports {
    /// The image's own name for itself, such as `ntoskrnl.exe`.
    pub module: Option<String>,
    entries: Vec<Export>,
    by_name: HashMap<String, usize>,
}

impl Exports {
    /// Reads the export directory of an image. An image without one has no exports.
    ///
    /// # Errors
    /// [`ImageError`] if the directory contradicts itself, exceeds the limits or cannot be read.
    pub fn read(memory: &(impl GuestMemory + ?Sized), image: &Image) -> Result<Self, ImageError> {
        let directory = image.directory(IMAGE_DIRECTORY_ENTRY_EXPORT);
        if directory.is_empty() {
            return Ok(Self::default());
        }
        if directory.size > MAX_DIRECTORY {
            return Err(ImageError::Malformed(format!(
                "an export directory of {:#x} bytes",
                directory.size
            )));
        }
        let mut bytes = vec![0; directory.size as usize];
        memory
            .read(image.address(directory.rva), &mut bytes)
            .map_err(ImageError::unreadable("the export directory"))?;
        let table = ExportTable::parse(&bytes, directory.rva).map_err(malformed)?;
        Self::collect(&table, &bytes, directory.rva, image)
    }

    fn collect(table: &ExportTable<'_>, bytes: &[u8], rva: u32, image: &Image) -> Result<Self, ImageError> {
        // Strings do not overlap, so together they are no longer than what they lie in: a bound on what is kept.
        let room = Cell::new(bytes.len());
        let text = |at: u32| {
            let string = c_string_in(bytes, at.checked_sub(rva)? as usize, MAX_NAME)?;
            room.set(room.get().checked_sub(string.len())?);
            Some(string)
        };
        let target = |address: u32| -> Result<Option<ExportTarget>, ImageError> {
            if address == 0 {
                return Ok(None); // A gap between ordinals.
            }
            if table.is_forward(address) {
                let forwarder = text(address);
                let forwarder =
                    forwarder.ok_or_else(|| ImageError::Malformed(format!("the forwarder at {address:#x}")))?;
                return Ok(Some(ExportTarget::Forwarder(forwarder)));
            }
            if address >= image.size {
                return Err(ImageError::Malformed(format!(
                    "an export at {address:#x}, outside of the image"
                )));
            }
            Ok(Some(ExportTarget::Rva(address)))
        };
        if table.name_pointers().len() > MAX_NAMES {
            return Err(ImageError::Malformed(format!(
                "{} export names",
                table.name_pointers().len()
            )));
        }
        let mut exports = Self {
            module: text(table.directory().name.get(LE)),
            ..Self::default()
        };
        let mut named = vec![false; table.addresses().len()];
        for (pointer, index) in table.name_iter() {
            let name = text(pointer).ok_or_else(|| {
                ImageError::Malformed(format!(
                    "the export name at {pointer:#x} has no end, or lies in another"
                ))
            })?;
            let ordinal = table.ordinal_from_index(index).map_err(malformed)?.0;
            if let Some(target) = target(table.address_by_index(index).map_err(malformed)?)? {
                exports.by_name.entry(name.clone()).or_insert(exports.entries.len());
                exports.entries.push(Export {
                    name: Some(name),
                    ordinal,
                    target,
                });
            }
            if let Some(flag) = named.get_mut(usize::from(index.0)) {
                *flag = true;
            }
        }
        for (index, ordinal, address) in table.address_iter() {
            if named.get(usize::from(index.0)) != Some(&false) {
                continue;
            }
            if let Some(target) = target(address)? {
                exports.entries.push(Export {
                    name: None,
                    ordinal: ordinal.0,
                    target,
                });
            }
        }
        Ok(exports)
    }

    /// The export of that name, case-sensitive as in Windows.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Export> {
        self.entries.get(*self.by_name.get(name)?)
    }

    /// Address relative to the base of the export of that name; `None` also if it is a forwarder.
    #[must_use]
    pub fn rva(&self, name: &str) -> Option<u32> {
        match self.get(name)?.target {
            ExportTarget::Rva(rva) => Some(rva),
            ExportTarget::Forwarder(_) => None,
        }
    }

    /// All exports: those with names in the directory's order, then those by ordinal only.
    #[must_use]
    pub fn entries(&self) -> &[Export] {
        &self.entries
    }
}

fn malformed(error: object::read::Error) -> ImageError {
    ImageError::Malformed(error.to_string())
}
