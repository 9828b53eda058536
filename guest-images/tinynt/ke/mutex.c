/*
 * mutex.c - kernel mutexes: recursive, owned by a thread. SignalState 1 = free, 0 or less = held that often.
 */
#include "ki.h"

VOID KeInitializeMutex(PRKMUTEX Mutex, ULONG Level)
{
    RtlZeroMemory(Mutex, sizeof(*Mutex));
    KiInitializeHeader(&Mutex->Header, KiMutant, sizeof(KMUTANT), 1);
    Mutex->ApcDisable = 1;
}

LONG KeReleaseMutex(PRKMUTEX Mutex, BOOLEAN Wait)
{
    KIRQL old = KxLockRaise(&KiDispatcherLock);
    LONG before = Mutex->Header.SignalState;

    if (Mutex->OwnerThread != KiCurrentThread())
        KeBugCheckEx(0x1E, (ULONG_PTR)STATUS_MUTANT_NOT_OWNED, (ULONG_PTR)Mutex, 0, 0);
    Mutex->Header.SignalState = before + 1;
    if (before == 0) {
        Mutex->OwnerThread = NULL;
        KiSignalObject(Mutex);
    }
    KxUnlockLower(&KiDispatcherLock, old);
    return before;
}

LONG KeReadStateMutex(PRKMUTEX Mutex)
{
    return *(volatile LONG *)&Mutex->Header.SignalState;
}
