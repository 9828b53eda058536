/* Extended functions for memory: pool, MDLs, common buffers, scatter/gather lists, interlocked lists. */
#include "raid.h"

ULONG RaidAllocatePool(PRAID_ADAPTER Adapter, va_list Arguments)
{
    ULONG Bytes = va_arg(Arguments, ULONG);
    ULONG Tag = va_arg(Arguments, ULONG);
    PVOID *Result = va_arg(Arguments, PVOID *);

    UNREFERENCED_PARAMETER(Adapter);
    *Result = Bytes != 0 ? ExAllocatePoolWithTag(NonPagedPool, Bytes, Tag) : NULL;
    return *Result != NULL ? STOR_STATUS_SUCCESS : STOR_STATUS_INSUFFICIENT_RESOURCES;
}

ULONG RaidFreePool(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PVOID Block = va_arg(Arguments, PVOID);

    UNREFERENCED_PARAMETER(Adapter);
    if (Block == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    ExFreePool(Block);
    return STOR_STATUS_SUCCESS;
}

ULONG RaidAllocateMdl(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PVOID Buffer = va_arg(Arguments, PVOID);
    ULONG Length = va_arg(Arguments, ULONG);
    PMDL *Mdl = va_arg(Arguments, PMDL *);

    UNREFERENCED_PARAMETER(Adapter);
    *Mdl = IoAllocateMdl(Buffer, Length, FALSE, FALSE, NULL);
    return *Mdl != NULL ? STOR_STATUS_SUCCESS : STOR_STATUS_INSUFFICIENT_RESOURCES;
}

ULONG RaidFreeMdl(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    IoFreeMdl(va_arg(Arguments, PMDL));
    return STOR_STATUS_SUCCESS;
}

ULONG RaidBuildMdl(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    MmBuildMdlForNonPagedPool(va_arg(Arguments, PMDL));
    return STOR_STATUS_SUCCESS;
}

/* The two kinds take the same parameters; the newer one tells the physical address as well. */
static ULONG AllocateContiguous(va_list Arguments, BOOLEAN TellPhysical)
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
    if (*Result == NULL) {
        return STOR_STATUS_INSUFFICIENT_RESOURCES;
    }
    if (TellPhysical) {
        *va_arg(Arguments, PPHYSICAL_ADDRESS) = MmGetPhysicalAddress(*Result);
    }
    return STOR_STATUS_SUCCESS;
}

ULONG RaidAllocateContiguous(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    return AllocateContiguous(Arguments, FALSE);
}

ULONG RaidAllocateDmaMemory(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    return AllocateContiguous(Arguments, TRUE);
}

ULONG RaidFreeContiguous(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PVOID Address = va_arg(Arguments, PVOID);
    SIZE_T Bytes = va_arg(Arguments, SIZE_T);
    MEMORY_CACHING_TYPE CacheType = va_arg(Arguments, MEMORY_CACHING_TYPE);

    UNREFERENCED_PARAMETER(Adapter);
    MmFreeContiguousMemorySpecifyCache(Address, Bytes, CacheType);
    return STOR_STATUS_SUCCESS;
}

ULONG RaidFreeDmaMemory(PRAID_ADAPTER Adapter, va_list Arguments)
{
    return RaidFreeContiguous(Adapter, Arguments);
}

/* The list is built in the caller's buffer and handed to its routine at once: there are no map registers to wait for.
 */
ULONG RaidBuildScatterGatherList(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PMDL Mdl = va_arg(Arguments, PMDL);
    PUCHAR Address = va_arg(Arguments, PUCHAR);
    ULONG Length = va_arg(Arguments, ULONG);
    PPOST_SCATTER_GATHER_EXECUTE Execute = va_arg(Arguments, PPOST_SCATTER_GATHER_EXECUTE);
    PVOID Context = va_arg(Arguments, PVOID);
    BOOLEAN Write = (BOOLEAN)va_arg(Arguments, int);
    PSTOR_SCATTER_GATHER_LIST List = va_arg(Arguments, PSTOR_SCATTER_GATHER_LIST);
    ULONG BufferLength = va_arg(Arguments, ULONG);
    ULONG Pages = ADDRESS_AND_SIZE_TO_SPAN_PAGES(Address, Length);

    UNREFERENCED_PARAMETER(Mdl);
    UNREFERENCED_PARAMETER(Write);
    if (BufferLength < sizeof(*List) + Pages * sizeof(STOR_SCATTER_GATHER_ELEMENT)) {
        return STOR_STATUS_BUFFER_TOO_SMALL;
    }
    RaidFillScatterGather(List, Address, Length);
    Execute((PVOID *)Adapter->DeviceObject, NULL, List, Context);
    return STOR_STATUS_SUCCESS;
}

