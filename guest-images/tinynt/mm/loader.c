/*
 * loader.c - maps a driver file: sections, relocations, imports, then page permissions. Nothing of it is entered here.
 *
 * What headers leave open is filled in as Windows' loader does: a section without a virtual size has its raw size, one
 * without a file pointer is zero, file pointers count in sectors, and a file whose sections are aligned below a page is
 * mapped as it is.
 *
 * Images go to places chosen by the seed in the gigabyte above the kernel, 64 KiB apart at least.
 */
#include "foreign.h"
#include "ki.h"
#include "mi.h"
#include "workload_support.h"

#define MI_IMAGE_ALIGNMENT 0x10000ull
#define MI_LARGEST_IMAGE 0x1000000u
#define MI_PLACEMENT_ATTEMPTS 64
#define MI_SECTOR 512u

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
        headers->OptionalHeader.SizeOfImage > MI_LARGEST_IMAGE ||
        headers->OptionalHeader.SizeOfHeaders > headers->OptionalHeader.SizeOfImage ||
        (PUCHAR)(IMAGE_FIRST_SECTION(headers) + headers->FileHeader.NumberOfSections) > raw + File->Size)
        return NULL;
    return headers;
}

/* In whole pages. */
static ULONG64 MiImageSize(const IMAGE_NT_HEADERS64 *Headers)
{
    return ((ULONG64)Headers->OptionalHeader.SizeOfImage + PAGE_SIZE - 1) & ~(ULONG64)(PAGE_SIZE - 1);
}

