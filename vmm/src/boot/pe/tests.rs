//! Loading well-formed, truncated and malformed images.

use proptest::prelude::*;

use super::*;

const TEXT: u32 = 0x1000;
const DATA: u32 = 0x2000;
const RELOC: u32 = 0x3000;

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Offsets of fields in [`image`], for tests that break them.
mod at {
    pub(super) const COFF: usize = 0x44;
    pub(super) const OPTIONAL: usize = COFF + 20;
    pub(super) const ENTRY: usize = OPTIONAL + 16;
    pub(super) const SECTION_ALIGNMENT: usize = OPTIONAL + 32;
    pub(super) const SIZE_OF_IMAGE: usize = OPTIONAL + 56;
    pub(super) const SECTIONS: usize = OPTIONAL + 240;
    pub(super) const RELOC_DATA: usize = 0x600;
}

/// A PE64 image with code, data holding one pointer to itself, and its relocation.
fn image() -> Vec<u8> {
    let mut file = vec![0; 0x800];
    put(&mut file, 0, b"MZ");
    put(&mut file, 0x3c, &0x40u32.to_le_bytes());
    put(&mut file, 0x40, b"PE\0\0");
    put(&mut file, at::COFF, &0x8664u16.to_le_bytes());
    put(&mut file, at::COFF + 2, &3u16.to_le_bytes());
    put(&mut file, at::COFF + 16, &240u16.to_le_bytes());
    put(&mut file, at::COFF + 18, &0x22u16.to_le_bytes());
    put(&mut file, at::OPTIONAL, &0x20bu16.to_le_bytes());
    put(&mut file, at::ENTRY, &TEXT.to_le_bytes());
    put(&mut file, at::OPTIONAL + 24, &0x1_4000_0000u64.to_le_bytes());
    put(&mut file, at::SECTION_ALIGNMENT, &0x1000u32.to_le_bytes());
    put(&mut file, at::OPTIONAL + 36, &0x200u32.to_le_bytes());
    put(&mut file, at::SIZE_OF_IMAGE, &0x4000u32.to_le_bytes());
    put(&mut file, at::OPTIONAL + 60, &0x200u32.to_le_bytes());
    put(&mut file, at::OPTIONAL + 108, &16u32.to_le_bytes());
    put(&mut file, at::OPTIONAL + 112 + 5 * 8, &RELOC.to_le_bytes());
    put(&mut file, at::OPTIONAL + 112 + 5 * 8 + 4, &12u32.to_le_bytes());
    let sections = [
        (b".text\0\0\0", TEXT, 0x200u32, 0x6000_0020u32),
        (b".data\0\0\0", DATA, 0x400, 0xc000_0040),
        (b".reloc\0\0", RELOC, 0x600, 0x4200_0040),
    ];
    for (index, (name, rva, raw, flags)) in sections.into_iter().enumerate() {
        let header = at::SECTIONS + 40 * index;
        put(&mut file, header, name);
        for (field, value) in [(8, 0x200), (12, rva), (16, 0x200), (20, raw), (36, flags)] {
            put(&mut file, header + field, &value.to_le_bytes());
        }
    }
    put(&mut file, 0x200, &[0xf4]);
    put(&mut file, 0x400, &(0x1_4000_0000u64 + u64::from(DATA)).to_le_bytes());
    put(&mut file, at::RELOC_DATA, &DATA.to_le_bytes());
    put(&mut file, at::RELOC_DATA + 4, &12u32.to_le_bytes());
    put(&mut file, at::RELOC_DATA + 8, &0xa000u16.to_le_bytes());
    file
}

fn reason(file: Vec<u8>) -> String {
    match KernelImage::parse("kernel.exe", file) {
        Err(BootError::Image { file, reason }) => {
            assert_eq!(file, "kernel.exe");
            reason
        }
        other => panic!("{other:?}"),
    }
}

fn broken(at: usize, bytes: &[u8]) -> String {
    let mut file = image();
    put(&mut file, at, bytes);
    reason(file)
}

#[test]
fn a_whole_image_is_laid_out_and_moved() {
    let kernel = KernelImage::parse("kernel.exe", image()).unwrap();
    assert_eq!((kernel.size(), kernel.entry()), (0x4000, TEXT));
    let base = 0xffff_f800_4000_0000;
    let memory = kernel.relocated(base).unwrap();
    assert_eq!(&memory[..2], b"MZ");
    assert_eq!(memory[TEXT as usize], 0xf4);
    let pointer = memory[DATA as usize..].first_chunk().unwrap();
    assert_eq!(u64::from_le_bytes(*pointer), base + u64::from(DATA));
    let access = |writable, executable| Access { writable, executable };
    let expected = [
        access(false, false),
        access(false, true),
        access(true, false),
        access(false, false),
    ];
    assert_eq!(kernel.pages(), expected);
}

/// The sections after a change of some fields, laid out at the preferred base. The headers are mapped too, and have the change.
fn laid_out(changes: &[(usize, u32)]) -> Vec<u8> {
    let mut file = image();
    for &(place, value) in changes {
        put(&mut file, place, &value.to_le_bytes());
    }
    let kernel = KernelImage::parse("kernel.exe", file).unwrap();
    kernel.relocated(0x1_4000_0000).unwrap().split_off(TEXT as usize)
}

