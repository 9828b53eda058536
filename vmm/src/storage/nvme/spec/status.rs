//! Status codes of completed commands (NVMe 1.4, section 4.6.1).
//!
//! Plain values.

/// The Status Field of a completion queue entry without its phase tag (Figure 124): bits 7:0 code, 10:8 code type,
/// 13 More, 14 Do Not Retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(u16);

const MORE: u16 = 1 << 13;
const DO_NOT_RETRY: u16 = 1 << 14;

const fn generic(code: u16) -> Status {
    Status(code)
}

const fn specific(code: u16) -> Status {
    Status(1 << 8 | code)
}

const fn media(code: u16) -> Status {
    Status(2 << 8 | code)
}

/// Generic command status (Figures 126 and 127).
impl Status {
    /// 00h.
    pub const SUCCESS: Self = generic(0x00);
    /// 01h.
    pub(crate) const INVALID_OPCODE: Self = generic(0x01).final_answer();
    /// 02h.
    pub(crate) const INVALID_FIELD: Self = generic(0x02).final_answer();
    /// 03h.
    pub(crate) const COMMAND_ID_CONFLICT: Self = generic(0x03).final_answer();
    /// 04h: guest memory could not be reached.
    pub(crate) const DATA_TRANSFER_ERROR: Self = generic(0x04).final_answer();
    /// 06h.
    pub(crate) const INTERNAL_ERROR: Self = generic(0x06);
    /// 07h.
    pub(crate) const ABORT_REQUESTED: Self = generic(0x07);
    /// 0Bh.
    pub(crate) const INVALID_NAMESPACE_OR_FORMAT: Self = generic(0x0b).final_answer();
    /// 0Ch.
    pub(crate) const COMMAND_SEQUENCE_ERROR: Self = generic(0x0c).final_answer();
    /// 13h.
    pub(crate) const PRP_OFFSET_INVALID: Self = generic(0x13).final_answer();
    /// 20h.
    pub(crate) const NAMESPACE_WRITE_PROTECTED: Self = generic(0x20).final_answer();
    /// 80h.
    pub(crate) const LBA_OUT_OF_RANGE: Self = generic(0x80).final_answer();
    /// 81h: the host has no room for the data.
    pub(crate) const CAPACITY_EXCEEDED: Self = generic(0x81).final_answer();
}

/// Command specific status (Figures 128 and 129).
impl Status {
    /// 00h.
    pub(crate) const COMPLETION_QUEUE_INVALID: Self = specific(0x00).final_answer();
    /// 01h.
    pub(crate) const INVALID_QUEUE_IDENTIFIER: Self = specific(0x01).final_answer();
    /// 02h.
    pub(crate) const INVALID_QUEUE_SIZE: Self = specific(0x02).final_answer();
    /// 05h.
    pub(crate) const ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED: Self = specific(0x05).final_answer();
    /// 08h.
    pub(crate) const INVALID_INTERRUPT_VECTOR: Self = specific(0x08).final_answer();
    /// 09h.
    pub(crate) const INVALID_LOG_PAGE: Self = specific(0x09).final_answer();
    /// 0Ch.
    pub(crate) const INVALID_QUEUE_DELETION: Self = specific(0x0c).final_answer();
    /// 0Dh.
    pub(crate) const FEATURE_NOT_SAVEABLE: Self = specific(0x0d).final_answer();
    /// 0Eh.
    pub(crate) const FEATURE_NOT_CHANGEABLE: Self = specific(0x0e).final_answer();
    /// 0Fh.
    pub(crate) const FEATURE_NOT_NAMESPACE_SPECIFIC: Self = specific(0x0f).final_answer();
}

/// Media and data integrity errors (Figure 130).
impl Status {
    /// 80h.
    pub(crate) const WRITE_FAULT: Self = media(0x80);
    /// 81h.
    pub(crate) const UNRECOVERED_READ_ERROR: Self = media(0x81);
    /// 85h.
    pub(crate) const COMPARE_FAILURE: Self = media(0x85).final_answer();
}

