//! Values of MPI 1.5 (Fusion-MPT), by their names in the MPI headers without the prefix `MPI_`.
//!
//! Plain values: this file knows no message's work.

/// MsgVersion: MPI 1.5.
pub const VERSION: u16 = 0x0105;
/// HeaderVersion: the unit in the high byte.
pub const HEADER_VERSION: u16 = 0x1300;

/// IOC states, as the doorbell register shows them.
pub mod ioc_state {
    /// It comes from a hard reset.
    pub const RESET: u32 = 0x0000_0000;
    /// It can be initialised.
    pub const READY: u32 = 0x1000_0000;
    /// It takes requests.
    pub const OPERATIONAL: u32 = 0x2000_0000;
    /// Only a diagnostic reset helps.
    pub const FAULT: u32 = 0x4000_0000;
}

/// Fault codes, in the low half of the doorbell register.
pub mod fault {
    /// A request could not be read.
    pub const REQUEST_MESSAGE_PCI_BUS_FAULT: u16 = 0x8112;
    /// A reply could not be written.
    pub const REPLY_MESSAGE_PCI_BUS_FAULT: u16 = 0x8114;
    /// A FIFO has overflowed, or was used too early; of this controller's own.
    pub const FIFO: u16 = 0x8180;
    /// The fault plan says so; of this controller's own.
    pub const INJECTED: u16 = 0x81ff;
}

/// Register offsets.
pub mod offset {
    /// System Doorbell.
    pub const DOORBELL: u64 = 0x00;
    /// Write Sequence.
    pub const WRITE_SEQUENCE: u64 = 0x04;
    /// Host Diagnostic.
    pub const DIAGNOSTIC: u64 = 0x08;
    /// Host Interrupt Status.
    pub const HOST_INTERRUPT_STATUS: u64 = 0x30;
    /// Host Interrupt Mask.
    pub const HOST_INTERRUPT_MASK: u64 = 0x34;
    /// Request Post FIFO.
    pub const REQUEST_QUEUE: u64 = 0x40;
    /// Written: Reply Free FIFO. Read: Reply Post FIFO.
    pub const REPLY_QUEUE: u64 = 0x44;
    /// High Priority Request Post FIFO.
    pub const HI_PRI_REQUEST_QUEUE: u64 = 0x48;
}

/// Doorbell register.
pub mod doorbell {
    /// DoorbellUsed: a handshake is under way.
    pub const ACTIVE: u32 = 0x0800_0000;
    /// WhoInit.
    pub const WHO_INIT_SHIFT: u32 = 24;
    /// Function.
    pub const FUNCTION_SHIFT: u32 = 24;
    /// Dwords of a handshake's message.
    pub const ADD_DWORDS_SHIFT: u32 = 16;
}

/// The keys of the Write Sequence register that open the Host Diagnostic register.
pub const WRSEQ_KEYS: [u32; 5] = [0x04, 0x0b, 0x02, 0x07, 0x0d];
/// The bits of a key.
pub const WRSEQ_KEY_VALUE_MASK: u32 = 0x0000_000f;

/// Host Diagnostic register.
pub mod diag {
    /// Diagnostic Read/Write Enable: the register can be written.
    pub const DRWE: u32 = 0x0000_0080;
    /// A reset has been.
    pub const RESET_HISTORY: u32 = 0x0000_0020;
    /// Resets the adapter.
    pub const RESET_ADAPTER: u32 = 0x0000_0004;
    /// Stops the processor of the IOC.
    pub const DISABLE_ARM: u32 = 0x0000_0002;
}

/// Host Interrupt Status; the mask has the last two bits at the same places.
pub mod his {
    /// The IOC has not taken a doorbell yet.
    pub const IOP_DOORBELL_STATUS: u32 = 0x8000_0000;
    /// There are replies.
    pub const REPLY_MESSAGE_INTERRUPT: u32 = 0x0000_0008;
    /// The IOC has written the doorbell.
    pub const DOORBELL_INTERRUPT: u32 = 0x0000_0001;
}

