/* Extended functions for processors, interrupt messages, performance options and time. There is one group, one node. */
#include "raid.h"

static ULONG SupportedOptions(ULONG Version)
{
    ULONG Flags = STOR_PERF_DPC_REDIRECTION | STOR_PERF_CONCURRENT_CHANNELS | STOR_PERF_INTERRUPT_MESSAGE_RANGES;

    if (Version >= STOR_PERF_VERSION_3) {
        Flags |= STOR_PERF_ADV_CONFIG_LOCALITY | STOR_PERF_OPTIMIZE_FOR_COMPLETION_DURING_STARTIO;
    }
    if (Version >= STOR_PERF_VERSION_4) {
        Flags |= STOR_PERF_DPC_REDIRECTION_CURRENT_CPU;
    }
    if (Version >= STOR_PERF_VERSION_5) {
        Flags |= STOR_PERF_NO_SGL;
    }
    return Flags;
}

/* Tells which processors each message goes to, in the array that the miniport gave. */
static VOID DescribeMessageTargets(PRAID_ADAPTER Adapter, PPERF_CONFIGURATION_DATA Data)
{
    for (ULONG Message = Data->FirstRedirectionMessageNumber; Message <= Data->LastRedirectionMessageNumber;
         Message++) {
        PGROUP_AFFINITY Target = &Data->MessageTargets[Message - Data->FirstRedirectionMessageNumber];

        RtlZeroMemory(Target, sizeof(*Target));
        if (Adapter->MessageTable != NULL && Message < Adapter->MessageTable->MessageCount) {
            Target->Mask = Adapter->MessageTable->MessageInfo[Message].TargetProcessorSet;
        } else {
            Target->Mask = KeQueryActiveProcessors();
        }
    }
    Data->DeviceNode = 0;
}

static VOID ApplyOptions(PRAID_ADAPTER Adapter, PPERF_CONFIGURATION_DATA Data)
{
    if (Data->Flags & STOR_PERF_CONCURRENT_CHANNELS) {
        Adapter->ConcurrentChannels = Data->ConcurrentChannels;
    }
    if ((Data->Flags & STOR_PERF_DPC_REDIRECTION) && !(Data->Flags & STOR_PERF_DPC_REDIRECTION_CURRENT_CPU)) {
        Adapter->DpcRedirection = TRUE;
    }
    if (Data->Flags & STOR_PERF_INTERRUPT_MESSAGE_RANGES) {
        Adapter->FirstMessage = Data->FirstRedirectionMessageNumber;
        Adapter->LastMessage = Data->LastRedirectionMessageNumber;
        if ((Data->Flags & STOR_PERF_ADV_CONFIG_LOCALITY) && Data->MessageTargets != NULL) {
            DescribeMessageTargets(Adapter, Data);
        }
    }
}

