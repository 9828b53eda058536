/*
 * efi.h - what the loader uses of the firmware's interface.
 *
 * Names and layouts: UEFI Specification 2.10; sections are given. Entries of tables that are not used are placeholders.
 */
#ifndef UEFI_EFI_H
#define UEFI_EFI_H

#include <stddef.h>
#include <stdint.h>

typedef uint64_t EFI_STATUS;
typedef void *EFI_HANDLE;
typedef uint16_t CHAR16;

#define EFI_ERROR_BIT 0x8000000000000000ull
#define EFI_BUFFER_TOO_SMALL (EFI_ERROR_BIT | 5)
#define EFI_NOT_FOUND (EFI_ERROR_BIT | 14)
#define EFI_FAILED(Status) (((Status)&EFI_ERROR_BIT) != 0)

typedef struct _EFI_GUID {
    uint32_t Data1;
    uint16_t Data2, Data3;
    uint8_t Data4[8];
} EFI_GUID;

typedef struct _EFI_TABLE_HEADER {
    uint64_t Signature;
    uint32_t Revision, HeaderSize, Crc32, Reserved;
} EFI_TABLE_HEADER;

/* 7.2.3 */
enum {
    EfiReservedMemoryType,
    EfiLoaderCode,
    EfiLoaderData,
    EfiBootServicesCode,
    EfiBootServicesData,
    EfiRuntimeServicesCode,
    EfiRuntimeServicesData,
    EfiConventionalMemory,
    EfiUnusableMemory,
    EfiAcpiReclaimMemory,
    EfiAcpiMemoryNvs,
};

typedef struct _EFI_MEMORY_DESCRIPTOR {
    uint32_t Type;
    uint64_t PhysicalStart;
    uint64_t VirtualStart;
    uint64_t NumberOfPages;
    uint64_t Attribute;
} EFI_MEMORY_DESCRIPTOR;

/* 7.2.1 */
enum { AllocateAnyPages, AllocateMaxAddress };

/* 4.4 */
typedef struct _EFI_BOOT_SERVICES {
    EFI_TABLE_HEADER Hdr;
    void *TaskPriority[2];
    EFI_STATUS (*AllocatePages)(uint32_t Type, uint32_t MemoryType, uint64_t Pages, uint64_t *Memory);
    void *FreePages;
    EFI_STATUS (*GetMemoryMap)(uint64_t *Size, void *Map, uint64_t *Key, uint64_t *DescriptorSize, uint32_t *Version);
    void *Pool[2];
    void *Events[6];
    void *Protocols1[3];
    EFI_STATUS (*HandleProtocol)(EFI_HANDLE Handle, const EFI_GUID *Protocol, void **Interface);
    void *Protocols2[5];
    void *Images[4];
    EFI_STATUS (*ExitBootServices)(EFI_HANDLE ImageHandle, uint64_t MapKey);
    void *GetNextMonotonicCount;
    EFI_STATUS (*Stall)(uint64_t Microseconds);
} EFI_BOOT_SERVICES;

/* 12.4 */
typedef struct _EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL {
    void *Reset;
    EFI_STATUS (*OutputString)(struct _EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *This, const CHAR16 *String);
} EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL;

typedef struct _EFI_CONFIGURATION_TABLE {
    EFI_GUID VendorGuid;
    void *VendorTable;
} EFI_CONFIGURATION_TABLE;

/* 4.3 */
typedef struct _EFI_SYSTEM_TABLE {
    EFI_TABLE_HEADER Hdr;
    CHAR16 *FirmwareVendor;
    uint32_t FirmwareRevision;
    EFI_HANDLE ConsoleInHandle;
    void *ConIn;
    EFI_HANDLE ConsoleOutHandle;
    EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL *ConOut;
    EFI_HANDLE StandardErrorHandle;
    void *StdErr;
    void *RuntimeServices;
    EFI_BOOT_SERVICES *BootServices;
    uint64_t NumberOfTableEntries;
    EFI_CONFIGURATION_TABLE *ConfigurationTable;
} EFI_SYSTEM_TABLE;

/* 9.1 */
typedef struct _EFI_LOADED_IMAGE_PROTOCOL {
    uint32_t Revision;
    EFI_HANDLE ParentHandle;
    EFI_SYSTEM_TABLE *SystemTable;
    EFI_HANDLE DeviceHandle;
    void *FilePath, *Reserved;
    uint32_t LoadOptionsSize;
    void *LoadOptions;
    void *ImageBase;
    uint64_t ImageSize;
} EFI_LOADED_IMAGE_PROTOCOL;

/* 13.5 */
#define EFI_FILE_MODE_READ 1ull
#define EFI_FILE_DIRECTORY 0x10ull

typedef struct _EFI_FILE_PROTOCOL {
    uint64_t Revision;
    EFI_STATUS(*Open)
    (struct _EFI_FILE_PROTOCOL *This, struct _EFI_FILE_PROTOCOL **New, const CHAR16 *Name, uint64_t Mode,
     uint64_t Attributes);
    EFI_STATUS (*Close)(struct _EFI_FILE_PROTOCOL *This);
    void *Delete;
    EFI_STATUS (*Read)(struct _EFI_FILE_PROTOCOL *This, uint64_t *Size, void *Buffer);
    void *Write;
    void *GetPosition, *SetPosition;
    EFI_STATUS (*GetInfo)(struct _EFI_FILE_PROTOCOL *This, const EFI_GUID *Type, uint64_t *Size, void *Buffer);
} EFI_FILE_PROTOCOL;

typedef struct _EFI_FILE_INFO {
    uint64_t Size; /* of this structure */
    uint64_t FileSize;
    uint64_t PhysicalSize;
    uint8_t Times[3][16];
    uint64_t Attribute;
    CHAR16 FileName[];
} EFI_FILE_INFO;

/* 13.4 */
typedef struct _EFI_SIMPLE_FILE_SYSTEM_PROTOCOL {
    uint64_t Revision;
    EFI_STATUS (*OpenVolume)(struct _EFI_SIMPLE_FILE_SYSTEM_PROTOCOL *This, EFI_FILE_PROTOCOL **Root);
} EFI_SIMPLE_FILE_SYSTEM_PROTOCOL;

_Static_assert(sizeof(EFI_MEMORY_DESCRIPTOR) == 40, "memory descriptor layout");
_Static_assert(offsetof(EFI_BOOT_SERVICES, AllocatePages) == 40, "boot services layout");
_Static_assert(offsetof(EFI_BOOT_SERVICES, HandleProtocol) == 152, "boot services layout");
_Static_assert(offsetof(EFI_BOOT_SERVICES, ExitBootServices) == 232, "boot services layout");
_Static_assert(offsetof(EFI_BOOT_SERVICES, Stall) == 248, "boot services layout");
_Static_assert(offsetof(EFI_SYSTEM_TABLE, BootServices) == 96, "system table layout");
_Static_assert(offsetof(EFI_LOADED_IMAGE_PROTOCOL, ImageBase) == 64, "loaded image layout");
_Static_assert(offsetof(EFI_FILE_PROTOCOL, GetInfo) == 64, "file protocol layout");
_Static_assert(offsetof(EFI_FILE_INFO, FileName) == 80, "file information layout");

#endif
