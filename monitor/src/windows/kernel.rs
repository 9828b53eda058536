//! Finds the kernel's image in a guest from two addresses of its code.
//!
//! Windows writes the address of its system call entry to the MSR LSTAR once on each processor, before any driver's
//! entry point runs, and its interrupt descriptor table names its page fault handler. Both lie in the kernel's image:
//! the search goes back from there, page by page, to the image's header. Talks to [`GuestMemory`]; must not know who
//! wrote LSTAR or how that was seen.
//!
//! Not every `MZ` below the address belongs to the kernel: other images have been seen mapped inside of it. So the
//! header has to describe an image that contains the start address, in a section that can hold such code.

use super::exports::Exports;
use super::image::{Image, ImageError};
use crate::vmi::{GuestMemory, PAGE_SIZE};

/// The file name of the kernel, by which modules import it.
pub(crate) const KERNEL: &str = "ntoskrnl.exe";

/// How far below the start address the image's header is looked for, in bytes. The largest kernels have about 20 MiB.
const SEARCH_LIMIT: u64 = 32 << 20;
/// Kernel addresses have the top bit set; nothing is looked for below.
const LOWEST_KERNEL_ADDRESS: u64 = 0xffff_8000_0000_0000;
/// The vector of the page fault, whose handler is always in the kernel.
const PAGE_FAULT: u16 = 14;
/// Bytes of a 64-bit interrupt gate.
const GATE_SIZE: u16 = 16;

/// Where the kernel cannot be found, and what was seen on the way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The start address is no kernel address.
    #[error("{0:#x} is no address of kernel code")]
    NoKernelAddress(u64),
    /// No page below it starts an image that the address can belong to.
    #[error("no kernel image in the {limit:#x} bytes below {start:#x} ({rejected} candidates rejected{reason})",
        limit = SEARCH_LIMIT, reason = last.as_ref().map(|text| format!(", the last one: {text}")).unwrap_or_default())]
    NotFound {
        /// The address from which the search began.
        start: u64,
        /// How many pages began with `MZ` and were not the kernel.
        rejected: usize,
        /// Why the last of them was not.
        last: Option<String>,
    },
    /// The image is there, but its exports cannot be used.
    #[error("the kernel at {base:#x}: {source}")]
    Exports {
        /// Address of the kernel's image.
        base: u64,
        /// What is wrong with them.
        source: ImageError,
    },
}

/// Which of the two witnesses the base was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// The system call entry alone: there is no interrupt descriptor table with a page fault handler yet.
    SystemCall,
    /// Both lead to the same image.
    Both,
    /// The page fault handler; the system call entry leads elsewhere or nowhere.
    PageFault,
}

impl std::fmt::Display for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SystemCall => "its system call entry (LSTAR)",
            Self::Both => "its system call entry (LSTAR) and its page fault handler",
            Self::PageFault => "its page fault handler; LSTAR leads elsewhere",
        })
    }
}

/// The guest's kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its headers.
    pub image: Image,
    /// Its exports.
    pub exports: Exports,
    /// On whose word.
    pub(crate) witness: Witness,
    /// Base of the other image, if the two witnesses lead to different ones: it may be the kernel too.
    pub other: Option<u64>,
}

impl Kernel {
    /// Finds the kernel from the value written to LSTAR and the interrupt descriptor table (base and limit as in
    /// IDTR). If the two lead to different images, the table's is taken: LSTAR may point to a trampoline, and it is
    /// rewritten for short times by some kernels' own checks.
    ///
    /// # Errors
    /// [`KernelError`] if neither leads to a kernel, or if the kernel's exports cannot be read.
    pub fn find(
        memory: &(impl GuestMemory + ?Sized),
        lstar: u64,
        idt_base: u64,
        idt_limit: u16,
    ) -> Result<Self, KernelError> {
        let by_system_call = find_image(memory, lstar);
        let by_page_fault =
            page_fault_handler(memory, idt_base, idt_limit).and_then(|handler| find_image(memory, handler).ok());
        let other = match (&by_system_call, &by_page_fault) {
            (Ok(image), Some(chosen)) if image.base != chosen.base => Some(image.base),
            _ => None,
        };
        let (image, witness) = match (by_system_call, by_page_fault) {
            (Ok(image), Some(other)) if image.base == other.base => (image, Witness::Both),
            (_, Some(image)) => (image, Witness::PageFault),
            (Ok(image), None) => (image, Witness::SystemCall),
            (Err(error), None) => return Err(error),
        };
        let exports = Exports::read(memory, &image).map_err(|source| KernelError::Exports {
            base: image.base,
            source,
        })?;
        Ok(Self {
            image,
            exports,
            witness,
            other,
        })
    }

