//! Tests of what a booted kernel finds in memory, read through its page tables.

use proptest::prelude::*;

use super::*;
use crate::memory::GuestRam;
use crate::translate::{AddressSpace, read_virtual, translate};

struct Guest {
    ram: GuestRam,
    info: BootInfo,
}

impl Guest {
    fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        read_virtual(&self.ram, AddressSpace::four_level(self.info.cr3), address, &mut data).unwrap();
        data
    }

    fn u64_at(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.bytes(address, 8).try_into().unwrap())
    }

    fn u32_at(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.bytes(address, 4).try_into().unwrap())
    }

    fn field(&self, offset: u64) -> u64 {
        self.u64_at(self.info.loader_block + offset)
    }

    /// Base, length and type of each memory range.
    fn ranges(&self) -> Vec<(u64, u64, u32)> {
        let count = u64::from(self.u32_at(self.info.loader_block + 0x48));
        let ranges = self.field(0x40);
        (0..count)
            .map(|index| ranges + 24 * index)
            .map(|at| (self.u64_at(at), self.u64_at(at + 8), self.u32_at(at + 16)))
            .collect()
    }
}

fn file(name: &str, data: &[u8]) -> BootFile {
    BootFile {
        name: name.into(),
        kind: 3,
        data: data.to_vec(),
    }
}

fn request(files: Vec<BootFile>, seed: u64) -> BootRequest {
    BootRequest {
        kernel: KernelImage::from_code("kernel.exe", &[0xf4; 9000]).unwrap(),
        files,
        command_line: "ops=5 threads=2".into(),
        seed,
    }
}

fn boot(memory: u64, cpus: u32, request: &BootRequest) -> Guest {
    let ram = GuestRam::new(memory).unwrap();
    let info = load(&ram, request, cpus, 123).unwrap();
    Guest { ram, info }
}

#[test]
fn the_loader_block_says_where_everything_is() {
    let files = vec![file("driver.sys", b"contents"), file("empty.sys", b"")];
    let guest = boot(3 << 30 | 64 << 20, 3, &request(files, 5));
    let info = guest.info;
    assert_eq!(guest.bytes(info.loader_block, 8), b"STORLOCK");
    let fields: Vec<_> = [0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38, 0x60, 0x68]
        .map(|offset| guest.field(offset))
        .into();
    let expected = [
        0x70 << 32 | 1,
        5,
        info.kernel_base,
        3 << 32 | 0x3000,
        info.direct_map_base,
        (4 << 30) + (64 << 20),
        info.cr3,
        123,
        1_000_000_000,
    ];
    assert_eq!(fields, expected);
    assert_eq!(guest.bytes(guest.field(0x58), 16), b"ops=5 threads=2\0");
    assert_eq!(guest.u32_at(info.loader_block + 0x4c), 3);
    let entry = |index: u64| {
        let at = guest.field(0x50) + 88 * index;
        let name = guest.bytes(at, 11);
        let data = guest.bytes(guest.u64_at(at + 64), guest.u64_at(at + 72) as usize);
        (name, data, guest.u32_at(at + 80))
    };
    assert_eq!(entry(0), (b"kernel.exe\0".to_vec(), vec![0xf4; 9000], 1));
    assert_eq!(entry(1), (b"driver.sys\0".to_vec(), b"contents".to_vec(), 3));
    assert_eq!(entry(2), (b"empty.sys\0\0".to_vec(), Vec::new(), 3));
}

#[test]
fn only_the_image_and_the_direct_map_are_mapped() {
    let guest = boot(16 << 20, 1, &request(Vec::new(), 9));
    let at = |gva| translate(&guest.ram, AddressSpace::four_level(guest.info.cr3), gva);
    let ram = at(guest.info.direct_map_base + (16 << 20) - 1).unwrap();
    assert_eq!(
        (ram.address, ram.writable, ram.executable),
        ((16 << 20) - 1, true, false)
    );
    assert_eq!(ram.page_size, 2 << 20);
    let code = at(guest.info.entry_point).unwrap();
    assert_eq!((code.address, code.page_size), (guest.info.kernel_physical, 4096));
    for outside in [
        guest.info.direct_map_base + (16 << 20),
        guest.info.kernel_base - 1,
        guest.info.kernel_base + 0x3000,
        guest.info.kernel_physical,
    ] {
        assert!(at(outside).is_err(), "{outside:#x}");
    }
}

#[test]
fn what_cannot_be_booted_is_told() {
    let ram = || GuestRam::new(16 << 20).unwrap();
    let refused = |request: &BootRequest| load(&ram(), request, 1, 0).unwrap_err();
    let large = refused(&request(vec![file("large.sys", &vec![1; 16 << 20])], 1));
    assert!(
        matches!(&large, BootError::Space { what, .. } if what == "large.sys"),
        "{large}"
    );
    for name in ["", "tab\t.sys", "\u{fc}.sys", &"n".repeat(64)] {
        let error = refused(&request(vec![file(name, b"x")], 1));
        assert!(matches!(&error, BootError::Name { file } if file == name), "{error}");
    }
    for command_line in ["line\n".to_owned(), "x".repeat(4096)] {
        let request = BootRequest {
            command_line,
            ..request(Vec::new(), 1)
        };
        assert_eq!(refused(&request), BootError::CommandLine);
    }
    let kernel = KernelImage::from_code("huge.exe", &vec![0xf4; 16 << 20]).unwrap();
    let huge = refused(&BootRequest {
        kernel,
        ..request(Vec::new(), 1)
    });
    assert!(huge.to_string().contains("huge.exe"), "{huge}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn ranges_cover_ram_once_and_nothing_lies_on_anything(
        seed: u64,
        cpus in 1u32..=64,
        sizes in prop::collection::vec(0usize..200_000, 0..6),
    ) {
        let files = sizes.iter().enumerate().map(|(index, size)| file(&format!("{index}.sys"), &vec![index as u8 + 1; *size]));
        let guest = boot(32 << 20, cpus, &request(files.collect(), seed));
        let mut next = 0;
        for (base, length, kind) in guest.ranges() {
            prop_assert_eq!(base, next);
            prop_assert!(length > 0 && length % 4096 == 0 && (1..=4).contains(&kind));
            next = base + length;
        }
        prop_assert_eq!(next, 32 << 20);
        let kind_at = |physical: u64| {
            let ranges = guest.ranges();
            ranges.iter().find(|(base, length, _)| (*base..base + length).contains(&physical)).map(|range| range.2)
        };
        prop_assert_eq!(kind_at(guest.info.kernel_physical), Some(2));
        prop_assert_eq!(kind_at(guest.info.cr3), Some(3));
        let stack = guest.info.stack_pointer(cpus - 1) - guest.info.direct_map_base;
        prop_assert_eq!(kind_at(stack), Some(3));
        prop_assert_eq!(kind_at(guest.info.loader_block - guest.info.direct_map_base), Some(3));
        for (index, size) in (1u64..).zip(&sizes) {
            let address = guest.u64_at(guest.field(0x50) + 88 * index + 64);
            prop_assert_eq!(kind_at(address - guest.info.direct_map_base), Some(4));
            prop_assert!(guest.bytes(address, *size).iter().all(|byte| u64::from(*byte) == index));
        }
        let base = guest.info.kernel_base - 0xffff_f800_0000_0000;
        prop_assert!(base % (2 << 20) == 0 && (1 << 30..256 << 30).contains(&base));
    }
}
