/*
 * event.c - notification and synchronization events.
 */
#include "ki.h"

VOID KeInitializeEvent(PRKEVENT Event, EVENT_TYPE Type, BOOLEAN State)
{
    KiInitializeHeader(&Event->Header, Type == NotificationEvent ? KiNotificationEvent : KiSynchronizationEvent,
                       sizeof(KEVENT), State);
}

LONG KeSetEvent(PRKEVENT Event, KPRIORITY Increment, BOOLEAN Wait)
{
    KIRQL old = KxLockRaise(&KiDispatcherLock);
    LONG before = Event->Header.SignalState;

    Event->Header.SignalState = 1;
    if (!before)
        KiSignalObject(Event);
    KxUnlockLower(&KiDispatcherLock, old);
    return before;
}

LONG KeResetEvent(PRKEVENT Event)
{
    KIRQL old = KxLockRaise(&KiDispatcherLock);
    LONG before = Event->Header.SignalState;

    Event->Header.SignalState = 0;
    KxUnlockLower(&KiDispatcherLock, old);
    return before;
}

VOID KeClearEvent(PRKEVENT Event)
{
    *(volatile LONG *)&Event->Header.SignalState = 0;
}

LONG KeReadStateEvent(PRKEVENT Event)
{
    return *(volatile LONG *)&Event->Header.SignalState;
}
