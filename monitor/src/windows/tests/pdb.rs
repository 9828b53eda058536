//! Tests of the PDB's reader on an image and its PDB as a linker made them (`tests/data/kernel-pdb.s`).

use std::io::Cursor;

use proptest::prelude::*;

use crate::vmi::fake::Space;
use crate::windows::debugger_data::DebuggerDataPlaces;
use crate::windows::pdb::{KernelPdb, PdbError};
use crate::windows::testing::{CODE, PeBuilder, READ_ONLY};
use crate::windows::{CodeView, FileImage, Image};

const IMAGE: &[u8] = include_bytes!("../../../tests/data/kernel.dll");
const PDB: &[u8] = include_bytes!("../../../tests/data/kernel.pdb");

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

/// By another reader, which is only safe with a file that is known to be good.
#[test]
fn another_reader_finds_the_same() {
    use pdb2::FallibleIterator as _;
    let mut other = pdb2::PDB::open(Cursor::new(PDB)).unwrap();
    let guid = other.pdb_information().unwrap().guid.to_bytes_le();
    let map = other.address_map().unwrap();
    let symbols = other.global_symbols().unwrap();
    let mut iterator = symbols.iter();
    let mut found = std::collections::HashMap::new();
    while let Some(symbol) = iterator.next().unwrap() {
        if let Ok(pdb2::SymbolData::Public(public)) = symbol.parse() {
            found.insert(
                public.name.to_string().into_owned(),
                public.offset.to_rva(&map).unwrap().0,
            );
        }
    }
    let pdb = KernelPdb::read(Cursor::new(PDB)).unwrap();
    let encoding = ["KiWaitNever", "KiWaitAlways", "KdpDataBlockEncoded"].map(|name| found[name]);
    assert_eq!(pdb.guid, guid);
    assert_eq!(
        pdb.places,
        DebuggerDataPlaces {
            block: found["KdDebuggerDataBlock"],
            encoding: Some(encoding)
        }
    );
}

/// A PDB made by hand: streams of this size, one block after the other, and what is in them.
struct Made {
    block: usize,
    streams: Vec<Vec<u8>>,
}

impl Made {
    /// Streams 1 and 3, section headers in 5, symbols in 6, the streams of an address map in 7 and 8.
    fn new(block: usize, symbols: &[u8], omap: Option<&[(u32, u32)]>) -> Self {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let mut information = words(&[20000404, 0, 1]);
        information.extend([7; 16]);
        let list: Vec<u16> = match omap {
            None => vec![0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 5],
            Some(_) => vec![0xffff, 0xffff, 0xffff, 0xffff, 7, 5, 0xffff, 0xffff, 0xffff, 0xffff, 8],
        };
        let mut debug = vec![0; 64];
        debug[20..22].copy_from_slice(&6u16.to_le_bytes());
        debug[24..28].copy_from_slice(&10u32.to_le_bytes());
        debug[48..52].copy_from_slice(&(list.len() as u32 * 2).to_le_bytes());
        debug.extend([0xee; 10]);
        debug.extend(list.iter().flat_map(|number| number.to_le_bytes()));
        let headers = |addresses: &[u32]| -> Vec<u8> {
            let header = |address: &u32| {
                let mut header = [0; 40];
                header[12..16].copy_from_slice(&address.to_le_bytes());
                header
            };
            addresses.iter().flat_map(header).collect()
        };
        let pieces: Vec<u32> = omap
            .unwrap_or_default()
            .iter()
            .flat_map(|&(from, to)| [from, to])
            .collect();
        let streams = vec![
            Vec::new(),
            information,
            Vec::new(),
            debug,
            Vec::new(),
            headers(&[0x1000, 0x9000]),
            symbols.to_vec(),
            words(&pieces),
            headers(&[0x100, 0x5000]),
        ];
        Self { block, streams }
    }

