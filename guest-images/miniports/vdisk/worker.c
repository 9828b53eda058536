/* Worker threads that serve the queue, the DPC that completes, and the timer DPC that watches the queue. */
#include "vdisk.h"

static PVDISK_REQUEST Dequeue(PVDISK_EXTENSION Extension)
{
    PVDISK_REQUEST Request = NULL;
    KIRQL OldIrql;

    KeAcquireSpinLock(&Extension->QueueLock, &OldIrql);
    if (!IsListEmpty(&Extension->Queue)) {
        Request = CONTAINING_RECORD(RemoveHeadList(&Extension->Queue), VDISK_REQUEST, Link);
        Extension->QueueLength--;
    }
    KeReleaseSpinLock(&Extension->QueueLock, OldIrql);
    return Request;
}

/* At any IRQL up to DISPATCH_LEVEL: from HwStartIo. */
VOID VdiskEnqueue(PVDISK_EXTENSION Extension, PVDISK_REQUEST Request)
{
    KIRQL OldIrql;

    KeAcquireSpinLock(&Extension->QueueLock, &OldIrql);
    InsertTailList(&Extension->Queue, &Request->Link);
    Extension->QueueLength++;
    KeReleaseSpinLock(&Extension->QueueLock, OldIrql);
    KeReleaseSemaphore(&Extension->QueueSemaphore, IO_NO_INCREMENT, 1, FALSE);
}

static VOID Serve(PVDISK_EXTENSION Extension, PVDISK_REQUEST Request)
{
    BOOLEAN Good = TRUE;
    KIRQL OldIrql;

    switch (Request->Command) {
    case DiskFlush:
        VdiskFlush(Extension);
        break;
    case DiskUnmap:
        Good = VdiskUnmap(Extension, Request);
        break;
    default:
        Good = VdiskTransfer(Extension, Request);
        break;
    }
    if (Good) {
        DiskSucceed(Request->Srb);
    }
    KeAcquireSpinLock(&Extension->DoneLock, &OldIrql);
    InsertTailList(&Extension->Done, &Request->Link);
    KeReleaseSpinLock(&Extension->DoneLock, OldIrql);
    KeInsertQueueDpc(&Extension->CompletionDpc, NULL, NULL);
}

static VOID NTAPI WorkerThread(PVOID Context)
{
    PVDISK_EXTENSION Extension = Context;

    for (;;) {
        PVDISK_REQUEST Request;

        KeWaitForSingleObject(&Extension->QueueSemaphore, Executive, KernelMode, FALSE, NULL);
        if (Extension->Stopping) {
            break;
        }
        Request = Dequeue(Extension);
        if (Request != NULL) {
            Serve(Extension, Request);
        }
    }
    PsTerminateSystemThread(STATUS_SUCCESS);
}

static PVDISK_REQUEST TakeDone(PVDISK_EXTENSION Extension)
{
    PVDISK_REQUEST Request = NULL;

    KeAcquireSpinLockAtDpcLevel(&Extension->DoneLock);
    if (!IsListEmpty(&Extension->Done)) {
        Request = CONTAINING_RECORD(RemoveHeadList(&Extension->Done), VDISK_REQUEST, Link);
    }
    KeReleaseSpinLockFromDpcLevel(&Extension->DoneLock);
    return Request;
}

static VOID NTAPI CompletionDpc(PKDPC Dpc, PVOID Context, PVOID Argument1, PVOID Argument2)
{
    PVDISK_EXTENSION Extension = Context;
    PVDISK_REQUEST Request;
    ULONG Completed = 0;

    UNREFERENCED_PARAMETER(Dpc);
    UNREFERENCED_PARAMETER(Argument1);
    UNREFERENCED_PARAMETER(Argument2);
    VdiskTakeOver(Extension);
    while ((Request = TakeDone(Extension)) != NULL) {
        StorPortNotification(RequestComplete, Extension, Request->Srb);
        Completed++;
    }
    KeAcquireSpinLockAtDpcLevel(&Extension->StatisticsLock);
    Extension->Statistics.Completed += Completed;
    KeReleaseSpinLockFromDpcLevel(&Extension->StatisticsLock);
}

