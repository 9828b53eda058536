/*
 * pool.c - pool blocks of 32 bytes to 2 KiB in pages of one size each; anything larger is whole pages.
 *
 * Blocks have no header: a page's size class is in its page information byte. All of it is non-executable.
 * Freed blocks are filled with a pattern (the first POOL_POISON_LIMIT bytes), so that use after free shows.
 */
#include "ki.h"
#include "mi.h"

#define POOL_SMALLEST_SHIFT 5
#define POOL_CLASSES 7       /* 32, 64 ... 2048 */
#define POOL_INFO_SMALL 0x40 /* page information: 40h + class, 80h + order */
#define POOL_INFO_PAGES 0x80
#define POOL_POISON 0xDD
#define POOL_POISON_LIMIT 256u

typedef struct _POOL_BLOCK {
    struct _POOL_BLOCK *Next;
} POOL_BLOCK;

static ULONG_PTR MiPoolLock;
static POOL_BLOCK *MiPoolFree[POOL_CLASSES];
static ULONG_PTR MiPoolFresh[POOL_CLASSES]; /* next never used block of the class's newest page; page-aligned: none */

static ULONG MiClassOf(SIZE_T Bytes)
{
    ULONG class = 0;
    while (((SIZE_T)1 << (POOL_SMALLEST_SHIFT + class)) < Bytes)
        class ++;
    return class;
}

/* Fresh: the block's memory has not been used since its page was given out zeroed. */
static PVOID MiAllocateSmall(ULONG Class, BOOLEAN *Fresh)
{
    PVOID block = NULL;
    KIRQL old = KxLockRaise(&MiPoolLock);

    *Fresh = FALSE;
    if (MiPoolFree[Class]) {
        block = MiPoolFree[Class];
        MiPoolFree[Class] = MiPoolFree[Class]->Next;
        KxUnlockLower(&MiPoolLock, old);
        return block;
    }
    if (MiPoolFresh[Class] % PAGE_SIZE == 0) {
        ULONG64 page = MiAllocatePages(0, ~0ull);
        MiPoolFresh[Class] = page ? (ULONG_PTR)MiPhysicalToVirtual(page) : 0;
        if (page)
            MiSetPageInfo(page, (UCHAR)(POOL_INFO_SMALL + Class));
    }
    if (MiPoolFresh[Class]) {
        block = (PVOID)MiPoolFresh[Class];
        MiPoolFresh[Class] += (ULONG_PTR)1 << (POOL_SMALLEST_SHIFT + Class);
        *Fresh = TRUE;
    }
    KxUnlockLower(&MiPoolLock, old);
    return block;
}

static PVOID MiAllocateLarge(SIZE_T Bytes)
{
    ULONG order = 0;
    ULONG64 page;

    while (((SIZE_T)PAGE_SIZE << order) < Bytes) {
        if (++order > 20)
            return NULL;
    }
    page = MiAllocatePages(order, ~0ull);
    if (!page)
        return NULL;
    MiSetPageInfo(page, (UCHAR)(POOL_INFO_PAGES + order));
    return MiPhysicalToVirtual(page);
}

static PVOID MiAllocatePool(SIZE_T Bytes, BOOLEAN Zero)
{
    BOOLEAN fresh;
    PVOID block;

    if (Bytes > (PAGE_SIZE / 2))
        return MiAllocateLarge(Bytes);
    block = MiAllocateSmall(MiClassOf(Bytes ? Bytes : 1), &fresh);
    if (block && Zero && !fresh)
        RtlZeroMemory(block, Bytes);
    return block;
}

PVOID ExAllocatePoolWithTag(POOL_TYPE PoolType, SIZE_T NumberOfBytes, ULONG Tag)
{
    return MiAllocatePool(NumberOfBytes, FALSE);
}

#undef ExAllocatePool
PVOID ExAllocatePool(POOL_TYPE PoolType, SIZE_T NumberOfBytes)
{
    return MiAllocatePool(NumberOfBytes, FALSE);
}

PVOID ExAllocatePool2(ULONG64 Flags, SIZE_T NumberOfBytes, ULONG Tag)
{
    return MiAllocatePool(NumberOfBytes, !(Flags & POOL_FLAG_UNINITIALIZED));
}

VOID ExFreePoolWithTag(PVOID P, ULONG Tag)
{
    ULONG64 physical = (ULONG64)P - KiLoaderBlock->DirectMapBase;
    ULONG64 page = physical & ~(ULONG64)(PAGE_SIZE - 1);
    UCHAR info = physical < KiLoaderBlock->PhysicalMemoryEnd ? MiGetPageInfo(page) : 0;
    ULONG class = info - POOL_INFO_SMALL;
    KIRQL old;

    if (info >= POOL_INFO_PAGES && page == physical) {
        MiSetPageInfo(page, 0);
        RtlFillMemory(P, POOL_POISON_LIMIT, POOL_POISON);
        MiFreePages(page, info - POOL_INFO_PAGES);
        return;
    }
    if (info < POOL_INFO_SMALL || class >= POOL_CLASSES)
        KeBugCheckEx(0xC2, 0x7, 0, Tag, (ULONG_PTR)P); /* BAD_POOL_CALLER: not allocated, or freed already */
    SIZE_T size = (SIZE_T)1 << (POOL_SMALLEST_SHIFT + class);
    RtlFillMemory(P, size < POOL_POISON_LIMIT ? size : POOL_POISON_LIMIT, POOL_POISON);
    old = KxLockRaise(&MiPoolLock);
    ((POOL_BLOCK *)P)->Next = MiPoolFree[class];
    MiPoolFree[class] = P;
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
