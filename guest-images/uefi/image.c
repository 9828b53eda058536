/*
 * image.c - the kernel's image: sections and relocations, and its pages with the rights of its sections.
 */
#include <windows.h>

#undef PAGE_SIZE
#include "loader.h"

#define LARGEST_KERNEL 0x4000000u

/* As Windows' loader: no bytes without a pointer, pointers count in sectors, and no bytes beyond a section's pages. */
static void LoaderCopySections(LOADER *Loader, const uint8_t *File, uint64_t Size, const IMAGE_NT_HEADERS64 *Headers)
{
    const IMAGE_SECTION_HEADER *section = IMAGE_FIRST_SECTION(Headers);
    uint8_t *image = (uint8_t *)Loader->KernelPhysical;
    uint64_t flat = Headers->OptionalHeader.SectionAlignment < PAGE_SIZE ? Loader->KernelSize : 0;
    uint64_t headers = flat ? flat : Headers->OptionalHeader.SizeOfHeaders;

    memcpy(image, File, headers < Size ? headers : Size);
    for (uint32_t i = 0; i < Headers->FileHeader.NumberOfSections; i++, section++) {
        uint64_t bytes = section->SizeOfRawData, offset = section->PointerToRawData;
        uint64_t mapped = ((uint64_t)section->Misc.VirtualSize + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1ull);
        if ((const uint8_t *)(section + 1) > File + Size)
            LoaderFail(Loader, "the kernel's section table is cut", i);
        if (mapped && bytes > mapped)
            bytes = mapped;
        if (Headers->OptionalHeader.FileAlignment >= 512)
            offset &= ~511ull;
        if (!section->PointerToRawData)
            continue;
        if (section->VirtualAddress + bytes > Loader->KernelSize || offset + bytes > Size)
            LoaderFail(Loader, "a section of the kernel is cut", i);
        memcpy(image + section->VirtualAddress, File + offset, bytes);
    }
}

static void LoaderRelocate(LOADER *Loader, const IMAGE_NT_HEADERS64 *Headers)
{
    const IMAGE_DATA_DIRECTORY *directory = &Headers->OptionalHeader.DataDirectory[IMAGE_DIRECTORY_ENTRY_BASERELOC];
    uint8_t *image = (uint8_t *)Loader->KernelPhysical;
    uint64_t delta = Loader->KernelBase - Headers->OptionalHeader.ImageBase;
    uint8_t *at = image + directory->VirtualAddress, *end = at + directory->Size;

    if ((uint64_t)directory->VirtualAddress + directory->Size > Loader->KernelSize || !directory->Size)
        LoaderFail(Loader, "the kernel cannot be relocated", 0);
    while (at + sizeof(IMAGE_BASE_RELOCATION) <= end) {
        const IMAGE_BASE_RELOCATION *block = (IMAGE_BASE_RELOCATION *)at;
        const uint16_t *entry = (const uint16_t *)(block + 1);
        if (block->SizeOfBlock < sizeof(*block) || block->SizeOfBlock > (uint64_t)(end - at))
            LoaderFail(Loader, "the kernel's relocations are malformed", block->SizeOfBlock);
        for (; (const uint8_t *)entry < at + block->SizeOfBlock; entry++) {
            uint64_t place = (uint64_t)block->VirtualAddress + (*entry & 0xFFF);
            if (*entry >> 12 == IMAGE_REL_BASED_DIR64 && place + 8 <= Loader->KernelSize)
                *(uint64_t *)(image + place) += delta;
        }
        at += block->SizeOfBlock;
    }
}

/* Headers, and what is between sections, are read-only. */
static void LoaderMapImage(LOADER *Loader, const IMAGE_NT_HEADERS64 *Headers)
{
    for (uint64_t offset = 0; offset < Loader->KernelSize; offset += PAGE_SIZE) {
        const IMAGE_SECTION_HEADER *section = IMAGE_FIRST_SECTION(Headers);
        uint64_t flags = PTE_NO_EXECUTE;
        for (uint32_t i = 0; i < Headers->FileHeader.NumberOfSections; i++, section++) {
            uint64_t size = section->Misc.VirtualSize ? section->Misc.VirtualSize : section->SizeOfRawData;
            if (offset + PAGE_SIZE <= section->VirtualAddress || offset >= section->VirtualAddress + size)
                continue;
            if (section->Characteristics & IMAGE_SCN_MEM_EXECUTE)
                flags &= ~PTE_NO_EXECUTE;
            if (section->Characteristics & IMAGE_SCN_MEM_WRITE)
                flags |= PTE_WRITE;
        }
        LoaderMapPage(Loader, Loader->KernelBase + offset, Loader->KernelPhysical + offset, flags);
    }
}

void LoaderPlaceKernel(LOADER *Loader)
{
    const uint8_t *file = (const uint8_t *)Loader->Files[0].Address;
    uint64_t size = Loader->Files[0].Size;
    const IMAGE_DOS_HEADER *dos = (const IMAGE_DOS_HEADER *)file;
    const IMAGE_NT_HEADERS64 *headers;
    LOADER_PIECE *piece = &Loader->Pieces[Loader->PieceCount++];

    if (size < sizeof(*dos) || dos->e_magic != IMAGE_DOS_SIGNATURE || dos->e_lfanew < 0 ||
        (uint64_t)dos->e_lfanew + sizeof(*headers) > size)
        LoaderFail(Loader, "ntoskrnl.exe is no PE image", 0);
    headers = (const IMAGE_NT_HEADERS64 *)(file + dos->e_lfanew);
    if (headers->Signature != IMAGE_NT_SIGNATURE || headers->FileHeader.Machine != IMAGE_FILE_MACHINE_AMD64 ||
        headers->OptionalHeader.SizeOfImage > LARGEST_KERNEL ||
        headers->OptionalHeader.SizeOfHeaders > headers->OptionalHeader.SizeOfImage)
        LoaderFail(Loader, "ntoskrnl.exe is no image for this machine", 0);
    Loader->KernelSize = (headers->OptionalHeader.SizeOfImage + 0xFFF) & ~0xFFFu;
    Loader->KernelEntry = Loader->KernelBase + headers->OptionalHeader.AddressOfEntryPoint;
    Loader->KernelPhysical = LoaderPages(Loader, Loader->KernelSize, 0xFFFFFFFF);
    piece->Base = Loader->KernelPhysical;
    piece->Length = Loader->KernelSize;
    piece->Type = LOADER_MEMORY_KERNEL;
    LoaderCopySections(Loader, file, size, headers);
    LoaderRelocate(Loader, headers);
    LoaderMapImage(Loader, headers);
}
