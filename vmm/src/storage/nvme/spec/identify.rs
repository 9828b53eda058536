//! Data structures of the Identify command (NVMe 1.4, section 5.15).
//!
//! Complete structures of 4096 bytes; fields that this controller leaves 0 are part of the reserved arrays.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Controller or Namespace Structure values (Figure 244).
pub(crate) mod cns {
    /// Identify Namespace data structure.
    pub(crate) const NAMESPACE: u8 = 0x00;
    /// Identify Controller data structure.
    pub(crate) const CONTROLLER: u8 = 0x01;
    /// Active Namespace ID list.
    pub(crate) const ACTIVE_NAMESPACES: u8 = 0x02;
    /// Namespace Identification Descriptor list.
    pub(crate) const NAMESPACE_DESCRIPTORS: u8 = 0x03;
}

/// Power State Descriptor (Figure 248).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct PowerState {
    /// MP, in units of 10 mW.
    pub(crate) maximum_power: U16,
    reserved: [u8; 30],
}

/// Identify Controller data structure (Figure 247).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct IdentifyController {
    /// VID.
    pub vendor_id: U16,
    /// SSVID.
    pub(crate) subsystem_vendor_id: U16,
    /// SN, ASCII, padded with spaces.
    pub(crate) serial_number: [u8; 20],
    /// MN, ASCII, padded with spaces.
    pub(crate) model_number: [u8; 40],
    /// FR, ASCII, padded with spaces.
    pub(crate) firmware_revision: [u8; 8],
    /// RAB.
    pub(crate) recommended_arbitration_burst: u8,
    /// IEEE OUI: none assigned.
    pub(crate) ieee: [u8; 3],
    /// CMIC.
    pub(crate) multi_path: u8,
    /// MDTS.
    pub(crate) maximum_data_transfer_size: u8,
    /// CNTLID.
    pub(crate) controller_id: U16,
    /// VER.
    pub version: U32,
    reserved84: [u8; 8],
    /// OAES.
    pub(crate) optional_async_events: U32,
    /// CTRATT.
    pub(crate) controller_attributes: U32,
    reserved100: [u8; 11],
    /// CNTRLTYPE.
    pub(crate) controller_type: u8,
    reserved112: [u8; 144],
    /// OACS.
    pub(crate) optional_admin_commands: U16,
    /// ACL, 0's based.
    pub(crate) abort_command_limit: u8,
    /// AERL, 0's based.
    pub(crate) async_event_request_limit: u8,
    /// FRMW.
    pub(crate) firmware_updates: u8,
    /// LPA.
    pub(crate) log_page_attributes: u8,
    /// ELPE, 0's based.
    pub(crate) error_log_page_entries: u8,
    /// NPSS, 0's based.
    pub(crate) power_states: u8,
    /// AVSCC.
    pub(crate) admin_vendor_specific: u8,
    /// APSTA.
    pub(crate) autonomous_power_state: u8,
    /// WCTEMP, kelvin.
    pub(crate) warning_temperature: U16,
    /// CCTEMP, kelvin.
    pub(crate) critical_temperature: U16,
    reserved270: [u8; 242],
    /// SQES: required size in bits 3:0, maximum in bits 7:4, as powers of two.
    pub(crate) submission_entry_size: u8,
    /// CQES, likewise.
    pub(crate) completion_entry_size: u8,
    /// MAXCMD.
    pub(crate) maximum_outstanding_commands: U16,
    /// NN.
    pub(crate) namespaces: U32,
    /// ONCS.
    pub(crate) optional_nvm_commands: U16,
    /// FUSES.
    pub(crate) fused_operations: U16,
    /// FNA.
    pub(crate) format_attributes: u8,
    /// VWC.
    pub(crate) volatile_write_cache: u8,
    /// AWUN, 0's based, in logical blocks.
    pub(crate) atomic_write_unit_normal: U16,
    /// AWUPF, 0's based, in logical blocks.
    pub(crate) atomic_write_unit_power_fail: U16,
    reserved530: [u8; 6],
    /// SGLS.
    pub(crate) scatter_gather_lists: U32,
    reserved540: [u8; 228],
    /// SUBNQN, NUL-terminated.
    pub(crate) subsystem_name: [u8; 256],
    reserved1024: [u8; 1024],
    /// PSD0.
    pub(crate) power_state_0: PowerState,
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
pub(crate) struct LbaFormat {
    /// MS, bytes.
    pub(crate) metadata_size: U16,
    /// LBADS: log2 of the logical block size in bytes.
    pub(crate) data_size: u8,
    /// RP.
    pub(crate) relative_performance: u8,
}

/// Identify Namespace data structure (Figure 245).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct IdentifyNamespace {
    /// NSZE, logical blocks.
    pub size: U64,
    /// NCAP, logical blocks.
    pub capacity: U64,
    /// NUSE, logical blocks.
    pub(crate) utilization: U64,
    /// NSFEAT.
    pub features: u8,
    /// NLBAF, 0's based.
    pub(crate) lba_formats: u8,
    /// FLBAS.
    pub(crate) formatted_lba_size: u8,
    /// MC.
    pub(crate) metadata_capabilities: u8,
    /// DPC.
    pub(crate) protection_capabilities: u8,
    /// DPS.
    pub(crate) protection_settings: u8,
    /// NMIC.
    pub(crate) multi_path: u8,
    /// RESCAP.
    pub(crate) reservation_capabilities: u8,
    /// FPI.
    pub(crate) format_progress: u8,
    /// DLFEAT.
    pub(crate) deallocate_features: u8,
    reserved34: [u8; 65],
    /// NSATTR.
    pub attributes: u8,
    reserved100: [u8; 4],
    /// NGUID.
    pub(crate) nguid: [u8; 16],
    /// EUI64, most significant byte first.
    pub(crate) eui64: [u8; 8],
    /// LBAF0.
    pub(crate) lba_format_0: LbaFormat,
    reserved132: [u8; 3964],
}

const _: () = assert!(size_of::<IdentifyNamespace>() == 4096);
const _: () = assert!(offset_of!(IdentifyNamespace, deallocate_features) == 33);
const _: () = assert!(offset_of!(IdentifyNamespace, attributes) == 99);
const _: () = assert!(offset_of!(IdentifyNamespace, nguid) == 104);
const _: () = assert!(offset_of!(IdentifyNamespace, lba_format_0) == 128);
