//! Tests of the image readers: what is there is found, and no mutation makes them panic, loop or read without bound.

use proptest::prelude::*;

use crate::vmi::GuestMemory as _;
use crate::vmi::fake::Space;
use crate::windows::testing::{CODE, DATA, EXPORT, IMPORT, PeBuilder, READ_ONLY};
use crate::windows::{ExportTarget, Exports, FileImage, Image, ImageError, ImportName, Imports};

const BASE: u64 = 0xffff_f800_1234_0000;

fn sample() -> PeBuilder {
    let mut builder = PeBuilder::new(BASE);
    builder.section(".text", CODE, vec![0xcc; 0x1800]);
    builder.section(".data", DATA, vec![7; 0x20]);
    builder.exports(
        "sample.sys",
        &[
            ("Zulu", Ok(0x1010)),
            ("Alpha", Ok(0x1020)),
            ("Moved", Err("other.Target")),
            ("Variable", Ok(0x3000)),
        ],
    );
    builder.imports(&[
        ("ntoskrnl.exe", &["KeReleaseSpinLock", "KfRaiseIrql"]),
        ("storport.sys", &["StorPortNotification"]),
    ]);
    builder
}

fn mapped(builder: &PeBuilder) -> Space {
    let mut space = Space::default();
    builder.map(&mut space);
    space
}

#[test]
fn memory_and_file_layout_give_the_same_image() {
    let builder = sample();
    let space = mapped(&builder);
    let file = FileImage::parse(builder.file()).unwrap();
    let image = Image::read(&space, BASE).unwrap();
    assert_eq!(&image, file.image());
    assert_eq!(
        Imports::read(&space, &image).unwrap(),
        Imports::read(&file, file.image()).unwrap()
    );
    let (in_memory, in_file) = (
        Exports::read(&space, &image).unwrap(),
        Exports::read(&file, file.image()).unwrap(),
    );
    assert_eq!(in_memory.entries(), in_file.entries());
    assert_eq!(in_memory.entries().len(), 4);
}

#[test]
fn exports_are_found_by_name_and_forwarders_have_no_address() {
    let space = mapped(&sample());
    let exports = Exports::read(&space, &Image::read(&space, BASE).unwrap()).unwrap();
    assert_eq!(exports.module.as_deref(), Some("sample.sys"));
    assert_eq!(exports.rva("Zulu"), Some(0x1010));
    assert_eq!(exports.rva("Alpha"), Some(0x1020));
    assert_eq!(
        exports.get("Moved").unwrap().target,
        ExportTarget::Forwarder("other.Target".into())
    );
    assert_eq!(exports.rva("Moved"), None);
    assert_eq!(exports.rva("alpha"), None);
    assert_eq!(exports.get("Alpha").unwrap().ordinal, 2);
}

#[test]
fn imports_name_module_and_slot() {
    let mut builder = PeBuilder::new(BASE);
    builder.section(".text", CODE, vec![0xcc; 16]);
    let slots = builder.imports(&[("a.sys", &["One", "Two"]), ("b.sys", &["Three"])]);
    let space = mapped(&builder);
    let imports = Imports::read(&space, &Image::read(&space, BASE).unwrap()).unwrap();
    let found: Vec<_> = imports
        .entries()
        .iter()
        .map(|import| (import.module.as_str(), import.slot))
        .collect();
    assert_eq!(found, [("a.sys", slots[0]), ("a.sys", slots[1]), ("b.sys", slots[2])]);
    assert_eq!(imports.get("Three").unwrap().name, ImportName::Name("Three".into()));
}

#[test]
fn every_truncation_of_a_file_is_an_error_that_says_so() {
    let file = sample().file();
    for length in 0..file.len() {
        match FileImage::parse(file[..length].to_vec()) {
            Err(ImageError::Truncated { needed, have, .. }) => {
                assert_eq!(have, length as u64);
                assert!(
                    needed > have && needed <= file.len() as u64,
                    "{length:#x}: needs {needed:#x}"
                );
            }
            Err(other) => panic!("{length:#x}: {other}"),
            Ok(_) => panic!("{length:#x} bytes were taken for complete"),
        }
    }
    assert!(FileImage::parse(file).is_ok());
}

