//! The import directory of an image: what it imports from which module, and the slots for the addresses.
//!
//! Talks to [`GuestMemory`] alone. It must not know which imports matter. In a loaded driver the names are usually in a
//! discardable section (`INIT`), so after its initialisation only the file still has them.

use object::LittleEndian as LE;
use object::pe::{
    IMAGE_DIRECTORY_ENTRY_DELAY_IMPORT, IMAGE_DIRECTORY_ENTRY_IMPORT, IMAGE_ORDINAL_FLAG64, ImageDelayloadDescriptor,
    ImageImportDescriptor,
};
use serde::{Deserialize, Serialize};

use super::image::{Image, ImageError, Section, read_pod};
use super::strings::read_c_string;
use crate::vmi::GuestMemory;

/// Descriptors that are read. Windows' loader knows no bound; no driver has more than some twenty.
const MAX_MODULES: usize = 4096;
const MAX_IMPORTS: usize = 0x4000;
/// Above this a thunk is an address that the loader has put there, not an ordinal: of these only 16 bits count.
const LOWEST_KERNEL_ADDRESS: u64 = 0xffff_8000_0000_0000;
/// The bits of an entry that are an ordinal, if the top bit says so and all others are 0. An entry of a loaded image may be
/// an address, which has the top bit, too.
const ORDINAL: u64 = 0xffff;
/// Bytes of the hint before a name.
const HINT: u32 = 2;
/// A hint is the place of the name among the exports. No module that drivers import from has so many; as text this is a
/// printable character.
const UNLIKELY_HINT: u16 = 0x2000;
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
    /// The image has no name for it any more: the loader has put the address in the name's place.
    Bound,
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
    /// The slot receives the address at the first call only, and leads into the image itself until then.
    #[serde(default)]
    pub(crate) delayed: bool,
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
            ImportName::Ordinal(_) | ImportName::Bound => 0,
        };
        self.module.len() + own
    }
}

/// What one descriptor imports: from where, and its two tables, relative to the base.
struct Thunks {
    module: String,
    names: u32,
    slots: u32,
    delayed: bool,
}

/// All imports of one image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imports {
    entries: Vec<Import>,
}

impl Imports {
    /// Whether the names of an image's imports may be gone once the image has been initialised.
    #[must_use]
    pub(crate) fn are_discardable(image: &Image) -> bool {
        let directory = image.table(IMAGE_DIRECTORY_ENTRY_IMPORT);
        let section = directory.and_then(|directory| image.section(directory.rva));
        section.is_some_and(Section::is_discardable)
    }

    /// Reads the import directory, which ends with a descriptor that says nothing, whatever size the header gives; then
    /// that of delayed imports. An image without them has no imports.
    ///
    /// # Errors
    /// [`ImageError`] if the directory contradicts itself, exceeds the limits or cannot be read.
    pub fn read(memory: &(impl GuestMemory + ?Sized), image: &Image) -> Result<Self, ImageError> {
        let mut entries = by_base(image, |base| {
            let mut reader = Reader::new(memory, image, base, MAX_IMPORTS);
            reader.read_directory()?;
            Ok(reader)
        })?
        .entries;
        let room = MAX_IMPORTS - entries.len();
        // Loaders do not look at this one: what they take is an image, however damaged it is. What can be read of it is what
        // code of the image can have resolved by it.
        let mut delayed = Reader::new(memory, image, 0, room);
        let _ = delayed.read_delayed();
        entries.append(&mut delayed.entries);
        Ok(Self { entries })
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

/// Reads the tables of one image, each name by the same reading of an entry.
struct Reader<'a, M: ?Sized> {
    memory: &'a M,
    image: &'a Image,
    /// What entries of lookup tables that lead to names are relative to.
    base: u64,
    /// Imports that may still be read.
    imports: usize,
    /// Bytes of names that may still be read.
    room: usize,
    /// A hint was one that no linker is likely to have written.
    is_doubtful: bool,
    entries: Vec<Import>,
}

impl<'a, M: GuestMemory + ?Sized> Reader<'a, M> {
    fn new(memory: &'a M, image: &'a Image, base: u64, imports: usize) -> Self {
        Self {
            memory,
            image,
            base,
            imports,
            room: MAX_NAMES,
            is_doubtful: false,
            entries: Vec::new(),
        }
    }

    fn read_directory(&mut self) -> Result<(), ImageError> {
        let Some(directory) = self.image.table(IMAGE_DIRECTORY_ENTRY_IMPORT) else {
            return Ok(());
        };
        for index in 0..=MAX_MODULES {
            let offset = (index * size_of::<ImageImportDescriptor>()) as u32;
            let at = in_image(self.image, directory.rva, offset)?;
            let descriptor: ImageImportDescriptor = read_pod(self.memory, at, "the import directory")?;
            // The Windows loader stops at a descriptor without a name or without slots.
            let (name, slots) = (descriptor.name.get(LE), descriptor.first_thunk.get(LE));
            if name == 0 || slots == 0 {
                return Ok(());
            }
            let names = match descriptor.original_first_thunk.get(LE) {
                0 => slots, // Only a file, not yet bound, has names there.
                names => names,
            };
            let thunks = Thunks {
                module: name_at(self.memory, self.image, name)?,
                names,
                slots,
                delayed: false,
            };
            self.read_module(&thunks)?;
        }
        Err(ImageError::Malformed(format!(
            "it imports from more than {MAX_MODULES} modules"
        )))
    }

