/*
 * cpuinfo.c - processor counts, numbers and IRQL exports. One group, one node.
 */
#include "ki.h"

ULONG KeQueryActiveProcessorCount(PKAFFINITY ActiveProcessors)
{
    if (ActiveProcessors)
        *ActiveProcessors = KiActiveProcessors;
    return (ULONG)KeNumberProcessors;
}

ULONG KeQueryActiveProcessorCountEx(USHORT GroupNumber)
{
    return GroupNumber == 0 || GroupNumber == ALL_PROCESSOR_GROUPS ? (ULONG)KeNumberProcessors : 0;
}

ULONG KeQueryMaximumProcessorCount(VOID)
{
    return (ULONG)KeNumberProcessors;
}

ULONG KeQueryMaximumProcessorCountEx(USHORT GroupNumber)
{
    return KeQueryActiveProcessorCountEx(GroupNumber);
}

KAFFINITY KeQueryActiveProcessors(VOID)
{
    return KiActiveProcessors;
}

USHORT KeQueryActiveGroupCount(VOID)
{
    return 1;
}

USHORT KeQueryMaximumGroupCount(VOID)
{
    return 1;
}

KAFFINITY KeQueryGroupAffinity(USHORT GroupNumber)
{
    return GroupNumber == 0 ? KiActiveProcessors : 0;
}

USHORT KeQueryHighestNodeNumber(VOID)
{
    return 0;
}

USHORT KeGetCurrentNodeNumber(VOID)
{
    return 0;
}

ULONG KiGetCurrentProcessorNumberExport(VOID);
ULONG KiGetCurrentProcessorNumberExport(VOID)
{
    return KiProcessorNumber();
}

ULONG KeGetCurrentProcessorNumberEx(PPROCESSOR_NUMBER ProcNumber)
{
    ULONG number = KiProcessorNumber();

    if (ProcNumber) {
        ProcNumber->Group = 0;
        ProcNumber->Number = (UCHAR)number;
        ProcNumber->Reserved = 0;
    }
    return number;
}

NTSTATUS KeGetProcessorNumberFromIndex(ULONG ProcIndex, PPROCESSOR_NUMBER ProcNumber)
{
    if (ProcIndex >= (ULONG)KeNumberProcessors)
        return STATUS_INVALID_PARAMETER;
    ProcNumber->Group = 0;
    ProcNumber->Number = (UCHAR)ProcIndex;
    ProcNumber->Reserved = 0;
    return STATUS_SUCCESS;
}

ULONG KeGetProcessorIndexFromNumber(PPROCESSOR_NUMBER ProcNumber)
{
    return ProcNumber->Group == 0 && ProcNumber->Number < KeNumberProcessors ? ProcNumber->Number
                                                                             : INVALID_PROCESSOR_INDEX;
}

KIRQL KiGetCurrentIrqlExport(VOID);
KIRQL KiGetCurrentIrqlExport(VOID)
{
    return (KIRQL)KiReadCr8();
}

VOID KiLowerIrqlExport(KIRQL NewIrql);
VOID KiLowerIrqlExport(KIRQL NewIrql)
{
    KiWriteCr8(NewIrql & 15);
}

KIRQL KiRaiseIrqlExport(KIRQL NewIrql);
KIRQL KiRaiseIrqlExport(KIRQL NewIrql)
{
    KIRQL old = (KIRQL)KiReadCr8();
    KiWriteCr8(NewIrql & 15);
    return old;
}

KIRQL KiRaiseIrqlToDpcLevelExport(VOID);
KIRQL KiRaiseIrqlToDpcLevelExport(VOID)
{
    return KiRaiseIrqlExport(DISPATCH_LEVEL);
}
