//! Headers and sections of a PE64 image in memory layout: as a loader has placed it, section by section.
//!
//! Talks to [`GuestMemory`] alone; a file on disk is read the same way through [`FileImage`](super::FileImage), so
//! that there is one reader for both. It must not know what the image is for.
//!
//! Source of the layouts: the PE format specification (Microsoft, "PE Format").

use object::LittleEndian as LE;
use object::pe;
use object::pod::{Pod, from_bytes};
use serde::{Deserialize, Serialize};

use crate::vmi::{GuestMemory, PAGE_SIZE, ReadError};

/// The header's `e_lfanew` may lie no farther than this from the image's start, in bytes. Linkers use a few hundred.
const MAX_HEADER_OFFSET: u32 = 0x1_0000;
/// The Windows loader takes no image with more sections than this.
const MAX_SECTIONS: u16 = 96;
/// No driver or kernel comes near this size, in bytes; a larger `SizeOfImage` is garbage.
const MAX_IMAGE_SIZE: u32 = 0x1000_0000;
const MZ: u16 = 0x5a4d;
const PE_SIGNATURE: u32 = 0x0000_4550;
const DIRECTORIES: usize = 16;
/// The unit in which Windows' loader maps a file, in bytes.
const SECTOR: u32 = 512;

/// Why bytes are not an image that can be used. Each message says what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The image could not be read at all places.
    #[error("{what} cannot be read: {source}")]
    Unreadable {
        /// The part that was wanted.
        what: &'static str,
        /// Why not.
        source: ReadError,
    },
    /// The file ends before something that its headers promise.
    #[error("truncated: {what} needs {needed:#x} bytes, the file has {have:#x}")]
    Truncated {
        /// The part that is missing.
        what: String,
        /// File size at which it would be complete, in bytes.
        needed: u64,
        /// The file's size in bytes.
        have: u64,
    },
    /// No `MZ` at the start.
    #[error("no PE image: it starts with {0:#06x}, not with \"MZ\"")]
    NoMz(u16),
    /// `e_lfanew` is out of range.
    #[error("no PE image: its header offset {0:#x} is out of range")]
    HeaderOffset(u32),
    /// No `PE\0\0` where `e_lfanew` says.
    #[error("no PE image: its NT headers start with {0:#010x}, not with \"PE\"")]
    NoSignature(u32),
    /// Not an x64 image.
    #[error("not an x64 image: machine {0:#06x}")]
    Machine(u16),
    /// Not a PE32+ optional header.
    #[error("not a PE32+ image: optional header magic {0:#06x}")]
    Magic(u16),
    /// A header field contradicts another one or a limit of the format.
    #[error("malformed image: {0}")]
    Malformed(String),
}

impl ImageError {
    pub(super) fn unreadable(what: &'static str) -> impl FnOnce(ReadError) -> Self {
        move |source| Self::Unreadable { what, source }
    }
}

/// A data directory: where a table of the image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Directory {
    /// Address of the table relative to the image's base; 0 if the image has no such table.
    pub rva: u32,
    /// Its size in bytes.
    pub size: u32,
}

impl Directory {
    /// Whether the image has no such table.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.rva == 0 || self.size == 0
    }

    /// Whether an address lies in the table.
    #[must_use]
    pub fn contains(self, rva: u32) -> bool {
        rva.checked_sub(self.rva).is_some_and(|offset| offset < self.size)
    }
}

/// A section as its header describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// Its name, at most 8 characters; unprintable bytes are escaped.
    pub name: String,
    /// Address relative to the image's base.
    pub rva: u32,
    /// Size in memory, in bytes.
    pub size: u32,
    /// Offset of its bytes in the file.
    pub file_offset: u32,
    /// How many bytes of the file are mapped for it; the rest is zero.
    pub(crate) file_size: u32,
    /// `IMAGE_SCN_*` flags.
    pub characteristics: u32,
}

