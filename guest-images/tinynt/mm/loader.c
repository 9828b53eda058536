/*
 * loader.c - maps a driver file: sections, relocations, imports, then page permissions. Nothing of it is entered here.
 *
 * Images go to places chosen by the seed in the gigabyte above the kernel, 64 KiB apart at least.
 */
#include "ki.h"
#include "mi.h"
#include "workload_support.h"

#define MI_IMAGE_ALIGNMENT 0x10000ull
#define MI_LARGEST_IMAGE 0x1000000u
#define MI_PLACEMENT_ATTEMPTS 64

static ULONG64 MiRandomState;

/* xorshift64* */
static ULONG64 MiRandom(VOID)
{
    if (!MiRandomState)
        MiRandomState = KiLoaderSeed() ^ 0x9E3779B97F4A7C15ull;
    MiRandomState ^= MiRandomState >> 12;
    MiRandomState ^= MiRandomState << 25;
    MiRandomState ^= MiRandomState >> 27;
    return MiRandomState * 0x2545F4914F6CDD1Dull;
}

static DECLSPEC_NORETURN VOID MiLoadFailed(const char *Name, const char *Why, NTSTATUS Status, ULONG_PTR Detail)
{
    DbgPrint("loader: %s cannot be loaded: %s\n", Name, Why);
    KeBugCheckEx((ULONG)Status, (ULONG_PTR)Name, Detail, 0, 0);
}

static IMAGE_NT_HEADERS64 *MiCheckHeaders(const LOADER_FILE *File)
{
    PUCHAR raw = (PUCHAR)File->Address;
    IMAGE_DOS_HEADER *dos = (IMAGE_DOS_HEADER *)raw;
    IMAGE_NT_HEADERS64 *headers;

    if (File->Size < sizeof(*dos) || dos->e_magic != IMAGE_DOS_SIGNATURE || dos->e_lfanew < 0 ||
        (ULONG64)dos->e_lfanew + sizeof(*headers) > File->Size)
        return NULL;
    headers = (IMAGE_NT_HEADERS64 *)(raw + dos->e_lfanew);
    if (headers->Signature != IMAGE_NT_SIGNATURE || headers->FileHeader.Machine != IMAGE_FILE_MACHINE_AMD64 ||
        headers->OptionalHeader.Magic != IMAGE_NT_OPTIONAL_HDR64_MAGIC ||
        headers->OptionalHeader.SizeOfImage > MI_LARGEST_IMAGE || headers->OptionalHeader.SizeOfHeaders > File->Size ||
        headers->OptionalHeader.SizeOfHeaders > headers->OptionalHeader.SizeOfImage)
        return NULL;
    return headers;
}

static BOOLEAN MiOverlaps(ULONG_PTR Base, ULONG_PTR Size)
{
    for (PLIST_ENTRY at = PsLoadedModuleList.Flink; at != &PsLoadedModuleList; at = at->Flink) {
        LDR_DATA_TABLE_ENTRY *module = CONTAINING_RECORD(at, LDR_DATA_TABLE_ENTRY, InLoadOrderLinks);
        if (Base < (ULONG_PTR)module->DllBase + module->SizeOfImage + MI_IMAGE_ALIGNMENT &&
            (ULONG_PTR)module->DllBase < Base + Size + MI_IMAGE_ALIGNMENT)
            return TRUE;
    }
    return FALSE;
}

static PUCHAR MiChooseBase(ULONG Size)
{
    ULONG_PTR start = (ULONG_PTR)KiLoaderBlock->KernelBase + 0x1000000;

    for (ULONG i = 0; i < MI_PLACEMENT_ATTEMPTS; i++) {
        ULONG_PTR base = start + (MiRandom() % (MI_DRIVER_REGION_SPAN / MI_IMAGE_ALIGNMENT)) * MI_IMAGE_ALIGNMENT;
        if (!MiOverlaps(base, Size))
            return (PUCHAR)base;
    }
    return NULL;
}

static BOOLEAN MiMapImage(PUCHAR Base, ULONG Size)
{
    for (ULONG offset = 0; offset < Size; offset += PAGE_SIZE) {
        ULONG64 page = MiAllocatePages(0, ~0ull);
        if (!page || !MiMapPage((ULONG_PTR)Base + offset, page, MI_PTE_WRITE | MI_PTE_NX))
            return FALSE;
    }
    return TRUE;
}

