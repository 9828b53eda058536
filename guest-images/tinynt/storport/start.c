/*
 * Starting and stopping an adapter: resources, then the miniport's initialisation callbacks in the documented order
 * (HwFindAdapter, HwInitialize, HwPassiveInitializeRoutine), and HwAdapterControl(ScsiStopAdapter) at the end.
 */
#include "raid.h"

static VOID DescribeBus(PRAID_ADAPTER Adapter)
{
    PPORT_CONFIGURATION_INFORMATION Config = &Adapter->Config;
    ULONG Length = 0, Bus = 0, Address = 0;
    PCI_SLOT_NUMBER Slot = {.u.AsULONG = 0};

    if (Adapter->Hw.AdapterInterfaceType == PCIBus) {
        IoGetDeviceProperty(Adapter->PhysicalDevice, DevicePropertyBusNumber, sizeof(Bus), &Bus, &Length);
        IoGetDeviceProperty(Adapter->PhysicalDevice, DevicePropertyAddress, sizeof(Address), &Address, &Length);
        Slot.u.bits.DeviceNumber = Address >> 16;
        Slot.u.bits.FunctionNumber = Address & 7;
    }
    Config->SystemIoBusNumber = Bus;
    Config->SlotNumber = Slot.u.AsULONG;
}

static BOOLEAN WantsExtendedSrb(PHW_INITIALIZATION_DATA Hw)
{
    return (Hw->SrbTypeFlags & SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK) != 0;
}

/* By the structure that it registered, or by its feature flags (Windows 8 and later). */
static BOOLEAN IsVirtualMiniport(PHW_INITIALIZATION_DATA Hw)
{
    return Hw->HwInitializationDataSize == VIRTUAL_HW_INITIALIZATION_DATA_SIZE ||
           (Hw->FeatureSupport & STOR_FEATURE_VIRTUAL_MINIPORT) != 0 || Hw->AdapterInterfaceType == Internal;
}

static VOID DescribeAdapter(PRAID_ADAPTER Adapter)
{
    PPORT_CONFIGURATION_INFORMATION Config = &Adapter->Config;
    PHW_INITIALIZATION_DATA Hw = &Adapter->Hw;

    RtlZeroMemory(Config, sizeof(*Config));
    Config->Length = sizeof(*Config);
    Config->AdapterInterfaceType = Hw->AdapterInterfaceType;
    Config->MaximumTransferLength = SP_UNINITIALIZED_VALUE;
    Config->NumberOfPhysicalBreaks = SP_UNINITIALIZED_VALUE;
    Config->DmaChannel = SP_UNINITIALIZED_VALUE;
    Config->DmaPort = SP_UNINITIALIZED_VALUE;
    Config->NumberOfAccessRanges = Hw->NumberOfAccessRanges;
    Config->AccessRanges = (ACCESS_RANGE(*)[])Adapter->AccessRanges;
    Config->MapBuffers = Hw->MapBuffers;
    Config->NeedPhysicalAddresses = Hw->NeedPhysicalAddresses;
    Config->TaggedQueuing = Hw->TaggedQueuing;
    Config->AutoRequestSense = Hw->AutoRequestSense;
    Config->MultipleRequestPerLu = Hw->MultipleRequestPerLu;
    Config->MaximumNumberOfTargets = SCSI_MAXIMUM_TARGETS;
    Config->MaximumNumberOfLogicalUnits = SCSI_MAXIMUM_LOGICAL_UNITS;
    Config->DeviceExtensionSize = Hw->DeviceExtensionSize;
    Config->SpecificLuExtensionSize = Hw->SpecificLuExtensionSize;
    Config->SrbExtensionSize = Hw->SrbExtensionSize;
    Config->SrbType = WantsExtendedSrb(Hw) ? SRB_TYPE_STORAGE_REQUEST_BLOCK : SRB_TYPE_SCSI_REQUEST_BLOCK;
    Config->AddressType = STORAGE_ADDRESS_TYPE_BTL8;
    Config->FeatureSupport = 0;
    Config->InterruptMode = Adapter->MessageCount != 0 ? Latched : LevelSensitive;
    Config->Dma64BitAddresses = SCSI_DMA64_SYSTEM_SUPPORTED;
    Config->DmaAddressWidth = 64;
    DescribeBus(Adapter);
}

