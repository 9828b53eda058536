/*
 * The locks that Storport holds for a miniport: DpcLock, StartIoLock, InterruptLock and the message locks.
 *
 * Underneath are the kernel's in-stack queued locks (StartIo, DPC) and the interrupt objects' locks. A release whose
 * handle is not owned changes nothing: a miniport's mistake is to be seen by whoever checks it, not to take the machine
 * down.
 */
#include "raid.h"

#define RAID_HANDLE_OWNED 0x6b434c53u /* "SLCk" */

static ULONG OwnedMark(PSTOR_LOCK_HANDLE Handle)
{
    return (ULONG)(ULONG_PTR)Handle ^ RAID_HANDLE_OWNED;
}

VOID RaidAcquireQueueLock(PKSPIN_LOCK Lock, PKLOCK_QUEUE_HANDLE Handle)
{
    if (KeGetCurrentIrql() < DISPATCH_LEVEL) {
        KeAcquireInStackQueuedSpinLock(Lock, Handle);
    } else {
        KeAcquireInStackQueuedSpinLockAtDpcLevel(Lock, Handle);
        Handle->OldIrql = DISPATCH_LEVEL;
    }
}

VOID RaidReleaseQueueLock(PKLOCK_QUEUE_HANDLE Handle)
{
    if (Handle->OldIrql < DISPATCH_LEVEL) {
        KeReleaseInStackQueuedSpinLock(Handle);
    } else {
        KeReleaseInStackQueuedSpinLockFromDpcLevel(Handle);
    }
}

/* In per-message mode the interrupt lock is every message's lock, taken by ascending IRQL. */
KIRQL RaidAcquireInterruptLock(PRAID_ADAPTER Adapter)
{
    PIO_INTERRUPT_MESSAGE_INFO Table = Adapter->MessageTable;

    if (Table == NULL) {
        return Adapter->Interrupt != NULL ? KeAcquireInterruptSpinLock(Adapter->Interrupt)
                                          : KeAcquireSpinLockRaiseToDpc(&Adapter->InterruptSpinLock);
    }
    if (Adapter->Config.InterruptSynchronizationMode != InterruptSynchronizePerMessage) {
        return KeAcquireInterruptSpinLock(Table->MessageInfo[0].InterruptObject);
    }
    for (ULONG Index = 0; Index < Table->MessageCount; Index++) {
        ULONG Message = Adapter->LockOrder[Index];
        KIRQL OldIrql = KeAcquireInterruptSpinLock(Table->MessageInfo[Message].InterruptObject);

        Adapter->LockOldIrql[Index] = OldIrql;
    }
    return Adapter->LockOldIrql[0];
}

VOID RaidReleaseInterruptLock(PRAID_ADAPTER Adapter, KIRQL OldIrql)
{
    PIO_INTERRUPT_MESSAGE_INFO Table = Adapter->MessageTable;

    if (Table == NULL) {
        if (Adapter->Interrupt != NULL) {
            KeReleaseInterruptSpinLock(Adapter->Interrupt, OldIrql);
        } else {
            KeReleaseSpinLock(&Adapter->InterruptSpinLock, OldIrql);
        }
        return;
    }
    if (Adapter->Config.InterruptSynchronizationMode != InterruptSynchronizePerMessage) {
        KeReleaseInterruptSpinLock(Table->MessageInfo[0].InterruptObject, OldIrql);
        return;
    }
    for (ULONG Index = Table->MessageCount; Index-- > 0;) {
        ULONG Message = Adapter->LockOrder[Index];
        KIRQL Previous = Index != 0 ? Adapter->LockOldIrql[Index] : OldIrql;

        KeReleaseInterruptSpinLock(Table->MessageInfo[Message].InterruptObject, Previous);
    }
}

static BOOLEAN SharesInterruptLock(PRAID_ADAPTER Adapter, STOR_SPINLOCK Kind)
{
    return Kind == InterruptLock ||
           (Kind == StartIoLock && Adapter->Config.SynchronizationModel == StorSynchronizeHalfDuplex);
}