ULONG RaidPerformanceOptimizations(PRAID_ADAPTER Adapter, va_list Arguments)
{
    BOOLEAN Query = (BOOLEAN)va_arg(Arguments, int);
    PPERF_CONFIGURATION_DATA Data = va_arg(Arguments, PPERF_CONFIGURATION_DATA);

    if (Data == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    if (Query) {
        Data->Flags = SupportedOptions(Data->Version);
        Data->ConcurrentChannels = KeQueryActiveProcessorCountEx(ALL_PROCESSOR_GROUPS);
        return STOR_STATUS_SUCCESS;
    }
    if (!Adapter->Initializing || (Data->Flags & ~SupportedOptions(Data->Version)) ||
        Data->LastRedirectionMessageNumber < Data->FirstRedirectionMessageNumber ||
        Data->LastRedirectionMessageNumber - Data->FirstRedirectionMessageNumber > RAID_MAX_MESSAGES) {
        return STOR_STATUS_UNSUCCESSFUL;
    }
    ApplyOptions(Adapter, Data);
    return STOR_STATUS_SUCCESS;
}

/* A channel a processor, and the messages of the redirection range in turn. */
ULONG RaidStartIoParameters(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PSCSI_REQUEST_BLOCK Srb = va_arg(Arguments, PSCSI_REQUEST_BLOCK);
    PSTARTIO_PERFORMANCE_PARAMETERS Parameters = va_arg(Arguments, PSTARTIO_PERFORMANCE_PARAMETERS);
    ULONG Processor = KeGetCurrentProcessorNumberEx(NULL);
    ULONG Channels = Adapter->ConcurrentChannels != 0 ? Adapter->ConcurrentChannels : 1;

    UNREFERENCED_PARAMETER(Srb);
    if (Parameters == NULL || Parameters->Size < sizeof(*Parameters)) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    Parameters->ChannelNumber = Processor % Channels;
    Parameters->MessageNumber = Adapter->FirstMessage + Processor % (Adapter->LastMessage - Adapter->FirstMessage + 1);
    return STOR_STATUS_SUCCESS;
}

ULONG RaidGetMessageInformation(PRAID_ADAPTER Adapter, va_list Arguments)
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

/* To the ULONG that the miniport points to. */
static ULONG Answer(va_list Arguments, ULONG Value)
{
    *va_arg(Arguments, PULONG) = Value;
    return STOR_STATUS_SUCCESS;
}

ULONG RaidGetProcessorNumber(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    KeGetCurrentProcessorNumberEx(va_arg(Arguments, PPROCESSOR_NUMBER));
    return STOR_STATUS_SUCCESS;
}

ULONG RaidGetGroupCount(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    *va_arg(Arguments, PUSHORT) = 1;
    return STOR_STATUS_SUCCESS;
}

ULONG RaidGetGroupAffinity(PRAID_ADAPTER Adapter, va_list Arguments)
{
    USHORT Group = (USHORT)va_arg(Arguments, int);
    KAFFINITY *Affinity = va_arg(Arguments, KAFFINITY *);

    UNREFERENCED_PARAMETER(Adapter);
    if (Group != 0) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    *Affinity = KeQueryActiveProcessors();
    return STOR_STATUS_SUCCESS;
}

ULONG RaidGetNodeCount(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    return Answer(Arguments, 1);
}

ULONG RaidGetNodeAffinity(PRAID_ADAPTER Adapter, va_list Arguments)
{
    ULONG Node = va_arg(Arguments, ULONG);
    PGROUP_AFFINITY Affinity = va_arg(Arguments, PGROUP_AFFINITY);

    UNREFERENCED_PARAMETER(Adapter);
    if ((USHORT)Node != 0) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    RtlZeroMemory(Affinity, sizeof(*Affinity));
    Affinity->Mask = KeQueryActiveProcessors();
    return STOR_STATUS_SUCCESS;
}

ULONG RaidGetHighestNode(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    return Answer(Arguments, 0);
}

ULONG RaidGetProcessorIndex(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    return Answer(Arguments, KeGetCurrentProcessorNumberEx(NULL));
}

ULONG RaidGetProcessorCount(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    return Answer(Arguments, KeQueryActiveProcessorCountEx(ALL_PROCESSOR_GROUPS));
}

ULONG RaidGetIndexFromNumber(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PPROCESSOR_NUMBER Number = va_arg(Arguments, PPROCESSOR_NUMBER);
    PULONG Index = va_arg(Arguments, PULONG);

    UNREFERENCED_PARAMETER(Adapter);
    *Index = KeGetProcessorIndexFromNumber(Number);
    return *Index != (ULONG)-1 ? STOR_STATUS_SUCCESS : STOR_STATUS_INVALID_PARAMETER;
}

ULONG RaidGetIrql(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    *va_arg(Arguments, PKIRQL) = KeGetCurrentIrql();
    return STOR_STATUS_SUCCESS;
}

ULONG RaidQueryPerformanceCounter(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PLARGE_INTEGER Frequency = va_arg(Arguments, PLARGE_INTEGER);
    PLARGE_INTEGER Counter = va_arg(Arguments, PLARGE_INTEGER);

    UNREFERENCED_PARAMETER(Adapter);
    *Counter = KeQueryPerformanceCounter(Frequency);
    return STOR_STATUS_SUCCESS;
}

/* In microseconds. */
ULONG RaidDelayExecution(PRAID_ADAPTER Adapter, va_list Arguments)
{
    LARGE_INTEGER Interval = {.QuadPart = -10LL * va_arg(Arguments, ULONG)};

    UNREFERENCED_PARAMETER(Adapter);
    if (KeGetCurrentIrql() > APC_LEVEL) {
        return STOR_STATUS_INVALID_IRQL;
    }
    KeDelayExecutionThread(KernelMode, FALSE, &Interval);
    return STOR_STATUS_SUCCESS;
}