static BOOLEAN MiOverlaps(ULONG_PTR Base, ULONG_PTR Size)
{
    for (PLIST_ENTRY at = MiModuleList->Flink; at != MiModuleList; at = at->Flink) {
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

/* Where a section lies in memory, and which bytes of the file it begins with. */
typedef struct _MI_SECTION {
    ULONG64 Start, End;
    ULONG64 FileOffset, FileSize;
} MI_SECTION;

static BOOLEAN MiIsFlat(const IMAGE_NT_HEADERS64 *Headers)
{
    return Headers->OptionalHeader.SectionAlignment < PAGE_SIZE;
}

static MI_SECTION MiDescribeSection(const IMAGE_NT_HEADERS64 *Headers, const IMAGE_SECTION_HEADER *Section)
{
    ULONG64 size = Section->Misc.VirtualSize ? Section->Misc.VirtualSize : Section->SizeOfRawData;
    ULONG64 mapped = MiIsFlat(Headers) ? size : (size + PAGE_SIZE - 1) & ~(ULONG64)(PAGE_SIZE - 1);
    MI_SECTION described = {Section->VirtualAddress, Section->VirtualAddress + size, Section->PointerToRawData, 0};

    if (Headers->OptionalHeader.FileAlignment >= MI_SECTOR)
        described.FileOffset &= ~(MI_SECTOR - 1ull);
    if (Section->PointerToRawData)
        described.FileSize = Section->SizeOfRawData < mapped ? Section->SizeOfRawData : mapped;
    return described;
}

/* NULL, or why not. */
static const char *MiCopySections(PUCHAR Base, const LOADER_FILE *File, IMAGE_NT_HEADERS64 *Headers)
{
    const IMAGE_SECTION_HEADER *section = IMAGE_FIRST_SECTION(Headers);
    ULONG64 size = MiImageSize(Headers), headers = Headers->OptionalHeader.SizeOfHeaders;
    ULONG64 table = (ULONG64)((PUCHAR)(section + Headers->FileHeader.NumberOfSections) - (PUCHAR)File->Address);

    if (headers < table || MiIsFlat(Headers))
        headers = MiIsFlat(Headers) ? size : table;
    if (headers > File->Size)
        headers = File->Size;
    if (headers > size)
        return "its headers are larger than the image";
    memcpy(Base, (PVOID)File->Address, headers);
    for (ULONG i = 0; i < Headers->FileHeader.NumberOfSections; i++, section++) {
        MI_SECTION at = MiDescribeSection(Headers, section);
        if (at.End > size || at.Start + at.FileSize > size)
            return "a section lies outside of the image";
        if (at.FileSize && at.FileOffset + at.FileSize > File->Size)
            return "a section lies outside of the file";
        memcpy(Base + at.Start, (PUCHAR)File->Address + at.FileOffset, at.FileSize);
    }
    return NULL;
}

static const char *MiRelocateBlock(PUCHAR Base, ULONG64 Size, const IMAGE_BASE_RELOCATION *Block, ULONG64 Delta)
{
    const USHORT *entry = (const USHORT *)(Block + 1), *end = (const USHORT *)((PUCHAR)Block + Block->SizeOfBlock);

    for (; entry + 1 <= end; entry++) {
        ULONG64 place = (ULONG64)Block->VirtualAddress + (*entry & 0xFFF);
        if (*entry >> 12 == IMAGE_REL_BASED_ABSOLUTE)
            continue;
        if (*entry >> 12 != IMAGE_REL_BASED_DIR64)
            return "it has relocations that are not of x64";
        if (place + sizeof(ULONG64) > Size)
            return "a relocation lies outside of the image";
        *(ULONG64 UNALIGNED *)(Base + place) += Delta;
    }
    return NULL;
}

static const char *MiRelocate(PUCHAR Base, IMAGE_NT_HEADERS64 *Headers)
{
    IMAGE_DATA_DIRECTORY directory = MiDirectory(Headers, IMAGE_DIRECTORY_ENTRY_BASERELOC);
    ULONG64 delta = (ULONG64)Base - Headers->OptionalHeader.ImageBase, size = MiImageSize(Headers);
    PUCHAR at = Base + directory.VirtualAddress, end = at + directory.Size;
    const char *why = NULL;

    if (Headers->FileHeader.Characteristics & IMAGE_FILE_RELOCS_STRIPPED)
        return delta ? "its relocations are stripped, and a driver has to run at any address" : NULL;
    if ((ULONG64)directory.VirtualAddress + directory.Size > size)
        return "its relocations lie outside of the image";
    while (!why && at + sizeof(IMAGE_BASE_RELOCATION) <= end) {
        const IMAGE_BASE_RELOCATION *block = (const IMAGE_BASE_RELOCATION *)at;
        if (block->SizeOfBlock < sizeof(*block) || block->SizeOfBlock > (ULONG_PTR)(end - at))
            return "a block of its relocations has no end";
        why = MiRelocateBlock(Base, size, block, delta);
        at += block->SizeOfBlock;
    }
    return why;
}

static ULONG64 MiPageFlags(const IMAGE_NT_HEADERS64 *Headers, ULONG64 Offset)
{
    const IMAGE_SECTION_HEADER *section = IMAGE_FIRST_SECTION(Headers);
    ULONG64 flags = MI_PTE_NX;

    if (MiIsFlat(Headers)) /* one page may have sections of all kinds */
        return MI_PTE_WRITE;
    for (ULONG i = 0; i < Headers->FileHeader.NumberOfSections; i++, section++) {
        MI_SECTION at = MiDescribeSection(Headers, section);
        if (at.Start >= Offset + PAGE_SIZE || at.End <= Offset)
            continue;
        if (section->Characteristics & IMAGE_SCN_MEM_EXECUTE)
            flags &= ~MI_PTE_NX;
        else if (section->Characteristics & IMAGE_SCN_MEM_WRITE)
            flags |= MI_PTE_WRITE;
    }
    return flags;
}

/* Writable or executable, never both; headers, and what is between sections, read-only. */
static VOID MiProtectImage(PUCHAR Base, IMAGE_NT_HEADERS64 *Headers)
{
    for (ULONG64 offset = 0; offset < MiImageSize(Headers); offset += PAGE_SIZE)
        MiProtectPage((ULONG_PTR)Base + offset, MiPageFlags(Headers, offset));
}

LDR_DATA_TABLE_ENTRY *MiLoadImage(const LOADER_FILE *File)
{
    IMAGE_NT_HEADERS64 *headers = MiCheckHeaders(File);
    LDR_DATA_TABLE_ENTRY *module;
    const char *why;
    ULONG missing;
    PUCHAR base;

    if (!headers)
        MiLoadFailed(File->Name, "not a PE64 image for this machine", STATUS_INVALID_IMAGE_FORMAT, 0);
    base = MiChooseBase(headers->OptionalHeader.SizeOfImage);
    if (!base || !MiMapImage(base, headers->OptionalHeader.SizeOfImage))
        MiLoadFailed(File->Name, "no memory", STATUS_INSUFFICIENT_RESOURCES, 0);
    why = MiCopySections(base, File, headers);
    if (!why)
        why = MiRelocate(base, headers);
    if (why)
        MiLoadFailed(File->Name, why, STATUS_INVALID_IMAGE_FORMAT, 1);
    missing = MiResolveImports(base, headers, File->Name);
    if (missing)
        MiLoadFailed(File->Name, "imports are missing", STATUS_DRIVER_ENTRYPOINT_NOT_FOUND, missing);
    MiProtectImage(base, headers);
    module = MiAddModule(base, headers, File->Name, File->Kind);
    DbgPrint("loader: %s at %p, %u bytes\n", File->Name, base, module->SizeOfImage);
    return module;
}
