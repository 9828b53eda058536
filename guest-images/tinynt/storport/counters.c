/* Exact counts of the calls that take or release a port-held lock, for tests that read the guest's memory from outside.
 */
#include "raid.h"

typedef struct _RAID_LOCK_CALL_COUNTER {
    char Name[48];
    volatile LONG64 Count;
} RAID_LOCK_CALL_COUNTER;

/* Exported data. The last entry has an empty name. */
RAID_LOCK_CALL_COUNTER RaidLockCallCounters[RaidCounterMaximum + 1] = {
    [RaidCountNotification] = {"StorPortNotification", 0},
    [RaidCountAcquireSpinLock] = {"StorPortNotification.AcquireSpinLock", 0},
    [RaidCountReleaseSpinLock] = {"StorPortNotification.ReleaseSpinLock", 0},
    [RaidCountExtendedFunction] = {"StorPortExtendedFunction", 0},
    [RaidCountAcquireMsiSpinLock] = {"StorPortExtendedFunction.AcquireMSISpinLock", 0},
    [RaidCountReleaseMsiSpinLock] = {"StorPortExtendedFunction.ReleaseMSISpinLock", 0},
    [RaidCountAcquireSpinLockEx] = {"StorPortExtendedFunction.AcquireSpinLock", 0},
    [RaidCountIgnoredRelease] = {"IgnoredRelease", 0},
};

_Static_assert(sizeof(RAID_LOCK_CALL_COUNTER) == 56, "tests read the array with this stride");

VOID RaidCount(RAID_COUNTER Counter)
{
    InterlockedIncrement64(&RaidLockCallCounters[Counter].Count);
}

VOID RaidPrintCounters(VOID)
{
    for (ULONG Counter = 0; Counter < RaidCounterMaximum; Counter++) {
        if (RaidLockCallCounters[Counter].Count != 0) {
            DbgPrint("counter: %s = %lld\n", RaidLockCallCounters[Counter].Name, RaidLockCallCounters[Counter].Count);
        }
    }
}
