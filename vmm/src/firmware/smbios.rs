//! SMBIOS tables: types 0, 1, 4, 16, 17, 32 and the end mark, with the 32-bit entry point (DMTF DSP0134, version 2.8).
//!
//! Operating systems take little more from here than the machine's name and memory size.

use super::Platform;

/// Version of the specification that the structures follow.
const MAJOR: u8 = 2;
const MINOR: u8 = 8;
/// Handles of the structures.
const BIOS_HANDLE: u16 = 0x0000;
const SYSTEM_HANDLE: u16 = 0x0100;
const PROCESSOR_HANDLE: u16 = 0x0400;
const MEMORY_ARRAY_HANDLE: u16 = 0x1000;
const MEMORY_DEVICE_HANDLE: u16 = 0x1100;
const BOOT_HANDLE: u16 = 0x2000;
const END_HANDLE: u16 = 0x7f00;
/// "Unknown", in fields that have such a value.
const UNKNOWN: u8 = 2;
/// No error information structure.
const NO_ERROR_HANDLE: u16 = 0xfffe;
const MANUFACTURER: &str = "Storlock";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Largest memory device whose size the 16-bit field holds in MiB; beyond it is in the extended field.
const SIZE_FIELD_LIMIT: u64 = 0x7fff;
const MIB: u64 = 1 << 20;

/// The two parts that QEMU's firmware configuration names `etc/smbios/smbios-anchor` and `etc/smbios/smbios-tables`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Smbios {
    /// The entry point structure; its table address is 0 and its checksums are right for that.
    pub anchor: Vec<u8>,
    /// The structures.
    pub tables: Vec<u8>,
}

impl Smbios {
    /// The entry point with the address of the tables filled in.
    #[must_use]
    pub(crate) fn anchor_for(&self, tables: u32) -> Vec<u8> {
        let mut anchor = self.anchor.clone();
        anchor[0x18..0x1c].copy_from_slice(&tables.to_le_bytes());
        set_checksums(&mut anchor);
        anchor
    }
}

/// A structure being built.
struct Structure {
    formatted: Vec<u8>,
    strings: Vec<&'static str>,
}

impl Structure {
    fn new(kind: u8, handle: u16) -> Self {
        let [low, high] = handle.to_le_bytes();
        Self {
            formatted: vec![kind, 0, low, high],
            strings: Vec::new(),
        }
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.formatted.extend(bytes);
        self
    }

