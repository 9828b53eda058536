//! Tests of names for addresses.

use proptest::prelude::*;

use crate::vmi::fake::Space;
use crate::windows::testing::{CODE, DATA, EXCEPTION, PeBuilder, READ_ONLY};
use crate::windows::{FileImage, Image, Modules, SymbolTable, Symbols};

const BASE: u64 = 0xffff_f880_0020_0000;

fn builder() -> PeBuilder {
    let mut builder = PeBuilder::new(BASE);
    builder.section(".text", CODE, vec![0xcc; 0x800]);
    builder.section(".data", DATA, vec![0; 0x100]);
    builder.exports(
        "driver.sys",
        &[("Start", Ok(0x1010)), ("End", Ok(0x1400)), ("Table", Ok(0x2010))],
    );
    builder
}

/// A record: name, value, section, type, class.
fn record(name: [u8; 8], value: u32, section: u16, kind: u16, class: u8) -> Vec<u8> {
    let mut bytes = name.to_vec();
    bytes.extend_from_slice(&value.to_le_bytes());
    bytes.extend_from_slice(&section.to_le_bytes());
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&[class, 0]);
    bytes
}

fn file_with_symbols(records: &[Vec<u8>], strings: &[u8]) -> Vec<u8> {
    let mut file = builder().file();
    let offset = file.len() as u32;
    file[0x8c..0x90].copy_from_slice(&offset.to_le_bytes());
    file[0x90..0x94].copy_from_slice(&(records.len() as u32).to_le_bytes());
    file.extend(records.concat());
    file.extend_from_slice(&(strings.len() as u32 + 4).to_le_bytes());
    file.extend_from_slice(strings);
    file
}

#[test]
fn the_nearest_name_is_below_the_address_and_in_its_section() {
    let file = FileImage::parse(builder().file()).unwrap();
    let symbols = Symbols::from_file(&file);
    assert_eq!(symbols.nearest(0x1010), Some(("Start", 0)));
    assert_eq!(symbols.nearest(0x13ff), Some(("Start", 0x3ef)));
    assert_eq!(symbols.nearest(0x1400), Some(("End", 0)));
    assert_eq!(symbols.nearest(0x100f), None);
    assert_eq!(
        symbols.nearest(0x2000),
        None,
        "a name of .text does not reach into .data"
    );
    assert_eq!(symbols.nearest(0x2011), Some(("Table", 1)));
    assert_eq!(symbols.nearest(0x9999), None);
}

#[test]
fn an_export_names_what_is_near_and_a_documented_name_goes_before_another_of_the_same_code() {
    let mut builder = PeBuilder::new(BASE);
    builder.section(".text", CODE, vec![0xcc; 0x5000]);
    builder.exports(
        "test.sys",
        &[
            ("ExfAcquireLock", Ok(0x1400)),
            ("ExAcquireLock", Ok(0x1400)),
            ("KeReleaseLock", Ok(0x1200)),
            ("KfReleaseLock", Ok(0x1200)),
            ("AaOther", Ok(0x1200)),
        ],
    );
    let symbols = Symbols::from_file(&FileImage::parse(builder.file()).unwrap());
    assert_eq!(symbols.nearest(0x1210), Some(("KeReleaseLock", 0x10)));
    assert_eq!(symbols.nearest(0x1400), Some(("ExAcquireLock", 0)));
    assert_eq!(symbols.nearest(0x23ff), Some(("ExAcquireLock", 0xfff)));
    assert_eq!(symbols.nearest(0x2400), None, "as far as that it is another routine");
}

#[test]
fn functions_of_the_symbol_table_are_named_before_labels_and_sections() {
    let records = [
        record(*b".text\0\0\0", 0, 1, 0, 3),
        record(*b"label\0\0\0", 0x100, 1, 0, 3),
        record(*b"HwStart\0", 0x100, 1, 0x20, 2),
        record([0, 0, 0, 0, 4, 0, 0, 0], 0x200, 1, 0x20, 3),
        record(*b"outside\0", 0x8000, 1, 0x20, 2),
        record(*b"undefin\0", 0x300, 0, 0x20, 2),
        record(*b"file\0\0\0\0", 0x300, 0xfffe, 0, 103),
    ];
    let file = FileImage::parse(file_with_symbols(&records, b"a_name_longer_than_eight\0")).unwrap();
    let symbols = Symbols::from_file(&file);
    assert_eq!(symbols.nearest(0x1100), Some(("HwStart", 0)));
    assert_eq!(symbols.nearest(0x1234), Some(("a_name_longer_than_eight", 0x34)));
    assert_eq!(symbols.nearest(0x13f0), Some(("a_name_longer_than_eight", 0x1f0)));
}

