//! Commands made by chance: nothing panics, nothing is written where it must not be, and data are those of a model.

use proptest::prelude::*;
use vm_memory::VolatileSlice;

use super::harness::*;
use crate::storage::scsi::{Data, Request};

/// Where a command that sends parameter data keeps its ALLOCATION LENGTH: first byte and bytes.
fn allocation(cdb: &[u8]) -> Option<u64> {
    let (at, length) = match cdb[0] {
        0x03 | 0x1a => (4, 1),
        0x12 => (3, 2),
        0x4d | 0x5a | 0x5e => (7, 2),
        0xa0 | 0xa3 => (6, 4),
        0x9e => (10, 4),
        _ => return None,
    };
    let bytes = cdb.get(at..at + length)?;
    Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Blocks of the commands that there are, with fields that are often legal.
fn cdb() -> impl Strategy<Value = Vec<u8>> {
    const OPCODES: [u8; 32] = [
        0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x1a, 0x1b, 0x1d, 0x25, 0x28, 0x2a, 0x2f, 0x35, 0x41, 0x42, 0x4d, 0x55,
        0x5a, 0x5e, 0x5f, 0x88, 0x8a, 0x8f, 0x91, 0x93, 0x9e, 0xa0, 0xa3, 0xa8, 0xaa, 0xaf,
    ];
    let opcode = prop_oneof![9 => prop::sample::select(&OPCODES[..]), 1 => any::<u8>()];
    let byte = prop_oneof![6 => Just(0), 3 => 0..32u8, 1 => any::<u8>()];
    (opcode, prop::collection::vec(byte, 0..20)).prop_map(|(opcode, mut rest)| {
        rest.insert(0, opcode);
        rest
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn no_command_does_harm(
        commands in prop::collection::vec((cdb(), 0..3u8, prop::collection::vec(any::<u8>(), 0..700), any::<bool>()), 1..24)
    ) {
        let mut bench = Bench::new();
        for (cdb, direction, memory, other) in commands {
            let mut room = memory.clone();
            let pieces = [VolatileSlice::from(&mut room[..])];
            let data = match direction {
                0 => Data::None,
                1 => Data::In(&pieces),
                _ => Data::Out(&pieces),
            };
            let initiator = if other { OTHER } else { ME };
            let lun = [0, u8::from(cdb.len() == 7), 0, 0, 0, 0, 0, 0];
            let done = bench.target.execute(&Request { initiator, lun, cdb: &cdb, data });
            prop_assert_eq!(done.status == 0x02, !done.sense.is_empty());
            prop_assert!([0, 0x02, 0x18].contains(&done.status));
            let (transferred, room_for) = (done.transferred as usize, if direction == 0 { 0 } else { memory.len() });
            prop_assert!(transferred <= room_for && done.transferred <= done.wanted);
            let touched = if direction == 1 { transferred } else { 0 };
            prop_assert!(room[touched..] == memory[touched..]);
            if let Some(allocation) = allocation(&cdb) {
                prop_assert!(done.wanted <= allocation, "{:x?}: {} > {}", cdb, done.wanted, allocation);
            }
        }
    }

    #[test]
    fn data_are_those_of_a_model(
        steps in prop::collection::vec((0..7u8, 0..70u64, 0..9u32, any::<u8>()), 1..60)
    ) {
        const BLOCKS: usize = 64;
        let disk = crate::storage::backend::MemoryBackend::new(BLOCKS * BLOCK);
        let mut bench = Bench::with_backend(Box::new(disk));
        let mut model = vec![0; BLOCKS * BLOCK];
        for (kind, first, count, fill) in steps {
            let start = first as usize * BLOCK;
            let range = start..start + count as usize * BLOCK;
            let there = model.get_mut(range);
            let data = vec![fill; count as usize * BLOCK];
            let (done, value) = match kind {
                0 => (bench.write(&cdb10(0x2a, 0, first as u32, count as u16), &data), fill),
                1 => (bench.write(&cdb16(0x8a, 0x08, first, count), &data), fill),
                2 if count > 0 => (bench.write(&cdb16(0x93, 0x08, first, count), &[fill; BLOCK]), fill),
                3 if count > 0 => (bench.write(&cdb10(0x41, 0, first as u32, count as u16), &[fill; BLOCK]), fill),
                4 => {
                    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
                    list.extend(first.to_be_bytes());
                    list.extend(count.to_be_bytes());
                    list.extend([0; 4]);
                    (bench.write(&cdb10(0x42, 0, 0, 24), &list), 0)
                }
                _ => {
                    let (done, read) = bench.read(&cdb16(0x88, 0, first, count), data.len());
                    prop_assert_eq!(done.status == 0, there.is_some());
                    if let Some(there) = there {
                        prop_assert!(read == *there);
                    }
                    continue;
                }
            };
            prop_assert_eq!(done.status == 0, there.is_some(), "{}", kind);
            if let Some(there) = there {
                there.fill(value);
            } else {
                fails(&done, 5, 0x2100);
            }
        }
    }
}