impl Section {
    /// Takes over what a loader makes of the header: without a virtual size it is the raw size; the file's bytes begin at
    /// a multiple of 512 (where the file's alignment is that at least), and those that do not fit the section's pages are
    /// not mapped.
    fn parse(header: &pe::ImageSectionHeader, alignment: Alignment) -> Self {
        let length = header
            .name
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(header.name.len());
        let file_size = header.size_of_raw_data.get(LE);
        let size = match header.virtual_size.get(LE) {
            0 => file_size,
            size => size,
        };
        let offset = header.pointer_to_raw_data.get(LE);
        let mapped = if alignment.is_low() { size } else { page_up(size) };
        Self {
            name: header.name[..length].escape_ascii().to_string(),
            rva: header.virtual_address.get(LE),
            size,
            file_offset: if alignment.file >= SECTOR {
                offset & !(SECTOR - 1)
            } else {
                offset
            },
            file_size: if offset == 0 { 0 } else { file_size.min(mapped) },
            characteristics: header.characteristics.get(LE).0,
        }
    }

    /// Whether the address lies in this section.
    #[must_use]
    pub fn contains(&self, rva: u32) -> bool {
        rva.checked_sub(self.rva).is_some_and(|offset| offset < self.size)
    }

    /// Whether its pages are mapped executable.
    #[must_use]
    pub(crate) fn is_executable(&self) -> bool {
        self.characteristics & pe::IMAGE_SCN_MEM_EXECUTE.0 != 0
    }

    /// Whether its pages are mapped writable.
    #[must_use]
    pub(crate) fn is_writable(&self) -> bool {
        self.characteristics & pe::IMAGE_SCN_MEM_WRITE.0 != 0
    }

    /// Whether the system may free it after initialisation, as it does with `INIT`.
    #[must_use]
    pub(crate) fn is_discardable(&self) -> bool {
        self.characteristics & pe::IMAGE_SCN_MEM_DISCARDABLE.0 != 0
    }
}

/// `SectionAlignment` and `FileAlignment` of an image, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Alignment {
    /// Of sections in memory.
    pub section: u32,
    /// Of sections in the file.
    pub file: u32,
}

impl Alignment {
    /// Below a page: such a file is mapped as it is, from its first byte on, and all its pages allow everything.
    #[must_use]
    pub(crate) fn is_low(self) -> bool {
        self.section < PAGE_SIZE as u32
    }
}

/// The headers of a PE64 image at an address in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Guest virtual address of the image's first byte.
    pub base: u64,
    /// Bytes it takes in memory.
    pub size: u32,
    /// The address it was linked for.
    pub(crate) preferred_base: u64,
    /// `AddressOfEntryPoint`, relative to the base; 0 if there is none.
    pub(crate) entry_point: u32,
    /// Bytes of all headers.
    pub header_size: u32,
    /// Link time or content hash; identifies a build together with `size`.
    pub(crate) time_date_stamp: u32,
    /// `CheckSum` of the optional header.
    pub(crate) check_sum: u32,
    /// `FileHeader.Characteristics` says that its relocations were taken out: it can be at its preferred base only.
    #[serde(default)]
    pub(crate) relocations_stripped: bool,
    /// Alignments of sections in memory and in the file.
    #[serde(default)]
    pub(crate) alignment: Alignment,
    /// Its sections, in header order.
    pub sections: Vec<Section>,
    /// COFF symbol table: offset in the file and number of records; both 0 if there is none.
    pub(crate) symbol_table: (u32, u32),
    directories: [Directory; DIRECTORIES],
}

