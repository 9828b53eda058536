/*
 * timer.c - kernel timers in one list sorted by due time (interrupt time, 100 ns).
 */
#include "ki.h"

static LIST_ENTRY KiTimers = {&KiTimers, &KiTimers};
static volatile ULONG64 KiNextDue = ~0ull;

/* 2024-01-01 00:00 UTC in 100 ns since 1601: system time when interrupt time was 0. */
#define KI_SYSTEM_TIME_AT_START 133485408000000000ll

BOOLEAN KiTimersDue(VOID)
{
    return KiNextDue != ~0ull && KiInterruptTime() >= KiNextDue;
}

static VOID KiNoteNextDue(VOID)
{
    KiNextDue =
        IsListEmpty(&KiTimers) ? ~0ull : CONTAINING_RECORD(KiTimers.Flink, KTIMER, TimerListEntry)->DueTime.QuadPart;
}

static VOID KiQueueTimer(PKTIMER Timer)
{
    PLIST_ENTRY entry = KiTimers.Flink;

    while (entry != &KiTimers &&
           CONTAINING_RECORD(entry, KTIMER, TimerListEntry)->DueTime.QuadPart <= Timer->DueTime.QuadPart)
        entry = entry->Flink;
    InsertTailList(entry, &Timer->TimerListEntry);
    Timer->Header.Inserted = TRUE;
    KiNoteNextDue();
}

VOID KiInsertTimer(PKTIMER Timer, LARGE_INTEGER DueTime, ULONG Period, PKDPC Dpc)
{
    LONG64 now = (LONG64)KiInterruptTime();
    LONG64 due = DueTime.QuadPart < 0 ? now - DueTime.QuadPart : DueTime.QuadPart - KI_SYSTEM_TIME_AT_START;

    Timer->Header.SignalState = 0;
    Timer->DueTime.QuadPart = (ULONG64)(due > now ? due : now);
    Timer->Period = Period;
    Timer->Dpc = Dpc;
    KiQueueTimer(Timer);
}

BOOLEAN KiRemoveTimer(PKTIMER Timer)
{
    if (!Timer->Header.Inserted)
        return FALSE;
    RemoveEntryList(&Timer->TimerListEntry);
    Timer->Header.Inserted = FALSE;
    KiNoteNextDue();
    return TRUE;
}

/* Runs at DISPATCH_LEVEL on whichever processor noticed that a timer is due. */
VOID KiExpireTimers(VOID)
{
    ULONG64 now = KiInterruptTime();

    KxLock(&KiDispatcherLock);
    while (!IsListEmpty(&KiTimers)) {
        PKTIMER timer = CONTAINING_RECORD(KiTimers.Flink, KTIMER, TimerListEntry);
        PKDPC dpc = timer->Dpc;
        if (timer->DueTime.QuadPart > now)
            break;
        KiRemoveTimer(timer);
        if (timer->Period) {
            timer->DueTime.QuadPart = now + 10000ull * timer->Period;
            KiQueueTimer(timer);
        }
        timer->Header.SignalState = 1;
        KiSignalObject(timer);
        if (dpc)
            KeInsertQueueDpc(dpc, (PVOID)(ULONG_PTR)(ULONG)now, (PVOID)(ULONG_PTR)(ULONG)(now >> 32));
    }
    KxUnlock(&KiDispatcherLock);
}

VOID KeInitializeTimerEx(PKTIMER Timer, TIMER_TYPE Type)
{
    RtlZeroMemory(Timer, sizeof(*Timer));
    KiInitializeHeader(&Timer->Header, Type == NotificationTimer ? KiNotificationTimer : KiSynchronizationTimer,
                       sizeof(KTIMER), 0);
}

VOID KeInitializeTimer(PKTIMER Timer)
{
    KeInitializeTimerEx(Timer, NotificationTimer);
}

BOOLEAN KeSetTimerEx(PKTIMER Timer, LARGE_INTEGER DueTime, LONG Period, PKDPC Dpc)
{
    KIRQL old = KxLockRaise(&KiDispatcherLock);
    BOOLEAN wasQueued = KiRemoveTimer(Timer);

    KiInsertTimer(Timer, DueTime, (ULONG)Period, Dpc);
    KxUnlockLower(&KiDispatcherLock, old);
    return wasQueued;
}

BOOLEAN KeSetTimer(PKTIMER Timer, LARGE_INTEGER DueTime, PKDPC Dpc)
{
    return KeSetTimerEx(Timer, DueTime, 0, Dpc);
}

BOOLEAN KeCancelTimer(PKTIMER Timer)
{
    KIRQL old = KxLockRaise(&KiDispatcherLock);
    BOOLEAN wasQueued = KiRemoveTimer(Timer);

    KxUnlockLower(&KiDispatcherLock, old);
    return wasQueued;
}

BOOLEAN KeReadStateTimer(PKTIMER Timer)
{
    return *(volatile LONG *)&Timer->Header.SignalState != 0;
}

VOID KiQuerySystemTimeExport(PLARGE_INTEGER CurrentTime);
VOID KiQuerySystemTimeExport(PLARGE_INTEGER CurrentTime)
{
    CurrentTime->QuadPart = (LONG64)KiInterruptTime() + KI_SYSTEM_TIME_AT_START;
}
