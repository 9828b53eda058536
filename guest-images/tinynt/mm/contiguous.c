/*
 * contiguous.c - physically contiguous memory and address translation. DMA is coherent here: all of it is cached.
 */
#include "ki.h"
#include "mi.h"

#define MI_INFO_CONTIGUOUS 0x20 /* page information: 20h + order */

/* 0 for memory that is not there, and for paged memory, which need not be. */
PHYSICAL_ADDRESS MmGetPhysicalAddress(PVOID BaseAddress)
{
    PHYSICAL_ADDRESS result;
    ULONG64 physical = MiTranslate((ULONG_PTR)BaseAddress);

    result.QuadPart = physical == ~0ull || MiIsPagedPool(physical) ? 0 : (LONG64)physical;
    return result;
}

PVOID MmGetVirtualForPhysical(PHYSICAL_ADDRESS PhysicalAddress);
PVOID MmGetVirtualForPhysical(PHYSICAL_ADDRESS PhysicalAddress)
{
    return MiPhysicalToVirtual((ULONG64)PhysicalAddress.QuadPart);
}

BOOLEAN MmIsAddressValid(PVOID VirtualAddress)
{
    LONG64 sign = (LONG64)VirtualAddress >> 47;

    return (sign == 0 || sign == -1) && MiTranslate((ULONG_PTR)VirtualAddress) != ~0ull;
}

/* Blocks are powers of two and aligned to their size, so a power-of-two boundary is crossed only by larger ones. */
PVOID MmAllocateContiguousMemorySpecifyCache(SIZE_T NumberOfBytes, PHYSICAL_ADDRESS LowestAcceptableAddress,
                                             PHYSICAL_ADDRESS HighestAcceptableAddress,
                                             PHYSICAL_ADDRESS BoundaryAddressMultiple, MEMORY_CACHING_TYPE CacheType)
{
    ULONG64 highest = (ULONG64)HighestAcceptableAddress.QuadPart;
    ULONG order = 0;
    ULONG64 physical;

    while (((SIZE_T)PAGE_SIZE << order) < NumberOfBytes) {
        if (++order > 20)
            return NULL;
    }
    physical = MiAllocatePages(order, highest ? highest : ~0ull);
    if (!physical)
        return NULL;
    MiSetPageInfo(physical, (UCHAR)(MI_INFO_CONTIGUOUS + order));
    return MiPhysicalToVirtual(physical);
}

PVOID MmAllocateContiguousMemorySpecifyCacheNode(SIZE_T NumberOfBytes, PHYSICAL_ADDRESS LowestAcceptableAddress,
                                                 PHYSICAL_ADDRESS HighestAcceptableAddress,
                                                 PHYSICAL_ADDRESS BoundaryAddressMultiple,
                                                 MEMORY_CACHING_TYPE CacheType, NODE_REQUIREMENT PreferredNode)
{
    return MmAllocateContiguousMemorySpecifyCache(NumberOfBytes, LowestAcceptableAddress, HighestAcceptableAddress,
                                                  BoundaryAddressMultiple, CacheType);
}

PVOID MmAllocateContiguousMemory(SIZE_T NumberOfBytes, PHYSICAL_ADDRESS HighestAcceptableAddress)
{
    PHYSICAL_ADDRESS zero = {{0, 0}};

    return MmAllocateContiguousMemorySpecifyCache(NumberOfBytes, zero, HighestAcceptableAddress, zero, MmCached);
}

VOID MmFreeContiguousMemory(PVOID BaseAddress)
{
    ULONG64 physical = (ULONG64)BaseAddress - KiLoaderBlock->DirectMapBase;
    UCHAR info = physical < KiLoaderBlock->PhysicalMemoryEnd ? MiGetPageInfo(physical) : 0;

    if (info < MI_INFO_CONTIGUOUS || info >= MI_INFO_CONTIGUOUS + 0x20)
        KeBugCheckEx(0x1A, 0x41284, (ULONG_PTR)BaseAddress, info, 0); /* MEMORY_MANAGEMENT */
    MiSetPageInfo(physical, 0);
    MiFreePages(physical, info - MI_INFO_CONTIGUOUS);
}

VOID MmFreeContiguousMemorySpecifyCache(PVOID BaseAddress, SIZE_T NumberOfBytes, MEMORY_CACHING_TYPE CacheType)
{
    MmFreeContiguousMemory(BaseAddress);
}

PVOID MmAllocateNonCachedMemory(SIZE_T NumberOfBytes)
{
    PHYSICAL_ADDRESS any = {.QuadPart = -1};

    return MmAllocateContiguousMemory(NumberOfBytes, any);
}

VOID MmFreeNonCachedMemory(PVOID BaseAddress, SIZE_T NumberOfBytes)
{
    MmFreeContiguousMemory(BaseAddress);
}

MM_SYSTEMSIZE MmQuerySystemSize(VOID)
{
    return MmMediumSystem;
}
