//! Boots by firmware: puts its code below 4 GiB and its variables below the code, and fills the firmware configuration
//! device with what the firmware reads there.
//!
//! Written for OVMF (edk2's firmware for QEMU's PCs), whose code and variables come as two files.

use std::fs::File;

use super::linux::LinuxRequest;
use super::{BootError, NamedFile};
use crate::devices::fw_cfg::{FileNameError, FwCfg, key};
use crate::devices::pflash::FLASH_BLOCK;
use crate::firmware::{Platform, RSDP_FILE, TABLES_FILE, acpi_tables, memory_map, smbios};

/// Where firmware ends: the reset vector is 16 bytes below.
pub(crate) const FIRMWARE_END: u64 = 4 << 30;
/// Largest image with its variables, in bytes: below are the pages that KVM needs, and the local APICs.
pub const FIRMWARE_LIMIT: u64 = 16 << 20;
/// Sectors of a Linux image before its set-up part ends, if the header says 0, and bytes of a sector.
const SETUP_SECTORS: usize = 4;
const SECTOR: usize = 512;
const SETUP_SECTORS_OFFSET: usize = 0x1f1;

/// The file of the firmware's variables.
#[derive(Debug)]
pub struct VariableStore {
    /// Its name, for messages.
    pub name: String,
    /// What it holds.
    pub content: Vec<u8>,
    /// The file itself, open for writing, at whose beginning `content` is; `None` to forget what the guest stores.
    pub file: Option<File>,
}

/// What is booted.
#[derive(Debug)]
pub struct FirmwareRequest {
    /// The code.
    pub code: NamedFile,
    /// The variables. Without them the firmware keeps its variables in RAM.
    pub variables: Option<VariableStore>,
    /// A kernel for the firmware to boot.
    pub kernel: Option<LinuxRequest>,
    /// Whether there is a display; see [`crate::devices::ramfb`].
    pub display: bool,
}

impl FirmwareRequest {
    /// Where the code and the variables begin.
    pub(crate) fn places(&self) -> Result<(u64, Option<u64>), BootError> {
        let checked = |file: &str, length: usize, end: u64| {
            let length = length as u64;
            let start = end
                .checked_sub(length)
                .filter(|start| *start >= FIRMWARE_END - FIRMWARE_LIMIT);
            start
                .filter(|_| length > 0 && length % FLASH_BLOCK == 0)
                .ok_or_else(|| BootError::Firmware {
                    file: file.to_owned(),
                    bytes: length,
                })
        };
        let code = checked(&self.code.name, self.code.data.len(), FIRMWARE_END)?;
        let variables = self.variables.as_ref();
        let variables = variables.map(|store| checked(&store.name, store.content.len(), code));
        Ok((code, variables.transpose()?))
    }
}

/// Tells the firmware of the platform and of the kernel, if there is one.
pub(crate) fn tell_firmware(
    fw_cfg: &FwCfg,
    platform: &Platform,
    kernel: Option<&LinuxRequest>,
) -> Result<(), FileNameError> {
    let cpus = platform.cpus as u16;
    fw_cfg.set(key::CPU_COUNT, cpus.to_le_bytes().to_vec());
    fw_cfg.set(key::MAXIMUM_CPU_COUNT, cpus.to_le_bytes().to_vec());
    let map = memory_map(platform);
    fw_cfg.add_file(
        "etc/e820",
        map.iter().flat_map(crate::firmware::MapEntry::bytes).collect(),
    )?;
    let tables = acpi_tables(platform);
    fw_cfg.add_file(TABLES_FILE, tables.tables().to_vec())?;
    fw_cfg.add_file(RSDP_FILE, tables.rsdp().to_vec())?;
    fw_cfg.add_file("etc/table-loader", tables.script())?;
    let smbios = smbios(platform);
    fw_cfg.add_file("etc/smbios/smbios-anchor", smbios.anchor)?;
    fw_cfg.add_file("etc/smbios/smbios-tables", smbios.tables)?;
    if let Some(request) = kernel {
        tell_kernel(fw_cfg, request);
    }
    Ok(())
}

fn tell_kernel(fw_cfg: &FwCfg, request: &LinuxRequest) {
    let sized = |size_key, data_key, data: Vec<u8>| {
        fw_cfg.set(size_key, (data.len() as u32).to_le_bytes().to_vec());
        fw_cfg.set(data_key, data);
    };
    let image = &request.kernel.data;
    let sectors = match image.get(SETUP_SECTORS_OFFSET) {
        None | Some(0) => SETUP_SECTORS,
        Some(&sectors) => usize::from(sectors),
    };
    let (setup, rest) = image.split_at(((sectors + 1) * SECTOR).min(image.len()));
    sized(key::SETUP_SIZE, key::SETUP_DATA, setup.to_vec());
    sized(key::KERNEL_SIZE, key::KERNEL_DATA, rest.to_vec());
    if let Some(initrd) = &request.initrd {
        sized(key::INITRD_SIZE, key::INITRD_DATA, initrd.data.clone());
    }
    let mut command_line = request.command_line.clone().into_bytes();
    command_line.push(0);
    sized(key::COMMAND_LINE_SIZE, key::COMMAND_LINE_DATA, command_line);
}
