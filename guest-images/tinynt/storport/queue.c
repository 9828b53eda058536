/*
 * From IRP to HwStartIo: IRP_MJ_SCSI of a logical unit, its queue, and the two start callbacks - HwBuildIo without a
 * lock, HwStartIo under the StartIo lock (physical miniports with one channel).
 */
#include "raid.h"

static NTSTATUS CompleteSrb(PIRP Irp, PSCSI_REQUEST_BLOCK Srb, UCHAR SrbStatus, NTSTATUS Status)
{
    Srb->SrbStatus = SrbStatus;
    Irp->IoStatus.Status = Status;
    IoCompleteRequest(Irp, IO_NO_INCREMENT);
    return Status;
}

static NTSTATUS ClaimUnit(PRAID_UNIT Unit, PIRP Irp, PSCSI_REQUEST_BLOCK Srb)
{
    if (Srb->Function == SRB_FUNCTION_RELEASE_DEVICE) {
        Unit->Claimed = FALSE;
        return CompleteSrb(Irp, Srb, SRB_STATUS_SUCCESS, STATUS_SUCCESS);
    }
    if (Unit->Claimed) {
        return CompleteSrb(Irp, Srb, SRB_STATUS_BUSY, STATUS_DEVICE_BUSY);
    }
    Unit->Claimed = TRUE;
    Srb->DataBuffer = Unit->DeviceObject;
    return CompleteSrb(Irp, Srb, SRB_STATUS_SUCCESS, STATUS_SUCCESS);
}

NTSTATUS NTAPI RaidDispatchScsi(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PRAID_UNIT Unit = DeviceObject->DeviceExtension;
    PSCSI_REQUEST_BLOCK Srb = IoGetCurrentIrpStackLocation(Irp)->Parameters.Scsi.Srb;
    PRAID_REQUEST Request;

    if (Unit->Type != RaidUnitObject || Srb == NULL) {
        Irp->IoStatus.Status = STATUS_INVALID_DEVICE_REQUEST;
        IoCompleteRequest(Irp, IO_NO_INCREMENT);
        return STATUS_INVALID_DEVICE_REQUEST;
    }
    switch (Srb->Function) {
    case SRB_FUNCTION_CLAIM_DEVICE:
    case SRB_FUNCTION_RELEASE_DEVICE:
        return ClaimUnit(Unit, Irp, Srb);
    case SRB_FUNCTION_RELEASE_QUEUE:
    case SRB_FUNCTION_FLUSH_QUEUE:
    case SRB_FUNCTION_LOCK_QUEUE:
    case SRB_FUNCTION_UNLOCK_QUEUE:
        return CompleteSrb(Irp, Srb, SRB_STATUS_SUCCESS, STATUS_SUCCESS);
    default:
        break;
    }
    if (Unit->Adapter->Stopped) {
        return CompleteSrb(Irp, Srb, SRB_STATUS_NO_DEVICE, STATUS_NO_SUCH_DEVICE);
    }
    Request = RaidCreateRequest(Unit, Irp, Srb);
    if (Request == NULL) {
        return CompleteSrb(Irp, Srb, SRB_STATUS_BUSY, STATUS_INSUFFICIENT_RESOURCES);
    }
    IoMarkIrpPending(Irp);
    RaidUnitSubmit(Request);
    return STATUS_PENDING;
}

static BOOLEAN CallStartIo(PRAID_ADAPTER Adapter, PSCSI_REQUEST_BLOCK Srb)
{
    STOR_LOCK_HANDLE Handle;
    BOOLEAN Accepted;

    if (Adapter->Virtual || Adapter->ConcurrentChannels > 1) {
        return Adapter->Hw.HwStartIo(Adapter->HwExtension, Srb);
    }
    RaidAcquireLock(Adapter, StartIoLock, NULL, &Handle);
    Accepted = Adapter->Hw.HwStartIo(Adapter->HwExtension, Srb);
    RaidReleaseLock(Adapter, &Handle);
    return Accepted;
}

/* Puts back what HwStartIo refused; the next completion, or the one-second timer, starts it again. */
static VOID Requeue(PRAID_REQUEST Request)
{
    PRAID_UNIT Unit = Request->Unit;
    KLOCK_QUEUE_HANDLE Handle;

    RaidAcquireQueueLock(&Unit->QueueLock, &Handle);
    RemoveEntryList(&Request->Link);
    Unit->OutstandingCount--;
    Unit->Tagged[Request->Tag] = NULL;
    Unit->Tags[Request->Tag / 64] &= ~(1ull << Request->Tag % 64);
    Request->State = RaidRequestPending;
    InsertHeadList(&Unit->Pending, &Request->Link);
    if (Unit->BusyCount == 0) {
        Unit->BusyCount = 1;
    }
    RaidReleaseQueueLock(&Handle);
    InterlockedDecrement(&Unit->Adapter->OutstandingTotal);
}

