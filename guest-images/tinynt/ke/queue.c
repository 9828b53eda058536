/*
 * queue.c - kernel queues (KQUEUE) and device queues. A queue's list is guarded by the dispatcher lock's rules through
 * a semaphore of its own; the concurrency limit that Windows keeps for worker threads is not modelled: each waiter may
 * run.
 */
#include "ki.h"

_Static_assert(sizeof(KQUEUE) == 0x40, "KQUEUE");

static ULONG_PTR KiQueueLock;

VOID KeInitializeQueue(PKQUEUE Queue, ULONG Count)
{
    RtlZeroMemory(Queue, sizeof(*Queue));
    KiInitializeHeader(&Queue->Header, KiSemaphore, sizeof(*Queue), 0);
    InitializeListHead(&Queue->EntryListHead);
    InitializeListHead(&Queue->ThreadListHead);
    Queue->MaximumCount = Count ? Count : KiLoaderBlock->ProcessorCount;
}

LONG KeReadStateQueue(PKQUEUE Queue)
{
    return *(volatile LONG *)&Queue->Header.SignalState;
}

static LONG KiInsertQueue(PKQUEUE Queue, PLIST_ENTRY Entry, BOOLEAN Head)
{
    KIRQL old = KxLockRaise(&KiQueueLock);
    LONG before;

    if (Head)
        InsertHeadList(&Queue->EntryListHead, Entry);
    else
        InsertTailList(&Queue->EntryListHead, Entry);
    KxUnlockLower(&KiQueueLock, old);
    old = KxLockRaise(&KiDispatcherLock);
    before = Queue->Header.SignalState++;
    KiSignalObject(&Queue->Header);
    KxUnlockLower(&KiDispatcherLock, old);
    return before;
}

LONG KeInsertQueue(PKQUEUE Queue, PLIST_ENTRY Entry)
{
    return KiInsertQueue(Queue, Entry, FALSE);
}

LONG KeInsertHeadQueue(PKQUEUE Queue, PLIST_ENTRY Entry)
{
    return KiInsertQueue(Queue, Entry, TRUE);
}

/* The first entry; STATUS_TIMEOUT or STATUS_ABANDONED (the queue was run down) in its place. */
PLIST_ENTRY KeRemoveQueue(PKQUEUE Queue, KPROCESSOR_MODE WaitMode, PLARGE_INTEGER Timeout)
{
    PLIST_ENTRY entry = NULL;
    NTSTATUS status;
    KIRQL old;

    status = KeWaitForSingleObject(Queue, WrQueue, WaitMode, FALSE, Timeout);
    if (status != STATUS_SUCCESS)
        return (PLIST_ENTRY)(ULONG_PTR)status;
    old = KxLockRaise(&KiQueueLock);
    if (!IsListEmpty(&Queue->EntryListHead))
        entry = RemoveHeadList(&Queue->EntryListHead);
    KxUnlockLower(&KiQueueLock, old);
    if (entry)
        return entry;
    old = KxLockRaise(&KiDispatcherLock); /* run down: the next waiter is to see it too */
    Queue->Header.SignalState++;
    KiSignalObject(&Queue->Header);
    KxUnlockLower(&KiDispatcherLock, old);
    return (PLIST_ENTRY)(ULONG_PTR)STATUS_ABANDONED;
}

/* Up to Count entries; waits for the first one only. */
ULONG KeRemoveQueueEx(PKQUEUE Queue, KPROCESSOR_MODE WaitMode, BOOLEAN Alertable, PLARGE_INTEGER Timeout,
                      PLIST_ENTRY *EntryArray, ULONG Count)
{
    LARGE_INTEGER none = {.QuadPart = 0};
    ULONG taken = 0;

    while (taken < Count) {
        PLIST_ENTRY entry = KeRemoveQueue(Queue, WaitMode, taken ? &none : Timeout);
        if (entry == (PLIST_ENTRY)(ULONG_PTR)STATUS_TIMEOUT || entry == (PLIST_ENTRY)(ULONG_PTR)STATUS_ABANDONED) {
            if (!taken) {
                EntryArray[0] = entry;
                return 1;
            }
            break;
        }
        EntryArray[taken++] = entry;
    }
    return taken;
}