/* Asks for the timer DPC once: it asks again when it is done, so that a slow machine is not swamped by it. */
static VOID RequestTimer(PVDISK_EXTENSION Extension)
{
    LARGE_INTEGER Due = {.QuadPart = -10000LL * VDISK_TIMER_MILLISECONDS};

    KeSetTimer(&Extension->Timer, Due, &Extension->TimerDpc);
}

static VOID NTAPI TimerDpc(PKDPC Dpc, PVOID Context, PVOID Argument1, PVOID Argument2)
{
    PVDISK_EXTENSION Extension = Context;
    ULONG Length;

    UNREFERENCED_PARAMETER(Dpc);
    UNREFERENCED_PARAMETER(Argument1);
    UNREFERENCED_PARAMETER(Argument2);
    KeAcquireSpinLockAtDpcLevel(&Extension->QueueLock);
    Length = Extension->QueueLength;
    KeReleaseSpinLockFromDpcLevel(&Extension->QueueLock);
    KeAcquireSpinLockAtDpcLevel(&Extension->StatisticsLock);
    Extension->Statistics.Ticks++;
    if (Length > Extension->Statistics.LongestQueue) {
        Extension->Statistics.LongestQueue = Length;
    }
    KeReleaseSpinLockFromDpcLevel(&Extension->StatisticsLock);
    if (!Extension->Stopping) {
        RequestTimer(Extension);
    }
}

static PKTHREAD CreateWorker(PVDISK_EXTENSION Extension)
{
    OBJECT_ATTRIBUTES Attributes;
    HANDLE Handle;
    PVOID Thread = NULL;

    InitializeObjectAttributes(&Attributes, NULL, OBJ_KERNEL_HANDLE, NULL, NULL);
    if (!NT_SUCCESS(
            PsCreateSystemThread(&Handle, THREAD_ALL_ACCESS, &Attributes, NULL, NULL, WorkerThread, Extension))) {
        return NULL;
    }
    ObReferenceObjectByHandle(Handle, THREAD_ALL_ACCESS, NULL, KernelMode, &Thread, NULL);
    ZwClose(Handle);
    return Thread;
}

BOOLEAN VdiskStartWorkers(PVDISK_EXTENSION Extension)
{
    KeInitializeSemaphore(&Extension->QueueSemaphore, 0, MAXLONG);
    KeInitializeDpc(&Extension->CompletionDpc, CompletionDpc, Extension);
    KeInitializeDpc(&Extension->TimerDpc, TimerDpc, Extension);
    KeInitializeTimer(&Extension->Timer);
    for (ULONG Index = 0; Index < VDISK_WORKERS; Index++) {
        Extension->Workers[Index] = CreateWorker(Extension);
        if (Extension->Workers[Index] == NULL) {
            VdiskStopWorkers(Extension);
            return FALSE;
        }
    }
    RequestTimer(Extension);
    return TRUE;
}

VOID VdiskStopWorkers(PVDISK_EXTENSION Extension)
{
    Extension->Stopping = TRUE;
    KeFlushQueuedDpcs(); /* a timer DPC that has not seen it yet asks for another one */
    KeCancelTimer(&Extension->Timer);
    KeReleaseSemaphore(&Extension->QueueSemaphore, IO_NO_INCREMENT, VDISK_WORKERS, FALSE);
    for (ULONG Index = 0; Index < VDISK_WORKERS; Index++) {
        if (Extension->Workers[Index] != NULL) {
            KeWaitForSingleObject(Extension->Workers[Index], Executive, KernelMode, FALSE, NULL);
            ObDereferenceObject(Extension->Workers[Index]);
            Extension->Workers[Index] = NULL;
        }
    }
    KeFlushQueuedDpcs();
}
