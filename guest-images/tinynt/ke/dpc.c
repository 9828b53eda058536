/*
 * dpc.c - deferred procedure calls: one queue a processor, drained at DISPATCH_LEVEL by the dispatch interrupt.
 *
 * Threaded DPCs run as ordinary ones, which is what Windows does when threaded DPCs are turned off.
 */
#include "ki.h"

#define KI_DPC_TARGETED 0x100u /* KDPC.Number: 100h + processor, or 0 for the queuing processor */

static VOID KiInitializeDpc(PRKDPC Dpc, PKDEFERRED_ROUTINE Routine, PVOID Context, KI_OBJECT_TYPE Type)
{
    RtlZeroMemory(Dpc, sizeof(*Dpc));
    Dpc->Type = (UCHAR)Type;
    Dpc->Importance = MediumImportance;
    Dpc->DeferredRoutine = Routine;
    Dpc->DeferredContext = Context;
}

VOID KeInitializeDpc(PRKDPC Dpc, PKDEFERRED_ROUTINE DeferredRoutine, PVOID DeferredContext)
{
    KiInitializeDpc(Dpc, DeferredRoutine, DeferredContext, KiDpcObject);
}

VOID KeInitializeThreadedDpc(PRKDPC Dpc, PKDEFERRED_ROUTINE DeferredRoutine, PVOID DeferredContext)
{
    KiInitializeDpc(Dpc, DeferredRoutine, DeferredContext, KiThreadedDpcObject);
}

BOOLEAN KeInsertQueueDpc(PRKDPC Dpc, PVOID SystemArgument1, PVOID SystemArgument2)
{
    BOOLEAN enabled = KiDisableSave();
    ULONG number = Dpc->Number >= KI_DPC_TARGETED ? Dpc->Number - KI_DPC_TARGETED : KiProcessorNumber();
    KPRCB *prcb = KiPrcbOf(number);
    BOOLEAN inserted = FALSE;

    KxLock(&prcb->DpcLock);
    if (__sync_bool_compare_and_swap((PVOID volatile *)&Dpc->DpcData, NULL, prcb)) {
        Dpc->SystemArgument1 = SystemArgument1;
        Dpc->SystemArgument2 = SystemArgument2;
        if (Dpc->Importance == HighImportance)
            InsertHeadList(&prcb->DpcListHead, &Dpc->DpcListEntry);
        else
            InsertTailList(&prcb->DpcListHead, &Dpc->DpcListEntry);
        inserted = TRUE;
    }
    KxUnlock(&prcb->DpcLock);
    if (inserted)
        KiRequestDispatch(number);
    KiRestore(enabled);
    return inserted;
}

BOOLEAN KeRemoveQueueDpc(PRKDPC Dpc)
{
    BOOLEAN enabled = KiDisableSave();
    KPRCB *prcb = Dpc->DpcData;
    BOOLEAN removed = FALSE;

    if (prcb) {
        KxLock(&prcb->DpcLock);
        if (Dpc->DpcData == prcb) {
            RemoveEntryList(&Dpc->DpcListEntry);
            Dpc->DpcData = NULL;
            removed = TRUE;
        }
        KxUnlock(&prcb->DpcLock);
    }
    KiRestore(enabled);
    return removed;
}

/* Takes the first DPC off this processor's queue into Copy: the object may be freed or queued again by its routine. */
static BOOLEAN KiPopDpc(KPRCB *Prcb, PRKDPC *Dpc, KDPC *Copy)
{
    BOOLEAN found = FALSE;

    if (IsListEmpty(&Prcb->DpcListHead))
        return FALSE;
    KiDisable();
    KxLock(&Prcb->DpcLock);
    if (!IsListEmpty(&Prcb->DpcListHead)) {
        *Dpc = CONTAINING_RECORD(RemoveHeadList(&Prcb->DpcListHead), KDPC, DpcListEntry);
        Copy->DeferredRoutine = (*Dpc)->DeferredRoutine;
        Copy->DeferredContext = (*Dpc)->DeferredContext;
        Copy->SystemArgument1 = (*Dpc)->SystemArgument1;
        Copy->SystemArgument2 = (*Dpc)->SystemArgument2;
        __atomic_store_n((PVOID volatile *)&(*Dpc)->DpcData, NULL, __ATOMIC_RELEASE);
        found = TRUE;
    }
    KxUnlock(&Prcb->DpcLock);
    KiEnable();
    return found;
}

VOID KiRetireDpcs(VOID)
{
    KPRCB *prcb = KiPrcb();
    PRKDPC dpc;
    KDPC copy;

    if (prcb->DpcRoutineActive) /* a DPC lowered IRQL, which is a driver's bug; the outer loop will go on */
        return;
    if (KiTimersDue())
        KiExpireTimers();
    while (KiPopDpc(prcb, &dpc, &copy)) {
        prcb->DpcCount++;
        prcb->DpcRoutineActive = TRUE;
        copy.DeferredRoutine(dpc, copy.DeferredContext, copy.SystemArgument1, copy.SystemArgument2);
        prcb->DpcRoutineActive = FALSE;
    }
}

VOID KeSetImportanceDpc(PRKDPC Dpc, KDPC_IMPORTANCE Importance)
{
    Dpc->Importance = (UCHAR)Importance;
}

VOID KeSetTargetProcessorDpc(PRKDPC Dpc, CCHAR Number)
{
    Dpc->Number = (USHORT)(KI_DPC_TARGETED + (UCHAR)Number);
}

NTSTATUS KeSetTargetProcessorDpcEx(PKDPC Dpc, PPROCESSOR_NUMBER ProcNumber)
{
    if (ProcNumber->Group != 0 || ProcNumber->Number >= (ULONG)KeNumberProcessors)
        return STATUS_INVALID_PARAMETER;
    Dpc->Number = (USHORT)(KI_DPC_TARGETED + ProcNumber->Number);
    return STATUS_SUCCESS;
}

static VOID KiFlushDpc(PKDPC Dpc, PVOID Context, PVOID SystemArgument1, PVOID SystemArgument2)
{
    KeSetEvent(Context, 0, FALSE);
}

/* Each queue is drained in order, so a DPC of ours behind the others tells when they have run. PASSIVE_LEVEL. */
VOID KeFlushQueuedDpcs(VOID)
{
    KDPC dpc;
    KEVENT done;

    for (ULONG i = 0; i < (ULONG)KeNumberProcessors; i++) {
        KeInitializeEvent(&done, NotificationEvent, FALSE);
        KeInitializeDpc(&dpc, KiFlushDpc, &done);
        KeSetTargetProcessorDpc(&dpc, (CCHAR)i);
        KeInsertQueueDpc(&dpc, NULL, NULL);
        KeWaitForSingleObject(&done, Executive, KernelMode, FALSE, NULL);
    }
}