impl Status {
    /// A failure by its bits 10:0 (code and code type), with Do Not Retry (bit 14) or without; `None` for success and for
    /// other bits.
    #[must_use]
    pub const fn failure(bits: u16) -> Option<Self> {
        if Self(bits).code() == 0 || bits & !(0x7ff | DO_NOT_RETRY) != 0 {
            return None;
        }
        Some(Self(bits))
    }

    /// Whether the code type says that the medium failed (2h).
    #[must_use]
    pub(crate) const fn is_media_error(self) -> bool {
        self.code() >> 8 == 2
    }

    /// Sets Do Not Retry: the same command would fail again.
    const fn final_answer(self) -> Self {
        Self(self.0 | DO_NOT_RETRY)
    }

    /// Sets More: the Error Information log has an entry for the command.
    #[must_use]
    pub(crate) const fn with_more(self) -> Self {
        Self(self.0 | MORE)
    }

    /// The upper half of completion dword 3 with the phase tag in bit 0.
    #[must_use]
    pub(crate) const fn with_phase(self, phase: bool) -> u16 {
        self.0 << 1 | phase as u16
    }

    /// Takes the status out of the upper half of completion dword 3.
    #[cfg(test)]
    pub(crate) const fn from_completion(field: u16) -> Self {
        Self(field >> 1)
    }

    /// Without More and Do Not Retry: what went wrong, nothing else.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.0 & 0x7ff
    }

    /// Do Not Retry.
    #[cfg(test)]
    pub(crate) const fn do_not_retry(self) -> bool {
        self.0 & DO_NOT_RETRY != 0
    }

    /// More.
    #[must_use]
    pub const fn more(self) -> bool {
        self.0 & MORE != 0
    }
}

impl From<Status> for u32 {
    fn from(status: Status) -> Self {
        status.0.into()
    }
}

/// A command that failed: its status, and the field that is to blame where one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What went wrong.
    pub status: Status,
    /// Parameter Error Location (Figure 197): byte in bits 7:0, bit in bits 10:8; FFFFh where no field is to blame.
    pub location: u16,
}

impl Failure {
    /// Blames the field that starts at `bit` of command dword `dword`.
    #[must_use]
    pub(crate) const fn at(status: Status, dword: u16, bit: u16) -> Self {
        Self {
            status,
            location: (dword * 4 + bit / 8) | (bit % 8) << 8,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self {
            status,
            location: 0xffff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_field_has_the_specified_layout() {
        let status = Status::INVALID_LOG_PAGE.with_more();
        assert_eq!(status.with_phase(true), 0x6000 << 1 | 0x109 << 1 | 1);
        assert_eq!(Status::from_completion(status.with_phase(false)), status);
        assert_eq!(
            (status.code(), status.more(), status.do_not_retry()),
            (0x109, true, true)
        );
        assert_eq!(Status::UNRECOVERED_READ_ERROR.with_phase(false), 0x281 << 1);
    }

    #[test]
    fn a_failure_has_a_code_and_no_reserved_bits() {
        assert_eq!(Status::failure(0x281), Some(Status::UNRECOVERED_READ_ERROR));
        assert_eq!(Status::failure(0x4002), Some(Status::INVALID_FIELD));
        for bits in [0, 0x4000, 0x800, 0x2281, 0x8001] {
            assert_eq!(Status::failure(bits), None, "{bits:#x}");
        }
    }

    #[test]
    fn location_names_byte_and_bit() {
        assert_eq!(Failure::at(Status::INVALID_FIELD, 10, 16).location, 42);
        assert_eq!(Failure::at(Status::INVALID_FIELD, 11, 25).location, 0x12f);
        assert_eq!(Failure::from(Status::INVALID_FIELD).location, 0xffff);
    }
}
