/* The Storport callbacks that set the miniport up and take it down. */
#include "sas.h"
#include "adapter.h"

static PACCESS_RANGE FindMemory(PPORT_CONFIGURATION_INFORMATION ConfigInfo)
{
    PACCESS_RANGE Ranges = *ConfigInfo->AccessRanges;

    for (ULONG Index = 0; Index < ConfigInfo->NumberOfAccessRanges; Index++) {
        if (Ranges[Index].RangeLength != 0 && Ranges[Index].RangeInMemory) {
            return &Ranges[Index];
        }
    }
    return NULL;
}

static BOOLEAN IsOurs(PSAS_EXTENSION Extension, PPORT_CONFIGURATION_INFORMATION ConfigInfo)
{
    ULONG Identifier = 0;

    StorPortGetBusData(Extension, PCIConfiguration, ConfigInfo->SystemIoBusNumber, ConfigInfo->SlotNumber, &Identifier,
                       sizeof(Identifier));
    return Identifier == 0x00541000;
}

static BOOLEAN AllocateCommon(PSAS_EXTENSION Extension, PPORT_CONFIGURATION_INFORMATION ConfigInfo)
{
    ULONG Length;

    Extension->Common = StorPortGetUncachedExtension(Extension, ConfigInfo, sizeof(SAS_COMMON));
    if (Extension->Common == NULL) {
        return FALSE;
    }
    Extension->CommonPhysical =
        (ULONG64)StorPortGetPhysicalAddress(Extension, NULL, Extension->Common, &Length).QuadPart;
    /* Frames and sense buffers have one upper half of their addresses. */
    return Length >= sizeof(SAS_COMMON) &&
           Extension->CommonPhysical >> 32 == (Extension->CommonPhysical + sizeof(SAS_COMMON) - 1) >> 32;
}

static VOID Configure(PSAS_EXTENSION Extension, PPORT_CONFIGURATION_INFORMATION ConfigInfo)
{
    ConfigInfo->MaximumTransferLength = SAS_MAXIMUM_TRANSFER;
    ConfigInfo->NumberOfPhysicalBreaks = SAS_SEGMENTS;
    ConfigInfo->AlignmentMask = 3;
    ConfigInfo->NumberOfBuses = 1;
    ConfigInfo->MaximumNumberOfTargets = Extension->MaxDevices;
    ConfigInfo->MaximumNumberOfLogicalUnits = 8;
    ConfigInfo->ResetTargetSupported = TRUE;
    ConfigInfo->ScatterGather = TRUE;
    ConfigInfo->Master = TRUE;
    ConfigInfo->CachesData = TRUE;
    ConfigInfo->Dma64BitAddresses = SCSI_DMA64_MINIPORT_SUPPORTED;
    ConfigInfo->SynchronizationModel = StorSynchronizeFullDuplex;
    ConfigInfo->InterruptSynchronizationMode = InterruptSynchronizePerMessage;
    ConfigInfo->HwMSInterruptRoutine = SasMessageInterrupt;
}

static ULONG NTAPI HwFindAdapter(PVOID DeviceExtension, PVOID HwContext, PVOID BusInformation, PCHAR ArgumentString,
                                 PPORT_CONFIGURATION_INFORMATION ConfigInfo, PBOOLEAN Reserved3)
{
    PSAS_EXTENSION Extension = DeviceExtension;
    PACCESS_RANGE Range = FindMemory(ConfigInfo);

    UNREFERENCED_PARAMETER(HwContext);
    UNREFERENCED_PARAMETER(BusInformation);
    UNREFERENCED_PARAMETER(ArgumentString);
    UNREFERENCED_PARAMETER(Reserved3);
    if (Range == NULL || !IsOurs(Extension, ConfigInfo)) {
        return SP_RETURN_NOT_FOUND;
    }
    Extension->Registers =
        StorPortGetDeviceBase(Extension, ConfigInfo->AdapterInterfaceType, ConfigInfo->SystemIoBusNumber,
                              Range->RangeStart, Range->RangeLength, FALSE);
    if (Extension->Registers == NULL || !AllocateCommon(Extension, ConfigInfo)) {
        return SP_RETURN_ERROR;
    }
    KeInitializeSpinLock(&Extension->StatisticsLock);
    if (!SasMakeReady(Extension) || !SasReadFacts(Extension)) {
        return SP_RETURN_ERROR;
    }
    Configure(Extension, ConfigInfo);
    return SP_RETURN_FOUND;
}