impl Image {
    /// Reads and validates the headers of the image at `base`.
    ///
    /// # Errors
    /// [`ImageError`] if the bytes there are not the headers of a PE64 image for x64, or cannot be read.
    pub fn read(memory: &(impl GuestMemory + ?Sized), base: u64) -> Result<Self, ImageError> {
        let mz = memory
            .read_u16(base)
            .map_err(ImageError::unreadable("the DOS header"))?;
        if mz != MZ {
            return Err(ImageError::NoMz(mz));
        }
        let dos: pe::ImageDosHeader = read_pod(memory, base, "the DOS header")?;
        let offset = dos.e_lfanew.get(LE);
        if offset > MAX_HEADER_OFFSET {
            return Err(ImageError::HeaderOffset(offset));
        }
        let nt_address = add(base, offset)?;
        let nt: pe::ImageNtHeaders64 = read_pod(memory, nt_address, "the NT headers")?;
        let optional = &nt.optional_header;
        check_nt_headers(&nt)?;

        let optional_size = usize::from(nt.file_header.size_of_optional_header.get(LE));
        let fixed = size_of::<pe::ImageOptionalHeader64>();
        // Loaders ask the count alone, whatever the optional header's size leaves room for.
        let count = (optional.number_of_rva_and_sizes.get(LE) as usize).min(DIRECTORIES);
        let mut image = Self {
            base,
            size: optional.size_of_image.get(LE),
            preferred_base: optional.image_base.get(LE),
            entry_point: optional.address_of_entry_point.get(LE),
            header_size: optional.size_of_headers.get(LE),
            time_date_stamp: nt.file_header.time_date_stamp.get(LE),
            check_sum: optional.check_sum.get(LE),
            relocations_stripped: nt.file_header.characteristics.get(LE).0 & pe::IMAGE_FILE_RELOCS_STRIPPED.0 != 0,
            alignment: Alignment {
                section: optional.section_alignment.get(LE),
                file: optional.file_alignment.get(LE),
            },
            sections: Vec::new(),
            symbol_table: (
                nt.file_header.pointer_to_symbol_table.get(LE),
                nt.file_header.number_of_symbols.get(LE),
            ),
            directories: [Directory::default(); DIRECTORIES],
        };
        if base.checked_add(u64::from(image.size)).is_none() {
            return Err(ImageError::Malformed(
                "it runs past the end of the address space".into(),
            ));
        }
        image.read_directories(
            memory,
            add(nt_address, size_of::<pe::ImageNtHeaders64>() as u32)?,
            count,
        )?;
        let table = add(
            nt_address,
            (size_of::<pe::ImageNtHeaders64>() - fixed + optional_size) as u32,
        )?;
        image.read_sections(memory, table, nt.file_header.number_of_sections.get(LE))?;
        Ok(image)
    }

    fn read_directories(
        &mut self,
        memory: &(impl GuestMemory + ?Sized),
        address: u64,
        count: usize,
    ) -> Result<(), ImageError> {
        for (index, slot) in self.directories.iter_mut().take(count).enumerate() {
            let at = add(address, (index * size_of::<pe::ImageDataDirectory>()) as u32)?;
            let entry: pe::ImageDataDirectory = read_pod(memory, at, "the data directories")?;
            *slot = Directory {
                rva: entry.virtual_address.get(LE),
                size: entry.size.get(LE),
            };
        }
        Ok(())
    }

    fn read_sections(
        &mut self,
        memory: &(impl GuestMemory + ?Sized),
        table: u64,
        count: u16,
    ) -> Result<(), ImageError> {
        if count == 0 || count > MAX_SECTIONS {
            return Err(ImageError::Malformed(format!("{count} sections")));
        }
        for index in 0..count {
            let at = add(table, u32::from(index) * size_of::<pe::ImageSectionHeader>() as u32)?;
            let section = Section::parse(&read_pod(memory, at, "the section table")?, self.alignment);
            let end = section.rva.checked_add(section.size);
            if end.is_none_or(|end| end > page_up(self.size)) {
                return Err(ImageError::Malformed(format!(
                    "section {} at {:#x}, {:#x} bytes, lies outside of the image of {:#x} bytes",
                    section.name, section.rva, section.size, self.size
                )));
            }
            self.sections.push(section);
        }
        Ok(())
    }