/// Message functions.
pub mod function {
    /// SCSI I/O.
    pub const SCSI_IO_REQUEST: u8 = 0x00;
    /// SCSI task management.
    pub const SCSI_TASK_MGMT: u8 = 0x01;
    /// IOC Init.
    pub const IOC_INIT: u8 = 0x02;
    /// IOC Facts.
    pub const IOC_FACTS: u8 = 0x03;
    /// Config.
    pub const CONFIG: u8 = 0x04;
    /// Port Facts.
    pub const PORT_FACTS: u8 = 0x05;
    /// Port Enable.
    pub const PORT_ENABLE: u8 = 0x06;
    /// Event Notification.
    pub const EVENT_NOTIFICATION: u8 = 0x07;
    /// Event Ack.
    pub const EVENT_ACK: u8 = 0x08;
    /// Firmware download, which there is not.
    pub const FW_DOWNLOAD: u8 = 0x09;
    /// Firmware upload, which there is not.
    pub const FW_UPLOAD: u8 = 0x12;
    /// SAS I/O Unit Control.
    pub const SAS_IO_UNIT_CONTROL: u8 = 0x1b;
    /// Message Unit Reset, a doorbell function.
    pub const IOC_MESSAGE_UNIT_RESET: u8 = 0x40;
    /// I/O Unit Reset, a doorbell function.
    pub const IO_UNIT_RESET: u8 = 0x41;
    /// Handshake, a doorbell function.
    pub const HANDSHAKE: u8 = 0x42;
    /// Reply Frame Removal, a doorbell function.
    pub const REPLY_FRAME_REMOVAL: u8 = 0x43;
}

/// IOCStatus.
pub mod ioc_status {
    /// SUCCESS.
    pub const SUCCESS: u16 = 0x0000;
    /// INVALID_FUNCTION.
    pub const INVALID_FUNCTION: u16 = 0x0001;
    /// INVALID_SGL.
    pub const INVALID_SGL: u16 = 0x0003;
    /// INTERNAL_ERROR.
    pub const INTERNAL_ERROR: u16 = 0x0004;
    /// INVALID_FIELD.
    pub const INVALID_FIELD: u16 = 0x0007;
    /// INVALID_STATE.
    pub const INVALID_STATE: u16 = 0x0008;
    /// CONFIG_INVALID_ACTION.
    pub const CONFIG_INVALID_ACTION: u16 = 0x0020;
    /// CONFIG_INVALID_TYPE.
    pub const CONFIG_INVALID_TYPE: u16 = 0x0021;
    /// CONFIG_INVALID_PAGE.
    pub const CONFIG_INVALID_PAGE: u16 = 0x0022;
    /// CONFIG_INVALID_DATA.
    pub const CONFIG_INVALID_DATA: u16 = 0x0023;
    /// CONFIG_CANT_COMMIT.
    pub const CONFIG_CANT_COMMIT: u16 = 0x0025;
    /// SCSI_INVALID_BUS.
    pub const SCSI_INVALID_BUS: u16 = 0x0041;
    /// SCSI_INVALID_TARGETID.
    pub const SCSI_INVALID_TARGETID: u16 = 0x0042;
    /// SCSI_DEVICE_NOT_THERE.
    pub const SCSI_DEVICE_NOT_THERE: u16 = 0x0043;
    /// SCSI_DATA_OVERRUN.
    pub const SCSI_DATA_OVERRUN: u16 = 0x0044;
    /// SCSI_DATA_UNDERRUN.
    pub const SCSI_DATA_UNDERRUN: u16 = 0x0045;
    /// SCSI_TASK_TERMINATED.
    pub const SCSI_TASK_TERMINATED: u16 = 0x0048;
    /// SCSI_TASK_MGMT_FAILED.
    pub const SCSI_TASK_MGMT_FAILED: u16 = 0x004a;
    /// SCSI_IOC_TERMINATED.
    pub const SCSI_IOC_TERMINATED: u16 = 0x004b;
}

/// WhoInit.
pub mod who_init {
    /// Nobody.
    pub const NO_ONE: u8 = 0x00;
    /// The last value that there is.
    pub const MANUFACTURER: u8 = 0x05;
}

/// IOC Facts: IOCCapabilities.
pub mod iocfacts_capability {
    /// There is a high priority request queue.
    pub const HIGH_PRI_Q: u32 = 0x0000_0001;
}

/// IOC Facts: ProductID of a SAS1068 with initiator firmware.
pub const PRODUCT_ID: u16 = 0x2000 | 0x0100 | 0x0002;

