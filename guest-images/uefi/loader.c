/*
 * loader.c - the boot loader from the firmware's call to the kernel's entry point.
 */
#include "loader.h"

static const EFI_GUID LoadedImageProtocol = {
    0x5B1B31A1, 0x9562, 0x11D2, {0x8E, 0x3F, 0x00, 0xA0, 0xC9, 0x69, 0x72, 0x3B}};

static LOADER TheLoader;

void *memset(void *Target, int Value, size_t Length);
void *memset(void *Target, int Value, size_t Length)
{
    void *at = Target;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(Length) : "a"(Value) : "memory");
    return Target;
}

void *memcpy(void *Target, const void *Source, size_t Length);
void *memcpy(void *Target, const void *Source, size_t Length)
{
    void *at = Target;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(Source), "+c"(Length) : : "memory");
    return Target;
}

static void LoaderZero(uint64_t Address, uint64_t Bytes)
{
    uint64_t count = Bytes / 8;
    __asm__ volatile("rep stosq" : "+D"(Address), "+c"(count) : "a"(0ull) : "memory");
}

void LoaderPrint(LOADER *Loader, const char *Text)
{
    CHAR16 line[128];
    uint32_t length = 0;

    for (; *Text && length < 127; Text++)
        line[length++] = (CHAR16)*Text;
    line[length] = 0;
    Loader->System->ConOut->OutputString(Loader->System->ConOut, line);
}

void LoaderFail(LOADER *Loader, const char *What, EFI_STATUS Status)
{
    char digits[20] = " status ";

    for (uint32_t i = 0; i < 8; i++)
        digits[8 + i] = "0123456789ABCDEF"[Status >> (28 - 4 * i) & 15];
    LoaderPrint(Loader, "\r\nstorlock loader: ");
    LoaderPrint(Loader, What);
    LoaderPrint(Loader, digits);
    LoaderPrint(Loader, "\r\n");
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* splitmix64 */
uint64_t LoaderRandom(LOADER *Loader)
{
    uint64_t value = Loader->Random += 0x9E3779B97F4A7C15ull;

    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9ull;
    value = (value ^ value >> 27) * 0x94D049BB133111EBull;
    return value ^ value >> 31;
}

uint64_t LoaderPages(LOADER *Loader, uint64_t Bytes, uint64_t Highest)
{
    uint64_t pages = (Bytes + PAGE_SIZE - 1) / PAGE_SIZE, address = Highest;
    EFI_STATUS status = Loader->Boot->AllocatePages(AllocateMaxAddress, EfiLoaderData, pages, &address);

    if (EFI_FAILED(status))
        LoaderFail(Loader, "no memory", status);
    LoaderZero(address, pages * PAGE_SIZE);
    return address;
}

/* Everything that has an address for the kernel is in the direct map. */
static void LoaderMakeBlock(LOADER *Loader)
{
    LOADER_BLOCK *block = Loader->Block;
    uint64_t map = Loader->DirectMapBase;

    for (uint32_t i = 0; i < Loader->FileCount; i++)
        Loader->Files[i].Address += map;
    block->Signature = LOADER_BLOCK_SIGNATURE;
    block->Version = LOADER_BLOCK_VERSION;
    block->Size = sizeof(*block);
    block->KernelBase = Loader->KernelBase;
    block->KernelSize = Loader->KernelSize;
    block->ProcessorCount = Loader->ProcessorCount;
    block->DirectMapBase = map;
    block->PhysicalMemoryEnd = Loader->HighEnd ? Loader->HighEnd : Loader->LowEnd;
    block->Cr3 = Loader->Cr3;
    block->MemoryRanges = map + (uint64_t)Loader->Ranges;
    block->FileCount = Loader->FileCount;
    block->Files = map + (uint64_t)Loader->Files;
    block->CommandLine = map + (uint64_t)Loader->CommandLine;
    block->TscFrequency = Loader->TscFrequency;
    block->ApicTimerFrequency = Loader->ApicTimerFrequency;
}

/* The map may change by what is asked between the two calls; then the second try finds it at rest. */
static void LoaderLeaveFirmware(LOADER *Loader)
{
    EFI_STATUS status = EFI_ERROR_BIT;

    for (uint32_t i = 0; i < 4 && EFI_FAILED(status); i++) {
        LoaderGetMap(Loader);
        status = Loader->Boot->ExitBootServices(Loader->Image, Loader->MapKey);
    }
    if (EFI_FAILED(status))
        LoaderFail(Loader, "the firmware does not let go", status);
    __asm__ volatile("cli");
}

/* On the kernel's page tables, where the loader itself is still mapped. What firmware left in free memory goes. */
static void LoaderContinue(LOADER *Loader)
{
    uint64_t map = Loader->DirectMapBase;
    const LOADER_BLOCK *block = (const LOADER_BLOCK *)(map + (uint64_t)Loader->Block);
    const LOADER_MEMORY_RANGE *range = (const LOADER_MEMORY_RANGE *)block->MemoryRanges;

    for (uint32_t i = 0; i < block->MemoryRangeCount; i++, range++) {
        if (range->Type == LOADER_MEMORY_FREE)
            LoaderZero(map + range->Base, range->Length);
    }
    LoaderEnterKernel(Loader);
}

EFI_STATUS EfiMain(EFI_HANDLE Image, EFI_SYSTEM_TABLE *System);
EFI_STATUS EfiMain(EFI_HANDLE Image, EFI_SYSTEM_TABLE *System)
{
    LOADER *loader = &TheLoader;
    uint32_t low, high;

    loader->Image = Image;
    loader->System = System;
    loader->Boot = System->BootServices;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    loader->Random = (uint64_t)high << 32 | low;
    LoaderPrint(loader, "storlock loader: reading the kernel and its drivers\r\n");
    if (EFI_FAILED(loader->Boot->HandleProtocol(Image, &LoadedImageProtocol, (void **)&loader->Loaded)))
        LoaderFail(loader, "nothing tells where this loader came from", 0);
    loader->DirectMapBase = 0xFFFF800000000000ull + LoaderRandom(loader) % 0x10000 * GIB;
    loader->KernelBase = 0xFFFFF80000000000ull + GIB + LoaderRandom(loader) % (255 * 512) * LARGE_PAGE;
    LoaderReadFiles(loader);
    LoaderFindProcessors(loader);
    LoaderMeasureClocks(loader);
    loader->Stacks = LoaderPages(loader, LOADER_STACK_SIZE * loader->ProcessorCount, 0xFFFFFFFF);
    loader->Block = (void *)LoaderPages(loader, sizeof(LOADER_BLOCK), 0xFFFFFFFF);
    loader->Ranges = (void *)LoaderPages(loader, 8 * PAGE_SIZE, 0xFFFFFFFF);
    loader->Map = (void *)LoaderPages(loader, 16 * PAGE_SIZE, 0xFFFFFFFF);
    loader->Block->Seed = LoaderRandom(loader);
    LoaderGetMap(loader);
    LoaderFindRam(loader);
    LoaderBuildTables(loader);
    LoaderPlaceKernel(loader);
    LoaderPrepareProcessors(loader);
    LoaderMakeBlock(loader);
    LoaderPrint(loader, "storlock loader: entering the kernel\r\n");
    LoaderLeaveFirmware(loader);
    LoaderMakeRanges(loader);
    LoaderStartProcessors(loader);
    /* The upper half of the stack stays as the kernel is to find it. */
    LoaderSwitch(loader->Cr3, loader->DirectMapBase + loader->Stacks + LOADER_STACK_SIZE / 2, LoaderContinue, loader);
}