static VOID ReadDescriptor(PRAID_ADAPTER Adapter, PCM_PARTIAL_RESOURCE_DESCRIPTOR Descriptor, PULONG Ranges)
{
    PACCESS_RANGE Range = &Adapter->AccessRanges[*Ranges];

    if (Descriptor->Type == CmResourceTypeInterrupt) {
        if (Descriptor->Flags & CM_RESOURCE_INTERRUPT_MESSAGE) {
            Adapter->MessageCount++;
        }
        return;
    }
    if (*Ranges == RAID_MAX_RANGES ||
        (Descriptor->Type != CmResourceTypeMemory && Descriptor->Type != CmResourceTypePort)) {
        return;
    }
    Range->RangeStart = Descriptor->u.Memory.Start;
    Range->RangeLength = Descriptor->u.Memory.Length;
    Range->RangeInMemory = Descriptor->Type == CmResourceTypeMemory;
    *Ranges += 1;
}

/* Walks by pointer: the compiler holds an index into a nested array of one element to be 0. */
static VOID ReadResources(PRAID_ADAPTER Adapter, PCM_RESOURCE_LIST Resources)
{
    PCM_PARTIAL_RESOURCE_DESCRIPTOR Descriptor;
    ULONG Count, Ranges = 0;

    if (Resources == NULL || Resources->Count == 0) {
        return;
    }
    Descriptor = Resources->List[0].PartialResourceList.PartialDescriptors;
    for (Count = Resources->List[0].PartialResourceList.Count; Count != 0; Count--) {
        ReadDescriptor(Adapter, Descriptor++, &Ranges);
    }
}

