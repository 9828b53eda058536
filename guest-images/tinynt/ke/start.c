/*
 * start.c - from the entry point to the first system thread.
 */
#include "foreign.h"
#include "hal.h"
#include "io_internal.h"
#include "ipi.h"
#include "ki.h"
#include "workload_support.h"

LOADER_BLOCK *KiLoaderBlock;
static volatile ULONG KiBootPhase;
static volatile ULONG KiProcessorsOnline;

ULONG NtBuildNumber = 0xF0000000u | 19045u; /* free build, as a current Windows 10 says */

/* What needs one processor only; the others wait. */
static VOID KiInitializeKernel(VOID)
{
    HalpInitializeSerial();
    DbgPrint("tinynt: %u processors, kernel at %p, seed %I64u\n", KiLoaderBlock->ProcessorCount,
             (PVOID)KiLoaderBlock->KernelBase, KiLoaderBlock->Seed);
    MiInitializePhysical();
    KiInitializeIpi();
    MiMapSharedUserData();
    KiInitializeScheduler();
}

static VOID KiBringUpProcessor(ULONG Number, ULONG_PTR StackTop)
{
    KiPrcbOf(Number)->ApicId = HalpEnableLocalApic();
    KiAdoptIdleThread(StackTop);
    __atomic_fetch_add(&KiProcessorsOnline, 1, __ATOMIC_ACQ_REL);
}

static VOID KiWaitFor(volatile ULONG *Value, ULONG Least)
{
    while (__atomic_load_n(Value, __ATOMIC_ACQUIRE) < Least)
        __asm__ volatile("pause");
}

VOID KiSystemStartup(LOADER_BLOCK *LoaderBlock, ULONG64 Number)
{
    ULONG_PTR stackTop = ((ULONG_PTR)__builtin_frame_address(0) + 0x40) & ~0xFull;

    if (LoaderBlock->Signature != LOADER_BLOCK_SIGNATURE || LoaderBlock->Version != LOADER_BLOCK_VERSION ||
        LoaderBlock->ProcessorCount > KI_MAXIMUM_PROCESSORS)
        HalpReset();
    if (Number == 0) {
        KiLoaderBlock = LoaderBlock;
        KiBecomeForeign();
    }
    KiInitializeProcessor((ULONG)Number, stackTop); /* the others wait in it for the first */
    if (Number == 0) {
        KeNumberProcessors = (CCHAR)LoaderBlock->ProcessorCount;
        KiActiveProcessors = ~0ull >> (64 - LoaderBlock->ProcessorCount);
        KiInitializeKernel();
        KiBringUpProcessor(0, stackTop);
        KiInitializeTime();
        __atomic_store_n(&KiBootPhase, 1, __ATOMIC_RELEASE);
        KiWaitFor(&KiProcessorsOnline, LoaderBlock->ProcessorCount);
        KiCreateThread(KiPhase1, NULL, LOW_REALTIME_PRIORITY);
        __atomic_store_n(&KiBootPhase, 2, __ATOMIC_RELEASE);
    } else {
        KiWaitFor(&KiBootPhase, 1);
        KiBringUpProcessor((ULONG)Number, stackTop);
        KiWaitFor(&KiBootPhase, 2);
    }
    KiStartClock();
    KiIdleLoop();
}
