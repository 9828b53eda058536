//! Tests of the PDB's reader on an image and its PDB as a linker made them (`tests/data/kernel-pdb.s`).

use std::io::Cursor;

use proptest::prelude::*;

use super::debugger_data::DebuggerDataPlaces;
use super::pdb::{KernelPdb, PdbError};
use super::testing::{CODE, PeBuilder, READ_ONLY, Space};
use super::{CodeView, FileImage, Image};

const IMAGE: &[u8] = include_bytes!("../../tests/data/kernel.dll");
const PDB: &[u8] = include_bytes!("../../tests/data/kernel.pdb");

fn code_view() -> CodeView {
    let image = FileImage::parse(IMAGE.to_vec()).unwrap();
    CodeView::read(&image, image.image()).unwrap()
}

#[test]
fn the_image_names_its_pdb_and_the_pdb_the_places() {
    let code_view = code_view();
    assert_eq!((code_view.name.as_str(), code_view.age), ("kernel.pdb", 1));
    let pdb = KernelPdb::read(Cursor::new(PDB)).unwrap();
    let wanted = DebuggerDataPlaces {
        block: 0x41f8,
        // KiWaitNever, KiWaitAlways, KdpDataBlockEncoded.
        encoding: Some([0x4580, 0x4578, 0x4588]),
    };
    assert_eq!((pdb.guid, pdb.places), (code_view.guid, wanted));
}

#[test]
fn what_is_no_pdb_is_refused() {
    for bytes in [&b"MZ"[..], &PDB[..0x1234], &[0; 0x2000]] {
        let refused = KernelPdb::read(Cursor::new(bytes));
        assert!(matches!(refused, Err(PdbError::Unreadable(_))), "{refused:?}");
    }
}

#[test]
fn the_identifier_is_what_symbol_servers_use() {
    let mut bytes = vec![0; 28];
    let record_rva = 0x2000 + 28;
    bytes[12..16].copy_from_slice(&2u32.to_le_bytes());
    bytes[20..24].copy_from_slice(&u32::to_le_bytes(record_rva));
    bytes.extend_from_slice(b"RSDS");
    bytes.extend(1..=16);
    bytes.extend_from_slice(&0x2au32.to_le_bytes());
    bytes.extend_from_slice(b"D:\\build\\ntkrnlmp.pdb\0");
    let mut builder = PeBuilder::new(0xffff_f800_0000_0000);
    builder.section(".text", CODE, vec![0x90; 16]);
    builder.section(".rdata", READ_ONLY, bytes);
    builder.directory(6, 0x2000, 28);
    let mut space = Space::default();
    builder.map(&mut space);
    let image = Image::read(&space, 0xffff_f800_0000_0000).unwrap();
    let code_view = CodeView::read(&space, &image).unwrap();
    assert_eq!(code_view.name, "ntkrnlmp.pdb");
    assert_eq!(code_view.identifier(), "0403020106050807090A0B0C0D0E0F102A");
}

proptest! {
    /// A damaged file is refused, or gives places: which of its bytes are damaged makes no difference.
    #[test]
    fn a_damaged_pdb_does_no_harm(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = PDB.to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = KernelPdb::read(Cursor::new(bytes));
    }
}
