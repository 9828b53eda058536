/*
 * list.c - interlocked lists. Sequenced lists use a lock of their own: cmpxchg16b is not available everywhere.
 */
#include "ki.h"

static ULONG_PTR ExpListLock;

static BOOLEAN ExpLock(ULONG_PTR *Lock)
{
    BOOLEAN enabled = KiDisableSave();
    KxLock(Lock);
    return enabled;
}

static VOID ExpUnlock(ULONG_PTR *Lock, BOOLEAN Enabled)
{
    KxUnlock(Lock);
    KiRestore(Enabled);
}

VOID InitializeSListHead(PSLIST_HEADER SListHead)
{
    RtlZeroMemory(SListHead, sizeof(*SListHead));
}

/* The header is ours alone: Alignment holds the depth, Region the first entry. */
_Static_assert(sizeof(SLIST_HEADER) == 16, "SLIST_HEADER");

static PSLIST_ENTRY ExpFirst(PSLIST_HEADER Head)
{
    return (PSLIST_ENTRY)((ULONG64 *)Head)[1];
}

static VOID ExpSetFirst(PSLIST_HEADER Head, PSLIST_ENTRY Entry, USHORT Depth)
{
    ((ULONG64 *)Head)[0] = Depth;
    ((ULONG64 *)Head)[1] = (ULONG64)Entry;
}

USHORT ExQueryDepthSList(PSLIST_HEADER ListHead)
{
    return (USHORT)((volatile ULONG64 *)ListHead)[0];
}

PSLIST_ENTRY ExpInterlockedPushEntrySList(PSLIST_HEADER ListHead, PSLIST_ENTRY ListEntry)
{
    BOOLEAN enabled = ExpLock(&ExpListLock);
    PSLIST_ENTRY first = ExpFirst(ListHead);

    ListEntry->Next = first;
    ExpSetFirst(ListHead, ListEntry, (USHORT)(ExQueryDepthSList(ListHead) + 1));
    ExpUnlock(&ExpListLock, enabled);
    return first;
}

PSLIST_ENTRY ExpInterlockedPopEntrySList(PSLIST_HEADER ListHead)
{
    BOOLEAN enabled = ExpLock(&ExpListLock);
    PSLIST_ENTRY first = ExpFirst(ListHead);

    if (first)
        ExpSetFirst(ListHead, first->Next, (USHORT)(ExQueryDepthSList(ListHead) - 1));
    ExpUnlock(&ExpListLock, enabled);
    return first;
}

PSLIST_ENTRY ExpInterlockedFlushSList(PSLIST_HEADER ListHead)
{
    BOOLEAN enabled = ExpLock(&ExpListLock);
    PSLIST_ENTRY first = ExpFirst(ListHead);

    ExpSetFirst(ListHead, NULL, 0);
    ExpUnlock(&ExpListLock, enabled);
    return first;
}

PLIST_ENTRY ExInterlockedInsertHeadList(PLIST_ENTRY ListHead, PLIST_ENTRY ListEntry, PKSPIN_LOCK Lock)
{
    BOOLEAN enabled = ExpLock(Lock);
    PLIST_ENTRY first = IsListEmpty(ListHead) ? NULL : ListHead->Flink;

    InsertHeadList(ListHead, ListEntry);
    ExpUnlock(Lock, enabled);
    return first;
}

PLIST_ENTRY ExInterlockedInsertTailList(PLIST_ENTRY ListHead, PLIST_ENTRY ListEntry, PKSPIN_LOCK Lock)
{
    BOOLEAN enabled = ExpLock(Lock);
    PLIST_ENTRY last = IsListEmpty(ListHead) ? NULL : ListHead->Blink;

    InsertTailList(ListHead, ListEntry);
    ExpUnlock(Lock, enabled);
    return last;
}

PLIST_ENTRY ExInterlockedRemoveHeadList(PLIST_ENTRY ListHead, PKSPIN_LOCK Lock)
{
    BOOLEAN enabled = ExpLock(Lock);
    PLIST_ENTRY first = IsListEmpty(ListHead) ? NULL : RemoveHeadList(ListHead);

    ExpUnlock(Lock, enabled);
    return first;
}

PSINGLE_LIST_ENTRY ExInterlockedPopEntryList(PSINGLE_LIST_ENTRY ListHead, PKSPIN_LOCK Lock)
{
    BOOLEAN enabled = ExpLock(Lock);
    PSINGLE_LIST_ENTRY first = ListHead->Next;

    if (first)
        ListHead->Next = first->Next;
    ExpUnlock(Lock, enabled);
    return first;
}

PSINGLE_LIST_ENTRY ExInterlockedPushEntryList(PSINGLE_LIST_ENTRY ListHead, PSINGLE_LIST_ENTRY ListEntry,
                                              PKSPIN_LOCK Lock)
{
    BOOLEAN enabled = ExpLock(Lock);
    PSINGLE_LIST_ENTRY first = ListHead->Next;

    ListEntry->Next = first;
    ListHead->Next = ListEntry;
    ExpUnlock(Lock, enabled);
    return first;
}
