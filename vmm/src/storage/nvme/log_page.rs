//! Get Log Page and the log pages (NVMe 1.4, section 5.14).
//!
//! Error Information, SMART / Health, Firmware Slot, Changed Namespace List, Commands Supported and Effects.

use std::collections::VecDeque;
use std::mem::size_of;

use zerocopy::{FromZeros, IntoBytes};

use super::controller::Controller;
use super::identify::{FIRMWARE_REVISION, MAX_TRANSFER, TEMPERATURE};
use super::spec::command::{SubmissionEntry, admin, nvm};
use super::spec::log_page::{CRITICAL_WARNING_READ_ONLY, CRITICAL_WARNING_TEMPERATURE, ErrorEntry, SmartHealth, id};
use super::spec::status::{Failure, Status};
use super::state::ControllerState;

/// Entries of the Error Information log (ELPE + 1).
pub const ERROR_LOG_ENTRIES: usize = 16;
impl ErrorEntry {
    /// The entry of a command that failed.
    pub(super) fn of_command(queue: u16, command: &SubmissionEntry, failure: Failure) -> Self {
        let mut entry = Self::without_command(failure.status);
        entry.submission_queue = queue.into();
        entry.command_id = command.command_id;
        entry.parameter_location = failure.location.into();
        entry.namespace_id = command.namespace_id;
        if queue != 0 && nvm::WITH_LBA.contains(&command.opcode) {
            entry.lba = command.starting_lba().into();
        }
        entry
    }

    /// The entry of an error that no command caused.
    pub(super) fn without_command(status: Status) -> Self {
        let mut entry = Self::new_zeroed();
        entry.submission_queue = 0xffff.into();
        entry.command_id = 0xffff.into();
        entry.status = status.with_phase(false).into();
        entry.parameter_location = 0xffff.into();
        entry
    }
}

/// The newest errors and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorLog {
    /// Errors since the controller was made; survives resets.
    pub count: u64,
    /// Newest first, at most [`ERROR_LOG_ENTRIES`].
    pub entries: VecDeque<ErrorEntry>,
}

impl ErrorLog {
    /// Numbers `entry` and puts it in front.
    pub fn push(&mut self, mut entry: ErrorEntry) {
        self.count = self.count.wrapping_add(1);
        entry.error_count = self.count.into();
        self.entries.truncate(ERROR_LOG_ENTRIES - 1);
        self.entries.push_front(entry);
    }

    fn page(&self) -> Vec<u8> {
        let mut page: Vec<u8> = self
            .entries
            .iter()
            .flat_map(|entry| entry.as_bytes().to_vec())
            .collect();
        page.resize(ERROR_LOG_ENTRIES * size_of::<ErrorEntry>(), 0);
        page
    }
}

/// What the SMART / Health log counts; survives resets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Units of 512 bytes read by Read, Compare and Verify.
    pub sectors_read: u64,
    /// Units of 512 bytes written.
    pub sectors_written: u64,
    /// Read and Compare commands.
    pub reads: u64,
    /// Write commands.
    pub writes: u64,
    /// Failed reads and writes of the medium.
    pub media_errors: u64,
}

/// Critical Warning of the SMART / Health log, as things are.
pub(super) fn critical_warning(state: &ControllerState) -> u8 {
    let features = &state.features;
    let mut warning = 0;
    // Section 5.21.1.4.
    if TEMPERATURE >= features.over_temperature || TEMPERATURE <= features.under_temperature {
        warning |= CRITICAL_WARNING_TEMPERATURE;
    }
    if state.media.iter().all(|media| media.read_only) {
        warning |= CRITICAL_WARNING_READ_ONLY;
    }
    warning
}

impl SmartHealth {
    fn new(state: &ControllerState) -> Self {
        let counters = &state.counters;
        let mut log = Self::new_zeroed();
        log.critical_warning = critical_warning(state);
        log.temperature = TEMPERATURE.into();
        log.available_spare = 100;
        log.available_spare_threshold = 10;
        log.data_units_read = u128::from(counters.sectors_read.div_ceil(1000)).into();
        log.data_units_written = u128::from(counters.sectors_written.div_ceil(1000)).into();
        log.host_read_commands = u128::from(counters.reads).into();
        log.host_write_commands = u128::from(counters.writes).into();
        log.power_cycles = 1.into();
        log.media_errors = u128::from(counters.media_errors).into();
        log.error_log_entries = u128::from(state.error_log.count).into();
        log
    }
}

