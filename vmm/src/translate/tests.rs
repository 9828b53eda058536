//! The walker against a list of mappings, and against tables of random bits.

use proptest::prelude::*;

use super::*;

const RAM: u64 = 16 << 20;
/// Tables are built from here up; data pages lie below.
const TABLES: u64 = 8 << 20;

#[derive(Debug, Clone, Copy)]
struct Mapping {
    page: u64,
    size: u64,
    physical: u64,
    writable: bool,
    user: bool,
    executable: bool,
}

/// Few different indices, so that mappings meet in the same tables.
fn mapping() -> impl Strategy<Value = Mapping> {
    let index = || prop::sample::select(vec![0u64, 1, 2, 256, 511]);
    let size = prop::sample::select(vec![4096u64, 2 << 20, 1 << 30]);
    let rights = (any::<bool>(), any::<bool>(), any::<bool>());
    (index(), index(), index(), index(), size, 0u64..2048, rights).prop_map(
        |(l4, l3, l2, l1, size, frame, (writable, user, executable))| {
            let gva = l4 << 39 | l3 << 30 | l2 << 21 | l1 << 12;
            let gva = if l4 >= 256 { gva | 0xffff << 48 } else { gva };
            Mapping {
                page: gva & !(size - 1),
                size,
                // Large pages may well lie outside RAM; translation does not care.
                physical: (frame * size) & 0x000f_ffff_ffff_f000,
                writable,
                user,
                executable,
            }
        },
    )
}

struct Builder<'a> {
    ram: &'a GuestRam,
    next: u64,
}

impl Builder<'_> {
    fn entry(&self, slot: u64) -> u64 {
        self.ram.load_u64(slot).unwrap()
    }

    /// Maps one page with all rights above the last level.
    fn map(&mut self, mapping: &Mapping) {
        let depth = match mapping.size {
            4096 => 4,
            0x20_0000 => 3,
            _ => 2,
        };
        let mut table = TABLES;
        for step in 0..depth {
            let slot = table + ((mapping.page >> (39 - 9 * step)) & 511) * 8;
            if step + 1 == depth {
                let mut entry = mapping.physical | PRESENT;
                entry |= if mapping.writable { WRITABLE } else { 0 };
                entry |= if mapping.user { USER } else { 0 };
                entry |= if mapping.executable { 0 } else { NO_EXECUTE };
                entry |= if depth == 4 { 0 } else { LARGE };
                self.ram.write(slot, &entry.to_le_bytes()).unwrap();
                return;
            }
            if self.entry(slot) & PRESENT == 0 {
                let entry = self.next | PRESENT | WRITABLE | USER;
                self.next += PAGE_SIZE;
                self.ram.write(slot, &entry.to_le_bytes()).unwrap();
            }
            table = self.entry(slot) & ADDRESS;
        }
    }
}

fn overlaps(left: &Mapping, right: &Mapping) -> bool {
    left.page < right.page.saturating_add(right.size) && right.page < left.page.saturating_add(left.size)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn finds_what_was_mapped_and_nothing_else(
        wanted in prop::collection::vec(mapping(), 1..12),
        probes in prop::collection::vec((mapping(), any::<u32>()), 24),
    ) {
        let ram = GuestRam::new(RAM).unwrap();
        let mut builder = Builder { ram: &ram, next: TABLES + PAGE_SIZE };
        let mut mapped: Vec<Mapping> = Vec::new();
        for mapping in wanted {
            if !mapped.iter().any(|other| overlaps(other, &mapping)) {
                builder.map(&mapping);
                mapped.push(mapping);
            }
        }
        let near = mapped.iter().map(|mapping| (*mapping, 0x1234_5678u32));
        for (probe, offset) in near.chain(probes).collect::<Vec<_>>() {
            let gva = probe.page + u64::from(offset) % probe.size;
            let expected = mapped.iter().find(|mapping| gva - gva % mapping.size == mapping.page);
            match (translate(&ram, TABLES, gva), expected) {
                (Ok(found), Some(mapping)) => {
                    prop_assert_eq!(found.address, mapping.physical + gva % mapping.size);
                    prop_assert_eq!(found.page_size, mapping.size);
                    prop_assert_eq!(
                        (found.writable, found.user, found.executable),
                        (mapping.writable, mapping.user, mapping.executable)
                    );
                }
                (Err(TranslateError::NotPresent { .. }), None) => {}
                (found, expected) => prop_assert!(false, "{:#x}: {:?} instead of {:?}", gva, found, expected),
            }
        }
    }

    #[test]
    fn random_tables_neither_hang_nor_leave_ram(bits in prop::collection::vec(any::<u64>(), 64), gva: u64, cr3: u64) {
        let ram = GuestRam::new(RAM).unwrap();
        for (index, value) in (0..RAM / 4096).zip(bits.iter().cycle()) {
            // Half of the entries lead to RAM, so that walks get deep.
            let value = if index % 2 == 0 { value & (RAM - 1) | PRESENT } else { *value };
            let slot = index * 4096 + (gva >> (12 + 9 * (index % 4)) & 511) * 8;
            ram.write(slot, &value.to_le_bytes()).unwrap();
        }
        let mut data = [0; 32];
        let read = read_virtual(&ram, cr3, gva, &mut data);
        if !is_canonical(gva) {
            prop_assert_eq!(read, Err(TranslateError::NonCanonical { gva }));
        }
    }

    #[test]
    fn canonical_means_that_the_upper_bits_repeat_bit_47(gva: u64) {
        let upper = gva >> 47;
        prop_assert_eq!(is_canonical(gva), upper == 0 || upper == (1 << 17) - 1);
        prop_assert!(is_canonical(gva & 0x7fff_ffff_ffff));
        prop_assert!(is_canonical(gva | 0xffff_8000_0000_0000));
    }
}

