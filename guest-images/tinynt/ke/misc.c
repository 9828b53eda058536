/*
 * misc.c - further forms of the kernel's routines: process attachment (there is one process), guarded regions, precise
 * time, call-outs, bug check callbacks.
 */
#include "hal.h"
#include "ki.h"

LONG KePulseEvent(PRKEVENT Event, KPRIORITY Increment, BOOLEAN Wait)
{
    LONG before = KeSetEvent(Event, Increment, FALSE);

    KeClearEvent(Event);
    return before;
}

VOID KeStackAttachProcess(PVOID Process, PVOID ApcState)
{
}

VOID KeUnstackDetachProcess(PVOID ApcState)
{
}

VOID KeAttachProcess(PVOID Process)
{
}

VOID KeDetachProcess(VOID)
{
}

VOID KeEnterGuardedRegion(VOID)
{
    KeEnterCriticalRegion();
}

VOID KeLeaveGuardedRegion(VOID)
{
    KeLeaveCriticalRegion();
}

/* Special APCs are off at APC_LEVEL and above; a guarded region is a critical one here. */
BOOLEAN KeAreAllApcsDisabled(VOID)
{
    return KiReadCr8() >= APC_LEVEL || KeAreApcsDisabled();
}

VOID KeQuerySystemTimePrecise(PLARGE_INTEGER CurrentTime)
{
    KeQuerySystemTime(CurrentTime);
}

ULONG64 KeQueryInterruptTimePrecise(PULONG64 QpcTimeStamp)
{
    if (QpcTimeStamp)
        *QpcTimeStamp = (ULONG64)KeQueryPerformanceCounter(NULL).QuadPart;
    return KeQueryInterruptTime();
}

ULONG KeGetRecommendedSharedDataAlignment(VOID)
{
    return 64;
}

BOOLEAN KeSetCoalescableTimer(PKTIMER Timer, LARGE_INTEGER DueTime, ULONG Period, ULONG TolerableDelay, PKDPC Dpc)
{
    return KeSetTimerEx(Timer, DueTime, (LONG)Period, Dpc);
}

VOID KeQueryNodeActiveAffinity(USHORT NodeNumber, PGROUP_AFFINITY Affinity, PUSHORT Count)
{
    if (Affinity) {
        RtlZeroMemory(Affinity, sizeof(*Affinity));
        Affinity->Mask = NodeNumber ? 0 : KiActiveProcessors;
    }
    if (Count)
        *Count = NodeNumber ? 0 : (USHORT)KiLoaderBlock->ProcessorCount;
}

USHORT KeQueryNodeMaximumProcessorCount(USHORT NodeNumber)
{
    return NodeNumber ? 0 : (USHORT)KiLoaderBlock->ProcessorCount;
}

/* One group, one node, a package of cores without siblings: of these, the group and the node are told. */
NTSTATUS KeQueryLogicalProcessorRelationship(PPROCESSOR_NUMBER ProcessorNumber,
                                             LOGICAL_PROCESSOR_RELATIONSHIP RelationshipType,
                                             PSYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX Information, PULONG Length)
{
    ULONG needed = sizeof(*Information), given = *Length;

    if (RelationshipType != RelationNumaNode && RelationshipType != RelationGroup)
        return STATUS_NOT_SUPPORTED;
    *Length = needed;
    if (!Information || given < needed)
        return STATUS_INFO_LENGTH_MISMATCH;
    RtlZeroMemory(Information, needed);
    Information->Relationship = RelationshipType;
    Information->Size = needed;
    if (RelationshipType == RelationNumaNode) {
        Information->NumaNode.GroupMask.Mask = KiActiveProcessors;
        return STATUS_SUCCESS;
    }
    Information->Group.MaximumGroupCount = Information->Group.ActiveGroupCount = 1;
    Information->Group.GroupInfo[0].MaximumProcessorCount = (UCHAR)KiLoaderBlock->ProcessorCount;
    Information->Group.GroupInfo[0].ActiveProcessorCount = (UCHAR)KiLoaderBlock->ProcessorCount;
    Information->Group.GroupInfo[0].ActiveProcessorMask = KiActiveProcessors;
    return STATUS_SUCCESS;
}

LONG KeSetBasePriorityThread(PKTHREAD Thread, LONG Increment)
{
    KPRIORITY before = KeQueryPriorityThread(Thread);

    KeSetPriorityThread(Thread, before + Increment);
    return before;
}

/* All stacks are of one size: the call-out runs on the caller's if that has the room. */
NTSTATUS KeExpandKernelStackAndCalloutEx(PEXPAND_STACK_CALLOUT Callout, PVOID Parameter, SIZE_T Size, BOOLEAN Wait,
                                         PVOID Context)
{
    ULONG_PTR here = (ULONG_PTR)&here;

    if (here - KiCurrentThread()->StackLimit < Size)
        return STATUS_NO_MEMORY;
    Callout(Parameter);
    return STATUS_SUCCESS;
}

NTSTATUS KeExpandKernelStackAndCallout(PEXPAND_STACK_CALLOUT Callout, PVOID Parameter, SIZE_T Size)
{
    return KeExpandKernelStackAndCalloutEx(Callout, Parameter, Size, TRUE, NULL);
}

/*
 * The XMM registers that a callee may change are saved by whoever interrupts; the others by the routine that changes
 * them. Wider state is not enabled (CR4.OSXSAVE is 0).
 */
NTSTATUS KeSaveExtendedProcessorState(ULONG64 Mask, PXSTATE_SAVE XStateSave)
{
    return Mask & ~3ull ? STATUS_NOT_SUPPORTED : STATUS_SUCCESS;
}

VOID KeRestoreExtendedProcessorState(PXSTATE_SAVE XStateSave)
{
}