#[test]
fn names_of_a_file_are_used_only_for_the_same_build() {
    let records = [record(*b"Inner\0\0\0", 0x20, 1, 0x20, 3)];
    let file = file_with_symbols(&records, b"");
    let mut space = Space::default();
    builder().map(&mut space);
    let location = |file: Vec<u8>| {
        let mut modules = Modules::with_kernel(0, &Image::read(&space, BASE).unwrap());
        let mut table = SymbolTable::default();
        let file = FileImage::parse(file).unwrap();
        table.add("NTOSKRNL.exe", file.image(), Symbols::from_file(&file));
        table.locate(&space, &mut modules, BASE + 0x1024).to_string()
    };
    assert_eq!(location(file.clone()), "ntoskrnl.exe+0x1024 (Inner+0x4)");
    let mut other_build = file;
    other_build[0x88] ^= 1; // TimeDateStamp
    assert_eq!(location(other_build), "ntoskrnl.exe+0x1024 (Start+0x14)");
    let mut modules = Modules::with_kernel(0, &Image::read(&space, BASE).unwrap());
    assert_eq!(
        SymbolTable::default().locate(&space, &mut modules, 0x1234).to_string(),
        "0x1234"
    );
}

#[test]
fn a_name_ends_with_its_function_where_the_unwind_tables_tell() {
    // Two functions; a part of the first that lies elsewhere; and a part of a third one.
    let parts = [
        (0x1010, 0x1100, 0x3100),
        (0x1100, 0x1300, 0x3100),
        (0x1480, 0x14c0, 0x3110),
        (0x1500, 0x1540, 0x3120),
    ];
    let mut builder = builder();
    let words = |words: [u32; 3]| words.map(u32::to_le_bytes).concat();
    let mut table: Vec<u8> = parts
        .iter()
        .flat_map(|&(begin, end, info)| words([begin, end, info]))
        .collect();
    table.resize(0x100, 0);
    let rva = builder.next_rva();
    let info = rva + 0x100;
    for (index, (_, _, old)) in parts.iter().enumerate() {
        table[index * 12 + 8..index * 12 + 12].copy_from_slice(&(info + (old & 0xff)).to_le_bytes());
    }
    // Version 1 without codes; and the same, chained (4 << 3) to an entry that follows.
    table.extend([1, 0, 0, 0].iter().chain(&[0; 12]));
    table.extend([0x21, 0, 0, 0].iter().chain(&words([0x1010, 0x1100, info])));
    table.extend([0x21, 0, 0, 0].iter().chain(&words([0x1600, 0x1700, info])));
    builder.section(".pdata", READ_ONLY, table);
    builder.directory(EXCEPTION, rva, 12 * parts.len() as u32);
    let mut space = Space::default();
    builder.map(&mut space);
    let name = |rva: u64| {
        let mut modules = Modules::with_kernel(0, &Image::read(&space, BASE).unwrap());
        let found = SymbolTable::default().locate(&space, &mut modules, BASE + rva);
        found.symbol.map(|(name, _)| name)
    };
    assert_eq!(name(0x1050).as_deref(), Some("Start"));
    assert_eq!(name(0x1150), None, "the next function, which has no name");
    assert_eq!(
        name(0x1350).as_deref(),
        Some("Start"),
        "code that the table does not know"
    );
    assert_eq!(name(0x1490), None, "a part of Start behind another name");
    assert_eq!(name(0x1510), None, "a part of a function without a name");
}

/// Many records may name one long string, from any place in it on.
#[test]
fn names_of_a_symbol_table_are_bounded_together() {
    use crate::windows::coff::{self, MAX_NAMES, MAX_SYMBOLS};
    let mut strings = vec![0x1b; 1000];
    strings.push(0);
    let with = |count: u32, strings: &[u8]| {
        let records: Vec<_> = (0..count)
            .map(|number| {
                record(
                    [0, 0, 0, 0, 4 + (number % 8) as u8, 0, 0, 0],
                    number % 0x800,
                    1,
                    0x20,
                    2,
                )
            })
            .collect();
        coff::symbols(&FileImage::parse(file_with_symbols(&records, strings)).unwrap())
    };
    // Each name of 1000 bytes is 4000 characters long when it is escaped.
    let symbols = with(100_000, &strings);
    let bytes: usize = symbols.iter().map(|symbol| symbol.name.len()).sum();
    assert!(bytes <= MAX_NAMES && bytes > MAX_NAMES / 2, "{bytes}");
    assert_eq!(with(MAX_SYMBOLS as u32 + 10, b"a_short_name\0").len(), MAX_SYMBOLS);
}

proptest! {
    #[test]
    fn any_symbol_table_is_read_without_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200), count in any::<u32>(), offset in 0u32..0x3000,
    ) {
        let mut file = file_with_symbols(&[bytes], b"");
        file[0x90..0x94].copy_from_slice(&count.to_le_bytes());
        if offset < 0x1000 {
            file[0x8c..0x90].copy_from_slice(&offset.to_le_bytes());
        }
        if let Ok(file) = FileImage::parse(file) {
            let symbols = Symbols::from_file(&file);
            for rva in [0, 0x1000, 0x17ff, 0x2000, u32::MAX] {
                let _ = symbols.nearest(rva);
            }
        }
    }
}
