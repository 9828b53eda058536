//! Direct boot of Linux: does the work of firmware and boot loader, by the 64-bit boot protocol (Linux documentation
//! "arch/x86/boot", "zero-page").
//!
//! The kernel enters at its 64-bit entry point with identity-mapped memory, finds the zero page with a memory map and the
//! ACPI root pointer, and starts the other processors by itself. Talks to guest memory.

use std::io::Cursor;

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::KernelLoader as _;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::bzimage::BzImage;
use vm_memory::GuestAddress;

use super::paging::{LARGE_PAGE, PAGE, Page, PageTables};
use super::{BootError, GDT};
use crate::firmware::{MapEntry, MapKind, Placed, Platform, acpi_tables, memory_map, smbios};
use crate::memory::GuestRam;

/// Where everything below 1 MiB goes.
const GDT_PLACE: u64 = 0x1000;
const ZERO_PAGE: u64 = 0x7000;
const PAGE_TABLES: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;
/// First address that the map gives to nobody: the extended BIOS data area, video memory, ROMs.
const LEGACY_AREA: u64 = 0x9_fc00;
/// Where operating systems search for the ACPI root pointer and the SMBIOS anchor.
const RSDP: u64 = 0xe_0000;
const SMBIOS_ANCHOR: u64 = 0xf_0000;
/// Where the compressed kernel goes; it makes room for itself.
const KERNEL: u64 = 1 << 20;
/// Memory up to here is identity-mapped at the start.
const MAPPED: u64 = 4 << 30;

/// setup_header.xloadflags: there is a 64-bit entry point, at this offset.
const XLF_KERNEL_64: u16 = 1 << 0;
const ENTRY_64: u64 = 0x200;
/// setup_header.type_of_loader: a boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// First version of the protocol whose header is complete enough.
const OLDEST_PROTOCOL: u16 = 0x020c;
/// The signature of the header, "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;
const HEADER_OFFSET: usize = 0x202;

/// Fields of the header, by their offsets in the file, and their units in bytes.
const SETUP_SECTORS: usize = 0x1f1;
const SYSTEM_SIZE: usize = 0x1f4;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: u64 = 512;
const PARAGRAPH: u64 = 16;
/// What 0 sectors stand for.
const DEFAULT_SETUP_SECTORS: u64 = 4;

/// A file by its name in messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// What is booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinuxRequest {
    /// The kernel, a bzImage with a 64-bit entry point.
    pub kernel: NamedFile,
    /// The initial RAM disk.
    pub initrd: Option<NamedFile>,
    /// The kernel's command line.
    pub command_line: String,
}

/// Where the first processor starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinuxInfo {
    /// The kernel's 64-bit entry point.
    pub entry_point: u64,
    /// The zero page.
    pub(crate) zero_page: u64,
    /// The page map level 4.
    pub cr3: u64,
    /// The global descriptor table.
    pub(crate) gdt: u64,
}

/// Whether a file is a Linux kernel image rather than a PE image without one: the header's signature is where the boot
/// protocol puts it.
#[must_use]
pub fn is_linux_kernel(data: &[u8]) -> bool {
    let magic = data.get(HEADER_OFFSET..HEADER_OFFSET + 4);
    magic == Some(&HEADER_MAGIC.to_le_bytes())
}

