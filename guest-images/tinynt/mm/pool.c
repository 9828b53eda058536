/*
 * pool.c - pool blocks of 32 bytes to 2 KiB in pages of one size each; anything larger is whole pages.
 *
 * Blocks have no header: a page's size class is in its page information byte. Only whole pages of NonPagedPool, and of
 * POOL_FLAG_NON_PAGED_EXECUTE, are executable, by a second mapping, which is what the caller gets. Paged pool
 * is resident, too, but it is only for code below DISPATCH_LEVEL, and has no physical address that could be relied on.
 * Freed blocks are filled with a pattern (the first POOL_POISON_LIMIT bytes), so that use after free shows.
 */
#include "ki.h"
#include "mi.h"

#define POOL_SMALLEST_SHIFT 5
#define POOL_CLASSES 7       /* 32, 64 ... 2048 */
#define POOL_INFO_SMALL 0x40 /* page information: 40h + class, 80h + order; and 20h for paged pool */
#define POOL_INFO_PAGES 0x80
#define POOL_INFO_PAGED 0x20
#define POOL_INFO_TAIL 0x01  /* a page of a large block of paged pool that is not its first one */
#define POOL_BAD_CALLER 0xC2 /* BAD_POOL_CALLER, and its first parameters */
#define POOL_ALLOCATED_AT_IRQL 0x8
#define POOL_FREED_AT_IRQL 0x9
#define POOL_POISON 0xDD
#define POOL_POISON_LIMIT 256u

typedef struct _POOL_BLOCK {
    struct _POOL_BLOCK *Next;
} POOL_BLOCK;

static ULONG_PTR MiPoolLock;
static ULONG_PTR MiNextExecutable = MI_EXECUTABLE_REGION;
static POOL_BLOCK *MiPoolFree[2][POOL_CLASSES]; /* nonpaged, paged */
static ULONG_PTR MiPoolFresh[2]
                            [POOL_CLASSES]; /* next never used block of the class's newest page; page-aligned: none */

static ULONG MiClassOf(SIZE_T Bytes)
{
    ULONG class = 0;
    while (((SIZE_T)1 << (POOL_SMALLEST_SHIFT + class)) < Bytes)
        class ++;
    return class;
}

/* Fresh: the block's memory has not been used since its page was given out zeroed. */
static PVOID MiAllocateSmall(BOOLEAN Paged, ULONG Class, BOOLEAN *Fresh)
{
    PVOID block = NULL;
    KIRQL old = KxLockRaise(&MiPoolLock);

    *Fresh = FALSE;
    if (MiPoolFree[Paged][Class]) {
        block = MiPoolFree[Paged][Class];
        MiPoolFree[Paged][Class] = MiPoolFree[Paged][Class]->Next;
        KxUnlockLower(&MiPoolLock, old);
        return block;
    }
    if (MiPoolFresh[Paged][Class] % PAGE_SIZE == 0) {
        ULONG64 page = MiAllocatePages(0, ~0ull);
        MiPoolFresh[Paged][Class] = page ? (ULONG_PTR)MiPhysicalToVirtual(page) : 0;
        if (page)
            MiSetPageInfo(page, (UCHAR)(POOL_INFO_SMALL + Class + (Paged ? POOL_INFO_PAGED : 0)));
    }
    if (MiPoolFresh[Paged][Class]) {
        block = (PVOID)MiPoolFresh[Paged][Class];
        MiPoolFresh[Paged][Class] += (ULONG_PTR)1 << (POOL_SMALLEST_SHIFT + Class);
        *Fresh = TRUE;
    }
    KxUnlockLower(&MiPoolLock, old);
    return block;
}

/* Of all pages of a large block but the first. */
static VOID MiMarkTail(ULONG64 Page, ULONG Order, UCHAR Info)
{
    for (ULONG64 index = 1; index < 1ull << Order; index++)
        MiSetPageInfo(Page + index * PAGE_SIZE, Info);
}

static VOID MiUnmapExecutable(ULONG_PTR Base, ULONG64 Bytes)
{
    for (ULONG64 offset = 0; offset < Bytes; offset += PAGE_SIZE)
        MiUnmapPage(Base + offset);
}

/* NULL if there is no room for page tables. */
static PVOID MiMapExecutable(ULONG64 Page, ULONG Order)
{
    KIRQL old = KxLockRaise(&MiPoolLock);
    ULONG_PTR base = MiNextExecutable;

    MiNextExecutable += ((ULONG_PTR)PAGE_SIZE << Order) + PAGE_SIZE; /* and a guard page */
    KxUnlockLower(&MiPoolLock, old);
    for (ULONG64 offset = 0; offset < (ULONG64)PAGE_SIZE << Order; offset += PAGE_SIZE) {
        if (!MiMapPage(base + offset, Page + offset, MI_PTE_WRITE)) {
            MiUnmapExecutable(base, offset);
            return NULL;
        }
    }
    return (PVOID)base;
}

static BOOLEAN MiIsExecutable(PVOID Block)
{
    return (ULONG_PTR)Block - MI_EXECUTABLE_REGION < MI_EXECUTABLE_SPAN;
}

