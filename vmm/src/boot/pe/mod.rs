//! Reads a PE64 kernel image in file layout.
//!
//! The file is taken for hostile: sizes and offsets are checked against the file and against [`IMAGE_SIZE_LIMIT`]
//! before anything is allocated. Where headers leave something open it does as Windows' loader does: a section without
//! a virtual size has its raw size, one without a file pointer is zero, file pointers count in sectors, and a file
//! whose sections are aligned below a page is mapped as it is. Talks to the `object` crate. It must not know guest
//! memory. Source: Microsoft "PE Format".

use object::LittleEndian as LE;
use object::pe;
use object::read::pe::{ImageNtHeaders as _, ImageOptionalHeader as _, PeFile64};

use super::BootError;

/// Largest image, in memory, that is loaded: 64 MiB (Windows kernels have 10 to 20).
pub const IMAGE_SIZE_LIMIT: u32 = 64 << 20;
const PAGE: u32 = 4096;
/// The unit in which Windows' loader maps a file, in bytes.
const SECTOR: u32 = 512;

/// What the pages of a part of the image allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) writable: bool,
    pub(crate) executable: bool,
}

/// A kernel that can be loaded.
#[derive(Debug, Clone)]
pub struct KernelImage {
    name: String,
    file: Vec<u8>,
    /// The image as it lies in memory, before relocation.
    memory: Vec<u8>,
    image_base: u64,
    entry: u32,
    /// One for each page of `memory`.
    pages: Vec<Access>,
    /// RVAs of 64-bit values to be moved with the base.
    relocations: Vec<u32>,
    relocatable: bool,
}

impl KernelImage {
    /// Checks a PE64 file and lays it out as in memory. `name` is for messages and for the list of files.
    ///
    /// # Errors
    /// [`BootError::Image`] saying what is wrong.
    pub fn parse(name: &str, file: Vec<u8>) -> Result<Self, BootError> {
        let parsed = Parser { file: &file }.parse();
        let (memory, pages, header) = parsed.map_err(|reason| BootError::Image {
            file: name.to_owned(),
            reason,
        })?;
        Ok(Self {
            name: name.to_owned(),
            memory,
            pages,
            image_base: header.image_base,
            entry: header.entry,
            relocations: header.relocations,
            relocatable: header.relocatable,
            file,
        })
    }

    /// Takes position-independent code that starts at its first byte, all of it writable and executable. For probes
    /// and tests.
    ///
    /// # Errors
    /// [`BootError::Image`] if it is empty or larger than [`IMAGE_SIZE_LIMIT`].
    pub fn from_code(name: &str, code: &[u8]) -> Result<Self, BootError> {
        let pages = code.len().div_ceil(PAGE as usize);
        if pages == 0 || code.len() > IMAGE_SIZE_LIMIT as usize {
            return Err(BootError::Image {
                file: name.to_owned(),
                reason: format!("{} bytes of code", code.len()),
            });
        }
        let mut memory = code.to_vec();
        memory.resize(pages * PAGE as usize, 0);
        let access = Access {
            writable: true,
            executable: true,
        };
        Ok(Self {
            name: name.to_owned(),
            file: code.to_vec(),
            memory,
            image_base: 0,
            entry: 0,
            pages: vec![access; pages],
            relocations: Vec::new(),
            relocatable: true,
        })
    }

