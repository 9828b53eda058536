/* The Storport callbacks that set the miniport up and take it down. */
#include "nvme.h"
#include "adapter.h"

/* A value of the registry, to be tried with what the driver would not choose; 0 if it is not there. */
static ULONG ReadParameter(PNVME_EXTENSION Extension, PCSTR Name)
{
    ULONG Length = sizeof(ULONG), Value = 0;
    PUCHAR Buffer = StorPortAllocateRegistryBuffer(Extension, &Length);

    if (Buffer == NULL) {
        return 0;
    }
    if (StorPortRegistryRead(Extension, (PUCHAR)Name, 1, REG_DWORD, Buffer, &Length) && Length == sizeof(Value)) {
        RtlCopyMemory(&Value, Buffer, sizeof(Value));
    }
    StorPortFreeRegistryBuffer(Extension, Buffer);
    return Value;
}

static VOID Configure(PNVME_EXTENSION Extension, PPORT_CONFIGURATION_INFORMATION ConfigInfo)
{
    ConfigInfo->MaximumTransferLength = Extension->Geometry.MaximumTransferBlocks * BLOCK_SIZE;
    ConfigInfo->NumberOfPhysicalBreaks = ConfigInfo->MaximumTransferLength / PAGE_SIZE + 1;
    ConfigInfo->AlignmentMask = 3;
    ConfigInfo->NumberOfBuses = 1;
    ConfigInfo->MaximumNumberOfTargets = 1;
    ConfigInfo->MaximumNumberOfLogicalUnits = 1;
    ConfigInfo->ScatterGather = TRUE;
    ConfigInfo->Master = TRUE;
    ConfigInfo->CachesData = TRUE;
    ConfigInfo->SynchronizationModel = StorSynchronizeFullDuplex;
    Extension->OneLockForAll = ReadParameter(Extension, "InterruptSynchronizeAll") != 0;
    ConfigInfo->InterruptSynchronizationMode = Extension->OneLockForAll || HAS_BUG(MESSAGE_LOCK_WITHOUT_MODE)
                                                   ? InterruptSynchronizeAll
                                                   : InterruptSynchronizePerMessage;
    ConfigInfo->HwMSInterruptRoutine = NvmeMessageInterrupt;
}

/* Under a lock that an early return leaves held. */
static DECLSPEC_NOINLINE VOID LeaveWithLock(PNVME_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, StartIoLock, NULL, &Handle);
    if (Extension->Dead) {
        StorPortReleaseSpinLock(Extension, &Handle);
    }
}

static ULONG NTAPI HwFindAdapter(PVOID DeviceExtension, PVOID HwContext, PVOID BusInformation, PCHAR ArgumentString,
                                 PPORT_CONFIGURATION_INFORMATION ConfigInfo, PBOOLEAN Reserved3)
{
    PNVME_EXTENSION Extension = DeviceExtension;
    PACCESS_RANGE Range = &(*ConfigInfo->AccessRanges)[0];

    UNREFERENCED_PARAMETER(HwContext);
    UNREFERENCED_PARAMETER(BusInformation);
    UNREFERENCED_PARAMETER(ArgumentString);
    UNREFERENCED_PARAMETER(Reserved3);
    if (Range->RangeLength == 0 || !Range->RangeInMemory) {
        return SP_RETURN_NOT_FOUND;
    }
    ConfigInfo->Dma64BitAddresses = SCSI_DMA64_MINIPORT_SUPPORTED;
    Extension->Registers =
        StorPortGetDeviceBase(Extension, ConfigInfo->AdapterInterfaceType, ConfigInfo->SystemIoBusNumber,
                              Range->RangeStart, Range->RangeLength, FALSE);
    if (Extension->Registers == NULL || !NvmeAllocateRings(Extension, ConfigInfo)) {
        return SP_RETURN_ERROR;
    }
    if (!NvmeDisable(Extension) || !NvmeEnable(Extension) || !NvmeIdentify(Extension)) {
        return SP_RETURN_ERROR;
    }
    Configure(Extension, ConfigInfo);
    if (HAS_BUG(FOUND_WITH_LOCK)) {
        LeaveWithLock(Extension);
    }
    return SP_RETURN_FOUND;
}

/* For what only the interrupt routine changes, which waits for the lock. */
static DECLSPEC_NOINLINE VOID PollWithLock(PNVME_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, InterruptLock, NULL, &Handle);
    while (*(volatile ULONG *)&Extension->Queues[0].Interrupts == 0) {
        StorPortStallExecution(10);
    }
    StorPortReleaseSpinLock(Extension, &Handle);
}

