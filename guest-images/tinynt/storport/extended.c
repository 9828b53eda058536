/* StorPortExtendedFunction: the export behind the newer StorPort routines, by function code. */
#include "raid.h"

static ULONG AllocatePool(va_list Arguments)
{
    ULONG Bytes = va_arg(Arguments, ULONG);
    ULONG Tag = va_arg(Arguments, ULONG);
    PVOID *Result = va_arg(Arguments, PVOID *);

    *Result = Bytes != 0 ? ExAllocatePoolWithTag(NonPagedPool, Bytes, Tag) : NULL;
    return *Result != NULL ? STOR_STATUS_SUCCESS : STOR_STATUS_INSUFFICIENT_RESOURCES;
}

static ULONG GetMessageInformation(PRAID_ADAPTER Adapter, va_list Arguments)
{
    ULONG MessageId = va_arg(Arguments, ULONG);
    PMESSAGE_INTERRUPT_INFORMATION Information = va_arg(Arguments, PMESSAGE_INTERRUPT_INFORMATION);
    PIO_INTERRUPT_MESSAGE_INFO_ENTRY Entry;

    if (Adapter->MessageTable == NULL || MessageId >= Adapter->MessageTable->MessageCount) {
        return STOR_STATUS_UNSUCCESSFUL;
    }
    Entry = &Adapter->MessageTable->MessageInfo[MessageId];
    Information->MessageId = MessageId;
    Information->MessageData = Entry->MessageData;
    Information->MessageAddress = Entry->MessageAddress;
    Information->InterruptVector = Entry->Vector;
    Information->InterruptLevel = Entry->Irql;
    Information->InterruptMode = Entry->Mode;
    return STOR_STATUS_SUCCESS;
}

static ULONG PerformanceOptimizations(PRAID_ADAPTER Adapter, va_list Arguments)
{
    BOOLEAN Query = (BOOLEAN)va_arg(Arguments, int);
    PPERF_CONFIGURATION_DATA Data = va_arg(Arguments, PPERF_CONFIGURATION_DATA);

    if (Query) {
        Data->Flags = STOR_PERF_CONCURRENT_CHANNELS;
        Data->ConcurrentChannels = KeQueryActiveProcessorCountEx(ALL_PROCESSOR_GROUPS);
        return STOR_STATUS_SUCCESS;
    }
    if (Data->Flags & ~(ULONG)STOR_PERF_CONCURRENT_CHANNELS) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    if (Data->Flags & STOR_PERF_CONCURRENT_CHANNELS) {
        Adapter->ConcurrentChannels = Data->ConcurrentChannels;
    }
    return STOR_STATUS_SUCCESS;
}

static ULONG GetDeviceObjects(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PVOID *AdapterDevice = va_arg(Arguments, PVOID *);
    PVOID *PhysicalDevice = va_arg(Arguments, PVOID *);
    PVOID *LowerDevice = va_arg(Arguments, PVOID *);

    *AdapterDevice = Adapter->DeviceObject;
    *PhysicalDevice = Adapter->PhysicalDevice;
    *LowerDevice = Adapter->LowerDevice;
    return STOR_STATUS_SUCCESS;
}

static ULONG GetSystemAddress(va_list Arguments)
{
    PSCSI_REQUEST_BLOCK Srb = va_arg(Arguments, PSCSI_REQUEST_BLOCK);
    PVOID *Address = va_arg(Arguments, PVOID *);

    *Address = Srb->DataBuffer;
    return *Address != NULL ? STOR_STATUS_SUCCESS : STOR_STATUS_UNSUCCESSFUL;
}