    /// Name given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Size in memory in bytes, a multiple of 4096.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.memory.len() as u32
    }

    /// Entry point, relative to the base.
    #[must_use]
    pub fn entry(&self) -> u32 {
        self.entry
    }

    /// The file as it was given.
    #[must_use]
    pub fn file(&self) -> &[u8] {
        &self.file
    }

    /// The pages' permissions, in order.
    pub(crate) fn pages(&self) -> &[Access] {
        &self.pages
    }

    /// The image as it has to lie in memory at `base`.
    pub(crate) fn relocated(&self, base: u64) -> Result<Vec<u8>, BootError> {
        let mut memory = self.memory.clone();
        let delta = base.wrapping_sub(self.image_base);
        if delta != 0 && !self.relocatable {
            return Err(BootError::Image {
                file: self.name.clone(),
                reason: "its relocations are stripped, so it cannot be loaded at a random base".into(),
            });
        }
        for &rva in &self.relocations {
            // Checked when parsed; an image that shrank in between would be left alone.
            let place = memory
                .get_mut(rva as usize..)
                .and_then(|rest| rest.first_chunk_mut::<8>());
            if let Some(place) = place {
                *place = u64::from_le_bytes(*place).wrapping_add(delta).to_le_bytes();
            }
        }
        Ok(memory)
    }
}

/// Facts from the headers.
struct Header {
    image_base: u64,
    entry: u32,
    relocations: Vec<u32>,
    relocatable: bool,
}

struct Parser<'a> {
    file: &'a [u8],
}

impl Parser<'_> {
    fn parse(&self) -> Result<(Vec<u8>, Vec<Access>, Header), String> {
        let image = PeFile64::parse(self.file).map_err(|error| format!("it is no whole PE64 image ({error})"))?;
        let headers = image.nt_headers();
        let machine = headers.file_header().machine.get(LE);
        if machine != pe::IMAGE_FILE_MACHINE_AMD64 {
            return Err(format!("it is for machine type {machine:#x}, not x64 (0x8664)"));
        }
        let optional = headers.optional_header();
        let size = optional.size_of_image();
        if size == 0 || size > IMAGE_SIZE_LIMIT {
            return Err(format!("its size of {size} bytes is not from 1 to {IMAGE_SIZE_LIMIT}"));
        }
        let size = size.next_multiple_of(PAGE);
        let layout = Layout {
            file: self.file,
            // One page may have sections of all kinds then.
            flat: optional.section_alignment() < PAGE,
            in_sectors: optional.file_alignment() >= SECTOR,
        };
        if !layout.flat && optional.section_alignment() % PAGE != 0 {
            return Err(format!(
                "its section alignment {:#x} is above a page and no multiple of it",
                optional.section_alignment()
            ));
        }
        let mut memory = vec![0; size as usize];
        let access = Access {
            writable: layout.flat,
            executable: layout.flat,
        };
        let mut pages = vec![access; (size / PAGE) as usize];
        let headers_size = optional.size_of_headers();
        let whole = self.file.len().min(size as usize) as u32;
        let start = if layout.flat { whole } else { headers_size.min(whole) };
        copy(&mut memory, self.file, (0, 0, start)).map_err(|reason| format!("its headers {reason}"))?;
        let mut end = if layout.flat { 0 } else { headers_size };
        for section in image.section_table().iter() {
            end = layout
                .place(section, end, &mut memory, &mut pages)
                .map_err(|reason| format!("section {} {reason}", String::from_utf8_lossy(section.raw_name())))?;
        }
        let entry = optional.address_of_entry_point();
        let executable = pages.get((entry / PAGE) as usize).is_some_and(|page| page.executable);
        if entry == 0 || !executable {
            return Err(format!("its entry point {entry:#x} is not in executable code"));
        }
        let stripped = headers.file_header().characteristics.get(LE).0 & pe::IMAGE_FILE_RELOCS_STRIPPED.0 != 0;
        let header = Header {
            image_base: optional.image_base(),
            entry,
            relocations: relocations(&image, &memory)?,
            relocatable: !stripped,
        };
        Ok((memory, pages, header))
    }
}

/// How a file becomes an image.
struct Layout<'a> {
    file: &'a [u8],
    /// It is mapped as it is.
    flat: bool,
    /// File pointers count in whole sectors.
    in_sectors: bool,
}

