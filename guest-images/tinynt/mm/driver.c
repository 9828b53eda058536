/*
 * driver.c - what drivers ask of memory management beside pool: pageable code (all of it is resident), page lists,
 * mappings, the verifier (off).
 */
#include "ki.h"
#include "mi.h"

PVOID MmHighestUserAddress = (PVOID)0x00007FFFFFFEFFFFull;
PVOID MmSystemRangeStart = (PVOID)0xFFFF800000000000ull;
ULONG_PTR MmUserProbeAddress = 0x00007FFFFFFF0000ull;

/* A handle that the unlocking routine gets back. */
PVOID MmLockPagableDataSection(PVOID AddressWithinSection)
{
    return AddressWithinSection;
}

VOID MmUnlockPagableImageSection(PVOID ImageSectionHandle)
{
}

VOID MmLockPagableSectionByHandle(PVOID ImageSectionHandle)
{
}

PVOID MmPageEntireDriver(PVOID AddressWithinSection)
{
    return AddressWithinSection;
}

VOID MmResetDriverPaging(PVOID AddressWithinSection)
{
}

LOGICAL MmIsDriverVerifying(PDRIVER_OBJECT DriverObject)
{
    return FALSE;
}

NTSTATUS MmIsVerifierEnabled(PULONG VerifierFlags)
{
    *VerifierFlags = 0;
    return STATUS_NOT_SUPPORTED;
}

BOOLEAN MmIsThisAnNtAsSystem(VOID)
{
    return FALSE;
}

PVOID MmMapLockedPages(PMDL MemoryDescriptorList, KPROCESSOR_MODE AccessMode)
{
    return MmMapLockedPagesSpecifyCache(MemoryDescriptorList, AccessMode, MmCached, NULL, TRUE, NormalPagePriority);
}

/* All of pool may be written and none of it executed: what is asked for beyond that is refused. */
NTSTATUS MmProtectMdlSystemAddress(PMDL MemoryDescriptorList, ULONG NewProtect)
{
    return NewProtect == PAGE_READWRITE ? STATUS_SUCCESS : STATUS_NOT_SUPPORTED;
}

/* The pages of the range, by the frames of the MDL that has them all. */
VOID IoBuildPartialMdl(PMDL SourceMdl, PMDL TargetMdl, PVOID VirtualAddress, ULONG Length)
{
    ULONG_PTR start = (ULONG_PTR)MmGetMdlVirtualAddress(SourceMdl), at = (ULONG_PTR)VirtualAddress;
    ULONG skipped = (ULONG)((at >> PAGE_SHIFT) - (start >> PAGE_SHIFT));

    if (!Length)
        Length = (ULONG)(start + MmGetMdlByteCount(SourceMdl) - at);
    MmInitializeMdl(TargetMdl, VirtualAddress, Length);
    TargetMdl->MdlFlags |=
        MDL_PARTIAL | (SourceMdl->MdlFlags & (MDL_SOURCE_IS_NONPAGED_POOL | MDL_MAPPED_TO_SYSTEM_VA));
    TargetMdl->MappedSystemVa = (PUCHAR)SourceMdl->MappedSystemVa + (at - start);
    memcpy(MmGetMdlPfnArray(TargetMdl), MmGetMdlPfnArray(SourceMdl) + skipped,
           ADDRESS_AND_SIZE_TO_SPAN_PAGES(VirtualAddress, Length) * sizeof(PFN_NUMBER));
}

/* One block of contiguous pages, which is more than was promised. */
PMDL MmAllocatePagesForMdl(PHYSICAL_ADDRESS LowAddress, PHYSICAL_ADDRESS HighAddress, PHYSICAL_ADDRESS SkipBytes,
                           SIZE_T TotalBytes)
{
    PVOID block = MmAllocateContiguousMemory(TotalBytes, HighAddress);
    PMDL mdl = block ? IoAllocateMdl(block, (ULONG)TotalBytes, FALSE, FALSE, NULL) : NULL;

    if (!mdl) {
        if (block)
            MmFreeContiguousMemory(block);
        return NULL;
    }
    memset(block, 0, TotalBytes);
    MmProbeAndLockPages(mdl, KernelMode, IoModifyAccess);
    return mdl;
}

PMDL MmAllocatePagesForMdlEx(PHYSICAL_ADDRESS LowAddress, PHYSICAL_ADDRESS HighAddress, PHYSICAL_ADDRESS SkipBytes,
                             SIZE_T TotalBytes, MEMORY_CACHING_TYPE CacheType, ULONG Flags)
{
    return MmAllocatePagesForMdl(LowAddress, HighAddress, SkipBytes, TotalBytes);
}

/* The MDL itself is the caller's to free, by ExFreePool. */
VOID MmFreePagesFromMdl(PMDL MemoryDescriptorList)
{
    MmFreeContiguousMemory(MemoryDescriptorList->MappedSystemVa);
}

/* The list ends with a range of no bytes; it is the caller's to free. */
PPHYSICAL_MEMORY_RANGE MmGetPhysicalMemoryRanges(VOID)
{
    ULONG count = KiLoaderBlock->MemoryRangeCount;
    const LOADER_MEMORY_RANGE *ranges = (const LOADER_MEMORY_RANGE *)KiLoaderBlock->MemoryRanges;
    PPHYSICAL_MEMORY_RANGE list = ExAllocatePool2(0, (count + 1) * sizeof(*list), 'hPmM');

    for (ULONG i = 0; list && i < count; i++) {
        list[i].BaseAddress.QuadPart = (LONG64)ranges[i].Base;
        list[i].NumberOfBytes.QuadPart = (LONG64)ranges[i].Length;
    }
    return list;
}

/* Of user addresses; there are none mapped, but a driver that probes a kernel address is told as on Windows. */
static VOID MiProbe(const volatile VOID *Address, SIZE_T Length, ULONG Alignment)
{
    ULONG_PTR start = (ULONG_PTR)Address;

    if (!Length)
        return;
    if (start & (Alignment - 1))
        ExRaiseDatatypeMisalignment();
    if (start + Length < start || start + Length > MmUserProbeAddress)
        ExRaiseAccessViolation();
}

VOID ProbeForRead(CONST VOID *Address, SIZE_T Length, ULONG Alignment)
{
    MiProbe(Address, Length, Alignment);
}

VOID ProbeForWrite(PVOID Address, SIZE_T Length, ULONG Alignment)
{
    MiProbe(Address, Length, Alignment);
}
