/*
 * A miniport that includes nothing but mingw-w64's own DDK headers: a RAM disk behind a PCI storage function whose
 * hardware it leaves alone, its memory the uncached extension, its requests completed by a Storport DPC.
 *
 * What those headers lack is declared here as the DDI reference has it.
 */
#include <ntddk.h>

#include <srb.h>

/* storport.h defines again what srb.h has defined, with other members. */
#define _SCSI_WMI_REQUEST_BLOCK _RAMDISK_WMI_REQUEST_BLOCK
#define SCSI_WMI_REQUEST_BLOCK RAMDISK_WMI_REQUEST_BLOCK
#define PSCSI_WMI_REQUEST_BLOCK PRAMDISK_WMI_REQUEST_BLOCK
#include <storport.h>

#include <scsi.h>

#define BLOCK_SIZE 512u
#define BLOCKS 4096u

#define NotifyInitializeDpc ((SCSI_NOTIFICATION_TYPE)0x1001)
#define NotifyIssueDpc ((SCSI_NOTIFICATION_TYPE)0x1002)
#define NotifyAcquireSpinLock ((SCSI_NOTIFICATION_TYPE)0x1003)
#define NotifyReleaseSpinLock ((SCSI_NOTIFICATION_TYPE)0x1004)
#define StartIoLock 2

typedef struct _LOCK_HANDLE {
    ULONG Lock;
    ULONG_PTR Context[3];
} LOCK_HANDLE;

typedef struct _RAMDISK {
    PUCHAR Memory;
    struct {
        KDPC Dpc;
        ULONG_PTR Lock;
    } Dpc;
    PSCSI_REQUEST_BLOCK Served; /* under the StartIo lock, linked by NextSrb */
} RAMDISK, *PRAMDISK;

static ULONG Get32(const UCHAR *Bytes)
{
    return (ULONG)Bytes[0] << 24 | (ULONG)Bytes[1] << 16 | (ULONG)Bytes[2] << 8 | Bytes[3];
}

static VOID Put32(UCHAR *Bytes, ULONG Value)
{
    for (ULONG Index = 0; Index < 4; Index++) {
        Bytes[Index] = (UCHAR)(Value >> (24 - 8 * Index));
    }
}

static VOID Copy(PVOID To, PVOID From, ULONG Length)
{
    StorPortMoveMemory(To, From, Length);
}

static UCHAR Fail(PSCSI_REQUEST_BLOCK Srb, UCHAR AdditionalCode)
{
    PSENSE_DATA Sense = Srb->SenseInfoBuffer;

    Srb->ScsiStatus = SCSISTAT_CHECK_CONDITION;
    if (Sense == NULL || Srb->SenseInfoBufferLength < sizeof(*Sense)) {
        return SRB_STATUS_ERROR;
    }
    for (ULONG Index = 0; Index < sizeof(*Sense); Index++) {
        ((PUCHAR)Sense)[Index] = 0;
    }
    Sense->ErrorCode = 0x70;
    Sense->SenseKey = SCSI_SENSE_ILLEGAL_REQUEST;
    Sense->AdditionalSenseLength = 10;
    Sense->AdditionalSenseCode = AdditionalCode;
    return SRB_STATUS_ERROR | SRB_STATUS_AUTOSENSE_VALID;
}

static UCHAR Answer(PSCSI_REQUEST_BLOCK Srb, PUCHAR Data, ULONG Length)
{
    if (Length > Srb->DataTransferLength) {
        Length = Srb->DataTransferLength;
    }
    Copy(Srb->DataBuffer, Data, Length);
    Srb->DataTransferLength = Length;
    return SRB_STATUS_SUCCESS;
}

static UCHAR Inquiry(PSCSI_REQUEST_BLOCK Srb)
{
    UCHAR Data[36] = {0, 0, 5, 2, 31};

    if (Srb->Cdb[1] & 1) {
        return Fail(Srb, SCSI_ADSENSE_INVALID_CDB);
    }
    Copy(&Data[8], "MinGW   RAM disk        1.0 ", 28);
    return Answer(Srb, Data, sizeof(Data));
}

