/*
 * lockcall.h - exact counters of the exported lock routines, for the tests.
 *
 * One counter a routine, added to once an entry; and counters of events that a monitor of such calls must survive.
 */
#ifndef TINYNT_LOCKCALL_H
#define TINYNT_LOCKCALL_H

#include "ki.h"

#define KI_LOCK_ROUTINES(X)                                                                                            \
    X(KeAcquireSpinLockRaiseToDpc)                                                                                     \
    X(KeReleaseSpinLock)                                                                                               \
    X(KeAcquireSpinLockAtDpcLevel)                                                                                     \
    X(KeReleaseSpinLockFromDpcLevel)                                                                                   \
    X(KeTryToAcquireSpinLockAtDpcLevel)                                                                                \
    X(KeTestSpinLock)                                                                                                  \
    X(KeAcquireSpinLockForDpc)                                                                                         \
    X(KeReleaseSpinLockForDpc)                                                                                         \
    X(KeAcquireInStackQueuedSpinLock)                                                                                  \
    X(KeReleaseInStackQueuedSpinLock)                                                                                  \
    X(KeAcquireInStackQueuedSpinLockAtDpcLevel)                                                                        \
    X(KeReleaseInStackQueuedSpinLockFromDpcLevel)                                                                      \
    X(KeAcquireInStackQueuedSpinLockForDpc)                                                                            \
    X(KeReleaseInStackQueuedSpinLockForDpc)                                                                            \
    X(KeAcquireInterruptSpinLock)                                                                                      \
    X(KeReleaseInterruptSpinLock)                                                                                      \
    X(ExAcquireSpinLockShared)                                                                                         \
    X(ExReleaseSpinLockShared)                                                                                         \
    X(ExAcquireSpinLockExclusive)                                                                                      \
    X(ExReleaseSpinLockExclusive)                                                                                      \
    X(ExAcquireSpinLockSharedAtDpcLevel)                                                                               \
    X(ExReleaseSpinLockSharedFromDpcLevel)                                                                             \
    X(ExAcquireSpinLockExclusiveAtDpcLevel)                                                                            \
    X(ExReleaseSpinLockExclusiveFromDpcLevel)                                                                          \
    X(ExTryConvertSharedSpinLockExclusive)                                                                             \
    X(IoAcquireCancelSpinLock)                                                                                         \
    X(IoReleaseCancelSpinLock)

#define KI_LOCK_ENUM(Name) KiRoutine##Name,
enum { KI_LOCK_ROUTINES(KI_LOCK_ENUM) KiRoutineCount };

enum {
    KiEventContendedAcquire,   /* an acquire that had to spin */
    KiEventInterruptedAttempt, /* an interrupt below DISPATCH_LEVEL with RIP between entry and the raise of IRQL */
    KiEventMigratedAttempt,    /* ... after which the thread went on on another processor */
    KiEventSharedWithDpc,      /* an acquire in a DPC of a lock last taken outside of one, or the reverse */
    KiEventBadRelease,         /* a release of a lock that was not held, or by a handle that does not own it */
    KiEventCount,
};

/* Layout read by tests: 48 bytes of NUL-padded name, then the count. */
typedef struct _KI_COUNTER {
    char Name[48];
    volatile ULONG64 Count;
} KI_COUNTER;

_Static_assert(sizeof(KI_COUNTER) == 56, "counter layout");

extern KI_COUNTER KiLockCallCounters[KiRoutineCount + 1]; /* ends with an empty name */
extern KI_COUNTER KiLockEventCounters[KiEventCount + 1];

static inline void KiCountCall(ULONG Routine)
{
    __asm__ volatile("lock incq %0" : "+m"(KiLockCallCounters[Routine].Count) : : "cc");
}

static inline void KiCountEvent(ULONG Event)
{
    __asm__ volatile("lock incq %0" : "+m"(KiLockEventCounters[Event].Count) : : "cc");
}

/* Notes that a lock was taken, in a DPC or outside: called by the new owner, so calls for one lock are in order. */
VOID KiNoteAcquired(PVOID Lock);

/* The routines that raise IRQL start in raise.S; this says whether Rip is before the raise of one of them. */
BOOLEAN KiIsPendingAttempt(ULONG64 Rip);

#endif
