//! Codes of SAM-5, SPC-4 and SBC-3, by their names there.
//!
//! Plain values: this file knows no command's work.

/// Status codes (SAM-5, table 40).
pub mod status {
    /// GOOD.
    pub const GOOD: u8 = 0x00;
    /// CHECK CONDITION.
    pub(crate) const CHECK_CONDITION: u8 = 0x02;
    /// BUSY.
    pub(crate) const BUSY: u8 = 0x08;
    /// RESERVATION CONFLICT.
    pub(crate) const RESERVATION_CONFLICT: u8 = 0x18;
    /// TASK SET FULL.
    pub(crate) const TASK_SET_FULL: u8 = 0x28;
    /// TASK ABORTED.
    pub(crate) const TASK_ABORTED: u8 = 0x40;
}

/// Sense keys (SPC-4, table 48).
pub(crate) mod sense_key {
    /// NO SENSE.
    pub(crate) const NO_SENSE: u8 = 0x0;
    /// NOT READY.
    pub(crate) const NOT_READY: u8 = 0x2;
    /// MEDIUM ERROR.
    pub(crate) const MEDIUM_ERROR: u8 = 0x3;
    /// HARDWARE ERROR.
    pub(crate) const HARDWARE_ERROR: u8 = 0x4;
    /// ILLEGAL REQUEST.
    pub(crate) const ILLEGAL_REQUEST: u8 = 0x5;
    /// UNIT ATTENTION.
    pub(crate) const UNIT_ATTENTION: u8 = 0x6;
    /// DATA PROTECT.
    pub(crate) const DATA_PROTECT: u8 = 0x7;
    /// ABORTED COMMAND.
    pub(crate) const ABORTED_COMMAND: u8 = 0xb;
    /// MISCOMPARE.
    pub(crate) const MISCOMPARE: u8 = 0xe;
}

/// Additional sense codes, the code in the high byte and its qualifier in the low one (SPC-4, annex F).
pub(crate) mod asc {
    /// NO ADDITIONAL SENSE INFORMATION.
    pub(crate) const NO_ADDITIONAL_SENSE_INFORMATION: u16 = 0x0000;
    /// LOGICAL UNIT NOT READY, INITIALIZING COMMAND REQUIRED.
    pub(crate) const INITIALIZING_COMMAND_REQUIRED: u16 = 0x0402;
    /// WRITE ERROR.
    pub(crate) const WRITE_ERROR: u16 = 0x0c00;
    /// UNRECOVERED READ ERROR.
    pub(crate) const UNRECOVERED_READ_ERROR: u16 = 0x1100;
    /// PARAMETER LIST LENGTH ERROR.
    pub(crate) const PARAMETER_LIST_LENGTH_ERROR: u16 = 0x1a00;
    /// MISCOMPARE DURING VERIFY OPERATION.
    pub(crate) const MISCOMPARE_DURING_VERIFY: u16 = 0x1d00;
    /// INVALID COMMAND OPERATION CODE.
    pub(crate) const INVALID_COMMAND_OPERATION_CODE: u16 = 0x2000;
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE.
    pub(crate) const LBA_OUT_OF_RANGE: u16 = 0x2100;
    /// INVALID FIELD IN CDB.
    pub(crate) const INVALID_FIELD_IN_CDB: u16 = 0x2400;
    /// LOGICAL UNIT NOT SUPPORTED.
    pub(crate) const LOGICAL_UNIT_NOT_SUPPORTED: u16 = 0x2500;
    /// INVALID FIELD IN PARAMETER LIST.
    pub(crate) const INVALID_FIELD_IN_PARAMETER_LIST: u16 = 0x2600;
    /// INVALID RELEASE OF PERSISTENT RESERVATION.
    pub(crate) const INVALID_RELEASE_OF_PERSISTENT_RESERVATION: u16 = 0x2604;
    /// WRITE PROTECTED.
    pub(crate) const WRITE_PROTECTED: u16 = 0x2700;
    /// SPACE ALLOCATION FAILED WRITE PROTECT.
    pub(crate) const SPACE_ALLOCATION_FAILED: u16 = 0x2707;
    /// POWER ON OCCURRED.
    pub(crate) const POWER_ON_OCCURRED: u16 = 0x2901;
    /// BUS DEVICE RESET FUNCTION OCCURRED.
    pub(crate) const BUS_DEVICE_RESET_OCCURRED: u16 = 0x2903;
    /// I_T NEXUS LOSS OCCURRED.
    pub(crate) const NEXUS_LOSS_OCCURRED: u16 = 0x2907;
    /// MODE PARAMETERS CHANGED.
    pub(crate) const MODE_PARAMETERS_CHANGED: u16 = 0x2a01;
    /// RESERVATIONS PREEMPTED.
    pub(crate) const RESERVATIONS_PREEMPTED: u16 = 0x2a03;
    /// RESERVATIONS RELEASED.
    pub(crate) const RESERVATIONS_RELEASED: u16 = 0x2a04;
    /// REGISTRATIONS PREEMPTED.
    pub(crate) const REGISTRATIONS_PREEMPTED: u16 = 0x2a05;
    /// SAVING PARAMETERS NOT SUPPORTED.
    pub(crate) const SAVING_PARAMETERS_NOT_SUPPORTED: u16 = 0x3900;
    /// INTERNAL TARGET FAILURE.
    pub(crate) const INTERNAL_TARGET_FAILURE: u16 = 0x4400;
    /// DATA PHASE ERROR.
    pub(crate) const DATA_PHASE_ERROR: u16 = 0x4b00;
    /// INSUFFICIENT REGISTRATION RESOURCES.
    pub(crate) const INSUFFICIENT_REGISTRATION_RESOURCES: u16 = 0x5504;
}

