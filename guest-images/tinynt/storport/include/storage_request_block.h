/*
 * STORAGE_REQUEST_BLOCK: the extended request block of Windows 8 and later, for miniports that ask for it by
 * SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK. Layout and values of the DDI reference pages (srb.h, storport.h).
 */
#ifndef STORAGE_REQUEST_BLOCK_H
#define STORAGE_REQUEST_BLOCK_H

#define SRB_FUNCTION_STORAGE_REQUEST_BLOCK 0x28
#define SRB_SIGNATURE 0x53524258u
#define STORAGE_REQUEST_BLOCK_VERSION_1 1

/* PORT_CONFIGURATION_INFORMATION.SrbType and AddressType; the flags are 1 << type (HW_INITIALIZATION_DATA). */
#define SRB_TYPE_SCSI_REQUEST_BLOCK 0
#define SRB_TYPE_STORAGE_REQUEST_BLOCK 1
#define STORAGE_ADDRESS_TYPE_BTL8 0
#define SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK (1 << SRB_TYPE_SCSI_REQUEST_BLOCK)
#define SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK (1 << SRB_TYPE_STORAGE_REQUEST_BLOCK)
#define ADDRESS_TYPE_FLAG_BTL8 (1 << STORAGE_ADDRESS_TYPE_BTL8)

#define STOR_ADDRESS_TYPE_BTL8 1
#define STOR_ADDR_BTL8_ADDRESS_LENGTH 4

typedef struct _STOR_ADDR_BTL8 {
    USHORT Type;
    USHORT Port;
    ULONG AddressLength;
    UCHAR Path;
    UCHAR Target;
    UCHAR Lun;
    UCHAR Reserved;
} __attribute__((aligned(8))) STOR_ADDR_BTL8, *PSTOR_ADDR_BTL8;

typedef enum _SRBEXDATATYPE {
    SrbExDataTypeUnknown = 0,
    SrbExDataTypeBidirectional,
    SrbExDataTypeScsiCdb16 = 0x40,
    SrbExDataTypeScsiCdb32,
    SrbExDataTypeScsiCdbVar,
    SrbExDataTypeWmi = 0x60,
    SrbExDataTypePower,
    SrbExDataTypePnP,
    SrbExDataTypeIoInfo = 0x80
} SRBEXDATATYPE;

typedef struct _SRBEX_DATA {
    SRBEXDATATYPE Type;
    ULONG Length; /* bytes after this field */
} SRBEX_DATA, *PSRBEX_DATA;

#define SRBEX_DATA_LENGTH(Type) ((ULONG)(sizeof(Type) - sizeof(SRBEX_DATA)))

typedef struct _SRBEX_DATA_SCSI_CDB16 {
    SRBEXDATATYPE Type;
    ULONG Length;
    UCHAR ScsiStatus;
    UCHAR SenseInfoBufferLength;
    UCHAR CdbLength;
    UCHAR Reserved;
    ULONG Reserved1;
    PVOID SenseInfoBuffer;
    UCHAR Cdb[16];
} SRBEX_DATA_SCSI_CDB16, *PSRBEX_DATA_SCSI_CDB16;

typedef struct _SRBEX_DATA_WMI {
    SRBEXDATATYPE Type;
    ULONG Length;
    UCHAR WMISubFunction;
    UCHAR WMIFlags;
    UCHAR Reserved[2];
    ULONG Reserved1;
    PVOID DataPath;
} SRBEX_DATA_WMI, *PSRBEX_DATA_WMI;

typedef struct _SRBEX_DATA_POWER {
    SRBEXDATATYPE Type;
    ULONG Length;
    UCHAR SrbPowerFlags;
    UCHAR Reserved[3];
    ULONG DevicePowerState;
    ULONG PowerAction;
} SRBEX_DATA_POWER, *PSRBEX_DATA_POWER;

typedef struct _SRBEX_DATA_PNP {
    SRBEXDATATYPE Type;
    ULONG Length;
    UCHAR PnPSubFunction;
    UCHAR Reserved[3];
    ULONG PnPAction;
    ULONG SrbPnPFlags;
    ULONG Reserved1;
} SRBEX_DATA_PNP, *PSRBEX_DATA_PNP;

typedef struct _STORAGE_REQUEST_BLOCK {
    USHORT Length;
    UCHAR Function;
    UCHAR SrbStatus;
    ULONG ReservedUlong1;
    ULONG Signature;
    ULONG Version;
    ULONG SrbLength;
    ULONG SrbFunction;
    ULONG SrbFlags;
    ULONG ReservedUlong2;
    ULONG RequestTag;
    USHORT RequestPriority;
    USHORT RequestAttribute;
    ULONG TimeOutValue;
    ULONG SystemStatus;
    ULONG ZeroGuard1;
    ULONG AddressOffset;
    ULONG NumSrbExData;
    ULONG DataTransferLength;
    PVOID DataBuffer;
    PVOID ZeroGuard2;
    PVOID OriginalRequest;
    PVOID ClassContext;
    PVOID PortContext;
    PVOID MiniportContext;
    struct _STORAGE_REQUEST_BLOCK *NextSrb;
    ULONG SrbExDataOffset[1];
} STORAGE_REQUEST_BLOCK, *PSTORAGE_REQUEST_BLOCK;

_Static_assert(sizeof(STOR_ADDR_BTL8) == 0x10, "STOR_ADDR_BTL8");
_Static_assert(FIELD_OFFSET(SRBEX_DATA_SCSI_CDB16, Cdb) == 0x18, "Cdb");
_Static_assert(FIELD_OFFSET(STORAGE_REQUEST_BLOCK, SrbFunction) == 0x14, "SrbFunction");
_Static_assert(FIELD_OFFSET(STORAGE_REQUEST_BLOCK, AddressOffset) == 0x34, "AddressOffset");
_Static_assert(FIELD_OFFSET(STORAGE_REQUEST_BLOCK, DataBuffer) == 0x40, "DataBuffer");
_Static_assert(FIELD_OFFSET(STORAGE_REQUEST_BLOCK, MiniportContext) == 0x68, "MiniportContext");
_Static_assert(FIELD_OFFSET(STORAGE_REQUEST_BLOCK, SrbExDataOffset) == 0x78, "SrbExDataOffset");

_Static_assert(FIELD_OFFSET(SCSI_POWER_REQUEST_BLOCK, OriginalRequest) ==
                   FIELD_OFFSET(SCSI_REQUEST_BLOCK, OriginalRequest),
               "one header for all request blocks");
_Static_assert(FIELD_OFFSET(SCSI_PNP_REQUEST_BLOCK, SrbExtension) == FIELD_OFFSET(SCSI_REQUEST_BLOCK, SrbExtension),
               "one header for all request blocks");

#endif
