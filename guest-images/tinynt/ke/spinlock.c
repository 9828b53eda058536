/*
 * spinlock.c - ordinary spin locks (KSPIN_LOCK: bit 0 = held), their ForDpc forms, the cancel lock.
 *
 * As on retail Windows no owner is kept: releasing a lock that is not held is a plain store.
 */
#include "lockcall.h"

static KSPIN_LOCK IopCancelSpinLock;

static VOID KxAcquireCounted(PKSPIN_LOCK SpinLock)
{
    if (!KxTryLock(SpinLock)) {
        KiCountEvent(KiEventContendedAcquire);
        KxLock(SpinLock);
    }
    KiNoteAcquired(SpinLock);
}

static VOID KxReleaseCounted(PKSPIN_LOCK SpinLock)
{
    if (*(volatile KSPIN_LOCK *)SpinLock == 0)
        KiCountEvent(KiEventBadRelease);
    KxUnlock(SpinLock);
}

VOID KiInitializeSpinLockExport(PKSPIN_LOCK SpinLock)
{
    *SpinLock = 0;
}

/* KeAcquireSpinLockRaiseToDpc after the raise of IRQL (raise.S). */
KIRQL KxAcquireSpinLockRaised(PKSPIN_LOCK SpinLock, KIRQL OldIrql);
KIRQL KxAcquireSpinLockRaised(PKSPIN_LOCK SpinLock, KIRQL OldIrql)
{
    KiCountCall(KiRoutineKeAcquireSpinLockRaiseToDpc);
    KxAcquireCounted(SpinLock);
    return OldIrql;
}

VOID KeReleaseSpinLock(PKSPIN_LOCK SpinLock, KIRQL NewIrql)
{
    KiCountCall(KiRoutineKeReleaseSpinLock);
    KxReleaseCounted(SpinLock);
    KiWriteCr8(NewIrql & 15);
}

VOID KeAcquireSpinLockAtDpcLevel(PKSPIN_LOCK SpinLock)
{
    KiCountCall(KiRoutineKeAcquireSpinLockAtDpcLevel);
    KxAcquireCounted(SpinLock);
}

VOID KeReleaseSpinLockFromDpcLevel(PKSPIN_LOCK SpinLock)
{
    KiCountCall(KiRoutineKeReleaseSpinLockFromDpcLevel);
    KxReleaseCounted(SpinLock);
}

BOOLEAN KeTryToAcquireSpinLockAtDpcLevel(PKSPIN_LOCK SpinLock)
{
    KiCountCall(KiRoutineKeTryToAcquireSpinLockAtDpcLevel);
    if (!KxTryLock(SpinLock))
        return FALSE;
    KiNoteAcquired(SpinLock);
    return TRUE;
}

BOOLEAN KeTestSpinLock(PKSPIN_LOCK SpinLock)
{
    KiCountCall(KiRoutineKeTestSpinLock);
    return *(volatile KSPIN_LOCK *)SpinLock == 0;
}

/* Raises only in a threaded DPC that runs below DISPATCH_LEVEL; calls the AtDpcLevel routine, as Windows does. */
KIRQL KeAcquireSpinLockForDpc(PKSPIN_LOCK SpinLock)
{
    KIRQL old = (KIRQL)KiReadCr8();

    KiCountCall(KiRoutineKeAcquireSpinLockForDpc);
    if (KiPrcb()->ThreadedDpcActive && old < DISPATCH_LEVEL)
        KiWriteCr8(DISPATCH_LEVEL);
    KeAcquireSpinLockAtDpcLevel(SpinLock);
    return old;
}

VOID KeReleaseSpinLockForDpc(PKSPIN_LOCK SpinLock, KIRQL OldIrql)
{
    KiCountCall(KiRoutineKeReleaseSpinLockForDpc);
    KeReleaseSpinLockFromDpcLevel(SpinLock);
    if (OldIrql < DISPATCH_LEVEL)
        KiWriteCr8(OldIrql);
}

/* IoAcquireCancelSpinLock after the raise of IRQL (raise.S). */
VOID KxAcquireCancelRaised(PKIRQL Irql, KIRQL OldIrql);
VOID KxAcquireCancelRaised(PKIRQL Irql, KIRQL OldIrql)
{
    KiCountCall(KiRoutineIoAcquireCancelSpinLock);
    KxAcquireCounted(&IopCancelSpinLock);
    *Irql = OldIrql;
}

VOID IoReleaseCancelSpinLock(KIRQL Irql)
{
    KiCountCall(KiRoutineIoReleaseCancelSpinLock);
    KxReleaseCounted(&IopCancelSpinLock);
    KiWriteCr8(Irql & 15);
}
