//! Parallel NOR flash with the Intel command set, as far as firmware uses it to keep its variables (Intel 28F016 family
//! data sheets; JEDEC JESD68, "Common Flash Interface"; edk2 `OvmfPkg/QemuFlashFvbServicesRuntimeDxe/QemuFlash.c`).
//!
//! Reads give the array until a command changes that. While they do, the guest may read the array without an exit; the
//! device says when, through [`FlashArray::set_direct`]. The flash is one byte wide; a wider access is made of single
//! bytes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bus::BusDevice;

/// Bytes that are erased together.
pub const FLASH_BLOCK: u64 = 4096;

/// The memory of a flash device, all ones where it is erased.
pub trait FlashArray: Send + Sync {
    /// Bytes; a multiple of [`FLASH_BLOCK`].
    fn length(&self) -> u64;

    /// Reads from `offset` on; the range lies within the array.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Replaces the bytes from `offset` on for good; the range lies within the array. Called on a vCPU's thread.
    fn write(&self, offset: u64, data: &[u8]);

    /// Whether the guest reads the array without asking the device.
    fn set_direct(&self, direct: bool);
}

/// Commands, by the byte written.
mod command {
    pub(super) const PROGRAM: u8 = 0x40;
    pub(super) const PROGRAM_ALTERNATE: u8 = 0x10;
    pub(super) const BLOCK_ERASE: u8 = 0x20;
    pub(super) const CLEAR_STATUS: u8 = 0x50;
    pub(super) const READ_STATUS: u8 = 0x70;
    pub(super) const READ_IDENTIFIER: u8 = 0x90;
    pub(super) const CONFIRM: u8 = 0xd0;
    pub(super) const READ_ARRAY: u8 = 0xff;
}

/// Status: ready for a command.
const READY: u8 = 1 << 7;
/// Status: erasing, and programming, have failed; both together: a command sequence that does not exist.
const BAD_SEQUENCE: u8 = 1 << 5 | 1 << 4;
/// Manufacturer and device: Intel 28F016.
const IDENTIFIER: [u8; 2] = [0x89, 0xa0];

/// What a read gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Array,
    Status,
    Identifier,
}

/// What the next write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Command,
    Data,
    EraseConfirm,
}

/// Everything that the guest can see or change but the array.
#[derive(Debug, Clone, Copy)]
struct FlashState {
    mode: Mode,
    expect: Expect,
    status: u8,
}

impl FlashState {
    /// Reads give the array.
    const POWERED: Self = Self {
        mode: Mode::Array,
        expect: Expect::Command,
        status: READY,
    };
}

/// The device.
pub struct Flash {
    array: Arc<dyn FlashArray>,
    state: Mutex<FlashState>,
}

impl Flash {
    /// As after power-on: reads give the array.
    #[must_use]
    pub fn new(array: Arc<dyn FlashArray>) -> Self {
        array.set_direct(true);
        Self {
            array,
            state: Mutex::new(FlashState::POWERED),
        }
    }

    fn lock(&self) -> MutexGuard<'_, FlashState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn byte(&self, state: FlashState, offset: u64) -> u8 {
        match state.mode {
            Mode::Status => state.status,
            Mode::Identifier => IDENTIFIER.get(offset as usize).copied().unwrap_or(0),
            Mode::Array => {
                let mut byte = [0xff];
                if offset < self.array.length() {
                    self.array.read(offset, &mut byte);
                }
                byte[0]
            }
        }
    }

    /// Programming can only clear bits.
    fn program(&self, offset: u64, value: u8) {
        let mut byte = [0];
        self.array.read(offset, &mut byte);
        self.array.write(offset, &[byte[0] & value]);
    }

    fn erase(&self, offset: u64) {
        let block = offset / FLASH_BLOCK * FLASH_BLOCK;
        self.array.write(block, &[0xff; FLASH_BLOCK as usize]);
    }

    fn write_byte(&self, state: &mut FlashState, offset: u64, value: u8) {
        if offset >= self.array.length() {
            return;
        }
        match std::mem::replace(&mut state.expect, Expect::Command) {
            Expect::Data => {
                self.program(offset, value);
                state.status |= READY;
            }
            Expect::EraseConfirm if value == command::CONFIRM => {
                self.erase(offset);
                state.status |= READY;
            }
            Expect::EraseConfirm => state.status |= READY | BAD_SEQUENCE,
            Expect::Command => {
                state.mode = Mode::Status;
                match value {
                    command::PROGRAM | command::PROGRAM_ALTERNATE => state.expect = Expect::Data,
                    command::BLOCK_ERASE => state.expect = Expect::EraseConfirm,
                    command::READ_STATUS => {}
                    command::CLEAR_STATUS => {
                        // Firmware takes a status of 0 for the sign of flash; it finds the array as it was.
                        state.status = 0;
                        state.mode = Mode::Array;
                    }
                    command::READ_IDENTIFIER => state.mode = Mode::Identifier,
                    command::READ_ARRAY => state.mode = Mode::Array,
                    other => {
                        tracing::debug!(command = other, "flash command that is not there");
                        state.mode = Mode::Array;
                    }
                }
            }
        }
    }
}