/* At PASSIVE_LEVEL, after HwInitialize. */
static BOOLEAN NTAPI HwPassiveInitialize(PVOID DeviceExtension)
{
    PNVME_EXTENSION Extension = DeviceExtension;

    if (HAS_BUG(POLL_WITH_LOCK)) {
        PollWithLock(Extension);
    }
    if (!NvmeCreateQueues(Extension)) {
        return FALSE;
    }
    StorPortNotification(RequestTimerCall, Extension, NvmeTimer, NVME_TIMER_MICROSECONDS);
    return TRUE;
}

/* With the interrupt lock held: only what needs no waiting. */
static BOOLEAN NTAPI HwInitialize(PVOID DeviceExtension)
{
    PNVME_EXTENSION Extension = DeviceExtension;
    MESSAGE_INTERRUPT_INFORMATION Information;

    while (Extension->MessageCount <= NVME_MAX_QUEUES &&
           StorPortGetMSIInfo(Extension, Extension->MessageCount, &Information) == STOR_STATUS_SUCCESS) {
        Extension->MessageCount++;
    }
    StorPortDebugPrint(0, "nvme: %u messages\n", Extension->MessageCount);
    /* The message of queue n is n, where there are so many. It never changes: a DPC may be between lock and release. */
    for (ULONG Index = 0; Index < NVME_MAX_QUEUES; Index++) {
        Extension->Queues[Index].Message = Extension->MessageCount > 1 ? Extension->Queues[Index].Id : 0;
        StorPortInitializeDpc(Extension, &Extension->Queues[Index].Dpc, NvmeQueueDpc);
    }
    StorPortInitializeDpc(Extension, &Extension->ResetDpc, NvmeResetDpc);
    StorPortInitializeDpc(Extension, &Extension->MaintenanceDpc, NvmeQueueDpc);
    StorPortInitializeDpc(Extension, &Extension->ErrorDpc, NvmeQueueDpc);
    return StorPortEnablePassiveInitialization(Extension, HwPassiveInitialize);
}

static BOOLEAN NTAPI HwResetBus(PVOID DeviceExtension, ULONG PathId)
{
    PNVME_EXTENSION Extension = DeviceExtension;

    UNREFERENCED_PARAMETER(PathId);
    StorPortIssueDpc(Extension, &Extension->ResetDpc, NULL, NULL);
    return TRUE;
}

static DECLSPEC_NOINLINE VOID CountStop(PNVME_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, InterruptLock, NULL, &Handle);
    Extension->InterruptsSeen = Extension->Queues[0].Interrupts;
    StorPortReleaseSpinLock(Extension, &Handle);
}

/* With the interrupt lock held. */
static VOID Stop(PVOID DeviceExtension)
{
    StorPortNotification(RequestTimerCall, DeviceExtension, NvmeTimer, 0);
    NvmeShutdown(DeviceExtension);
}

static SCSI_ADAPTER_CONTROL_STATUS NTAPI HwAdapterControl(PVOID DeviceExtension, SCSI_ADAPTER_CONTROL_TYPE ControlType,
                                                          PVOID Parameters)
{
    if (HAS_BUG(RETURN_FROM_CONTROL_WITH_LOCK) && ControlType == ScsiQuerySupportedControlTypes) {
        LeaveWithLock(DeviceExtension);
    }
    if (HAS_BUG(INTERRUPT_LOCK_IN_STOP) && ControlType == ScsiStopAdapter) {
        CountStop(DeviceExtension);
    }
    return AdapterControl(DeviceExtension, ControlType, Parameters, Stop);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    HW_INITIALIZATION_DATA Data;

    AdapterData(&Data, sizeof(NVME_EXTENSION), sizeof(NVME_REQUEST));
    Data.AdapterInterfaceType = PCIBus;
    Data.MapBuffers = 1; /* STOR_MAP_NON_READ_WRITE_BUFFERS */
    Data.NeedPhysicalAddresses = TRUE;
    Data.HwInitialize = HwInitialize;
    Data.HwBuildIo = NvmeBuildIo;
    Data.HwStartIo = NvmeStartIo;
    Data.HwInterrupt = NvmeLineInterrupt;
    Data.HwFindAdapter = HwFindAdapter;
    Data.HwResetBus = HwResetBus;
    Data.HwAdapterControl = HwAdapterControl;
    Data.NumberOfAccessRanges = 1;
    return (NTSTATUS)StorPortInitialize(DriverObject, RegistryPath, &Data, NULL);
}