/* Ends the waits; the entries that are left are the caller's, as a list without a head. */
PLIST_ENTRY KeRundownQueue(PKQUEUE Queue)
{
    KIRQL old = KxLockRaise(&KiQueueLock);
    PLIST_ENTRY first = NULL;

    if (!IsListEmpty(&Queue->EntryListHead)) {
        first = Queue->EntryListHead.Flink;
        RemoveEntryList(&Queue->EntryListHead);
        InitializeListHead(&Queue->EntryListHead);
    }
    KxUnlockLower(&KiQueueLock, old);
    old = KxLockRaise(&KiDispatcherLock);
    Queue->Header.SignalState = 1;
    KiSignalObject(&Queue->Header);
    KxUnlockLower(&KiDispatcherLock, old);
    return first;
}

/* Device queues: an entry is queued only while the device is busy; the caller is at DISPATCH_LEVEL. */
VOID KeInitializeDeviceQueue(PKDEVICE_QUEUE DeviceQueue)
{
    RtlZeroMemory(DeviceQueue, sizeof(*DeviceQueue));
    DeviceQueue->Type = 20; /* DeviceQueueObject */
    DeviceQueue->Size = sizeof(*DeviceQueue);
    InitializeListHead(&DeviceQueue->DeviceListHead);
}

static BOOLEAN KiInsertDevice(PKDEVICE_QUEUE DeviceQueue, PKDEVICE_QUEUE_ENTRY Entry, BOOLEAN ByKey)
{
    KIRQL old = KxLockRaise(&DeviceQueue->Lock);
    BOOLEAN busy = DeviceQueue->Busy;
    PLIST_ENTRY at = &DeviceQueue->DeviceListHead;

    if (busy && ByKey) {
        while (at->Blink != &DeviceQueue->DeviceListHead &&
               CONTAINING_RECORD(at->Blink, KDEVICE_QUEUE_ENTRY, DeviceListEntry)->SortKey > Entry->SortKey)
            at = at->Blink;
    }
    if (busy)
        InsertTailList(at, &Entry->DeviceListEntry);
    DeviceQueue->Busy = TRUE;
    Entry->Inserted = busy;
    KxUnlockLower(&DeviceQueue->Lock, old);
    return busy;
}

BOOLEAN KeInsertDeviceQueue(PKDEVICE_QUEUE DeviceQueue, PKDEVICE_QUEUE_ENTRY DeviceQueueEntry)
{
    return KiInsertDevice(DeviceQueue, DeviceQueueEntry, FALSE);
}

BOOLEAN KeInsertByKeyDeviceQueue(PKDEVICE_QUEUE DeviceQueue, PKDEVICE_QUEUE_ENTRY DeviceQueueEntry, ULONG SortKey)
{
    DeviceQueueEntry->SortKey = SortKey;
    return KiInsertDevice(DeviceQueue, DeviceQueueEntry, TRUE);
}

/* The first entry whose key is at least SortKey, else the first one; none makes the device idle. */
PKDEVICE_QUEUE_ENTRY KeRemoveByKeyDeviceQueue(PKDEVICE_QUEUE DeviceQueue, ULONG SortKey)
{
    KIRQL old = KxLockRaise(&DeviceQueue->Lock);
    PKDEVICE_QUEUE_ENTRY entry = NULL;
    PLIST_ENTRY at = DeviceQueue->DeviceListHead.Flink;

    while (at != &DeviceQueue->DeviceListHead &&
           CONTAINING_RECORD(at, KDEVICE_QUEUE_ENTRY, DeviceListEntry)->SortKey < SortKey)
        at = at->Flink;
    if (at == &DeviceQueue->DeviceListHead)
        at = at->Flink;
    if (at != &DeviceQueue->DeviceListHead) {
        RemoveEntryList(at);
        entry = CONTAINING_RECORD(at, KDEVICE_QUEUE_ENTRY, DeviceListEntry);
        entry->Inserted = FALSE;
    } else {
        DeviceQueue->Busy = FALSE;
    }
    KxUnlockLower(&DeviceQueue->Lock, old);
    return entry;
}

PKDEVICE_QUEUE_ENTRY KeRemoveDeviceQueue(PKDEVICE_QUEUE DeviceQueue)
{
    return KeRemoveByKeyDeviceQueue(DeviceQueue, 0);
}

BOOLEAN KeRemoveEntryDeviceQueue(PKDEVICE_QUEUE DeviceQueue, PKDEVICE_QUEUE_ENTRY DeviceQueueEntry)
{
    KIRQL old = KxLockRaise(&DeviceQueue->Lock);
    BOOLEAN was = DeviceQueueEntry->Inserted;

    if (was)
        RemoveEntryList(&DeviceQueueEntry->DeviceListEntry);
    DeviceQueueEntry->Inserted = FALSE;
    KxUnlockLower(&DeviceQueue->Lock, old);
    return was;
}
