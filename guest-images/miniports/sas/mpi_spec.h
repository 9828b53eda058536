/* Registers and messages of MPI 1.5 (Fusion-MPT) that the miniport uses, by their names in the MPI headers. */
#ifndef MPI_SPEC_H
#define MPI_SPEC_H

#include "storport_ddk.h"

#define MPI_DOORBELL_OFFSET 0x00
#define MPI_WRITE_SEQUENCE_OFFSET 0x04
#define MPI_DIAGNOSTIC_OFFSET 0x08
#define MPI_HOST_INTERRUPT_STATUS_OFFSET 0x30
#define MPI_HOST_INTERRUPT_MASK_OFFSET 0x34
#define MPI_REQUEST_QUEUE_OFFSET 0x40
#define MPI_REPLY_QUEUE_OFFSET 0x44
#define MPI_HI_PRI_REQUEST_QUEUE_OFFSET 0x48

#define MPI_IOC_STATE_MASK 0xf0000000u
#define MPI_IOC_STATE_READY 0x10000000u
#define MPI_IOC_STATE_OPERATIONAL 0x20000000u
#define MPI_IOC_STATE_FAULT 0x40000000u
#define MPI_DOORBELL_DATA_MASK 0x0000ffffu
#define MPI_DOORBELL_FUNCTION_SHIFT 24
#define MPI_DOORBELL_ADD_DWORDS_SHIFT 16
#define MPI_DIAG_RESET_ADAPTER 0x00000004u
#define MPI_DIAG_DRWE 0x00000080u
#define MPI_HIS_IOP_DOORBELL_STATUS 0x80000000u
#define MPI_HIS_REPLY_MESSAGE_INTERRUPT 0x00000008u
#define MPI_HIS_DOORBELL_INTERRUPT 0x00000001u
#define MPI_HIM_RIM 0x00000008u
#define MPI_HIM_DIM 0x00000001u

#define MPI_NO_REPLY 0xffffffffu
#define MPI_ADDRESS_REPLY_A_BIT 0x80000000u

#define MPI_FUNCTION_SCSI_IO_REQUEST 0x00
#define MPI_FUNCTION_SCSI_TASK_MGMT 0x01
#define MPI_FUNCTION_IOC_INIT 0x02
#define MPI_FUNCTION_IOC_FACTS 0x03
#define MPI_FUNCTION_CONFIG 0x04
#define MPI_FUNCTION_PORT_ENABLE 0x06
#define MPI_FUNCTION_EVENT_NOTIFICATION 0x07
#define MPI_FUNCTION_IOC_MESSAGE_UNIT_RESET 0x40
#define MPI_FUNCTION_HANDSHAKE 0x42

#define MPI_IOCSTATUS_MASK 0x7fff
#define MPI_IOCSTATUS_SUCCESS 0x0000
#define MPI_IOCSTATUS_BUSY 0x0002
#define MPI_IOCSTATUS_INSUFFICIENT_RESOURCES 0x0006
#define MPI_IOCSTATUS_SCSI_RECOVERED_ERROR 0x0040
#define MPI_IOCSTATUS_SCSI_DEVICE_NOT_THERE 0x0043
#define MPI_IOCSTATUS_SCSI_DATA_UNDERRUN 0x0045
#define MPI_IOCSTATUS_SCSI_TASK_TERMINATED 0x0048
#define MPI_IOCSTATUS_SCSI_IOC_TERMINATED 0x004b

#define MPI_SCSI_STATE_AUTOSENSE_VALID 0x01
#define MPI_SCSI_STATE_NO_SCSI_STATUS 0x04
#define MPI_SCSIIO_CONTROL_WRITE 0x01000000u
#define MPI_SCSIIO_CONTROL_READ 0x02000000u
#define MPI_SCSITASKMGMT_TASKTYPE_TARGET_RESET 0x03
#define MPI_SCSITASKMGMT_TASKTYPE_LOGICAL_UNIT_RESET 0x05
#define MPI_WHOINIT_HOST_DRIVER 0x04

#define MPI_SGE_LAST_ELEMENT 0x80000000u
#define MPI_SGE_END_OF_BUFFER 0x40000000u
#define MPI_SGE_SIMPLE_ELEMENT 0x10000000u
#define MPI_SGE_CHAIN_ELEMENT 0x30000000u
#define MPI_SGE_HOST_TO_IOC 0x04000000u
#define MPI_SGE_64_BIT_ADDRESSING 0x02000000u
#define MPI_SGE_END_OF_LIST 0x01000000u

#define MPI_CONFIG_ACTION_PAGE_HEADER 0x00
#define MPI_CONFIG_ACTION_PAGE_READ_CURRENT 0x01
#define MPI_CONFIG_PAGETYPE_EXTENDED 0x0f
#define MPI_CONFIG_EXTPAGETYPE_SAS_IO_UNIT 0x10
#define MPI_CONFIG_EXTPAGETYPE_SAS_PHY 0x13

