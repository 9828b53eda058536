//! A PE64 file, shown in memory layout at its preferred base: what a loader would make of it, before relocation.
//!
//! Reads bytes that the caller has loaded; allocates nothing for the layout, so that a file that claims a huge size
//! costs nothing. It must not know what the image is for.

use super::image::{Image, ImageError, Section};
use crate::target::{GuestMemory, PAGE_SIZE, ReadError};

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
        for section in image.sections.iter().filter(|section| section.file_offset != 0) {
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

    /// The file's bytes from an address relative to the base on, as far as they follow one another; empty where the
    /// image has only zeroes, `None` where it has nothing.
    fn run(&self, rva: u32) -> Option<(&[u8], u32)> {
        // A loader maps whole pages: behind a section's last byte there are zeroes to the end of the page.
        let extent = |section: &Section| {
            section
                .size
                .checked_next_multiple_of(PAGE_SIZE as u32)
                .unwrap_or(section.size)
        };
        let inside = |section: &&Section| {
            rva.checked_sub(section.rva)
                .is_some_and(|offset| offset < extent(section))
        };
        if let Some(section) = self.image.sections.iter().find(inside) {
            let offset = rva - section.rva;
            let raw = if section.file_offset == 0 {
                0
            } else {
                section.file_size.min(section.size)
            };
            let start = section.file_offset as usize + offset as usize;
            let length = raw.saturating_sub(offset) as usize;
            let bytes = if length == 0 {
                &[][..]
            } else {
                self.data.get(start..start.checked_add(length)?)?
            };
            return Some((bytes, extent(section) - offset));
        }
        let headers = self.image.header_size.min(self.data.len() as u32);
        let bytes = self
            .data
            .get(rva as usize..headers as usize)
            .filter(|bytes| !bytes.is_empty())?;
        Some((bytes, bytes.len() as u32))
    }
}

impl GuestMemory for FileImage {
    fn read(&self, gva: u64, mut buf: &mut [u8]) -> Result<(), ReadError> {
        let mut at = gva;
        while !buf.is_empty() {
            let rva = self.image.rva(at).ok_or(ReadError::NotMapped(at))?;
            let (bytes, available) = self.run(rva).ok_or(ReadError::NotMapped(at))?;
            let length = buf.len().min(if bytes.is_empty() {
                available as usize
            } else {
                bytes.len()
            });
            if length == 0 {
                return Err(ReadError::NotMapped(at));
            }
            let (now, later) = buf.split_at_mut(length);
            match bytes.get(..length) {
                Some(bytes) => now.copy_from_slice(bytes),
                None => now.fill(0),
            }
            buf = later;
            at = at.checked_add(length as u64).ok_or(ReadError::Invalid(gva))?;
        }
        Ok(())
    }
}
