//! Sense data (SPC-4, 4.5): why a command was not done as it was asked for.
//!
//! Values and their two layouts; it knows neither commands nor units.

use super::spec::{asc, sense_key};

/// RESPONSE CODE: current error, in fixed or in descriptor format.
const FIXED_CURRENT: u8 = 0x70;
const DESCRIPTOR_CURRENT: u8 = 0x72;
/// In fixed format: VALID, the information field holds something.
const VALID: u8 = 1 << 7;
/// First byte of the sense-key specific field: it holds something; a field of the command descriptor block; a bit, too.
const SKSV: u8 = 1 << 7;
const COMMAND_DATA: u8 = 1 << 6;
const BIT_POINTER_VALID: u8 = 1 << 3;
/// Descriptor types (SPC-4, table 29).
const INFORMATION_DESCRIPTOR: u8 = 0x00;
const SENSE_KEY_SPECIFIC_DESCRIPTOR: u8 = 0x02;
/// Bytes of fixed format sense data.
const FIXED_LENGTH: u8 = 18;

/// The field that was illegal (SPC-4, 4.5.2.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenseField {
    /// It is in the command descriptor block, not in the parameter list.
    pub(crate) in_cdb: bool,
    /// Its first byte.
    pub byte: u16,
    /// Its most significant bit, if it is less than bytes.
    pub bit: Option<u8>,
}

/// Sense data of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// SENSE KEY.
    pub key: u8,
    /// ADDITIONAL SENSE CODE in the high byte, its qualifier in the low one.
    pub code: u16,
    /// INFORMATION: for a block device the block at which it went wrong.
    pub information: Option<u64>,
    /// The illegal field.
    pub field: Option<SenseField>,
}

impl Sense {
    /// Sense data that name no place.
    #[must_use]
    pub const fn new(key: u8, code: u16) -> Self {
        Self {
            key,
            code,
            information: None,
            field: None,
        }
    }

    /// The same with a block address.
    #[must_use]
    pub(crate) const fn at_block(self, block: u64) -> Self {
        Self {
            information: Some(block),
            ..self
        }
    }

    /// Nothing to tell.
    pub(super) const NONE: Self = Self::new(sense_key::NO_SENSE, asc::NO_ADDITIONAL_SENSE_INFORMATION);

    pub(super) const fn illegal(code: u16) -> Self {
        Self::new(sense_key::ILLEGAL_REQUEST, code)
    }

    pub(super) const fn attention(code: u16) -> Self {
        Self::new(sense_key::UNIT_ATTENTION, code)
    }

    /// INVALID FIELD IN CDB, at a byte.
    pub(super) const fn cdb_byte(byte: u16) -> Self {
        Self {
            field: Some(SenseField {
                in_cdb: true,
                byte,
                bit: None,
            }),
            ..Self::illegal(asc::INVALID_FIELD_IN_CDB)
        }
    }

    /// INVALID FIELD IN CDB, at a bit of a byte.
    pub(super) const fn cdb_bit(byte: u16, bit: u8) -> Self {
        Self {
            field: Some(SenseField {
                in_cdb: true,
                byte,
                bit: Some(bit),
            }),
            ..Self::illegal(asc::INVALID_FIELD_IN_CDB)
        }
    }

    /// INVALID FIELD IN PARAMETER LIST, at a byte.
    pub(super) const fn parameter_byte(byte: u16) -> Self {
        Self {
            field: Some(SenseField {
                in_cdb: false,
                byte,
                bit: None,
            }),
            ..Self::illegal(asc::INVALID_FIELD_IN_PARAMETER_LIST)
        }
    }

    /// INVALID FIELD IN PARAMETER LIST, at a bit of a byte.
    pub(super) const fn parameter_bit(byte: u16, bit: u8) -> Self {
        Self {
            field: Some(SenseField {
                in_cdb: false,
                byte,
                bit: Some(bit),
            }),
            ..Self::illegal(asc::INVALID_FIELD_IN_PARAMETER_LIST)
        }
    }

    /// The bytes in fixed or in descriptor format.
    #[must_use]
    pub fn encode(&self, descriptor: bool) -> Vec<u8> {
        if descriptor { self.descriptors() } else { self.fixed() }
    }

    fn fixed(&self) -> Vec<u8> {
        let mut data = vec![0; usize::from(FIXED_LENGTH)];
        data[0] = FIXED_CURRENT;
        // More than 32 bits are not valid in this format (SPC-4, 4.5.3).
        if let Some(block) = self.information.and_then(|block| u32::try_from(block).ok()) {
            data[0] |= VALID;
            data[3..7].copy_from_slice(&block.to_be_bytes());
        }
        data[2] = self.key;
        data[7] = FIXED_LENGTH - 8;
        data[12..14].copy_from_slice(&self.code.to_be_bytes());
        if let Some(field) = self.field {
            data[15..18].copy_from_slice(&field.encode());
        }
        data
    }

    fn descriptors(&self) -> Vec<u8> {
        let [code, qualifier] = self.code.to_be_bytes();
        let mut data = vec![DESCRIPTOR_CURRENT, self.key, code, qualifier, 0, 0, 0, 0];
        if let Some(block) = self.information {
            data.extend([INFORMATION_DESCRIPTOR, 10, VALID, 0]);
            data.extend(block.to_be_bytes());
        }
        if let Some(field) = self.field {
            data.extend([SENSE_KEY_SPECIFIC_DESCRIPTOR, 6, 0, 0]);
            data.extend(field.encode());
            data.push(0);
        }
        data[7] = (data.len() - 8) as u8;
        data
    }
}

impl SenseField {
    fn encode(self) -> [u8; 3] {
        let [high, low] = self.byte.to_be_bytes();
        let source = if self.in_cdb { COMMAND_DATA } else { 0 };
        let bit = self.bit.map_or(0, |bit| BIT_POINTER_VALID | bit);
        [SKSV | source | bit, high, low]
    }
}
