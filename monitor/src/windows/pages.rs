//! Reads an image a page at a time: each page is read from the guest once, and the number of pages is limited.
//!
//! Use it for tables that can lie anywhere in the image and whose end is known only from their contents. Talks to
//! [`GuestMemory`]; it must not know what is read.

use std::cell::RefCell;
use std::collections::HashMap;

use super::image::{Image, ImageError};
use super::strings::printable;
use crate::vmi::{GuestMemory, PAGE_SIZE};

const PAGE: u32 = PAGE_SIZE as u32;

/// The pages of an image that were needed so far.
pub(super) struct Pages<'a, M: ?Sized> {
    memory: &'a M,
    image: &'a Image,
    what: &'static str,
    most: usize,
    read: RefCell<HashMap<u32, Vec<u8>>>,
}

impl<'a, M: GuestMemory + ?Sized> Pages<'a, M> {
    /// Nothing is read yet; `what` names it in errors, and it may have `most` pages.
    pub(super) fn new(memory: &'a M, image: &'a Image, what: &'static str, most: usize) -> Self {
        Self {
            memory,
            image,
            what,
            most,
            read: RefCell::default(),
        }
    }

    /// Reads the bytes at an address relative to the image's base.
    ///
    /// # Errors
    /// [`ImageError`] if they do not lie in the image, cannot be read, or would be in one page too many.
    pub(super) fn read(&self, rva: u32, buffer: &mut [u8]) -> Result<(), ImageError> {
        let end = u64::from(rva) + buffer.len() as u64;
        if end > u64::from(self.image.size) {
            return Err(ImageError::Malformed(format!(
                "{} at {rva:#x}, {:#x} bytes, lies outside of the image",
                self.what,
                buffer.len()
            )));
        }
        let (mut at, mut left) = (rva, buffer);
        while !left.is_empty() {
            let start = at % PAGE;
            let length = left.len().min((PAGE - start) as usize);
            let (now, later) = left.split_at_mut(length);
            self.copy(at / PAGE, start as usize, now)?;
            at += length as u32;
            left = later;
        }
        Ok(())
    }

    fn copy(&self, index: u32, start: usize, out: &mut [u8]) -> Result<(), ImageError> {
        let mut pages = self.read.borrow_mut();
        if !pages.contains_key(&index) {
            if pages.len() >= self.most {
                return Err(ImageError::Malformed(format!(
                    "{} is spread over more than {} pages",
                    self.what, self.most
                )));
            }
            let rva = index * PAGE;
            let mut bytes = vec![0; self.image.size.saturating_sub(rva).min(PAGE) as usize];
            self.memory
                .read(self.image.address(rva), &mut bytes)
                .map_err(ImageError::unreadable(self.what))?;
            pages.insert(index, bytes);
        }
        let bytes = pages.get(&index).and_then(|page| page.get(start..start + out.len()));
        let bytes = bytes.ok_or_else(|| ImageError::Malformed(format!("{} has no end", self.what)))?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    /// A 32-bit number.
    pub(super) fn u32(&self, rva: u32) -> Result<u32, ImageError> {
        let mut bytes = [0; 4];
        self.read(rva, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// A 16-bit number.
    pub(super) fn u16(&self, rva: u32) -> Result<u16, ImageError> {
        let mut bytes = [0; 2];
        self.read(rva, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// The NUL-terminated string at an address; `None` if it does not end in the image or within `limit` bytes, or does
    /// not begin in the image.
    ///
    /// # Errors
    /// As [`Pages::read`] for what lies in the image.
    pub(super) fn c_string(&self, rva: u32, limit: u32) -> Result<Option<String>, ImageError> {
        let mut text = Vec::new();
        let end = rva.saturating_add(limit).min(self.image.size);
        let mut at = rva;
        while at < end {
            let length = (PAGE - at % PAGE).min(end - at);
            let start = text.len();
            text.resize(start + length as usize, 0);
            self.read(at, &mut text[start..])?;
            if let Some(length) = text[start..].iter().position(|&byte| byte == 0) {
                text.truncate(start + length);
                return Ok(Some(printable(&text)));
            }
            at += length;
        }
        Ok(None)
    }
}
