/*
 * rundown.c - rundown protection: the count of those who use an object in units of two, and the lowest bit, set by who
 * waits for all of them to go.
 */
#include "ki.h"

#define EX_RUNDOWN_WAITS 1u
#define EX_RUNDOWN_USE 2u

VOID ExInitializeRundownProtection(PEX_RUNDOWN_REF RunRef)
{
    RunRef->Count = 0;
}

VOID ExReInitializeRundownProtection(PEX_RUNDOWN_REF RunRef)
{
    RunRef->Count = 0;
}

BOOLEAN ExAcquireRundownProtection(PEX_RUNDOWN_REF RunRef)
{
    ULONG_PTR count = __atomic_load_n(&RunRef->Count, __ATOMIC_RELAXED);

    while (!(count & EX_RUNDOWN_WAITS)) {
        if (__atomic_compare_exchange_n(&RunRef->Count, &count, count + EX_RUNDOWN_USE, FALSE, __ATOMIC_ACQUIRE,
                                        __ATOMIC_RELAXED))
            return TRUE;
    }
    return FALSE;
}

VOID ExReleaseRundownProtection(PEX_RUNDOWN_REF RunRef)
{
    __atomic_sub_fetch(&RunRef->Count, EX_RUNDOWN_USE, __ATOMIC_RELEASE);
}

VOID ExWaitForRundownProtectionRelease(PEX_RUNDOWN_REF RunRef)
{
    LARGE_INTEGER interval = {.QuadPart = -10000};

    __atomic_or_fetch(&RunRef->Count, EX_RUNDOWN_WAITS, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&RunRef->Count, __ATOMIC_ACQUIRE) != EX_RUNDOWN_WAITS)
        KeDelayExecutionThread(KernelMode, FALSE, &interval);
}

VOID ExRundownCompleted(PEX_RUNDOWN_REF RunRef)
{
    RunRef->Count = EX_RUNDOWN_WAITS;
}
