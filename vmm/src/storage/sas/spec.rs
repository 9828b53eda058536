//! Values of MPI 1.5 (Fusion-MPT), by their names in the MPI headers without the prefix `MPI_`.
//!
//! Plain values: this file knows no message's work.

/// MsgVersion: MPI 1.5.
pub(crate) const VERSION: u16 = 0x0105;
/// HeaderVersion: the unit in the high byte.
pub(crate) const HEADER_VERSION: u16 = 0x1300;

/// IOC states, as the doorbell register shows them.
pub(crate) mod ioc_state {
    /// It comes from a hard reset.
    pub(crate) const RESET: u32 = 0x0000_0000;
    /// It can be initialised.
    pub(crate) const READY: u32 = 0x1000_0000;
    /// It takes requests.
    pub(crate) const OPERATIONAL: u32 = 0x2000_0000;
    /// Only a diagnostic reset helps.
    pub(crate) const FAULT: u32 = 0x4000_0000;
}

/// Fault codes, in the low half of the doorbell register.
pub(crate) mod fault {
    /// A request could not be read.
    pub(crate) const REQUEST_MESSAGE_PCI_BUS_FAULT: u16 = 0x8112;
    /// A reply could not be written.
    pub(crate) const REPLY_MESSAGE_PCI_BUS_FAULT: u16 = 0x8114;
    /// A FIFO has overflowed, or was used too early; of this controller's own.
    pub(crate) const FIFO: u16 = 0x8180;
    /// The fault plan says so; of this controller's own.
    pub(crate) const INJECTED: u16 = 0x81ff;
}

/// Register offsets.
pub(crate) mod offset {
    /// System Doorbell.
    pub(crate) const DOORBELL: u64 = 0x00;
    /// Write Sequence.
    pub(crate) const WRITE_SEQUENCE: u64 = 0x04;
    /// Host Diagnostic.
    pub(crate) const DIAGNOSTIC: u64 = 0x08;
    /// Host Interrupt Status.
    pub(crate) const HOST_INTERRUPT_STATUS: u64 = 0x30;
    /// Host Interrupt Mask.
    pub(crate) const HOST_INTERRUPT_MASK: u64 = 0x34;
    /// Request Post FIFO.
    pub(crate) const REQUEST_QUEUE: u64 = 0x40;
    /// Written: Reply Free FIFO. Read: Reply Post FIFO.
    pub(crate) const REPLY_QUEUE: u64 = 0x44;
    /// High Priority Request Post FIFO.
    pub(crate) const HI_PRI_REQUEST_QUEUE: u64 = 0x48;
}

/// Doorbell register.
pub(crate) mod doorbell {
    /// DoorbellUsed: a handshake is under way.
    pub(crate) const ACTIVE: u32 = 0x0800_0000;
    /// WhoInit.
    pub(crate) const WHO_INIT_SHIFT: u32 = 24;
    /// Function.
    pub(crate) const FUNCTION_SHIFT: u32 = 24;
    /// Dwords of a handshake's message.
    pub(crate) const ADD_DWORDS_SHIFT: u32 = 16;
}

/// The keys of the Write Sequence register that open the Host Diagnostic register.
pub(crate) const WRSEQ_KEYS: [u32; 5] = [0x04, 0x0b, 0x02, 0x07, 0x0d];
/// The bits of a key.
pub(crate) const WRSEQ_KEY_VALUE_MASK: u32 = 0x0000_000f;

/// Host Diagnostic register.
pub(crate) mod diag {
    /// Diagnostic Read/Write Enable: the register can be written.
    pub(crate) const DRWE: u32 = 0x0000_0080;
    /// A reset has been.
    pub(crate) const RESET_HISTORY: u32 = 0x0000_0020;
    /// Resets the adapter.
    pub(crate) const RESET_ADAPTER: u32 = 0x0000_0004;
    /// Stops the processor of the IOC.
    pub(crate) const DISABLE_ARM: u32 = 0x0000_0002;
}

/// Host Interrupt Status; the mask has the last two bits at the same places.
pub(crate) mod his {
    /// The IOC has not taken a doorbell yet.
    pub(crate) const IOP_DOORBELL_STATUS: u32 = 0x8000_0000;
    /// There are replies.
    pub(crate) const REPLY_MESSAGE_INTERRUPT: u32 = 0x0000_0008;
    /// The IOC has written the doorbell.
    pub(crate) const DOORBELL_INTERRUPT: u32 = 0x0000_0001;
}

