/*
 * foreign.c - what another NT does otherwise: for tests of whoever reads this kernel from outside.
 *
 * Windows before 10 does not export the head of its module list; loaders leave addresses in the import lookup table;
 * routines share their code; a driver verifier wraps imports; the kernel's own callers release a lock otherwise than
 * they took it. The words are those of foreign.h, and kdbg=SIZE (hexadecimal, 0: none) for the debugger data block.
 */
#include "foreign.h"
#include "ki.h"
#include "lockcall.h"
#include "workload_support.h"

#define KI_CR0_WP 0x10000ull
#define KI_HALF_PAIR_MS 10

static const struct {
    const char *Word;
    KI_DIFFERENCE Difference;
} KiWords[] = {
    {"nolist", KiListNotExported}, {"head", KiListElsewhere},        {"va", KiImportsByAddress},
    {"oldva", KiImportsByOldBase}, {"alias", KiExportsShareCode},    {"half", KiHalfPairs},
    {"wrap", KiWrappedImports},    {"latekdbg", KiDebuggerDataLate},
};

extern UCHAR __ImageBase[];

static ULONG KiDifferences;
static LIST_ENTRY KiOtherModuleList = {&KiOtherModuleList, &KiOtherModuleList};
static KSPIN_LOCK KiHalfPairLock;
static KTIMER KiHalfPairTimer;
static KDPC KiHalfPairDpc;

BOOLEAN KiDiffers(KI_DIFFERENCE Difference)
{
    return (KiDifferences & Difference) != 0;
}

static VOID KiReadWords(void)
{
    char words[96];
    char *at = words;

    if (!KiCommandLineString("nt", words, sizeof(words)))
        return;
    while (*at) {
        char *end = at;
        while (*end && *end != ',')
            end++;
        for (ULONG i = 0; i < RTL_NUMBER_OF(KiWords); i++) {
            if (strlen(KiWords[i].Word) == (SIZE_T)(end - at) && !memcmp(KiWords[i].Word, at, (SIZE_T)(end - at)))
                KiDifferences |= KiWords[i].Difference;
        }
        at = *end ? end + 1 : end;
    }
}

static IMAGE_EXPORT_DIRECTORY *KiExports(void)
{
    IMAGE_NT_HEADERS64 *headers = (IMAGE_NT_HEADERS64 *)(__ImageBase + ((IMAGE_DOS_HEADER *)__ImageBase)->e_lfanew);
    IMAGE_DATA_DIRECTORY *directory = &headers->OptionalHeader.DataDirectory[IMAGE_DIRECTORY_ENTRY_EXPORT];

    return (IMAGE_EXPORT_DIRECTORY *)(__ImageBase + directory->VirtualAddress);
}

/* Place in the name table, ~0 = none. */
static ULONG KiFindExportName(const char *Name)
{
    const IMAGE_EXPORT_DIRECTORY *exports = KiExports();
    const ULONG *names = (const ULONG *)(__ImageBase + exports->AddressOfNames);

    for (ULONG i = 0; i < exports->NumberOfNames; i++) {
        if (!strcmp((const char *)__ImageBase + names[i], Name))
            return i;
    }
    return ~0u;
}

static ULONG *KiExportAddress(ULONG Place)
{
    const IMAGE_EXPORT_DIRECTORY *exports = KiExports();
    const USHORT *ordinals = (const USHORT *)(__ImageBase + exports->AddressOfNameOrdinals);

    return (ULONG *)(__ImageBase + exports->AddressOfFunctions) + ordinals[Place];
}

static VOID KiRemoveExport(const char *Name)
{
    IMAGE_EXPORT_DIRECTORY *exports = KiExports();
    ULONG *names = (ULONG *)(__ImageBase + exports->AddressOfNames);
    USHORT *ordinals = (USHORT *)(__ImageBase + exports->AddressOfNameOrdinals);
    ULONG place = KiFindExportName(Name);

    if (place == ~0u)
        return;
    *KiExportAddress(place) = 0;
    exports->NumberOfNames--;
    for (ULONG i = place; i < exports->NumberOfNames; i++) {
        names[i] = names[i + 1];
        ordinals[i] = ordinals[i + 1];
    }
}