    fn read_delayed(&mut self) -> Result<(), ImageError> {
        let Some(directory) = self.image.table(IMAGE_DIRECTORY_ENTRY_DELAY_IMPORT) else {
            return Ok(());
        };
        for index in 0..MAX_MODULES {
            let offset = (index * size_of::<ImageDelayloadDescriptor>()) as u32;
            let at = in_image(self.image, directory.rva, offset)?;
            let descriptor: ImageDelayloadDescriptor = read_pod(self.memory, at, "the delayed imports")?;
            // The first bit says that addresses are relative to the base; x64 knows no others.
            let name = descriptor.dll_name_rva.get(LE);
            if name == 0 || descriptor.attributes.get(LE) & 1 == 0 {
                break;
            }
            let thunks = Thunks {
                module: name_at(self.memory, self.image, name)?,
                names: descriptor.import_name_table_rva.get(LE),
                slots: descriptor.import_address_table_rva.get(LE),
                delayed: true,
            };
            self.read_module(&thunks)?;
        }
        Ok(())
    }

    fn read_module(&mut self, thunks: &Thunks) -> Result<(), ImageError> {
        for index in 0u32.. {
            if self.entries.len() >= self.imports {
                return Err(ImageError::Malformed(format!("more than {MAX_IMPORTS} imports")));
            }
            let offset = index.saturating_mul(8);
            let thunk = self
                .memory
                .read_u64(in_image(self.image, thunks.names, offset)?)
                .map_err(ImageError::unreadable("the import lookup table"))?;
            if thunk == 0 {
                break;
            }
            let slot = in_image(self.image, thunks.slots, offset)?.wrapping_sub(self.image.base) as u32;
            let bound = thunks.names == thunks.slots && thunk >= LOWEST_KERNEL_ADDRESS;
            let name = if bound {
                ImportName::Bound
            } else if thunk & !ORDINAL == IMAGE_ORDINAL_FLAG64 {
                ImportName::Ordinal(thunk as u16)
            } else {
                ImportName::Name(self.name_of(thunk)?)
            };
            let import = Import {
                module: thunks.module.clone(),
                name,
                slot,
                delayed: thunks.delayed,
            };
            self.room = self
                .room
                .checked_sub(import.length())
                .ok_or_else(|| ImageError::Malformed(format!("names of imports of more than {MAX_NAMES} bytes")))?;
            self.entries.push(import);
        }
        Ok(())
    }

    /// The name that an entry of the import lookup table leads to.
    fn name_of(&mut self, thunk: u64) -> Result<String, ImageError> {
        let rva = thunk.checked_sub(self.base).and_then(|rva| u32::try_from(rva).ok());
        let Some(rva) = rva.filter(|&rva| rva < self.image.size) else {
            return Err(ImageError::Malformed(format!("an import name at {thunk:#x}")));
        };
        let hint = self.memory.read_u16(self.image.address(rva));
        self.is_doubtful |= hint.is_ok_and(|hint| hint >= UNLIKELY_HINT);
        let name = name_at(self.memory, self.image, rva.saturating_add(HINT))?;
        if is_plausible(&name) {
            Ok(name)
        } else {
            Err(ImageError::Malformed(format!("an import is named `{name}`")))
        }
    }
}

/// Reads the tables of an image by the base that the entries of its lookup tables are relative to.
///
/// In a file the entry is relative to the image's base. A loader may leave the address there by which it has found the
/// name: that is relative to where the image lies, or to where its header says that it was linked for. A loader does one and
/// the same with all entries, so that a base by which each of them leads to a name is what it is. Where the image was linked
/// for a low address, a single entry may lead to text by another base, too, but hardly with a number before it that can be
/// a hint: a base by which all of them can be comes first.
fn by_base<'a, M: ?Sized>(
    image: &Image,
    mut read: impl FnMut(u64) -> Result<Reader<'a, M>, ImageError>,
) -> Result<Reader<'a, M>, ImageError> {
    let (mut doubtful, mut first) = (None, None);
    for base in [0, image.base, image.preferred_base] {
        match read(base) {
            Ok(reader) if !reader.is_doubtful => return Ok(reader),
            Ok(reader) => doubtful = doubtful.or(Some(reader)),
            Err(error) => first = first.or(Some(error)),
        }
    }
    doubtful.ok_or_else(|| first.unwrap_or_else(|| ImageError::Malformed("imports of no base".into())))
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

/// Whether a linker can have written this as the name of a routine or variable. C++ names have `?`, `@` and `$`.
fn is_plausible(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
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

impl ImportName {
    /// As it is written behind `module!`.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Ordinal(ordinal) => format!("#{ordinal}"),
            Self::Bound => "(no name)".to_owned(),
        }
    }
}

impl FromIterator<Import> for Imports {
    fn from_iter<I: IntoIterator<Item = Import>>(imports: I) -> Self {
        Self {
            entries: imports.into_iter().collect(),
        }
    }
}