ULONG RaidPutScatterGatherList(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    UNREFERENCED_PARAMETER(Arguments);
    return STOR_STATUS_SUCCESS;
}

ULONG RaidInitializeSList(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    InitializeSListHead(va_arg(Arguments, PSLIST_HEADER));
    return STOR_STATUS_SUCCESS;
}

ULONG RaidFlushSList(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PSLIST_HEADER Head = va_arg(Arguments, PSLIST_HEADER);
    PSLIST_ENTRY *Result = va_arg(Arguments, PSLIST_ENTRY *);

    UNREFERENCED_PARAMETER(Adapter);
    *Result = InterlockedFlushSList(Head);
    return STOR_STATUS_SUCCESS;
}

ULONG RaidPopSList(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PSLIST_HEADER Head = va_arg(Arguments, PSLIST_HEADER);
    PSLIST_ENTRY *Result = va_arg(Arguments, PSLIST_ENTRY *);

    UNREFERENCED_PARAMETER(Adapter);
    *Result = InterlockedPopEntrySList(Head);
    return STOR_STATUS_SUCCESS;
}

ULONG RaidPushSList(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PSLIST_HEADER Head = va_arg(Arguments, PSLIST_HEADER);
    PSLIST_ENTRY Entry = va_arg(Arguments, PSLIST_ENTRY);
    PSLIST_ENTRY *Result = va_arg(Arguments, PSLIST_ENTRY *);

    UNREFERENCED_PARAMETER(Adapter);
    *Result = InterlockedPushEntrySList(Head, Entry);
    return STOR_STATUS_SUCCESS;
}

ULONG RaidQueryDepthSList(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PSLIST_HEADER Head = va_arg(Arguments, PSLIST_HEADER);
    PUSHORT Depth = va_arg(Arguments, PUSHORT);

    UNREFERENCED_PARAMETER(Adapter);
    *Depth = ExQueryDepthSList(Head);
    return STOR_STATUS_SUCCESS;
}

typedef PLIST_ENTRY NTAPI INSERT_ROUTINE(PLIST_ENTRY Head, PLIST_ENTRY Entry, PKSPIN_LOCK Lock);

static ULONG InsertEntry(va_list Arguments, INSERT_ROUTINE *Insert)
{
    PLIST_ENTRY Head = va_arg(Arguments, PLIST_ENTRY);
    PLIST_ENTRY Entry = va_arg(Arguments, PLIST_ENTRY);
    PLIST_ENTRY *Result = va_arg(Arguments, PLIST_ENTRY *);
    PKSPIN_LOCK Lock = va_arg(Arguments, PKSPIN_LOCK);

    *Result = Insert(Head, Entry, Lock);
    return STOR_STATUS_SUCCESS;
}

ULONG RaidInsertHeadList(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    return InsertEntry(Arguments, ExInterlockedInsertHeadList);
}

ULONG RaidInsertTailList(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    return InsertEntry(Arguments, ExInterlockedInsertTailList);
}

ULONG RaidRemoveHeadList(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PLIST_ENTRY Head = va_arg(Arguments, PLIST_ENTRY);
    PLIST_ENTRY *Result = va_arg(Arguments, PLIST_ENTRY *);
    PKSPIN_LOCK Lock = va_arg(Arguments, PKSPIN_LOCK);

    UNREFERENCED_PARAMETER(Adapter);
    *Result = ExInterlockedRemoveHeadList(Head, Lock);
    return STOR_STATUS_SUCCESS;
}
