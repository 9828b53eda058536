//! A PE64 file in memory layout at its preferred base: as a loader would map it, before relocation.
//!
//! Reads bytes that the caller has loaded; allocates nothing for the layout, so that a file that claims a huge size
//! costs nothing. It must not know what the image is for.

use super::image::{Image, ImageError, Section, page_up};
use crate::vmi::{GuestMemory, ReadError};

/// A file in memory layout. Its [`Image::base`] is the preferred base.
#[derive(Debug, Clone)]
pub struct FileImage {
    data: Vec<u8>,
    image: Image,
}

/// The bytes as they are, from address 0: enough to read the headers, which are at the same place in file and memory.
struct Flat<'a>(&'a [u8]);

impl GuestMemory for Flat<'_> {
    fn read(&self, gva: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let bytes = usize::try_from(gva)
            .ok()
            .and_then(|start| self.0.get(start..)?.get(..buf.len()));
        let last = gva.saturating_add(buf.len() as u64).saturating_sub(1);
        buf.copy_from_slice(bytes.ok_or(ReadError::NotMapped(last))?);
        Ok(())
    }
}

impl FileImage {
    /// Parses the headers of a file.
    ///
    /// # Errors
    /// [`ImageError`] with the reason if it is not a complete PE64 image for x64.
    pub fn parse(data: Vec<u8>) -> Result<Self, ImageError> {
        let have = data.len() as u64;
        let mut image = Image::read(&Flat(&data), 0).map_err(|error| match error {
            ImageError::Unreadable { what, .. } => ImageError::Truncated {
                what: what.into(),
                needed: have.saturating_add(1),
                have,
            },
            other => other,
        })?;
        for section in image.sections.iter().filter(|section| section.file_size != 0) {
            let needed = u64::from(section.file_offset) + u64::from(section.file_size);
            if needed > have {
                return Err(ImageError::Truncated {
                    what: format!("section {}", section.name),
                    needed,
                    have,
                });
            }
        }
        image.base = image.preferred_base;
        if image.base.checked_add(u64::from(image.size)).is_none() {
            return Err(ImageError::Malformed(format!(
                "its preferred base is {:#x}",
                image.base
            )));
        }
        Ok(Self { data, image })
    }

    /// The headers, with the preferred base as base.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The file's bytes.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Whether the file is mapped from its first byte on, as its sections say too.
    fn is_flat(&self) -> bool {
        let in_place = |section: &Section| section.file_size == 0 || section.file_offset == section.rva;
        self.image.alignment.is_low() && self.image.sections.iter().all(in_place)
    }

    /// The file's bytes from an address relative to the base on, as far as they follow one another, or how many zeroes
    /// there are; `None` where the image has nothing.
    fn run(&self, rva: u32) -> Option<Run<'_>> {
        if rva >= self.image.size {
            return None;
        }
        let sections = self.image.sections.iter();
        // A section reaches to the end of its page, but not into the next one.
        let next = sections
            .clone()
            .map(|section| section.rva)
            .filter(|&start| start > rva)
            .min();
        let end = next
            .filter(|_| !self.is_flat())
            .unwrap_or(self.image.size)
            .min(self.image.size);
        let extent = |section: &Section| {
            if self.image.alignment.is_low() {
                section.size.max(section.file_size)
            } else {
                page_up(section.size)
            }
        };
        let inside = |section: &&Section| {
            let offset = rva.checked_sub(section.rva);
            offset.is_some_and(|offset| offset < extent(section))
        };
        let (place, bytes) = match sections.rev().find(inside) {
            _ if self.is_flat() => (rva, self.data.len() as u32 - rva.min(self.data.len() as u32)),
            Some(section) => {
                let offset = rva - section.rva;
                (
                    section.file_offset.checked_add(offset)?,
                    section.file_size.saturating_sub(offset),
                )
            }
            None => {
                let headers = self.image.header_size.min(self.data.len() as u32);
                (rva, headers.saturating_sub(rva))
            }
        };
        if bytes == 0 {
            return Some(Run::Zeroes(end - rva));
        }
        let length = bytes.min(end - rva);
        let start = place as usize;
        self.data
            .get(start..start.checked_add(length as usize)?)
            .map(Run::Bytes)
    }
}

/// What follows in memory.
enum Run<'a> {
    /// Of the file.
    Bytes(&'a [u8]),
    /// So many.
    Zeroes(u32),
}

impl GuestMemory for FileImage {
    fn read(&self, gva: u64, mut buf: &mut [u8]) -> Result<(), ReadError> {
        let mut at = gva;
        while !buf.is_empty() {
            let rva = self.image.rva(at).ok_or(ReadError::NotMapped(at))?;
            let run = self.run(rva).ok_or(ReadError::NotMapped(at))?;
            let available = match run {
                Run::Bytes(bytes) => bytes.len(),
                Run::Zeroes(count) => count as usize,
            };
            let length = buf.len().min(available);
            let (now, later) = buf.split_at_mut(length);
            match run {
                Run::Bytes(bytes) => now.copy_from_slice(bytes.get(..length).ok_or(ReadError::NotMapped(at))?),
                Run::Zeroes(_) => now.fill(0),
            }
            buf = later;
            at = at.checked_add(length as u64).ok_or(ReadError::Invalid(gva))?;
        }
        Ok(())
    }
}
