/*
 * exlock.c - reader-writer spin locks (EX_SPIN_LOCK: bit 31 = exclusive, the rest counts readers).
 */
#include "lockcall.h"

#define EX_EXCLUSIVE 0x80000000u

typedef volatile ULONG *KI_EX_LOCK;

static BOOLEAN KxTryShared(KI_EX_LOCK Lock)
{
    ULONG value = *Lock;
    return !(value & EX_EXCLUSIVE) &&
           __atomic_compare_exchange_n(Lock, &value, value + 1, FALSE, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static BOOLEAN KxTryExclusive(KI_EX_LOCK Lock)
{
    ULONG value = 0;
    return __atomic_compare_exchange_n(Lock, &value, EX_EXCLUSIVE, FALSE, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static VOID KxAcquireShared(KI_EX_LOCK Lock)
{
    BOOLEAN counted = FALSE;
    while (!KxTryShared(Lock)) {
        if (!counted && (*Lock & EX_EXCLUSIVE)) {
            KiCountEvent(KiEventContendedAcquire);
            counted = TRUE;
        }
        __asm__ volatile("pause");
    }
}

static VOID KxAcquireExclusive(KI_EX_LOCK Lock)
{
    if (!KxTryExclusive(Lock)) {
        KiCountEvent(KiEventContendedAcquire);
        while (!KxTryExclusive(Lock))
            __asm__ volatile("pause");
    }
    KiNoteAcquired((PVOID)Lock);
}

static VOID KxReleaseShared(KI_EX_LOCK Lock)
{
    ULONG value = *Lock;
    do {
        if ((value & ~EX_EXCLUSIVE) == 0) {
            KiCountEvent(KiEventBadRelease);
            return;
        }
    } while (!__atomic_compare_exchange_n(Lock, &value, value - 1, FALSE, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
}

static VOID KxReleaseExclusive(KI_EX_LOCK Lock)
{
    if (!(__atomic_fetch_and(Lock, ~EX_EXCLUSIVE, __ATOMIC_ACQ_REL) & EX_EXCLUSIVE))
        KiCountEvent(KiEventBadRelease);
}

/* The raising forms start in raise.S. */
KIRQL KxAcquireSharedRaised(KI_EX_LOCK Lock, KIRQL OldIrql);
KIRQL KxAcquireSharedRaised(KI_EX_LOCK Lock, KIRQL OldIrql)
{
    KiCountCall(KiRoutineExAcquireSpinLockShared);
    KxAcquireShared(Lock);
    return OldIrql;
}

KIRQL KxAcquireExclusiveRaised(KI_EX_LOCK Lock, KIRQL OldIrql);
KIRQL KxAcquireExclusiveRaised(KI_EX_LOCK Lock, KIRQL OldIrql)
{
    KiCountCall(KiRoutineExAcquireSpinLockExclusive);
    KxAcquireExclusive(Lock);
    return OldIrql;
}

VOID ExReleaseSpinLockShared(KI_EX_LOCK Lock, KIRQL OldIrql);
VOID ExReleaseSpinLockShared(KI_EX_LOCK Lock, KIRQL OldIrql)
{
    KiCountCall(KiRoutineExReleaseSpinLockShared);
    KxReleaseShared(Lock);
    KiWriteCr8(OldIrql & 15);
}

VOID ExReleaseSpinLockExclusive(KI_EX_LOCK Lock, KIRQL OldIrql);
VOID ExReleaseSpinLockExclusive(KI_EX_LOCK Lock, KIRQL OldIrql)
{
    KiCountCall(KiRoutineExReleaseSpinLockExclusive);
    KxReleaseExclusive(Lock);
    KiWriteCr8(OldIrql & 15);
}

VOID ExAcquireSpinLockSharedAtDpcLevel(KI_EX_LOCK Lock);
VOID ExAcquireSpinLockSharedAtDpcLevel(KI_EX_LOCK Lock)
{
    KiCountCall(KiRoutineExAcquireSpinLockSharedAtDpcLevel);
    KxAcquireShared(Lock);
}

VOID ExReleaseSpinLockSharedFromDpcLevel(KI_EX_LOCK Lock);
VOID ExReleaseSpinLockSharedFromDpcLevel(KI_EX_LOCK Lock)
{
    KiCountCall(KiRoutineExReleaseSpinLockSharedFromDpcLevel);
    KxReleaseShared(Lock);
}

VOID ExAcquireSpinLockExclusiveAtDpcLevel(KI_EX_LOCK Lock);
VOID ExAcquireSpinLockExclusiveAtDpcLevel(KI_EX_LOCK Lock)
{
    KiCountCall(KiRoutineExAcquireSpinLockExclusiveAtDpcLevel);
    KxAcquireExclusive(Lock);
}

VOID ExReleaseSpinLockExclusiveFromDpcLevel(KI_EX_LOCK Lock);
VOID ExReleaseSpinLockExclusiveFromDpcLevel(KI_EX_LOCK Lock)
{
    KiCountCall(KiRoutineExReleaseSpinLockExclusiveFromDpcLevel);
    KxReleaseExclusive(Lock);
}

/* Succeeds only for the single reader; the lock stays shared otherwise. */
LOGICAL ExTryConvertSharedSpinLockExclusive(KI_EX_LOCK Lock);
LOGICAL ExTryConvertSharedSpinLockExclusive(KI_EX_LOCK Lock)
{
    ULONG value = 1;
    KiCountCall(KiRoutineExTryConvertSharedSpinLockExclusive);
    return __atomic_compare_exchange_n(Lock, &value, EX_EXCLUSIVE, FALSE, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
