//! Finds the PDB that belongs to an image, by the CodeView record of its debug directory (PE format, "Debug Directory";
//! the record is `RSDS`, GUID, age, file name).
//!
//! Talks to [`GuestMemory`]; must not know where PDBs are kept.

use std::fmt::Write as _;

use super::image::Image;
use super::strings::read_c_string;
use crate::vmi::GuestMemory;

const DEBUG_DIRECTORY: usize = 6;
/// `IMAGE_DEBUG_DIRECTORY`, and where its fields are.
const ENTRY: u32 = 28;
const TYPE: u32 = 12;
const ADDRESS: u32 = 20;
const TYPE_CODE_VIEW: u32 = 2;
/// Images have a handful of entries.
const MAX_ENTRIES: u32 = 16;
const SIGNATURE: [u8; 4] = *b"RSDS";
const GUID: usize = 4;
const AGE: usize = 20;
const NAME: usize = 24;
/// The longest name that is taken, in bytes.
const MAX_NAME: usize = 260;

/// What names the PDB of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeView {
    /// The GUID as it is stored.
    pub(crate) guid: [u8; 16],
    /// How often the PDB had been written.
    pub(crate) age: u32,
    /// The file name without directories; unprintable characters are escaped.
    pub name: String,
}

impl CodeView {
    /// Reads the record; `None` if the image has none that can be read.
    #[must_use]
    pub fn read(memory: &(impl GuestMemory + ?Sized), image: &Image) -> Option<Self> {
        let directory = image.directory(DEBUG_DIRECTORY);
        let field = |entry: u32, offset| {
            memory
                .read_u32(image.address(directory.rva.checked_add(entry * ENTRY + offset)?))
                .ok()
        };
        let entries = (directory.size / ENTRY).min(MAX_ENTRIES);
        let entry = (0..entries).find(|&entry| field(entry, TYPE) == Some(TYPE_CODE_VIEW))?;
        let address = image.address(field(entry, ADDRESS).filter(|&rva| rva != 0 && rva < image.size)?);
        let mut head = [0; NAME];
        memory.read(address, &mut head).ok()?;
        head.starts_with(&SIGNATURE).then_some(())?;
        Some(Self {
            guid: *head.get(GUID..)?.first_chunk()?,
            age: u32::from_le_bytes(*head.get(AGE..)?.first_chunk()?),
            name: name(memory, address.checked_add(NAME as u64)?)?,
        })
    }

    /// The identifier by which symbol servers keep the PDB: the GUID's 32 digits and the age, in hexadecimal.
    #[must_use]
    pub fn identifier(&self) -> String {
        let [a0, a1, a2, a3, b0, b1, c0, c1, rest @ ..] = self.guid;
        let mut text = format!(
            "{:08X}{:04X}{:04X}",
            u32::from_le_bytes([a0, a1, a2, a3]),
            u16::from_le_bytes([b0, b1]),
            u16::from_le_bytes([c0, c1])
        );
        // Writing to a string cannot fail.
        for byte in rest {
            let _ = write!(text, "{byte:02X}");
        }
        let _ = write!(text, "{:X}", self.age);
        text
    }
}

/// The file's name in the path that the linker has noted.
fn name(memory: &(impl GuestMemory + ?Sized), address: u64) -> Option<String> {
    let path = read_c_string(memory, address, MAX_NAME).ok()??;
    let name = path.rsplit(['\\', '/']).next()?;
    (!name.is_empty() && name != "." && name != "..").then(|| name.to_owned())
}
