//! The function table and the unwind codes.

use object::pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION;

use super::super::image::Image;
use super::{Context, RSP, epilogue};
use crate::vmi::{GuestMemory, ReadError};

/// Bytes of a `RUNTIME_FUNCTION`.
const ENTRY_SIZE: u32 = 12;
/// As many links of chained unwind information as Windows itself follows.
const MAX_CHAIN: usize = 32;
const FLAG_CHAINED: u8 = 4;
/// `UWOP_SET_FPREG`: from here on the frame register holds the frame.
const SET_FRAME: u8 = 3;
/// The unwind data of an entry is that of another entry.
const INDIRECT: u32 = 1;

/// Why a frame could not be unwound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwindError {
    /// The stack or a table cannot be read.
    #[error("{0}")]
    Unreadable(#[from] ReadError),
    /// The tables make no sense.
    #[error("damaged unwind information")]
    Damaged,
}

/// An entry of the function table: a function, or a part of one. Addresses are relative to the image's base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    /// Its first byte.
    pub begin: u32,
    /// The byte behind its last one.
    pub end: u32,
    info: u32,
}

/// The fixed part of `UNWIND_INFO` and its codes.
struct Info {
    flags: u8,
    frame_register: usize,
    frame_offset: u64,
    codes: Vec<u16>,
    /// Relative address of what follows the codes: the chained entry, if there is one.
    tail: u32,
}