/// Message functions.
pub(crate) mod function {
    /// SCSI I/O.
    pub(crate) const SCSI_IO_REQUEST: u8 = 0x00;
    /// SCSI task management.
    pub(crate) const SCSI_TASK_MGMT: u8 = 0x01;
    /// IOC Init.
    pub(crate) const IOC_INIT: u8 = 0x02;
    /// IOC Facts.
    pub(crate) const IOC_FACTS: u8 = 0x03;
    /// Config.
    pub(crate) const CONFIG: u8 = 0x04;
    /// Port Facts.
    pub(crate) const PORT_FACTS: u8 = 0x05;
    /// Port Enable.
    pub(crate) const PORT_ENABLE: u8 = 0x06;
    /// Event Notification.
    pub(crate) const EVENT_NOTIFICATION: u8 = 0x07;
    /// Event Ack.
    pub(crate) const EVENT_ACK: u8 = 0x08;
    /// SAS I/O Unit Control.
    pub(crate) const SAS_IO_UNIT_CONTROL: u8 = 0x1b;
    /// Message Unit Reset, a doorbell function.
    pub(crate) const IOC_MESSAGE_UNIT_RESET: u8 = 0x40;
    /// I/O Unit Reset, a doorbell function.
    pub(crate) const IO_UNIT_RESET: u8 = 0x41;
    /// Handshake, a doorbell function.
    pub(crate) const HANDSHAKE: u8 = 0x42;
    /// Reply Frame Removal, a doorbell function.
    pub(crate) const REPLY_FRAME_REMOVAL: u8 = 0x43;
}

/// IOCStatus.
pub(crate) mod ioc_status {
    /// SUCCESS.
    pub(crate) const SUCCESS: u16 = 0x0000;
    /// INVALID_FUNCTION.
    pub(crate) const INVALID_FUNCTION: u16 = 0x0001;
    /// INVALID_SGL.
    pub(crate) const INVALID_SGL: u16 = 0x0003;
    /// INTERNAL_ERROR.
    pub(crate) const INTERNAL_ERROR: u16 = 0x0004;
    /// INVALID_FIELD.
    pub(crate) const INVALID_FIELD: u16 = 0x0007;
    /// INVALID_STATE.
    pub(crate) const INVALID_STATE: u16 = 0x0008;
    /// CONFIG_INVALID_ACTION.
    pub(crate) const CONFIG_INVALID_ACTION: u16 = 0x0020;
    /// CONFIG_INVALID_TYPE.
    pub(crate) const CONFIG_INVALID_TYPE: u16 = 0x0021;
    /// CONFIG_INVALID_PAGE.
    pub(crate) const CONFIG_INVALID_PAGE: u16 = 0x0022;
    /// CONFIG_INVALID_DATA.
    pub(crate) const CONFIG_INVALID_DATA: u16 = 0x0023;
    /// CONFIG_CANT_COMMIT.
    pub(crate) const CONFIG_CANT_COMMIT: u16 = 0x0025;
    /// SCSI_INVALID_BUS.
    pub(crate) const SCSI_INVALID_BUS: u16 = 0x0041;
    /// SCSI_INVALID_TARGETID.
    pub(crate) const SCSI_INVALID_TARGETID: u16 = 0x0042;
    /// SCSI_DEVICE_NOT_THERE.
    pub(crate) const SCSI_DEVICE_NOT_THERE: u16 = 0x0043;
    /// SCSI_DATA_OVERRUN.
    pub(crate) const SCSI_DATA_OVERRUN: u16 = 0x0044;
    /// SCSI_DATA_UNDERRUN.
    pub(crate) const SCSI_DATA_UNDERRUN: u16 = 0x0045;
    /// SCSI_TASK_TERMINATED.
    pub(crate) const SCSI_TASK_TERMINATED: u16 = 0x0048;
    /// SCSI_TASK_MGMT_FAILED.
    pub(crate) const SCSI_TASK_MGMT_FAILED: u16 = 0x004a;
    /// SCSI_IOC_TERMINATED.
    pub(crate) const SCSI_IOC_TERMINATED: u16 = 0x004b;
}

/// WhoInit.
pub(crate) mod who_init {
    /// Nobody.
    pub(crate) const NO_ONE: u8 = 0x00;
    /// The last value that there is.
    pub(crate) const MANUFACTURER: u8 = 0x05;
}

/// IOC Facts: IOCCapabilities.
pub(crate) mod iocfacts_capability {
    /// There is a high priority request queue.
    pub(crate) const HIGH_PRI_Q: u32 = 0x0000_0001;
}

/// IOC Facts: ProductID of a SAS1068 with initiator firmware.
pub(crate) const PRODUCT_ID: u16 = 0x2000 | 0x0100 | 0x0002;