/// Port Facts.
pub mod portfacts {
    /// PortType.
    pub const PORTTYPE_SAS: u8 = 0x30;
    /// ProtocolFlags.
    pub const PROTOCOL_INITIATOR: u16 = 0x08;
}

/// Flags of scatter gather elements, in the highest byte of their first dword.
pub mod sge_flags {
    /// The last element of a frame or of a chain buffer before the chain element.
    pub const LAST_ELEMENT: u8 = 0x80;
    /// The kind of element.
    pub const ELEMENT_MASK: u8 = 0x30;
    /// A simple element.
    pub const SIMPLE_ELEMENT: u8 = 0x10;
    /// A chain element.
    pub const CHAIN_ELEMENT: u8 = 0x30;
    /// The address is one of the IOC's own.
    pub const LOCAL_ADDRESS: u8 = 0x08;
    /// The address has 64 bits.
    pub const ADDRESSING_64_BIT: u8 = 0x02;
    /// The last element of all.
    pub const END_OF_LIST: u8 = 0x01;
}

/// Control of SCSI I/O.
pub mod scsiio_control {
    /// The direction of the data.
    pub const DATADIRECTION_MASK: u32 = 0x0300_0000;
    /// To the target.
    pub const WRITE: u32 = 0x0100_0000;
    /// From the target.
    pub const READ: u32 = 0x0200_0000;
}

/// SCSIState of a SCSI I/O reply.
pub mod scsi_state {
    /// There are sense data.
    pub const AUTOSENSE_VALID: u8 = 0x01;
    /// There are sense data, but they could not be delivered.
    pub const AUTOSENSE_FAILED: u8 = 0x02;
    /// There is no SCSI status.
    pub const NO_SCSI_STATUS: u8 = 0x04;
    /// The command was terminated.
    pub const TERMINATED: u8 = 0x08;
}

/// TaskTag of a SCSI I/O reply.
pub const TASKTAG_UNKNOWN: u16 = 0xffff;

/// TaskType of SCSI task management.
pub mod task_type {
    /// ABORT TASK.
    pub const ABORT_TASK: u8 = 0x01;
    /// ABORT TASK SET.
    pub const ABRT_TASK_SET: u8 = 0x02;
    /// A reset of the target.
    pub const TARGET_RESET: u8 = 0x03;
    /// A reset of all targets.
    pub const RESET_BUS: u8 = 0x04;
    /// LOGICAL UNIT RESET.
    pub const LOGICAL_UNIT_RESET: u8 = 0x05;
    /// CLEAR TASK SET.
    pub const CLEAR_TASK_SET: u8 = 0x06;
    /// QUERY TASK.
    pub const QUERY_TASK: u8 = 0x07;
    /// CLEAR ACA, which there is not.
    pub const CLR_ACA: u8 = 0x08;
}

/// ResponseCode of a task management reply.
pub mod task_response {
    /// TM_COMPLETE.
    pub const TM_COMPLETE: u8 = 0x00;
    /// TM_NOT_SUPPORTED.
    pub const TM_NOT_SUPPORTED: u8 = 0x04;
    /// TM_FAILED.
    pub const TM_FAILED: u8 = 0x05;
    /// TM_SUCCEEDED.
    pub const TM_SUCCEEDED: u8 = 0x08;
    /// TM_INVALID_LUN.
    pub const TM_INVALID_LUN: u8 = 0x09;
}

/// Events.
pub mod event {
    /// Whether events are told has changed.
    pub const EVENT_CHANGE: u32 = 0x0000_000a;
    /// A device was added, is gone, or was reset.
    pub const SAS_DEVICE_STATUS_CHANGE: u32 = 0x0000_000f;
    /// A phy's link.
    pub const SAS_PHY_LINK_STATUS: u32 = 0x0000_0012;
    /// Discovery begins or is complete.
    pub const SAS_DISCOVERY: u32 = 0x0000_0016;
}

/// ReasonCode of a SAS device status change.
pub mod sas_dev_stat {
    /// The device was added.
    pub const RC_ADDED: u8 = 0x03;
    /// The device is gone.
    pub const RC_NOT_RESPONDING: u8 = 0x04;
}

