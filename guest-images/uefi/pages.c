/*
 * pages.c - the kernel's first page tables: all RAM in the direct map, the loader's own pages where they are.
 *
 * While these are made, the firmware has all memory mapped at its physical address.
 */
#include "loader.h"

#define FOUR_GIB 0x100000000ull
#define ACCESSED_DIRTY 0x60ull

static uint64_t *LoaderTable(LOADER *Loader, uint64_t Virtual, uint32_t Level)
{
    uint64_t *table = (uint64_t *)Loader->Cr3;

    for (uint32_t level = 3; level > Level; level--) {
        uint64_t *entry = &table[Virtual >> (12 + 9 * level) & 511];
        if (!(*entry & PTE_PRESENT))
            *entry = LoaderPages(Loader, PAGE_SIZE, 0xFFFFFFFF) | PTE_PRESENT | PTE_WRITE | 0x20;
        table = (uint64_t *)(*entry & PTE_FRAME);
    }
    return &table[Virtual >> (12 + 9 * Level) & 511];
}

void LoaderMapPage(LOADER *Loader, uint64_t Virtual, uint64_t Physical, uint64_t Flags)
{
    *LoaderTable(Loader, Virtual, 0) = Physical | Flags | PTE_PRESENT | ACCESSED_DIRTY;
}

static void LoaderMapRam(LOADER *Loader, uint64_t Base, uint64_t End)
{
    for (; Base < End; Base += LARGE_PAGE)
        *LoaderTable(Loader, Loader->DirectMapBase + Base, 1) =
            Base | PTE_PRESENT | PTE_WRITE | PTE_LARGE | PTE_NO_EXECUTE | ACCESSED_DIRTY;
}

void LoaderBuildTables(LOADER *Loader)
{
    uint64_t image = (uint64_t)Loader->Loaded->ImageBase;

    Loader->Cr3 = LoaderPages(Loader, PAGE_SIZE, 0xFFFFFFFF);
    LoaderMapRam(Loader, 0, Loader->LowEnd);
    if (Loader->HighEnd)
        LoaderMapRam(Loader, FOUR_GIB, Loader->HighEnd);
    for (uint64_t offset = 0; offset < Loader->Loaded->ImageSize; offset += PAGE_SIZE)
        LoaderMapPage(Loader, image + offset, image + offset, PTE_WRITE);
}