static PVOID MiAllocateLarge(BOOLEAN Paged, BOOLEAN Executable, SIZE_T Bytes)
{
    PVOID block;
    ULONG order = 0;
    ULONG64 page;

    while (((SIZE_T)PAGE_SIZE << order) < Bytes) {
        if (++order > 20)
            return NULL;
    }
    page = MiAllocatePages(order, ~0ull);
    if (!page)
        return NULL;
    MiSetPageInfo(page, (UCHAR)(POOL_INFO_PAGES + order + (Paged ? POOL_INFO_PAGED : 0)));
    if (Paged)
        MiMarkTail(page, order, POOL_INFO_TAIL);
    block = Executable ? MiMapExecutable(page, order) : MiPhysicalToVirtual(page);
    if (!block) {
        MiSetPageInfo(page, 0);
        MiFreePages(page, order);
    }
    return block;
}

static PVOID MiAllocatePool(BOOLEAN Paged, BOOLEAN Executable, SIZE_T Bytes, BOOLEAN Zero)
{
    KIRQL irql = (KIRQL)KiReadCr8();
    BOOLEAN fresh;
    PVOID block;

    if (irql > (Paged ? APC_LEVEL : DISPATCH_LEVEL))
        KeBugCheckEx(POOL_BAD_CALLER, POOL_ALLOCATED_AT_IRQL, irql, Paged ? PagedPool : NonPagedPool, Bytes);
    if (Bytes > (PAGE_SIZE / 2))
        return MiAllocateLarge(Paged, Executable, Bytes);
    block = MiAllocateSmall(Paged, MiClassOf(Bytes ? Bytes : 1), &fresh);
    if (block && Zero && !fresh)
        RtlZeroMemory(block, Bytes);
    return block;
}

/* NonPagedPool is 0; NonPagedPoolNx has a bit of its own. */
PVOID ExAllocatePoolWithTag(POOL_TYPE PoolType, SIZE_T NumberOfBytes, ULONG Tag)
{
    return MiAllocatePool(PoolType & PagedPool, PoolType == NonPagedPool, NumberOfBytes, FALSE);
}

#undef ExAllocatePool
PVOID ExAllocatePool(POOL_TYPE PoolType, SIZE_T NumberOfBytes)
{
    return MiAllocatePool(PoolType & PagedPool, PoolType == NonPagedPool, NumberOfBytes, FALSE);
}

PVOID ExAllocatePool2(ULONG64 Flags, SIZE_T NumberOfBytes, ULONG Tag)
{
    return MiAllocatePool((Flags & POOL_FLAG_PAGED) != 0, (Flags & POOL_FLAG_NON_PAGED_EXECUTE) != 0, NumberOfBytes,
                          !(Flags & POOL_FLAG_UNINITIALIZED));
}

VOID ExFreePoolWithTag(PVOID P, ULONG Tag)
{
    BOOLEAN executable = MiIsExecutable(P);
    ULONG64 physical = executable ? MiTranslate((ULONG_PTR)P) : (ULONG64)P - KiLoaderBlock->DirectMapBase;
    ULONG64 page = physical & ~(ULONG64)(PAGE_SIZE - 1);
    UCHAR info = physical < KiLoaderBlock->PhysicalMemoryEnd ? MiGetPageInfo(page) : 0;
    BOOLEAN paged = info >= POOL_INFO_SMALL && (info & POOL_INFO_PAGED);
    ULONG class;
    KIRQL old = (KIRQL)KiReadCr8();

    if (old > (paged ? APC_LEVEL : DISPATCH_LEVEL))
        KeBugCheckEx(POOL_BAD_CALLER, POOL_FREED_AT_IRQL, old, paged ? PagedPool : NonPagedPool, (ULONG_PTR)P);
    if (paged)
        info &= ~POOL_INFO_PAGED;
    class = info - POOL_INFO_SMALL;

    if (info >= POOL_INFO_PAGES && page == physical) {
        MiSetPageInfo(page, 0);
        if (paged)
            MiMarkTail(page, info - POOL_INFO_PAGES, 0);
        RtlFillMemory(P, POOL_POISON_LIMIT, POOL_POISON);
        if (executable)
            MiUnmapExecutable((ULONG_PTR)P, (ULONG64)PAGE_SIZE << (info - POOL_INFO_PAGES));
        MiFreePages(page, info - POOL_INFO_PAGES);
        return;
    }
    if (info < POOL_INFO_SMALL || class >= POOL_CLASSES)
        KeBugCheckEx(0xC2, 0x7, 0, Tag, (ULONG_PTR)P); /* BAD_POOL_CALLER: not allocated, or freed already */
    SIZE_T size = (SIZE_T)1 << (POOL_SMALLEST_SHIFT + class);
    RtlFillMemory(P, size < POOL_POISON_LIMIT ? size : POOL_POISON_LIMIT, POOL_POISON);
    old = KxLockRaise(&MiPoolLock);
    ((POOL_BLOCK *)P)->Next = MiPoolFree[paged][class];
    MiPoolFree[paged][class] = P;
    KxUnlockLower(&MiPoolLock, old);
}

#undef ExFreePool
VOID ExFreePool(PVOID P)
{
    ExFreePoolWithTag(P, 0);
}

VOID ExFreePool2(PVOID P, ULONG Tag, PVOID ExtendedParameters, ULONG ExtendedParametersCount);
VOID ExFreePool2(PVOID P, ULONG Tag, PVOID ExtendedParameters, ULONG ExtendedParametersCount)
{
    ExFreePoolWithTag(P, Tag);
}

/* Of any address in it. */
BOOLEAN MiIsPagedPool(ULONG64 Physical)
{
    UCHAR info = MiGetPageInfo(Physical & ~(ULONG64)(PAGE_SIZE - 1));

    return info == POOL_INFO_TAIL || (info >= POOL_INFO_SMALL && (info & POOL_INFO_PAGED));
}
