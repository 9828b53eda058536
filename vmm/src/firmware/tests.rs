//! Tests of what is in the tables; ACPI's own tools must accept them without a warning.

use crate::firmware::table_loader::TableFiles;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::memory::GuestRam;

fn platform(cpus: u32) -> Platform {
    let range = |base, length| RamRange { base, length };
    Platform {
        cpus,
        ram: vec![range(0, 3 << 30), range(4 << 30, 5 << 30)],
        address_bits: 40,
    }
}

/// Splits the tables file at its headers: signature and bytes of each table.
fn tables(files: &TableFiles, ram: &GuestRam, at: u64) -> Vec<(String, Vec<u8>)> {
    let mut bytes = vec![0; files.tables().len()];
    ram.read(at, &mut bytes).unwrap();
    let mut found = Vec::new();
    let mut offset = 0;
    while offset < bytes.len() {
        let length = u32::from_le_bytes(bytes[offset + 4..offset + 8].try_into().unwrap()) as usize;
        let signature = String::from_utf8(bytes[offset..offset + 4].to_vec()).unwrap();
        let next = (offset + length).next_multiple_of(16);
        found.push((signature, bytes[offset..offset + length].to_vec()));
        offset = next;
    }
    found
}

fn placed(platform: &Platform) -> (GuestRam, TableFiles, Placed) {
    let ram = GuestRam::new(16 << 20).unwrap();
    let files = acpi_tables(platform);
    let places = Placed {
        rsdp: 0xe_0000,
        tables: 8 << 20,
    };
    files.place(&ram, places).unwrap();
    (ram, files, places)
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn address(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn every_table_is_reached_from_the_root_with_a_good_checksum() {
    let (ram, files, places) = placed(&platform(2));
    let mut rsdp = [0; 36];
    ram.read(places.rsdp, &mut rsdp).unwrap();
    assert_eq!((&rsdp[..8], sum(&rsdp[..20]), sum(&rsdp)), (&b"RSD PTR "[..], 0, 0));
    let read = |at: u64| {
        let mut header = [0; 8];
        ram.read(at, &mut header).unwrap();
        let mut table = vec![0; u32::from_le_bytes(header[4..].try_into().unwrap()) as usize];
        ram.read(at, &mut table).unwrap();
        table
    };
    let xsdt = read(address(&rsdp, 24));
    assert_eq!((&xsdt[..4], sum(&xsdt)), (&b"XSDT"[..], 0));
    let listed: Vec<_> = (36..xsdt.len()).step_by(8).map(|at| read(address(&xsdt, at))).collect();
    let signatures: Vec<_> = listed.iter().map(|table| &table[..4]).collect();
    assert_eq!(signatures, [b"FACP", b"APIC", b"WAET"]);
    assert!(listed.iter().all(|table| sum(table) == 0));
    let fadt = &listed[0];
    let dsdt = read(address(fadt, 140));
    assert_eq!((&dsdt[..4], sum(&dsdt)), (&b"DSDT"[..], 0));
    let facs = u64::from(u32::from_le_bytes(fadt[36..40].try_into().unwrap()));
    assert_eq!((&read(facs)[..4], facs % 64), (&b"FACS"[..], 0));
    assert_eq!(tables(&files, &ram, places.tables).len(), 6);
}

#[test]
fn the_script_says_to_firmware_what_place_does() {
    let files = acpi_tables(&platform(1));
    let script = files.script();
    assert_eq!(script.len() % 128, 0);
    let commands: Vec<_> = script.chunks(128).map(|command| command[0]).collect();
    assert_eq!(commands[..2], [1, 1], "allocations come first");
    let of_kind = |kind: u8| commands.iter().filter(|command| kind.eq(command)).count();
    // FACS and DSDT (twice) in the FADT, three entries of the XSDT, the root pointer's.
    assert_eq!(of_kind(2), 7);
    // DSDT, FADT, MADT, WAET, XSDT, and both of the root pointer.
    assert_eq!(of_kind(3), 7);
    assert_eq!(&script[4..20], b"etc/acpi/tables\0");
    assert_eq!((script[60], script[64]), (64, 1), "alignment and zone");
    assert_eq!(&script[132..147], b"etc/acpi/rsdp\0\0");
    assert_eq!((script[188], script[192]), (16, 2));
}

#[test]
fn every_processor_is_in_the_interrupt_table() {
    let (ram, files, places) = placed(&platform(64));
    let madt = tables(&files, &ram, places.tables)
        .into_iter()
        .find(|(name, _)| name == "APIC")
        .unwrap()
        .1;
    assert_eq!(u32::from_le_bytes(madt[36..40].try_into().unwrap()), LOCAL_APIC_BASE);
    assert_eq!(madt[40], 1, "there are 8259s");
    let mut ids = Vec::new();
    let mut at = 44;
    while at < madt.len() {
        if madt[at] == 0 {
            ids.push((madt[at + 2], madt[at + 3]));
        }
        at += usize::from(madt[at + 1]);
    }
    assert_eq!(ids, (0..64).map(|id| (id, id)).collect::<Vec<_>>());
}

#[test]
fn windows_for_bars_keep_off_ram() {
    let platform = platform(1);
    assert_eq!(platform.pci_window(), (3 << 30, 0xfec0_0000));
    assert_eq!(platform.pci_high_window(), Some((32 << 30, 1 << 40)));
    let small = Platform {
        ram: vec![RamRange {
            base: 0,
            length: 512 << 20,
        }],
        address_bits: 36,
        cpus: 1,
    };
    assert_eq!(small.pci_window().0, 2 << 30);
    assert_eq!(small.pci_high_window(), Some((32 << 30, 64 << 30)));
    let large = Platform {
        ram: vec![RamRange {
            base: 4 << 30,
            length: 61 << 30,
        }],
        ..small
    };
    assert_eq!(large.pci_high_window(), None);
}

#[test]
fn smbios_structures_can_be_walked_to_the_end_mark() {
    let smbios = smbios(&platform(3));
    let mut kinds = Vec::new();
    let mut at = 0;
    while at < smbios.tables.len() {
        kinds.push(smbios.tables[at]);
        let strings = at + usize::from(smbios.tables[at + 1]);
        let end = smbios.tables[strings..]
            .windows(2)
            .position(|pair| pair == [0, 0])
            .unwrap();
        at = strings + end + 2;
    }
    assert_eq!(kinds, [0, 1, 4, 4, 4, 16, 17, 32, 127]);
    let anchor = smbios.anchor_for(0x1234_5000);
    assert_eq!((sum(&anchor), sum(&anchor[0x10..])), (0, 0));
    assert_eq!(u32::from_le_bytes(anchor[0x18..0x1c].try_into().unwrap()), 0x1234_5000);
    assert_eq!(usize::from(anchor[0x1c]), kinds.len());
}

#[test]
fn smbios_says_how_much_memory_there_is() {
    for (gib, field, extended) in [(8u64, 8192u16, 0u32), (64, 0x7fff, 65536)] {
        let ram = vec![RamRange {
            base: 0,
            length: gib << 30,
        }];
        let smbios = smbios(&Platform { ram, ..platform(1) });
        let at = smbios
            .tables
            .windows(4)
            .position(|bytes| bytes == [17, 0x28, 0x00, 0x11])
            .unwrap();
        let device = &smbios.tables[at..];
        assert_eq!(device[0x0c..0x0e], field.to_le_bytes());
        assert_eq!(device[0x1c..0x20], extended.to_le_bytes());
    }
}

/// Disassembles every table and compiles the result again; neither may have anything to say.
#[test]
fn acpica_has_no_complaints() {
    let iasl = Path::new("/usr/bin/iasl");
    assert!(
        iasl.exists(),
        "this test needs iasl: scripts/setup guests, or the package acpica-tools"
    );
    let directory = tempfile::tempdir().unwrap();
    for cpus in [1, 2, 64] {
        let (ram, files, places) = placed(&platform(cpus));
        for (signature, bytes) in tables(&files, &ram, places.tables) {
            let file = directory.path().join(format!("{}{cpus}.aml", signature.to_lowercase()));
            std::fs::write(&file, bytes).unwrap();
            let said = run(Command::new(iasl).arg("-d").arg(&file));
            assert!(
                !said.contains("Warning") && !said.contains("Error") && !said.contains("Invalid"),
                "{said}"
            );
            let said = run(Command::new(iasl).args(["-we", "-ve"]).arg(file.with_extension("dsl")));
            let clean = said.contains("0 Errors, 0 Warnings") || !said.contains("rror") && !said.contains("arning");
            assert!(clean, "{signature}: {said}");
        }
    }
}

/// Both outputs of a command that has to succeed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

#[test]
fn the_ports_that_the_tables_name_are_those_that_are_told() {
    use std::collections::BTreeSet;
    let (ram, files, places) = placed(&platform(2));
    let tables = tables(&files, &ram, places.tables);
    let table = |signature: &str| &tables.iter().find(|(name, _)| name == signature).unwrap().1;
    // I/O port descriptors (ACPI 6.4.2.5) with one place.
    let descriptors = table("DSDT")
        .windows(8)
        .filter(|bytes| bytes[..2] == [0x47, 1] && bytes[2..4] == bytes[4..6]);
    let word = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    let mut named: BTreeSet<(u16, u16)> = descriptors.map(|bytes| (word(&bytes[2..4]), bytes[7].into())).collect();
    // The extended addresses of the FADT (table 5.9): reset register, PM1 events, PM1 control, PM timer, GPE0.
    let fixed = table("FACP");
    for at in [116, 148, 172, 208, 220] {
        assert_eq!(fixed[at], 1, "system I/O");
        named.insert((address(fixed, at + 4) as u16, u16::from(fixed[at + 1]) / 8));
    }
    let madt = table("APIC");
    assert_eq!(
        (fixed[8], madt[8]),
        (6, 6),
        "revisions that go together (ACPI 6.5, 5.2.12)"
    );
    assert_eq!(madt.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    let told = table_ports().map(|ports| (ports.first, ports.length)).collect();
    assert_eq!(named, told);
}
