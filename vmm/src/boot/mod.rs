//! What a machine starts with: firmware, or a PE64 or Linux kernel put into guest RAM and entered in long mode.
//!
//! `docs/loader-block.md` describes what a PE kernel finds; Linux is booted by its own protocol. Talks to guest memory
//! and, for the registers at the entry point, to KVM. It must not know what the files beside the kernel contain.
#![forbid(unsafe_code)]

mod entry;
mod firmware;
mod layout;
mod linux;
mod loader_block;
mod paging;
mod pe;

use thiserror::Error;

pub(crate) use entry::{set_entry_state, set_linux_entry_state};
pub(crate) use firmware::tell_firmware;
pub use firmware::{FIRMWARE_LIMIT, FirmwareRequest, VariableStore};
pub use layout::load;
pub use linux::{LinuxInfo, LinuxRequest, NamedFile, is_linux_kernel, load_linux};
pub use loader_block::{LOADER_BLOCK_SIGNATURE, LOADER_BLOCK_VERSION, LOADER_FILE_NAME_LIMIT};
pub use pe::{IMAGE_SIZE_LIMIT, KernelImage};

/// Why a kernel or a file cannot be booted. Every message names the file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BootError {
    /// The kernel is no PE image that can be loaded.
    #[error("{file} cannot be loaded as a kernel: {reason}")]
    Image {
        /// Name of the file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel is no Linux kernel that can be booted.
    #[error("{file} cannot be booted as a Linux kernel: {reason}")]
    Linux {
        /// Name of the file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The firmware or its variables do not fit below 4 GiB.
    #[error(
        "{file} cannot be used as firmware: it has {bytes} bytes; whole pages of 4096 bytes, at most 16 MiB together with the variables, are needed"
    )]
    Firmware {
        /// Name of the file.
        file: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// A name does not fit the loader block.
    #[error("the file name {file:?} does not fit: it has to be printable ASCII of 1 to {} characters", LOADER_FILE_NAME_LIMIT - 1)]
    Name {
        /// The name.
        file: String,
    },
    /// The command line does not fit the loader block, or what a Linux kernel takes.
    #[error(
        "the kernel command line is too long or has characters that it must not have: printable ASCII of at most 4095 characters (2047 for Linux) is needed"
    )]
    CommandLine,
    /// Everything together does not fit into RAM.
    #[error("{what} ({bytes} bytes) does not fit into guest memory: give the machine more")]
    Space {
        /// What was to be placed.
        what: String,
        /// Its size in bytes.
        bytes: u64,
    },
}

/// `LOADER_FILE.Kind` of the kernel itself. Of other files it is whatever the kernel and whoever gives it the files mean
/// by it.
pub const KERNEL_FILE: u32 = 1;

/// A file handed to the kernel as raw bytes.
#[derive(Debug, Clone)]
pub struct BootFile {
    /// Name with extension, as the kernel is to know it.
    pub name: String,
    /// What it is to the kernel (`LOADER_FILE.Kind`).
    pub kind: u32,
    /// Its bytes.
    pub data: Vec<u8>,
}

impl BootFile {
    /// Whether a kernel can know a file by this name.
    ///
    /// # Errors
    /// [`BootError::Name`] if not.
    pub fn check_name(name: &str) -> Result<(), BootError> {
        if (1..LOADER_FILE_NAME_LIMIT).contains(&name.len()) && loader_block::is_printable(name) {
            return Ok(());
        }
        Err(BootError::Name { file: name.to_owned() })
    }
}

impl BootRequest {
    /// Whether a kernel can have this command line.
    ///
    /// # Errors
    /// [`BootError::CommandLine`] if not.
    pub fn check_command_line(text: &str) -> Result<(), BootError> {
        if text.len() <= layout::COMMAND_LINE_LIMIT && loader_block::is_printable(text) {
            return Ok(());
        }
        Err(BootError::CommandLine)
    }
}

/// Everything that is booted.
#[derive(Debug, Clone)]
pub struct BootRequest {
    /// The kernel; it is put first in the list of files by itself.
    pub kernel: KernelImage,
    /// Files for the kernel.
    pub files: Vec<BootFile>,
    /// Command line, printable ASCII.
    pub command_line: String,
    /// Chooses the kernel's base, its physical place and the base of the direct map.
    pub seed: u64,
}

/// Where everything came to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootInfo {
    /// Guest-virtual base of the kernel image.
    pub kernel_base: u64,
    /// Guest-physical base of the kernel image.
    pub kernel_physical: u64,
    /// Guest-virtual address of the first instruction.
    pub entry_point: u64,
    /// Guest-virtual address of guest-physical 0.
    pub direct_map_base: u64,
    /// Guest-physical address of the page map level 4.
    pub cr3: u64,
    /// Guest-virtual address of the loader block.
    pub loader_block: u64,
    /// Guest-virtual address of the loader's global descriptor table.
    pub(crate) gdt: u64,
    /// Guest-virtual address of the lowest byte of processor 0's stack; the others follow at intervals of
    /// [`STACK_SIZE`].
    pub stacks: u64,
}

/// Size of a processor's first stack in bytes.
pub const STACK_SIZE: u64 = 16 << 10;
/// Selector of the loader's 64-bit code segment.
pub const CODE_SELECTOR: u16 = 0x10;
/// Selector of the loader's data segment.
pub(crate) const DATA_SELECTOR: u16 = 0x18;
/// The loader's global descriptor table: null, unused, 64-bit code, data (Intel SDM volume 3, 3.4.5).
pub(crate) const GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

impl BootInfo {
    /// Stack pointer of processor `index` at the entry point: as after a call in the Windows x64 ABI, with the home
    /// space of the callee above a return address of zero.
    #[must_use]
    pub fn stack_pointer(&self, index: u32) -> u64 {
        let top = self.stacks + (u64::from(index) + 1) * STACK_SIZE;
        // 32 bytes of home space, 8 of return address, and RSP + 8 a multiple of 16.
        top - 0x30 + 8
    }
}

#[cfg(test)]
mod tests;
