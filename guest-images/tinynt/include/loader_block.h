/*
 * loader_block.h - what the virtual machine monitor hands to the kernel at its entry point.
 *
 * Documented in docs/loader-block.md. All addresses are virtual ones inside the direct map unless said otherwise.
 * Every processor enters at AddressOfEntryPoint at the same time: RCX = loader block, RDX = processor index,
 * RSP = its own 16 KiB stack, interrupts off, CR8 = 0.
 */
#ifndef TINYNT_LOADER_BLOCK_H
#define TINYNT_LOADER_BLOCK_H

#include <stddef.h>
#include <stdint.h>

#define LOADER_BLOCK_SIGNATURE 0x4b434f4c524f5453ull /* "STORLOCK" as bytes in memory */
#define LOADER_BLOCK_VERSION 1

enum {
    LOADER_MEMORY_FREE = 1,
    LOADER_MEMORY_KERNEL = 2,
    LOADER_MEMORY_LOADER = 3, /* page tables, stacks, this block */
    LOADER_MEMORY_FILE = 4,
};

typedef struct _LOADER_MEMORY_RANGE {
    uint64_t Base;   /* physical address, bytes */
    uint64_t Length; /* bytes */
    uint32_t Type;   /* LOADER_MEMORY_* */
    uint32_t Reserved;
} LOADER_MEMORY_RANGE;

enum {
    LOADER_FILE_KERNEL = 1,
    LOADER_FILE_PORT_DRIVER = 2,
    LOADER_FILE_DRIVER_UNDER_TEST = 3,
    LOADER_FILE_OTHER_DRIVER = 4,
    LOADER_FILE_REGISTRY = 5, /* text, see cm/regfile.c */
};

typedef struct _LOADER_FILE {
    char Name[64]; /* NUL-terminated base name */
    uint64_t Address;
    uint64_t Size; /* bytes */
    uint32_t Kind; /* LOADER_FILE_* */
    uint32_t Reserved;
} LOADER_FILE;

typedef struct _LOADER_BLOCK {
    uint64_t Signature;
    uint32_t Version;
    uint32_t Size; /* bytes of this structure */
    uint64_t Seed;
    uint64_t KernelBase;
    uint32_t KernelSize; /* SizeOfImage, bytes */
    uint32_t ProcessorCount;
    uint64_t DirectMapBase;
    uint64_t PhysicalMemoryEnd;
    uint64_t Cr3;
    uint64_t MemoryRanges;
    uint32_t MemoryRangeCount;
    uint32_t FileCount;
    uint64_t Files;
    uint64_t CommandLine;        /* NUL-terminated ASCII */
    uint64_t TscFrequency;       /* Hz, 0 unknown */
    uint64_t ApicTimerFrequency; /* Hz */
} LOADER_BLOCK;

_Static_assert(sizeof(LOADER_MEMORY_RANGE) == 24, "loader memory range layout");
_Static_assert(sizeof(LOADER_FILE) == 88, "loader file layout");
_Static_assert(offsetof(LOADER_BLOCK, Seed) == 0x10, "loader block layout");
_Static_assert(offsetof(LOADER_BLOCK, DirectMapBase) == 0x28, "loader block layout");
_Static_assert(offsetof(LOADER_BLOCK, Files) == 0x50, "loader block layout");
_Static_assert(sizeof(LOADER_BLOCK) == 0x70, "loader block layout");

#endif