#[test]
fn bytes_that_are_no_image_are_refused_with_the_reason() {
    let file = sample().file();
    let with = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        FileImage::parse(file).unwrap_err()
    };
    assert_eq!(with(0, b"ZM"), ImageError::NoMz(0x4d5a));
    assert_eq!(with(0x3c, &[0xff; 4]), ImageError::HeaderOffset(0xffff_ffff));
    assert_eq!(with(0x80, b"NE"), ImageError::NoSignature(0x454e));
    assert_eq!(with(0x84, &[0x4c, 1]), ImageError::Machine(0x14c));
    assert_eq!(with(0x98, &[0x0b, 1]), ImageError::Magic(0x10b));
    assert!(matches!(with(0x86, &[0xff, 0xff]), ImageError::Malformed(_)));
}

#[test]
fn an_export_directory_with_absurd_counts_is_refused() {
    for count_at in [20, 24] {
        let builder = sample();
        let mut space = mapped(&builder);
        let image = Image::read(&space, BASE).unwrap();
        let at = image.address(image.directory(EXPORT).rva) + count_at;
        space.write(at, &0x7fff_ffffu32.to_le_bytes());
        assert!(matches!(Exports::read(&space, &image), Err(ImageError::Malformed(_))));
    }
}

#[test]
fn an_import_table_without_end_is_refused() {
    let mut builder = PeBuilder::new(BASE);
    // Every descriptor, thunk and name is the same bytes: a table that never ends inside the image.
    let rva = builder.section(".idata", DATA, 0x1010u32.to_le_bytes().repeat(0x4000));
    builder.directory(IMPORT, rva, 20);
    let space = mapped(&builder);
    let image = Image::read(&space, BASE).unwrap();
    assert!(matches!(Imports::read(&space, &image), Err(ImageError::Malformed(_))));
    assert!(space.reads.get() < 100_000, "{} reads", space.reads.get());
}

/// Offsets of fields in a file that [`PeBuilder`] makes.
const OPTIONAL: usize = 0x98;
const SECTIONS: usize = OPTIONAL + 240;

