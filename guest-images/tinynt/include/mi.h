/*
 * mi.h - physical pages, page tables, address regions, pool, image loading.
 */
#ifndef TINYNT_MI_H
#define TINYNT_MI_H

#include "nt.h"

#define MI_PTE_PRESENT 0x1ull
#define MI_PTE_WRITE 0x2ull
#define MI_PTE_WRITE_THROUGH 0x8ull
#define MI_PTE_CACHE_DISABLE 0x10ull
#define MI_PTE_LARGE 0x80ull
#define MI_PTE_NX 0x8000000000000000ull
#define MI_PTE_FRAME 0x000FFFFFFFFFF000ull

#define MI_USER_SHARED_DATA 0xFFFFF78000000000ull
#define MI_IO_REGION 0xFFFFF90000000000ull         /* MmMapIoSpace; addresses are never used twice */
#define MI_STACK_REGION 0xFFFFF88000000000ull      /* kernel stacks, each with a guard page below */
#define MI_EXECUTABLE_REGION 0xFFFFFA0000000000ull /* whole pages of executable nonpaged pool; never used twice */
#define MI_EXECUTABLE_SPAN 0x10000000000ull
#define MI_DRIVER_REGION_SPAN 0x40000000ull /* drivers are put within 1 GiB above the kernel */

/* phys.c */
VOID MiInitializePhysical(VOID);
ULONG64 MiAllocatePages(ULONG Order, ULONG64 HighestAddress); /* physical address, zeroed, 0 = none */
VOID MiFreePages(ULONG64 Physical, ULONG Order);
PVOID MiPhysicalToVirtual(ULONG64 Physical);
UCHAR MiGetPageInfo(ULONG64 Physical);
VOID MiSetPageInfo(ULONG64 Physical, UCHAR Info);

/* pool.c */
BOOLEAN MiIsPagedPool(ULONG64 Physical);

/* pagetable.c */
BOOLEAN MiMapPage(ULONG_PTR Virtual, ULONG64 Physical, ULONG64 Flags);
VOID MiProtectPage(ULONG_PTR Virtual, ULONG64 Flags);
ULONG64 MiUnmapPage(ULONG_PTR Virtual);
ULONG64 MiTranslate(ULONG_PTR Virtual); /* physical address, ~0 = not mapped */

/* region.c */
ULONG_PTR MiAllocateStack(VOID); /* top of a mapped stack of KI_STACK_SIZE bytes, 0 = none */
VOID MiFreeStack(ULONG_PTR Top);
VOID MiMapSharedUserData(VOID);
KUSER_SHARED_DATA *MiSharedData(VOID); /* the writable alias */

/* loader.c, import.c, module.c */
typedef struct _LDR_DATA_TABLE_ENTRY {
    LIST_ENTRY InLoadOrderLinks;
    PVOID ExceptionTable;
    ULONG ExceptionTableSize;
    ULONG Padding0;
    PVOID GpValue;
    PVOID NonPagedDebugInfo;
    PVOID DllBase;
    PVOID EntryPoint;
    ULONG SizeOfImage;
    ULONG Padding1;
    UNICODE_STRING FullDllName;
    UNICODE_STRING BaseDllName;
    ULONG Flags;
    USHORT LoadCount;
    USHORT Padding2;
    PVOID SectionPointer;
    ULONG CheckSum;
    ULONG Padding3;
    /* Private from here. */
    ULONG FileKind;
    char Name[64];
} LDR_DATA_TABLE_ENTRY;

_Static_assert(FIELD_OFFSET(LDR_DATA_TABLE_ENTRY, DllBase) == 0x30, "LDR DllBase");
_Static_assert(FIELD_OFFSET(LDR_DATA_TABLE_ENTRY, EntryPoint) == 0x38, "LDR EntryPoint");
_Static_assert(FIELD_OFFSET(LDR_DATA_TABLE_ENTRY, SizeOfImage) == 0x40, "LDR SizeOfImage");
_Static_assert(FIELD_OFFSET(LDR_DATA_TABLE_ENTRY, FullDllName) == 0x48, "LDR FullDllName");
_Static_assert(FIELD_OFFSET(LDR_DATA_TABLE_ENTRY, BaseDllName) == 0x58, "LDR BaseDllName");
_Static_assert(FIELD_OFFSET(LDR_DATA_TABLE_ENTRY, Flags) == 0x68, "LDR Flags");

extern LIST_ENTRY PsLoadedModuleList;

VOID MiInitializeLoader(VOID); /* the list, with the kernel as its first entry */
LDR_DATA_TABLE_ENTRY *MiLoadImage(const LOADER_FILE *File);
LDR_DATA_TABLE_ENTRY *MiFindModule(const char *Name);       /* base name, any case; HAL.dll is the kernel */
LDR_DATA_TABLE_ENTRY *MiModuleOfAddress(ULONG_PTR Address); /* NULL = none */
LDR_DATA_TABLE_ENTRY *MiAddModule(PVOID Base, IMAGE_NT_HEADERS64 *Headers, const char *Name, ULONG Kind);
PVOID MiFindExport(LDR_DATA_TABLE_ENTRY *Module, const char *Name, ULONG Ordinal); /* Name NULL: by ordinal */
IMAGE_DATA_DIRECTORY MiDirectory(const IMAGE_NT_HEADERS64 *Headers, ULONG Index);
ULONG MiResolveImports(PUCHAR Base, IMAGE_NT_HEADERS64 *Headers, const char *Name); /* how many are missing */

#endif