/// Operation codes (SPC-4, annex E).
pub mod opcode {
    /// TEST UNIT READY.
    pub(crate) const TEST_UNIT_READY: u8 = 0x00;
    /// REQUEST SENSE.
    pub(crate) const REQUEST_SENSE: u8 = 0x03;
    /// READ(6).
    pub(crate) const READ_6: u8 = 0x08;
    /// WRITE(6).
    pub(crate) const WRITE_6: u8 = 0x0a;
    /// INQUIRY.
    pub(crate) const INQUIRY: u8 = 0x12;
    /// MODE SELECT(6).
    pub(crate) const MODE_SELECT_6: u8 = 0x15;
    /// MODE SENSE(6).
    pub(crate) const MODE_SENSE_6: u8 = 0x1a;
    /// START STOP UNIT.
    pub(crate) const START_STOP_UNIT: u8 = 0x1b;
    /// SEND DIAGNOSTIC.
    pub(crate) const SEND_DIAGNOSTIC: u8 = 0x1d;
    /// READ CAPACITY(10).
    pub(crate) const READ_CAPACITY_10: u8 = 0x25;
    /// READ(10).
    pub(crate) const READ_10: u8 = 0x28;
    /// WRITE(10).
    pub(crate) const WRITE_10: u8 = 0x2a;
    /// VERIFY(10).
    pub(crate) const VERIFY_10: u8 = 0x2f;
    /// SYNCHRONIZE CACHE(10).
    pub(crate) const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    /// WRITE SAME(10).
    pub(crate) const WRITE_SAME_10: u8 = 0x41;
    /// UNMAP.
    pub(crate) const UNMAP: u8 = 0x42;
    /// LOG SENSE.
    pub(crate) const LOG_SENSE: u8 = 0x4d;
    /// MODE SELECT(10).
    pub(crate) const MODE_SELECT_10: u8 = 0x55;
    /// MODE SENSE(10).
    pub(crate) const MODE_SENSE_10: u8 = 0x5a;
    /// PERSISTENT RESERVE IN.
    pub(crate) const PERSISTENT_RESERVE_IN: u8 = 0x5e;
    /// PERSISTENT RESERVE OUT.
    pub(crate) const PERSISTENT_RESERVE_OUT: u8 = 0x5f;
    /// READ(16).
    pub(crate) const READ_16: u8 = 0x88;
    /// WRITE(16).
    pub(crate) const WRITE_16: u8 = 0x8a;
    /// VERIFY(16).
    pub(crate) const VERIFY_16: u8 = 0x8f;
    /// SYNCHRONIZE CACHE(16).
    pub(crate) const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    /// WRITE SAME(16).
    pub(crate) const WRITE_SAME_16: u8 = 0x93;
    /// SERVICE ACTION IN(16).
    pub(crate) const SERVICE_ACTION_IN_16: u8 = 0x9e;
    /// REPORT LUNS.
    pub(crate) const REPORT_LUNS: u8 = 0xa0;
    /// MAINTENANCE IN.
    pub(crate) const MAINTENANCE_IN: u8 = 0xa3;
    /// READ(12).
    pub(crate) const READ_12: u8 = 0xa8;
    /// WRITE(12).
    pub(crate) const WRITE_12: u8 = 0xaa;
    /// VERIFY(12).
    pub(crate) const VERIFY_12: u8 = 0xaf;
}

