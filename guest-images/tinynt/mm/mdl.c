/*
 * mdl.c - memory descriptor lists. All memory is non-paged and mapped: locking and mapping have little to do.
 */
#include "ki.h"
#include "mi.h"

SIZE_T MmSizeOfMdl(PVOID Base, SIZE_T Length)
{
    return sizeof(MDL) + ADDRESS_AND_SIZE_TO_SPAN_PAGES(Base, Length) * sizeof(PFN_NUMBER);
}

PMDL IoAllocateMdl(PVOID VirtualAddress, ULONG Length, BOOLEAN SecondaryBuffer, BOOLEAN ChargeQuota, PIRP Irp)
{
    PMDL mdl = ExAllocatePoolWithTag(NonPagedPoolNx, MmSizeOfMdl(VirtualAddress, Length), 'ldMM');

    if (!mdl)
        return NULL;
    MmInitializeMdl(mdl, VirtualAddress, Length);
    if (Irp && !SecondaryBuffer) {
        Irp->MdlAddress = mdl;
    } else if (Irp) {
        PMDL *link = &Irp->MdlAddress;
        while (*link)
            link = &(*link)->Next;
        *link = mdl;
    }
    return mdl;
}

VOID IoFreeMdl(PMDL Mdl)
{
    ExFreePoolWithTag(Mdl, 'ldMM');
}

static VOID MiFillMdl(PMDL Mdl)
{
    PPFN_NUMBER frames = MmGetMdlPfnArray(Mdl);
    ULONG_PTR start = (ULONG_PTR)Mdl->StartVa;
    ULONG pages = ADDRESS_AND_SIZE_TO_SPAN_PAGES(MmGetMdlVirtualAddress(Mdl), Mdl->ByteCount);

    for (ULONG i = 0; i < pages; i++)
        frames[i] = MiTranslate(start + (ULONG_PTR)i * PAGE_SIZE) / PAGE_SIZE;
    Mdl->MappedSystemVa = (PVOID)(start + Mdl->ByteOffset);
}

VOID MmBuildMdlForNonPagedPool(PMDL MemoryDescriptorList)
{
    MiFillMdl(MemoryDescriptorList);
    MemoryDescriptorList->MdlFlags |= MDL_SOURCE_IS_NONPAGED_POOL;
}

VOID MmProbeAndLockPages(PMDL MemoryDescriptorList, KPROCESSOR_MODE AccessMode, LOCK_OPERATION Operation)
{
    MiFillMdl(MemoryDescriptorList);
    MemoryDescriptorList->MdlFlags |= MDL_PAGES_LOCKED | MDL_MAPPED_TO_SYSTEM_VA;
}

VOID MmUnlockPages(PMDL MemoryDescriptorList)
{
    MemoryDescriptorList->MdlFlags &= (CSHORT) ~(MDL_PAGES_LOCKED | MDL_MAPPED_TO_SYSTEM_VA);
}

PVOID MmMapLockedPagesSpecifyCache(PMDL MemoryDescriptorList, KPROCESSOR_MODE AccessMode, MEMORY_CACHING_TYPE CacheType,
                                   PVOID BaseAddress, ULONG BugCheckOnFailure, MM_PAGE_PRIORITY Priority)
{
    return MemoryDescriptorList->MappedSystemVa;
}

VOID MmUnmapLockedPages(PVOID BaseAddress, PMDL MemoryDescriptorList)
{
}
