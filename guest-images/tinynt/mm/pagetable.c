/*
 * pagetable.c - four-level page tables, edited through the direct map.
 */
#include "ki.h"
#include "mi.h"

static ULONG_PTR MiPageTableLock;

static ULONG64 *MiTable(ULONG64 Entry)
{
    return MiPhysicalToVirtual(Entry & MI_PTE_FRAME);
}

static ULONG MiIndex(ULONG_PTR Virtual, ULONG Level)
{
    return (ULONG)(Virtual >> (12 + 9 * Level)) & 511;
}

/* The 4 KiB entry of Virtual; NULL where there is no table and none is to be made, or a large page is in the way. */
static ULONG64 *MiFindPte(ULONG_PTR Virtual, BOOLEAN Create)
{
    ULONG64 *table = MiTable(KiLoaderBlock->Cr3);

    for (ULONG level = 3; level > 0; level--) {
        ULONG64 *entry = &table[MiIndex(Virtual, level)];
        if (!(*entry & MI_PTE_PRESENT)) {
            ULONG64 page = Create ? MiAllocatePages(0, ~0ull) : 0;
            if (!page)
                return NULL;
            *entry = page | MI_PTE_PRESENT | MI_PTE_WRITE;
        } else if (*entry & MI_PTE_LARGE) {
            return NULL;
        }
        table = MiTable(*entry);
    }
    return &table[MiIndex(Virtual, 0)];
}

static void MiInvalidate(ULONG_PTR Virtual)
{
    __asm__ volatile("invlpg (%0)" : : "r"(Virtual) : "memory");
}

BOOLEAN MiMapPage(ULONG_PTR Virtual, ULONG64 Physical, ULONG64 Flags)
{
    KIRQL old = KxLockRaise(&MiPageTableLock);
    ULONG64 *pte = MiFindPte(Virtual, TRUE);

    if (pte)
        *pte = (Physical & MI_PTE_FRAME) | Flags | MI_PTE_PRESENT;
    KxUnlockLower(&MiPageTableLock, old);
    return pte != NULL;
}

/* Only for pages that no other processor has used yet. */
VOID MiProtectPage(ULONG_PTR Virtual, ULONG64 Flags)
{
    KIRQL old = KxLockRaise(&MiPageTableLock);
    ULONG64 *pte = MiFindPte(Virtual, FALSE);

    if (pte && (*pte & MI_PTE_PRESENT)) {
        *pte = (*pte & MI_PTE_FRAME) | Flags | MI_PTE_PRESENT;
        MiInvalidate(Virtual);
    }
    KxUnlockLower(&MiPageTableLock, old);
}

/* The physical address that was mapped, 0 = none. Other processors may use the stale translation for a while. */
ULONG64 MiUnmapPage(ULONG_PTR Virtual)
{
    KIRQL old = KxLockRaise(&MiPageTableLock);
    ULONG64 *pte = MiFindPte(Virtual, FALSE);
    ULONG64 physical = 0;

    if (pte && (*pte & MI_PTE_PRESENT)) {
        physical = *pte & MI_PTE_FRAME;
        *pte = 0;
        MiInvalidate(Virtual);
    }
    KxUnlockLower(&MiPageTableLock, old);
    return physical;
}

ULONG64 MiTranslate(ULONG_PTR Virtual)
{
    ULONG64 *table = MiTable(KiLoaderBlock->Cr3);

    for (ULONG level = 3;; level--) {
        ULONG64 entry = table[MiIndex(Virtual, level)];
        ULONG64 offset = (1ull << (12 + 9 * level)) - 1;
        if (!(entry & MI_PTE_PRESENT))
            return ~0ull;
        if (level == 0 || (entry & MI_PTE_LARGE))
            return ((entry & MI_PTE_FRAME) & ~offset) | (Virtual & offset);
        table = MiTable(entry);
    }
}
