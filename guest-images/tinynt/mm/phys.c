/*
 * phys.c - physical pages in power-of-two blocks: fresh ones from the loader's free ranges, returned ones from lists.
 *
 * Fresh RAM is zero already (the virtual machine monitor gives it so); returned blocks are zeroed when given out again.
 */
#include "ki.h"
#include "mi.h"

#define MI_ORDERS 12 /* blocks of 4 KiB to 8 MiB */
#define MI_RANGES 32
#define MI_MAXIMUM_PAGES (4ull << 18) /* page information is kept for the first 4 GiB */

typedef struct _MI_FREE_BLOCK {
    struct _MI_FREE_BLOCK *Next;
} MI_FREE_BLOCK;

typedef struct _MI_FRESH_RANGE {
    ULONG64 Next; /* physical address of the first page not given out */
    ULONG64 End;
} MI_FRESH_RANGE;

static ULONG_PTR MiPhysicalLock;
static MI_FREE_BLOCK *MiFreeBlocks[MI_ORDERS];
static MI_FRESH_RANGE MiFresh[MI_RANGES];
static ULONG MiFreshCount;
static UCHAR *MiPageInfoTable;

PVOID MiPhysicalToVirtual(ULONG64 Physical)
{
    return (PVOID)(KiLoaderBlock->DirectMapBase + Physical);
}

static ULONG64 MiTakeFresh(ULONG Order, ULONG64 HighestAddress)
{
    ULONG64 size = (ULONG64)PAGE_SIZE << Order;

    for (ULONG i = 0; i < MiFreshCount; i++) {
        ULONG64 start = (MiFresh[i].Next + size - 1) & ~(size - 1);
        if (start + size > MiFresh[i].End || start + size - 1 > HighestAddress)
            continue;
        MiFresh[i].Next = start + size;
        return start;
    }
    return 0;
}

static ULONG64 MiTakeReturned(ULONG Order, ULONG64 HighestAddress)
{
    ULONG64 size = (ULONG64)PAGE_SIZE << Order;
    MI_FREE_BLOCK **link = &MiFreeBlocks[Order];

    for (; *link; link = &(*link)->Next) {
        MI_FREE_BLOCK *block = *link;
        ULONG64 physical = (ULONG64)block - KiLoaderBlock->DirectMapBase;
        if (physical + size - 1 > HighestAddress)
            continue;
        *link = block->Next;
        return physical;
    }
    return 0;
}

ULONG64 MiAllocatePages(ULONG Order, ULONG64 HighestAddress)
{
    ULONG64 physical;
    KIRQL old;

    if (Order >= MI_ORDERS)
        return 0;
    old = KxLockRaise(&MiPhysicalLock);
    physical = MiTakeReturned(Order, HighestAddress);
    if (physical) {
        KxUnlockLower(&MiPhysicalLock, old);
        RtlZeroMemory(MiPhysicalToVirtual(physical), (SIZE_T)PAGE_SIZE << Order);
        return physical;
    }
    physical = MiTakeFresh(Order, HighestAddress);
    KxUnlockLower(&MiPhysicalLock, old);
    return physical;
}

VOID MiFreePages(ULONG64 Physical, ULONG Order)
{
    KIRQL old = KxLockRaise(&MiPhysicalLock);
    MI_FREE_BLOCK *block = MiPhysicalToVirtual(Physical);

    block->Next = MiFreeBlocks[Order];
    MiFreeBlocks[Order] = block;
    KxUnlockLower(&MiPhysicalLock, old);
}

VOID MiInitializePhysical(VOID)
{
    const LOADER_MEMORY_RANGE *range = (const LOADER_MEMORY_RANGE *)KiLoaderBlock->MemoryRanges;
    ULONG order = 0;
    ULONG64 pages = KiLoaderBlock->PhysicalMemoryEnd / PAGE_SIZE;

    for (ULONG i = 0; i < KiLoaderBlock->MemoryRangeCount && MiFreshCount < MI_RANGES; i++) {
        ULONG64 start = (range[i].Base + PAGE_SIZE - 1) & ~(ULONG64)(PAGE_SIZE - 1);
        if (range[i].Type != LOADER_MEMORY_FREE)
            continue;
        if (start < 0x100000) /* the first MiB has uses on a PC; physical address 0 means "none" here */
            start = 0x100000;
        MiFresh[MiFreshCount].Next = start;
        MiFresh[MiFreshCount].End = (range[i].Base + range[i].Length) & ~(ULONG64)(PAGE_SIZE - 1);
        if (MiFresh[MiFreshCount].End > start)
            MiFreshCount++;
    }
    if (pages > MI_MAXIMUM_PAGES)
        pages = MI_MAXIMUM_PAGES;
    while (((ULONG64)PAGE_SIZE << order) < pages)
        order++;
    MiPageInfoTable = MiPhysicalToVirtual(MiAllocatePages(order, ~0ull));
}

/* One byte a page, for the pool. */
UCHAR MiGetPageInfo(ULONG64 Physical)
{
    return Physical / PAGE_SIZE < MI_MAXIMUM_PAGES ? MiPageInfoTable[Physical / PAGE_SIZE] : 0;
}

VOID MiSetPageInfo(ULONG64 Physical, UCHAR Info)
{
    MiPageInfoTable[Physical / PAGE_SIZE] = Info;
}
