/*
 * misc.c - further forms of the executive's routines: work queues, lookaside lists, pool, callbacks, time, UUIDs.
 */
#include "io_internal.h"
#include "ki.h"

static volatile LONG64 ExpUuidCount;

/* Unique within a run; version 1 by its form. */
NTSTATUS ExUuidCreate(UUID *Uuid)
{
    LARGE_INTEGER now;

    KeQuerySystemTime(&now);
    RtlZeroMemory(Uuid, sizeof(*Uuid));
    Uuid->Data1 = (ULONG)(now.QuadPart + InterlockedIncrement64(&ExpUuidCount));
    Uuid->Data2 = (USHORT)(now.QuadPart >> 32);
    Uuid->Data3 = (USHORT)(0x1000 | (now.QuadPart >> 48 & 0xFFF));
    Uuid->Data4[0] = 0x80;
    Uuid->Data4[7] = (UCHAR)ExpUuidCount;
    return STATUS_SUCCESS;
}

/* The time zone is UTC. */
VOID ExSystemTimeToLocalTime(PLARGE_INTEGER SystemTime, PLARGE_INTEGER LocalTime)
{
    *LocalTime = *SystemTime;
}

VOID ExLocalTimeToSystemTime(PLARGE_INTEGER LocalTime, PLARGE_INTEGER SystemTime)
{
    *SystemTime = *LocalTime;
}

/* The clock's own, which does not change. */
ULONG ExSetTimerResolution(ULONG DesiredTime, BOOLEAN SetResolution)
{
    return KeQueryTimeIncrement();
}

static VOID ExpRunWorkItem(PVOID IoObject, PVOID Context, PIO_WORKITEM IoWorkItem)
{
    PWORK_QUEUE_ITEM item = Context;

    IoFreeWorkItem(IoWorkItem);
    item->WorkerRoutine(item->Parameter);
}

VOID ExQueueWorkItem(PWORK_QUEUE_ITEM WorkItem, WORK_QUEUE_TYPE QueueType)
{
    PIO_WORKITEM item = IoAllocateWorkItem(NULL);

    if (!item)
        KeBugCheckEx(0x4E, 0x99, 0, 0, 0); /* the queue cannot refuse */
    IoQueueWorkItemEx(item, ExpRunWorkItem, QueueType, WorkItem);
}

PVOID ExAllocatePoolWithQuotaTag(POOL_TYPE PoolType, SIZE_T NumberOfBytes, ULONG Tag)
{
    return ExAllocatePoolWithTag(PoolType & ~POOL_QUOTA_FAIL_INSTEAD_OF_RAISE, NumberOfBytes, Tag);
}

PVOID ExAllocatePoolWithTagPriority(POOL_TYPE PoolType, SIZE_T NumberOfBytes, ULONG Tag, EX_POOL_PRIORITY Priority)
{
    return ExAllocatePoolWithTag(PoolType, NumberOfBytes, Tag);
}

PVOID ExAllocatePool3(ULONG64 Flags, SIZE_T NumberOfBytes, ULONG Tag, PVOID ExtendedParameters,
                      ULONG ExtendedParametersCount)
{
    return ExAllocatePool2(Flags, NumberOfBytes, Tag);
}

/* All pool is non-paged: a paged lookaside list is the other one by its layout and by what it does. */
VOID ExInitializePagedLookasideList(PPAGED_LOOKASIDE_LIST Lookaside, PALLOCATE_FUNCTION Allocate, PFREE_FUNCTION Free,
                                    ULONG Flags, SIZE_T Size, ULONG Tag, USHORT Depth)
{
    ExInitializeNPagedLookasideList((PNPAGED_LOOKASIDE_LIST)Lookaside, Allocate, Free, Flags, Size, Tag, Depth);
    Lookaside->L.Type = PagedPool | Flags;
}

VOID ExDeletePagedLookasideList(PPAGED_LOOKASIDE_LIST Lookaside)
{
    ExDeleteNPagedLookasideList((PNPAGED_LOOKASIDE_LIST)Lookaside);
}

