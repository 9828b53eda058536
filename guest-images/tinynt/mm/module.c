/*
 * module.c - PsLoadedModuleList and looking modules up.
 */
#include "foreign.h"
#include "ki.h"
#include "mi.h"

#define MI_MODULE_NAME 64
#define LDRP_ENTRY_PROCESSED 0x4000

LIST_ENTRY PsLoadedModuleList = {&PsLoadedModuleList, &PsLoadedModuleList};
PLIST_ENTRY MiModuleList = &PsLoadedModuleList;

typedef struct _MI_MODULE {
    LDR_DATA_TABLE_ENTRY Entry;
    WCHAR FullName[MI_MODULE_NAME + 32];
} MI_MODULE;

static VOID MiNameModule(MI_MODULE *Module, const char *Name)
{
    static const WCHAR directory[] = L"\\SystemRoot\\System32\\drivers\\";
    USHORT skip = sizeof(directory) / sizeof(WCHAR) - 1;
    USHORT length = 0;

    memcpy(Module->FullName, directory, sizeof(directory));
    while (Name[length] && length < MI_MODULE_NAME - 1) {
        Module->FullName[skip + length] = (UCHAR)Name[length];
        Module->Entry.Name[length] = Name[length];
        length++;
    }
    RtlInitUnicodeString(&Module->Entry.FullDllName, Module->FullName);
    RtlInitUnicodeString(&Module->Entry.BaseDllName, Module->FullName + skip);
}

LDR_DATA_TABLE_ENTRY *MiAddModule(PVOID Base, IMAGE_NT_HEADERS64 *Headers, const char *Name, ULONG Kind)
{
    MI_MODULE *module = ExAllocatePool2(0, sizeof(*module), 'dLmM');
    IMAGE_DATA_DIRECTORY *exceptions = &Headers->OptionalHeader.DataDirectory[IMAGE_DIRECTORY_ENTRY_EXCEPTION];

    if (!module)
        KeBugCheckEx(0x4A, 0, 0, 0, 0);
    module->Entry.DllBase = Base;
    module->Entry.EntryPoint = (PUCHAR)Base + Headers->OptionalHeader.AddressOfEntryPoint;
    module->Entry.SizeOfImage = Headers->OptionalHeader.SizeOfImage;
    module->Entry.ExceptionTable = exceptions->Size ? (PUCHAR)Base + exceptions->VirtualAddress : NULL;
    module->Entry.ExceptionTableSize = exceptions->Size;
    module->Entry.CheckSum = Headers->OptionalHeader.CheckSum;
    module->Entry.Flags = LDRP_ENTRY_PROCESSED;
    module->Entry.LoadCount = 1;
    module->Entry.FileKind = Kind;
    MiNameModule(module, Name);
    InsertTailList(MiModuleList, &module->Entry.InLoadOrderLinks);
    return &module->Entry;
}

VOID MiInitializeLoader(VOID)
{
    PUCHAR base = (PUCHAR)KiLoaderBlock->KernelBase;
    IMAGE_NT_HEADERS64 *headers = (IMAGE_NT_HEADERS64 *)(base + ((IMAGE_DOS_HEADER *)base)->e_lfanew);

    MiAddModule(base, headers, "ntoskrnl.exe", LOADER_FILE_KERNEL);
}

LDR_DATA_TABLE_ENTRY *MiFindModule(const char *Name)
{
    if (!RtlpCompareNoCase(Name, "hal.dll")) /* since Windows 10 version 2004 hal.dll only forwards to the kernel */
        Name = "ntoskrnl.exe";
    for (PLIST_ENTRY at = MiModuleList->Flink; at != MiModuleList; at = at->Flink) {
        LDR_DATA_TABLE_ENTRY *module = CONTAINING_RECORD(at, LDR_DATA_TABLE_ENTRY, InLoadOrderLinks);
        if (!RtlpCompareNoCase(module->Name, Name))
            return module;
    }
    return NULL;
}

LDR_DATA_TABLE_ENTRY *MiModuleOfAddress(ULONG_PTR Address)
{
    for (PLIST_ENTRY at = MiModuleList->Flink; at != MiModuleList; at = at->Flink) {
        LDR_DATA_TABLE_ENTRY *module = CONTAINING_RECORD(at, LDR_DATA_TABLE_ENTRY, InLoadOrderLinks);
        if (Address - (ULONG_PTR)module->DllBase < module->SizeOfImage)
            return module;
    }
    return NULL;
}

PVOID MmGetSystemRoutineAddress(PUNICODE_STRING SystemRoutineName)
{
    char name[MI_MODULE_NAME];
    ULONG length = SystemRoutineName->Length / sizeof(WCHAR);

    if (length >= sizeof(name))
        return NULL;
    for (ULONG i = 0; i < length; i++)
        name[i] = (char)SystemRoutineName->Buffer[i];
    name[length] = 0;
    return MiFindExport(MiFindModule("ntoskrnl.exe"), name, 0);
}
