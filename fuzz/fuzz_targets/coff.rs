//! The symbol table of a driver's file: any records and strings after a well-formed image.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use storlock::windows::{FileImage, Symbols};

const IMAGE: &[u8] = include_bytes!("../../monitor/tests/data/kernel.dll");
/// Bytes of a record.
const RECORD: usize = 18;

#[derive(Debug, Arbitrary)]
struct Input {
    records: Vec<[u8; RECORD]>,
    strings: Vec<u8>,
    /// What the header says instead of where the table is, and of how many records it has.
    offset: Option<u32>,
    count: Option<u32>,
    rvas: [u32; 4],
}

fuzz_target!(|input: Input| {
    let mut file = IMAGE.to_vec();
    let header = u32::from_le_bytes([file[0x3c], file[0x3d], file[0x3e], file[0x3f]]) as usize;
    let offset = input.offset.unwrap_or(file.len() as u32);
    let count = input.count.unwrap_or(input.records.len() as u32);
    file[header + 12..header + 16].copy_from_slice(&offset.to_le_bytes());
    file[header + 16..header + 20].copy_from_slice(&count.to_le_bytes());
    file.extend(input.records.concat());
    file.extend((input.strings.len() as u32 + 4).to_le_bytes());
    file.extend(&input.strings);
    let Ok(file) = FileImage::parse(file) else { return };
    let symbols = Symbols::from_file(&file);
    for rva in input.rvas {
        if let Some((name, distance)) = symbols.nearest(rva) {
            assert!(distance <= rva && !name.chars().any(storlock::escape::is_hostile));
        }
    }
});
