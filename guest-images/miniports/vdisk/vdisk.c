/* The Storport callbacks of the virtual miniport. */
#include "vdisk.h"
#include "adapter.h"

static ULONG NTAPI HwFindAdapter(PVOID DeviceExtension, PVOID HwContext, PVOID BusInformation, PVOID LowerDevice,
                                 PCHAR ArgumentString, PPORT_CONFIGURATION_INFORMATION ConfigInfo, PBOOLEAN Again)
{
    PVDISK_EXTENSION Extension = DeviceExtension;
    SIZE_T Size = VDISK_CHUNKS * sizeof(PUCHAR);

    UNREFERENCED_PARAMETER(HwContext);
    UNREFERENCED_PARAMETER(BusInformation);
    UNREFERENCED_PARAMETER(LowerDevice);
    UNREFERENCED_PARAMETER(ArgumentString);
    Extension->Chunks = ExAllocatePoolWithTag(NonPagedPool, Size, VDISK_TAG);
    if (Extension->Chunks == NULL) {
        return SP_RETURN_ERROR;
    }
    RtlZeroMemory(Extension->Chunks, Size);
    Extension->Geometry.Blocks = VDISK_BLOCKS;
    Extension->Geometry.MaximumTransferBlocks = VDISK_MAXIMUM_TRANSFER / BLOCK_SIZE;
    Extension->Geometry.Product = "Virtual disk";
    ConfigInfo->VirtualDevice = TRUE;
    ConfigInfo->MaximumTransferLength = VDISK_MAXIMUM_TRANSFER;
    ConfigInfo->NumberOfPhysicalBreaks = VDISK_MAXIMUM_TRANSFER / PAGE_SIZE + 1;
    ConfigInfo->NumberOfBuses = 1;
    ConfigInfo->MaximumNumberOfTargets = 1;
    ConfigInfo->MaximumNumberOfLogicalUnits = 1;
    ConfigInfo->ScatterGather = TRUE;
    ConfigInfo->Master = TRUE;
    ConfigInfo->CachesData = TRUE;
    ConfigInfo->SynchronizationModel = StorSynchronizeFullDuplex;
    *Again = FALSE;
    return SP_RETURN_FOUND;
}

static BOOLEAN NTAPI HwInitialize(PVOID DeviceExtension)
{
    PVDISK_EXTENSION Extension = DeviceExtension;

    KeInitializeSpinLock(&Extension->QueueLock);
    KeInitializeSpinLock(&Extension->DoneLock);
    KeInitializeSpinLock(&Extension->StatisticsLock);
    KeInitializeSpinLock(&Extension->FlushLock);
    KeInitializeSpinLock(&Extension->UnmapLock);
    KeInitializeSpinLock(&Extension->MapLock);
    KeInitializeSpinLock(&Extension->NoteLock);
    for (ULONG Index = 0; Index < 2 * VDISK_FIRST_NOTES; Index++) {
        KeInitializeSpinLock(&Extension->FirstNoteLock[Index]);
    }
    for (ULONG Index = 0; Index < VDISK_STRIPES; Index++) {
        KeInitializeSpinLock(&Extension->StripeLock[Index]);
    }
    InitializeListHead(&Extension->Queue);
    InitializeListHead(&Extension->Done);
    return VdiskStartWorkers(Extension);
}

static VOID Complete(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb)
{
    StorPortNotification(RequestComplete, DeviceExtension, Srb);
}

static VOID StartScsi(PVDISK_EXTENSION Extension, PSCSI_REQUEST_BLOCK Srb)
{
    PVDISK_REQUEST Request = Srb->SrbExtension;

    Request->Srb = Srb;
    Request->Command = DiskDecode(&Extension->Geometry, Srb, &Request->Range);
    switch (Request->Command) {
    case DiskInvalid:
        DiskFail(Srb, SCSI_SENSE_ILLEGAL_REQUEST, SCSI_ADSENSE_ILLEGAL_COMMAND);
        Complete(Extension, Srb);
        break;
    case DiskAnswered:
        Complete(Extension, Srb);
        break;
    default:
        VdiskEnqueue(Extension, Request);
        break;
    }
}

static BOOLEAN NTAPI HwStartIo(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb)
{
    PVDISK_REQUEST Request = Srb->SrbExtension;

    switch (Srb->Function) {
    case SRB_FUNCTION_EXECUTE_SCSI:
        StartScsi(DeviceExtension, Srb);
        break;
    case SRB_FUNCTION_FLUSH:
    case SRB_FUNCTION_SHUTDOWN:
        Request->Srb = Srb;
        Request->Command = DiskFlush;
        VdiskEnqueue(DeviceExtension, Request);
        break;
    case SRB_FUNCTION_RESET_DEVICE:
    case SRB_FUNCTION_RESET_LOGICAL_UNIT:
    case SRB_FUNCTION_PNP:
    case SRB_FUNCTION_POWER:
        Srb->SrbStatus = SRB_STATUS_SUCCESS;
        Complete(DeviceExtension, Srb);
        break;
    default:
        Srb->SrbStatus = SRB_STATUS_INVALID_REQUEST;
        Complete(DeviceExtension, Srb);
        break;
    }
    return TRUE;
}

/* Nothing is lost by a reset: what is queued is served. */
static BOOLEAN NTAPI HwResetBus(PVOID DeviceExtension, ULONG PathId)
{
    UNREFERENCED_PARAMETER(DeviceExtension);
    UNREFERENCED_PARAMETER(PathId);
    return TRUE;
}

static VOID Stop(PVOID DeviceExtension)
{
    VdiskStopWorkers(DeviceExtension);
}

static SCSI_ADAPTER_CONTROL_STATUS NTAPI HwAdapterControl(PVOID DeviceExtension, SCSI_ADAPTER_CONTROL_TYPE ControlType,
                                                          PVOID Parameters)
{
    return AdapterControl(DeviceExtension, ControlType, Parameters, Stop);
}

static VOID NTAPI HwFreeAdapterResources(PVOID DeviceExtension)
{
    VdiskFreeChunks(DeviceExtension);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    HW_INITIALIZATION_DATA Data;

    AdapterData(&Data, sizeof(VDISK_EXTENSION), sizeof(VDISK_REQUEST));
    Data.AdapterInterfaceType = Internal;
    Data.HwInitialize = HwInitialize;
    Data.HwStartIo = HwStartIo;
    Data.VirtualHwFindAdapter = HwFindAdapter;
    Data.HwResetBus = HwResetBus;
    Data.HwAdapterControl = HwAdapterControl;
    Data.HwFreeAdapterResources = HwFreeAdapterResources;
    Data.MapBuffers = 3; /* STOR_MAP_ALL_BUFFERS_INCLUDING_READ_WRITE */
    return (NTSTATUS)StorPortInitialize(DriverObject, RegistryPath, &Data, NULL);
}
