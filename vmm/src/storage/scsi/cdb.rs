//! A command descriptor block: big-endian fields of a block whose length has been checked.
//!
//! It knows no command.

/// A block that is as long as its command says; what lies behind that is not looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cdb<'a>(&'a [u8]);

impl<'a> Cdb<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Bytes of the block.
    pub(super) fn len(self) -> usize {
        self.0.len()
    }

    /// The byte with that number. One behind the end is 0, which no command asks for.
    pub(super) fn byte(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    pub(super) fn bit(self, at: usize, bit: u8) -> bool {
        self.byte(at) >> bit & 1 != 0
    }

    fn number(self, at: usize, length: usize) -> u64 {
        (at..at + length).fold(0, |number, at| number << 8 | u64::from(self.byte(at)))
    }

    pub(super) fn u16(self, at: usize) -> u16 {
        self.number(at, 2) as u16
    }

    pub(super) fn u32(self, at: usize) -> u32 {
        self.number(at, 4) as u32
    }

    pub(super) fn u64(self, at: usize) -> u64 {
        self.number(at, 8)
    }

    /// SERVICE ACTION of the commands that have one.
    pub(super) fn service_action(self) -> u8 {
        self.byte(1) & 0x1f
    }
}
