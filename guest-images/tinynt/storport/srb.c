/*
 * Request blocks: what the class driver sent, as the miniport wants to see it. A miniport that asked for
 * SRB_TYPE_STORAGE_REQUEST_BLOCK gets one made of the SCSI_REQUEST_BLOCK, whose outcome is copied back.
 */
#include "raid.h"

/* One address and one block of extended data behind the STORAGE_REQUEST_BLOCK. */
typedef struct _RAID_EXTENDED_SRB {
    STORAGE_REQUEST_BLOCK Srb;
    STOR_ADDR_BTL8 Address;
    union {
        SRBEX_DATA_SCSI_CDB16 Cdb;
        SRBEX_DATA_WMI Wmi;
        SRBEX_DATA_POWER Power;
        SRBEX_DATA_PNP Pnp;
    } Data;
} RAID_EXTENDED_SRB, *PRAID_EXTENDED_SRB;

SIZE_T RaidHwSrbSize(PRAID_ADAPTER Adapter)
{
    return Adapter->ExtendedSrb ? sizeof(RAID_EXTENDED_SRB) : 0;
}

static BOOLEAN IsExtended(PSCSI_REQUEST_BLOCK Srb)
{
    return Srb->Function == SRB_FUNCTION_STORAGE_REQUEST_BLOCK;
}

static VOID DescribeCdb(PSCSI_REQUEST_BLOCK Srb, PSRBEX_DATA_SCSI_CDB16 Data)
{
    Data->Type = SrbExDataTypeScsiCdb16;
    Data->Length = SRBEX_DATA_LENGTH(SRBEX_DATA_SCSI_CDB16);
    Data->SenseInfoBufferLength = Srb->SenseInfoBufferLength;
    Data->SenseInfoBuffer = Srb->SenseInfoBuffer;
    Data->CdbLength = Srb->CdbLength;
    RtlCopyMemory(Data->Cdb, Srb->Cdb, sizeof(Data->Cdb));
}

static VOID DescribeData(PSCSI_REQUEST_BLOCK Srb, PRAID_EXTENDED_SRB Extended)
{
    PSCSI_WMI_REQUEST_BLOCK Wmi = (PSCSI_WMI_REQUEST_BLOCK)Srb;
    PSCSI_POWER_REQUEST_BLOCK Power = (PSCSI_POWER_REQUEST_BLOCK)Srb;
    PSCSI_PNP_REQUEST_BLOCK Pnp = (PSCSI_PNP_REQUEST_BLOCK)Srb;

    switch (Srb->Function) {
    case SRB_FUNCTION_WMI:
        Extended->Data.Wmi.Type = SrbExDataTypeWmi;
        Extended->Data.Wmi.Length = SRBEX_DATA_LENGTH(SRBEX_DATA_WMI);
        Extended->Data.Wmi.WMISubFunction = Wmi->WMISubFunction;
        Extended->Data.Wmi.WMIFlags = Wmi->WMIFlags;
        Extended->Data.Wmi.DataPath = Wmi->DataPath;
        break;
    case SRB_FUNCTION_POWER:
        Extended->Data.Power.Type = SrbExDataTypePower;
        Extended->Data.Power.Length = SRBEX_DATA_LENGTH(SRBEX_DATA_POWER);
        Extended->Data.Power.SrbPowerFlags = Power->SrbPowerFlags;
        Extended->Data.Power.DevicePowerState = Power->DevicePowerState;
        Extended->Data.Power.PowerAction = Power->PowerAction;
        break;
    case SRB_FUNCTION_PNP:
        Extended->Data.Pnp.Type = SrbExDataTypePnP;
        Extended->Data.Pnp.Length = SRBEX_DATA_LENGTH(SRBEX_DATA_PNP);
        Extended->Data.Pnp.PnPSubFunction = Pnp->PnPSubFunction;
        Extended->Data.Pnp.PnPAction = Pnp->PnPAction;
        Extended->Data.Pnp.SrbPnPFlags = Pnp->SrbPnPFlags;
        break;
    default:
        DescribeCdb(Srb, &Extended->Data.Cdb);
        break;
    }
}

static VOID DescribeExtended(PRAID_REQUEST Request, PRAID_EXTENDED_SRB Extended)
{
    PSCSI_REQUEST_BLOCK Srb = Request->Srb;
    PRAID_UNIT Unit = Request->Unit;

    RtlZeroMemory(Extended, sizeof(*Extended));
    Extended->Srb.Length = sizeof(STORAGE_REQUEST_BLOCK);
    Extended->Srb.Function = SRB_FUNCTION_STORAGE_REQUEST_BLOCK;
    Extended->Srb.SrbStatus = SRB_STATUS_PENDING;
    Extended->Srb.Signature = SRB_SIGNATURE;
    Extended->Srb.Version = STORAGE_REQUEST_BLOCK_VERSION_1;
    Extended->Srb.SrbLength = sizeof(*Extended);
    Extended->Srb.SrbFunction = Srb->Function;
    Extended->Srb.SrbFlags = Srb->SrbFlags;
    Extended->Srb.RequestAttribute = Srb->QueueAction;
    Extended->Srb.TimeOutValue = Srb->TimeOutValue;
    Extended->Srb.AddressOffset = FIELD_OFFSET(RAID_EXTENDED_SRB, Address);
    Extended->Srb.NumSrbExData = 1;
    Extended->Srb.SrbExDataOffset[0] = FIELD_OFFSET(RAID_EXTENDED_SRB, Data);
    Extended->Srb.DataTransferLength = Srb->DataTransferLength;
    Extended->Srb.DataBuffer = Srb->DataBuffer;
    Extended->Srb.OriginalRequest = Request->Irp;
    Extended->Srb.PortContext = Request;
    Extended->Srb.MiniportContext = Request->SrbExtension;
    Extended->Address.Type = STOR_ADDRESS_TYPE_BTL8;
    Extended->Address.AddressLength = STOR_ADDR_BTL8_ADDRESS_LENGTH;
    Extended->Address.Path = Unit->PathId;
    Extended->Address.Target = Unit->TargetId;
    Extended->Address.Lun = Unit->Lun;
    DescribeData(Srb, Extended);
}

