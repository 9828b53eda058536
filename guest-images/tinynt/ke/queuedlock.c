/*
 * queuedlock.c - in-stack queued spin locks: an MCS queue whose tail is the lock word.
 *
 * A handle's Lock field holds the lock's address and, in its low bits, WAIT while queued and OWNER while held.
 */
#include "lockcall.h"

#define KI_QUEUE_WAIT 1ull
#define KI_QUEUE_OWNER 2ull
#define KI_QUEUE_FLAGS 3ull
#define KI_LINK_PATIENCE 1000000u /* spins for a successor's link before the queue is taken to be broken */

typedef volatile KSPIN_LOCK *KI_TAIL;

static ULONG_PTR KiHandleWord(KSPIN_LOCK_QUEUE *Queue)
{
    return *(volatile ULONG_PTR *)&Queue->Lock;
}

static VOID KiSetHandleWord(KSPIN_LOCK_QUEUE *Queue, ULONG_PTR Value)
{
    *(volatile ULONG_PTR *)&Queue->Lock = Value;
}

/*
 * Waits for the predecessor's hand-over. A lock word of 0 means that somebody released the lock with a routine for
 * ordinary locks, which drops the queue; then the lock is taken afresh, so that such a bug does not hang the machine.
 */
static VOID KiWaitInQueue(KI_TAIL Tail, KSPIN_LOCK_QUEUE *Queue)
{
    while (KiHandleWord(Queue) & KI_QUEUE_WAIT) {
        ULONG_PTR expected = 0;
        if (*Tail == 0 &&
            __atomic_compare_exchange_n(Tail, &expected, (ULONG_PTR)Queue, FALSE, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            return;
        __asm__ volatile("pause");
    }
}

static VOID KxAcquireQueued(PKSPIN_LOCK SpinLock, KSPIN_LOCK_QUEUE *Queue)
{
    KI_TAIL tail = SpinLock;
    ULONG_PTR previous = *tail;

    Queue->Next = NULL;
    KiSetHandleWord(Queue, (ULONG_PTR)SpinLock | KI_QUEUE_WAIT);
    for (;;) {
        if (previous & 1) { /* held as an ordinary lock: such mixing is a driver's bug, wait it out */
            __asm__ volatile("pause");
            previous = *tail;
            continue;
        }
        if (__atomic_compare_exchange_n(tail, &previous, (ULONG_PTR)Queue, FALSE, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            break;
    }
    if (previous) {
        KiCountEvent(KiEventContendedAcquire);
        *(KSPIN_LOCK_QUEUE *volatile *)&((KSPIN_LOCK_QUEUE *)previous)->Next = Queue;
        KiWaitInQueue(tail, Queue);
    }
    KiSetHandleWord(Queue, (ULONG_PTR)SpinLock | KI_QUEUE_OWNER);
    KiNoteAcquired(SpinLock);
}

/* FALSE: the handle does not own its lock; nothing was released. */
static BOOLEAN KxReleaseQueued(KSPIN_LOCK_QUEUE *Queue)
{
    ULONG_PTR word = KiHandleWord(Queue);
    KI_TAIL tail = (KI_TAIL)(word & ~KI_QUEUE_FLAGS);
    ULONG_PTR expected = (ULONG_PTR)Queue;
    KSPIN_LOCK_QUEUE *next;

    if (!(word & KI_QUEUE_OWNER) || !tail)
        return FALSE;
    KiSetHandleWord(Queue, word & ~KI_QUEUE_FLAGS);
    if (__atomic_compare_exchange_n(tail, &expected, 0, FALSE, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        return TRUE;
    for (ULONG spins = 0; !(next = *(KSPIN_LOCK_QUEUE *volatile *)&Queue->Next); spins++) {
        if (spins == KI_LINK_PATIENCE)
            return FALSE;
        __asm__ volatile("pause");
    }
    Queue->Next = NULL;
    __atomic_fetch_and((volatile ULONG_PTR *)&next->Lock, ~KI_QUEUE_WAIT, __ATOMIC_RELEASE);
    return TRUE;
}

static VOID KxReleaseQueuedCounted(PKLOCK_QUEUE_HANDLE Handle)
{
    if (!KxReleaseQueued(&Handle->LockQueue))
        KiCountEvent(KiEventBadRelease);
}

/* KeAcquireInStackQueuedSpinLock after the raise of IRQL (raise.S). */
VOID KxAcquireQueuedSpinLockRaised(PKSPIN_LOCK SpinLock, PKLOCK_QUEUE_HANDLE Handle, KIRQL OldIrql);
VOID KxAcquireQueuedSpinLockRaised(PKSPIN_LOCK SpinLock, PKLOCK_QUEUE_HANDLE Handle, KIRQL OldIrql)
{
    KiCountCall(KiRoutineKeAcquireInStackQueuedSpinLock);
    Handle->OldIrql = OldIrql;
    KxAcquireQueued(SpinLock, &Handle->LockQueue);
}

VOID KeReleaseInStackQueuedSpinLock(PKLOCK_QUEUE_HANDLE Handle)
{
    KIRQL old = Handle->OldIrql;

    KiCountCall(KiRoutineKeReleaseInStackQueuedSpinLock);
    KxReleaseQueuedCounted(Handle);
    KiWriteCr8(old & 15);
}

VOID KeAcquireInStackQueuedSpinLockAtDpcLevel(PKSPIN_LOCK SpinLock, PKLOCK_QUEUE_HANDLE Handle)
{
    KiCountCall(KiRoutineKeAcquireInStackQueuedSpinLockAtDpcLevel);
    KxAcquireQueued(SpinLock, &Handle->LockQueue);
}

VOID KeReleaseInStackQueuedSpinLockFromDpcLevel(PKLOCK_QUEUE_HANDLE Handle)
{
    KiCountCall(KiRoutineKeReleaseInStackQueuedSpinLockFromDpcLevel);
    KxReleaseQueuedCounted(Handle);
}

VOID KeAcquireInStackQueuedSpinLockForDpc(PKSPIN_LOCK SpinLock, PKLOCK_QUEUE_HANDLE Handle)
{
    KiCountCall(KiRoutineKeAcquireInStackQueuedSpinLockForDpc);
    Handle->OldIrql = (KIRQL)KiReadCr8();
    if (KiPrcb()->ThreadedDpcActive && Handle->OldIrql < DISPATCH_LEVEL)
        KiWriteCr8(DISPATCH_LEVEL);
    KeAcquireInStackQueuedSpinLockAtDpcLevel(SpinLock, Handle);
}

VOID KeReleaseInStackQueuedSpinLockForDpc(PKLOCK_QUEUE_HANDLE Handle)
{
    KIRQL old = Handle->OldIrql;

    KiCountCall(KiRoutineKeReleaseInStackQueuedSpinLockForDpc);
    KeReleaseInStackQueuedSpinLockFromDpcLevel(Handle);
    if (old < DISPATCH_LEVEL)
        KiWriteCr8(old);
}
