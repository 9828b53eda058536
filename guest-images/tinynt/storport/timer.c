/*
 * Timers: the miniport's own (RequestTimerCall and the timer handles of StorPortRequestTimer), the one-second tick that
 * times out requests, and the bus reset that follows a time-out.
 */
#include "raid.h"

#define MICROSECOND 10 /* in the kernel's 100 ns units */

/* Calls HwResetBus with the StartIo lock held, as documented; the miniport completes what it had. */
VOID RaidResetBus(PRAID_ADAPTER Adapter, ULONG PathId)
{
    STOR_LOCK_HANDLE Handle;

    DbgPrint("storport: reset of bus %lu\n", PathId);
    RaidAcquireLock(Adapter, StartIoLock, NULL, &Handle);
    Adapter->Hw.HwResetBus(Adapter->HwExtension, PathId);
    RaidReleaseLock(Adapter, &Handle);
}

static BOOLEAN UnitHasTimedOut(PRAID_UNIT Unit)
{
    KLOCK_QUEUE_HANDLE Handle;
    BOOLEAN TimedOut = FALSE;

    RaidAcquireQueueLock(&Unit->QueueLock, &Handle);
    for (PLIST_ENTRY Entry = Unit->Outstanding.Flink; Entry != &Unit->Outstanding; Entry = Entry->Flink) {
        PRAID_REQUEST Request = CONTAINING_RECORD(Entry, RAID_REQUEST, Link);

        if (Request->SecondsLeft != 0 && --Request->SecondsLeft == 0) {
            TimedOut = TRUE;
        }
    }
    if (Unit->OutstandingCount == 0) {
        Unit->BusyCount = 0;
    }
    RaidReleaseQueueLock(&Handle);
    return TimedOut;
}

static VOID NTAPI SecondDpc(PKDPC Dpc, PVOID Context, PVOID Argument1, PVOID Argument2)
{
    PRAID_ADAPTER Adapter = Context;

    UNREFERENCED_PARAMETER(Dpc);
    UNREFERENCED_PARAMETER(Argument1);
    UNREFERENCED_PARAMETER(Argument2);
    for (ULONG Index = 0; Index < Adapter->UnitCount; Index++) {
        PRAID_UNIT Unit = Adapter->Units[Index];

        if (UnitHasTimedOut(Unit)) {
            RaidResetBus(Adapter, Unit->PathId);
        }
        RaidUnitRestart(Unit);
    }
}

static VOID NTAPI HwTimerDpc(PKDPC Dpc, PVOID Context, PVOID Argument1, PVOID Argument2)
{
    PRAID_ADAPTER Adapter = Context;
    PHW_TIMER Routine = Adapter->HwTimerRoutine;
    STOR_LOCK_HANDLE Handle;

    UNREFERENCED_PARAMETER(Dpc);
    UNREFERENCED_PARAMETER(Argument1);
    UNREFERENCED_PARAMETER(Argument2);
    if (Routine == NULL || Adapter->Stopped) {
        return;
    }
    RaidAcquireLock(Adapter, StartIoLock, NULL, &Handle);
    Routine(Adapter->HwExtension);
    RaidReleaseLock(Adapter, &Handle);
}

VOID RaidInitializeTimers(PRAID_ADAPTER Adapter)
{
    LARGE_INTEGER Due = {.QuadPart = -1000 * 1000 * MICROSECOND};

    KeInitializeTimer(&Adapter->HwTimer);
    KeInitializeDpc(&Adapter->HwTimerDpc, HwTimerDpc, Adapter);
    KeInitializeTimer(&Adapter->SecondTimer);
    KeInitializeDpc(&Adapter->SecondDpc, SecondDpc, Adapter);
    KeSetTimerEx(&Adapter->SecondTimer, Due, 1000, &Adapter->SecondDpc);
}

/* A value of 0 cancels the timer. */
VOID RaidRequestHwTimer(PRAID_ADAPTER Adapter, PHW_TIMER Routine, ULONG Microseconds)
{
    LARGE_INTEGER Due = {.QuadPart = -(LONGLONG)Microseconds * MICROSECOND};

    if (Microseconds == 0) {
        KeCancelTimer(&Adapter->HwTimer);
        return;
    }
    Adapter->HwTimerRoutine = Routine;
    KeSetTimer(&Adapter->HwTimer, Due, &Adapter->HwTimerDpc);
}

static VOID NTAPI TimerExDpc(PKDPC Dpc, PVOID Context, PVOID Argument1, PVOID Argument2)
{
    PRAID_TIMER Timer = Context;

    UNREFERENCED_PARAMETER(Dpc);
    UNREFERENCED_PARAMETER(Argument1);
    UNREFERENCED_PARAMETER(Argument2);
    Timer->Callback(Timer->Adapter->HwExtension, Timer->Context);
}

ULONG RaidInitializeTimerEx(PRAID_ADAPTER Adapter, PVOID *Handle)
{
    PRAID_TIMER Timer = ExAllocatePoolWithTag(NonPagedPool, sizeof(*Timer), RAID_TAG);

    if (Timer == NULL || Handle == NULL) {
        return STOR_STATUS_INSUFFICIENT_RESOURCES;
    }
    RtlZeroMemory(Timer, sizeof(*Timer));
    Timer->Adapter = Adapter;
    KeInitializeTimer(&Timer->Timer);
    KeInitializeDpc(&Timer->Dpc, TimerExDpc, Timer);
    *Handle = Timer;
    return STOR_STATUS_SUCCESS;
}

ULONG RaidRequestTimerEx(PVOID Handle, PHW_TIMER_EX Callback, PVOID Context, ULONGLONG Microseconds)
{
    PRAID_TIMER Timer = Handle;
    LARGE_INTEGER Due = {.QuadPart = -(LONGLONG)Microseconds * MICROSECOND};

    if (Timer == NULL || Callback == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    if (Microseconds == 0) {
        KeCancelTimer(&Timer->Timer);
        return STOR_STATUS_SUCCESS;
    }
    Timer->Callback = Callback;
    Timer->Context = Context;
    KeSetTimer(&Timer->Timer, Due, &Timer->Dpc);
    return STOR_STATUS_SUCCESS;
}

ULONG RaidFreeTimerEx(PVOID Handle)
{
    PRAID_TIMER Timer = Handle;

    if (Timer == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    KeCancelTimer(&Timer->Timer);
    KeFlushQueuedDpcs();
    ExFreePoolWithTag(Timer, RAID_TAG);
    return STOR_STATUS_SUCCESS;
}
