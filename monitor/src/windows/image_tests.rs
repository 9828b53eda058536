//! Tests of the image readers: what is there is found, and no mutation makes them panic, loop or read without bound.

use proptest::prelude::*;

use super::testing::{CODE, DATA, EXPORT, IMPORT, PeBuilder, Space};
use super::{ExportTarget, Exports, FileImage, Image, ImageError, ImportName, Imports};

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
