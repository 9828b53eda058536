//! Tests of functions and lines from PDBs and DWARF, on images that compilers made (`tests/data/symbols-build`), against what
//! LLVM says of every address of their code.

use std::io::Cursor;

use proptest::prelude::*;

use crate::windows::pdb::DriverPdb;
use crate::windows::{CodeView, FileImage, Symbols};

const PDB_IMAGE: &[u8] = include_bytes!("../../../tests/data/symbols-pdb.dll");
const PDB: &[u8] = include_bytes!("../../../tests/data/symbols-pdb.pdb");
const PDB_LINES: &str = include_str!("../../../tests/data/symbols-pdb.lines");
const DWARF_4: &[u8] = include_bytes!("../../../tests/data/symbols-dwarf.dll");
const DWARF_4_LINES: &str = include_str!("../../../tests/data/symbols-dwarf.lines");
const DWARF_5: &[u8] = include_bytes!("../../../tests/data/symbols-dwarf5.dll");
const DWARF_5_LINES: &str = include_str!("../../../tests/data/symbols-dwarf5.lines");

fn image(bytes: &[u8]) -> FileImage {
    FileImage::parse(bytes.to_vec()).unwrap()
}

fn of_pdb() -> Symbols {
    let pdb = DriverPdb::read(Cursor::new(PDB)).unwrap();
    Symbols::from_file(&image(PDB_IMAGE)).with_pdb(pdb)
}

/// Compares every address up to the last one that is listed: `RVA FILE:LINE`, from there to the next; `??:0` for none.
fn compare(symbols: &Symbols, listed: &str) {
    let rows: Vec<(u32, Option<(&str, u32)>)> = listed
        .lines()
        .map(|row| {
            let (rva, place) = row.split_once(' ').unwrap();
            let (file, line) = place.rsplit_once(':').unwrap();
            let rva = u32::from_str_radix(rva.trim_start_matches("0x"), 16).unwrap();
            (rva, (file != "??").then(|| (file, line.parse().unwrap())))
        })
        .collect();
    assert!(rows.len() > 5);
    for pair in rows.windows(2) {
        for rva in pair[0].0..pair[1].0 {
            assert_eq!(symbols.line(rva), pair[0].1, "{rva:#x}");
        }
    }
}

#[test]
fn lines_of_every_address_are_those_that_llvm_tells() {
    compare(&of_pdb(), PDB_LINES);
    compare(&Symbols::from_file(&image(DWARF_4)), DWARF_4_LINES);
    compare(&Symbols::from_file(&image(DWARF_5)), DWARF_5_LINES);
}

#[test]
fn functions_without_external_names_are_named_too() {
    for (symbols, hidden) in [
        (of_pdb(), 0x1060),
        (Symbols::from_file(&image(DWARF_4)), 0x1000),
        (Symbols::from_file(&image(DWARF_5)), 0x1000),
    ] {
        assert_eq!(symbols.nearest(hidden + 3), Some(("hidden", 3)));
    }
}

#[test]
fn dwarf_names_functions_where_the_symbol_table_is_gone() {
    let mut bytes = DWARF_4.to_vec();
    let header = u32::from_le_bytes(bytes[0x3c..0x40].try_into().unwrap()) as usize;
    // No symbols; the table stays, since the names of the sections are behind it.
    let table = u32::from_le_bytes(bytes[header + 12..header + 16].try_into().unwrap()) as usize;
    let count = u32::from_le_bytes(bytes[header + 16..header + 20].try_into().unwrap()) as usize;
    bytes[table..table + 18 * count].fill(0);
    assert_eq!(Symbols::from_file(&image(&bytes)).nearest(0x1003), Some(("hidden", 3)));
}

#[test]
fn the_pdb_belongs_to_the_image() {
    let named = CodeView::read(&image(PDB_IMAGE), image(PDB_IMAGE).image()).unwrap();
    assert_eq!(DriverPdb::guid(Cursor::new(PDB)).unwrap(), named.guid);
    assert_eq!(DriverPdb::read(Cursor::new(PDB)).unwrap().guid, named.guid);
}

/// By another reader, which is only safe with a file that is known to be good.
#[test]
fn another_reader_of_pdbs_finds_the_same_lines() {
    use pdb2::FallibleIterator as _;
    let symbols = of_pdb();
    let mut other = pdb2::PDB::open(Cursor::new(PDB)).unwrap();
    let (map, strings) = (other.address_map().unwrap(), other.string_table().unwrap());
    let debug = other.debug_information().unwrap();
    let (mut modules, mut rows) = (debug.modules().unwrap(), 0);
    while let Some(module) = modules.next().unwrap() {
        let Some(information) = other.module_info(&module).unwrap() else {
            continue;
        };
        let program = information.line_program().unwrap();
        let mut lines = program.lines();
        while let Some(line) = lines.next().unwrap() {
            let file = program.get_file_info(line.file_index).unwrap();
            let name = strings.get(file.name).unwrap().to_string().into_owned();
            let rva = line.offset.to_rva(&map).unwrap().0;
            assert_eq!(symbols.line(rva), Some((name.as_str(), line.line_start)));
            rows += 1;
        }
    }
    assert_eq!(rows, 13);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_files_give_something_or_nothing_and_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        for good in [PDB, DWARF_4, DWARF_5] {
            let mut bytes = good.to_vec();
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            bytes.truncate(cut.map_or(usize::MAX, |cut| cut.index(good.len())));
            let symbols = if good == PDB {
                DriverPdb::read(Cursor::new(bytes)).ok().map(Symbols::from_pdb)
            } else {
                FileImage::parse(bytes).ok().map(|file| Symbols::from_file(&file))
            };
            for rva in 0x1000..0x1080 {
                if let Some((file, line)) = symbols.as_ref().and_then(|symbols| symbols.line(rva)) {
                    prop_assert!(line > 0 && !file.contains(crate::escape::is_hostile));
                }
            }
        }
    }
}