fn put(file: &mut [u8], at: usize, value: u32) {
    file[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn names(imports: &Imports) -> Vec<String> {
    let text = |import: &crate::windows::Import| format!("{}!{}", import.module, import.name.text());
    imports.entries().iter().map(text).collect()
}

/// Imports and exports of a file after a change of some fields.
fn tables(changes: &[(usize, u32)]) -> (Vec<String>, Vec<(Option<String>, ExportTarget)>) {
    let mut file = sample().file();
    for &(at, value) in changes {
        put(&mut file, at, value);
    }
    let file = FileImage::parse(file).unwrap();
    let imports = Imports::read(&file, file.image()).unwrap();
    let exports = Exports::read(&file, file.image()).unwrap();
    let exports = exports
        .entries()
        .iter()
        .map(|export| (export.name.clone(), export.target.clone()));
    (names(&imports), exports.collect())
}

#[test]
fn sizes_that_headers_give_for_imports_and_exports_are_hints() {
    let expected = tables(&[]);
    assert_eq!((expected.0.len(), expected.1.len()), (3, 4));
    let directory = |index: usize| OPTIONAL + 112 + 8 * index + 4;
    for size in [0, 1, 20, 0x28, 0x7fff_ffff, u32::MAX] {
        assert_eq!(tables(&[(directory(IMPORT), size)]), expected, "{size:#x}");
        let (imports, exports) = tables(&[(directory(EXPORT), size)]);
        assert_eq!(imports, expected.0);
        // What is a forwarder is told by the size alone, as by loaders.
        let named: Vec<_> = exports.iter().map(|(name, _)| name).collect();
        assert_eq!(
            named,
            expected.1.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "{size:#x}"
        );
        let forwarders = exports
            .iter()
            .filter(|(_, target)| matches!(target, ExportTarget::Forwarder(_)));
        assert_eq!(forwarders.count(), usize::from(size > 0x1000), "{size:#x}");
    }
    // Fewer directories than there are, by the count alone.
    assert_eq!(tables(&[(OPTIONAL + 108, 1)]).0, [""; 0]);
    assert_eq!(tables(&[(OPTIONAL + 108, u32::MAX)]), expected);
}

#[test]
fn sections_are_mapped_as_by_windows_loader() {
    let expected = tables(&[]);
    let section = |index: usize, field: usize| SECTIONS + 40 * index + field;
    let (edata, idata) = (2, 3);
    let file = sample().file();
    let pointer = |index: usize| u32::from_le_bytes(*file[section(index, 20)..].first_chunk().unwrap());
    for changes in [
        // Without a virtual size it is the raw size.
        vec![(section(edata, 8), 0), (section(idata, 8), 0)],
        // Pointers count in sectors.
        vec![(section(idata, 20), pointer(idata) + 0x1ff)],
        // Bytes of the file go on to the end of the page, and not beyond, so that more of them are not missed.
        vec![(section(idata, 8), 1)],
        vec![
            (section(0, 16), 0x7000_0000),
            (section(0, 8), 0x20),
            (section(0, 20), 0),
        ],
        // Nothing of the file, but a pointer beyond its end.
        vec![(section(1, 16), 0), (section(1, 20), 0x7000_0000)],
    ] {
        assert_eq!(tables(&changes), expected, "{changes:x?}");
    }
    // Bytes that are to be mapped have to be there.
    let mut file = sample().file();
    put(&mut file, section(idata, 16), 0x1000);
    assert!(matches!(FileImage::parse(file), Err(ImageError::Truncated { .. })));
}

/// A driver of 32-byte sections, as linkers make it with `/ALIGN:32`: memory is the file.
fn low_alignment() -> Vec<u8> {
    let mut file = vec![0; 0x400];
    file[..SECTIONS].copy_from_slice(&sample().file()[..SECTIONS]);
    file[0x86] = 2;
    put(&mut file, OPTIONAL + 32, 32);
    put(&mut file, OPTIONAL + 36, 32);
    put(&mut file, OPTIONAL + 56, 0x400);
    put(&mut file, OPTIONAL + 60, 0x1e0);
    put(&mut file, OPTIONAL + 112, 0);
    put(&mut file, OPTIONAL + 120, 0x220);
    put(&mut file, OPTIONAL + 124, 0);
    for (index, rva, size) in [(0, 0x1e0u32, 0x40u32), (1, 0x220, 0x1e0)] {
        for field in [8, 16] {
            put(&mut file, SECTIONS + 40 * index + field, size);
        }
        for field in [12, 20] {
            put(&mut file, SECTIONS + 40 * index + field, rva);
        }
    }
    // One descriptor, its two thunks twice, and the names.
    for (at, value) in [
        (0x220, 0x260),
        (0x22c, 0x2c0),
        (0x230, 0x280),
        (0x260, 0x2a0),
        (0x280, 0x2a0),
    ] {
        put(&mut file, at, value);
    }
    file[0x2a2..0x2b4].copy_from_slice(b"KeReleaseSpinLock\0");
    file[0x2c0..0x2cd].copy_from_slice(b"ntoskrnl.exe\0");
    file
}

#[test]
fn a_file_with_sections_closer_than_a_page_is_mapped_as_it_is() {
    let bytes = low_alignment();
    let file = FileImage::parse(bytes.clone()).unwrap();
    let imports = Imports::read(&file, file.image()).unwrap();
    assert_eq!(names(&imports), ["ntoskrnl.exe!KeReleaseSpinLock"]);
    let mut memory = vec![0; bytes.len()];
    file.read(file.image().base, &mut memory).unwrap();
    assert_eq!(memory, bytes);
    assert!(file.read(file.image().base + 0x3ff, &mut [0; 2]).is_err());
}

#[test]
fn a_bad_entry_of_an_export_table_is_none_and_spoils_no_other() {
    let all = tables(&[]).1;
    let file = sample().file();
    let image = FileImage::parse(file.clone()).unwrap();
    let section = image.image().section(image.image().directory(EXPORT).rva).unwrap();
    let table = section.file_offset as usize;
    // Addresses follow the header, names the addresses, which are sorted by name.
    for (at, value, lost) in [
        (40, u32::MAX, "Zulu"),
        (44, 0x7fff_0000, "Alpha"),
        (56, u32::MAX, "Alpha"),
        (60, 0x5fff, "Moved"),
    ] {
        let (_, exports) = tables(&[(table + at, value)]);
        let named = |exports: &[(Option<String>, ExportTarget)]| -> Vec<String> {
            exports.iter().filter_map(|(name, _)| name.clone()).collect()
        };
        let expected: Vec<String> = named(&all).into_iter().filter(|name| name != lost).collect();
        assert_eq!(named(&exports), expected, "{at} {value:#x}");
    }
}

#[test]
fn imports_come_from_duplicate_descriptors_and_by_ordinal_and_from_slots_alone() {
    let mut builder = PeBuilder::new(BASE);
    builder.section(".text", CODE, vec![0xcc; 16]);
    let slots = builder.imports(&[
        ("a.sys", &["One", "#7"]),
        ("A.SYS", &["One"]),
        ("b.sys", &[]),
        ("c.sys", &["#65535"]),
    ]);
    let expected = ["a.sys!One", "a.sys!#7", "A.SYS!One", "c.sys!#65535"];
    let mut space = mapped(&builder);
    let image = Image::read(&space, BASE).unwrap();
    let read = |space: &Space| Imports::read(space, &image).unwrap();
    assert_eq!(names(&read(&space)), expected);
    // Without names of their own, descriptors have them in the slots, as long as nothing is bound.
    let table = image.address(image.directory(IMPORT).rva);
    for index in 0..4 {
        space.write(table + 20 * index, &[0; 4]);
    }
    assert_eq!(names(&read(&space)), expected);
    for slot in &slots {
        space.write_u64(image.address(*slot), 0xffff_f800_1000_0007);
    }
    let bound = read(&space);
    assert_eq!(bound.entries().len(), 4);
    assert!(
        bound.entries().iter().all(|import| import.name == ImportName::Bound),
        "{bound:?}"
    );
}

/// A driver that was linked for another base than where it lies, and what is made of each entry of its import lookup table.
fn loaded_elsewhere(change: impl Fn(u64) -> u64) -> Result<Vec<String>, ImageError> {
    const LINKED: u64 = 0x1_4000_0000;
    let mut builder = PeBuilder::new(LINKED);
    builder.section(".text", CODE, vec![0xcc; 16]);
    let slots = builder.imports(&[("ntoskrnl.exe", &["KeReleaseSpinLock", "?Mangled@@YAXXZ", "#7"])]);
    builder.base = BASE;
    let mut space = mapped(&builder);
    space.write_u64(BASE + 0x80 + 24 + 24, LINKED);
    let image = Image::read(&space, BASE).unwrap();
    assert_eq!(image.preferred_base, LINKED);
    // The lookup table lies before the slots, and both end with a zero.
    let lookup = image.address(slots[0]) - 8 * (slots.len() as u64 + 1);
    for entry in 0..slots.len() as u64 {
        let thunk = space.read_u64(lookup + 8 * entry).unwrap();
        if thunk >> 63 == 0 {
            space.write_u64(lookup + 8 * entry, change(thunk));
        }
    }
    Imports::read(&space, &image).map(|imports| names(&imports))
}

#[test]
fn an_import_lookup_table_may_hold_addresses_of_where_the_image_lies_or_was_linked_for() {
    let expected = [
        "ntoskrnl.exe!KeReleaseSpinLock",
        "ntoskrnl.exe!?Mangled@@YAXXZ",
        "ntoskrnl.exe!#7",
    ];
    for base in [0, BASE, 0x1_4000_0000] {
        assert_eq!(loaded_elsewhere(|rva| base + rva).unwrap(), expected, "{base:#x}");
    }
    // Addresses of anything else are neither ordinals nor names: the table is of no use then.
    for change in [
        |_| 0xffff_f800_7777_0000_u64,
        |_| 0x8000_0000_0001_0007,
        |rva| rva + 0x7_0000_0000,
        |_| 0x1000,
    ] {
        assert!(loaded_elsewhere(change).is_err());
    }
}

#[test]
fn an_image_linked_for_a_low_address_is_read_by_the_base_that_fits_all_of_its_imports() {
    const LINKED: u64 = 0x1000;
    /// A driver whose lookup table has addresses of where it was linked for. Read as relative to the image, each lies in a
    /// page of text.
    fn loaded(names: &[&str], text: &[u8]) -> Imports {
        let mut builder = PeBuilder::new(LINKED);
        let slots = builder.imports(&[("ntoskrnl.exe", names)]);
        builder.section(".rdata", READ_ONLY, text.repeat(0x1000 / text.len()));
        builder.base = BASE;
        let mut space = mapped(&builder);
        space.write_u64(BASE + 0x80 + 24 + 24, LINKED);
        let image = Image::read(&space, BASE).unwrap();
        let lookup = image.address(slots[0]) - 8 * (slots.len() as u64 + 1);
        for entry in 0..slots.len() as u64 {
            let thunk = space.read_u64(lookup + 8 * entry).unwrap();
            space.write_u64(lookup + 8 * entry, LINKED + thunk);
        }
        Imports::read(&space, &image).unwrap()
    }
    // One name alone: what is before text is no hint.
    let one = loaded(&["KeReleaseSpinLock"], b"FatLogin");
    assert_eq!(names(&one), ["ntoskrnl.exe!KeReleaseSpinLock"]);
    // Text that looks as names do, hints and all, but not at each of the places.
    let pair = ["KeAcquireSpinLockRaiseToDpc", "KeReleaseSpinLock"];
    let two = loaded(&pair, b"\x01\0Name\0\x02\0 \0\x01\0A\0");
    assert_eq!(
        names(&two),
        [
            "ntoskrnl.exe!KeAcquireSpinLockRaiseToDpc",
            "ntoskrnl.exe!KeReleaseSpinLock"
        ]
    );
}

#[test]
fn delayed_imports_are_imports_and_damage_in_them_spoils_nothing() {
    let mut builder = PeBuilder::new(BASE);
    builder.section(".text", CODE, vec![0xcc; 16]);
    builder.imports(&[("storport.sys", &["StorPortInitialize"])]);
    let rva = builder.next_rva();
    let mut bytes = vec![0; 0x100];
    for (at, value) in [
        (0, 1),
        (4, rva + 0x80),
        (12, rva + 0x60),
        (16, rva + 0x40),
        (0x40, rva + 0xa0),
        (0x60, 0x1000),
    ] {
        put(&mut bytes, at, value);
    }
    bytes[0x80..0x8d].copy_from_slice(b"ntoskrnl.exe\0");
    bytes[0xa2..0xb4].copy_from_slice(b"KeReleaseSpinLock\0");
    builder.section(".didat", DATA, bytes);
    builder.directory(13, rva, 0);
    let mut space = mapped(&builder);
    let image = Image::read(&space, BASE).unwrap();
    let imports = Imports::read(&space, &image).unwrap();
    assert_eq!(
        names(&imports),
        ["storport.sys!StorPortInitialize", "ntoskrnl.exe!KeReleaseSpinLock"]
    );
    let delayed: Vec<_> = imports
        .entries()
        .iter()
        .map(|import| (import.delayed, import.slot))
        .collect();
    assert_eq!(delayed[1], (true, rva + 0x60));
    space.write(BASE + u64::from(rva) + 4, &u32::MAX.to_le_bytes());
    assert_eq!(
        names(&Imports::read(&space, &image).unwrap()),
        ["storport.sys!StorPortInitialize"]
    );
}

#[test]
fn thousands_of_descriptors_are_read_and_their_number_is_bounded() {
    let descriptors = |count: usize| {
        let mut builder = PeBuilder::new(BASE);
        builder.section(".text", CODE, vec![0xcc; 16]);
        let rva = builder.next_rva();
        let tables = rva + 20 * (count as u32 + 1);
        let mut bytes = Vec::new();
        for _ in 0..count {
            for value in [tables, 0, 0, tables + 0x40, tables + 0x20] {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        bytes.extend_from_slice(&[0; 20]);
        let start = bytes.len();
        bytes.resize(start + 0x60, 0);
        put(&mut bytes, start + 4, 1 << 31);
        bytes[start] = 9;
        bytes[start + 0x40..start + 0x46].copy_from_slice(b"a.sys\0");
        builder.section(".idata", DATA, bytes);
        builder.directory(IMPORT, rva, 0);
        let space = mapped(&builder);
        let result = Imports::read(&space, &Image::read(&space, BASE).unwrap());
        (result.map(|imports| imports.entries().len()), space.reads.get())
    };
    assert_eq!(descriptors(3000).0, Ok(3000));
    let (result, reads) = descriptors(10_000);
    assert!(matches!(result, Err(ImageError::Malformed(_))), "{result:?}");
    assert!(reads < 100_000, "{reads} reads");
}

#[test]
fn relocations_that_were_taken_out_are_known() {
    let mut file = sample().file();
    assert!(!FileImage::parse(file.clone()).unwrap().image().relocations_stripped);
    file[0x96] |= 1;
    assert!(FileImage::parse(file).unwrap().image().relocations_stripped);
}

/// Reads everything of an image and returns how much was read.
fn read_all(space: &Space) -> (u64, u64) {
    if let Ok(image) = Image::read(space, BASE) {
        let _ = Exports::read(space, &image);
        let _ = Imports::read(space, &image);
    }
    (space.reads.get(), space.bytes.get())
}

proptest! {
    #[test]
    fn mutated_images_in_memory_never_panic_and_bound_their_reads(
        edits in prop::collection::vec((0usize..0x5000, any::<u32>(), 0usize..3), 1..12),
    ) {
        let mut space = mapped(&sample());
        for (at, value, kind) in edits {
            // Tables are hit more often than code: headers, then the export and import sections.
            let at = match kind { 0 => at % 0x400, 1 => 0x4000 + at % 0x200, _ => 0x5000 + at % 0x200 };
            space.write(BASE + at as u64, &value.to_le_bytes());
        }
        let (reads, bytes) = read_all(&space);
        prop_assert!(reads < 100_000, "{} reads", reads);
        prop_assert!(bytes < 16 << 20, "{} bytes", bytes);
    }

    #[test]
    fn mutated_files_never_panic(
        edits in prop::collection::vec((0usize..0x3000, any::<u8>()), 1..24),
    ) {
        let mut file = sample().file();
        for (at, value) in edits {
            let at = at % file.len();
            file[at] = value;
        }
        if let Ok(file) = FileImage::parse(file) {
            let _ = Exports::read(&file, file.image());
            let _ = Imports::read(&file, file.image());
        }
    }

    #[test]
    fn unmapped_pages_are_errors(page in 0u64..6) {
        let mut space = mapped(&sample());
        space.unmap(BASE + page * 0x1000);
        let image = Image::read(&space, BASE);
        prop_assert_eq!(image.is_err(), page == 0);
        if let Ok(image) = image {
            prop_assert_eq!(Exports::read(&space, &image).is_err(), page == 4);
            prop_assert_eq!(Imports::read(&space, &image).is_err(), page == 5);
        }
    }
}