/// Puts the kernel, its RAM disk and the tables of `platform` into memory.
///
/// # Errors
/// [`BootError`] if the kernel cannot be booted this way or something does not fit.
pub fn load_linux(ram: &GuestRam, request: &LinuxRequest, platform: &Platform) -> Result<LinuxInfo, BootError> {
    let header = load_kernel(ram, &request.kernel)?;
    let tables = place_tables(ram, platform)?;
    let initrd = match &request.initrd {
        Some(initrd) => Some((place_initrd(ram, initrd, &header, tables)?, initrd.data.len())),
        None => None,
    };
    place_command_line(ram, &request.command_line, &header)?;
    let mut parameters = boot_params {
        hdr: header,
        acpi_rsdp_addr: RSDP,
        ..boot_params::default()
    };
    parameters.hdr.type_of_loader = LOADER_UNDEFINED;
    parameters.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    if let Some((address, length)) = initrd {
        parameters.hdr.ramdisk_image = address as u32;
        parameters.hdr.ramdisk_size = length as u32;
    }
    for (slot, entry) in parameters.e820_table.iter_mut().zip(linux_map(platform, tables)) {
        *slot = boot_e820_entry {
            addr: entry.base,
            size: entry.length,
            r#type: entry.kind as u32,
        };
        parameters.e820_entries += 1;
    }
    let zero_page = BootParams::new(&parameters, GuestAddress(ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&zero_page, ram.map()).map_err(|error| BootError::Linux {
        file: request.kernel.name.clone(),
        reason: error.to_string(),
    })?;
    write(ram, GDT_PLACE, &GDT.map(u64::to_le_bytes).concat())?;
    write(ram, PAGE_TABLES, &identity_map().bytes())?;
    Ok(LinuxInfo {
        entry_point: KERNEL + ENTRY_64,
        zero_page: ZERO_PAGE,
        cr3: PAGE_TABLES,
        gdt: GDT_PLACE,
    })
}

fn load_kernel(ram: &GuestRam, kernel: &NamedFile) -> Result<setup_header, BootError> {
    let refused = |reason: String| BootError::Linux {
        file: kernel.name.clone(),
        reason,
    };
    check_length(&kernel.data).map_err(refused)?;
    let mut reader = Cursor::new(kernel.data.as_slice());
    let loaded = BzImage::load(ram.map(), Some(GuestAddress(KERNEL)), &mut reader, None).map_err(|error| {
        refused(format!(
            "{error}; is it a whole bzImage, and has the guest memory for it?"
        ))
    })?;
    let header = loaded
        .setup_header
        .ok_or_else(|| refused("it has no set-up header".into()))?;
    let (version, flags) = (header.version, header.xloadflags);
    if version < OLDEST_PROTOCOL || flags & XLF_KERNEL_64 == 0 {
        return Err(refused(
            "it has no 64-bit entry point: a kernel for x86-64, Linux 3.8 or newer, is needed".into(),
        ));
    }
    Ok(header)
}

/// Holds a kernel's length against its own header: the sectors of its set-up code, the size of what is to be loaded, and
/// in that the payload, the compressed kernel. The size counts paragraphs of 16 bytes, the last of which may be short.
fn check_length(file: &[u8]) -> Result<(), String> {
    let field = |offset: usize| {
        let bytes = file.get(offset..).and_then(|rest| rest.first_chunk::<4>());
        let bytes = bytes.ok_or_else(|| format!("truncated: its header is cut at {:#x} bytes", file.len()))?;
        Ok::<u64, String>(u64::from(u32::from_le_bytes(*bytes)))
    };
    if !is_linux_kernel(file) {
        return Ok(());
    }
    let sectors = match field(SETUP_SECTORS)? & 0xff {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => sectors,
    };
    let setup = (sectors + 1) * SECTOR;
    let loaded = (field(SYSTEM_SIZE)? * PARAGRAPH).saturating_sub(PARAGRAPH - 1);
    let payload = field(PAYLOAD_OFFSET)? + field(PAYLOAD_LENGTH)?;
    let needed = setup + loaded.max(payload);
    if needed > file.len() as u64 {
        return Err(format!(
            "truncated: by its own header it has {needed} bytes at least, the file has {}",
            file.len()
        ));
    }
    Ok(())
}

/// Puts the ACPI and SMBIOS tables at the end of low RAM; returns where they begin.
fn place_tables(ram: &GuestRam, platform: &Platform) -> Result<u64, BootError> {
    let (acpi, smbios) = (acpi_tables(platform), smbios(platform));
    let acpi_length = (acpi.tables().len() as u64).next_multiple_of(PAGE);
    let smbios_length = (smbios.tables.len() as u64).next_multiple_of(PAGE);
    let bytes = acpi_length + smbios_length;
    let start = platform
        .low_ram_end()
        .checked_sub(bytes)
        .filter(|start| *start > KERNEL);
    let start = start.ok_or_else(|| BootError::Space {
        what: "the firmware tables".into(),
        bytes,
    })?;
    let places = Placed {
        rsdp: RSDP,
        tables: start,
    };
    acpi.place(ram, places).map_err(|_| BootError::Space {
        what: "the ACPI tables".into(),
        bytes,
    })?;
    let smbios_at = start + acpi_length;
    write(ram, smbios_at, &smbios.tables)?;
    write(ram, SMBIOS_ANCHOR, &smbios.anchor_for(smbios_at as u32))?;
    Ok(start)
}

/// Puts the RAM disk as high as the kernel lets it, below the tables.
fn place_initrd(ram: &GuestRam, initrd: &NamedFile, header: &setup_header, end: u64) -> Result<u64, BootError> {
    let length = initrd.data.len() as u64;
    let limit = end.min(u64::from(header.initrd_addr_max).saturating_add(1));
    // The kernel unpacks itself to where it prefers to be.
    let least = header.pref_address.max(KERNEL) + u64::from(header.init_size);
    let start = limit.checked_sub(length).map(|start| start / PAGE * PAGE);
    let start = start.filter(|start| *start >= least).ok_or_else(|| BootError::Space {
        what: initrd.name.clone(),
        bytes: length,
    })?;
    write(ram, start, &initrd.data)?;
    Ok(start)
}

fn place_command_line(ram: &GuestRam, text: &str, header: &setup_header) -> Result<(), BootError> {
    let limit = (header.cmdline_size as usize).min((LEGACY_AREA - COMMAND_LINE) as usize - 1);
    if text.len() > limit || text.contains('\0') {
        return Err(BootError::CommandLine);
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    write(ram, COMMAND_LINE, &bytes)
}

/// The memory map with what a PC keeps below 1 MiB, and the tables.
fn linux_map(platform: &Platform, tables: u64) -> Vec<MapEntry> {
    let mut map = Vec::new();
    for entry in memory_map(platform) {
        if entry.base != 0 {
            map.push(entry);
            continue;
        }
        let range = |base: u64, end: u64, kind| MapEntry {
            base,
            length: end - base,
            kind,
        };
        map.extend([
            range(0, LEGACY_AREA, MapKind::Ram),
            range(LEGACY_AREA, KERNEL, MapKind::Reserved),
            range(KERNEL, tables, MapKind::Ram),
            range(tables, entry.length, MapKind::AcpiReclaimable),
        ]);
    }
    map
}

fn identity_map() -> PageTables {
    let mut tables = PageTables::new(PAGE_TABLES);
    for physical in (0..MAPPED).step_by(LARGE_PAGE as usize) {
        let page = Page {
            physical,
            writable: true,
            executable: true,
        };
        tables.map_large(physical, page);
    }
    tables
}

fn write(ram: &GuestRam, address: u64, data: &[u8]) -> Result<(), BootError> {
    ram.write(address, data).map_err(|error| BootError::Space {
        what: format!("the data for {address:#x}"),
        bytes: error.length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of a kernel of 3 sectors of set-up code and so many bytes behind, `payload` of them to the payload's end.
    fn kernel(loaded: usize, payload: u32) -> Vec<u8> {
        let mut file = vec![0; 4 * 512 + loaded];
        file[SETUP_SECTORS] = 3;
        file[SYSTEM_SIZE..][..4].copy_from_slice(&(loaded.div_ceil(16) as u32).to_le_bytes());
        file[HEADER_OFFSET..][..4].copy_from_slice(&HEADER_MAGIC.to_le_bytes());
        file[PAYLOAD_OFFSET..][..4].copy_from_slice(&0x40u32.to_le_bytes());
        file[PAYLOAD_LENGTH..][..4].copy_from_slice(&(payload - 0x40).to_le_bytes());
        file
    }

    #[test]
    fn a_kernel_is_whole_by_its_own_header_and_cut_at_every_shorter_length() {
        for loaded in [0x3000, 0x3001, 0x300f] {
            // The payload ends the file, so that each byte counts.
            let file = kernel(loaded, loaded as u32);
            assert_eq!(check_length(&file), Ok(()));
            let mut longer = file.clone();
            longer.extend([0; 4096]);
            assert_eq!(check_length(&longer), Ok(()), "signatures lie behind");
            for length in (HEADER_OFFSET + 4..file.len()).step_by(7).chain([file.len() - 1]) {
                let told = check_length(&file[..length]).unwrap_err();
                assert!(told.starts_with("truncated"), "{length}: {told}");
            }
        }
        // Without a payload the size alone tells, but for its last paragraph.
        let file = kernel(0x3000, 0x40);
        assert!(check_length(&file[..file.len() - 15]).is_ok());
        assert!(
            check_length(&file[..file.len() - 16])
                .unwrap_err()
                .contains("14321 bytes at least")
        );
        // Huge fields are no reason to fall.
        let mut file = kernel(0x3000, 0x40);
        file[SYSTEM_SIZE..][..4].fill(0xff);
        file[PAYLOAD_OFFSET..][..8].fill(0xff);
        assert!(check_length(&file).is_err());
    }
}
