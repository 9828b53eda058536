/*
 * semaphore.c - counting semaphores.
 */
#include "ki.h"

VOID KeInitializeSemaphore(PRKSEMAPHORE Semaphore, LONG Count, LONG Limit)
{
    KiInitializeHeader(&Semaphore->Header, KiSemaphore, sizeof(KSEMAPHORE), Count);
    Semaphore->Limit = Limit;
}

LONG KeReleaseSemaphore(PRKSEMAPHORE Semaphore, KPRIORITY Increment, LONG Adjustment, BOOLEAN Wait)
{
    KIRQL old = KxLockRaise(&KiDispatcherLock);
    LONG before = Semaphore->Header.SignalState;

    if (Adjustment <= 0 || before > Semaphore->Limit - Adjustment)
        KeBugCheckEx(0x1E, (ULONG_PTR)STATUS_SEMAPHORE_LIMIT_EXCEEDED, (ULONG_PTR)Semaphore, 0, 0);
    Semaphore->Header.SignalState = before + Adjustment;
    KiSignalObject(Semaphore);
    KxUnlockLower(&KiDispatcherLock, old);
    return before;
}

LONG KeReadStateSemaphore(PRKSEMAPHORE Semaphore)
{
    return *(volatile LONG *)&Semaphore->Header.SignalState;
}