static ULONG GetOriginalMdl(va_list Arguments)
{
    PSCSI_REQUEST_BLOCK Srb = va_arg(Arguments, PSCSI_REQUEST_BLOCK);
    PVOID *Mdl = va_arg(Arguments, PVOID *);
    PRAID_REQUEST Request = RaidRequestOf(Srb);

    if (Request == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    *Mdl = Request->Irp->MdlAddress;
    return STOR_STATUS_SUCCESS;
}

static ULONG AcquireEx(PRAID_ADAPTER Adapter, va_list Arguments)
{
    STOR_SPINLOCK Kind = va_arg(Arguments, STOR_SPINLOCK);
    PVOID LockContext = va_arg(Arguments, PVOID);
    PSTOR_LOCK_HANDLE Handle = va_arg(Arguments, PSTOR_LOCK_HANDLE);

    return Handle != NULL ? RaidAcquireLock(Adapter, Kind, LockContext, Handle) : STOR_STATUS_INVALID_PARAMETER;
}

static ULONG RequestTimer(va_list Arguments)
{
    PVOID Timer = va_arg(Arguments, PVOID);
    PHW_TIMER_EX Callback = va_arg(Arguments, PHW_TIMER_EX);
    PVOID Context = va_arg(Arguments, PVOID);
    ULONGLONG Microseconds = va_arg(Arguments, ULONGLONG);

    return RaidRequestTimerEx(Timer, Callback, Context, Microseconds);
}

static VOID NTAPI WorkerRoutine(PDEVICE_OBJECT DeviceObject, PVOID Context)
{
    PRAID_WORKER Worker = Context;

    UNREFERENCED_PARAMETER(DeviceObject);
    InterlockedExchange(&Worker->Queued, 0);
    Worker->Routine(Worker->Adapter->HwExtension, Worker->Context, Worker);
}

static ULONG InitializeWorker(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PVOID *Result = va_arg(Arguments, PVOID *);
    PRAID_WORKER Worker = ExAllocatePoolWithTag(NonPagedPool, sizeof(*Worker), RAID_TAG);

    if (Worker == NULL) {
        return STOR_STATUS_INSUFFICIENT_RESOURCES;
    }
    RtlZeroMemory(Worker, sizeof(*Worker));
    Worker->Adapter = Adapter;
    Worker->WorkItem = IoAllocateWorkItem(Adapter->DeviceObject);
    if (Worker->WorkItem == NULL) {
        ExFreePoolWithTag(Worker, RAID_TAG);
        return STOR_STATUS_INSUFFICIENT_RESOURCES;
    }
    *Result = Worker;
    return STOR_STATUS_SUCCESS;
}

static ULONG QueueWorkItem(va_list Arguments)
{
    PHW_WORKITEM Routine = va_arg(Arguments, PHW_WORKITEM);
    PRAID_WORKER Worker = va_arg(Arguments, PRAID_WORKER);
    PVOID Context = va_arg(Arguments, PVOID);

    if (InterlockedExchange(&Worker->Queued, 1) != 0) {
        return STOR_STATUS_BUSY;
    }
    Worker->Routine = Routine;
    Worker->Context = Context;
    IoQueueWorkItem(Worker->WorkItem, WorkerRoutine, DelayedWorkQueue, Worker);
    return STOR_STATUS_SUCCESS;
}

static ULONG FreeWorker(va_list Arguments)
{
    PRAID_WORKER Worker = va_arg(Arguments, PRAID_WORKER);

    IoFreeWorkItem(Worker->WorkItem);
    ExFreePoolWithTag(Worker, RAID_TAG);
    return STOR_STATUS_SUCCESS;
}

static ULONG AllocateContiguous(va_list Arguments)
{
    SIZE_T Bytes = va_arg(Arguments, SIZE_T);
    PHYSICAL_ADDRESS Lowest = va_arg(Arguments, PHYSICAL_ADDRESS);
    PHYSICAL_ADDRESS Highest = va_arg(Arguments, PHYSICAL_ADDRESS);
    PHYSICAL_ADDRESS Boundary = va_arg(Arguments, PHYSICAL_ADDRESS);
    MEMORY_CACHING_TYPE CacheType = va_arg(Arguments, MEMORY_CACHING_TYPE);
    ULONG Node = va_arg(Arguments, ULONG);
    PVOID *Result = va_arg(Arguments, PVOID *);

    UNREFERENCED_PARAMETER(Node);
    *Result = MmAllocateContiguousMemorySpecifyCache(Bytes, Lowest, Highest, Boundary, CacheType);
    return *Result != NULL ? STOR_STATUS_SUCCESS : STOR_STATUS_INSUFFICIENT_RESOURCES;
}

static ULONG FreeContiguous(va_list Arguments)
{
    PVOID Address = va_arg(Arguments, PVOID);
    SIZE_T Bytes = va_arg(Arguments, SIZE_T);
    MEMORY_CACHING_TYPE CacheType = va_arg(Arguments, MEMORY_CACHING_TYPE);

    MmFreeContiguousMemorySpecifyCache(Address, Bytes, CacheType);
    return STOR_STATUS_SUCCESS;
}

static ULONG GetUlong(va_list Arguments, ULONG Value)
{
    *va_arg(Arguments, PULONG) = Value;
    return STOR_STATUS_SUCCESS;
}

static ULONG GetProcessorNumber(va_list Arguments)
{
    KeGetCurrentProcessorNumberEx(va_arg(Arguments, PPROCESSOR_NUMBER));
    return STOR_STATUS_SUCCESS;
}

static ULONG QueryPerformanceCounter(va_list Arguments)
{
    PLARGE_INTEGER Frequency = va_arg(Arguments, PLARGE_INTEGER);
    PLARGE_INTEGER Counter = va_arg(Arguments, PLARGE_INTEGER);

    *Counter = KeQueryPerformanceCounter(Frequency);
    return STOR_STATUS_SUCCESS;
}

static ULONG DelayThread(va_list Arguments)
{
    LARGE_INTEGER Interval = {.QuadPart = -10LL * va_arg(Arguments, ULONG)};

    KeDelayExecutionThread(KernelMode, FALSE, &Interval);
    return STOR_STATUS_SUCCESS;
}

/* Function codes that have to do with processors, time and memory, not with locks. */
static ULONG OtherFunction(PRAID_ADAPTER Adapter, ULONG FunctionCode, va_list Arguments)
{
    switch (FunctionCode) {
    case ExtFunctionGetSystemAddress:
        return GetSystemAddress(Arguments);
    case ExtFunctionGetOriginalMdl:
        return GetOriginalMdl(Arguments);
    case ExtFunctionGetDeviceObjects:
        return GetDeviceObjects(Adapter, Arguments);
    case ExtFunctionGetCurrentProcessorNumber:
        return GetProcessorNumber(Arguments);
    case ExtFunctionGetActiveGroupCount:
    case ExtFunctionGetActiveNodeCount:
        *va_arg(Arguments, PUSHORT) = 1;
        return STOR_STATUS_SUCCESS;
    case ExtFunctionGetHighestNodeNumber:
        return GetUlong(Arguments, 0);
    case ExtFunctionGetCurrentProcessorIndex:
        return GetUlong(Arguments, KeGetCurrentProcessorNumberEx(NULL));
    case ExtFunctionGetProcessorCount:
        return GetUlong(Arguments, KeQueryActiveProcessorCountEx(ALL_PROCESSOR_GROUPS));
    case ExtFunctionGetCurrentIrql:
        *va_arg(Arguments, PKIRQL) = KeGetCurrentIrql();
        return STOR_STATUS_SUCCESS;
    case ExtFunctionAllocateContiguousMemorySpecifyCacheNode:
        return AllocateContiguous(Arguments);
    case ExtFunctionFreeContiguousMemorySpecifyCache:
        return FreeContiguous(Arguments);
    case ExtFunctionQueryPerformanceCounter:
        return QueryPerformanceCounter(Arguments);
    case ExtFunctionDelayExecution:
        return DelayThread(Arguments);
    case ExtFunctionLogSystemEvent:
        return STOR_STATUS_SUCCESS;
    default:
        DbgPrint("storport: StorPortExtendedFunction: code 0x%lx is not implemented\n", FunctionCode);
        return STOR_STATUS_NOT_IMPLEMENTED;
    }
}

static ULONG CancelDpc(va_list Arguments)
{
    PSTOR_DPC Dpc = va_arg(Arguments, PSTOR_DPC);
    PBOOLEAN Removed = va_arg(Arguments, PBOOLEAN);

    *Removed = KeRemoveQueueDpc(&Dpc->Dpc);
    return STOR_STATUS_SUCCESS;
}

static ULONG AcquireMessageLock(PRAID_ADAPTER Adapter, va_list Arguments)
{
    ULONG MessageId = va_arg(Arguments, ULONG);
    PULONG OldIrql = va_arg(Arguments, PULONG);

    RaidCount(RaidCountAcquireMsiSpinLock);
    return RaidAcquireMessageLock(Adapter, MessageId, OldIrql);
}

static ULONG ReleaseMessageLock(PRAID_ADAPTER Adapter, va_list Arguments)
{
    ULONG MessageId = va_arg(Arguments, ULONG);
    ULONG OldIrql = va_arg(Arguments, ULONG);

    RaidCount(RaidCountReleaseMsiSpinLock);
    return RaidReleaseMessageLock(Adapter, MessageId, OldIrql);
}

static ULONG Dispatch(PRAID_ADAPTER Adapter, ULONG FunctionCode, va_list Arguments)
{
    switch (FunctionCode) {
    case ExtFunctionAllocatePool:
        return AllocatePool(Arguments);
    case ExtFunctionFreePool:
        ExFreePool(va_arg(Arguments, PVOID));
        return STOR_STATUS_SUCCESS;
    case ExtFunctionAcquireMSISpinLock:
        return AcquireMessageLock(Adapter, Arguments);
    case ExtFunctionReleaseMSISpinLock:
        return ReleaseMessageLock(Adapter, Arguments);
    case ExtFunctionAcquireSpinLock:
        RaidCount(RaidCountAcquireSpinLockEx);
        return AcquireEx(Adapter, Arguments);
    case ExtFunctionInitializeSpinlock:
        KeInitializeSpinLock(va_arg(Arguments, PKSPIN_LOCK));
        return STOR_STATUS_SUCCESS;
    case ExtFunctionGetMessageInterruptInformation:
        return GetMessageInformation(Adapter, Arguments);
    case ExtFunctionInitializePerformanceOptimizations:
        return PerformanceOptimizations(Adapter, Arguments);
    case ExtFunctionInitializeWorker:
        return InitializeWorker(Adapter, Arguments);
    case ExtFunctionQueueWorkItem:
        return QueueWorkItem(Arguments);
    case ExtFunctionFreeWorker:
        return FreeWorker(Arguments);
    case ExtFunctionInitializeTimer:
        return RaidInitializeTimerEx(Adapter, va_arg(Arguments, PVOID *));
    case ExtFunctionRequestTimer:
        return RequestTimer(Arguments);
    case ExtFunctionFreeTimer:
        return RaidFreeTimerEx(va_arg(Arguments, PVOID));
    case ExtFunctionCancelDpc:
        return CancelDpc(Arguments);
    default:
        return OtherFunction(Adapter, FunctionCode, Arguments);
    }
}

ULONG __cdecl StorPortExtendedFunction(STORPORT_FUNCTION_CODE FunctionCode, PVOID HwDeviceExtension, ...)
{
    va_list Arguments;
    ULONG Status;

    RaidCount(RaidCountExtendedFunction);
    if (HwDeviceExtension == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    va_start(Arguments, HwDeviceExtension);
    Status = Dispatch(RaidAdapterOf(HwDeviceExtension), FunctionCode, Arguments);
    va_end(Arguments);
    return Status;
}
