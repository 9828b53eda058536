/*
 * wait.c - waiting on dispatcher objects and satisfying waits. All under the dispatcher lock.
 */
#include "ki.h"

VOID KiInitializeHeader(DISPATCHER_HEADER *Header, KI_OBJECT_TYPE Type, ULONG Size, LONG SignalState)
{
    RtlZeroMemory(Header, sizeof(*Header));
    Header->Type = (UCHAR)Type;
    Header->Size = (UCHAR)(Size / sizeof(ULONG));
    Header->SignalState = SignalState;
    InitializeListHead(&Header->WaitListHead);
}

static BOOLEAN KiIsSignalled(DISPATCHER_HEADER *Header, PKTHREAD Thread)
{
    if (Header->Type == KiMutant && ((PKMUTANT)Header)->OwnerThread == Thread)
        return TRUE;
    return Header->SignalState > 0;
}

/* What taking a signalled object does to it. */
static VOID KiSatisfy(DISPATCHER_HEADER *Header, PKTHREAD Thread)
{
    switch (Header->Type) {
    case KiSynchronizationEvent:
    case KiSynchronizationTimer:
        Header->SignalState = 0;
        break;
    case KiSemaphore:
        Header->SignalState--;
        break;
    case KiMutant:
        Header->SignalState--;
        ((PKMUTANT)Header)->OwnerThread = Thread;
        break;
    default:
        break;
    }
}

VOID KiUnwaitThread(PKTHREAD Thread, NTSTATUS Status)
{
    for (ULONG i = 0; i < Thread->WaitCount; i++)
        RemoveEntryList(&Thread->WaitBlocks[i].WaitListEntry);
    Thread->WaitCount = 0;
    if (Thread->Timer.Header.Inserted)
        KiRemoveTimer(&Thread->Timer);
    InitializeListHead(&Thread->Timer.Header.WaitListHead);
    Thread->WaitStatus = Status;
    KiReadyThread(Thread);
}

static BOOLEAN KiAllSignalled(PKTHREAD Thread)
{
    for (ULONG i = 0; i < Thread->WaitCount; i++) {
        if (!KiIsSignalled(Thread->WaitBlocks[i].Object, Thread))
            return FALSE;
    }
    return TRUE;
}

/* Tries to end the wait that Block belongs to, its object being signalled. */
static BOOLEAN KiTryUnwait(PKWAIT_BLOCK Block)
{
    PKTHREAD thread = Block->Thread;
    NTSTATUS status = Block->WaitKey;

    if (Block->WaitType == WaitAny) {
        KiSatisfy(Block->Object, thread);
    } else {
        if (!KiAllSignalled(thread))
            return FALSE;
        for (ULONG i = 0; i < thread->WaitCount; i++)
            KiSatisfy(thread->WaitBlocks[i].Object, thread);
        status = STATUS_SUCCESS;
    }
    KiUnwaitThread(thread, status);
    return TRUE;
}

VOID KiSignalObject(PVOID Object)
{
    DISPATCHER_HEADER *header = Object;
    PLIST_ENTRY entry = header->WaitListHead.Flink;

    while (entry != &header->WaitListHead && header->SignalState > 0) {
        PKWAIT_BLOCK block = CONTAINING_RECORD(entry, KWAIT_BLOCK, WaitListEntry);
        /* A satisfied wait may have taken several blocks off this list: start anew. */
        entry = KiTryUnwait(block) ? header->WaitListHead.Flink : entry->Flink;
    }
}

/* Takes what is to be had without waiting. */
static BOOLEAN KiTakeNow(ULONG Count, PVOID *Objects, WAIT_TYPE WaitType, PKTHREAD Thread, NTSTATUS *Status)
{
    ULONG signalled = 0;

    for (ULONG i = 0; i < Count; i++) {
        if (!KiIsSignalled(Objects[i], Thread))
            continue;
        if (WaitType == WaitAny) {
            KiSatisfy(Objects[i], Thread);
            *Status = STATUS_WAIT_0 + (NTSTATUS)i;
            return TRUE;
        }
        signalled++;
    }
    if (WaitType == WaitAny || signalled != Count)
        return FALSE;
    for (ULONG i = 0; i < Count; i++)
        KiSatisfy(Objects[i], Thread);
    *Status = STATUS_SUCCESS;
    return TRUE;
}

