//! Reads PDBs: where a kernel has its debugger data, and the functions and lines of a driver.
//!
//! Talks to an open file. It must not know where PDBs are kept. A PDB comes from outside and may be hostile: only the
//! streams that are needed are read, piece by piece, and every number is checked before it is used
//! (`adr/0007-own-pdb-reader.md`). Layouts: Microsoft's published `microsoft-pdb`, LLVM's "The PDB File Format".

mod lines;
mod msf;
mod sections;

use std::io::{self, Read, Seek};

pub use self::lines::DriverPdb;
use self::msf::{Msf, u16_at, u32_at};
use self::sections::Sections;
use super::debugger_data::DebuggerDataPlaces;

/// Why a PDB is of no use.
#[derive(Debug, thiserror::Error)]
pub enum PdbError {
    /// It cannot be read as a PDB.
    #[error("it is no PDB that can be read: {0}")]
    Malformed(String),
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not name the block.
    #[error("it does not name KdDebuggerDataBlock")]
    NoDebuggerData,
}

impl PdbError {
    fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }
}

const BLOCK: &[u8] = b"KdDebuggerDataBlock";
/// The three that the block is encoded by.
const ENCODING: [&[u8]; 3] = [b"KiWaitNever", b"KiWaitAlways", b"KdpDataBlockEncoded"];

/// The stream that tells which PDB it is: version, time, age, GUID.
const INFORMATION: u16 = 1;
const INFORMATION_GUID: usize = 12;
const INFORMATION_HEAD: usize = 28;
/// The stream that tells what else there is ("DBI"), and fields of its header.
const DEBUG_INFORMATION: u16 = 3;
const HEADER: usize = 64;
const SYMBOLS: usize = 20;
/// Sizes of the parts that follow the header; the last but one is that of the list of further streams.
const PARTS: [usize; 7] = [24, 28, 32, 36, 40, 52, 48];
/// A list of a dozen stream numbers.
const MAX_STREAM_LIST: u32 = 256;
/// A stream number that names none.
const NO_STREAM: u16 = 0xffff;

/// A record: the length of what follows it, the kind, for `S_PUB32` flags, offset, section and name.
const RECORD_HEAD: usize = 4;
const S_PUB32: u16 = 0x110e;
const PUBLIC_OFFSET: usize = 8;
const PUBLIC_SECTION: usize = 12;
const PUBLIC_NAME: usize = 14;
/// Bytes of records that are looked at together; a record has less.
const WINDOW: usize = 1 << 18;

/// What a kernel's PDB says of its debugger data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelPdb {
    /// The GUID as the image that it belongs to has it.
    pub(crate) guid: [u8; 16],
    /// Where the image has them.
    pub places: DebuggerDataPlaces,
}

impl KernelPdb {
    /// Reads a PDB. Memory is bounded whatever the file is: its stream directory, its section headers and a window of its
    /// symbols; time is bounded by the size of the file.
    ///
    /// # Errors
    /// [`PdbError`].
    pub fn read(file: impl Read + Seek) -> Result<Self, PdbError> {
        let mut pdb = Msf::open(file)?;
        let mut head = [0; INFORMATION_HEAD];
        pdb.read(INFORMATION, 0, &mut head)?;
        let guid = head.get(INFORMATION_GUID..).and_then(<[u8]>::first_chunk).copied();
        let guid = guid.unwrap_or_default();
        let mut header = [0; HEADER];
        pdb.read(DEBUG_INFORMATION, 0, &mut header)?;
        let streams = further_streams(&mut pdb, &header)?;
        let sections = Sections::read(&mut pdb, &streams)?;
        let symbols = u16_at(&header, SYMBOLS).unwrap_or(NO_STREAM);
        let (mut block, mut encoding) = (None, [None; 3]);
        publics(&mut pdb, symbols, |name, section, offset| {
            if name == BLOCK {
                block = sections.place(section, offset);
            } else if let Some(index) = ENCODING.iter().position(|wanted| *wanted == name) {
                if let Some(slot) = encoding.get_mut(index) {
                    *slot = sections.place(section, offset);
                }
            }
        })?;
        let encoding = match encoding {
            [Some(never), Some(always), Some(encoded)] => Some([never, always, encoded]),
            _ => None,
        };
        let block = block.ok_or(PdbError::NoDebuggerData)?;
        let places = DebuggerDataPlaces { block, encoding };
        Ok(Self { guid, places })
    }
}

/// The numbers of the streams that the end of the debug information lists.
fn further_streams(pdb: &mut Msf<impl Read + Seek>, header: &[u8; HEADER]) -> Result<Vec<u16>, PdbError> {
    let sizes = PARTS.map(|at| u32_at(header, at).unwrap_or(0));
    let [before @ .., length] = sizes;
    let start = before
        .iter()
        .try_fold(HEADER as u32, |end, size| end.checked_add(*size))
        .ok_or_else(|| PdbError::malformed("its debug information has parts of more than 4 GiB"))?;
    let mut list = vec![0; length.min(MAX_STREAM_LIST) as usize & !1];
    pdb.read(DEBUG_INFORMATION, start, &mut list)?;
    Ok(list.chunks_exact(2).filter_map(|number| u16_at(number, 0)).collect())
}

/// Shows all public symbols: name, section (from 1), offset.
fn publics(
    pdb: &mut Msf<impl Read + Seek>,
    stream: u16,
    mut each: impl FnMut(&[u8], u16, u32),
) -> Result<(), PdbError> {
    let size = pdb.size(stream);
    let mut window = vec![0; WINDOW.min(size as usize)];
    let mut start = 0;
    while start < size {
        let length = window.len().min((size - start) as usize);
        let bytes = &mut window[..length];
        pdb.read(stream, start, bytes)?;
        let used = records(bytes, &mut each);
        if used == 0 {
            // Less than a record is left, and the stream has no more: what is behind the last whole record.
            let wrong = format!("the symbol record at offset {start:#x} is cut off");
            return Err(PdbError::malformed(wrong));
        }
        start += used as u32;
    }
    Ok(())
}

/// Shows the public symbols at the front of `bytes`; how many bytes they and other whole records take.
fn records(bytes: &[u8], each: &mut impl FnMut(&[u8], u16, u32)) -> usize {
    let mut used = 0;
    while let Some(length) = bytes.get(used..).and_then(|rest| u16_at(rest, 0)) {
        let Some(record) = bytes.get(used..).and_then(|rest| rest.get(..2 + usize::from(length))) else {
            break;
        };
        used += record.len();
        if record.len() >= RECORD_HEAD && u16_at(record, 2) == Some(S_PUB32) {
            let name = record.get(PUBLIC_NAME..).unwrap_or_default();
            let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
            if let (Some(offset), Some(section)) = (u32_at(record, PUBLIC_OFFSET), u16_at(record, PUBLIC_SECTION)) {
                each(&name[..end], section, offset);
            }
        }
    }
    used
}