    /// A data directory by its `IMAGE_DIRECTORY_ENTRY_*` index; empty if the image has none, or if it lies outside of
    /// the image.
    #[must_use]
    pub fn directory(&self, index: usize) -> Directory {
        let directory = self.directories.get(index).copied().unwrap_or_default();
        match directory.rva.checked_add(directory.size) {
            Some(end) if end <= self.size => directory,
            _ => Directory::default(),
        }
    }

    /// A data directory whose table ends by what it says itself, so that the size is only a hint; `None` if the image has
    /// none.
    #[must_use]
    pub fn table(&self, index: usize) -> Option<Directory> {
        let directory = self.directories.get(index).copied().unwrap_or_default();
        (directory.rva != 0 && directory.rva < self.size).then_some(directory)
    }

    /// Address of the first byte behind the image.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.base.saturating_add(u64::from(self.size))
    }

    /// The address relative to the base, if it lies in the image.
    #[must_use]
    pub fn rva(&self, address: u64) -> Option<u32> {
        let offset = address.checked_sub(self.base)?;
        u32::try_from(offset).ok().filter(|&rva| rva < self.size)
    }

    /// The guest virtual address of a relative one.
    #[must_use]
    pub fn address(&self, rva: u32) -> u64 {
        self.base.wrapping_add(u64::from(rva))
    }

    /// The section that an address relative to the base lies in.
    #[must_use]
    pub fn section(&self, rva: u32) -> Option<&Section> {
        self.sections.iter().find(|section| section.contains(rva))
    }
}

fn check_nt_headers(nt: &pe::ImageNtHeaders64) -> Result<(), ImageError> {
    let signature = nt.signature.get(LE);
    if signature != PE_SIGNATURE {
        return Err(ImageError::NoSignature(signature));
    }
    let machine = nt.file_header.machine.get(LE);
    if machine != pe::IMAGE_FILE_MACHINE_AMD64 {
        return Err(ImageError::Machine(machine.0));
    }
    let magic = nt.optional_header.magic.get(LE);
    if magic != pe::IMAGE_NT_OPTIONAL_HDR64_MAGIC {
        return Err(ImageError::Magic(magic));
    }
    if usize::from(nt.file_header.size_of_optional_header.get(LE)) < size_of::<pe::ImageOptionalHeader64>() {
        return Err(ImageError::Malformed("its optional header is too short".into()));
    }
    let size = nt.optional_header.size_of_image.get(LE);
    let headers = nt.optional_header.size_of_headers.get(LE);
    if size == 0 || size > MAX_IMAGE_SIZE || headers > size {
        return Err(ImageError::Malformed(format!(
            "image size {size:#x}, header size {headers:#x}"
        )));
    }
    Ok(())
}

/// The next multiple of a page, as far as 32 bits reach.
pub(super) fn page_up(size: u32) -> u32 {
    size.checked_next_multiple_of(PAGE_SIZE as u32).unwrap_or(u32::MAX)
}

/// Reads one fixed-size structure.
pub(super) fn read_pod<T: Pod>(
    memory: &(impl GuestMemory + ?Sized),
    at: u64,
    what: &'static str,
) -> Result<T, ImageError> {
    const LARGEST: usize = 512;
    let mut bytes = [0; LARGEST];
    let Some(bytes) = bytes.get_mut(..size_of::<T>()) else {
        return Err(ImageError::Malformed(format!("{what}: structure too large")));
    };
    memory.read(at, bytes).map_err(ImageError::unreadable(what))?;
    match from_bytes::<T>(bytes) {
        Ok((value, _)) => Ok(*value),
        Err(()) => Err(ImageError::Malformed(format!("{what}: misaligned structure"))),
    }
}

fn add(address: u64, offset: u32) -> Result<u64, ImageError> {
    address
        .checked_add(u64::from(offset))
        .ok_or_else(|| ImageError::Malformed("it runs past the end of the address space".into()))
}