    /// Header, directory and map; the blocks of all streams in reverse order.
    fn file(&self) -> Vec<u8> {
        let blocks = |length: usize| length.div_ceil(self.block);
        let mut directory = vec![self.streams.len() as u32];
        directory.extend(self.streams.iter().map(|stream| stream.len() as u32));
        let all: usize = self.streams.iter().map(|stream| blocks(stream.len())).sum();
        let (first, mut next) = (4, all);
        let mut data = vec![0; all * self.block];
        for stream in &self.streams {
            for piece in stream.chunks(self.block) {
                next -= 1;
                directory.push(first + next as u32);
                data[next * self.block..][..piece.len()].copy_from_slice(piece);
            }
        }
        let directory: Vec<u8> = directory.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert!(directory.len() <= self.block);
        let mut file = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0".to_vec();
        let fields = [self.block as u32, 1, first + all as u32, directory.len() as u32, 0, 3];
        file.extend(fields.iter().flat_map(|word| word.to_le_bytes()));
        file.resize(2 * self.block, 0);
        file.extend(&directory);
        file.resize(3 * self.block, 0);
        file.extend(2u32.to_le_bytes());
        file.resize(4 * self.block, 0);
        file.extend(data);
        file
    }
}

fn public(name: &str, section: u16, offset: u32) -> Vec<u8> {
    let mut record = [0x110e_u16.to_le_bytes(), [0, 0], [0, 0]].concat();
    record.extend(offset.to_le_bytes());
    record.extend(section.to_le_bytes());
    record.extend(name.as_bytes());
    record.push(0);
    let mut bytes = (record.len() as u16).to_le_bytes().to_vec();
    bytes.extend(record);
    bytes
}

#[test]
fn symbols_are_found_across_blocks_and_windows_and_through_an_address_map() {
    let mut symbols = Vec::new();
    for number in 0..20_000 {
        symbols.extend(public(&format!("Other{number}"), 1, number));
    }
    symbols.extend(public("KdDebuggerDataBlock", 2, 0x20));
    symbols.extend(public("NotInTheImage", 9, 0));
    for block in [4096, 32768] {
        let small = &Made::new(block, &symbols[symbols.len() - 200..], None).file();
        // The front of these 200 bytes is no record; what follows it is found all the same, or refused.
        let _ = KernelPdb::read(Cursor::new(small));
        let made = Made::new(block, &symbols, None).file();
        let pdb = KernelPdb::read(Cursor::new(&made)).unwrap();
        assert_eq!(
            (pdb.guid, pdb.places.block, pdb.places.encoding),
            ([7; 16], 0x9020, None)
        );
    }
    // Linked at 5000h + 20h; the piece from 5010h on was moved to c000h.
    let moved = [(0x100, 0x200), (0x5010, 0xc000), (0x6000, 0)];
    let made = Made::new(4096, &symbols, Some(&moved)).file();
    assert_eq!(KernelPdb::read(Cursor::new(&made)).unwrap().places.block, 0xc010);
    let gone = [(0x100, 0x200), (0x5010, 0)];
    let made = Made::new(4096, &symbols, Some(&gone)).file();
    assert!(matches!(
        KernelPdb::read(Cursor::new(&made)),
        Err(PdbError::NoDebuggerData)
    ));
}

#[test]
fn numbers_that_cannot_be_are_refused_by_name() {
    let file = Made::new(4096, &public("KdDebuggerDataBlock", 2, 0x20), None).file();
    assert!(KernelPdb::read(Cursor::new(&file)).is_ok());
    let directory = 2 * 4096;
    for (at, value, word) in [
        (32, 0, "blocks have"),
        (32, 96, "blocks have"),
        (32, 1 << 31, "blocks have"),
        (40, u32::MAX, "cut off"),
        (44, u32::MAX, "directory"),
        (44, 0x1002, "directory"),
        (44, 4, "too short"),
        (52, u32::MAX, "block 4294967295"),
        (3 * 4096, 0x5000, "block 20480"),
        (directory, u32::MAX, "streams"),
        (directory, 0x7000, "too short"),
        // Stream 6: more than the file; then as much as the file has, but with no blocks listed.
        (directory + 28, 0xffff_fff0, "stream 6"),
        (directory + 28, 0x9000, "too short"),
        // Stream 1 is shorter than its head; its block is no block.
        (directory + 8, 10, "stream 1"),
        (directory + 40, u32::MAX - 1, "block"),
    ] {
        let mut changed = file.clone();
        changed[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        let refused = KernelPdb::read(Cursor::new(&changed)).unwrap_err().to_string();
        assert!(refused.contains(word), "{at:#x} = {value:#x}: {refused}");
    }
}

#[test]
fn what_is_no_pdb_is_refused() {
    for bytes in [&b"MZ"[..], &PDB[..0x1234], &[0; 0x2000]] {
        let refused = KernelPdb::read(Cursor::new(bytes));
        assert!(matches!(refused, Err(PdbError::Malformed(_))), "{refused:?}");
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
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

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
