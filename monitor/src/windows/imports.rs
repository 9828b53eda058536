//! The import directory of an image: what it wants from which module, and in which slots the addresses land.
//!
//! Talks to [`GuestMemory`] alone. It must not know which imports matter. In a loaded driver the names are usually in
//! a discardable section (`INIT`), so that after its initialisation only the file still has them.

use object::LittleEndian as LE;
use object::pe::{IMAGE_DIRECTORY_ENTRY_IMPORT, IMAGE_ORDINAL_FLAG64, ImageImportDescriptor};
use serde::{Deserialize, Serialize};

use super::image::{Image, ImageError, Section, read_pod};
use super::strings::read_c_string;
use crate::target::GuestMemory;

const MAX_MODULES: usize = 256;
const MAX_IMPORTS: usize = 0x4000;
/// The longest module or routine name, in bytes.
const MAX_NAME: usize = 1024;
/// Names of one image together, in bytes, that of the module counted with each import. Many imports may lie at one name.
const MAX_NAMES: usize = 4 << 20;

/// What is imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImportName {
    /// A routine or variable by its name.
    Name(String),
    /// An ordinal of the other module.
    Ordinal(u16),
}

/// One import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// File name of the module that exports it, as the image spells it.
    pub module: String,
    /// What is imported.
    pub name: ImportName,
    /// Slot of the import address table that receives its address, relative to the base.
    pub slot: u32,
}

impl Import {
    /// Whether it is the import of that name.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        matches!(&self.name, ImportName::Name(own) if own == name)
    }

    /// Bytes of its names.
    fn length(&self) -> usize {
        let own = match &self.name {
            ImportName::Name(name) => name.len(),
            ImportName::Ordinal(_) => 0,
        };
        self.module.len() + own
    }
}

/// All imports of one image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imports {
    entries: Vec<Import>,
}

impl Imports {
    /// Whether the names of an image's imports may be gone once the image has been initialised.
    #[must_use]
    pub fn are_discardable(image: &Image) -> bool {
        let directory = image.directory(IMAGE_DIRECTORY_ENTRY_IMPORT);
        !directory.is_empty() && image.section(directory.rva).is_some_and(Section::is_discardable)
    }

    /// Reads the import directory. An image without one has no imports.
    ///
    /// # Errors
    /// [`ImageError`] if the directory contradicts itself, exceeds the limits or cannot be read.
    pub fn read(memory: &(impl GuestMemory + ?Sized), image: &Image) -> Result<Self, ImageError> {
        let directory = image.directory(IMAGE_DIRECTORY_ENTRY_IMPORT);
        let mut imports = Self::default();
        if directory.is_empty() {
            return Ok(imports);
        }
        for index in 0..=MAX_MODULES {
            let offset = (index * size_of::<ImageImportDescriptor>()) as u32;
            let at = in_image(image, directory.rva, offset)?;
            let descriptor: ImageImportDescriptor = read_pod(memory, at, "the import directory")?;
            // The Windows loader stops at a descriptor without a name or without slots.
            if descriptor.name.get(LE) == 0 || descriptor.first_thunk.get(LE) == 0 {
                return Ok(imports);
            }
            imports.read_module(memory, image, &descriptor)?;
        }
        Err(ImageError::Malformed(format!(
            "it imports from more than {MAX_MODULES} modules"
        )))
    }

    fn read_module(
        &mut self,
        memory: &(impl GuestMemory + ?Sized),
        image: &Image,
        descriptor: &ImageImportDescriptor,
    ) -> Result<(), ImageError> {
        let module = name_at(memory, image, descriptor.name.get(LE))?;
        let slots = descriptor.first_thunk.get(LE);
        let names = match descriptor.original_first_thunk.get(LE) {
            0 => slots, // Only a file, not yet bound, can be read this way.
            names => names,
        };
        let mut held: usize = self.entries.iter().map(Import::length).sum();
        for index in 0u32.. {
            if self.entries.len() >= MAX_IMPORTS {
                return Err(ImageError::Malformed(format!("more than {MAX_IMPORTS} imports")));
            }
            let offset = index.saturating_mul(8);
            let slot = in_image(image, slots, offset)?.wrapping_sub(image.base) as u32;
            let thunk = memory
                .read_u64(in_image(image, names, offset)?)
                .map_err(ImageError::unreadable("the import lookup table"))?;
            let name = if thunk == 0 {
                break;
            } else if thunk & IMAGE_ORDINAL_FLAG64 != 0 {
                ImportName::Ordinal(thunk as u16)
            } else {
                let hint = u32::try_from(thunk)
                    .ok()
                    .and_then(|hint| hint.checked_add(2))
                    .ok_or_else(|| ImageError::Malformed(format!("an import name at {thunk:#x}")))?;
                ImportName::Name(name_at(memory, image, hint)?)
            };
            self.entries.push(Import {
                module: module.clone(),
                name,
                slot,
            });
            held += self.entries.last().map_or(0, Import::length);
            if held > MAX_NAMES {
                return Err(ImageError::Malformed(format!(
                    "names of imports of more than {MAX_NAMES} bytes"
                )));
            }
        }
        Ok(())
    }

    /// All imports in the directory's order.
    #[must_use]
    pub fn entries(&self) -> &[Import] {
        &self.entries
    }

    /// The import of that name, whichever module it comes from.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Import> {
        self.entries.iter().find(|import| import.is_named(name))
    }
}

/// The address of `rva + offset`, which has to lie in the image with the eight bytes behind it.
fn in_image(image: &Image, rva: u32, offset: u32) -> Result<u64, ImageError> {
    let rva = rva
        .checked_add(offset)
        .filter(|rva| rva.checked_add(8).is_some_and(|end| end <= image.size));
    match rva {
        Some(rva) => Ok(image.address(rva)),
        None => Err(ImageError::Malformed("an import table runs out of the image".into())),
    }
}

fn name_at(memory: &(impl GuestMemory + ?Sized), image: &Image, rva: u32) -> Result<String, ImageError> {
    if rva >= image.size {
        return Err(ImageError::Malformed(format!(
            "an import name at {rva:#x}, outside of the image"
        )));
    }
    read_c_string(memory, image.address(rva), MAX_NAME)
        .map_err(ImageError::unreadable("an import name"))?
        .filter(|name| !name.is_empty())
        .ok_or_else(|| ImageError::Malformed(format!("the import name at {rva:#x} is empty or has no end")))
}

impl FromIterator<Import> for Imports {
    fn from_iter<I: IntoIterator<Item = Import>>(imports: I) -> Self {
        Self {
            entries: imports.into_iter().collect(),
        }
    }
}
