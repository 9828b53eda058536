//! Tests with images whose metadata are damaged: opening and using one always ends with a result.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

/// A small image with tables, data, zero clusters and compressed data.
static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let directory = directory();
    let path = qcow2(directory.path(), MEBIBYTE);
    let mut disk = writable(&path);
    disk.write(0, &vec![1; 20_000]).unwrap();
    disk.write(MEBIBYTE / 2, &vec![2; 20_000]).unwrap();
    disk.write_zeroes(4096, 4096, false).unwrap();
    drop(disk);
    fs::read(path).unwrap()
});

/// A place in the header or anywhere, and what is written there.
fn damage() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..9),
        any::<u8>().prop_map(|byte| vec![byte]),
        // Numbers that look like places in the file.
        (0..40_u64).prop_map(|cluster| (cluster * 4096).to_be_bytes().to_vec()),
        Just(vec![0xff; 8]),
        (0..40_u64).prop_map(|cluster| ((1 << 63) | (cluster * 4096)).to_be_bytes().to_vec()),
    ];
    let place = prop_oneof![0..112_usize, (0..SOUND.len() / 8).prop_map(|word| word * 8)];
    (place, value)
}

/// What a disk that may be damaged does; its errors are of interest only if they are a panic's.
fn use_it(disk: &mut ImageBackend) -> Vec<BackendError> {
    let mut errors = Vec::new();
    let mut block = [0; 4096];
    for offset in (0..MEBIBYTE).step_by(64 * 1024) {
        // The disk may have become smaller.
        errors.extend(disk.read(offset, &mut block).err());
        errors.extend(disk.write(offset + 512, &block[..1024]).err());
    }
    errors.extend(disk.write_zeroes(0, 65536, false).err());
    errors.extend(disk.discard(8192, MEBIBYTE / 2).err());
    errors.extend(disk.write(0, &block).err());
    errors.extend(disk.flush().err());
    errors
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_damaged_image_is_refused_or_fails_in_words(
        damages in prop::collection::vec(damage(), 1..6),
        cut in prop::option::of(0..100_usize),
        options in prop_oneof![Just(ImageOptions::default()), Just(read_only()), Just(snapshot(MEBIBYTE))],
    ) {
        let mut bytes = SOUND.clone();
        for (place, value) in damages {
            let end = bytes.len().min(place + value.len());
            bytes[place..end].copy_from_slice(&value[..end - place]);
        }
        if let Some(percent) = cut {
            bytes.truncate(bytes.len() * percent / 100);
        }
        let directory = directory();
        let path = directory.path().join("disk.qcow2");
        fs::write(&path, &bytes).unwrap();
        match open(&path, &options) {
            Ok(mut disk) => {
                for error in use_it(&mut disk) {
                    let message = error.to_string();
                    prop_assert!(!message.contains("driver of the image's format"), "{}", message);
                }
                drop(disk);
                // What was taken for sound has stayed so: no guest's data are where tables are.
                if !options.read_only {
                    let again = settled(&path, &options);
                    prop_assert!(again.is_ok(), "{:?}", again.err());
                }
            }
            Err(error) => {
                let message = error.to_string();
                // It may be about a file that the damage has made its backing file.
                prop_assert!(message.contains(text(directory.path())), "{}", message);
                prop_assert!(!message.contains("defect of its own"), "{}", message);
            }
        }
    }
}
