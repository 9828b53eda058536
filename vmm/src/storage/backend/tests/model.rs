//! Every kind of backend does what an array of bytes does, also after it was closed and opened again.

use proptest::prelude::*;

use super::*;

const SIZE: usize = 256 * 1024;

#[derive(Clone, Debug)]
enum Operation {
    Read(u64, usize, Way),
    Write(u64, usize, u8, Way),
    WriteZeroes(u64, u64, bool),
    Discard(u64, u64),
    Flush,
    Reopen,
}

/// Whose the memory is that is read into or written from.
#[derive(Clone, Copy, Debug)]
enum Way {
    Own,
    Shared,
}

fn operation() -> impl Strategy<Value = Operation> {
    // Some ranges leave the backend, some are empty.
    let range = (0..SIZE as u64 + 4096, 0..40_000u64);
    let way = prop_oneof![Just(Way::Own), Just(Way::Shared)];
    prop_oneof![
        (range.clone(), way.clone()).prop_map(|((offset, length), way)| Operation::Read(offset, length as usize, way)),
        (range.clone(), any::<u8>(), way).prop_map(|((offset, length), fill, way)| Operation::Write(
            offset,
            length as usize,
            fill,
            way
        )),
        (range.clone(), any::<bool>())
            .prop_map(|((offset, length), hole)| Operation::WriteZeroes(offset, length, hole)),
        range.prop_map(|(offset, length)| Operation::Discard(offset, length)),
        Just(Operation::Flush),
        Just(Operation::Reopen),
    ]
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    prop::collection::vec(operation(), 1..40)
}

/// Applies the operation to both and compares.
fn step(backend: &mut dyn Backend, model: &mut [u8], operation: &Operation) {
    let fits = |offset: u64, length: u64| offset + length <= SIZE as u64;
    let (offset, length, result, fill) = match *operation {
        Operation::Read(offset, length, way) => {
            let mut buffer = vec![0x5a; length];
            let result = match way {
                Way::Own => backend.read(offset, &mut buffer),
                Way::Shared => backend.read_into(offset, &pieces(&mut buffer)),
            };
            assert_eq!(result.is_ok(), fits(offset, length as u64), "{result:?}");
            if result.is_ok() {
                assert!(buffer == model[offset as usize..][..length], "read {offset}+{length}");
            }
            return;
        }
        Operation::Flush | Operation::Reopen => return backend.flush().unwrap(),
        Operation::Write(offset, length, fill, way) => {
            let mut data = vec![fill; length];
            let result = match way {
                Way::Own => backend.write(offset, &data),
                Way::Shared => backend.write_from(offset, &pieces(&mut data)),
            };
            (offset, length as u64, result, fill)
        }
        Operation::WriteZeroes(offset, length, hole) => (offset, length, backend.write_zeroes(offset, length, hole), 0),
        Operation::Discard(offset, length) => (offset, length, backend.discard(offset, length), 0),
    };
    assert_eq!(result.is_ok(), fits(offset, length), "{result:?}");
    if result.is_ok() {
        model[offset as usize..][..length as usize].fill(fill);
    } else {
        assert!(matches!(result, Err(BackendError::OutOfRange { .. })));
    }
}

/// Does the operations with what `open` opens, again and again, and compares with the model, which begins with `model`.
fn compare<B: Backend>(mut model: Vec<u8>, operations: &[Operation], mut open: impl FnMut() -> B) -> Vec<u8> {
    let mut backend = open();
    for operation in operations {
        step(&mut backend, &mut model, operation);
        if matches!(operation, Operation::Reopen) {
            // The lock goes with the old one.
            drop(backend);
            backend = open();
        }
    }
    assert!(all(&mut backend) == model);
    model
}

/// Bytes of which no two blocks are the same.
fn pattern() -> Vec<u8> {
    (0..SIZE).map(|index| (index / 512 * 7 + index % 251) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn memory_is_an_array_of_bytes(mut operations in operations()) {
        operations.retain(|operation| !matches!(operation, Operation::Reopen));
        compare(vec![0; SIZE], &operations, || MemoryBackend::new(SIZE));
    }

    #[test]
    fn a_raw_image_is_an_array_of_bytes(operations in operations()) {
        let directory = directory();
        let path = raw(directory.path(), SIZE as u64);
        let model = compare(vec![0; SIZE], &operations, || writable(&path));
        prop_assert!(fs::read(path).unwrap() == model);
    }

    #[test]
    fn a_qcow2_image_is_an_array_of_bytes_and_stays_sound(operations in operations()) {
        let directory = directory();
        let path = qcow2(directory.path(), SIZE as u64);
        let model = compare(vec![0; SIZE], &operations, || writable(&path));
        qemu_img(&["check", text(&path)]);
        prop_assert!(as_qemu_reads_it(&path) == model);
    }

    #[test]
    fn a_qcow2_image_on_another_is_an_array_of_bytes(operations in operations()) {
        let directory = directory();
        let base = raw(directory.path(), SIZE as u64);
        fs::write(&base, pattern()).unwrap();
        let path = directory.path().join("top.qcow2");
        qemu_img(&["create", "-f", "qcow2", "-b", "disk.img", "-F", "raw", "-o", "cluster_size=4096", text(&path)]);
        let model = compare(pattern(), &operations, || writable(&path));
        qemu_img(&["check", text(&path)]);
        prop_assert!(as_qemu_reads_it(&path) == model);
        prop_assert!(fs::read(base).unwrap() == pattern());
    }

    #[test]
    fn a_snapshot_is_an_array_of_bytes_and_leaves_the_image_alone(mut operations in operations()) {
        operations.retain(|operation| !matches!(operation, Operation::Reopen));
        let directory = directory();
        let path = raw(directory.path(), SIZE as u64);
        fs::write(&path, pattern()).unwrap();
        compare(pattern(), &operations, || opened(&path, &snapshot(16 * MEBIBYTE)));
        prop_assert!(fs::read(path).unwrap() == pattern());
    }
}
