//! Backends against an array of bytes, and what raw files refuse.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;

use super::{Backend, BackendError, MemoryBackend, OpenError, RawFileBackend};

const SIZE: usize = 256 * 1024;

#[derive(Clone, Debug)]
enum Operation {
    Read(u64, usize),
    Write(u64, usize, u8),
    WriteZeroes(u64, u64, bool),
    Discard(u64, u64),
    Flush,
}

fn operation() -> impl Strategy<Value = Operation> {
    // Some ranges leave the backend, some are empty.
    let range = (0..SIZE as u64 + 4096, 0..40_000u64);
    prop_oneof![
        range
            .clone()
            .prop_map(|(offset, length)| Operation::Read(offset, length as usize)),
        (range.clone(), any::<u8>()).prop_map(|((offset, length), fill)| Operation::Write(
            offset,
            length as usize,
            fill
        )),
        (range.clone(), any::<bool>())
            .prop_map(|((offset, length), hole)| Operation::WriteZeroes(offset, length, hole)),
        range.prop_map(|(offset, length)| Operation::Discard(offset, length)),
        Just(Operation::Flush),
    ]
}

/// Applies the operation to both and compares.
fn step(backend: &mut dyn Backend, model: &mut [u8], operation: &Operation) {
    let fits = |offset: u64, length: u64| offset + length <= SIZE as u64;
    let (offset, length, result, fill) = match *operation {
        Operation::Read(offset, length) => {
            let mut buffer = vec![0x5a; length];
            let result = backend.read(offset, &mut buffer);
            assert_eq!(result.is_ok(), fits(offset, length as u64));
            if result.is_ok() {
                assert!(buffer == model[offset as usize..][..length], "read {offset}+{length}");
            }
            return;
        }
        Operation::Flush => return backend.flush().unwrap(),
        Operation::Write(offset, length, fill) => {
            (offset, length as u64, backend.write(offset, &vec![fill; length]), fill)
        }
        Operation::WriteZeroes(offset, length, hole) => (offset, length, backend.write_zeroes(offset, length, hole), 0),
        Operation::Discard(offset, length) => (offset, length, backend.discard(offset, length), 0),
    };
    assert_eq!(result.is_ok(), fits(offset, length));
    if result.is_ok() {
        model[offset as usize..][..length as usize].fill(fill);
    } else {
        assert!(matches!(result, Err(BackendError::OutOfRange { .. })));
    }
}

fn compare(backend: &mut dyn Backend, operations: &[Operation]) {
    let mut model = vec![0; SIZE];
    for operation in operations {
        step(backend, &mut model, operation);
    }
    let mut all = vec![0; SIZE];
    backend.read(0, &mut all).unwrap();
    assert!(all == model);
}

/// A sparse file of `length` bytes in a directory of its own.
fn image(length: u64) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    File::create(&path).unwrap().set_len(length).unwrap();
    (directory, path)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn memory_is_an_array_of_bytes(operations in prop::collection::vec(operation(), 1..40)) {
        compare(&mut MemoryBackend::new(SIZE), &operations);
    }

    #[test]
    fn a_raw_file_is_an_array_of_bytes(operations in prop::collection::vec(operation(), 1..40)) {
        let (_directory, path) = image(SIZE as u64);
        compare(&mut RawFileBackend::open(&path, 512, false).unwrap(), &operations);
    }
}

#[test]
fn deallocation_gives_room_back() {
    let (_directory, path) = image(1 << 20);
    let mut backend = RawFileBackend::open(&path, 512, false).unwrap();
    backend.write(0, &vec![1; 1 << 20]).unwrap();
    backend.flush().unwrap();
    let before = fs::metadata(&path).unwrap().blocks();
    backend.discard(0, 1 << 20).unwrap();
    backend.flush().unwrap();
    let after = fs::metadata(&path).unwrap();
    assert!(
        after.blocks() < before / 2,
        "{} of {before} blocks left",
        after.blocks()
    );
    assert_eq!(after.len(), 1 << 20);
}