/// Service actions.
pub(crate) mod service_action {
    /// READ CAPACITY(16), of SERVICE ACTION IN(16).
    pub(crate) const READ_CAPACITY_16: u8 = 0x10;
    /// REPORT SUPPORTED OPERATION CODES, of MAINTENANCE IN.
    pub(crate) const REPORT_SUPPORTED_OPERATION_CODES: u8 = 0x0c;
    /// READ KEYS, of PERSISTENT RESERVE IN.
    pub(crate) const READ_KEYS: u8 = 0x00;
    /// READ RESERVATION.
    pub(crate) const READ_RESERVATION: u8 = 0x01;
    /// REPORT CAPABILITIES.
    pub(crate) const REPORT_CAPABILITIES: u8 = 0x02;
    /// READ FULL STATUS.
    pub(crate) const READ_FULL_STATUS: u8 = 0x03;
    /// REGISTER, of PERSISTENT RESERVE OUT.
    pub(crate) const REGISTER: u8 = 0x00;
    /// RESERVE.
    pub(crate) const RESERVE: u8 = 0x01;
    /// RELEASE.
    pub(crate) const RELEASE: u8 = 0x02;
    /// CLEAR.
    pub(crate) const CLEAR: u8 = 0x03;
    /// PREEMPT.
    pub(crate) const PREEMPT: u8 = 0x04;
    /// PREEMPT AND ABORT.
    pub(crate) const PREEMPT_AND_ABORT: u8 = 0x05;
    /// REGISTER AND IGNORE EXISTING KEY.
    pub(crate) const REGISTER_AND_IGNORE_EXISTING_KEY: u8 = 0x06;
}

/// Vital product data pages (SPC-4, table 592; SBC-3, table 211).
pub(crate) mod vpd {
    /// Supported VPD Pages.
    pub(crate) const SUPPORTED_PAGES: u8 = 0x00;
    /// Unit Serial Number.
    pub(crate) const UNIT_SERIAL_NUMBER: u8 = 0x80;
    /// Device Identification.
    pub(crate) const DEVICE_IDENTIFICATION: u8 = 0x83;
    /// Block Limits.
    pub(crate) const BLOCK_LIMITS: u8 = 0xb0;
    /// Block Device Characteristics.
    pub(crate) const BLOCK_DEVICE_CHARACTERISTICS: u8 = 0xb1;
    /// Logical Block Provisioning.
    pub(crate) const LOGICAL_BLOCK_PROVISIONING: u8 = 0xb2;
}

/// Mode pages (SPC-4, table 453; SBC-3, table 192).
pub(crate) mod mode_page {
    /// Read-Write Error Recovery.
    pub(crate) const READ_WRITE_ERROR_RECOVERY: u8 = 0x01;
    /// Caching.
    pub(crate) const CACHING: u8 = 0x08;
    /// Control.
    pub(crate) const CONTROL: u8 = 0x0a;
    /// Informational Exceptions Control.
    pub(crate) const INFORMATIONAL_EXCEPTIONS: u8 = 0x1c;
    /// All pages.
    pub(crate) const ALL: u8 = 0x3f;
}

/// Log pages (SPC-4, table 345).
pub(crate) mod log_page {
    /// Supported Log Pages.
    pub(crate) const SUPPORTED_PAGES: u8 = 0x00;
    /// Write Error Counters.
    pub(crate) const WRITE_ERROR_COUNTERS: u8 = 0x02;
    /// Read Error Counters.
    pub(crate) const READ_ERROR_COUNTERS: u8 = 0x03;
    /// Informational Exceptions.
    pub(crate) const INFORMATIONAL_EXCEPTIONS: u8 = 0x2f;
}

/// Persistent reservation types (SPC-4, table 217).
pub(crate) mod reservation_type {
    /// Write Exclusive.
    pub(crate) const WRITE_EXCLUSIVE: u8 = 0x1;
    /// Exclusive Access.
    pub(crate) const EXCLUSIVE_ACCESS: u8 = 0x3;
    /// Write Exclusive - Registrants Only.
    pub(crate) const WRITE_EXCLUSIVE_REGISTRANTS_ONLY: u8 = 0x5;
    /// Exclusive Access - Registrants Only.
    pub(crate) const EXCLUSIVE_ACCESS_REGISTRANTS_ONLY: u8 = 0x6;
    /// Write Exclusive - All Registrants.
    pub(crate) const WRITE_EXCLUSIVE_ALL_REGISTRANTS: u8 = 0x7;
    /// Exclusive Access - All Registrants.
    pub(crate) const EXCLUSIVE_ACCESS_ALL_REGISTRANTS: u8 = 0x8;
}

/// PROTOCOL IDENTIFIER of Serial Attached SCSI (SPC-4, table 438).
pub(crate) const PROTOCOL_SAS: u8 = 0x6;