BOOLEAN ExVerifySuite(SUITE_TYPE SuiteType)
{
    return FALSE;
}

/* An exception that nothing handles. */
VOID ExRaiseStatus(NTSTATUS Status)
{
    KeBugCheckEx(0x1E, (ULONG_PTR)Status, (ULONG_PTR)__builtin_return_address(0), 0, 0);
}

VOID ExRaiseAccessViolation(VOID)
{
    ExRaiseStatus(STATUS_ACCESS_VIOLATION);
}

VOID ExRaiseDatatypeMisalignment(VOID)
{
    ExRaiseStatus(STATUS_DATATYPE_MISALIGNMENT);
}

/* ERESOURCE in the forms that enter a critical region first. */
PVOID ExEnterCriticalRegionAndAcquireResourceExclusive(PERESOURCE Resource)
{
    KeEnterCriticalRegion();
    ExAcquireResourceExclusiveLite(Resource, TRUE);
    return NULL;
}

PVOID ExEnterCriticalRegionAndAcquireResourceShared(PERESOURCE Resource)
{
    KeEnterCriticalRegion();
    ExAcquireResourceSharedLite(Resource, TRUE);
    return NULL;
}

VOID ExReleaseResourceAndLeaveCriticalRegion(PERESOURCE Resource)
{
    ExReleaseResourceLite(Resource);
    KeLeaveCriticalRegion();
}

LARGE_INTEGER ExInterlockedAddLargeInteger(PLARGE_INTEGER Addend, LARGE_INTEGER Increment, PKSPIN_LOCK Lock)
{
    LARGE_INTEGER before;

    before.QuadPart = __atomic_fetch_add(&Addend->QuadPart, Increment.QuadPart, __ATOMIC_ACQ_REL);
    return before;
}

ULONG ExInterlockedAddUlong(PULONG Addend, ULONG Increment, PKSPIN_LOCK Lock)
{
    return __atomic_fetch_add(Addend, Increment, __ATOMIC_ACQ_REL);
}

/* SystemBasicInformation, as the layout of winternl.h has it; what else there is, is not kept here. */
typedef struct _EXP_BASIC_INFORMATION {
    ULONG Reserved, TimerResolution, PageSize, NumberOfPhysicalPages, LowestPhysicalPageNumber,
        HighestPhysicalPageNumber, AllocationGranularity;
    ULONG_PTR MinimumUserModeAddress, MaximumUserModeAddress, ActiveProcessorsAffinityMask;
    CCHAR NumberOfProcessors;
} EXP_BASIC_INFORMATION;

NTSTATUS ZwQuerySystemInformation(ULONG SystemInformationClass, PVOID SystemInformation, ULONG SystemInformationLength,
                                  PULONG ReturnLength)
{
    EXP_BASIC_INFORMATION basic = {0};

    if (SystemInformationClass != 0)
        return STATUS_INVALID_INFO_CLASS;
    if (ReturnLength)
        *ReturnLength = sizeof(basic);
    if (SystemInformationLength != sizeof(basic))
        return STATUS_INFO_LENGTH_MISMATCH;
    basic.TimerResolution = KeQueryTimeIncrement();
    basic.PageSize = PAGE_SIZE;
    basic.NumberOfPhysicalPages = (ULONG)(KiLoaderBlock->PhysicalMemoryEnd / PAGE_SIZE);
    basic.HighestPhysicalPageNumber = basic.NumberOfPhysicalPages - 1;
    basic.AllocationGranularity = 0x10000;
    basic.MinimumUserModeAddress = 0x10000;
    basic.MaximumUserModeAddress = 0x7FFFFFFEFFFF;
    basic.ActiveProcessorsAffinityMask = KiActiveProcessors;
    basic.NumberOfProcessors = (CCHAR)KiLoaderBlock->ProcessorCount;
    memcpy(SystemInformation, &basic, sizeof(basic));
    return STATUS_SUCCESS;
}
