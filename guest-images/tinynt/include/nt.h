/*
 * nt.h - the DDK headers as seen from inside the kernel (the kernel defines what they declare as imports).
 */
#ifndef TINYNT_NT_H
#define TINYNT_NT_H

#define _NTOSKRNL_ 1
#define _NTSYSTEM_ 1
#define _NTHALDLL_ 1

/* These are declared as a driver sees them, one indirection too many for the one who exports them. */
#define PsThreadType DdkPsThreadType
#define PsProcessType DdkPsProcessType
#define ExEventObjectType DdkExEventObjectType
#include <ntddk.h>
#include <ntimage.h>
#undef PsThreadType
#undef PsProcessType
#undef ExEventObjectType

#include <stdarg.h>

#include "loader_block.h"

/* Documented values that this DDK lacks. */
#ifndef STATUS_DRIVER_ENTRYPOINT_NOT_FOUND
#define STATUS_DRIVER_ENTRYPOINT_NOT_FOUND ((NTSTATUS)0xC0000263L)
#endif
#define POOL_FLAG_UNINITIALIZED 0x0000000000000002ull
#define POOL_FLAG_PAGED 0x0000000000000100ull
#define POOL_FLAG_NON_PAGED_EXECUTE 0x0000000000000080ull
#ifndef IMAGE_REL_BASED_DIR64
#define IMAGE_REL_BASED_ABSOLUTE 0
#define IMAGE_REL_BASED_DIR64 10
#endif

PVOID ExAllocatePool2(ULONG64 Flags, SIZE_T NumberOfBytes, ULONG Tag);

/* C runtime names that the DDK headers do not declare in a freestanding build. */
void *memcpy(void *Destination, const void *Source, size_t Length);
void *memmove(void *Destination, const void *Source, size_t Length);
void *memset(void *Destination, int Fill, size_t Length);
size_t strlen(const char *Text);
int strcmp(const char *A, const char *B);
char *strchr(const char *Text, int Character);
char *strcpy(char *Destination, const char *Source);
int _vsnprintf(char *Buffer, size_t Count, const char *Format, va_list Arguments);
int RtlpCompareNoCase(const char *A, const char *B); /* exported as _stricmp */
int memcmp(const void *A, const void *B, size_t Length);

#endif