/// Memory of this process that is in use, in bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn zeroing_memory_that_was_never_written_takes_none() {
    let size = 1 << 30;
    let mut backend = MemoryBackend::new(size);
    backend.write(5 << 20, &[7; 4096]).unwrap();
    let before = resident();
    backend.discard(0, size as u64).unwrap();
    // Other tests run meanwhile.
    let taken = resident().saturating_sub(before);
    assert!(taken < size as u64 / 4, "{taken} bytes more are in use");
    let mut data = [1; 8192];
    backend.read(5 << 20, &mut data).unwrap();
    assert_eq!(data, [0; 8192]);
}

#[test]
fn a_file_has_one_writer_or_many_readers() {
    let (_directory, path) = image(4096);
    let writer = RawFileBackend::open(&path, 512, false).unwrap();
    for read_only in [false, true] {
        let error = RawFileBackend::open(&path, 512, read_only).unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }));
        assert!(error.to_string().contains("disk.img"), "{error}");
    }
    drop(writer);
    let _readers = [
        RawFileBackend::open(&path, 512, true).unwrap(),
        RawFileBackend::open(&path, 512, true).unwrap(),
    ];
    assert!(matches!(
        RawFileBackend::open(&path, 512, false),
        Err(OpenError::InUse { .. })
    ));
}

#[test]
fn odd_sizes_are_refused_with_the_name_of_the_file() {
    for (length, block_size) in [(0, 512), (511, 512), (4096 + 512, 4096)] {
        let (_directory, path) = image(length);
        let error = RawFileBackend::open(&path, block_size, false).unwrap_err();
        assert!(matches!(error, OpenError::OddSize { .. }));
        assert!(error.to_string().contains("disk.img"), "{error}");
    }
}

#[test]
fn what_is_no_disk_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let missing = RawFileBackend::open(&directory.path().join("none.img"), 512, false).unwrap_err();
    assert!(matches!(missing, OpenError::Open { .. }) && missing.to_string().contains("none.img"));
    let error = RawFileBackend::open(directory.path(), 512, true).unwrap_err();
    assert!(matches!(error, OpenError::NotADisk { .. }), "{error}");
}

#[test]
fn read_only_files_are_read_and_not_changed() {
    let (_directory, path) = image(4096);
    fs::write(&path, [7; 4096]).unwrap();
    let mut backend = RawFileBackend::open(&path, 512, true).unwrap();
    assert!(backend.is_read_only());
    let mut data = [0; 512];
    backend.read(512, &mut data).unwrap();
    assert_eq!(data, [7; 512]);
    assert!(matches!(backend.write(0, &data), Err(BackendError::ReadOnly)));
    assert!(matches!(
        backend.write_zeroes(0, 512, false),
        Err(BackendError::ReadOnly)
    ));
    assert!(matches!(backend.discard(0, 512), Err(BackendError::ReadOnly)));
    backend.flush().unwrap();
}

#[test]
fn a_full_disk_is_told_apart_from_a_broken_one() {
    // Every write to this device fails for lack of room.
    let full = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
    let mut backend = RawFileBackend::from_file(full, 1 << 20, false);
    assert!(matches!(backend.write(0, &[1; 512]), Err(BackendError::NoSpace)));
    // It cannot punch holes, so the zeroes are written, which fails too.
    assert!(matches!(backend.write_zeroes(0, 512, true), Err(BackendError::NoSpace)));
    let broken = BackendError::from(std::io::Error::from_raw_os_error(libc::EIO));
    assert!(matches!(broken, BackendError::Io(_)));
}

#[test]
fn a_file_that_shrank_fails_the_read() {
    let (_directory, path) = image(4096);
    let mut backend = RawFileBackend::open(&path, 512, false).unwrap();
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(512)
        .unwrap();
    assert!(matches!(backend.read(1024, &mut [0; 512]), Err(BackendError::Io(_))));
}
