/*
 * memory.c - the firmware's memory map, and what the loader block says of it.
 *
 * Free is what nobody owns once boot services have ended (UEFI Specification 7.2.6). What the firmware keeps for run
 * time, and ACPI tables, are the loader's as far as the kernel is concerned: not to be used.
 */
#include "loader.h"

#define FOUR_GIB 0x100000000ull
#define FIRST_MIB 0x100000ull
#define RANGE_LIMIT (8 * PAGE_SIZE / sizeof(LOADER_MEMORY_RANGE))
#define MAP_BYTES (16 * PAGE_SIZE)

void LoaderGetMap(LOADER *Loader)
{
    uint32_t version;
    EFI_STATUS status;

    Loader->MapSize = MAP_BYTES;
    status = Loader->Boot->GetMemoryMap(&Loader->MapSize, Loader->Map, &Loader->MapKey, &Loader->MapDescriptorSize,
                                        &version);
    if (EFI_FAILED(status) || Loader->MapDescriptorSize < sizeof(EFI_MEMORY_DESCRIPTOR))
        LoaderFail(Loader, "there is no memory map", status);
}

static const EFI_MEMORY_DESCRIPTOR *LoaderDescriptor(const LOADER *Loader, uint64_t Index)
{
    uint64_t offset = Index * Loader->MapDescriptorSize;

    return offset < Loader->MapSize ? (const EFI_MEMORY_DESCRIPTOR *)(Loader->Map + offset) : NULL;
}

static int LoaderIsRam(uint32_t Type)
{
    return Type != EfiReservedMemoryType && Type != EfiUnusableMemory && Type <= EfiAcpiMemoryNvs;
}

static int LoaderIsFree(uint32_t Type)
{
    return Type == EfiConventionalMemory || Type == EfiBootServicesCode || Type == EfiBootServicesData;
}

/* Rounded up to large pages, in which the direct map maps it. */
void LoaderFindRam(LOADER *Loader)
{
    const EFI_MEMORY_DESCRIPTOR *at;

    for (uint64_t i = 0; (at = LoaderDescriptor(Loader, i)); i++) {
        uint64_t end = at->PhysicalStart + at->NumberOfPages * PAGE_SIZE;
        uint64_t *known = at->PhysicalStart < FOUR_GIB ? &Loader->LowEnd : &Loader->HighEnd;
        if (!LoaderIsRam(at->Type))
            continue;
        end = (end + LARGE_PAGE - 1) & ~(LARGE_PAGE - 1);
        if (end > *known)
            *known = end;
    }
}

/* Appends a range, or lengthens the last one. */
static void LoaderAddRange(LOADER *Loader, uint64_t Base, uint64_t End, uint32_t Type)
{
    uint32_t count = Loader->Block->MemoryRangeCount;
    LOADER_MEMORY_RANGE *last = count ? &Loader->Ranges[count - 1] : NULL;

    if (Base >= End)
        return;
    if (last && last->Type == Type && last->Base + last->Length == Base) {
        last->Length += End - Base;
        return;
    }
    if (count >= RANGE_LIMIT)
        return; /* What is not named is not used. */
    Loader->Ranges[count].Base = Base;
    Loader->Ranges[count].Length = End - Base;
    Loader->Ranges[count].Type = Type;
    Loader->Block->MemoryRangeCount = count + 1;
}

/* What begins first from Base to End, among descriptors of free memory and the loader's own pieces; else nothing at
 * End. */
static LOADER_PIECE LoaderNext(const LOADER *Loader, uint64_t Base, uint64_t End)
{
    LOADER_PIECE found = {End, 0, LOADER_MEMORY_LOADER};
    const EFI_MEMORY_DESCRIPTOR *at;

    for (uint64_t i = 0; (at = LoaderDescriptor(Loader, i)); i++) {
        if (!LoaderIsFree(at->Type) || at->PhysicalStart < Base || at->PhysicalStart >= found.Base)
            continue;
        found.Base = at->PhysicalStart;
        found.Length = at->NumberOfPages * PAGE_SIZE;
        found.Type = LOADER_MEMORY_FREE;
    }
    for (uint32_t i = 0; i < Loader->PieceCount; i++) {
        if (Loader->Pieces[i].Base >= Base && Loader->Pieces[i].Base < found.Base)
            found = Loader->Pieces[i];
    }
    return found;
}

static void LoaderCoverRam(LOADER *Loader, uint64_t Base, uint64_t End)
{
    while (Base < End) {
        LOADER_PIECE next = LoaderNext(Loader, Base, End);
        LoaderAddRange(Loader, Base, next.Base, LOADER_MEMORY_LOADER);
        LoaderAddRange(Loader, next.Base, next.Base + next.Length, next.Type);
        Base = next.Base + next.Length;
    }
}

/* The first MiB has uses on a PC. */
void LoaderMakeRanges(LOADER *Loader)
{
    LoaderAddRange(Loader, 0, FIRST_MIB, LOADER_MEMORY_LOADER);
    LoaderCoverRam(Loader, FIRST_MIB, Loader->LowEnd);
    if (Loader->HighEnd)
        LoaderCoverRam(Loader, FOUR_GIB, Loader->HighEnd);
}
