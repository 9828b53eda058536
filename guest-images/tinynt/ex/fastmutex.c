/*
 * fastmutex.c - fast mutexes, guarded mutexes and push locks: each waits on an event when it is taken. There are no
 * APCs here, so the guarded and the critical regions around them only count.
 */
#include "ki.h"

static VOID ExpEnter(PFAST_MUTEX Mutex)
{
    if (InterlockedDecrement((volatile LONG *)&Mutex->Count) != 0) {
        Mutex->Contention++;
        KeWaitForSingleObject(&Mutex->Event, WrFastMutex, KernelMode, FALSE, NULL);
    }
    Mutex->Owner = KiCurrentThread();
}

static VOID ExpLeave(PFAST_MUTEX Mutex)
{
    Mutex->Owner = NULL;
    if (InterlockedIncrement((volatile LONG *)&Mutex->Count) <= 0)
        KeSetEvent(&Mutex->Event, 0, FALSE);
}

static BOOLEAN ExpTry(PFAST_MUTEX Mutex)
{
    if (InterlockedCompareExchange((volatile LONG *)&Mutex->Count, 0, 1) != 1)
        return FALSE;
    Mutex->Owner = KiCurrentThread();
    return TRUE;
}

/* Raises to APC_LEVEL as documented; the IRQL before is kept in the mutex. */
VOID ExAcquireFastMutex(PFAST_MUTEX FastMutex)
{
    KIRQL old = (KIRQL)KiReadCr8();

    if (old < APC_LEVEL)
        KiWriteCr8(APC_LEVEL);
    ExpEnter(FastMutex);
    FastMutex->OldIrql = old;
}

VOID ExReleaseFastMutex(PFAST_MUTEX FastMutex)
{
    KIRQL old = (KIRQL)FastMutex->OldIrql;

    ExpLeave(FastMutex);
    KiWriteCr8(old);
}

BOOLEAN ExTryToAcquireFastMutex(PFAST_MUTEX FastMutex)
{
    KIRQL old = (KIRQL)KiReadCr8();

    if (!ExpTry(FastMutex))
        return FALSE;
    if (old < APC_LEVEL)
        KiWriteCr8(APC_LEVEL);
    FastMutex->OldIrql = old;
    return TRUE;
}

VOID ExAcquireFastMutexUnsafe(PFAST_MUTEX FastMutex)
{
    ExpEnter(FastMutex);
}

VOID ExReleaseFastMutexUnsafe(PFAST_MUTEX FastMutex)
{
    ExpLeave(FastMutex);
}

VOID KeInitializeGuardedMutex(PKGUARDED_MUTEX Mutex)
{
    PFAST_MUTEX mutex = (PFAST_MUTEX)Mutex;

    RtlZeroMemory(Mutex, sizeof(*Mutex));
    mutex->Count = 1;
    KeInitializeEvent(&mutex->Event, SynchronizationEvent, FALSE);
}

/* The two are laid out alike up to the event. */
_Static_assert(sizeof(FAST_MUTEX) <= sizeof(KGUARDED_MUTEX) + sizeof(ULONG_PTR), "KGUARDED_MUTEX");

VOID KeAcquireGuardedMutex(PKGUARDED_MUTEX Mutex)
{
    KeEnterCriticalRegion();
    ExpEnter((PFAST_MUTEX)Mutex);
}

VOID KeReleaseGuardedMutex(PKGUARDED_MUTEX Mutex)
{
    ExpLeave((PFAST_MUTEX)Mutex);
    KeLeaveCriticalRegion();
}

BOOLEAN KeTryToAcquireGuardedMutex(PKGUARDED_MUTEX Mutex)
{
    if (!ExpTry((PFAST_MUTEX)Mutex))
        return FALSE;
    KeEnterCriticalRegion();
    return TRUE;
}

VOID KeAcquireGuardedMutexUnsafe(PKGUARDED_MUTEX FastMutex)
{
    ExpEnter((PFAST_MUTEX)FastMutex);
}

VOID KeReleaseGuardedMutexUnsafe(PKGUARDED_MUTEX FastMutex)
{
    ExpLeave((PFAST_MUTEX)FastMutex);
}

/* EX_PUSH_LOCK: bit 0 exclusive, the rest counts sharers. Waiters yield: nothing in one pointer could hold their list.
 */
#define EXP_EXCLUSIVE 1u
#define EXP_SHARE 2u

static VOID ExpYield(VOID)
{
    LARGE_INTEGER interval = {.QuadPart = -10000};

    KeDelayExecutionThread(KernelMode, FALSE, &interval);
}

VOID ExInitializePushLock(PULONG_PTR PushLock)
{
    *PushLock = 0;
}

VOID ExAcquirePushLockExclusiveEx(PULONG_PTR PushLock, ULONG Flags)
{
    ULONG_PTR expected = 0;

    while (
        !__atomic_compare_exchange_n(PushLock, &expected, EXP_EXCLUSIVE, FALSE, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        expected = 0;
        ExpYield();
    }
}

VOID ExReleasePushLockExclusiveEx(PULONG_PTR PushLock, ULONG Flags)
{
    __atomic_store_n(PushLock, 0, __ATOMIC_RELEASE);
}

VOID ExAcquirePushLockSharedEx(PULONG_PTR PushLock, ULONG Flags)
{
    ULONG_PTR value = __atomic_load_n(PushLock, __ATOMIC_RELAXED);

    for (;;) {
        if (value & EXP_EXCLUSIVE) {
            ExpYield();
            value = __atomic_load_n(PushLock, __ATOMIC_RELAXED);
        } else if (__atomic_compare_exchange_n(PushLock, &value, value + EXP_SHARE, FALSE, __ATOMIC_ACQUIRE,
                                               __ATOMIC_RELAXED)) {
            return;
        }
    }
}

VOID ExReleasePushLockSharedEx(PULONG_PTR PushLock, ULONG Flags)
{
    __atomic_sub_fetch(PushLock, EXP_SHARE, __ATOMIC_RELEASE);
}

VOID ExReleasePushLockEx(PULONG_PTR PushLock, ULONG Flags)
{
    if (*PushLock & EXP_EXCLUSIVE)
        ExReleasePushLockExclusiveEx(PushLock, Flags);
    else
        ExReleasePushLockSharedEx(PushLock, Flags);
}