#define MPI_EVENT_SAS_DEVICE_STATUS_CHANGE 0x0000000fu
#define MPI_EVENT_SAS_DISCOVERY 0x00000016u
#define MPI_EVENT_SAS_DEV_STAT_RC_ADDED 0x03
#define MPI_EVENT_SAS_DEV_STAT_RC_NOT_RESPONDING 0x04
#define MPI_MSGFLAGS_CONTINUATION_REPLY 0x80

/* Elements have 64-bit addresses throughout. */
#pragma pack(push, 4)
typedef struct _MPI_SGE64 {
    ULONG FlagsLength;
    ULONG64 Address;
} MPI_SGE64, *PMPI_SGE64;
#pragma pack(pop)

#define MPI_FRAME_SIZE 128

typedef struct _MPI_SCSI_IO_REQUEST {
    UCHAR TargetID;
    UCHAR Bus;
    UCHAR ChainOffset; /* in dwords from the frame's beginning */
    UCHAR Function;
    UCHAR CDBLength;
    UCHAR SenseBufferLength;
    UCHAR Reserved;
    UCHAR MsgFlags;
    ULONG MsgContext;
    UCHAR LUN[8];
    ULONG Control;
    UCHAR CDB[16];
    ULONG DataLength;
    ULONG SenseBufferLowAddr;
    MPI_SGE64 SGL[6];
} MPI_SCSI_IO_REQUEST, *PMPI_SCSI_IO_REQUEST;

_Static_assert(FIELD_OFFSET(MPI_SCSI_IO_REQUEST, SGL) == 0x30, "SGL");
_Static_assert(sizeof(MPI_SCSI_IO_REQUEST) <= MPI_FRAME_SIZE, "a frame");

typedef struct _MPI_SCSI_TASK_MGMT {
    UCHAR TargetID;
    UCHAR Bus;
    UCHAR ChainOffset;
    UCHAR Function;
    UCHAR Reserved;
    UCHAR TaskType;
    UCHAR Reserved1;
    UCHAR MsgFlags;
    ULONG MsgContext;
    UCHAR LUN[8];
    ULONG Reserved2[7];
    ULONG TaskMsgContext;
} MPI_SCSI_TASK_MGMT, *PMPI_SCSI_TASK_MGMT;

_Static_assert(FIELD_OFFSET(MPI_SCSI_TASK_MGMT, TaskMsgContext) == 0x30, "TaskMsgContext");

typedef struct _MPI_IOC_INIT {
    UCHAR WhoInit;
    UCHAR Reserved;
    UCHAR ChainOffset;
    UCHAR Function;
    UCHAR Flags;
    UCHAR MaxDevices;
    UCHAR MaxBuses;
    UCHAR MsgFlags;
    ULONG MsgContext;
    USHORT ReplyFrameSize;
    USHORT Reserved1;
    ULONG HostMfaHighAddr;
    ULONG SenseBufferHighAddr;
    ULONG Reserved2[5];
} MPI_IOC_INIT;

typedef struct _MPI_CONFIG {
    UCHAR Action;
    UCHAR Reserved;
    UCHAR ChainOffset;
    UCHAR Function;
    USHORT ExtPageLength;
    UCHAR ExtPageType;
    UCHAR MsgFlags;
    ULONG MsgContext;
    UCHAR Reserved2[8];
    UCHAR PageVersion;
    UCHAR PageLength;
    UCHAR PageNumber;
    UCHAR PageType;
    ULONG PageAddress;
    MPI_SGE64 PageBuffer;
} MPI_CONFIG, *PMPI_CONFIG;

_Static_assert(FIELD_OFFSET(MPI_CONFIG, PageBuffer) == 0x1c, "PageBuffer");

/* What all replies begin with, and those of SCSI go on with. */
typedef struct _MPI_REPLY {
    UCHAR TargetID;
    UCHAR Bus;
    UCHAR MsgLength; /* in dwords */
    UCHAR Function;
    UCHAR ResponseCode; /* of task management */
    UCHAR Reserved;
    UCHAR Reserved1;
    UCHAR MsgFlags;
    ULONG MsgContext;
    UCHAR SCSIStatus;
    UCHAR SCSIState;
    USHORT IOCStatus;
    ULONG IOCLogInfo;
    ULONG TransferCount; /* an event's code; TerminationCount of task management */
    ULONG SenseCount;
    UCHAR EventData[12];
} MPI_REPLY, *PMPI_REPLY;

_Static_assert(FIELD_OFFSET(MPI_REPLY, EventData) == 0x1c, "EventData");

#endif