/// Two pages in reverse physical order at the top of the lower half, the second one read-only.
fn two_pages() -> (GuestRam, u64) {
    let ram = GuestRam::new(RAM).unwrap();
    let mut builder = Builder {
        ram: &ram,
        next: TABLES + PAGE_SIZE,
    };
    let first = 0x7fff_ffff_e000;
    for (page, physical, writable) in [(first, 0x5000, true), (first + PAGE_SIZE, 0x4000, false)] {
        builder.map(&Mapping {
            page,
            size: PAGE_SIZE,
            physical,
            writable,
            user: false,
            executable: true,
        });
    }
    (ram, first)
}

#[test]
fn an_access_may_cross_pages_but_not_the_canonical_boundary() {
    let (ram, first) = two_pages();
    ram.write(0x5ffc, &[1, 2, 3, 4]).unwrap();
    ram.write(0x4000, &[5, 6, 7, 8]).unwrap();
    let mut data = [0; 8];
    read_virtual(&ram, TABLES, first + 0xffc, &mut data).unwrap();
    assert_eq!(data, [1, 2, 3, 4, 5, 6, 7, 8]);
    let end = first + 2 * PAGE_SIZE - 4;
    assert!(matches!(
        read_virtual(&ram, TABLES, end, &mut data),
        Err(TranslateError::NonCanonical { .. })
    ));
    assert!(read_virtual(&ram, TABLES, u64::MAX - 3, &mut data).is_err());
}

#[test]
fn nothing_is_written_unless_all_can_be() {
    let (ram, first) = two_pages();
    let refused = write_virtual(&ram, TABLES, first + 0xffc, &[9; 8]);
    assert!(matches!(refused, Err(TranslateError::NotWritable { .. })));
    let mut data = [1; 4];
    ram.read(0x5ffc, &mut data).unwrap();
    assert_eq!(data, [0; 4]);
    write_virtual(&ram, TABLES, first + 0xffc, &[9; 4]).unwrap();
    ram.read(0x5ffc, &mut data).unwrap();
    assert_eq!(data, [9; 4]);
}

#[test]
fn malformed_entries_are_told() {
    let (ram, first) = two_pages();
    let slot = TABLES + (first >> 39 & 511) * 8;
    let entry = ram.load_u64(slot).unwrap();
    ram.write(slot, &(entry | LARGE).to_le_bytes()).unwrap();
    assert_eq!(
        translate(&ram, TABLES, first),
        Err(TranslateError::Malformed { gva: first, level: 4 })
    );
    let gpa = RAM + 0x1000;
    ram.write(slot, &(gpa | PRESENT).to_le_bytes()).unwrap();
    let outside = translate(&ram, TABLES, first);
    assert!(
        matches!(outside, Err(TranslateError::OutsideMemory { .. })),
        "{outside:?}"
    );
}
