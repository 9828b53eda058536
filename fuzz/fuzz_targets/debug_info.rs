//! Functions and lines of a driver, from its PDB and from the DWARF in its file: any bytes, and what compilers made, with changes.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use storlock::windows::pdb::DriverPdb;
use storlock::windows::{FileImage, Symbols};

const PDB: &[u8] = include_bytes!("../../monitor/tests/data/symbols-pdb.pdb");
const DWARF_4: &[u8] = include_bytes!("../../monitor/tests/data/symbols-dwarf.dll");
const DWARF_5: &[u8] = include_bytes!("../../monitor/tests/data/symbols-dwarf5.dll");

#[derive(Debug, Arbitrary)]
enum Input {
    Pdb(Vec<u8>),
    Image(Vec<u8>),
    /// Which file, places, what is written there, and how many bytes of it.
    Changed(u8, Vec<(u32, u32, u8)>),
}

fn changed(good: &[u8], changes: &[(u32, u32, u8)]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for (at, value, width) in changes {
        let at = *at as usize % bytes.len();
        let width = 1 + usize::from(width % 4);
        for (place, byte) in bytes[at..].iter_mut().zip(value.to_le_bytes()).take(width) {
            *place = byte;
        }
    }
    bytes
}

fn of_pdb(bytes: Vec<u8>) -> Option<Symbols> {
    DriverPdb::read(Cursor::new(bytes)).ok().map(Symbols::from_pdb)
}

fn of_image(bytes: Vec<u8>) -> Option<Symbols> {
    FileImage::parse(bytes).ok().map(|file| Symbols::from_file(&file))
}

fuzz_target!(|input: Input| {
    let symbols = match input {
        Input::Pdb(bytes) => of_pdb(bytes),
        Input::Image(bytes) => of_image(bytes),
        Input::Changed(which, changes) => match which % 3 {
            0 => of_pdb(changed(PDB, &changes)),
            1 => of_image(changed(DWARF_4, &changes)),
            _ => of_image(changed(DWARF_5, &changes)),
        },
    };
    let Some(symbols) = symbols else { return };
    for rva in (0x1000..0x1080).chain([0, u32::MAX]) {
        if let Some((file, line)) = symbols.line(rva) {
            assert!(line > 0 && !file.chars().any(storlock::escape::is_hostile));
        }
        if let Some((name, _)) = symbols.nearest(rva) {
            assert!(!name.chars().any(storlock::escape::is_hostile));
        }
    }
});