/// MsgFlags of a reply: more replies for the same request will come.
pub const MSGFLAGS_CONTINUATION_REPLY: u8 = 0x80;

/// Config: Action.
pub mod config_action {
    /// The header only.
    pub const PAGE_HEADER: u8 = 0x00;
    /// What is in force.
    pub const PAGE_READ_CURRENT: u8 = 0x01;
    /// Changes what is in force.
    pub const PAGE_WRITE_CURRENT: u8 = 0x02;
    /// Takes back all changes.
    pub const PAGE_DEFAULT: u8 = 0x03;
    /// Changes what is in force and what is stored.
    pub const PAGE_WRITE_NVRAM: u8 = 0x04;
    /// What there is without changes.
    pub const PAGE_READ_DEFAULT: u8 = 0x05;
    /// What is stored.
    pub const PAGE_READ_NVRAM: u8 = 0x06;
}

/// Config: PageType.
pub mod page_type {
    /// The bits that are the type.
    pub const MASK: u8 = 0x0f;
    /// IO Unit.
    pub const IO_UNIT: u8 = 0x00;
    /// IOC.
    pub const IOC: u8 = 0x01;
    /// BIOS.
    pub const BIOS: u8 = 0x02;
    /// Manufacturing.
    pub const MANUFACTURING: u8 = 0x09;
    /// The type is in ExtPageType.
    pub const EXTENDED: u8 = 0x0f;
    /// Attribute: can be changed until a reset.
    pub const ATTR_CHANGEABLE: u8 = 0x10;
    /// Attribute: can be changed for good.
    pub const ATTR_PERSISTENT: u8 = 0x20;
}

/// Config: ExtPageType.
pub mod ext_page_type {
    /// SAS IO Unit.
    pub const SAS_IO_UNIT: u8 = 0x10;
    /// SAS Expander.
    pub const SAS_EXPANDER: u8 = 0x11;
    /// SAS Device.
    pub const SAS_DEVICE: u8 = 0x12;
    /// SAS PHY.
    pub const SAS_PHY: u8 = 0x13;
    /// Log.
    pub const LOG: u8 = 0x14;
    /// Enclosure.
    pub const ENCLOSURE: u8 = 0x15;
}

/// IOC page 1: Flags.
pub const IOCPAGE1_INITIATOR_CONTEXT_REPLY_DISABLE: u32 = 0x0000_0010;

/// DeviceInfo.
pub mod sas_device_info {
    /// An SSP target, directly attached.
    pub const DISK: u32 = 0x0000_0400 | 0x0000_0800 | END_DEVICE;
    /// An SSP, STP and SMP initiator.
    pub const INITIATOR: u32 = 0x0000_0040 | 0x0000_0020 | 0x0000_0010 | END_DEVICE;
    /// An end device.
    pub const END_DEVICE: u32 = 0x0000_0001;
}

/// SAS Device page 0: Flags.
pub mod sas_device0_flags {
    /// The device is there.
    pub const DEVICE_PRESENT: u16 = 0x0001;
    /// It has a target identifier.
    pub const DEVICE_MAPPED: u16 = 0x0002;
    /// It keeps it.
    pub const MAPPING_PERSISTENT: u16 = 0x0004;
}

/// Link rates.
pub mod link_rate {
    /// No link.
    pub const UNKNOWN: u8 = 0x00;
    /// 3 Gbit/s.
    pub const RATE_3_0: u8 = 0x09;
    /// 1.5 Gbit/s at least, 3 Gbit/s at most.
    pub const RANGE: u8 = 0x98;
}

/// Operation of SAS I/O Unit Control.
pub mod sas_op {
    /// Forgets devices that are gone.
    pub const CLEAR_NOT_PRESENT: u8 = 0x01;
    /// Forgets all mappings.
    pub const CLEAR_ALL_PERSISTENT: u8 = 0x02;
    /// Resets a link.
    pub const PHY_LINK_RESET: u8 = 0x06;
    /// Resets a link and the device.
    pub const PHY_HARD_RESET: u8 = 0x07;
    /// Clears the error counters.
    pub const PHY_CLEAR_ERROR_LOG: u8 = 0x08;
    /// Forgets one device.
    pub const REMOVE_DEVICE: u8 = 0x0d;
}
