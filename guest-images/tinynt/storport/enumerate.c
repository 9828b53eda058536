/* Finding the logical units: INQUIRY of LUN 0 of each target, REPORT LUNS, and one PDO for each unit that answers. */
#include "raid.h"

#define INQUIRY_SECONDS 20
#define MAX_REPORTED_LUNS 8
#define MAX_PROBED_LUNS 8

/* Sends one CDB that reads Length bytes, and waits. Returns the SRB status. */
static UCHAR SendCdb(PRAID_UNIT Unit, PUCHAR Cdb, UCHAR CdbLength, PVOID Buffer, ULONG Length)
{
    SCSI_REQUEST_BLOCK Srb;

    RaidInitializeSrb(&Srb, SRB_FUNCTION_EXECUTE_SCSI, INQUIRY_SECONDS);
    Srb.SrbFlags |= SRB_FLAGS_DATA_IN | SRB_FLAGS_DISABLE_AUTOSENSE;
    Srb.CdbLength = CdbLength;
    Srb.DataBuffer = Buffer;
    Srb.DataTransferLength = Length;
    RtlCopyMemory(Srb.Cdb, Cdb, CdbLength);
    return RaidSendSrb(Unit, &Srb);
}

/* Less data than there is room for is no failure. */
static BOOLEAN Succeeded(UCHAR SrbStatus)
{
    return SrbStatus == SRB_STATUS_SUCCESS || SrbStatus == SRB_STATUS_DATA_OVERRUN;
}

static BOOLEAN UnitAnswers(PRAID_UNIT Unit)
{
    UCHAR Cdb[6] = {SCSIOP_INQUIRY, 0, 0, 0, INQUIRYDATABUFFERSIZE, 0};
    INQUIRYDATA Inquiry;

    RtlZeroMemory(&Inquiry, sizeof(Inquiry));
    return Succeeded(SendCdb(Unit, Cdb, sizeof(Cdb), &Inquiry, INQUIRYDATABUFFERSIZE)) &&
           Inquiry.DeviceTypeQualifier == 0;
}

static VOID DeleteUnit(PRAID_ADAPTER Adapter)
{
    PRAID_UNIT Unit = Adapter->Units[--Adapter->UnitCount];

    if (Unit->RecoveryWork != NULL) {
        IoFreeWorkItem(Unit->RecoveryWork);
    }
    if (Unit->LuExtension != NULL) {
        ExFreePoolWithTag(Unit->LuExtension, RAID_TAG);
    }
    IoDeleteDevice(Unit->DeviceObject);
}

static ULONG InitialQueueDepth(PRAID_ADAPTER Adapter)
{
    ULONG Depth = Adapter->Config.InitialLunQueueDepth;

    if (Depth == 0) {
        Depth = Adapter->Virtual ? RAID_VIRTUAL_QUEUE_DEPTH : RAID_DEFAULT_QUEUE_DEPTH;
    }
    if (!Adapter->Config.MultipleRequestPerLu && !Adapter->Virtual) {
        Depth = 1;
    }
    return Depth < RAID_MAX_QUEUE_DEPTH ? Depth : RAID_MAX_QUEUE_DEPTH;
}

static PRAID_UNIT CreateUnit(PRAID_ADAPTER Adapter, UCHAR PathId, UCHAR TargetId, UCHAR Lun)
{
    PDEVICE_OBJECT DeviceObject;
    PRAID_UNIT Unit;
    ULONG ExtensionSize = Adapter->Config.SpecificLuExtensionSize;

    if (Adapter->UnitCount == RAID_MAX_UNITS ||
        !NT_SUCCESS(IoCreateDevice(Adapter->DeviceObject->DriverObject, sizeof(RAID_UNIT), NULL,
                                   FILE_DEVICE_MASS_STORAGE, 0, FALSE, &DeviceObject))) {
        return NULL;
    }
    Unit = DeviceObject->DeviceExtension;
    RtlZeroMemory(Unit, sizeof(*Unit));
    Unit->Type = RaidUnitObject;
    Unit->DeviceObject = DeviceObject;
    Unit->Adapter = Adapter;
    Unit->PathId = PathId;
    Unit->TargetId = TargetId;
    Unit->Lun = Lun;
    Unit->QueueDepth = InitialQueueDepth(Adapter);
    KeInitializeSpinLock(&Unit->QueueLock);
    InitializeListHead(&Unit->Pending);
    InitializeListHead(&Unit->Outstanding);
    Unit->RecoveryWork = IoAllocateWorkItem(DeviceObject);
    if (ExtensionSize != 0) {
        Unit->LuExtension = ExAllocatePoolWithTag(NonPagedPool, ExtensionSize, RAID_TAG);
        if (Unit->LuExtension != NULL) {
            RtlZeroMemory(Unit->LuExtension, ExtensionSize);
        }
    }
    DeviceObject->Flags |= DO_DIRECT_IO;
    DeviceObject->Flags &= ~DO_DEVICE_INITIALIZING;
    Adapter->Units[Adapter->UnitCount++] = Unit;
    return Unit;
}