static BOOLEAN MiCopySections(PUCHAR Base, const LOADER_FILE *File, IMAGE_NT_HEADERS64 *Headers)
{
    IMAGE_SECTION_HEADER *section = IMAGE_FIRST_SECTION(Headers);

    memcpy(Base, (PVOID)File->Address, Headers->OptionalHeader.SizeOfHeaders);
    for (ULONG i = 0; i < Headers->FileHeader.NumberOfSections; i++, section++) {
        ULONG size = section->SizeOfRawData;
        if (section->Misc.VirtualSize && size > section->Misc.VirtualSize)
            size = section->Misc.VirtualSize;
        if ((PUCHAR)(section + 1) > (PUCHAR)File->Address + File->Size)
            return FALSE;
        if (!size || !section->PointerToRawData)
            continue;
        if ((ULONG64)section->VirtualAddress + size > Headers->OptionalHeader.SizeOfImage ||
            (ULONG64)section->PointerToRawData + size > File->Size)
            return FALSE;
        memcpy(Base + section->VirtualAddress, (PUCHAR)File->Address + section->PointerToRawData, size);
    }
    return TRUE;
}

static BOOLEAN MiRelocate(PUCHAR Base, IMAGE_NT_HEADERS64 *Headers)
{
    IMAGE_DATA_DIRECTORY *directory = &Headers->OptionalHeader.DataDirectory[IMAGE_DIRECTORY_ENTRY_BASERELOC];
    ULONG64 delta = (ULONG64)Base - Headers->OptionalHeader.ImageBase;
    PUCHAR at = Base + directory->VirtualAddress, end = at + directory->Size;

    if (Headers->FileHeader.Characteristics & IMAGE_FILE_RELOCS_STRIPPED)
        return delta == 0;
    while (at + sizeof(IMAGE_BASE_RELOCATION) <= end) {
        IMAGE_BASE_RELOCATION *block = (IMAGE_BASE_RELOCATION *)at;
        USHORT *entry = (USHORT *)(block + 1);
        if (block->SizeOfBlock < sizeof(*block) || block->SizeOfBlock > (ULONG_PTR)(end - at))
            return FALSE;
        for (; (PUCHAR)entry < at + block->SizeOfBlock; entry++) {
            if (*entry >> 12 == IMAGE_REL_BASED_DIR64)
                *(ULONG64 UNALIGNED *)(Base + block->VirtualAddress + (*entry & 0xFFF)) += delta;
            else if (*entry >> 12 != IMAGE_REL_BASED_ABSOLUTE)
                return FALSE;
        }
        at += block->SizeOfBlock;
    }
    return TRUE;
}

/* Writable or executable, never both; the headers read-only. */
static VOID MiProtectImage(PUCHAR Base, IMAGE_NT_HEADERS64 *Headers)
{
    IMAGE_SECTION_HEADER *section = IMAGE_FIRST_SECTION(Headers);

    for (ULONG offset = 0; offset < Headers->OptionalHeader.SizeOfHeaders; offset += PAGE_SIZE)
        MiProtectPage((ULONG_PTR)Base + offset, MI_PTE_NX);
    for (ULONG i = 0; i < Headers->FileHeader.NumberOfSections; i++, section++) {
        ULONG size = section->Misc.VirtualSize ? section->Misc.VirtualSize : section->SizeOfRawData;
        ULONG64 flags = MI_PTE_NX;
        if (section->Characteristics & IMAGE_SCN_MEM_EXECUTE)
            flags = 0;
        else if (section->Characteristics & IMAGE_SCN_MEM_WRITE)
            flags = MI_PTE_NX | MI_PTE_WRITE;
        for (ULONG offset = 0; offset < size; offset += PAGE_SIZE)
            MiProtectPage((ULONG_PTR)Base + section->VirtualAddress + offset, flags);
    }
}

LDR_DATA_TABLE_ENTRY *MiLoadImage(const LOADER_FILE *File)
{
    IMAGE_NT_HEADERS64 *headers = MiCheckHeaders(File);
    LDR_DATA_TABLE_ENTRY *module;
    ULONG missing;
    PUCHAR base;

    if (!headers)
        MiLoadFailed(File->Name, "not a PE64 image for this machine", STATUS_INVALID_IMAGE_FORMAT, 0);
    base = MiChooseBase(headers->OptionalHeader.SizeOfImage);
    if (!base || !MiMapImage(base, headers->OptionalHeader.SizeOfImage))
        MiLoadFailed(File->Name, "no memory", STATUS_INSUFFICIENT_RESOURCES, 0);
    if (!MiCopySections(base, File, headers) || !MiRelocate(base, headers))
        MiLoadFailed(File->Name, "bad sections or relocations", STATUS_INVALID_IMAGE_FORMAT, 1);
    missing = MiResolveImports(base, headers, File->Name);
    if (missing)
        MiLoadFailed(File->Name, "imports are missing", STATUS_DRIVER_ENTRYPOINT_NOT_FOUND, missing);
    MiProtectImage(base, headers);
    module = MiAddModule(base, headers, File->Name, File->Kind);
    DbgPrint("loader: %s at %p, %u bytes\n", File->Name, base, module->SizeOfImage);
    return module;
}
