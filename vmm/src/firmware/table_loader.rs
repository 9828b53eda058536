//! The script by which firmware places tables that it did not make itself: QEMU's `etc/table-loader` (QEMU
//! documentation "docs/specs/fw_cfg", source `bios-linker-loader`; edk2 `OvmfPkg/AcpiPlatformDxe/QemuFwCfgAcpi.c`).
//!
//! Tables hold offsets where addresses belong; the script says where, and which checksums follow. [`TableFiles::place`]
//! carries the script out for guests that have no firmware.

use thiserror::Error;

use crate::memory::{GuestRam, PhysicalAccessError};

/// Name of the file with all tables but the root pointer.
pub(crate) const TABLES_FILE: &str = "etc/acpi/tables";
/// Name of the file with the root system description pointer.
pub(crate) const RSDP_FILE: &str = "etc/acpi/rsdp";

/// Length of a file name in a command, the terminating zero included.
const NAME_LENGTH: usize = 56;
/// Length of a command.
const COMMAND_LENGTH: usize = 128;
/// The tables file is placed at a multiple of this, which is what the FACS in it needs (ACPI 5.2.10).
pub(super) const TABLES_ALIGNMENT: u32 = 64;
const RSDP_ALIGNMENT: u32 = 16;

/// One of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    Tables,
    Rsdp,
}

impl File {
    fn name(self) -> [u8; NAME_LENGTH] {
        let name = match self {
            Self::Tables => TABLES_FILE,
            Self::Rsdp => RSDP_FILE,
        };
        let mut bytes = [0; NAME_LENGTH];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        bytes
    }
}

/// One step of the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    /// Place a file: anywhere below 4 GiB, or in the segment that operating systems search for the root pointer.
    Allocate { file: File, alignment: u32, searched: bool },
    /// Add the address of the tables to the `size` bytes at `offset` of a file.
    AddPointer { file: File, offset: u32, size: u8 },
    /// Store at `offset` what makes the sum of the `length` bytes from `start` zero.
    AddChecksum {
        file: File,
        offset: u32,
        start: u32,
        length: u32,
    },
}

impl Command {
    fn bytes(self) -> [u8; COMMAND_LENGTH] {
        let mut bytes = Vec::with_capacity(COMMAND_LENGTH);
        match self {
            Self::Allocate {
                file,
                alignment,
                searched,
            } => {
                bytes.extend(1u32.to_le_bytes());
                bytes.extend(file.name());
                bytes.extend(alignment.to_le_bytes());
                bytes.push(if searched { 2 } else { 1 });
            }
            Self::AddPointer { file, offset, size } => {
                bytes.extend(2u32.to_le_bytes());
                bytes.extend(file.name());
                bytes.extend(File::Tables.name());
                bytes.extend(offset.to_le_bytes());
                bytes.push(size);
            }
            Self::AddChecksum {
                file,
                offset,
                start,
                length,
            } => {
                bytes.extend(3u32.to_le_bytes());
                bytes.extend(file.name());
                bytes.extend([offset, start, length].map(u32::to_le_bytes).concat());
            }
        }
        let mut command = [0; COMMAND_LENGTH];
        command[..bytes.len()].copy_from_slice(&bytes);
        command
    }
}

/// Why tables could not be placed: there is no RAM where they were to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the ACPI tables cannot be placed: {0}")]
pub(crate) struct PlacementError(#[from] PhysicalAccessError);

/// Where tables came to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Guest-physical address of the root pointer.
    pub(crate) rsdp: u64,
    /// Guest-physical address of the tables.
    pub tables: u64,
}

/// The tables, the root pointer, and the script that connects them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TableFiles {
    tables: Vec<u8>,
    rsdp: Vec<u8>,
    script: Vec<Command>,
}

impl TableFiles {
    /// Appends a table at the next multiple of `alignment`; returns its offset.
    pub(super) fn append(&mut self, table: &[u8], alignment: usize) -> u32 {
        let offset = self.tables.len().next_multiple_of(alignment);
        self.tables.resize(offset, 0);
        self.tables.extend(table);
        offset as u32
    }

