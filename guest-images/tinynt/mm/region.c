/*
 * region.c - kernel stacks with guard pages, the shared user data page, I/O space.
 */
#include "ki.h"
#include "mi.h"

#define MI_STACK_STRIDE (2 * KI_STACK_SIZE) /* the lower half stays unmapped */
#define MI_SPARE_STACKS 16

static ULONG_PTR MiRegionLock;
static ULONG_PTR MiNextStack = MI_STACK_REGION;
static ULONG_PTR MiSpareStacks[MI_SPARE_STACKS];
static ULONG MiSpareStackCount;
static ULONG_PTR MiNextIo = MI_IO_REGION;
static KUSER_SHARED_DATA *MiSharedAlias;

ULONG_PTR MiAllocateStack(VOID)
{
    ULONG_PTR top = 0;
    KIRQL old = KxLockRaise(&MiRegionLock);

    if (MiSpareStackCount) {
        top = MiSpareStacks[--MiSpareStackCount];
        KxUnlockLower(&MiRegionLock, old);
        return top;
    }
    MiNextStack += MI_STACK_STRIDE;
    top = MiNextStack;
    KxUnlockLower(&MiRegionLock, old);
    for (ULONG i = 1; i <= KI_STACK_SIZE / PAGE_SIZE; i++) {
        ULONG64 page = MiAllocatePages(0, ~0ull);
        if (!page || !MiMapPage(top - i * PAGE_SIZE, page, MI_PTE_WRITE | MI_PTE_NX))
            return 0;
    }
    return top;
}

/* Kept mapped for the next thread; beyond a few, the address range is simply not used again. */
VOID MiFreeStack(ULONG_PTR Top)
{
    KIRQL old = KxLockRaise(&MiRegionLock);
    BOOLEAN kept = MiSpareStackCount < MI_SPARE_STACKS;

    if (kept)
        MiSpareStacks[MiSpareStackCount++] = Top;
    KxUnlockLower(&MiRegionLock, old);
}

KUSER_SHARED_DATA *MiSharedData(VOID)
{
    return MiSharedAlias;
}

_Static_assert(FIELD_OFFSET(KUSER_SHARED_DATA, InterruptTime) == 0x8, "KUSER_SHARED_DATA.InterruptTime");
_Static_assert(FIELD_OFFSET(KUSER_SHARED_DATA, SystemTime) == 0x14, "KUSER_SHARED_DATA.SystemTime");
_Static_assert(FIELD_OFFSET(KUSER_SHARED_DATA, NtMajorVersion) == 0x26C, "KUSER_SHARED_DATA.NtMajorVersion");
_Static_assert(FIELD_OFFSET(KUSER_SHARED_DATA, TickCount) == 0x320, "KUSER_SHARED_DATA.TickCount");

VOID MiMapSharedUserData(VOID)
{
    ULONG64 page = MiAllocatePages(0, ~0ull);

    MiMapPage(MI_USER_SHARED_DATA, page, MI_PTE_NX);
    MiSharedAlias = MiPhysicalToVirtual(page);
    MiSharedAlias->NtMajorVersion = 10;
    MiSharedAlias->NtMinorVersion = 0;
    MiSharedAlias->NtProductType = NtProductWinNt;
    MiSharedAlias->ProductTypeIsValid = TRUE;
    MiSharedAlias->ImageNumberLow = MiSharedAlias->ImageNumberHigh = 0x8664;
    MiSharedAlias->TickCountMultiplier = 1u << 24;
    memcpy(MiSharedAlias->NtSystemRoot, L"C:\\Windows", sizeof(L"C:\\Windows"));
}

PVOID MmMapIoSpace(PHYSICAL_ADDRESS PhysicalAddress, SIZE_T NumberOfBytes, MEMORY_CACHING_TYPE CacheType)
{
    ULONG64 first = PhysicalAddress.QuadPart & ~(ULONG64)(PAGE_SIZE - 1);
    ULONG offset = (ULONG)(PhysicalAddress.QuadPart - first);
    SIZE_T pages = (offset + NumberOfBytes + PAGE_SIZE - 1) / PAGE_SIZE;
    ULONG64 flags = MI_PTE_WRITE | MI_PTE_NX;
    ULONG_PTR base;
    KIRQL old;

    if (NumberOfBytes == 0 || NumberOfBytes > 1ull << 32)
        return NULL;
    if (CacheType != MmCached)
        flags |= MI_PTE_CACHE_DISABLE | MI_PTE_WRITE_THROUGH;
    old = KxLockRaise(&MiRegionLock);
    base = MiNextIo;
    MiNextIo += (pages + 1) * PAGE_SIZE; /* and a guard page */
    KxUnlockLower(&MiRegionLock, old);
    for (SIZE_T i = 0; i < pages; i++) {
        if (!MiMapPage(base + i * PAGE_SIZE, first + i * PAGE_SIZE, flags))
            return NULL;
    }
    return (PVOID)(base + offset);
}

PVOID MmMapIoSpaceEx(PHYSICAL_ADDRESS PhysicalAddress, SIZE_T NumberOfBytes, ULONG Protect);
PVOID MmMapIoSpaceEx(PHYSICAL_ADDRESS PhysicalAddress, SIZE_T NumberOfBytes, ULONG Protect)
{
    return MmMapIoSpace(PhysicalAddress, NumberOfBytes, Protect & PAGE_NOCACHE ? MmNonCached : MmCached);
}

VOID MmUnmapIoSpace(PVOID BaseAddress, SIZE_T NumberOfBytes)
{
    ULONG_PTR at = (ULONG_PTR)BaseAddress & ~(ULONG_PTR)(PAGE_SIZE - 1);

    for (; at < (ULONG_PTR)BaseAddress + NumberOfBytes; at += PAGE_SIZE)
        MiUnmapPage(at);
}