/// Port Facts.
pub(crate) mod portfacts {
    /// PortType.
    pub(crate) const PORTTYPE_SAS: u8 = 0x30;
    /// ProtocolFlags.
    pub(crate) const PROTOCOL_INITIATOR: u16 = 0x08;
}

/// Flags of scatter gather elements, in the highest byte of their first dword.
pub(crate) mod sge_flags {
    /// The last element of a frame or of a chain buffer before the chain element.
    pub(crate) const LAST_ELEMENT: u8 = 0x80;
    /// The kind of element.
    pub(crate) const ELEMENT_MASK: u8 = 0x30;
    /// A simple element.
    pub(crate) const SIMPLE_ELEMENT: u8 = 0x10;
    /// A chain element.
    pub(crate) const CHAIN_ELEMENT: u8 = 0x30;
    /// The address is one of the IOC's own.
    pub(crate) const LOCAL_ADDRESS: u8 = 0x08;
    /// The address has 64 bits.
    pub(crate) const ADDRESSING_64_BIT: u8 = 0x02;
    /// The last element of all.
    pub(crate) const END_OF_LIST: u8 = 0x01;
}

/// Control of SCSI I/O.
pub(crate) mod scsiio_control {
    /// The direction of the data.
    pub(crate) const DATADIRECTION_MASK: u32 = 0x0300_0000;
    /// To the target.
    pub(crate) const WRITE: u32 = 0x0100_0000;
    /// From the target.
    pub(crate) const READ: u32 = 0x0200_0000;
}

/// SCSIState of a SCSI I/O reply.
pub(crate) mod scsi_state {
    /// There are sense data.
    pub(crate) const AUTOSENSE_VALID: u8 = 0x01;
    /// There are sense data, but they could not be delivered.
    pub(crate) const AUTOSENSE_FAILED: u8 = 0x02;
    /// There is no SCSI status.
    pub(crate) const NO_SCSI_STATUS: u8 = 0x04;
    /// The command was terminated.
    pub(crate) const TERMINATED: u8 = 0x08;
}

/// TaskTag of a SCSI I/O reply.
pub(crate) const TASKTAG_UNKNOWN: u16 = 0xffff;

/// TaskType of SCSI task management.
pub(crate) mod task_type {
    /// ABORT TASK.
    pub(crate) const ABORT_TASK: u8 = 0x01;
    /// ABORT TASK SET.
    pub(crate) const ABRT_TASK_SET: u8 = 0x02;
    /// A reset of the target.
    pub(crate) const TARGET_RESET: u8 = 0x03;
    /// A reset of all targets.
    pub(crate) const RESET_BUS: u8 = 0x04;
    /// LOGICAL UNIT RESET.
    pub(crate) const LOGICAL_UNIT_RESET: u8 = 0x05;
    /// CLEAR TASK SET.
    pub(crate) const CLEAR_TASK_SET: u8 = 0x06;
    /// QUERY TASK.
    pub(crate) const QUERY_TASK: u8 = 0x07;
}

/// ResponseCode of a task management reply.
pub(crate) mod task_response {
    /// TM_COMPLETE.
    pub(crate) const TM_COMPLETE: u8 = 0x00;
    /// TM_NOT_SUPPORTED.
    pub(crate) const TM_NOT_SUPPORTED: u8 = 0x04;
    /// TM_FAILED.
    pub(crate) const TM_FAILED: u8 = 0x05;
    /// TM_SUCCEEDED.
    pub(crate) const TM_SUCCEEDED: u8 = 0x08;
    /// TM_INVALID_LUN.
    pub(crate) const TM_INVALID_LUN: u8 = 0x09;
}

/// Events.
pub(crate) mod event {
    /// Whether events are told has changed.
    pub(crate) const EVENT_CHANGE: u32 = 0x0000_000a;
    /// A device was added, is gone, or was reset.
    pub(crate) const SAS_DEVICE_STATUS_CHANGE: u32 = 0x0000_000f;
    /// A phy's link.
    pub(crate) const SAS_PHY_LINK_STATUS: u32 = 0x0000_0012;
    /// Discovery begins or is complete.
    pub(crate) const SAS_DISCOVERY: u32 = 0x0000_0016;
}

/// ReasonCode of a SAS device status change.
pub(crate) mod sas_dev_stat {
    /// The device was added.
    pub(crate) const RC_ADDED: u8 = 0x03;
    /// The device is gone.
    pub(crate) const RC_NOT_RESPONDING: u8 = 0x04;
}

/// MsgFlags of a reply: more replies for the same request will come.
pub(crate) const MSGFLAGS_CONTINUATION_REPLY: u8 = 0x80;