static NTSTATUS FindAdapter(PRAID_ADAPTER Adapter)
{
    static CHAR NoArguments[] = "";
    SIZE_T Size = sizeof(RAID_HW_HEADER) + Adapter->Hw.DeviceExtensionSize;
    PRAID_HW_HEADER Header = ExAllocatePoolWithTag(NonPagedPool, Size, RAID_TAG);
    BOOLEAN Again = FALSE;
    ULONG Result;

    if (Header == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    RtlZeroMemory(Header, Size);
    Header->Adapter = Adapter;
    Adapter->HwExtension = Header + 1;
    if (IsVirtualMiniport(&Adapter->Hw)) {
        Result = Adapter->Hw.VirtualHwFindAdapter(Adapter->HwExtension, Adapter->PhysicalDevice, NULL,
                                                  Adapter->LowerDevice, NoArguments, &Adapter->Config, &Again);
    } else {
        Result = Adapter->Hw.HwFindAdapter(Adapter->HwExtension, NULL, NULL, NoArguments, &Adapter->Config, &Again);
    }
    Adapter->Virtual = Adapter->Config.VirtualDevice;
    Adapter->ExtendedSrb = Adapter->Config.SrbType == SRB_TYPE_STORAGE_REQUEST_BLOCK;
    return Result == SP_RETURN_FOUND ? STATUS_SUCCESS : STATUS_NO_SUCH_DEVICE;
}

static NTSTATUS InitializeMiniport(PRAID_ADAPTER Adapter)
{
    BOOLEAN Good;
    KIRQL OldIrql;

    Adapter->Initializing = TRUE;
    if (Adapter->Virtual) {
        Good = Adapter->Hw.HwInitialize(Adapter->HwExtension);
    } else {
        OldIrql = RaidAcquireInterruptLock(Adapter);
        Good = Adapter->Hw.HwInitialize(Adapter->HwExtension);
        RaidReleaseInterruptLock(Adapter, OldIrql);
    }
    if (Good && Adapter->PassiveInitialize != NULL) {
        Good = Adapter->PassiveInitialize(Adapter->HwExtension);
    }
    Adapter->Initializing = FALSE;
    return Good ? STATUS_SUCCESS : STATUS_ADAPTER_HARDWARE_ERROR;
}

static VOID InitializeCompletionQueues(PRAID_ADAPTER Adapter)
{
    for (ULONG Processor = 0; Processor < RAID_MAX_PROCESSORS; Processor++) {
        KeInitializeDpc(&Adapter->Completion[Processor].Dpc, RaidCompletionDpc, &Adapter->Completion[Processor]);
        if (Processor < KeQueryActiveProcessorCountEx(ALL_PROCESSOR_GROUPS)) {
            KeSetTargetProcessorDpc(&Adapter->Completion[Processor].Dpc, (CCHAR)Processor);
        }
    }
}

NTSTATUS RaidAdapterStart(PRAID_ADAPTER Adapter, PCM_RESOURCE_LIST Resources)
{
    NTSTATUS Status;

    KeInitializeSpinLock(&Adapter->StartIoSpinLock);
    KeInitializeSpinLock(&Adapter->InterruptSpinLock);
    InitializeCompletionQueues(Adapter);
    RaidInitializeTimers(Adapter);
    ReadResources(Adapter, Resources);
    DescribeAdapter(Adapter);
    Adapter->IoTimeout = RaidRegistryNumber(Adapter, "IoTimeoutValue", 0);
    Status = FindAdapter(Adapter);
    if (NT_SUCCESS(Status)) {
        Status = RaidConnectInterrupt(Adapter);
    }
    if (NT_SUCCESS(Status)) {
        Status = InitializeMiniport(Adapter);
    }
    if (!NT_SUCCESS(Status)) {
        DbgPrint("storport: adapter did not start, status 0x%lx\n", (ULONG)Status);
        KeCancelTimer(&Adapter->SecondTimer);
        RaidDisconnectInterrupt(Adapter);
        return Status;
    }
    RaidQueryControlTypes(Adapter);
    RaidTellPowerSettings(Adapter);
    Adapter->Started = TRUE;
    return STATUS_SUCCESS;
}

/* What an adapter that did not start has left: no DPC of it runs any more afterwards. */
VOID RaidAdapterFree(PRAID_ADAPTER Adapter)
{
    KeCancelTimer(&Adapter->SecondTimer);
    KeCancelTimer(&Adapter->HwTimer);
    KeFlushQueuedDpcs();
    for (ULONG Index = 0; Index < RAID_MAX_MAPPINGS; Index++) {
        if (Adapter->HwExtension != NULL && Adapter->Mappings[Index].Virtual != NULL) {
            StorPortFreeDeviceBase(Adapter->HwExtension, Adapter->Mappings[Index].Virtual);
        }
    }
    if (Adapter->Uncached != NULL) {
        MmFreeContiguousMemory(Adapter->Uncached);
    }
    if (Adapter->HwExtension != NULL) {
        ExFreePoolWithTag((PRAID_HW_HEADER)Adapter->HwExtension - 1, RAID_TAG);
    }
}

VOID RaidAdapterStop(PRAID_ADAPTER Adapter)
{
    LARGE_INTEGER Interval = {.QuadPart = -10 * 1000};

    if (!Adapter->Started || Adapter->Stopped) {
        return;
    }
    RaidAdapterPowerDown(Adapter);
    Adapter->Stopped = TRUE;
    while (Adapter->OutstandingTotal != 0) {
        KeDelayExecutionThread(KernelMode, FALSE, &Interval);
    }
    KeCancelTimer(&Adapter->SecondTimer);
    KeCancelTimer(&Adapter->HwTimer);
    KeFlushQueuedDpcs(); /* a timer routine on another processor may still use what goes now */
    RaidStopMiniport(Adapter);
    RaidDisconnectInterrupt(Adapter);
    if (Adapter->Virtual && Adapter->Hw.HwFreeAdapterResources != NULL) {
        Adapter->Hw.HwFreeAdapterResources(Adapter->HwExtension);
    }
    RaidPrintCounters();
}
