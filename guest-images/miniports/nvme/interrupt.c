/* The interrupt routines and the DPCs: completion of one queue, and reset of the controller. */
#include "nvme.h"

static VOID QueueInterrupt(PNVME_EXTENSION Extension, PNVME_QUEUE Queue)
{
    Queue->Interrupts++;
    Queue->InterruptPending = TRUE;
    StorPortIssueDpc(Extension, &Queue->Dpc, Queue, NULL);
}

/* The port driver has called with the lock that this takes. */
static DECLSPEC_NOINLINE VOID CountMessage(PNVME_EXTENSION Extension, ULONG MessageId)
{
    ULONG OldIrql = 0;

    StorPortAcquireMSISpinLock(Extension, MessageId, &OldIrql);
    Extension->InterruptsSeen++;
    StorPortReleaseMSISpinLock(Extension, MessageId, OldIrql);
}

static DECLSPEC_NOINLINE VOID CountInterrupt(PNVME_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, InterruptLock, NULL, &Handle);
    Extension->InterruptsSeen++;
    StorPortReleaseSpinLock(Extension, &Handle);
}

/* With the message's interrupt lock held. Message 0 is the admin queue's, which is polled, unless it is the only one.
 */
BOOLEAN NTAPI NvmeMessageInterrupt(PVOID HwDeviceExtension, ULONG MessageId)
{
    PNVME_EXTENSION Extension = HwDeviceExtension;

    if (HAS_BUG(MESSAGE_LOCK_IN_INTERRUPT) && Extension->Flushes != 0) {
        CountMessage(Extension, MessageId);
    }
    if (HAS_BUG(INTERRUPT_LOCK_IN_INTERRUPT) && Extension->Flushes != 0) {
        CountInterrupt(Extension);
    }
    for (ULONG Index = 0; Index < Extension->QueueCount; Index++) {
        if (Extension->Queues[Index].Message == MessageId) {
            QueueInterrupt(Extension, &Extension->Queues[Index]);
        }
    }
    return TRUE;
}

/* INTMS and INTMC (section 7.5.1.1.1). With messages the host leaves them alone. */
VOID NvmeMaskLine(PNVME_EXTENSION Extension, BOOLEAN Mask)
{
    ULONG Register = Mask ? NVME_REGISTER_INTMS : NVME_REGISTER_INTMC;

    if (Extension->MessageCount == 0) {
        StorPortWriteRegisterUlong(Extension, (PULONG)(Extension->Registers + Register), 1);
    }
}

/* With the interrupt lock held. The line may be another device's; it stays asserted until the DPC has been there, so
 * the controller is masked until then. */
BOOLEAN NTAPI NvmeLineInterrupt(PVOID HwDeviceExtension)
{
    PNVME_EXTENSION Extension = HwDeviceExtension;
    PNVME_QUEUE Queue = &Extension->Queues[0];

    if (Extension->QueueCount == 0 || Queue->InterruptPending || !NvmeHasCompletion(Queue)) {
        return FALSE;
    }
    NvmeMaskLine(Extension, TRUE);
    QueueInterrupt(Extension, Queue);
    return TRUE;
}

static BOOLEAN TakeFlag(PNVME_QUEUE Queue)
{
    BOOLEAN Pending = Queue->InterruptPending;

    Queue->InterruptPending = FALSE;
    return Pending;
}

static BOOLEAN TakePending(PNVME_EXTENSION Extension, PNVME_QUEUE Queue)
{
    STOR_LOCK_HANDLE Handle = {0};
    ULONG OldIrql = 0;
    BOOLEAN Pending;

    if (Extension->MessageCount == 0 || Extension->OneLockForAll) {
        StorPortAcquireSpinLock(Extension, InterruptLock, NULL, &Handle);
        Pending = TakeFlag(Queue);
        StorPortReleaseSpinLock(Extension, &Handle);
        return Pending;
    }
    if (StorPortAcquireMSISpinLock(Extension, Queue->Message, &OldIrql) != STOR_STATUS_SUCCESS) {
        return TRUE;
    }
    Pending = TakeFlag(Queue);
    StorPortReleaseMSISpinLock(Extension, Queue->Message, OldIrql);
    return Pending;
}

/* A helper that was written for callers without the lock. */
static DECLSPEC_NOINLINE VOID SendFlushAgain(PNVME_EXTENSION Extension, PSTOR_DPC Dpc)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, DpcLock, Dpc, &Handle);
    Extension->Flushes++;
    StorPortReleaseSpinLock(Extension, &Handle);
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
    if (HAS_BUG(FLUSH_AGAIN_UNDER_LOCK) && Request != NULL && Request->Command.Opcode == NVME_IO_FLUSH) {
        SendFlushAgain(Extension, Dpc);
    }
    NvmeMaskLine(Extension, FALSE);
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
    if (HAS_BUG(RELEASE_AFTER_RESET)) {
        UnlockQueues(Extension, Handles, 1);
    }
    StorPortReleaseSpinLock(Extension, &StartIoHandle);
    StorPortDebugPrint(0, Good ? "nvme: the controller was reset\n" : "nvme: the controller did not come back\n");
    CompleteLost(Extension, Lost);
}
