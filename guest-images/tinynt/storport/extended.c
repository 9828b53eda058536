/* StorPortExtendedFunction: the export behind the newer StorPort routines, by function code. */
#include "raid.h"

#define MAX_CODES 256

static ULONG AcquireEx(PRAID_ADAPTER Adapter, va_list Arguments)
{
    STOR_SPINLOCK Kind = va_arg(Arguments, STOR_SPINLOCK);
    PVOID LockContext = va_arg(Arguments, PVOID);
    PSTOR_LOCK_HANDLE Handle = va_arg(Arguments, PSTOR_LOCK_HANDLE);

    RaidCount(RaidCountAcquireSpinLockEx);
    return Handle != NULL ? RaidAcquireLock(Adapter, Kind, LockContext, Handle) : STOR_STATUS_INVALID_PARAMETER;
}

static ULONG InitializeSpinlock(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    KeInitializeSpinLock(va_arg(Arguments, PKSPIN_LOCK));
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

static ULONG CancelDpc(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PSTOR_DPC Dpc = va_arg(Arguments, PSTOR_DPC);
    PBOOLEAN Removed = va_arg(Arguments, PBOOLEAN);

    UNREFERENCED_PARAMETER(Adapter);
    *Removed = KeRemoveQueueDpc(&Dpc->Dpc);
    return STOR_STATUS_SUCCESS;
}

/* Events, hints and attributes that nothing here looks at. */
static ULONG Accept(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    UNREFERENCED_PARAMETER(Arguments);
    return STOR_STATUS_SUCCESS;
}

/* Documented, and this machine has nothing of the kind: power framework, ACPI, RPMB, encryption. */
static ULONG Unsupported(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    UNREFERENCED_PARAMETER(Arguments);
    return STOR_STATUS_UNSUCCESSFUL;
}

static ULONG AnswerNo(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    *va_arg(Arguments, PBOOLEAN) = FALSE;
    return STOR_STATUS_SUCCESS;
}

static ULONG AnswerNoD3Cold(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PVOID Address = va_arg(Arguments, PVOID);

    UNREFERENCED_PARAMETER(Address);
    return AnswerNo(Adapter, Arguments);
}

static RAID_EXTENDED_FUNCTION *const Functions[] = {
    [ExtFunctionAllocatePool] = RaidAllocatePool,
    [ExtFunctionFreePool] = RaidFreePool,
    [ExtFunctionAllocateMdl] = RaidAllocateMdl,
    [ExtFunctionFreeMdl] = RaidFreeMdl,
    [ExtFunctionBuildMdlForNonPagedPool] = RaidBuildMdl,
    [ExtFunctionGetSystemAddress] = RaidGetSystemAddress,
    [ExtFunctionGetOriginalMdl] = RaidGetOriginalMdl,
    [ExtFunctionCompleteServiceIrp] = RaidCompleteServiceIrp,
    [ExtFunctionGetDeviceObjects] = RaidGetDeviceObjects,
    [ExtFunctionBuildScatterGatherList] = RaidBuildScatterGatherList,
    [ExtFunctionPutScatterGatherList] = RaidPutScatterGatherList,
    [ExtFunctionAcquireMSISpinLock] = AcquireMessageLock,
    [ExtFunctionReleaseMSISpinLock] = ReleaseMessageLock,
    [ExtFunctionGetMessageInterruptInformation] = RaidGetMessageInformation,
    [ExtFunctionInitializePerformanceOptimizations] = RaidPerformanceOptimizations,
    [ExtFunctionGetStartIoPerformanceParameters] = RaidStartIoParameters,
    [ExtFunctionLogSystemEvent] = Accept,
    [ExtFunctionGetCurrentProcessorNumber] = RaidGetProcessorNumber,
    [ExtFunctionGetActiveGroupCount] = RaidGetGroupCount,
    [ExtFunctionGetGroupAffinity] = RaidGetGroupAffinity,
    [ExtFunctionGetActiveNodeCount] = RaidGetNodeCount,
    [ExtFunctionGetNodeAffinity] = RaidGetNodeAffinity,
    [ExtFunctionGetHighestNodeNumber] = RaidGetHighestNode,
    [ExtFunctionGetLogicalProcessorRelationship] = Unsupported,
    [ExtFunctionAllocateContiguousMemorySpecifyCacheNode] = RaidAllocateContiguous,
    [ExtFunctionFreeContiguousMemorySpecifyCache] = RaidFreeContiguous,
    [ExtFunctionSetPowerSettingNotificationGuids] = RaidSetPowerSettingGuids,
    [ExtFunctionInvokeAcpiMethod] = Unsupported,
    [ExtFunctionGetRequestInfo] = RaidGetRequestInfo,
    [ExtFunctionInitializeWorker] = RaidInitializeWorker,
    [ExtFunctionQueueWorkItem] = RaidQueueWorkItem,
    [ExtFunctionFreeWorker] = RaidFreeWorker,
    [ExtFunctionInitializeTimer] = RaidInitializeTimerEx,
    [ExtFunctionRequestTimer] = RaidRequestTimerEx,
    [ExtFunctionFreeTimer] = RaidFreeTimerEx,
    [ExtFunctionInitializeSListHead] = RaidInitializeSList,
    [ExtFunctionInterlockedFlushSList] = RaidFlushSList,
    [ExtFunctionInterlockedPopEntrySList] = RaidPopSList,
    [ExtFunctionInterlockedPushEntrySList] = RaidPushSList,
    [ExtFunctionQueryDepthSList] = RaidQueryDepthSList,
    [ExtFunctionGetActivityId] = RaidGetActivityId,
    [ExtFunctionGetSystemPortNumber] = RaidGetPortNumber,
    [ExtFunctionGetDataInBufferMdl] = Unsupported,
    [ExtFunctionGetDataInBufferSystemAddress] = Unsupported,
    [ExtFunctionGetDataInBufferScatterGatherList] = Unsupported,
    [ExtFunctionMarkDumpMemory] = Accept,
    [ExtFunctionSetUnitAttributes] = Accept,
    [ExtFunctionQueryPerformanceCounter] = RaidQueryPerformanceCounter,
    [ExtFunctionInitializePoFxPower] = Unsupported,
    [ExtFunctionPoFxActivateComponent] = Unsupported,
    [ExtFunctionPoFxIdleComponent] = Unsupported,
    [ExtFunctionPoFxSetComponentLatency] = Unsupported,
    [ExtFunctionPoFxSetComponentResidency] = Unsupported,
    [ExtFunctionPoFxPowerControl] = Unsupported,
    [ExtFunctionFlushDataBufferMdl] = Accept,
    [ExtFunctionDeviceOperationAllowed] = Unsupported,
    [ExtFunctionGetProcessorIndexFromNumber] = RaidGetIndexFromNumber,
    [ExtFunctionPoFxSetIdleTimeout] = Unsupported,
    [ExtFunctionMiniportEtwEvent2] = Accept,
    [ExtFunctionMiniportEtwEvent4] = Accept,
    [ExtFunctionMiniportEtwEvent8] = Accept,
    [ExtFunctionCurrentOsInstallationUpgrade] = AnswerNo,
    [ExtFunctionRegistryReadAdapterKey] = RaidReadAdapterKey,
    [ExtFunctionRegistryWriteAdapterKey] = Unsupported,
    [ExtFunctionSetAdapterBusType] = Accept,
    [ExtFunctionPoFxRegisterPerfStates] = Unsupported,
    [ExtFunctionPoFxSetPerfState] = Unsupported,
    [ExtFunctionGetD3ColdSupport] = AnswerNoD3Cold,
    [ExtFunctionInitializeRpmb] = Unsupported,
    [ExtFunctionAllocateHmb] = Unsupported,
    [ExtFunctionFreeHmb] = Unsupported,
    [ExtFunctionPropagateIrpExtension] = Accept,
    [ExtFunctionInterlockedInsertHeadList] = RaidInsertHeadList,
    [ExtFunctionInterlockedInsertTailList] = RaidInsertTailList,
    [ExtFunctionInterlockedRemoveHeadList] = RaidRemoveHeadList,
    [ExtFunctionInitializeSpinlock] = InitializeSpinlock,
    [ExtFunctionGetPfns] = RaidGetPfns,
    [ExtFunctionInitializeCryptoEngine] = Unsupported,
    [ExtFunctionGetRequestCryptoInfo] = Unsupported,
    [ExtFunctionMiniportTelemetry] = Accept,
    [ExtFunctionUpdateAdapterMaxIO] = RaidUpdateMaxIo,
    [ExtFunctionDelayExecution] = RaidDelayExecution,
    [ExtFunctionAllocateDmaMemory] = RaidAllocateDmaMemory,
    [ExtFunctionFreeDmaMemory] = RaidFreeDmaMemory,
    [ExtFunctionUpdateAdapterMaxIOInfo] = Accept,
    [ExtFunctionMiniportChannelEtwEvent2] = Accept,
    [ExtFunctionMiniportChannelEtwEvent4] = Accept,
    [ExtFunctionMiniportChannelEtwEvent8] = Accept,
    [ExtFunctionInitializeHighResolutionTimer] = Unsupported,
    [ExtFunctionRequestHighResolutionTimer] = Unsupported,
    [ExtFunctionCancelHighResolutionTimer] = Unsupported,
    [ExtFunctionFreeHighResolutionTimer] = Unsupported,
    [ExtFunctionGetCurrentProcessorIndex] = RaidGetProcessorIndex,
    [ExtFunctionAcquireSpinLock] = AcquireEx,
    [ExtFunctionGetProcessorCount] = RaidGetProcessorCount,
    [ExtFunctionCancelDpc] = CancelDpc,
    [ExtFunctionMiniportTelemetryEx] = Accept,
    [ExtFunctionQueryConfiguration] = Unsupported,
    [ExtFunctionLogHardwareError] = Accept,
    [ExtFunctionGetCurrentIrql] = RaidGetIrql,
};

/* Says so once for each code: a miniport may call again and again. */
static VOID ReportOnce(ULONG FunctionCode, PCSTR What)
{
    static volatile LONG Reported[MAX_CODES / 32];
    ULONG Bit = FunctionCode < MAX_CODES ? FunctionCode : MAX_CODES - 1;

    if (!(InterlockedOr(&Reported[Bit / 32], (LONG)(1u << Bit % 32)) & (LONG)(1u << Bit % 32))) {
        DbgPrint("storport: StorPortExtendedFunction: code 0x%lx %s\n", FunctionCode, What);
    }
}

ULONG __cdecl StorPortExtendedFunction(STORPORT_FUNCTION_CODE FunctionCode, PVOID HwDeviceExtension, ...)
{
    RAID_EXTENDED_FUNCTION *Function;
    va_list Arguments;
    ULONG Status;

    RaidCount(RaidCountExtendedFunction);
    if (HwDeviceExtension == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    Function = (ULONG)FunctionCode < RTL_NUMBER_OF(Functions) ? Functions[FunctionCode] : NULL;
    if (Function == NULL) {
        ReportOnce(FunctionCode, "is not implemented");
        return STOR_STATUS_NOT_IMPLEMENTED;
    }
    if (Function == Unsupported) {
        ReportOnce(FunctionCode, "is refused: this machine has nothing of the kind");
    }
    va_start(Arguments, HwDeviceExtension);
    Status = Function(RaidAdapterOf(HwDeviceExtension), Arguments);
    va_end(Arguments);
    return Status;
}
