/* The message interrupts and the DPCs: completion of one queue, and reset of the controller. */
#include "nvme.h"

/* With the message's interrupt lock held. Message 0 is the admin queue's, which is polled. */
BOOLEAN NTAPI NvmeMessageInterrupt(PVOID HwDeviceExtension, ULONG MessageId)
{
    PNVME_EXTENSION Extension = HwDeviceExtension;
    PNVME_QUEUE Queue;

    if (MessageId == 0 || MessageId > Extension->QueueCount) {
        return TRUE;
    }
    Queue = &Extension->Queues[MessageId - 1];
    Queue->Interrupts++;
    Queue->InterruptPending = TRUE;
    StorPortIssueDpc(Extension, &Queue->Dpc, Queue, NULL);
    return TRUE;
}

static BOOLEAN TakePending(PNVME_EXTENSION Extension, PNVME_QUEUE Queue)
{
    ULONG OldIrql = 0;
    BOOLEAN Pending;

    if (StorPortAcquireMSISpinLock(Extension, Queue->Id, &OldIrql) != STOR_STATUS_SUCCESS) {
        return TRUE;
    }
    Pending = Queue->InterruptPending;
    Queue->InterruptPending = FALSE;
    StorPortReleaseMSISpinLock(Extension, Queue->Id, OldIrql);
    return Pending;
}

VOID NTAPI NvmeQueueDpc(PSTOR_DPC Dpc, PVOID HwDeviceExtension, PVOID SystemArgument1, PVOID SystemArgument2)
{
    PNVME_EXTENSION Extension = HwDeviceExtension;
    PNVME_QUEUE Queue = SystemArgument1;
    STOR_LOCK_HANDLE Handle = {0};
    PNVME_REQUEST Request;

    UNREFERENCED_PARAMETER(SystemArgument2);
    if (!TakePending(Extension, Queue)) {
        return;
    }
    StorPortAcquireSpinLock(Extension, DpcLock, Dpc, &Handle);
    Request = NvmeReap(Extension, Queue);
    StorPortReleaseSpinLock(Extension, &Handle);
    while (Request != NULL) {
        PNVME_REQUEST Next = Request->Next;

        NvmeComplete(Extension, Request);
        Request = Next;
    }
    NvmeStartWaiting(Extension);
}

static VOID LockQueues(PNVME_EXTENSION Extension, PSTOR_LOCK_HANDLE Handles)
{
    for (ULONG Index = 0; Index < Extension->QueueCount; Index++) {
        StorPortAcquireSpinLock(Extension, DpcLock, &Extension->Queues[Index].Dpc, &Handles[Index]);
    }
}

static VOID UnlockQueues(PNVME_EXTENSION Extension, PSTOR_LOCK_HANDLE Handles, ULONG Count)
{
    while (Count-- != 0) {
        StorPortReleaseSpinLock(Extension, &Handles[Count]);
    }
}

/*
 * With all locks held and the controller disabled: what it was sent and what waits. Requests of which a DPC has the
 * completion already are that DPC's; those that HwStartIo still has go to the new queues.
 */
static PNVME_REQUEST TakeLost(PNVME_EXTENSION Extension)
{
    PNVME_REQUEST Lost = Extension->WaitingHead;

    Extension->WaitingHead = NULL;
    Extension->WaitingCount = 0;
    for (ULONG Index = 0; Index < Extension->QueueCount; Index++) {
        Lost = NvmeTakeAll(&Extension->Queues[Index], Lost);
    }
    return Lost;
}

static VOID CompleteLost(PNVME_EXTENSION Extension, PNVME_REQUEST Request)
{
    while (Request != NULL) {
        PNVME_REQUEST Next = Request->Next;

        Request->Srb->SrbStatus = SRB_STATUS_BUS_RESET;
        StorPortNotification(RequestComplete, Extension, Request->Srb);
        Request = Next;
    }
}

/* Asked for by HwResetBus and the timer, which may not take these locks themselves. */
VOID NTAPI NvmeResetDpc(PSTOR_DPC Dpc, PVOID HwDeviceExtension, PVOID SystemArgument1, PVOID SystemArgument2)
{
    PNVME_EXTENSION Extension = HwDeviceExtension;
    STOR_LOCK_HANDLE StartIoHandle = {0};
    STOR_LOCK_HANDLE Handles[NVME_MAX_QUEUES] = {0};
    ULONG Count = Extension->QueueCount;
    PNVME_REQUEST Lost;
    BOOLEAN Good;

    UNREFERENCED_PARAMETER(Dpc);
    UNREFERENCED_PARAMETER(SystemArgument1);
    UNREFERENCED_PARAMETER(SystemArgument2);
    StorPortAcquireSpinLock(Extension, StartIoLock, NULL, &StartIoHandle);
    LockQueues(Extension, Handles);
    Good = NvmeDisable(Extension);
    Lost = TakeLost(Extension);
    Good = Good && NvmeEnable(Extension) && NvmeCreateQueues(Extension);
    Extension->Dead = !Good;
    UnlockQueues(Extension, Handles, Count);
    StorPortReleaseSpinLock(Extension, &StartIoHandle);
    StorPortDebugPrint(0, Good ? "nvme: the controller was reset\n" : "nvme: the controller did not come back\n");
    CompleteLost(Extension, Lost);
}
