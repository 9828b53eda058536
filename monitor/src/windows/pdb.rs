//! The few things that only a kernel's PDB says, by the pdb2 crate.
//!
//! Talks to an open file. It must not know where PDBs are kept.

use std::fmt::Debug;
use std::io::{Read, Seek};

use pdb2::{AddressMap, FallibleIterator as _, PDB, SymbolData};

use super::debugger_data::DebuggerDataPlaces;

/// Why a PDB is of no use.
#[derive(Debug, thiserror::Error)]
pub enum PdbError {
    /// It cannot be read as a PDB.
    #[error("it is no PDB that can be read: {0}")]
    Unreadable(#[from] pdb2::Error),
    /// It does not name the block.
    #[error("it does not name KdDebuggerDataBlock")]
    NoDebuggerData,
}

const BLOCK: &[u8] = b"KdDebuggerDataBlock";
/// The three that the block is encoded by.
const ENCODING: [&[u8]; 3] = [b"KiWaitNever", b"KiWaitAlways", b"KdpDataBlockEncoded"];

/// What a kernel's PDB says of its debugger data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelPdb {
    /// The GUID as the image that it belongs to has it.
    pub guid: [u8; 16],
    /// Where the image has them.
    pub places: DebuggerDataPlaces,
}

impl KernelPdb {
    /// Reads a PDB.
    ///
    /// # Errors
    /// [`PdbError`].
    pub fn read(file: impl Read + Seek + Debug + Send + 'static) -> Result<Self, PdbError> {
        let mut pdb = PDB::open(file)?;
        let guid = pdb.pdb_information()?.guid.to_bytes_le();
        let map = pdb.address_map()?;
        let symbols = pdb.global_symbols()?;
        let (mut block, mut encoding) = (None, [None; 3]);
        let mut iterator = symbols.iter();
        while let Some(symbol) = iterator.next()? {
            // Kinds that the crate does not know are none of these.
            let Ok(SymbolData::Public(public)) = symbol.parse() else {
                continue;
            };
            let name = public.name.as_bytes();
            if name == BLOCK {
                block = place(&map, public.offset);
            } else if let Some(index) = ENCODING.iter().position(|wanted| *wanted == name) {
                if let Some(slot) = encoding.get_mut(index) {
                    *slot = place(&map, public.offset);
                }
            }
        }
        let encoding = match encoding {
            [Some(never), Some(always), Some(encoded)] => Some([never, always, encoded]),
            _ => None,
        };
        let block = block.ok_or(PdbError::NoDebuggerData)?;
        let places = DebuggerDataPlaces { block, encoding };
        Ok(Self { guid, places })
    }
}

fn place(map: &AddressMap<'_>, offset: pdb2::PdbInternalSectionOffset) -> Option<u32> {
    offset.to_rva(map).map(|rva| rva.0)
}