static UCHAR Capacity(PSCSI_REQUEST_BLOCK Srb)
{
    UCHAR Data[8];

    Put32(&Data[0], BLOCKS - 1);
    Put32(&Data[4], BLOCK_SIZE);
    return Answer(Srb, Data, sizeof(Data));
}

static UCHAR Transfer(PRAMDISK Disk, PSCSI_REQUEST_BLOCK Srb, BOOLEAN Write)
{
    BOOLEAN Long = Srb->Cdb[0] == SCSIOP_READ16 || Srb->Cdb[0] == SCSIOP_WRITE16;
    ULONG64 Lba = Long ? (ULONG64)Get32(&Srb->Cdb[2]) << 32 | Get32(&Srb->Cdb[6]) : Get32(&Srb->Cdb[2]);
    ULONG Count = Long ? Get32(&Srb->Cdb[10]) : (ULONG)Srb->Cdb[7] << 8 | Srb->Cdb[8];

    if (Lba >= BLOCKS || Count > BLOCKS - Lba) {
        return Fail(Srb, SCSI_ADSENSE_ILLEGAL_BLOCK);
    }
    if (Srb->DataTransferLength < Count * BLOCK_SIZE) {
        return SRB_STATUS_DATA_OVERRUN;
    }
    if (Write) {
        Copy(Disk->Memory + Lba * BLOCK_SIZE, Srb->DataBuffer, Count * BLOCK_SIZE);
    } else {
        Copy(Srb->DataBuffer, Disk->Memory + Lba * BLOCK_SIZE, Count * BLOCK_SIZE);
    }
    return SRB_STATUS_SUCCESS;
}

static UCHAR Execute(PRAMDISK Disk, PSCSI_REQUEST_BLOCK Srb)
{
    switch (Srb->Cdb[0]) {
    case SCSIOP_INQUIRY:
        return Inquiry(Srb);
    case SCSIOP_READ_CAPACITY:
        return Capacity(Srb);
    case SCSIOP_READ:
    case SCSIOP_READ16:
        return Transfer(Disk, Srb, FALSE);
    case SCSIOP_WRITE:
    case SCSIOP_WRITE16:
        return Transfer(Disk, Srb, TRUE);
    case SCSIOP_TEST_UNIT_READY:
    case SCSIOP_SYNCHRONIZE_CACHE:
    case SCSIOP_START_STOP_UNIT:
        return SRB_STATUS_SUCCESS;
    default:
        return Fail(Srb, SCSI_ADSENSE_ILLEGAL_COMMAND);
    }
}

static VOID NTAPI Complete(PVOID Dpc, PVOID DeviceExtension, PVOID Argument1, PVOID Argument2)
{
    PRAMDISK Disk = DeviceExtension;
    PSCSI_REQUEST_BLOCK Srb;
    LOCK_HANDLE Handle;

    (void)Dpc;
    (void)Argument1;
    (void)Argument2;
    StorPortNotification(NotifyAcquireSpinLock, Disk, StartIoLock, NULL, &Handle);
    Srb = Disk->Served;
    Disk->Served = NULL;
    StorPortNotification(NotifyReleaseSpinLock, Disk, &Handle);
    while (Srb != NULL) {
        PSCSI_REQUEST_BLOCK Next = Srb->NextSrb;

        Srb->NextSrb = NULL;
        StorPortNotification(RequestComplete, Disk, Srb);
        Srb = Next;
    }
}

