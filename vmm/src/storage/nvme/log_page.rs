//! The log pages (NVMe 1.4, section 5.14): Error Information, SMART / Health, Firmware Slot, Changed Namespace List,
//! Commands Supported and Effects.

use std::collections::{BTreeSet, VecDeque};
use std::mem::size_of;

use zerocopy::{FromZeros, IntoBytes};

use super::identify::{FIRMWARE_REVISION, TEMPERATURE};
use super::namespaces::Counters;
use super::queues::Fetched;
use super::spec::command::{admin, nvm};
use super::spec::log_page::{ErrorEntry, SmartHealth};
use super::spec::status::{Failure, Status};

/// Entries of the Error Information log (ELPE + 1).
pub(super) const ERROR_LOG_ENTRIES: usize = 16;

impl ErrorEntry {
    /// The entry of a command that failed.
    pub(super) fn of_command(fetched: &Fetched, failure: Failure) -> Self {
        let (queue, command) = (fetched.queue, &fetched.entry);
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
#[derive(Debug, Default)]
pub(super) struct ErrorLog {
    /// Errors since the controller was made; survives resets.
    count: u64,
    /// Newest first, at most [`ERROR_LOG_ENTRIES`].
    entries: VecDeque<ErrorEntry>,
}

impl ErrorLog {
    /// Numbers `entry` and puts it in front.
    pub(super) fn push(&mut self, mut entry: ErrorEntry) {
        self.count = self.count.wrapping_add(1);
        entry.error_count = self.count.into();
        self.entries.truncate(ERROR_LOG_ENTRIES - 1);
        self.entries.push_front(entry);
    }

    /// Errors since the controller was made.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Entries that are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn page(&self) -> Vec<u8> {
        let mut page: Vec<u8> = self
            .entries
            .iter()
            .flat_map(|entry| entry.as_bytes().to_vec())
            .collect();
        page.resize(ERROR_LOG_ENTRIES * size_of::<ErrorEntry>(), 0);
        page
    }
}

/// The SMART / Health Information log, with that Critical Warning.
pub(super) fn smart_health(critical_warning: u8, counters: &Counters, errors: u64) -> SmartHealth {
    let mut log = SmartHealth::new_zeroed();
    log.critical_warning = critical_warning;
    log.temperature = TEMPERATURE.into();
    log.available_spare = 100;
    log.available_spare_threshold = 10;
    log.data_units_read = u128::from(counters.sectors_read.div_ceil(1000)).into();
    log.data_units_written = u128::from(counters.sectors_written.div_ceil(1000)).into();
    log.host_read_commands = u128::from(counters.reads).into();
    log.host_write_commands = u128::from(counters.writes).into();
    log.power_cycles = 1.into();
    log.media_errors = u128::from(counters.media_errors).into();
    log.error_log_entries = u128::from(errors).into();
    log
}

/// Firmware Slot Information (Figure 199): slot 1 is active.
pub(super) fn firmware_slot() -> Vec<u8> {
    let mut page = vec![0; 512];
    page[0] = 1; // AFI
    page[8..16].copy_from_slice(&FIRMWARE_REVISION); // FRS1
    page
}

/// Changed Namespace List (section 5.14.1.4): identifiers in order. There are fewer than its 1024 entries.
pub(super) fn changed_namespaces(changed: &BTreeSet<u32>) -> Vec<u8> {
    let mut page: Vec<u8> = changed.iter().flat_map(|nsid| nsid.to_le_bytes()).collect();
    page.resize(4096, 0);
    page
}

/// Commands Supported and Effects (Figure 202): bit 0 supported, bit 1 changes the content of logical blocks.
pub(super) fn command_effects() -> Vec<u8> {
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