static VOID StartRequest(PRAID_REQUEST Request)
{
    PRAID_ADAPTER Adapter = Request->Unit->Adapter;
    PSCSI_REQUEST_BLOCK Srb = Request->HwSrb;
    BOOLEAN Continue = TRUE;
    KIRQL OldIrql;

    if (Adapter->Hw.HwBuildIo != NULL && !Adapter->Virtual) {
        KeRaiseIrql(DISPATCH_LEVEL, &OldIrql);
        Continue = Adapter->Hw.HwBuildIo(Adapter->HwExtension, Srb);
        KeLowerIrql(OldIrql);
    }
    if (Continue && !CallStartIo(Adapter, Srb)) {
        Requeue(Request);
    }
}

/* With the queue lock held: a queue tag that no outstanding request of the unit has. */
static ULONG TakeTag(PRAID_UNIT Unit)
{
    ULONG Tag = 0;

    while (Unit->Tags[Tag / 64] & (1ull << Tag % 64)) {
        Tag++;
    }
    Unit->Tags[Tag / 64] |= 1ull << Tag % 64;
    return Tag;
}

/* What the port driver sends to recover or to end must pass a paused, busy or full queue. */
static BOOLEAN BypassesQueue(PSCSI_REQUEST_BLOCK Srb)
{
    return Srb->Function == SRB_FUNCTION_RESET_LOGICAL_UNIT || Srb->Function == SRB_FUNCTION_RESET_DEVICE ||
           (Srb->SrbFlags & SRB_FLAGS_BYPASS_LOCKED_QUEUE) != 0;
}

static BOOLEAN MayStart(PRAID_UNIT Unit)
{
    PRAID_REQUEST First;

    if (IsListEmpty(&Unit->Pending)) {
        return FALSE;
    }
    First = CONTAINING_RECORD(Unit->Pending.Flink, RAID_REQUEST, Link);
    if (BypassesQueue(First->Srb)) {
        return Unit->OutstandingCount < RAID_MAX_TAGS;
    }
    return !Unit->Paused && !Unit->Adapter->Paused && Unit->BusyCount == 0 &&
           Unit->OutstandingCount < Unit->QueueDepth && !Unit->Recovering;
}

/* With the queue lock held: takes the next request that may start, or NULL. */
static PRAID_REQUEST TakeNext(PRAID_UNIT Unit)
{
    PRAID_REQUEST Request;

    if (!MayStart(Unit)) {
        return NULL;
    }
    Request = CONTAINING_RECORD(RemoveHeadList(&Unit->Pending), RAID_REQUEST, Link);
    Request->Processor = KeGetCurrentProcessorNumberEx(NULL);
    RaidTagSrb(Request, TakeTag(Unit));
    Unit->Tagged[Request->Tag] = Request;
    InsertTailList(&Unit->Outstanding, &Request->Link);
    Unit->OutstandingCount++;
    Request->State = RaidRequestStarted;
    InterlockedIncrement(&Unit->Adapter->OutstandingTotal);
    return Request;
}

VOID RaidUnitRestart(PRAID_UNIT Unit)
{
    KLOCK_QUEUE_HANDLE Handle;
    PRAID_REQUEST Request;

    do {
        RaidAcquireQueueLock(&Unit->QueueLock, &Handle);
        Request = TakeNext(Unit);
        RaidReleaseQueueLock(&Handle);
        if (Request != NULL) {
            StartRequest(Request);
        }
    } while (Request != NULL);
}

VOID RaidAdapterRestart(PRAID_ADAPTER Adapter)
{
    for (ULONG Index = 0; Index < Adapter->UnitCount; Index++) {
        RaidUnitRestart(Adapter->Units[Index]);
    }
}

/* Pause, busy and the like may end at any IRQL; the queues are looked at in a DPC. */
VOID NTAPI RaidRestartDpc(PKDPC Dpc, PVOID Context, PVOID Argument1, PVOID Argument2)
{
    UNREFERENCED_PARAMETER(Dpc);
    UNREFERENCED_PARAMETER(Argument1);
    UNREFERENCED_PARAMETER(Argument2);
    RaidAdapterRestart(Context);
}

VOID RaidUnitSubmit(PRAID_REQUEST Request)
{
    PRAID_UNIT Unit = Request->Unit;
    KLOCK_QUEUE_HANDLE Handle;

    RaidAcquireQueueLock(&Unit->QueueLock, &Handle);
    if (BypassesQueue(Request->Srb)) {
        InsertHeadList(&Unit->Pending, &Request->Link);
    } else {
        InsertTailList(&Unit->Pending, &Request->Link);
    }
    Request = TakeNext(Unit);
    RaidReleaseQueueLock(&Handle);
    if (Request != NULL) {
        StartRequest(Request);
    }
}