static VOID KiQueueWait(PKTHREAD Thread, PKWAIT_BLOCK Block, PVOID Object, WAIT_TYPE Type, ULONG Key)
{
    DISPATCHER_HEADER *header = Object;

    Block->Thread = Thread;
    Block->Object = Object;
    Block->WaitKey = (USHORT)Key;
    Block->WaitType = (UCHAR)Type;
    InsertTailList(&header->WaitListHead, &Block->WaitListEntry);
}

/* Blocks with the objects queued; the thread's own timer ends the wait by its separate block. */
static NTSTATUS KiBlock(PKTHREAD Thread, ULONG Count, PVOID *Objects, WAIT_TYPE WaitType, PLARGE_INTEGER Timeout,
                        PKWAIT_BLOCK Blocks)
{
    for (ULONG i = 0; i < Count; i++)
        KiQueueWait(Thread, &Blocks[i], Objects[i], WaitType, i);
    Thread->WaitBlocks = Blocks;
    Thread->WaitCount = Count;
    if (Timeout) {
        KiQueueWait(Thread, &Thread->OwnWaitBlocks[THREAD_WAIT_OBJECTS], &Thread->Timer, WaitAny,
                    (ULONG)STATUS_TIMEOUT);
        KiInsertTimer(&Thread->Timer, *Timeout, 0, NULL);
    }
    Thread->State = KiThreadWaiting;
    KiSwapThread();
    return Thread->WaitStatus;
}

NTSTATUS KeWaitForMultipleObjects(ULONG Count, PVOID Object[], WAIT_TYPE WaitType, KWAIT_REASON WaitReason,
                                  KPROCESSOR_MODE WaitMode, BOOLEAN Alertable, PLARGE_INTEGER Timeout,
                                  PKWAIT_BLOCK WaitBlockArray)
{
    PKTHREAD thread = KiCurrentThread();
    NTSTATUS status;
    KIRQL old;

    if (!WaitBlockArray && Count > THREAD_WAIT_OBJECTS)
        KeBugCheckEx(0xC, Count, 0, 0, 0); /* MAXIMUM_WAIT_OBJECTS_EXCEEDED */
    old = KxLockRaise(&KiDispatcherLock);
    if (KiTakeNow(Count, Object, WaitType, thread, &status)) {
        KxUnlockLower(&KiDispatcherLock, old);
        return status;
    }
    if (Timeout && Timeout->QuadPart == 0) {
        status = STATUS_TIMEOUT;
    } else {
        if (old >= DISPATCH_LEVEL)
            KeBugCheckEx(0xB8, (ULONG_PTR)thread, old, 0, 0); /* ATTEMPTED_SWITCH_FROM_DPC */
        status =
            KiBlock(thread, Count, Object, WaitType, Timeout, WaitBlockArray ? WaitBlockArray : thread->OwnWaitBlocks);
    }
    KxUnlockLower(&KiDispatcherLock, old);
    return status;
}

NTSTATUS KeWaitForSingleObject(PVOID Object, KWAIT_REASON WaitReason, KPROCESSOR_MODE WaitMode, BOOLEAN Alertable,
                               PLARGE_INTEGER Timeout)
{
    return KeWaitForMultipleObjects(1, &Object, WaitAny, WaitReason, WaitMode, Alertable, Timeout, NULL);
}

/* An interval of 0 gives the rest of the quantum away. */
NTSTATUS KeDelayExecutionThread(KPROCESSOR_MODE WaitMode, BOOLEAN Alertable, PLARGE_INTEGER Interval)
{
    KIRQL old = KxLockRaise(&KiDispatcherLock);
    PKTHREAD thread = KiCurrentThread();

    if (Interval->QuadPart == 0) {
        KiReadyThread(thread);
        KiSwapThread();
    } else {
        KiBlock(thread, 0, NULL, WaitAny, Interval, thread->OwnWaitBlocks);
    }
    KxUnlockLower(&KiDispatcherLock, old);
    return STATUS_SUCCESS;
}