static VOID KiShareExport(const char *Name, const char *Other)
{
    ULONG place = KiFindExportName(Name), other = KiFindExportName(Other);

    if (place != ~0u && other != ~0u)
        *KiExportAddress(place) = *KiExportAddress(other);
}

/* The tables lie in pages that are read-only. */
static ULONG64 KiAllowWrites(void)
{
    ULONG64 cr0;

    __asm__ volatile("movq %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("movq %0, %%cr0" : : "r"(cr0 & ~KI_CR0_WP) : "memory");
    return cr0;
}

VOID KiBecomeForeign(VOID)
{
    ULONG size = (ULONG)KiCommandLineNumber("kdbg", 0x340);
    ULONG64 cr0;

    KiReadWords();
    if (KiDiffers(KiListElsewhere)) {
        KiDifferences |= KiListNotExported;
        MiModuleList = &KiOtherModuleList;
    }
    KdChangeDebuggerData(size, MiModuleList, size != 0 && !KiDiffers(KiDebuggerDataLate));
    if (!KiDifferences)
        return;
    cr0 = KiAllowWrites();
    if (KiDiffers(KiListNotExported))
        KiRemoveExport("PsLoadedModuleList");
    if (KiDiffers(KiExportsShareCode)) {
        KiShareExport("KeAcquireSpinLockForDpc", "KeAcquireSpinLockRaiseToDpc");
        KiShareExport("KeReleaseSpinLockForDpc", "KeReleaseSpinLock");
    }
    __asm__ volatile("movq %0, %%cr0" : : "r"(cr0) : "memory");
}

/* Each half of a pair is an export, and the other one is the kernel's own. */
static VOID KiHalfPair(PKDPC Dpc, PVOID Context, PVOID Argument1, PVOID Argument2)
{
    KeAcquireSpinLockAtDpcLevel(&KiHalfPairLock);
    KxUnlock(&KiHalfPairLock);
    KxLock(&KiHalfPairLock);
    KeReleaseSpinLockFromDpcLevel(&KiHalfPairLock);
    KeAcquireSpinLockRaiseToDpc(&KiHalfPairLock);
    KxUnlock(&KiHalfPairLock);
    KxLock(&KiHalfPairLock);
    KeReleaseSpinLock(&KiHalfPairLock, DISPATCH_LEVEL);
}

VOID KiStartBeingForeign(VOID)
{
    LARGE_INTEGER due;

    if (KiDiffers(KiDebuggerDataLate))
        KdChangeDebuggerData((ULONG)KiCommandLineNumber("kdbg", 0x340), MiModuleList, TRUE);
    if (!KiDiffers(KiHalfPairs))
        return;
    due.QuadPart = -10000ll * KI_HALF_PAIR_MS;
    KeInitializeDpc(&KiHalfPairDpc, KiHalfPair, NULL);
    KeInitializeTimerEx(&KiHalfPairTimer, NotificationTimer);
    KeSetTimerEx(&KiHalfPairTimer, due, KI_HALF_PAIR_MS, &KiHalfPairDpc);
}

static KIRQL ViKeAcquireSpinLockRaiseToDpc(PKSPIN_LOCK SpinLock)
{
    return KeAcquireSpinLockRaiseToDpc(SpinLock);
}

static VOID ViKeReleaseSpinLock(PKSPIN_LOCK SpinLock, KIRQL NewIrql)
{
    KeReleaseSpinLock(SpinLock, NewIrql);
}

PVOID KiWrapImport(PVOID Address)
{
    if (!KiDiffers(KiWrappedImports))
        return Address;
    if (Address == (PVOID)KeAcquireSpinLockRaiseToDpc)
        return (PVOID)ViKeAcquireSpinLockRaiseToDpc;
    if (Address == (PVOID)KeReleaseSpinLock)
        return (PVOID)ViKeReleaseSpinLock;
    return Address;
}
