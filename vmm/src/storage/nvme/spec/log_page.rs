//! Log pages (NVMe 1.4, section 5.14).

use std::mem::size_of;

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Critical Warning bit 1: the temperature is outside the thresholds.
pub(crate) const CRITICAL_WARNING_TEMPERATURE: u8 = 1 << 1;
/// Critical Warning bit 3: all of the media are in read-only mode.
pub(crate) const CRITICAL_WARNING_READ_ONLY: u8 = 1 << 3;

/// Log Page Identifiers (Figure 194).
pub(crate) mod id {
    /// Error Information.
    pub(crate) const ERROR_INFORMATION: u8 = 0x01;
    /// SMART / Health Information.
    pub(crate) const SMART_HEALTH: u8 = 0x02;
    /// Firmware Slot Information.
    pub(crate) const FIRMWARE_SLOT: u8 = 0x03;
    /// Changed Namespace List.
    pub(crate) const CHANGED_NAMESPACES: u8 = 0x04;
    /// Commands Supported and Effects.
    pub(crate) const COMMAND_EFFECTS: u8 = 0x05;
}

/// Error Information Log Entry (Figure 197).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct ErrorEntry {
    /// Counts from 1; 0 is an entry that is not valid.
    pub(crate) error_count: U64,
    /// Submission queue, FFFFh if no command is to blame.
    pub(crate) submission_queue: U16,
    /// Command identifier, FFFFh if no command is to blame.
    pub(crate) command_id: U16,
    /// Status Field in bits 15:1, phase tag (0 here) in bit 0.
    pub status: U16,
    /// Byte and bit of the parameter, FFFFh if none.
    pub(crate) parameter_location: U16,
    /// First block of the range concerned.
    pub lba: U64,
    /// Namespace concerned.
    pub(crate) namespace_id: U32,
    reserved: [u8; 36],
}

const _: () = assert!(size_of::<ErrorEntry>() == 64);

/// SMART / Health Information Log (Figure 198).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct SmartHealth {
    /// Critical Warning.
    pub(crate) critical_warning: u8,
    /// Composite Temperature in kelvin.
    pub(crate) temperature: U16,
    /// Available Spare, percent.
    pub(crate) available_spare: u8,
    /// Available Spare Threshold, percent.
    pub(crate) available_spare_threshold: u8,
    /// Percentage Used.
    pub(crate) percentage_used: u8,
    reserved6: [u8; 26],
    /// Data Units Read: thousands of 512 bytes, rounded up.
    pub(crate) data_units_read: U128,
    /// Data Units Written, likewise.
    pub(crate) data_units_written: U128,
    /// Host Read Commands.
    pub(crate) host_read_commands: U128,
    /// Host Write Commands.
    pub(crate) host_write_commands: U128,
    /// Controller Busy Time, minutes.
    pub(crate) controller_busy_time: U128,
    /// Power Cycles.
    pub(crate) power_cycles: U128,
    /// Power On Hours: not counted, the controller has no clock.
    pub(crate) power_on_hours: U128,
    /// Unsafe Shutdowns.
    pub(crate) unsafe_shutdowns: U128,
    /// Media and Data Integrity Errors.
    pub(crate) media_errors: U128,
    /// Number of Error Information Log Entries.
    pub(crate) error_log_entries: U128,
    reserved192: [u8; 320],
}

const _: () = assert!(size_of::<SmartHealth>() == 512);
