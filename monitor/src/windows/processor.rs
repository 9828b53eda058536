//! Reads the number and the current thread of a processor of the guest.
//!
//! Windows keeps a processor control region (KPCR) per processor, with the control block (PRCB) inside of it, and
//! points GS to it while in the kernel. Offsets: `Self` gs:[18h], `CurrentPrcb` gs:[20h], `Prcb` at +180h,
//! `CurrentThread` gs:[188h] (wdm.h), `Number` gs:[1A4h]. Talks to [`GuestMemory`]; must not know how the processor
//! was stopped. One read a call: this is on the path of every hit.

use crate::vmi::{GuestMemory, ReadError};

const SELF: usize = 0x18;
const CURRENT_PRCB: usize = 0x20;
const PRCB: u64 = 0x180;
const CURRENT_THREAD: usize = 0x188;
const NUMBER: usize = 0x1a4;
/// Windows x64 has at most 2048 logical processors (64 per group, 32 groups).
const MAX_PROCESSORS: u32 = 2048;

/// Why the processor control region cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProcessorError {
    /// It cannot be read.
    #[error("the processor control region at {gs_base:#x} cannot be read: {source}")]
    Unreadable {
        /// The address at which it was looked for.
        gs_base: u64,
        /// Why not.
        source: ReadError,
    },
    /// Its pointers to itself do not lead back to it.
    #[error("no processor control region at {0:#x}")]
    NotThere(u64),
}

/// A processor and what it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processor {
    /// Address of the KPCR.
    pub(crate) kpcr: u64,
    /// Address of the current thread's object (KTHREAD); identifies the thread.
    pub thread: u64,
    /// The processor's number in the guest, from 0.
    pub number: u32,
}

impl Processor {
    /// Reads the control region that one of the two GS bases points to. In the kernel that is the active one; within
    /// the few instructions around SWAPGS it still is the other.
    ///
    /// # Errors
    /// [`ProcessorError`] about the active base if neither points to a control region.
    pub fn read(
        memory: &(impl GuestMemory + ?Sized),
        gs_base: u64,
        kernel_gs_base: u64,
    ) -> Result<Self, ProcessorError> {
        Self::read_at(memory, gs_base).or_else(|error| Self::read_at(memory, kernel_gs_base).map_err(|_| error))
    }

    fn read_at(memory: &(impl GuestMemory + ?Sized), gs_base: u64) -> Result<Self, ProcessorError> {
        // From Self to the end of Number.
        let mut bytes = [0; NUMBER + 4 - SELF];
        let address = gs_base
            .checked_add(SELF as u64)
            .ok_or(ProcessorError::NotThere(gs_base))?;
        memory
            .read(address, &mut bytes)
            .map_err(|source| ProcessorError::Unreadable { gs_base, source })?;
        let pointer = |offset: usize| {
            let field = bytes.get(offset - SELF..).and_then(<[u8]>::first_chunk);
            field.map_or(0, |field| u64::from_le_bytes(*field))
        };
        let number = bytes.last_chunk().map_or(u32::MAX, |field| u32::from_le_bytes(*field));
        if pointer(SELF) != gs_base || pointer(CURRENT_PRCB) != gs_base.wrapping_add(PRCB) || number >= MAX_PROCESSORS {
            return Err(ProcessorError::NotThere(gs_base));
        }
        Ok(Self {
            kpcr: gs_base,
            thread: pointer(CURRENT_THREAD),
            number,
        })
    }
}
