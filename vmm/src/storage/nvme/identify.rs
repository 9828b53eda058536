//! Identify command and its data structures (NVMe 1.4, section 5.15).
//!
//! What the controller says of itself.

use zerocopy::{FromZeros, IntoBytes};

use super::config::{NamespaceIds, NvmeConfig, PCI_VENDOR_ID};
use super::events::ASYNC_EVENT_REQUEST_LIMIT;
use super::log_page::ERROR_LOG_ENTRIES;
use super::namespaces::{Namespace, Namespaces};
use super::spec::command::SubmissionEntry;
use super::spec::features::NAMESPACE_ATTRIBUTE_NOTICES;
use super::spec::identify::{IdentifyController, IdentifyNamespace, cns};
use super::spec::registers::VERSION;
use super::spec::status::{Failure, Status};
use super::transfer::Transfer;
use crate::storage::controllers::PCI_SUBSYSTEM_VENDOR_ID;

/// Maximum Data Transfer Size as a power of two of the page size (MDTS): 256 KiB.
pub(super) const MAX_TRANSFER_EXPONENT: u8 = 6;
/// Largest data transfer of one command, in bytes.
pub(super) const MAX_TRANSFER: usize = 4096 << MAX_TRANSFER_EXPONENT;
/// The one temperature the controller has, in kelvin.
pub(super) const TEMPERATURE: u16 = 313;
/// Warning Composite Temperature Threshold (WCTEMP), in kelvin.
pub(super) const WARNING_TEMPERATURE: u16 = 343;
/// Critical Composite Temperature Threshold (CCTEMP), in kelvin.
pub(super) const CRITICAL_TEMPERATURE: u16 = 353;
/// Firmware revision (FR).
pub(super) const FIRMWARE_REVISION: [u8; 8] = *b"1.0     ";

/// `text` in `N` bytes, cut or padded with spaces.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (to, from) in field
        .iter_mut()
        .zip(text.bytes().filter(|byte| (0x20..0x7f).contains(byte)))
    {
        *to = from;
    }
    field
}

impl IdentifyController {
    pub(super) fn new(config: &NvmeConfig, namespaces: u32) -> Self {
        let mut data = Self::new_zeroed();
        data.vendor_id = PCI_VENDOR_ID.into();
        data.subsystem_vendor_id = PCI_SUBSYSTEM_VENDOR_ID.into();
        data.serial_number = padded(&config.serial_number);
        data.model_number = padded("Storlock NVMe Controller");
        data.firmware_revision = FIRMWARE_REVISION;
        data.recommended_arbitration_burst = 3;
        data.maximum_data_transfer_size = MAX_TRANSFER_EXPONENT;
        data.version = VERSION.into();
        data.optional_async_events = NAMESPACE_ATTRIBUTE_NOTICES.into();
        data.controller_type = 1; // I/O controller
        data.optional_admin_commands = (1 << 8).into(); // Doorbell Buffer Config
        data.abort_command_limit = 3;
        data.async_event_request_limit = ASYNC_EVENT_REQUEST_LIMIT as u8 - 1;
        data.firmware_updates = 1 << 1 | 1; // one slot, read-only
        data.log_page_attributes = 1 << 1 | 1 << 2; // Commands Supported and Effects, extended data
        data.error_log_page_entries = ERROR_LOG_ENTRIES as u8 - 1;
        data.warning_temperature = WARNING_TEMPERATURE.into();
        data.critical_temperature = CRITICAL_TEMPERATURE.into();
        data.submission_entry_size = 0x66;
        data.completion_entry_size = 0x44;
        data.namespaces = namespaces.into();
        // Compare, Write Uncorrectable, Dataset Management, Write Zeroes, Save and Select of features, Verify.
        data.optional_nvm_commands = (1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 7).into();
        data.volatile_write_cache = 0b11 << 1 | 1; // present; Flush of all namespaces by FFFFFFFFh
        let name = format!(
            "nqn.2014-08.org.nvmexpress:uuid:{}",
            uuid_text(config.namespace_ids(0).nguid)
        );
        for (to, from) in data.subsystem_name.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        data.power_state_0.maximum_power = 2500.into();
        data
    }
}

/// The 8-4-4-4-12 notation of RFC 4122.
fn uuid_text(bytes: [u8; 16]) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ]
    .join("-")
}

impl IdentifyNamespace {
    pub(super) fn new(namespace: &Namespace, ids: NamespaceIds) -> Self {
        let mut data = Self::new_zeroed();
        data.size = namespace.blocks().into();
        data.capacity = data.size;
        data.utilization = data.size;
        // Deallocated blocks read as zeroes; Write Zeroes can deallocate.
        data.deallocate_features = 1 << 3 | 1;
        data.attributes = u8::from(namespace.is_read_only());
        data.nguid = ids.nguid;
        data.eui64 = ids.eui64;
        data.lba_format_0.data_size = namespace.block_shift() as u8;
        data
    }
}

/// Namespace Identification Descriptors (Figure 249): EUI64 and NGUID.
fn descriptors(ids: NamespaceIds) -> [u8; 4096] {
    let mut list = [0; 4096];
    list[0] = 1; // NIDT: EUI64
    list[1] = 8; // NIDL
    list[4..12].copy_from_slice(&ids.eui64);
    list[12] = 2; // NIDT: NGUID
    list[13] = 16; // NIDL
    list[16..32].copy_from_slice(&ids.nguid);
    list
}

/// Identify (section 5.15).
pub(super) fn identify(
    command: &SubmissionEntry,
    config: &NvmeConfig,
    namespaces: &Namespaces,
    transfer: &mut Transfer,
) -> Result<u32, Failure> {
    let nsid = command.namespace_id.get();
    match command.dword10.get() as u8 {
        cns::NAMESPACE => {
            let (index, namespace) = namespaces.get(nsid)?;
            let data = IdentifyNamespace::new(namespace, config.namespace_ids(index));
            transfer.send(command, data.as_bytes())?;
        }
        cns::CONTROLLER => {
            let data = IdentifyController::new(config, namespaces.count() as u32);
            transfer.send(command, data.as_bytes())?;
        }
        cns::ACTIVE_NAMESPACES => transfer.send(command, &active_namespaces(nsid, namespaces.count())?)?,
        cns::NAMESPACE_DESCRIPTORS => {
            let (index, _) = namespaces.get(nsid)?;
            transfer.send(command, &descriptors(config.namespace_ids(index)))?;
        }
        _ => return Err(Failure::at(Status::INVALID_FIELD, 10, 0)),
    }
    Ok(0)
}

/// The namespace identifiers greater than `after`, in order (section 5.15.2.3).
fn active_namespaces(after: u32, namespaces: usize) -> Result<[u8; 4096], Failure> {
    if after >= 0xffff_fffe {
        return Err(Failure::at(Status::INVALID_NAMESPACE_OR_FORMAT, 1, 0));
    }
    let mut list = [0; 4096];
    let active = (1..=namespaces as u32).filter(|&nsid| nsid > after);
    for (entry, nsid) in list.chunks_exact_mut(4).zip(active) {
        entry.copy_from_slice(&nsid.to_le_bytes());
    }
    Ok(list)
}