static PKSPIN_LOCK QueuedLockOf(PRAID_ADAPTER Adapter, STOR_SPINLOCK Kind, PVOID LockContext)
{
    switch (Kind) {
    case DpcLock:
    case ThreadedDpcLock:
    case DpcLevelLock:
        return LockContext != NULL ? &((PSTOR_DPC)LockContext)->Lock : NULL;
    case StartIoLock:
        return &Adapter->StartIoSpinLock;
    default:
        return NULL;
    }
}

ULONG RaidAcquireLock(PRAID_ADAPTER Adapter, STOR_SPINLOCK Kind, PVOID LockContext, PSTOR_LOCK_HANDLE Handle)
{
    PKLOCK_QUEUE_HANDLE Queue = (PKLOCK_QUEUE_HANDLE)&Handle->Context;

    if (SharesInterruptLock(Adapter, Kind)) {
        KIRQL OldIrql = RaidAcquireInterruptLock(Adapter);

        Queue->OldIrql = OldIrql;
        Queue->LockQueue.Lock = &Adapter->InterruptSpinLock;
    } else {
        PKSPIN_LOCK Lock = QueuedLockOf(Adapter, Kind, LockContext);

        if (Lock == NULL) {
            return STOR_STATUS_INVALID_PARAMETER;
        }
        if (KeGetCurrentIrql() > DISPATCH_LEVEL || (Kind == DpcLevelLock && KeGetCurrentIrql() != DISPATCH_LEVEL)) {
            return STOR_STATUS_INVALID_IRQL;
        }
        RaidAcquireQueueLock(Lock, Queue);
    }
    Handle->Lock = Kind;
    Handle->Reserved = OwnedMark(Handle);
    return STOR_STATUS_SUCCESS;
}

VOID RaidReleaseLock(PRAID_ADAPTER Adapter, PSTOR_LOCK_HANDLE Handle)
{
    if (Handle == NULL || Handle->Reserved != OwnedMark(Handle)) {
        RaidCount(RaidCountIgnoredRelease);
        return;
    }
    Handle->Reserved = 0;
    if (SharesInterruptLock(Adapter, Handle->Lock)) {
        RaidReleaseInterruptLock(Adapter, Handle->Context.OldIrql);
    } else {
        RaidReleaseQueueLock((PKLOCK_QUEUE_HANDLE)&Handle->Context);
    }
}

static PKINTERRUPT MessageInterrupt(PRAID_ADAPTER Adapter, ULONG MessageId)
{
    if (Adapter->MessageTable == NULL || MessageId >= Adapter->MessageTable->MessageCount ||
        Adapter->Config.InterruptSynchronizationMode != InterruptSynchronizePerMessage) {
        return NULL;
    }
    return Adapter->MessageTable->MessageInfo[MessageId].InterruptObject;
}

ULONG RaidAcquireMessageLock(PRAID_ADAPTER Adapter, ULONG MessageId, PULONG OldIrql)
{
    PKINTERRUPT Interrupt = MessageInterrupt(Adapter, MessageId);

    if (Interrupt == NULL || OldIrql == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    *OldIrql = KeAcquireInterruptSpinLock(Interrupt);
    Adapter->MessageHolder[MessageId] = KeGetCurrentProcessorNumberEx(NULL) + 1;
    return STOR_STATUS_SUCCESS;
}

ULONG RaidReleaseMessageLock(PRAID_ADAPTER Adapter, ULONG MessageId, ULONG OldIrql)
{
    PKINTERRUPT Interrupt = MessageInterrupt(Adapter, MessageId);

    if (Interrupt == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    if (Adapter->MessageHolder[MessageId] != KeGetCurrentProcessorNumberEx(NULL) + 1) {
        RaidCount(RaidCountIgnoredRelease);
        return STOR_STATUS_UNSUCCESSFUL;
    }
    Adapter->MessageHolder[MessageId] = 0;
    KeReleaseInterruptSpinLock(Interrupt, (KIRQL)OldIrql);
    return STOR_STATUS_SUCCESS;
}