/* The StartIo lock is held. */
static BOOLEAN NTAPI HwStartIo(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb)
{
    PRAMDISK Disk = DeviceExtension;
    LONG Issued = FALSE;

    switch (Srb->Function) {
    case SRB_FUNCTION_EXECUTE_SCSI:
        Srb->SrbStatus = Execute(Disk, Srb);
        break;
    case SRB_FUNCTION_FLUSH:
    case SRB_FUNCTION_SHUTDOWN:
    case SRB_FUNCTION_RESET_LOGICAL_UNIT:
        Srb->SrbStatus = SRB_STATUS_SUCCESS;
        break;
    default:
        Srb->SrbStatus = SRB_STATUS_INVALID_REQUEST;
        break;
    }
    Srb->NextSrb = Disk->Served;
    Disk->Served = Srb;
    StorPortNotification(NotifyIssueDpc, Disk, &Disk->Dpc, NULL, NULL, &Issued);
    return TRUE;
}

static ULONG NTAPI HwFindAdapter(PVOID DeviceExtension, PVOID HwContext, PVOID BusInformation, PCHAR ArgumentString,
                                 PPORT_CONFIGURATION_INFORMATION ConfigInfo, PBOOLEAN Again)
{
    PRAMDISK Disk = DeviceExtension;

    (void)HwContext;
    (void)BusInformation;
    (void)ArgumentString;
    ConfigInfo->NumberOfBuses = 1;
    ConfigInfo->MaximumNumberOfTargets = 1;
    ConfigInfo->MaximumNumberOfLogicalUnits = 1;
    ConfigInfo->MaximumTransferLength = 64 * 1024;
    ConfigInfo->ScatterGather = TRUE;
    ConfigInfo->Master = TRUE;
    ConfigInfo->Dma64BitAddresses = SCSI_DMA64_MINIPORT_SUPPORTED;
    *Again = FALSE;
    Disk->Memory = StorPortGetUncachedExtension(Disk, ConfigInfo, BLOCKS * BLOCK_SIZE);
    return Disk->Memory != NULL ? SP_RETURN_FOUND : SP_RETURN_ERROR;
}

static BOOLEAN NTAPI HwInitialize(PVOID DeviceExtension)
{
    PRAMDISK Disk = DeviceExtension;

    StorPortNotification(NotifyInitializeDpc, Disk, &Disk->Dpc, Complete);
    return TRUE;
}

static BOOLEAN NTAPI HwInterrupt(PVOID DeviceExtension)
{
    (void)DeviceExtension;
    return FALSE;
}

static BOOLEAN NTAPI HwResetBus(PVOID DeviceExtension, ULONG PathId)
{
    StorPortCompleteRequest(DeviceExtension, (UCHAR)PathId, SP_UNTAGGED, SP_UNTAGGED, SRB_STATUS_BUS_RESET);
    return TRUE;
}

static SCSI_ADAPTER_CONTROL_STATUS NTAPI HwAdapterControl(PVOID DeviceExtension, SCSI_ADAPTER_CONTROL_TYPE ControlType,
                                                          PVOID Parameters)
{
    (void)DeviceExtension;
    (void)Parameters;
    return ControlType == ScsiQuerySupportedControlTypes ? ScsiAdapterControlSuccess : ScsiAdapterControlUnsuccessful;
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    HW_INITIALIZATION_DATA Data = {0};

    Data.HwInitializationDataSize = sizeof(Data);
    Data.AdapterInterfaceType = PCIBus;
    Data.HwInitialize = HwInitialize;
    Data.HwStartIo = HwStartIo;
    Data.HwInterrupt = HwInterrupt;
    Data.HwFindAdapter = HwFindAdapter;
    Data.HwResetBus = HwResetBus;
    Data.HwAdapterControl = HwAdapterControl;
    Data.DeviceExtensionSize = sizeof(RAMDISK);
    Data.NumberOfAccessRanges = 1;
    Data.MapBuffers = TRUE;
    Data.NeedPhysicalAddresses = TRUE;
    Data.TaggedQueuing = TRUE;
    Data.AutoRequestSense = TRUE;
    Data.MultipleRequestPerLu = TRUE;
    return (NTSTATUS)StorPortInitialize(DriverObject, RegistryPath, &Data, NULL);
}