/// Config: Action.
pub(crate) mod config_action {
    /// The header only.
    pub(crate) const PAGE_HEADER: u8 = 0x00;
    /// What is in force.
    pub(crate) const PAGE_READ_CURRENT: u8 = 0x01;
    /// Changes what is in force.
    pub(crate) const PAGE_WRITE_CURRENT: u8 = 0x02;
    /// Takes back all changes.
    pub(crate) const PAGE_DEFAULT: u8 = 0x03;
    /// Changes what is in force and what is stored.
    pub(crate) const PAGE_WRITE_NVRAM: u8 = 0x04;
    /// What there is without changes.
    pub(crate) const PAGE_READ_DEFAULT: u8 = 0x05;
    /// What is stored.
    pub(crate) const PAGE_READ_NVRAM: u8 = 0x06;
}

/// Config: PageType.
pub(crate) mod page_type {
    /// The bits that are the type.
    pub(crate) const MASK: u8 = 0x0f;
    /// IO Unit.
    pub(crate) const IO_UNIT: u8 = 0x00;
    /// IOC.
    pub(crate) const IOC: u8 = 0x01;
    /// BIOS.
    pub(crate) const BIOS: u8 = 0x02;
    /// Manufacturing.
    pub(crate) const MANUFACTURING: u8 = 0x09;
    /// The type is in ExtPageType.
    pub(crate) const EXTENDED: u8 = 0x0f;
    /// Attribute: can be changed until a reset.
    pub(crate) const ATTR_CHANGEABLE: u8 = 0x10;
    /// Attribute: can be changed for good.
    pub(crate) const ATTR_PERSISTENT: u8 = 0x20;
}

/// Config: ExtPageType.
pub(crate) mod ext_page_type {
    /// SAS IO Unit.
    pub(crate) const SAS_IO_UNIT: u8 = 0x10;
    /// SAS Expander.
    pub(crate) const SAS_EXPANDER: u8 = 0x11;
    /// SAS Device.
    pub(crate) const SAS_DEVICE: u8 = 0x12;
    /// SAS PHY.
    pub(crate) const SAS_PHY: u8 = 0x13;
    /// Log.
    pub(crate) const LOG: u8 = 0x14;
    /// Enclosure.
    pub(crate) const ENCLOSURE: u8 = 0x15;
}

/// IOC page 1: Flags.
pub(crate) const IOCPAGE1_INITIATOR_CONTEXT_REPLY_DISABLE: u32 = 0x0000_0010;

/// DeviceInfo.
pub(crate) mod sas_device_info {
    /// An SSP target, directly attached.
    pub(crate) const DISK: u32 = 0x0000_0400 | 0x0000_0800 | END_DEVICE;
    /// An SSP, STP and SMP initiator.
    pub(crate) const INITIATOR: u32 = 0x0000_0040 | 0x0000_0020 | 0x0000_0010 | END_DEVICE;
    /// An end device.
    pub(crate) const END_DEVICE: u32 = 0x0000_0001;
}

/// SAS Device page 0: Flags.
pub(crate) mod sas_device0_flags {
    /// The device is there.
    pub(crate) const DEVICE_PRESENT: u16 = 0x0001;
    /// It has a target identifier.
    pub(crate) const DEVICE_MAPPED: u16 = 0x0002;
    /// It keeps it.
    pub(crate) const MAPPING_PERSISTENT: u16 = 0x0004;
}

/// Link rates.
pub(crate) mod link_rate {
    /// No link.
    pub(crate) const UNKNOWN: u8 = 0x00;
    /// 3 Gbit/s.
    pub(crate) const RATE_3_0: u8 = 0x09;
    /// 1.5 Gbit/s at least, 3 Gbit/s at most.
    pub(crate) const RANGE: u8 = 0x98;
}

/// Operation of SAS I/O Unit Control.
pub(crate) mod sas_op {
    /// Forgets devices that are gone.
    pub(crate) const CLEAR_NOT_PRESENT: u8 = 0x01;
    /// Forgets all mappings.
    pub(crate) const CLEAR_ALL_PERSISTENT: u8 = 0x02;
    /// Resets a link.
    pub(crate) const PHY_LINK_RESET: u8 = 0x06;
    /// Resets a link and the device.
    pub(crate) const PHY_HARD_RESET: u8 = 0x07;
    /// Clears the error counters.
    pub(crate) const PHY_CLEAR_ERROR_LOG: u8 = 0x08;
    /// Forgets one device.
    pub(crate) const REMOVE_DEVICE: u8 = 0x0d;
}