/* At PASSIVE_LEVEL, after HwInitialize. */
static BOOLEAN NTAPI HwPassiveInitialize(PVOID DeviceExtension)
{
    PSAS_EXTENSION Extension = DeviceExtension;

    if (StorPortExtendedFunction(ExtFunctionInitializeWorker, Extension, &Extension->Worker) != STOR_STATUS_SUCCESS) {
        return FALSE;
    }
    if (!SasReadPhys(Extension) || !SasMakeOperational(Extension)) {
        return FALSE;
    }
    StorPortNotification(RequestTimerCall, Extension, SasTimer, SAS_TIMER_MICROSECONDS);
    return TRUE;
}

/* With the interrupt lock held: only what needs no waiting. */
static BOOLEAN NTAPI HwInitialize(PVOID DeviceExtension)
{
    PSAS_EXTENSION Extension = DeviceExtension;
    MESSAGE_INTERRUPT_INFORMATION Information;

    Extension->Messages = StorPortGetMSIInfo(Extension, 0, &Information) == STOR_STATUS_SUCCESS;
    StorPortDebugPrint(0, "sas: interrupts by %s\n", Extension->Messages ? "message" : "line");
    StorPortInitializeDpc(Extension, &Extension->CompletionDpc, SasCompletionDpc);
    StorPortInitializeDpc(Extension, &Extension->ResetDpc, SasResetDpc);
    StorPortInitializeDpc(Extension, &Extension->TopologyDpc, SasCompletionDpc);
    return StorPortEnablePassiveInitialization(Extension, HwPassiveInitialize);
}

static BOOLEAN NTAPI HwResetBus(PVOID DeviceExtension, ULONG PathId)
{
    PSAS_EXTENSION Extension = DeviceExtension;

    UNREFERENCED_PARAMETER(PathId);
    StorPortIssueDpc(Extension, &Extension->ResetDpc, NULL, NULL);
    return TRUE;
}

/* With the interrupt lock held. */
static VOID Stop(PVOID DeviceExtension)
{
    StorPortNotification(RequestTimerCall, DeviceExtension, SasTimer, 0);
    SasMakeReady(DeviceExtension);
}

static SCSI_ADAPTER_CONTROL_STATUS NTAPI HwAdapterControl(PVOID DeviceExtension, SCSI_ADAPTER_CONTROL_TYPE ControlType,
                                                          PVOID Parameters)
{
    return AdapterControl(DeviceExtension, ControlType, Parameters, Stop);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    HW_INITIALIZATION_DATA Data;

    AdapterData(&Data, sizeof(SAS_EXTENSION), sizeof(SAS_REQUEST));
    Data.AdapterInterfaceType = PCIBus;
    Data.MapBuffers = 1; /* STOR_MAP_NON_READ_WRITE_BUFFERS */
    Data.NeedPhysicalAddresses = TRUE;
    Data.HwInitialize = HwInitialize;
    Data.HwBuildIo = SasBuildIo;
    Data.HwStartIo = SasStartIo;
    Data.HwInterrupt = SasInterrupt;
    Data.HwFindAdapter = HwFindAdapter;
    Data.HwResetBus = HwResetBus;
    Data.HwAdapterControl = HwAdapterControl;
    Data.NumberOfAccessRanges = 3;
    return (NTSTATUS)StorPortInitialize(DriverObject, RegistryPath, &Data, NULL);
}