impl Layout<'_> {
    /// Puts one section in place; sections ascend and do not overlap. Returns where it ends.
    fn place(
        &self,
        section: &pe::ImageSectionHeader,
        previous_end: u32,
        memory: &mut [u8],
        pages: &mut [Access],
    ) -> Result<u32, String> {
        let start = section.virtual_address.get(LE);
        let raw_size = section.size_of_raw_data.get(LE);
        let size = match section.virtual_size.get(LE) {
            0 => raw_size,
            size => size,
        };
        let end = start.checked_add(size).filter(|&end| end as usize <= memory.len());
        let in_place = self.flat || start % PAGE == 0;
        let Some(end) = end.filter(|_| in_place && start >= previous_end) else {
            return Err(format!("does not fit the image ({size:#x} bytes at {start:#x})"));
        };
        let pointer = section.pointer_to_raw_data.get(LE);
        let from = if self.in_sectors {
            pointer & !(SECTOR - 1)
        } else {
            pointer
        };
        let mapped = if self.flat { size } else { size.next_multiple_of(PAGE) };
        let length = raw_size.min(mapped);
        if pointer != 0 && length != 0 {
            copy(memory, self.file, (from, start, length))?;
        }
        if self.flat {
            return Ok(end);
        }
        let flags = section.characteristics.get(LE).0;
        let access = Access {
            writable: flags & pe::IMAGE_SCN_MEM_WRITE.0 != 0,
            executable: flags & pe::IMAGE_SCN_MEM_EXECUTE.0 != 0,
        };
        let range = (start / PAGE) as usize..(end.div_ceil(PAGE)) as usize;
        if let Some(pages) = pages.get_mut(range) {
            pages.fill(access);
        }
        Ok(end)
    }
}

/// Copies bytes of the file to the image; `(from, to, length)`.
fn copy(memory: &mut [u8], file: &[u8], (from, to, length): (u32, u32, u32)) -> Result<(), String> {
    let slice = |start: u32| Some(start as usize..(start as usize).checked_add(length as usize)?);
    let source = slice(from).and_then(|range| file.get(range));
    let source = source.ok_or_else(|| {
        format!(
            "ends beyond the file ({length:#x} bytes at {from:#x} of {:#x}): is it truncated?",
            file.len()
        )
    })?;
    let target = slice(to).and_then(|range| memory.get_mut(range));
    let target = target.ok_or_else(|| format!("do not fit the image ({length:#x} bytes at {to:#x})"))?;
    target.copy_from_slice(source);
    Ok(())
}

/// Reads the relocations from the image as it lies in memory.
fn relocations(image: &PeFile64<'_>, memory: &[u8]) -> Result<Vec<u32>, String> {
    let directory = image.data_directory(pe::IMAGE_DIRECTORY_ENTRY_BASERELOC);
    let (start, length) = directory.map_or((0, 0), pe::ImageDataDirectory::address_range);
    let mut found = Vec::new();
    let Some(mut rest) = memory
        .get(start as usize..)
        .and_then(|rest| rest.get(..length as usize))
    else {
        return Err(format!("its relocations, {length:#x} bytes at {start:#x}, are outside"));
    };
    while let (Some(page), Some(block_size)) = (word(rest, 0), word(rest, 4)) {
        let block = rest
            .get(8..block_size as usize)
            .ok_or("a block of its relocations has no end")?;
        for entry in block.chunks_exact(2) {
            let entry = u16::from_le_bytes([entry[0], entry[1]]);
            let place = page.wrapping_add(u32::from(entry & 0xfff));
            match pe::BaseRelocationType(entry >> 12) {
                pe::IMAGE_REL_BASED_ABSOLUTE => {}
                pe::IMAGE_REL_BASED_DIR64 if place.checked_add(8).is_some_and(|end| end as usize <= memory.len()) => {
                    found.push(place);
                }
                pe::IMAGE_REL_BASED_DIR64 => return Err(format!("it has a relocation at {place:#x}, outside")),
                other => {
                    return Err(format!(
                        "it has a relocation of type {}, x64 knows type 10 only",
                        other.0
                    ));
                }
            }
        }
        rest = rest.get(block_size as usize..).unwrap_or_default();
    }
    Ok(found)
}

/// A 32-bit number of a table.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests;
