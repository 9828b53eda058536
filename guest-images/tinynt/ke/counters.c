/*
 * counters.c - the lock call counters and the events around them (see lockcall.h).
 */
#include "lockcall.h"

#define KI_COUNTER_ROW(Name) {#Name, 0},
KI_COUNTER KiLockCallCounters[KiRoutineCount + 1] = {KI_LOCK_ROUTINES(KI_COUNTER_ROW){"", 0}};
KI_COUNTER KiLockEventCounters[KiEventCount + 1] = {
    {"contended acquire", 0},    {"interrupt before raise of IRQL", 0}, {"migrated with attempt pending", 0},
    {"lock shared with DPC", 0}, {"bad release tolerated", 0},          {"", 0},
};

/* One slot a hash value: the lock's address with bit 0 telling whether its last owner was a DPC. */
#define KI_CONTEXT_SLOTS 1024
static volatile ULONG_PTR KiLastContext[KI_CONTEXT_SLOTS];

typedef struct _KI_ATTEMPT_RANGE {
    ULONG64 Entry;
    ULONG64 Raised;
} KI_ATTEMPT_RANGE;

extern const KI_ATTEMPT_RANGE KiAttemptRanges[];
extern const UCHAR KiAttemptStart[], KiAttemptEnd[];

VOID KiNoteAcquired(PVOID Lock)
{
    ULONG_PTR now = (ULONG_PTR)Lock | (KiPrcb()->DpcRoutineActive ? 1 : 0);
    volatile ULONG_PTR *slot = &KiLastContext[((ULONG_PTR)Lock >> 3) % KI_CONTEXT_SLOTS];
    ULONG_PTR before = *slot;

    if (before == now)
        return;
    *slot = now;
    if ((before ^ now) == 1)
        KiCountEvent(KiEventSharedWithDpc);
}

BOOLEAN KiIsPendingAttempt(ULONG64 Rip)
{
    if (Rip < (ULONG64)KiAttemptStart || Rip >= (ULONG64)KiAttemptEnd)
        return FALSE;
    for (const KI_ATTEMPT_RANGE *range = KiAttemptRanges; range->Entry; range++) {
        if (Rip >= range->Entry && Rip < range->Raised)
            return TRUE;
    }
    return FALSE;
}

static VOID KiPrintCounters(const KI_COUNTER *Counter)
{
    for (; Counter->Name[0]; Counter++) {
        if (Counter->Count)
            DbgPrint("counter: %s = %I64u\n", Counter->Name, Counter->Count);
    }
}

VOID KiPrintLockCounters(VOID)
{
    KiPrintCounters(KiLockCallCounters);
    KiPrintCounters(KiLockEventCounters);
}
