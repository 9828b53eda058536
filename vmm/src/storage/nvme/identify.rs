//! Identify command and its data structures (NVMe 1.4, section 5.15).
//!
//! What the controller says of itself. Layouts are complete structures of 4096 bytes; fields that this controller leaves
//! 0 are folded into reserved arrays.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::command::SubmissionEntry;
use super::config::{ControllerConfig, NamespaceIds, PCI_SUBSYSTEM_VENDOR_ID, PCI_VENDOR_ID};
use super::controller::{Controller, Namespace};
use super::events::{ASYNC_EVENT_REQUEST_LIMIT, NAMESPACE_ATTRIBUTE_NOTICES};
use super::log_page::ERROR_LOG_ENTRIES;
use super::registers::VERSION;
use super::status::{Failure, Status};

/// Maximum Data Transfer Size as a power of two of the page size (MDTS): 256 KiB.
pub const MAX_TRANSFER_EXPONENT: u8 = 6;
/// Largest data transfer of one command, in bytes.
pub const MAX_TRANSFER: usize = 4096 << MAX_TRANSFER_EXPONENT;
/// The one temperature the controller has, in kelvin.
pub const TEMPERATURE: u16 = 313;
/// Warning Composite Temperature Threshold (WCTEMP), in kelvin.
pub const WARNING_TEMPERATURE: u16 = 343;
/// Critical Composite Temperature Threshold (CCTEMP), in kelvin.
pub const CRITICAL_TEMPERATURE: u16 = 353;
/// Firmware revision (FR).
pub const FIRMWARE_REVISION: [u8; 8] = *b"1.0     ";

/// Controller or Namespace Structure values (Figure 244).
pub mod cns {
    /// Identify Namespace data structure.
    pub const NAMESPACE: u8 = 0x00;
    /// Identify Controller data structure.
    pub const CONTROLLER: u8 = 0x01;
    /// Active Namespace ID list.
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    /// Namespace Identification Descriptor list.
    pub const NAMESPACE_DESCRIPTORS: u8 = 0x03;
}

/// Power State Descriptor (Figure 248).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PowerState {
    /// MP, in units of 10 mW.
    pub maximum_power: U16,
    reserved: [u8; 30],
}

/// Identify Controller data structure (Figure 247).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IdentifyController {
    /// VID.
    pub vendor_id: U16,
    /// SSVID.
    pub subsystem_vendor_id: U16,
    /// SN, ASCII, padded with spaces.
    pub serial_number: [u8; 20],
    /// MN, ASCII, padded with spaces.
    pub model_number: [u8; 40],
    /// FR, ASCII, padded with spaces.
    pub firmware_revision: [u8; 8],
    /// RAB.
    pub recommended_arbitration_burst: u8,
    /// IEEE OUI: none assigned.
    pub ieee: [u8; 3],
    /// CMIC.
    pub multi_path: u8,
    /// MDTS.
    pub maximum_data_transfer_size: u8,
    /// CNTLID.
    pub controller_id: U16,
    /// VER.
    pub version: U32,
    reserved84: [u8; 8],
    /// OAES.
    pub optional_async_events: U32,
    /// CTRATT.
    pub controller_attributes: U32,
    reserved100: [u8; 11],
    /// CNTRLTYPE.
    pub controller_type: u8,
    reserved112: [u8; 144],
    /// OACS.
    pub optional_admin_commands: U16,
    /// ACL, 0's based.
    pub abort_command_limit: u8,
    /// AERL, 0's based.
    pub async_event_request_limit: u8,
    /// FRMW.
    pub firmware_updates: u8,
    /// LPA.
    pub log_page_attributes: u8,
    /// ELPE, 0's based.
    pub error_log_page_entries: u8,
    /// NPSS, 0's based.
    pub power_states: u8,
    /// AVSCC.
    pub admin_vendor_specific: u8,
    /// APSTA.
    pub autonomous_power_state: u8,
    /// WCTEMP, kelvin.
    pub warning_temperature: U16,
    /// CCTEMP, kelvin.
    pub critical_temperature: U16,
    reserved270: [u8; 242],
    /// SQES: required size in bits 3:0, maximum in bits 7:4, as powers of two.
    pub submission_entry_size: u8,
    /// CQES, likewise.
    pub completion_entry_size: u8,
    /// MAXCMD.
    pub maximum_outstanding_commands: U16,
    /// NN.
    pub namespaces: U32,
    /// ONCS.
    pub optional_nvm_commands: U16,
    /// FUSES.
    pub fused_operations: U16,
    /// FNA.
    pub format_attributes: u8,
    /// VWC.
    pub volatile_write_cache: u8,
    /// AWUN, 0's based, in logical blocks.
    pub atomic_write_unit_normal: U16,
    /// AWUPF, 0's based, in logical blocks.
    pub atomic_write_unit_power_fail: U16,
    reserved530: [u8; 6],
    /// SGLS.
    pub scatter_gather_lists: U32,
    reserved540: [u8; 228],
    /// SUBNQN, NUL-terminated.
    pub subsystem_name: [u8; 256],
    reserved1024: [u8; 1024],
    /// PSD0.
    pub power_state_0: PowerState,
    reserved2080: [u8; 2016],
}

