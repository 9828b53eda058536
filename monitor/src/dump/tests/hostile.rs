//! A guest may have anything where a dump looks: there is a dump all the same, and nothing is done to the guest.

use proptest::prelude::*;

use super::fake::{self, Fake, GUID, KERNEL, RVA_BLOCK};
use crate::dump::Symbols;
use crate::windows::debugger_data::DebuggerDataPlaces;
use crate::windows::pdb::KernelPdb;

/// A number as a guest may choose it: anything, or an address that leads somewhere.
fn pointer() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0..0x3000u64).prop_map(|offset| KERNEL + offset),
        Just(u64::MAX),
        Just(u64::MAX - 7),
        Just(0xffff_f805_3000_4f00),
        Just(0xffff_f805_2000_0180),
    ]
}

proptest! {
    #[test]
    fn pointers_anywhere_make_a_dump_all_the_same(
        processor_block in pointer(),
        entries in prop::collection::vec(pointer(), 2),
        contexts in prop::collection::vec(pointer(), 2),
        offset in any::<u16>(),
        size in prop_oneof![Just(0x380u32), 0x300u32..0x1100],
        bases in prop::collection::vec(pointer(), 4),
        keep in any::<[bool; 3]>(),
        places in prop::option::of(any::<(u32, Option<[u32; 3]>)>()),
        numbers in any::<[u32; 2]>(),
    ) {
        let mut fake = Fake::new(2);
        let block = KERNEL + u64::from(RVA_BLOCK);
        fake.space.write(block + 0x14, &size.to_le_bytes());
        if !keep[0] {
            fake.space.write(block + 0x218, &processor_block.to_le_bytes());
            fake.space.write(block + 0x338, &offset.to_le_bytes());
        }
        for cpu in 0..2 {
            let kpcr = 0xffff_f805_2000_0000 + cpu as u64 * 0x2000;
            if !keep[1] {
                fake.space.write(KERNEL + 0x2800 + 8 * cpu as u64, &entries[cpu].to_le_bytes());
                fake.space.write(kpcr + 0x1a4, &numbers[cpu].to_le_bytes());
            }
            fake.space.write(kpcr + 0x180 + 0x700, &contexts[cpu].to_le_bytes());
            if !keep[2] {
                fake.registers[cpu].gs_base = bases[2 * cpu];
                fake.registers[cpu].kernel_gs_base = bases[2 * cpu + 1];
            }
        }
        let pdbs = places.into_iter().map(|(block, encoding)| KernelPdb {
            guid: GUID,
            places: DebuggerDataPlaces { block, encoding },
        });
        let symbols = Symbols { pdbs: pdbs.collect() };
        let before = fake.space.frames();
        let directory = tempfile::tempdir().unwrap();
        let plan = fake::plan(directory.path());
        let contents = fake.contents(0, &fake.subject(), &symbols).unwrap();
        prop_assert!((1..=2).contains(&contents.header.number_processors));
        prop_assert_eq!(plan.write(contents, &fake.space, &|| true).unwrap(), 0x2000 + fake.pages() * 0x1000);
        prop_assert_eq!(fake.space.frames(), before);
    }
}
