/*
 * loader.h - what the parts of the boot loader share.
 *
 * The loader is for a guest's kernel what Windows' own loader is for its: it is started by the firmware, reads kernel,
 * drivers and settings from the disk, and enters the kernel with a loader block (docs/loader-block.md).
 */
#ifndef UEFI_LOADER_H
#define UEFI_LOADER_H

#include "efi.h"
#include "loader_block.h"

#define PAGE_SIZE 4096ull
#define LARGE_PAGE 0x200000ull
#define GIB 0x40000000ull
#define LOADER_STACK_SIZE 0x4000ull
#define LOADER_FILES 16
#define LOADER_PROCESSORS 64
#define LOADER_COMMAND_LINE 4096 /* with its NUL */

/* A stretch of memory that the loader block has to name. */
typedef struct _LOADER_PIECE {
    uint64_t Base;
    uint64_t Length; /* bytes, whole pages */
    uint32_t Type;   /* LOADER_MEMORY_* */
} LOADER_PIECE;

typedef struct _LOADER {
    EFI_HANDLE Image;
    EFI_SYSTEM_TABLE *System;
    EFI_BOOT_SERVICES *Boot;
    EFI_LOADED_IMAGE_PROTOCOL *Loaded;
    uint64_t Random; /* state */

    LOADER_FILE *Files; /* Address is physical until the block is made */
    uint32_t FileCount;
    char *CommandLine;

    uint64_t KernelBase, KernelPhysical, KernelEntry; /* virtual, physical, virtual */
    uint32_t KernelSize;
    uint64_t DirectMapBase;
    uint64_t Cr3;
    uint64_t LowEnd, HighEnd; /* where RAM below 4 GiB ends, and RAM above (0: none) */

    uint64_t Stacks; /* physical, of processor 0 first */
    uint64_t *Gdt;   /* physical */
    uint32_t ProcessorCount;
    uint32_t ApicIds[LOADER_PROCESSORS]; /* by number; the first is the one that runs */
    uint64_t TscFrequency, ApicTimerFrequency;

    LOADER_PIECE Pieces[LOADER_FILES + 2];
    uint32_t PieceCount;
    uint8_t *Map; /* of the firmware: descriptors */
    uint64_t MapSize, MapDescriptorSize, MapKey;

    LOADER_BLOCK *Block;         /* physical */
    LOADER_MEMORY_RANGE *Ranges; /* physical */
} LOADER;

/* loader.c: ends the boot with a message. */
void LoaderFail(LOADER *Loader, const char *What, EFI_STATUS Status) __attribute__((noreturn));
void LoaderPrint(LOADER *Loader, const char *Text);
uint64_t LoaderRandom(LOADER *Loader);
/* Pages below 4 GiB, at most up to Highest, zeroed. */
uint64_t LoaderPages(LOADER *Loader, uint64_t Bytes, uint64_t Highest);

/* files.c */
void LoaderReadFiles(LOADER *Loader);

/* image.c */
void LoaderPlaceKernel(LOADER *Loader);

/* memory.c */
void LoaderGetMap(LOADER *Loader);
void LoaderFindRam(LOADER *Loader);
void LoaderMakeRanges(LOADER *Loader);

/* pages.c */
void LoaderBuildTables(LOADER *Loader);
void LoaderMapPage(LOADER *Loader, uint64_t Virtual, uint64_t Physical, uint64_t Flags);

#define PTE_PRESENT 1ull
#define PTE_WRITE 2ull
#define PTE_LARGE 0x80ull
#define PTE_NO_EXECUTE 0x8000000000000000ull
#define PTE_FRAME 0x000FFFFFFFFFF000ull

/* processors.c */
void LoaderFindProcessors(LOADER *Loader);
void LoaderMeasureClocks(LOADER *Loader);
void LoaderPrepareProcessors(LOADER *Loader);
void LoaderStartProcessors(LOADER *Loader);
/* Lets the others into the kernel and enters it. On the loader's page tables. */
void LoaderEnterKernel(LOADER *Loader) __attribute__((noreturn));

/* entry.S */
void LoaderSwitch(uint64_t Cr3, uint64_t Stack, void (*Continue)(LOADER *), LOADER *Loader) __attribute__((noreturn));
void LoaderJump(uint64_t Entry, uint64_t Block, uint64_t Stack, const void *GdtPointer) __attribute__((noreturn));

#endif
