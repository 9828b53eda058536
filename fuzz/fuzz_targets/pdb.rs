//! A kernel's PDB as `storlock run --symbols` reads it: any bytes, and a linker's PDB with changes.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use storlock::windows::pdb::KernelPdb;

const PDB: &[u8] = include_bytes!("../../monitor/tests/data/kernel.pdb");

#[derive(Debug, Arbitrary)]
enum Input {
    Any(Vec<u8>),
    /// Places, what is written there, and how many bytes of it; where the file ends.
    Changed(Vec<(u16, u32, u8)>, Option<u16>),
}

fuzz_target!(|input: Input| {
    let bytes = match input {
        Input::Any(bytes) => bytes,
        Input::Changed(changes, cut) => {
            let mut bytes = PDB.to_vec();
            for (at, value, width) in changes {
                let at = usize::from(at) % bytes.len();
                let width = 1 + usize::from(width % 4);
                for (place, byte) in bytes[at..].iter_mut().zip(value.to_le_bytes()).take(width) {
                    *place = byte;
                }
            }
            bytes.truncate(cut.map_or(usize::MAX, usize::from));
            bytes
        }
    };
    if let Err(error) = KernelPdb::read(Cursor::new(bytes)) {
        assert!(error.to_string().len() < 256);
    }
});
