/* Counters of rare events, the stall check and the look for a fatal error. The bugs that a flush or an unmap reaches
 * are here. */
#include "nvme.h"

/* With the interrupt lock held. */
static ULONG64 SumInterrupts(PNVME_EXTENSION Extension)
{
    ULONG64 Sum = 0;

    for (ULONG Index = 0; Index < Extension->QueueCount; Index++) {
        Sum += Extension->Queues[Index].Interrupts;
    }
    return Sum;
}

/* Out of line: its call is in tail position, so that the caller of the port driver is not on the stack. */
static DECLSPEC_NOINLINE VOID ReleaseLock(PNVME_EXTENSION Extension, PSTOR_LOCK_HANDLE Handle)
{
    StorPortReleaseSpinLock(Extension, Handle);
}

/* From HwBuildIo: no lock held. */
VOID NvmeCountFlush(PNVME_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};
    STOR_LOCK_HANDLE InterruptHandle = {0};

    StorPortAcquireSpinLock(Extension, InterruptLock, NULL, &InterruptHandle);
    Extension->InterruptsAtFlush = SumInterrupts(Extension);
    if (HAS_BUG(RELEASE_WRONG_ROUTINE)) {
        StorPortReleaseMSISpinLock(Extension, 0, InterruptHandle.Context.OldIrql);
    }
    StorPortReleaseSpinLock(Extension, &InterruptHandle);
    if (!HAS_BUG(RELEASE_WITHOUT_ACQUIRE)) {
        StorPortAcquireSpinLock(Extension, DpcLock, &Extension->MaintenanceDpc, &Handle);
    }
    Extension->Flushes++;
    ReleaseLock(Extension, &Handle);
}

/* From HwBuildIo: no lock held. */
VOID NvmeCountUnmap(PNVME_EXTENSION Extension, ULONG Ranges)
{
    STOR_LOCK_HANDLE StartIoHandle = {0};
    STOR_LOCK_HANDLE Handle = {0};
    ULONG Waiting;

    StorPortAcquireSpinLock(Extension, StartIoLock, NULL, &StartIoHandle);
    Waiting = Extension->WaitingCount;
    StorPortReleaseSpinLock(Extension, &StartIoHandle);
    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->MaintenanceDpc, &Handle);
    Extension->Unmaps += Ranges + Waiting;
    if (HAS_BUG(RELEASE_OTHER_LOCK)) {
        StorPortReleaseSpinLock(Extension, &StartIoHandle);
    }
    StorPortReleaseSpinLock(Extension, &Handle);
    if (HAS_BUG(RELEASE_TWICE)) {
        ReleaseLock(Extension, &Handle);
    }
}

/* Called by the port driver with the StartIo lock held; the interrupt lock may be taken. */
VOID NTAPI NvmeTimer(PVOID DeviceExtension)
{
    PNVME_EXTENSION Extension = DeviceExtension;
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, InterruptLock, NULL, &Handle);
    Extension->InterruptsSeen = SumInterrupts(Extension);
    StorPortReleaseSpinLock(Extension, &Handle);
    if (!Extension->Dead && NvmeIsFatal(Extension)) {
        StorPortDebugPrint(0, "nvme: the controller reports a fatal error\n");
        StorPortIssueDpc(Extension, &Extension->ResetDpc, NULL, NULL);
    }
    StorPortNotification(RequestTimerCall, Extension, NvmeTimer, NVME_TIMER_MICROSECONDS);
}