impl Function {
    /// The entry for an address of the image; `None` for code without one, such as a leaf function.
    ///
    /// # Errors
    /// [`UnwindError`] if the table cannot be read or makes no sense.
    pub fn find(
        memory: &(impl GuestMemory + ?Sized),
        image: &Image,
        address: u64,
    ) -> Result<Option<Self>, UnwindError> {
        let Some(rva) = image.rva(address) else { return Ok(None) };
        let table = image.directory(IMAGE_DIRECTORY_ENTRY_EXCEPTION);
        // Binary search; on an unsorted table it ends as fast and finds nothing.
        let (mut low, mut high) = (0, table.size / ENTRY_SIZE);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = Self::read(memory, image, table.rva + middle * ENTRY_SIZE)?;
            if rva < entry.begin {
                high = middle;
            } else if rva >= entry.end {
                low = middle + 1;
            } else {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn read(memory: &(impl GuestMemory + ?Sized), image: &Image, rva: u32) -> Result<Self, UnwindError> {
        let mut bytes = [0; ENTRY_SIZE as usize];
        memory.read(image.address(rva), &mut bytes)?;
        let [begin, end, info] = [0, 4, 8].map(|at| {
            let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
            field.map_or(0, |field| u32::from_le_bytes(*field))
        });
        if begin >= end || end > image.size || info & !3 >= image.size {
            return Err(UnwindError::Damaged);
        }
        Ok(Self { begin, end, info })
    }

    /// The first entry of the function that this one is a part of: itself unless its information is chained.
    ///
    /// # Errors
    /// [`UnwindError`] if the chain cannot be read or does not end.
    pub(crate) fn primary(self, memory: &(impl GuestMemory + ?Sized), image: &Image) -> Result<Self, UnwindError> {
        let mut function = self.resolve(memory, image)?;
        for _ in 0..MAX_CHAIN {
            let info = function.info(memory, image)?;
            if info.flags & FLAG_CHAINED == 0 {
                return Ok(function);
            }
            function = Self::read(memory, image, info.tail)?.resolve(memory, image)?;
        }
        Err(UnwindError::Damaged)
    }

    fn resolve(self, memory: &(impl GuestMemory + ?Sized), image: &Image) -> Result<Self, UnwindError> {
        if self.info & INDIRECT == 0 {
            return Ok(self);
        }
        let other = Self::read(memory, image, self.info & !3)?;
        if other.info & INDIRECT != 0 {
            Err(UnwindError::Damaged)
        } else {
            Ok(other)
        }
    }

    fn info(&self, memory: &(impl GuestMemory + ?Sized), image: &Image) -> Result<Info, UnwindError> {
        let mut head = [0; 4];
        memory.read(image.address(self.info), &mut head)?;
        let [version_and_flags, _, count, frame] = head;
        if !matches!(version_and_flags & 7, 1 | 2) {
            return Err(UnwindError::Damaged);
        }
        let mut bytes = vec![0; usize::from(count) * 2];
        memory.read(image.address(self.info + 4), &mut bytes)?;
        let codes = bytes
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .collect();
        Ok(Info {
            flags: version_and_flags >> 3,
            frame_register: usize::from(frame & 15),
            frame_offset: u64::from(frame >> 4) * 16,
            codes,
            tail: self.info + 4 + u32::from(count).next_multiple_of(2) * 2,
        })
    }

    /// The state of the caller of a frame in this function.
    pub(super) fn unwind(
        self,
        memory: &(impl GuestMemory + ?Sized),
        image: &Image,
        context: &Context,
    ) -> Result<Context, UnwindError> {
        if context.exact {
            if let Some(outer) = epilogue::finish(memory, image, self, context)? {
                return Ok(outer);
            }
        }
        let mut state = *context;
        let mut function = self.resolve(memory, image)?;
        // Codes of prologue instructions that have not run yet are skipped; a part of a function has none of these,
        // nor has what it is chained to.
        let mut done = image
            .rva(context.rip)
            .unwrap_or(function.end)
            .saturating_sub(function.begin);
        if function != self {
            done = u32::MAX;
        }
        for _ in 0..MAX_CHAIN {
            let info = function.info(memory, image)?;
            if info.apply(memory, &mut state, done)? {
                return Ok(state); // The machine frame held RIP and RSP.
            }
            if info.flags & FLAG_CHAINED == 0 {
                return Ok(pop_return_address(memory, state)?);
            }
            function = Self::read(memory, image, info.tail)?.resolve(memory, image)?;
            done = u32::MAX;
        }
        Err(UnwindError::Damaged)
    }
}

impl Info {
    /// Undoes what the prologue did up to its byte `done`. `true` if a machine frame was taken, which ends the frame.
    fn apply(&self, memory: &(impl GuestMemory + ?Sized), state: &mut Context, done: u32) -> Result<bool, UnwindError> {
        let frame_base = self.frame_base(state, done);
        let mut index = 0;
        while let Some(&code) = self.codes.get(index) {
            let [prologue_offset, operation] = code.to_le_bytes();
            let (operation, operand) = (operation & 15, usize::from(operation >> 4));
            let extra = |slot: usize| self.codes.get(index + slot).copied().map(u64::from);
            let wide = || Some(extra(1)? | extra(2)? << 16);
            let length = slots(operation, operand).ok_or(UnwindError::Damaged)?;
            let active = u32::from(prologue_offset) <= done;
            let rsp = state.gpr[RSP];
            let mut save_at = |offset: Option<u64>| -> Result<(), UnwindError> {
                let offset = offset.ok_or(UnwindError::Damaged)?;
                state.gpr[operand] = memory.read_u64(frame_base.wrapping_add(offset))?;
                Ok(())
            };
            match operation {
                _ if !active => {}
                0 => {
                    state.gpr[operand] = memory.read_u64(rsp)?;
                    state.gpr[RSP] = rsp.wrapping_add(8);
                }
                1 => {
                    let size = if operand == 0 {
                        extra(1).map(|size| size * 8)
                    } else {
                        wide()
                    };
                    state.gpr[RSP] = rsp.wrapping_add(size.ok_or(UnwindError::Damaged)?);
                }
                2 => state.gpr[RSP] = rsp.wrapping_add(operand as u64 * 8 + 8),
                SET_FRAME => state.gpr[RSP] = state.gpr[self.frame_register].wrapping_sub(self.frame_offset),
                4 => save_at(extra(1).map(|offset| offset * 8))?,
                5 => save_at(wide())?,
                10 => {
                    let frame = rsp.wrapping_add(if operand == 1 { 8 } else { 0 });
                    state.rip = memory.read_u64(frame)?;
                    state.gpr[RSP] = memory.read_u64(frame.wrapping_add(24))?;
                    state.exact = true;
                    return Ok(true);
                }
                // XMM registers are not followed; epilogue descriptions say nothing about the prologue.
                _ => {}
            }
            index += length;
        }
        Ok(false)
    }

    /// What the offsets of saved registers count from: the frame register from where it is set, else RSP.
    fn frame_base(&self, state: &Context, done: u32) -> u64 {
        if self.frame_register == 0 {
            return state.gpr[RSP];
        }
        let mut index = 0;
        while let Some(&code) = self.codes.get(index) {
            let [prologue_offset, operation] = code.to_le_bytes();
            let (operation, operand) = (operation & 15, usize::from(operation >> 4));
            if operation == SET_FRAME && u32::from(prologue_offset) > done {
                return state.gpr[RSP];
            }
            index += slots(operation, operand).unwrap_or(self.codes.len());
        }
        state.gpr[self.frame_register].wrapping_sub(self.frame_offset)
    }
}

/// How many 16-bit slots a code takes; `None` for a code that does not exist.
fn slots(operation: u8, operand: usize) -> Option<usize> {
    match operation {
        0 | 2 | 3 | 10 => Some(1),
        1 if operand <= 1 => Some(2 + operand),
        4 | 6 | 8 => Some(2),
        5 | 7 | 9 => Some(3),
        _ => None,
    }
}

/// The state after a return instruction.
pub(super) fn pop_return_address(
    memory: &(impl GuestMemory + ?Sized),
    mut state: Context,
) -> Result<Context, ReadError> {
    let rsp = state.gpr[RSP];
    state.rip = memory.read_u64(rsp)?;
    state.gpr[RSP] = rsp.wrapping_add(8);
    state.exact = false;
    Ok(state)
}