/* Storage: RaidHwSrbSize bytes that live as long as the request. */
VOID RaidDescribeSrb(PRAID_REQUEST Request, PVOID Storage)
{
    PSCSI_REQUEST_BLOCK Srb = Request->Srb;

    Srb->OriginalRequest = Request->Irp;
    Srb->SrbExtension = Request->SrbExtension;
    Srb->SrbStatus = SRB_STATUS_PENDING;
    Srb->PathId = Request->Unit->PathId;
    Srb->TargetId = Request->Unit->TargetId;
    Srb->Lun = Request->Unit->Lun;
    Request->HwSrb = Srb;
    if (Request->Unit->Adapter->ExtendedSrb) {
        DescribeExtended(Request, Storage);
        Request->HwSrb = Storage;
    }
}

/* The port driver gives each outstanding request of a unit a queue tag of its own. */
VOID RaidTagSrb(PRAID_REQUEST Request, ULONG Tag)
{
    Request->Tag = Tag;
    if (Request->HwSrb != Request->Srb) {
        ((PSTORAGE_REQUEST_BLOCK)Request->HwSrb)->RequestTag = Tag;
    } else if (Request->Srb->Function == SRB_FUNCTION_EXECUTE_SCSI) {
        Request->Srb->QueueTag = (UCHAR)Tag;
    }
}

/* After the miniport has completed it. */
VOID RaidReturnSrb(PRAID_REQUEST Request)
{
    PSCSI_REQUEST_BLOCK Srb = Request->Srb;

    if (Request->HwSrb != Srb) {
        PRAID_EXTENDED_SRB Extended = (PRAID_EXTENDED_SRB)Request->HwSrb;

        Srb->SrbStatus = Extended->Srb.SrbStatus;
        Srb->DataTransferLength = Extended->Srb.DataTransferLength;
        if (Extended->Data.Cdb.Type == SrbExDataTypeScsiCdb16) {
            Srb->ScsiStatus = Extended->Data.Cdb.ScsiStatus;
            Srb->SenseInfoBufferLength = Extended->Data.Cdb.SenseInfoBufferLength;
        }
    }
    Srb->SrbExtension = NULL;
}

PRAID_REQUEST RaidRequestOf(PSCSI_REQUEST_BLOCK Srb)
{
    PIRP Irp;

    if (Srb == NULL) {
        return NULL;
    }
    Irp = IsExtended(Srb) ? ((PSTORAGE_REQUEST_BLOCK)Srb)->OriginalRequest : Srb->OriginalRequest;
    return Irp != NULL ? Irp->Tail.Overlay.DriverContext[0] : NULL;
}

VOID RaidSetSrbStatus(PSCSI_REQUEST_BLOCK Srb, UCHAR SrbStatus)
{
    Srb->SrbStatus = SrbStatus; /* at the same offset in both */
}

VOID RaidInitializeSrb(PSCSI_REQUEST_BLOCK Srb, UCHAR Function, ULONG Seconds)
{
    RtlZeroMemory(Srb, sizeof(*Srb));
    Srb->Length = sizeof(*Srb);
    Srb->Function = Function;
    Srb->QueueTag = SP_UNTAGGED;
    Srb->SrbFlags = SRB_FLAGS_NO_QUEUE_FREEZE;
    Srb->TimeOutValue = Seconds;
}

static NTSTATUS NTAPI SignalEvent(PDEVICE_OBJECT DeviceObject, PIRP Irp, PVOID Context)
{
    UNREFERENCED_PARAMETER(DeviceObject);
    UNREFERENCED_PARAMETER(Irp);
    KeSetEvent(Context, IO_NO_INCREMENT, FALSE);
    return STATUS_MORE_PROCESSING_REQUIRED;
}

/* Sends a request of the port driver's own, and waits. Returns the SRB status. */
UCHAR RaidSendSrb(PRAID_UNIT Unit, PSCSI_REQUEST_BLOCK Srb)
{
    PIRP Irp = IoAllocateIrp(Unit->DeviceObject->StackSize, FALSE);
    PIO_STACK_LOCATION Stack;
    KEVENT Event;

    if (Irp == NULL) {
        return SRB_STATUS_BUSY;
    }
    KeInitializeEvent(&Event, NotificationEvent, FALSE);
    Stack = IoGetNextIrpStackLocation(Irp);
    Stack->MajorFunction = IRP_MJ_SCSI;
    Stack->Parameters.Scsi.Srb = Srb;
    IoSetCompletionRoutine(Irp, SignalEvent, &Event, TRUE, TRUE, TRUE);
    IoCallDriver(Unit->DeviceObject, Irp);
    KeWaitForSingleObject(&Event, Executive, KernelMode, FALSE, NULL);
    IoFreeIrp(Irp);
    return SRB_STATUS(Srb->SrbStatus);
}
