//! Tests of the walker: against a list of mappings, and on tables of random bits.

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
            match (translate(&ram, AddressSpace::four_level(TABLES), gva), expected) {
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
    fn random_tables_neither_hang_nor_leave_ram(
        bits in prop::collection::vec(any::<u64>(), 64),
        gva: u64,
        cr3: u64,
        (cr0, cr4, efer) in (any::<u64>(), any::<u64>(), any::<u64>()),
    ) {
        let ram = GuestRam::new(RAM).unwrap();
        for (index, value) in (0..RAM / 4096).zip(bits.iter().cycle()) {
            // Half of the entries lead to RAM, so that walks get deep.
            let value = if index % 2 == 0 { value & (RAM - 1) | PRESENT } else { *value };
            let slot = index * 4096 + (gva >> (12 + 9 * (index % 4)) & 511) * 8;
            ram.write(slot, &value.to_le_bytes()).unwrap();
        }
        let mut data = [0; 32];
        let read = read_virtual(&ram, AddressSpace::four_level(cr3), gva, &mut data);
        if !is_canonical(gva) {
            prop_assert_eq!(read, Err(TranslateError::NonCanonical { gva }));
        }
        for gva in [gva, gva & 0xffff_ffff] {
            for cr0 in [cr0, cr0 | CR0_PG] {
                let space = AddressSpace::of(cr0, cr3 & (RAM - 1), cr4, efer);
                if let Ok(found) = translate(&ram, space, gva) {
                    prop_assert_eq!(found.address % found.page_size, gva % found.page_size);
                }
                // Nothing is promised but that it ends.
                let _ = read_virtual(&ram, space, gva, &mut data);
            }
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
    read_virtual(&ram, AddressSpace::four_level(TABLES), first + 0xffc, &mut data).unwrap();
    assert_eq!(data, [1, 2, 3, 4, 5, 6, 7, 8]);
    let end = first + 2 * PAGE_SIZE - 4;
    assert!(matches!(
        read_virtual(&ram, AddressSpace::four_level(TABLES), end, &mut data),
        Err(TranslateError::NonCanonical { .. })
    ));
    assert!(read_virtual(&ram, AddressSpace::four_level(TABLES), u64::MAX - 3, &mut data).is_err());
}

#[test]
fn nothing_is_written_unless_all_can_be() {
    let (ram, first) = two_pages();
    let refused = write_virtual(&ram, AddressSpace::four_level(TABLES), first + 0xffc, &[9; 8]);
    assert!(matches!(refused, Err(TranslateError::NotWritable { .. })));
    let mut data = [1; 4];
    ram.read(0x5ffc, &mut data).unwrap();
    assert_eq!(data, [0; 4]);
    write_virtual(&ram, AddressSpace::four_level(TABLES), first + 0xffc, &[9; 4]).unwrap();
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
        translate(&ram, AddressSpace::four_level(TABLES), first),
        Err(TranslateError::Malformed { gva: first, level: 4 })
    );
    let gpa = RAM + 0x1000;
    ram.write(slot, &(gpa | PRESENT).to_le_bytes()).unwrap();
    let outside = translate(&ram, AddressSpace::four_level(TABLES), first);
    assert!(
        matches!(outside, Err(TranslateError::OutsideMemory { .. })),
        "{outside:?}"
    );
}

/// What an address leads to: address, size, writable, user, executable.
type Expected<'a> = &'a dyn Fn(u64) -> Result<(u64, u64, bool, bool, bool), TranslateError>;

/// The modes before long mode, and five levels. Tables by hand, after the figures of the Intel SDM.
#[test]
#[expect(clippy::too_many_lines, reason = "a table: a case a paging mode")]
fn each_paging_mode_finds_its_pages() {
    let ram = GuestRam::new(RAM).unwrap();
    let put = |address: u64, entry: u64| ram.write(address, &entry.to_le_bytes()).unwrap();
    let put_32 = |address: u64, entry: u32| ram.write(address, &entry.to_le_bytes()).unwrap();
    let (pg, pse, pae, la57, lma) = (1u64 << 31, 1u64 << 4, 1u64 << 5, 1u64 << 12, 1u64 << 10);

    // 32-bit: directory at 1000h, table at 2000h. 80403h: directory entry 2, table entry 3.
    put_32(0x1000 + 4 * 2, 0x2000 | 7);
    put_32(0x2000 + 4 * 3, 0x5000 | 3);
    // A large page whose bits 39:32 are 12h, at directory entry 3FFh; the reserved bit at 3FEh.
    put_32(0x1000 + 4 * 0x3ff, 0x0040_0000 | 0x12 << 13 | 0x83);
    put_32(0x1000 + 4 * 0x3fe, 0x0060_0000 | 0x83);
    let legacy = AddressSpace::of(pg, 0x1000 | 0x18, 0, 0);
    let large = AddressSpace::of(pg, 0x1000, pse, 0);

    // PAE: pointers at 3020h, for the second gigabyte; a directory at 4000h, a table at 5000h.
    put(0x3020 + 8, 0x4000 | 1);
    put(0x3020 + 8 * 3, 0x4000 | 0x81);
    put(0x4000 + 8 * 5, 0x5000 | 7);
    put(0x5000 + 8 * 6, 0x1_2345_6000 | 1 | 1 << 63);
    put(0x4000 + 8 * 7, 0x7_0020_0000 | 0x83);
    let wide = AddressSpace::of(pg, 0x3020 | 0x1f, pae, 0);

    // Five levels, by the last entry of each table but the last one's.
    for (table, next) in [
        (0x6000u64, 0x7000u64),
        (0x7000, 0x8000),
        (0x8000, 0x9000),
        (0x9000, 0xa000),
    ] {
        put(table + 8 * 0x1ff, next | 7);
    }
    put(0xa000 + 8, 0xb000 | 7);
    let five = AddressSpace::of(pg, 0x6000, pae | la57, lma);

    let off = AddressSpace::of(0, 0x1000, pse | pae | la57, 0);
    let found =
        |space, gva| translate(&ram, space, gva).map(|t| (t.address, t.page_size, t.writable, t.user, t.executable));
    let none = |level| move |gva| Err(TranslateError::NotPresent { gva, level });
    let malformed = |level| move |gva| Err(TranslateError::Malformed { gva, level });
    let beyond = |gva| Err(TranslateError::NonCanonical { gva });
    let at = |address, size, writable, user, executable| move |_| Ok((address, size, writable, user, executable));
    let cases: [(AddressSpace, u64, Expected); 22] = [
        (off, 0, &at(0, 4096, true, true, true)),
        (off, 0xffff_fff0, &at(0xffff_fff0, 4096, true, true, true)),
        (off, 1 << 32, &beyond),
        (legacy, 0x80_3abc, &at(0x5abc, 4096, true, false, true)),
        (legacy, 0x80_4abc, &none(1)),
        (legacy, 0xc0_3abc, &none(2)),
        (legacy, 0x1_0080_3abc, &beyond),
        // Without page size extensions bit 7 means nothing: 0042_4000h is where the table is.
        (legacy, 0xffc0_0000, &none(1)),
        (large, 0x80_3abc, &at(0x5abc, 4096, true, false, true)),
        (large, 0xffc1_2345, &at(0x12_0041_2345, 4 << 20, true, false, true)),
        (large, 0xff80_0000, &malformed(2)),
        (wide, 0x40a0_6fed, &at(0x1_2345_6fed, 4096, false, false, false)),
        (wide, 0x40e1_2345, &at(0x7_0021_2345, 2 << 20, true, false, true)),
        (wide, 0x40a0_7000, &none(1)),
        (wide, 0x4000_0000, &none(2)),
        (wide, 0x0000_0000, &none(3)),
        (wide, 0xc000_0000, &malformed(3)),
        (wide, 0xffff_ffff_c0a0_6fed, &beyond),
        (five, 0xffff_ffff_ffe0_1fed, &at(0xbfed, 4096, true, true, true)),
        (five, 0xffff_ffff_ffe0_2fed, &none(1)),
        (five, 0xff00_0000_0000_0000, &none(5)),
        (five, 0xfe00_0000_0000_0000, &beyond),
    ];
    for (space, gva, expected) in cases {
        assert_eq!(found(space, gva), expected(gva), "{space:?} {gva:#x}");
    }
    // Four levels have no such address.
    let four = AddressSpace::of(pg, 0x6000, pae, lma);
    assert_eq!(found(four, 0xff00_0000_0000_0000), beyond(0xff00_0000_0000_0000));
}

/// Tables and data in firmware are read as those in RAM; firmware is not written.
#[test]
fn firmware_is_read_and_not_written() {
    use vm_memory::VolatileMemory as _;

    let ram = GuestRam::new(RAM).unwrap();
    let rom = vm_memory::MmapRegion::new(0x2000).unwrap();
    let mut content = [0x90u8; 0x2000];
    // 32-bit paging with the directory in firmware: the last 4 MiB lead to themselves.
    content[0xffc..0x1000].copy_from_slice(&0xffc0_0083u32.to_le_bytes());
    rom.as_volatile_slice().copy_from(&content);
    ram.show_firmware(0xffff_e000, std::sync::Arc::new(rom));
    for space in [
        AddressSpace::of(0, 0, 0, 0),
        AddressSpace::of(CR0_PG, 0xffff_e000, CR4_PSE, 0),
    ] {
        let mut data = [0; 16];
        read_virtual(&ram, space, 0xffff_fff0, &mut data).unwrap();
        assert_eq!(data, [0x90; 16]);
        assert!(read_virtual(&ram, space, 0xffff_fff1, &mut data).is_err());
        let refused = write_virtual_unprotected(&ram, space, 0xffff_fff0, &[0]);
        assert!(
            matches!(refused, Err(TranslateError::OutsideMemory { .. })),
            "{refused:?}"
        );
    }
}
