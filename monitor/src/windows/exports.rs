//! The export directory of an image in memory layout: names, ordinals, forwarders.
//!
//! Talks to [`GuestMemory`]. It must not know which exports matter. The tables are read by their own counts: the size in
//! the image's header is a hint that loaders do not need.

use std::cell::Cell;
use std::collections::HashMap;

use object::pe::IMAGE_DIRECTORY_ENTRY_EXPORT;

use super::image::{Directory, Image, ImageError};
use super::pages::Pages;
use crate::vmi::GuestMemory;

/// Pages over which the tables and names may be spread. Those of a Windows kernel take about 30.
const MAX_PAGES: usize = 1024;
/// Ordinals have 16 bits, so no useful directory has more addresses or names.
const MAX_ENTRIES: u32 = 0x1_0000;
/// Bytes of names and forwarders together. Those of a Windows kernel have about 0.1 MiB.
const MAX_TEXT: usize = 0x10_0000;
/// The longest name or forwarder, in bytes. C++ names of the kernel stay below 256.
const MAX_NAME: u32 = 1024;

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
    /// Reads the export directory of an image. An image without one has no exports. What a single entry says that cannot
    /// be (a name or address outside of the image, a name without end) makes that entry none, as it does for a loader
    /// that does not need it.
    ///
    /// # Errors
    /// [`ImageError`] if the directory contradicts itself, exceeds the limits or cannot be read.
    pub fn read(memory: &(impl GuestMemory + ?Sized), image: &Image) -> Result<Self, ImageError> {
        let Some(directory) = image.table(IMAGE_DIRECTORY_ENTRY_EXPORT) else {
            return Ok(Self::default());
        };
        let pages = Pages::new(memory, image, "the export directory", MAX_PAGES);
        Table {
            header: Header::read(&pages, directory.rva)?,
            pages,
            directory,
            size: image.size,
            room: Cell::new(MAX_TEXT),
        }
        .exports()
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

    /// The export of that ordinal, with or without a name.
    #[must_use]
    pub fn by_ordinal(&self, ordinal: u16) -> Option<&Export> {
        self.entries.iter().find(|export| export.ordinal == ordinal)
    }

    /// All exports: those with names in the directory's order, then those by ordinal only.
    #[must_use]
    pub fn entries(&self) -> &[Export] {
        &self.entries
    }
}

/// Counts and places of the directory's three tables.
struct Header {
    module: u32,
    ordinal_base: u32,
    functions: (u32, u32),
    names: (u32, u32),
    ordinals: u32,
}

impl Header {
    fn read<M: GuestMemory + ?Sized>(pages: &Pages<'_, M>, rva: u32) -> Result<Self, ImageError> {
        let field = |offset: u32| {
            let at = rva.checked_add(offset);
            pages.u32(at.ok_or_else(|| ImageError::Malformed(format!("an export directory at {rva:#x}")))?)
        };
        let header = Self {
            module: field(12)?,
            ordinal_base: field(16)?,
            functions: (field(28)?, field(20)?),
            names: (field(32)?, field(24)?),
            ordinals: field(36)?,
        };
        for (what, count) in [("addresses", header.functions.1), ("names", header.names.1)] {
            if count > MAX_ENTRIES {
                return Err(ImageError::Malformed(format!("{count} export {what}")));
            }
        }
        Ok(header)
    }
}

/// The directory while it is read.
struct Table<'a, M: ?Sized> {
    pages: Pages<'a, M>,
    directory: Directory,
    header: Header,
    /// Of the image.
    size: u32,
    /// Bytes of text that may still be kept.
    room: Cell<usize>,
}

impl<M: GuestMemory + ?Sized> Table<'_, M> {
    fn exports(&self) -> Result<Exports, ImageError> {
        let mut exports = Exports {
            module: self.text(self.header.module)?,
            ..Exports::default()
        };
        let (functions, count) = self.header.functions;
        let mut named = vec![false; count as usize];
        let (pointers, name_count) = self.header.names;
        for place in 0..name_count {
            let name = self.pages.u32(element(pointers, place, 4)?)?;
            let index = self.pages.u16(element(self.header.ordinals, place, 2)?)?;
            let Some(flag) = named.get_mut(usize::from(index)) else {
                continue; // Of no address.
            };
            let Some(name) = self.text(name)?.filter(|name| !name.is_empty()) else {
                continue;
            };
            *flag = true;
            if let Some(target) = self.target(self.pages.u32(element(functions, u32::from(index), 4)?)?)? {
                exports.by_name.entry(name.clone()).or_insert(exports.entries.len());
                exports.entries.push(self.export(Some(name), index.into(), target));
            }
        }
        for (index, _) in (0..count).zip(&named).filter(|(_, named)| !**named) {
            if let Some(target) = self.target(self.pages.u32(element(functions, index, 4)?)?)? {
                exports.entries.push(self.export(None, index, target));
            }
        }
        Ok(exports)
    }

    fn export(&self, name: Option<String>, index: u32, target: ExportTarget) -> Export {
        Export {
            name,
            // An import names 16 bits of it.
            ordinal: self.header.ordinal_base.wrapping_add(index) as u16,
            target,
        }
    }

    /// Where an entry of the address table leads. Loaders tell a forwarder by its lying in the directory as far as the
    /// header says that it reaches; so the size that the header gives is used for this alone.
    fn target(&self, address: u32) -> Result<Option<ExportTarget>, ImageError> {
        if address == 0 || address >= self.size {
            return Ok(None); // A gap between ordinals, or nothing that could be called.
        }
        if self.directory.contains(address) {
            return Ok(self.text(address)?.map(ExportTarget::Forwarder));
        }
        Ok(Some(ExportTarget::Rva(address)))
    }

    fn text(&self, rva: u32) -> Result<Option<String>, ImageError> {
        let Some(text) = self.pages.c_string(rva, MAX_NAME)? else {
            return Ok(None);
        };
        let left = self.room.get().checked_sub(text.len());
        let left = left.ok_or_else(|| ImageError::Malformed(format!("more than {MAX_TEXT} bytes of export names")))?;
        self.room.set(left);
        Ok(Some(text))
    }
}

/// Address of an element of a table.
fn element(table: u32, index: u32, size: u32) -> Result<u32, ImageError> {
    let offset = index.checked_mul(size);
    let at = offset.and_then(|offset| table.checked_add(offset));
    at.ok_or_else(|| ImageError::Malformed(format!("an export table at {table:#x}")))
}