    /// Stores `target`, an offset in the tables file, in the `size` bytes at `offset` there and makes it an address when
    /// the file is placed.
    pub(super) fn point(&mut self, offset: u32, size: u8, target: u32) {
        let (at, length) = (offset as usize, usize::from(size));
        self.tables[at..at + length].copy_from_slice(&u64::from(target).to_le_bytes()[..length]);
        self.script.push(Command::AddPointer {
            file: File::Tables,
            offset,
            size,
        });
    }

    /// Has the checksum of the table at `start`, whose header is the common one (ACPI 5.2.6), made at the end.
    pub(super) fn sum(&mut self, start: u32) {
        let at = start as usize;
        let length = u32::from_le_bytes([4, 5, 6, 7].map(|index| self.tables[at + index]));
        self.tables[at + 9] = 0;
        self.script.push(Command::AddChecksum {
            file: File::Tables,
            offset: start + 9,
            start,
            length,
        });
    }

    /// Sets the root pointer (ACPI 5.2.5.3), which is to point to the table at offset `xsdt`.
    pub(super) fn set_root(&mut self, mut rsdp: Vec<u8>, xsdt: u32) {
        rsdp[24..32].copy_from_slice(&u64::from(xsdt).to_le_bytes());
        (rsdp[8], rsdp[32]) = (0, 0);
        let length = rsdp.len() as u32;
        let file = File::Rsdp;
        self.rsdp = rsdp;
        self.script.push(Command::AddPointer {
            file,
            offset: 24,
            size: 8,
        });
        // The first checksum covers what was there in ACPI 1.0.
        for (offset, length) in [(8, 20), (32, length)] {
            self.script.push(Command::AddChecksum {
                file,
                offset,
                start: 0,
                length,
            });
        }
    }

    /// Contents of [`TABLES_FILE`].
    #[must_use]
    pub(crate) fn tables(&self) -> &[u8] {
        &self.tables
    }

    /// Contents of [`RSDP_FILE`].
    #[must_use]
    pub(crate) fn rsdp(&self) -> &[u8] {
        &self.rsdp
    }

    /// Contents of `etc/table-loader`.
    #[must_use]
    pub(crate) fn script(&self) -> Vec<u8> {
        let allocate = |file, alignment, searched| Command::Allocate {
            file,
            alignment,
            searched,
        };
        let first = [
            allocate(File::Tables, TABLES_ALIGNMENT, false),
            allocate(File::Rsdp, RSDP_ALIGNMENT, true),
        ];
        let commands = first.into_iter().chain(self.script.iter().copied());
        commands.flat_map(Command::bytes).collect()
    }

    /// Does the firmware's work: puts the files at these guest-physical addresses, which have to be multiples of 64 and
    /// 16, and carries the script out.
    ///
    /// # Errors
    /// [`PlacementError`] if there is no RAM.
    pub(crate) fn place(&self, ram: &GuestRam, places: Placed) -> Result<(), PlacementError> {
        let (mut tables, mut rsdp) = (self.tables.clone(), self.rsdp.clone());
        for command in &self.script {
            let (Command::AddPointer { file, .. } | Command::AddChecksum { file, .. } | Command::Allocate { file, .. }) =
                command;
            let bytes = match file {
                File::Tables => &mut tables,
                File::Rsdp => &mut rsdp,
            };
            match *command {
                Command::Allocate { .. } => {}
                Command::AddPointer { offset, size, .. } => {
                    let field = &mut bytes[offset as usize..][..usize::from(size)];
                    let mut value = [0; 8];
                    value[..field.len()].copy_from_slice(field);
                    let address = u64::from_le_bytes(value) + places.tables;
                    field.copy_from_slice(&address.to_le_bytes()[..field.len()]);
                }
                Command::AddChecksum {
                    offset, start, length, ..
                } => {
                    let summed = &bytes[start as usize..][..length as usize];
                    let sum = summed.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                    bytes[offset as usize] = sum.wrapping_neg();
                }
            }
        }
        ram.write(places.tables, &tables)?;
        ram.write(places.rsdp, &rsdp)?;
        Ok(())
    }
}