/// Firmware Slot Information (Figure 199): slot 1 is active.
fn firmware_slot() -> Vec<u8> {
    let mut page = vec![0; 512];
    page[0] = 1; // AFI
    page[8..16].copy_from_slice(&FIRMWARE_REVISION); // FRS1
    page
}

/// Changed Namespace List (section 5.14.1.4): identifiers in order. There are fewer than its 1024 entries.
fn changed_namespaces(state: &ControllerState) -> Vec<u8> {
    let mut page: Vec<u8> = state
        .changed_namespaces
        .iter()
        .flat_map(|nsid| nsid.to_le_bytes())
        .collect();
    page.resize(4096, 0);
    page
}

/// Commands Supported and Effects (Figure 202): bit 0 supported, bit 1 changes the content of logical blocks.
fn command_effects() -> Vec<u8> {
    let mut page = vec![0; 4096];
    let mut set = |table: usize, opcode: u8, effects: u8| page[table + 4 * usize::from(opcode)] = effects;
    for opcode in [
        admin::DELETE_SUBMISSION_QUEUE,
        admin::CREATE_SUBMISSION_QUEUE,
        admin::GET_LOG_PAGE,
        admin::DELETE_COMPLETION_QUEUE,
        admin::CREATE_COMPLETION_QUEUE,
        admin::IDENTIFY,
        admin::ABORT,
        admin::SET_FEATURES,
        admin::GET_FEATURES,
        admin::ASYNC_EVENT_REQUEST,
        admin::DOORBELL_BUFFER_CONFIG,
    ] {
        set(0, opcode, 1);
    }
    set(1024, nvm::FLUSH, 1);
    set(1024, nvm::READ, 1);
    set(1024, nvm::WRITE, 3);
    set(1024, nvm::WRITE_ZEROES, 3);
    set(1024, nvm::DATASET_MANAGEMENT, 3);
    set(1024, nvm::COMPARE, 1);
    set(1024, nvm::VERIFY, 1);
    set(1024, nvm::WRITE_UNCORRECTABLE, 3);
    page
}

impl Controller {
    /// Get Log Page (section 5.14). What is asked for beyond the end of the page reads as zeroes.
    pub(super) fn get_log_page(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let dword10 = command.dword10.get();
        let identifier = dword10 as u8;
        let page = match identifier {
            id::ERROR_INFORMATION => self.state.error_log.page(),
            id::SMART_HEALTH => SmartHealth::new(&self.state).as_bytes().to_vec(),
            id::FIRMWARE_SLOT => firmware_slot(),
            id::CHANGED_NAMESPACES => changed_namespaces(&self.state),
            id::COMMAND_EFFECTS => command_effects(),
            _ => return Err(Failure::at(Status::INVALID_LOG_PAGE, 10, 0)),
        };
        // All pages are the controller's; none is kept for each namespace (LPA bit 0).
        if ![0, 0xffff_ffff].contains(&command.namespace_id.get()) {
            return Err(Failure::at(Status::INVALID_FIELD, 1, 0));
        }
        // NUMD is 0's based: lower half in dword 10, upper half in dword 11.
        let dwords = (u64::from(dword10 >> 16) | u64::from(command.dword11.get() & 0xffff) << 16) + 1;
        let length = dwords * 4;
        if length > MAX_TRANSFER as u64 {
            return Err(Failure::at(Status::INVALID_FIELD, 10, 16));
        }
        let offset = u64::from(command.dword12.get()) | u64::from(command.dword13.get()) << 32;
        if offset % 4 != 0 || offset > page.len() as u64 {
            return Err(Failure::at(Status::INVALID_FIELD, 12, 0));
        }
        let mut data = page[offset as usize..].to_vec();
        data.resize(length as usize, 0);
        self.send(command, &data)?;
        let retain = dword10 >> 15 & 1 != 0;
        if !retain {
            self.state.events.log_page_read(identifier);
            if identifier == id::CHANGED_NAMESPACES {
                self.state.changed_namespaces.clear();
            }
        }
        Ok(0)
    }
}