impl BusDevice for Flash {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = *self.lock();
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = self.byte(state, at);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        let before = state.mode;
        for (value, at) in data.iter().zip(offset..) {
            self.write_byte(&mut state, at, *value);
        }
        if (before == Mode::Array) != (state.mode == Mode::Array) {
            self.array.set_direct(state.mode == Mode::Array);
        }
    }

    /// The array stays.
    fn reset(&self) {
        let mut state = self.lock();
        if state.mode != Mode::Array {
            self.array.set_direct(true);
        }
        *state = FlashState::POWERED;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;

    use super::*;

    struct Memory {
        bytes: Mutex<Vec<u8>>,
        direct: AtomicBool,
    }

    impl FlashArray for Memory {
        fn length(&self) -> u64 {
            self.bytes.lock().unwrap().len() as u64
        }

        fn read(&self, offset: u64, data: &mut [u8]) {
            let bytes = self.bytes.lock().unwrap();
            data.copy_from_slice(&bytes[offset as usize..offset as usize + data.len()]);
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.bytes.lock().unwrap()[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        }

        fn set_direct(&self, direct: bool) {
            self.direct.store(direct, Ordering::SeqCst);
        }
    }

    fn flash(fill: u8) -> (Flash, Arc<Memory>) {
        let memory = Arc::new(Memory {
            bytes: Mutex::new(vec![fill; 3 * FLASH_BLOCK as usize]),
            direct: AtomicBool::new(false),
        });
        (Flash::new(memory.clone()), memory)
    }

    fn read(flash: &Flash, offset: u64) -> u8 {
        let mut byte = [0];
        flash.read(offset, &mut byte);
        byte[0]
    }

    #[test]
    fn firmware_finds_that_it_is_flash() {
        let (flash, memory) = flash(0x5a);
        flash.write(0, &[0x50]);
        assert_eq!(read(&flash, 0), 0x5a, "not RAM");
        flash.write(0, &[0x70]);
        assert_eq!(read(&flash, 0), 0, "not ROM");
        assert!(!memory.direct.load(Ordering::SeqCst));
        flash.write(0, &[0xff]);
        assert_eq!(read(&flash, 0), 0x5a);
        assert!(memory.direct.load(Ordering::SeqCst));
    }

    #[test]
    fn programming_clears_bits_and_erasing_sets_those_of_a_block() {
        let (flash, memory) = flash(0xf0);
        flash.write(FLASH_BLOCK + 5, &[0x10]);
        flash.write(FLASH_BLOCK + 5, &[0x3c]);
        assert_eq!(read(&flash, 0) & READY, READY);
        flash.write(FLASH_BLOCK + 5, &[0xff]);
        assert_eq!(read(&flash, FLASH_BLOCK + 5), 0x30);
        flash.write(FLASH_BLOCK + 7, &[0x20]);
        flash.write(FLASH_BLOCK + 7, &[0xd0]);
        flash.write(0, &[0xff]);
        let bytes = memory.bytes.lock().unwrap();
        let block = FLASH_BLOCK as usize;
        assert!(bytes[block..2 * block].iter().all(|byte| *byte == 0xff));
        assert!(
            bytes[..block]
                .iter()
                .chain(&bytes[2 * block..])
                .all(|byte| *byte == 0xf0)
        );
    }

    #[test]
    fn an_erase_without_confirmation_fails() {
        let (flash, memory) = flash(0x12);
        flash.write(0, &[0x20]);
        flash.write(0, &[0x12]);
        assert_eq!(read(&flash, 0), READY | BAD_SEQUENCE);
        assert!(memory.bytes.lock().unwrap().iter().all(|byte| *byte == 0x12));
    }

    #[test]
    fn a_reset_keeps_the_array_and_ends_a_command() {
        let (flash, memory) = flash(0xff);
        flash.write(7, &[0x10]);
        flash.write(7, &[0x42]);
        flash.write(9, &[0x20]);
        assert!(!memory.direct.load(Ordering::SeqCst));
        flash.reset();
        assert!(memory.direct.load(Ordering::SeqCst));
        assert_eq!((read(&flash, 7), read(&flash, 8)), (0x42, 0xff));
        flash.write(9, &[0xd0]);
        assert_eq!(read(&flash, 7), 0x42, "the erase of before is forgotten");
    }

    proptest! {
        /// Whatever is written, bits are set by whole blocks only, and direct reading is on exactly while reads give
        /// the array.
        #[test]
        fn any_sequence_is_harmless(
            writes in proptest::collection::vec((0u64..4 * FLASH_BLOCK, proptest::collection::vec(any::<u8>(), 1..9)), 0..60),
        ) {
            let (flash, memory) = flash(0);
            for (offset, data) in writes {
                flash.write(offset, &data);
                let state = *flash.lock();
                prop_assert_eq!(memory.direct.load(Ordering::SeqCst), state.mode == Mode::Array);
                let bytes = memory.bytes.lock().unwrap().clone();
                for block in bytes.chunks(FLASH_BLOCK as usize) {
                    let ones: u32 = block.iter().map(|byte| byte.count_ones()).sum();
                    prop_assert!(ones == 0 || block.iter().filter(|byte| byte.count_zeros() == 0).count() > block.len() / 2);
                }
                flash.read(offset, &mut [0; 8]);
            }
        }
    }
}