#[test]
fn what_headers_leave_open_is_filled_in_as_by_windows_loader() {
    let expected = laid_out(&[]);
    let section = |index: usize, field: usize| at::SECTIONS + 40 * index + field;
    // No virtual size; a file pointer within its sector; a raw size beyond the section's pages.
    for changes in [
        vec![(section(0, 8), 0), (section(1, 8), 0), (section(2, 8), 0)],
        vec![(section(1, 20), 0x4ff)],
        vec![(section(2, 16), 0x200), (section(2, 8), 0x0c)],
    ] {
        assert_eq!(laid_out(&changes), expected, "{changes:x?}");
    }
    let with = |at: usize, size: usize| {
        let mut other = expected.clone();
        other[at - TEXT as usize..][..size].fill(0);
        other
    };
    // Nothing of the file, whatever points to it, and a raw size that no file has.
    assert_eq!(
        laid_out(&[(section(1, 20), 0), (section(1, 16), u32::MAX >> 1)]),
        with(DATA as usize, 0x200)
    );
    assert_eq!(
        laid_out(&[(section(1, 16), 0), (section(1, 20), 0x7000_0000)]),
        with(DATA as usize, 0x200)
    );
}

#[test]
fn an_image_with_sections_closer_than_a_page_is_mapped_as_its_file_is() {
    let mut file = image();
    // Code, data and relocations share one page.
    for (index, raw) in [0x200u32, 0x400, 0x600].into_iter().enumerate() {
        put(&mut file, at::SECTIONS + 40 * index + 12, &raw.to_le_bytes());
    }
    put(&mut file, at::SECTION_ALIGNMENT, &0x20u32.to_le_bytes());
    put(&mut file, at::OPTIONAL + 36, &0x20u32.to_le_bytes());
    put(&mut file, at::ENTRY, &0x200u32.to_le_bytes());
    put(&mut file, at::SIZE_OF_IMAGE, &0x800u32.to_le_bytes());
    put(&mut file, at::OPTIONAL + 112 + 5 * 8, &0x600u32.to_le_bytes());
    put(&mut file, at::RELOC_DATA, &0u32.to_le_bytes());
    put(&mut file, at::RELOC_DATA + 8, &0xa400u16.to_le_bytes());
    let kernel = KernelImage::parse("kernel.exe", file.clone()).unwrap();
    assert_eq!(kernel.size(), 0x1000);
    let memory = kernel.relocated(0xffff_f800_4000_0000).unwrap();
    assert_eq!(memory[..0x400], file[..0x400]);
    let pointer = u64::from_le_bytes(*memory[0x400..].first_chunk().unwrap());
    assert_eq!(pointer, 0xffff_f800_4000_0000 + u64::from(DATA));
    let everything = Access {
        writable: true,
        executable: true,
    };
    assert_eq!(kernel.pages(), [everything]);
}

#[test]
fn each_defect_is_named() {
    assert!(reason(Vec::new()).contains("no whole PE64 image"));
    assert!(broken(at::COFF, &0x14cu16.to_le_bytes()).contains("machine type 0x14c"));
    assert!(broken(at::ENTRY, &DATA.to_le_bytes()).contains("entry point 0x2000"));
    assert!(broken(at::ENTRY, &u32::MAX.to_le_bytes()).contains("entry point"));
    assert!(broken(at::SIZE_OF_IMAGE, &u32::MAX.to_le_bytes()).contains("size of 4294967295"));
    assert!(broken(at::SIZE_OF_IMAGE, &0x3000u32.to_le_bytes()).contains("section .reloc"));
    assert!(broken(at::SECTION_ALIGNMENT, &0x1800u32.to_le_bytes()).contains("alignment 0x1800"));
    // .data over .text, beyond the file, and not on a page.
    assert!(broken(at::SECTIONS + 40 + 12, &TEXT.to_le_bytes()).contains("section .data"));
    assert!(broken(at::SECTIONS + 40 + 20, &u32::MAX.to_le_bytes()).contains("truncated"));
    assert!(broken(at::SECTIONS + 40 + 12, &(DATA + 1).to_le_bytes()).contains("section .data"));
    // Relocations: outside, of an unknown type, in a block that is too long.
    assert!(broken(at::RELOC_DATA, &0x3ffcu32.to_le_bytes()).contains("relocation at 0x3ffc"));
    assert!(broken(at::RELOC_DATA + 8, &0x3000u16.to_le_bytes()).contains("type 3"));
    assert!(broken(at::RELOC_DATA + 4, &0x7000_0000u32.to_le_bytes()).contains("relocations"));
}

#[test]
fn a_truncated_image_is_refused_at_every_length() {
    let whole = image();
    for length in 0..whole.len() {
        assert!(!reason(whole[..length].to_vec()).is_empty(), "{length}");
    }
}

#[test]
fn stripped_relocations_are_found_out_when_the_base_is_chosen() {
    let mut file = image();
    put(&mut file, at::COFF + 18, &0x23u16.to_le_bytes());
    let kernel = KernelImage::parse("kernel.exe", file).unwrap();
    assert!(kernel.relocated(0x1_4000_0000).is_ok());
    let error = kernel.relocated(0xffff_f800_4000_0000).unwrap_err();
    assert!(error.to_string().contains("kernel.exe") && error.to_string().contains("stripped"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_damage_makes_the_loader_fall(
        damage in prop::collection::vec((0usize..0x800, any::<u8>()), 1..8),
        headers in prop::collection::vec((0usize..0x210, prop::sample::select(vec![0u8, 0x7f, 0x80, 0xff])), 0..4),
    ) {
        let mut file = image();
        for (place, value) in damage.into_iter().chain(headers) {
            file[place] = value;
        }
        if let Ok(kernel) = KernelImage::parse("kernel.exe", file) {
            prop_assert!(kernel.size() <= IMAGE_SIZE_LIMIT && kernel.entry() < kernel.size());
            let memory = kernel.relocated(0xffff_f800_4000_0000);
            if let Ok(memory) = memory {
                prop_assert_eq!(memory.len(), kernel.size() as usize);
            }
        }
    }
}