    /// Whether a processor with this interrupt descriptor table faults into another image than this; `false` if it has no
    /// page fault handler that could be read.
    #[must_use]
    pub(crate) fn is_left_by(&self, memory: &(impl GuestMemory + ?Sized), idt_base: u64, idt_limit: u16) -> bool {
        let handler = page_fault_handler(memory, idt_base, idt_limit);
        handler.is_some_and(|handler| self.image.rva(handler).is_none())
    }

    /// The guest virtual address of an export; `None` if there is none of that name or if it is a forwarder.
    #[must_use]
    pub(crate) fn address_of(&self, export: &str) -> Option<u64> {
        self.exports.rva(export).map(|rva| self.image.address(rva))
    }
}

/// The image that the code at `start` belongs to.
///
/// # Errors
/// [`KernelError`] if there is none within the search limit.
pub(crate) fn find_image(memory: &(impl GuestMemory + ?Sized), start: u64) -> Result<Image, KernelError> {
    if start < LOWEST_KERNEL_ADDRESS {
        return Err(KernelError::NoKernelAddress(start));
    }
    let first = start & !(PAGE_SIZE - 1);
    let (mut rejected, mut last) = (0, None);
    for back in 0..SEARCH_LIMIT / PAGE_SIZE {
        let Some(page) = first
            .checked_sub(back * PAGE_SIZE)
            .filter(|&page| page >= LOWEST_KERNEL_ADDRESS)
        else {
            break;
        };
        match Image::read(memory, page) {
            Ok(image) => match check_start(&image, start) {
                Ok(()) => return Ok(image),
                Err(reason) => {
                    rejected += 1;
                    last = Some(format!("{page:#x}: {reason}"));
                }
            },
            // Most pages are no headers, and some are not mapped.
            Err(ImageError::NoMz(_) | ImageError::Unreadable { .. }) => {}
            Err(error) => {
                rejected += 1;
                last = Some(format!("{page:#x}: {error}"));
            }
        }
    }
    Err(KernelError::NotFound { start, rejected, last })
}

/// Whether an entry point of the kernel can be at `start` of this image.
fn check_start(image: &Image, start: u64) -> Result<(), String> {
    let rva = image.rva(start).ok_or("it does not reach to the start address")?;
    let section = image
        .section(rva)
        .ok_or("the start address is in none of its sections")?;
    if !section.is_executable() || section.is_writable() || section.is_discardable() {
        return Err(format!(
            "the start address is in section {}, which is not plain code",
            section.name
        ));
    }
    Ok(())
}

/// The address in the page fault's gate, if the table has one that is present.
#[must_use]
pub(crate) fn page_fault_handler(memory: &(impl GuestMemory + ?Sized), base: u64, limit: u16) -> Option<u64> {
    let offset = PAGE_FAULT * GATE_SIZE;
    if limit < offset + GATE_SIZE - 1 {
        return None;
    }
    let mut gate = [0; GATE_SIZE as usize];
    memory.read(base.checked_add(u64::from(offset))?, &mut gate).ok()?;
    // Offset bits 0-15 are in bytes 0 and 1, bits 16-63 in bytes 6 to 11; the top bit of byte 5 says "present".
    let present = gate[5] & 0x80 != 0;
    let mut offset = [0; 8];
    offset[..2].copy_from_slice(&gate[..2]);
    offset[2..].copy_from_slice(&gate[6..12]);
    present.then_some(u64::from_le_bytes(offset))
}
