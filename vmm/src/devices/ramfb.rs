//! A display without hardware: by a firmware configuration file the guest's firmware says which RAM is its frame buffer
//! (QEMU documentation "docs/specs/ramfb"; edk2 `OvmfPkg/QemuRamfbDxe`). Operating systems without a display driver of
//! their own draw there too.
//!
//! Reads guest memory when the picture is asked for.

use std::sync::{Mutex, PoisonError};

use super::fw_cfg::Receiver;
use crate::memory::GuestRam;

/// Name of the file.
pub(crate) const RAMFB_FILE: &str = "etc/ramfb";
/// Its length in bytes.
pub(crate) const RAMFB_LENGTH: usize = 28;
/// The one pixel format: 32 bits of blue, green, red and nothing ("XR24" in the Linux kernel's `drm_fourcc.h`).
const XRGB8888: u32 = u32::from_le_bytes(*b"XR24");
const PIXEL: u64 = 4;
/// Most pixels in a row and rows of a picture that is read.
const SIDE_LIMIT: u32 = 8192;

/// A picture of the display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row, 1 to 8192.
    pub width: u32,
    /// Rows, 1 to 8192.
    pub height: u32,
    /// Three bytes for each pixel, red, green, blue, row by row from the top left.
    pub rgb: Vec<u8>,
}

/// What the guest said of its frame buffer (RAMFBCfg, big-endian).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Layout {
    address: u64,
    format: u32,
    width: u32,
    height: u32,
    stride: u32,
}

/// The display.
pub struct RamFb {
    ram: GuestRam,
    layout: Mutex<Layout>,
}

impl RamFb {
    /// Nothing to see yet.
    #[must_use]
    pub fn new(ram: GuestRam) -> Self {
        Self {
            ram,
            layout: Mutex::default(),
        }
    }

    /// The picture now; `None` while the guest has no frame buffer, or one that cannot be read.
    #[must_use]
    pub fn picture(&self) -> Option<Picture> {
        let layout = *self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let sides = 1..=SIDE_LIMIT;
        if layout.format != XRGB8888 || !sides.contains(&layout.width) || !sides.contains(&layout.height) {
            return None;
        }
        let row_length = u64::from(layout.width) * PIXEL;
        // 0 stands for rows without a gap.
        let stride = match u64::from(layout.stride) {
            0 => row_length,
            stride => stride,
        };
        let mut rgb = Vec::new();
        let mut row = vec![0; row_length as usize];
        for index in 0..u64::from(layout.height) {
            let at = layout.address.checked_add(index * stride)?;
            self.ram.read(at, &mut row).ok()?;
            rgb.extend(
                row.chunks(PIXEL as usize)
                    .flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]),
            );
        }
        Some(Picture {
            width: layout.width,
            height: layout.height,
            rgb,
        })
    }
}

impl Receiver for RamFb {
    fn written(&self, content: &[u8]) {
        let word = |at: usize| {
            let bytes = content.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            u32::from_be_bytes(bytes.unwrap_or_default())
        };
        let layout = Layout {
            address: u64::from(word(0)) << 32 | u64::from(word(4)),
            format: word(8),
            width: word(16),
            height: word(20),
            stride: word(24),
        };
        tracing::debug!(?layout, "frame buffer");
        *self.layout.lock().unwrap_or_else(PoisonError::into_inner) = layout;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(address: u64, format: u32, width: u32, height: u32, stride: u32) -> Vec<u8> {
        let mut bytes = address.to_be_bytes().to_vec();
        bytes.extend([format, 0, width, height, stride].map(u32::to_be_bytes).concat());
        bytes
    }

    fn display() -> (RamFb, GuestRam) {
        let ram = GuestRam::new(16 << 20).unwrap();
        (RamFb::new(ram.clone()), ram)
    }

    #[test]
    fn a_picture_is_what_lies_in_memory_row_by_row() {
        let (display, ram) = display();
        assert_eq!(display.picture(), None);
        ram.write(0x1000, &[1, 2, 3, 0, 4, 5, 6, 0]).unwrap();
        ram.write(0x1010, &[7, 8, 9, 0, 10, 11, 12, 0]).unwrap();
        display.written(&request(0x1000, XRGB8888, 2, 2, 16));
        let picture = display.picture().unwrap();
        assert_eq!((picture.width, picture.height), (2, 2));
        assert_eq!(picture.rgb, [3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10]);
    }

    #[test]
    fn impossible_frame_buffers_have_no_picture() {
        let (display, _) = display();
        for bytes in [
            request(0x1000, 0, 2, 2, 0),
            request(0x1000, XRGB8888, 0, 2, 0),
            request(0x1000, XRGB8888, u32::MAX, u32::MAX, 0),
            request(16 << 20, XRGB8888, 2, 2, 0),
            request(u64::MAX - 3, XRGB8888, 8, 2, u32::MAX),
            vec![0xff; 3],
        ] {
            display.written(&bytes);
            assert_eq!(display.picture(), None, "{bytes:x?}");
        }
    }
}
