//! Reads and writes the numbers in a block of reference counts: big-endian, or, below 8 bits, several in a byte with
//! the first in the lowest bits.

/// Width of a reference count, as the header says it: 2^order bits, order at most 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Width(u32);

impl Width {
    /// The largest order.
    pub(super) const LARGEST: u32 = 6;

    /// Nothing if there is no such width.
    pub(super) fn new(order: u32) -> Option<Self> {
        (order <= Self::LARGEST).then_some(Self(order))
    }

    /// How many counts a block of `bytes` has.
    pub(super) fn in_block(self, bytes: u64) -> u64 {
        (bytes * 8) >> self.0
    }

    /// The largest count.
    pub(super) fn largest(self) -> u64 {
        u64::MAX >> (64 - (1_u32 << self.0))
    }

    /// The bytes of a block that hold count `index`.
    pub(super) fn place(self, index: u64) -> std::ops::Range<u64> {
        let first = (index << self.0) / 8;
        first..first + u64::max(1, (1 << self.0) / 8)
    }

    /// Count `index` of a block; 0 if the block is too short.
    pub(super) fn get(self, block: &[u8], index: u64) -> u64 {
        let place = self.place(index);
        let bytes = block.get(place.start as usize..place.end as usize).unwrap_or_default();
        let value = bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
        value >> self.shift(index) & self.largest()
    }

    /// Puts `value`, which is at most the largest, in the place of count `index`.
    pub(super) fn set(self, block: &mut [u8], index: u64, value: u64) {
        let (place, shift) = (self.place(index), self.shift(index));
        let Some(bytes) = block.get_mut(place.start as usize..place.end as usize) else {
            return;
        };
        let old = bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
        let new = old & !(self.largest() << shift) | value << shift;
        for (byte, value) in bytes.iter_mut().rev().zip(new.to_le_bytes()) {
            *byte = value;
        }
    }

    /// How far a count is up in its byte.
    fn shift(self, index: u64) -> u64 {
        if self.0 < 3 { (index << self.0) % 8 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_their_places() {
        // One bit, two bits, a byte, two bytes, as QEMU's qcow2 has them.
        for (order, index, block) in [
            (0, 9, [0, 0b10, 0, 0]),
            (1, 2, [0b11_0000, 0, 0, 0]),
            (2, 1, [0xf0, 0, 0, 0]),
            (3, 2, [0, 0, 0xff, 0]),
            (4, 1, [0, 0, 0xff, 0xff]),
        ] {
            let width = Width::new(order).unwrap();
            let mut bytes = [0; 4];
            width.set(&mut bytes, index, width.largest());
            assert_eq!(bytes, block, "order {order}");
            assert_eq!(width.get(&bytes, index), width.largest());
            assert_eq!(width.get(&bytes, 0), 0);
            width.set(&mut bytes, index, 0);
            assert_eq!(bytes, [0; 4]);
        }
        let mut bytes = [0xff; 16];
        let width = Width::new(6).unwrap();
        width.set(&mut bytes, 1, 0x0102_0304_0506_0708);
        assert_eq!(bytes[8..], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((width.get(&bytes, 0), width.largest()), (u64::MAX, u64::MAX));
        assert_eq!(width.in_block(4096), 512);
        assert_eq!(Width::new(7), None);
    }
}