const _: () = assert!(size_of::<IdentifyController>() == 4096);
const _: () = assert!(offset_of!(IdentifyController, version) == 80);
const _: () = assert!(offset_of!(IdentifyController, controller_type) == 111);
const _: () = assert!(offset_of!(IdentifyController, optional_admin_commands) == 256);
const _: () = assert!(offset_of!(IdentifyController, warning_temperature) == 266);
const _: () = assert!(offset_of!(IdentifyController, submission_entry_size) == 512);
const _: () = assert!(offset_of!(IdentifyController, volatile_write_cache) == 525);
const _: () = assert!(offset_of!(IdentifyController, scatter_gather_lists) == 536);
const _: () = assert!(offset_of!(IdentifyController, subsystem_name) == 768);
const _: () = assert!(offset_of!(IdentifyController, power_state_0) == 2048);

/// LBA Format (Figure 246).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct LbaFormat {
    /// MS, bytes.
    pub metadata_size: U16,
    /// LBADS: log2 of the logical block size in bytes.
    pub data_size: u8,
    /// RP.
    pub relative_performance: u8,
}

/// Identify Namespace data structure (Figure 245).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// NSZE, logical blocks.
    pub size: U64,
    /// NCAP, logical blocks.
    pub capacity: U64,
    /// NUSE, logical blocks.
    pub utilization: U64,
    /// NSFEAT.
    pub features: u8,
    /// NLBAF, 0's based.
    pub lba_formats: u8,
    /// FLBAS.
    pub formatted_lba_size: u8,
    /// MC.
    pub metadata_capabilities: u8,
    /// DPC.
    pub protection_capabilities: u8,
    /// DPS.
    pub protection_settings: u8,
    /// NMIC.
    pub multi_path: u8,
    /// RESCAP.
    pub reservation_capabilities: u8,
    /// FPI.
    pub format_progress: u8,
    /// DLFEAT.
    pub deallocate_features: u8,
    reserved34: [u8; 65],
    /// NSATTR.
    pub attributes: u8,
    reserved100: [u8; 4],
    /// NGUID.
    pub nguid: [u8; 16],
    /// EUI64, most significant byte first.
    pub eui64: [u8; 8],
    /// LBAF0.
    pub lba_format_0: LbaFormat,
    reserved132: [u8; 3964],
}

const _: () = assert!(size_of::<IdentifyNamespace>() == 4096);
const _: () = assert!(offset_of!(IdentifyNamespace, deallocate_features) == 33);
const _: () = assert!(offset_of!(IdentifyNamespace, attributes) == 99);
const _: () = assert!(offset_of!(IdentifyNamespace, nguid) == 104);
const _: () = assert!(offset_of!(IdentifyNamespace, lba_format_0) == 128);

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
    pub(super) fn new(config: &ControllerConfig, namespaces: u32) -> Self {
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
    pub(super) fn new(namespace: &Namespace, read_only: bool, ids: NamespaceIds) -> Self {
        let mut data = Self::new_zeroed();
        data.size = namespace.blocks().into();
        data.capacity = data.size;
        data.utilization = data.size;
        // Deallocated blocks read as zeroes; Write Zeroes can deallocate.
        data.deallocate_features = 1 << 3 | 1;
        data.attributes = u8::from(read_only);
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

impl Controller {
    /// Identify (section 5.15).
    pub(super) fn identify(&mut self, command: &SubmissionEntry) -> Result<u32, Failure> {
        let nsid = command.namespace_id.get();
        match command.dword10.get() as u8 {
            cns::NAMESPACE => {
                let (index, namespace) = self.namespace(nsid)?;
                let ids = self.config.namespace_ids(index);
                let data = IdentifyNamespace::new(namespace, self.is_read_only(index), ids);
                self.send(command, data.as_bytes())?;
            }
            cns::CONTROLLER => {
                let data = IdentifyController::new(&self.config, self.namespaces.len() as u32);
                self.send(command, data.as_bytes())?;
            }
            cns::ACTIVE_NAMESPACES => {
                let data = self.active_namespaces(nsid)?;
                self.send(command, &data)?;
            }
            cns::NAMESPACE_DESCRIPTORS => {
                let (index, _) = self.namespace(nsid)?;
                let data = descriptors(self.config.namespace_ids(index));
                self.send(command, &data)?;
            }
            _ => return Err(Failure::at(Status::INVALID_FIELD, 10, 0)),
        }
        Ok(0)
    }

    /// The namespace identifiers greater than `after`, in order (section 5.15.2.3).
    fn active_namespaces(&self, after: u32) -> Result<[u8; 4096], Failure> {
        if after >= 0xffff_fffe {
            return Err(Failure::at(Status::INVALID_NAMESPACE_OR_FORMAT, 1, 0));
        }
        let mut list = [0; 4096];
        let active = (1..=self.namespaces.len() as u32).filter(|&nsid| nsid > after);
        for (entry, nsid) in list.chunks_exact_mut(4).zip(active) {
            entry.copy_from_slice(&nsid.to_le_bytes());
        }
        Ok(list)
    }
}