static BOOLEAN AddUnit(PRAID_ADAPTER Adapter, UCHAR PathId, UCHAR TargetId, UCHAR Lun)
{
    PRAID_UNIT Unit;

    if (RaidFindUnit(Adapter, PathId, TargetId, Lun) != NULL) {
        return TRUE;
    }
    Unit = CreateUnit(Adapter, PathId, TargetId, Lun);
    if (Unit == NULL || Unit->RecoveryWork == NULL) {
        return FALSE;
    }
    if (!UnitAnswers(Unit)) {
        DeleteUnit(Adapter);
        return FALSE;
    }
    return TRUE;
}

/* The target does not tell its units: each address is asked. */
static VOID ProbeUnits(PRAID_ADAPTER Adapter, UCHAR PathId, UCHAR TargetId)
{
    for (UCHAR Lun = 1; Lun < Adapter->Config.MaximumNumberOfLogicalUnits && Lun < MAX_PROBED_LUNS; Lun++) {
        AddUnit(Adapter, PathId, TargetId, Lun);
    }
}

static VOID ScanTarget(PRAID_ADAPTER Adapter, UCHAR PathId, UCHAR TargetId)
{
    UCHAR Cdb[12] = {SCSIOP_REPORT_LUNS};
    UCHAR List[8 + MAX_REPORTED_LUNS * 8] = {0};
    ULONG Bytes;

    if (!AddUnit(Adapter, PathId, TargetId, 0)) {
        return;
    }
    Cdb[9] = sizeof(List);
    if (!Succeeded(SendCdb(RaidFindUnit(Adapter, PathId, TargetId, 0), Cdb, sizeof(Cdb), List, sizeof(List)))) {
        ProbeUnits(Adapter, PathId, TargetId);
        return;
    }
    Bytes = (ULONG)List[0] << 24 | (ULONG)List[1] << 16 | (ULONG)List[2] << 8 | List[3];
    for (ULONG Offset = 8; Offset + 8 <= sizeof(List) && Offset < 8 + Bytes; Offset += 8) {
        if (List[Offset] == 0 && List[Offset + 1] != 0 &&
            List[Offset + 1] < Adapter->Config.MaximumNumberOfLogicalUnits) {
            AddUnit(Adapter, PathId, TargetId, List[Offset + 1]);
        }
    }
}

static VOID ScanAdapter(PRAID_ADAPTER Adapter)
{
    for (UCHAR PathId = 0; PathId < Adapter->Config.NumberOfBuses; PathId++) {
        for (UCHAR TargetId = 0; TargetId < Adapter->Config.MaximumNumberOfTargets; TargetId++) {
            ScanTarget(Adapter, PathId, TargetId);
        }
    }
    for (ULONG Index = 0; Index < Adapter->UnitCount; Index++) {
        RaidQueryCapabilities(Adapter->Units[Index]);
    }
    RaidRegisterWmi(Adapter);
    Adapter->Enumerated = TRUE;
}

/* IRP_MN_QUERY_DEVICE_RELATIONS, BusRelations. The list is the caller's to free. */
NTSTATUS RaidEnumerate(PRAID_ADAPTER Adapter, PIRP Irp)
{
    PDEVICE_RELATIONS Relations;

    if (!Adapter->Started || Adapter->Stopped) {
        return STATUS_DEVICE_NOT_READY;
    }
    if (!Adapter->Enumerated) {
        ScanAdapter(Adapter);
    }
    Relations =
        ExAllocatePoolWithTag(PagedPool, sizeof(*Relations) + Adapter->UnitCount * sizeof(PDEVICE_OBJECT), RAID_TAG);
    if (Relations == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    Relations->Count = Adapter->UnitCount;
    for (ULONG Index = 0; Index < Adapter->UnitCount; Index++) {
        ObReferenceObject(Adapter->Units[Index]->DeviceObject);
        Relations->Objects[Index] = Adapter->Units[Index]->DeviceObject;
    }
    Irp->IoStatus.Information = (ULONG_PTR)Relations;
    return STATUS_SUCCESS;
}