    fn word(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn dword(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// A field that names a string.
    fn string(mut self, text: &'static str) -> Self {
        self.strings.push(text);
        let number = self.strings.len() as u8;
        self.bytes(&[number])
    }

    fn finish(mut self, tables: &mut Tables) {
        self.formatted[1] = self.formatted.len() as u8;
        for string in &self.strings {
            self.formatted.extend(string.bytes());
            self.formatted.push(0);
        }
        // The set of strings ends with an empty one; an empty set is two zeroes.
        self.formatted
            .extend(if self.strings.is_empty() { &[0, 0][..] } else { &[0] });
        tables.largest = tables.largest.max(self.formatted.len());
        tables.count += 1;
        tables.bytes.extend(self.formatted);
    }
}

#[derive(Default)]
struct Tables {
    bytes: Vec<u8>,
    count: u16,
    largest: usize,
}

/// The tables of a platform.
#[must_use]
pub(crate) fn smbios(platform: &Platform) -> Smbios {
    let mut tables = Tables::default();
    bios(&mut tables);
    system(&mut tables);
    for index in 0..platform.cpus {
        processor(index, &mut tables);
    }
    memory(platform.ram_size(), &mut tables);
    // System Boot Information: no error detected.
    Structure::new(32, BOOT_HANDLE).bytes(&[0; 7]).finish(&mut tables);
    Structure::new(127, END_HANDLE).finish(&mut tables);
    Smbios {
        anchor: entry_point(&tables),
        tables: tables.bytes,
    }
}

fn bios(tables: &mut Tables) {
    /// Characteristics: the field itself is not supported.
    const NOT_SUPPORTED: u64 = 1 << 3;
    /// Extension byte 2: UEFI, and this is a virtual machine.
    const UEFI_VIRTUAL_MACHINE: u8 = 1 << 3 | 1 << 4;
    Structure::new(0, BIOS_HANDLE)
        .string(MANUFACTURER)
        .string(VERSION)
        .word(0xe800)
        .string("01/01/2026")
        .bytes(&[0])
        .bytes(&NOT_SUPPORTED.to_le_bytes())
        .bytes(&[0, UEFI_VIRTUAL_MACHINE])
        // System BIOS release; there is no embedded controller.
        .bytes(&[0, 1, 0xff, 0xff])
        .finish(tables);
}

fn system(tables: &mut Tables) {
    const POWER_SWITCH: u8 = 6;
    Structure::new(1, SYSTEM_HANDLE)
        .string(MANUFACTURER)
        .string("Storlock PC")
        .string(VERSION)
        .bytes(&[0])
        // UUID: not present.
        .bytes(&[0; 16])
        .bytes(&[POWER_SWITCH, 0, 0])
        .finish(tables);
}

fn processor(index: u32, tables: &mut Tables) {
    const CENTRAL: u8 = 3;
    const POPULATED_ENABLED: u8 = 1 << 6 | 1;
    const NO_UPGRADE: u8 = 6;
    const NO_CACHE: u16 = 0xffff;
    Structure::new(4, PROCESSOR_HANDLE + index as u16)
        .string("CPU")
        .bytes(&[CENTRAL, UNKNOWN])
        .string(MANUFACTURER)
        // Processor ID: unknown.
        .bytes(&[0; 8])
        .bytes(&[0])
        // Voltage, external clock, maximum and current speed: unknown.
        .bytes(&[0])
        .word(0)
        .word(0)
        .word(0)
        .bytes(&[POPULATED_ENABLED, NO_UPGRADE])
        .word(NO_CACHE)
        .word(NO_CACHE)
        .word(NO_CACHE)
        // Serial number, asset tag, part number.
        .bytes(&[0, 0, 0])
        // One core, enabled, with one thread.
        .bytes(&[1, 1, 1])
        .word(u16::from(UNKNOWN))
        .word(u16::from(UNKNOWN))
        .finish(tables);
}

fn memory(bytes: u64, tables: &mut Tables) {
    const SYSTEM_BOARD: u8 = 3;
    const SYSTEM_MEMORY: u8 = 3;
    const NO_CORRECTION: u8 = 3;
    const EXTENDED_CAPACITY: u32 = 0x8000_0000;
    const EXTENDED_SIZE: u16 = 0x7fff;
    const DIMM: u8 = 9;
    const RAM: u8 = 7;
    const OTHER_DETAIL: u16 = 1 << 1;
    Structure::new(16, MEMORY_ARRAY_HANDLE)
        .bytes(&[SYSTEM_BOARD, SYSTEM_MEMORY, NO_CORRECTION])
        .dword(EXTENDED_CAPACITY)
        .word(NO_ERROR_HANDLE)
        .word(1)
        .bytes(&bytes.to_le_bytes())
        .finish(tables);
    let mib = bytes / MIB;
    let (size, extended) = if mib < SIZE_FIELD_LIMIT {
        (mib as u16, 0)
    } else {
        (EXTENDED_SIZE, mib as u32)
    };
    Structure::new(17, MEMORY_DEVICE_HANDLE)
        .word(MEMORY_ARRAY_HANDLE)
        .word(NO_ERROR_HANDLE)
        // Total and data width: unknown.
        .word(0xffff)
        .word(0xffff)
        .word(size)
        .bytes(&[DIMM, 0])
        .string("DIMM 0")
        .bytes(&[0, RAM])
        .word(OTHER_DETAIL)
        // Speed: unknown.
        .word(0)
        .string(MANUFACTURER)
        .bytes(&[0, 0, 0])
        .bytes(&[0])
        .dword(extended)
        // Configured speed and voltages: unknown.
        .word(0)
        .bytes(&[0; 6])
        .finish(tables);
}

/// The 32-bit entry point structure (DSP0134 5.2.1).
fn entry_point(tables: &Tables) -> Vec<u8> {
    const LENGTH: u8 = 0x1f;
    let mut anchor = b"_SM_".to_vec();
    anchor.extend([0, LENGTH, MAJOR, MINOR]);
    anchor.extend((tables.largest as u16).to_le_bytes());
    anchor.extend([0; 6]);
    anchor.extend(b"_DMI_\0");
    anchor.extend((tables.bytes.len() as u16).to_le_bytes());
    anchor.extend(0u32.to_le_bytes());
    anchor.extend(tables.count.to_le_bytes());
    anchor.push(MAJOR << 4 | MINOR);
    set_checksums(&mut anchor);
    anchor
}

/// The inner checksum covers the part from "_DMI_" on, the outer one everything.
fn set_checksums(anchor: &mut [u8]) {
    let sum = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
            .wrapping_neg()
    };
    (anchor[0x04], anchor[0x15]) = (0, 0);
    anchor[0x15] = sum(&anchor[0x10..]);
    anchor[0x04] = sum(anchor);
}
