/*
 * import.c - export lookup (with forwarders) and import resolution of a mapped image.
 */
#include "foreign.h"
#include "ki.h"
#include "mi.h"

#define MI_FORWARDER_DEPTH 4

typedef struct _MI_EXPORTS {
    PUCHAR Base;
    IMAGE_EXPORT_DIRECTORY *Directory;
    IMAGE_DATA_DIRECTORY Extent;
} MI_EXPORTS;

/* All zero if the image has no such table. The tables of imports and exports end by what they say; the size is a hint.
 */
IMAGE_DATA_DIRECTORY MiDirectory(const IMAGE_NT_HEADERS64 *Headers, ULONG Index)
{
    IMAGE_DATA_DIRECTORY none = {0, 0};
    const IMAGE_DATA_DIRECTORY *directory = &Headers->OptionalHeader.DataDirectory[Index];

    if (Index >= Headers->OptionalHeader.NumberOfRvaAndSizes ||
        directory->VirtualAddress >= Headers->OptionalHeader.SizeOfImage)
        return none;
    return *directory;
}

static BOOLEAN MiGetExports(LDR_DATA_TABLE_ENTRY *Module, MI_EXPORTS *Exports)
{
    PUCHAR base = Module->DllBase;
    IMAGE_NT_HEADERS64 *headers = (IMAGE_NT_HEADERS64 *)(base + ((IMAGE_DOS_HEADER *)base)->e_lfanew);

    Exports->Base = base;
    Exports->Extent = MiDirectory(headers, IMAGE_DIRECTORY_ENTRY_EXPORT);
    Exports->Directory = (IMAGE_EXPORT_DIRECTORY *)(base + Exports->Extent.VirtualAddress);
    return Exports->Extent.VirtualAddress != 0;
}

/* Index into the address table by name, ~0 = none. The name table is sorted. */
static ULONG MiFindName(const MI_EXPORTS *Exports, const char *Name)
{
    const ULONG *names = (const ULONG *)(Exports->Base + Exports->Directory->AddressOfNames);
    const USHORT *ordinals = (const USHORT *)(Exports->Base + Exports->Directory->AddressOfNameOrdinals);
    ULONG low = 0, high = Exports->Directory->NumberOfNames;

    while (low < high) {
        ULONG middle = (low + high) / 2;
        int order = strcmp(Name, (const char *)Exports->Base + names[middle]);
        if (order == 0)
            return ordinals[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return ~0u;
}

static PVOID MiFindExportDepth(LDR_DATA_TABLE_ENTRY *Module, const char *Name, ULONG Ordinal, ULONG Depth);

/* "MODULE.Name", the module without its extension. */
static PVOID MiFollowForwarder(const char *Text, ULONG Depth)
{
    static const char *const extensions[] = {".sys", ".exe", ".dll"};
    const char *dot = strchr(Text, '.');
    char module[64];

    if (!dot || Depth == MI_FORWARDER_DEPTH || dot - Text > 50)
        return NULL;
    for (ULONG i = 0; i < RTL_NUMBER_OF(extensions); i++) {
        LDR_DATA_TABLE_ENTRY *target;
        memcpy(module, Text, (size_t)(dot - Text));
        strcpy(module + (dot - Text), extensions[i]);
        target = MiFindModule(module);
        if (target)
            return MiFindExportDepth(target, dot + 1, 0, Depth + 1);
    }
    return NULL;
}

static PVOID MiFindExportDepth(LDR_DATA_TABLE_ENTRY *Module, const char *Name, ULONG Ordinal, ULONG Depth)
{
    MI_EXPORTS exports;
    ULONG index, address;

    if (!MiGetExports(Module, &exports))
        return NULL;
    index = Name ? MiFindName(&exports, Name) : Ordinal - exports.Directory->Base;
    if (index >= exports.Directory->NumberOfFunctions)
        return NULL;
    address = ((const ULONG *)(exports.Base + exports.Directory->AddressOfFunctions))[index];
    if (address - exports.Extent.VirtualAddress < exports.Extent.Size)
        return MiFollowForwarder((const char *)exports.Base + address, Depth);
    return address ? exports.Base + address : NULL;
}

PVOID MiFindExport(LDR_DATA_TABLE_ENTRY *Module, const char *Name, ULONG Ordinal)
{
    return MiFindExportDepth(Module, Name, Ordinal, 0);
}

static VOID MiReportMissing(const char *Image, const char *Library, LDR_DATA_TABLE_ENTRY *Module, const char *Name,
                            ULONG Ordinal)
{
    const char *why = Module ? "is not exported" : "cannot be had: that module is not loaded";

    if (Name)
        DbgPrint("loader: %s imports %s!%s, which %s\n", Image, Library, Name, why);
    else
        DbgPrint("loader: %s imports %s!#%u, which %s\n", Image, Library, Ordinal, why);
}

/* What is left in the lookup table once a name has been found; NameBase 0: what the file has. */
static VOID MiKeepName(IMAGE_THUNK_DATA64 *Thunk, ULONG64 NameBase)
{
    if (NameBase)
        Thunk->u1.AddressOfData += NameBase;
}

static ULONG64 MiNameBase(PUCHAR Base, const IMAGE_NT_HEADERS64 *Headers)
{
    if (KiDiffers(KiImportsByAddress))
        return (ULONG64)Base;
    return KiDiffers(KiImportsByOldBase) ? Headers->OptionalHeader.ImageBase : 0;
}

static ULONG MiResolveLibrary(PUCHAR Base, const IMAGE_IMPORT_DESCRIPTOR *Descriptor, const char *Image,
                              ULONG64 NameBase)
{
    const char *library = (const char *)Base + Descriptor->Name;
    LDR_DATA_TABLE_ENTRY *module = MiFindModule(library);
    IMAGE_THUNK_DATA64 *bound = (IMAGE_THUNK_DATA64 *)(Base + Descriptor->FirstThunk);
    IMAGE_THUNK_DATA64 *names =
        Descriptor->OriginalFirstThunk ? (IMAGE_THUNK_DATA64 *)(Base + Descriptor->OriginalFirstThunk) : bound;
    ULONG missing = 0;

    for (; names->u1.AddressOfData; names++, bound++) {
        BOOLEAN byOrdinal = IMAGE_SNAP_BY_ORDINAL64(names->u1.Ordinal);
        const char *name =
            byOrdinal ? NULL : (const char *)((IMAGE_IMPORT_BY_NAME *)(Base + names->u1.AddressOfData))->Name;
        ULONG ordinal = byOrdinal ? (ULONG)(names->u1.Ordinal & 0xFFFF) : 0;
        PVOID address = module ? MiFindExport(module, name, ordinal) : NULL;
        if (address) {
            if (name && names != bound)
                MiKeepName(names, NameBase);
            bound->u1.Function = (ULONG64)KiWrapImport(address);
        } else {
            MiReportMissing(Image, library, module, name, ordinal);
            missing++;
        }
    }
    return missing;
}

ULONG MiResolveImports(PUCHAR Base, IMAGE_NT_HEADERS64 *Headers, const char *Name)
{
    IMAGE_DATA_DIRECTORY directory = MiDirectory(Headers, IMAGE_DIRECTORY_ENTRY_IMPORT);
    ULONG missing = 0;

    if (!directory.VirtualAddress)
        return 0;
    for (const IMAGE_IMPORT_DESCRIPTOR *at = (IMAGE_IMPORT_DESCRIPTOR *)(Base + directory.VirtualAddress);
         at->Name && at->FirstThunk; at++)
        missing += MiResolveLibrary(Base, at, Name, MiNameBase(Base, Headers));
    return missing;
}
