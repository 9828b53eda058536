/*
 * Timers: the miniport's own (RequestTimerCall and the timer handles of StorPortRequestTimer), and the one-second tick
 * that times out requests and pauses.
 */
#include "raid.h"

#define MICROSECOND 10 /* in the kernel's 100 ns units */

static VOID ReportLate(PRAID_REQUEST Request)
{
    DbgPrint("storport: SRB %p timed out: function 0x%x, operation code 0x%x\n", Request->HwSrb, Request->Srb->Function,
             Request->Srb->Cdb[0]);
}

static BOOLEAN UnitHasTimedOut(PRAID_UNIT Unit)
{
    KLOCK_QUEUE_HANDLE Handle;
    BOOLEAN TimedOut = FALSE;

    RaidAcquireQueueLock(&Unit->QueueLock, &Handle);
    for (PLIST_ENTRY Entry = Unit->Outstanding.Flink; Entry != &Unit->Outstanding; Entry = Entry->Flink) {
        PRAID_REQUEST Request = CONTAINING_RECORD(Entry, RAID_REQUEST, Link);

        if (Request->SecondsLeft != 0 && --Request->SecondsLeft == 0) {
            Request->TimedOut = TRUE;
            TimedOut = TRUE;
            ReportLate(Request);
        }
    }
    if (Unit->OutstandingCount == 0) {
        Unit->BusyCount = 0;
    }
    if (Unit->Paused && Unit->PauseSeconds != 0 && --Unit->PauseSeconds == 0) {
        Unit->Paused = FALSE;
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
    if (Adapter->Paused && Adapter->PauseSeconds != 0 && --Adapter->PauseSeconds == 0) {
        Adapter->Paused = FALSE;
    }
    for (ULONG Index = 0; Index < Adapter->UnitCount; Index++) {
        PRAID_UNIT Unit = Adapter->Units[Index];

        if (UnitHasTimedOut(Unit)) {
            RaidRecoverUnit(Unit);
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

/* The kernel's timers are for DISPATCH_LEVEL and below; both kinds may be asked for at any IRQL. */
static VOID ScheduleHwTimer(PRAID_ADAPTER Adapter)
{
    ULONG Microseconds = Adapter->HwTimerMicroseconds;
    LARGE_INTEGER Due = {.QuadPart = -(LONGLONG)Microseconds * MICROSECOND};

    if (Microseconds == 0) {
        KeCancelTimer(&Adapter->HwTimer);
    } else {
        KeSetTimer(&Adapter->HwTimer, Due, &Adapter->HwTimerDpc);
    }
}

static VOID NTAPI HwTimerScheduleDpc(PKDPC Dpc, PVOID Context, PVOID Argument1, PVOID Argument2)
{
    UNREFERENCED_PARAMETER(Dpc);
    UNREFERENCED_PARAMETER(Argument1);
    UNREFERENCED_PARAMETER(Argument2);
    ScheduleHwTimer(Context);
}

VOID RaidInitializeTimers(PRAID_ADAPTER Adapter)
{
    LARGE_INTEGER Due = {.QuadPart = -1000 * 1000 * MICROSECOND};

    KeInitializeTimer(&Adapter->HwTimer);
    KeInitializeDpc(&Adapter->HwTimerDpc, HwTimerDpc, Adapter);
    KeInitializeDpc(&Adapter->HwTimerScheduleDpc, HwTimerScheduleDpc, Adapter);
    KeInitializeTimer(&Adapter->SecondTimer);
    KeInitializeDpc(&Adapter->SecondDpc, SecondDpc, Adapter);
    KeInitializeDpc(&Adapter->RestartDpc, RaidRestartDpc, Adapter);
    KeSetTimerEx(&Adapter->SecondTimer, Due, 1000, &Adapter->SecondDpc);
}

/* A value of 0 cancels the timer. */
VOID RaidRequestHwTimer(PRAID_ADAPTER Adapter, PHW_TIMER Routine, ULONG Microseconds)
{
    if (Microseconds != 0) {
        Adapter->HwTimerRoutine = Routine;
    }
    Adapter->HwTimerMicroseconds = Microseconds;
    if (KeGetCurrentIrql() > DISPATCH_LEVEL) {
        KeInsertQueueDpc(&Adapter->HwTimerScheduleDpc, NULL, NULL);
    } else {
        ScheduleHwTimer(Adapter);
    }
}

static VOID NTAPI TimerExDpc(PKDPC Dpc, PVOID Context, PVOID Argument1, PVOID Argument2)
{
    PRAID_TIMER Timer = Context;

    UNREFERENCED_PARAMETER(Dpc);
    UNREFERENCED_PARAMETER(Argument1);
    UNREFERENCED_PARAMETER(Argument2);
    /* From here on it can be asked for again, by the callback, too. */
    if (InterlockedExchange(&Timer->Active, FALSE) && !Timer->Freed) {
        Timer->Callback(Timer->Adapter->HwExtension, Timer->Context);
    }
}

static VOID ScheduleTimer(PRAID_TIMER Timer)
{
    LARGE_INTEGER Due = {.QuadPart = -(LONGLONG)Timer->Microseconds * MICROSECOND};

    if (Timer->Microseconds != 0) {
        KeSetTimer(&Timer->Timer, Due, &Timer->Dpc);
    } else if (KeCancelTimer(&Timer->Timer) || KeRemoveQueueDpc(&Timer->Dpc)) {
        InterlockedExchange(&Timer->Active, FALSE);
    }
}

static VOID NTAPI TimerScheduleDpc(PKDPC Dpc, PVOID Context, PVOID Argument1, PVOID Argument2)
{
    PRAID_TIMER Timer = Context;

    UNREFERENCED_PARAMETER(Dpc);
    UNREFERENCED_PARAMETER(Argument1);
    UNREFERENCED_PARAMETER(Argument2);
    if (!Timer->Freed) {
        ScheduleTimer(Timer);
    }
}

static BOOLEAN IsTimer(PRAID_ADAPTER Adapter, PRAID_TIMER Timer)
{
    return Timer != NULL && Timer->Signature == RAID_TAG && Timer->Adapter == Adapter && !Timer->Freed;
}

static VOID DeleteTimer(PRAID_TIMER Timer)
{
    IoFreeWorkItem(Timer->FreeWork);
    ExFreePoolWithTag(Timer, RAID_TAG);
}

/* Once no processor runs the timer's DPC any more. */
static VOID NTAPI FreeRoutine(PDEVICE_OBJECT DeviceObject, PVOID Context)
{
    UNREFERENCED_PARAMETER(DeviceObject);
    KeFlushQueuedDpcs();
    DeleteTimer(Context);
}

ULONG RaidInitializeTimerEx(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PVOID *Handle = va_arg(Arguments, PVOID *);
    PRAID_TIMER Timer;

    if (Handle == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    if (KeGetCurrentIrql() > DISPATCH_LEVEL) {
        return STOR_STATUS_INVALID_IRQL;
    }
    Timer = ExAllocatePoolWithTag(NonPagedPool, sizeof(*Timer), RAID_TAG);
    if (Timer == NULL) {
        return STOR_STATUS_INSUFFICIENT_RESOURCES;
    }
    RtlZeroMemory(Timer, sizeof(*Timer));
    Timer->Signature = RAID_TAG;
    Timer->Adapter = Adapter;
    Timer->FreeWork = IoAllocateWorkItem(Adapter->DeviceObject);
    if (Timer->FreeWork == NULL) {
        ExFreePoolWithTag(Timer, RAID_TAG);
        return STOR_STATUS_INSUFFICIENT_RESOURCES;
    }
    KeInitializeTimer(&Timer->Timer);
    KeInitializeDpc(&Timer->Dpc, TimerExDpc, Timer);
    KeInitializeDpc(&Timer->ScheduleDpc, TimerScheduleDpc, Timer);
    *Handle = Timer;
    return STOR_STATUS_SUCCESS;
}

/* At any IRQL. One request at a time; a time of 0 takes back the one that there is. */
ULONG RaidRequestTimerEx(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PRAID_TIMER Timer = va_arg(Arguments, PVOID);
    PHW_TIMER_EX Callback = va_arg(Arguments, PHW_TIMER_EX);
    PVOID Context = va_arg(Arguments, PVOID);
    ULONGLONG Microseconds = va_arg(Arguments, ULONGLONG);

    if (!IsTimer(Adapter, Timer) || Callback == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    if (Microseconds != 0) {
        if (InterlockedCompareExchange(&Timer->Active, TRUE, FALSE)) {
            return STOR_STATUS_BUSY;
        }
        Timer->Callback = Callback;
        Timer->Context = Context;
    }
    if (Microseconds == 0 && KeRemoveQueueDpc(&Timer->ScheduleDpc)) {
        InterlockedExchange(&Timer->Active, FALSE); /* it was not even set */
    }
    Timer->Microseconds = Microseconds;
    if (KeGetCurrentIrql() > DISPATCH_LEVEL) {
        KeInsertQueueDpc(&Timer->ScheduleDpc, NULL, NULL);
    } else {
        ScheduleTimer(Timer);
    }
    return STOR_STATUS_SUCCESS;
}

/* Up to DISPATCH_LEVEL, the timer's own callback included; there the memory is given back later. */
ULONG RaidFreeTimerEx(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PRAID_TIMER Timer = va_arg(Arguments, PVOID);
    KIRQL Irql = KeGetCurrentIrql();

    if (!IsTimer(Adapter, Timer)) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    if (Irql > DISPATCH_LEVEL) {
        return STOR_STATUS_INVALID_IRQL;
    }
    Timer->Freed = TRUE;
    Timer->Signature = 0;
    KeRemoveQueueDpc(&Timer->ScheduleDpc);
    KeCancelTimer(&Timer->Timer);
    if (Irql == DISPATCH_LEVEL) {
        IoQueueWorkItem(Timer->FreeWork, FreeRoutine, DelayedWorkQueue, Timer);
        return STOR_STATUS_SUCCESS;
    }
    KeFlushQueuedDpcs();
    DeleteTimer(Timer);
    return STOR_STATUS_SUCCESS;
}
