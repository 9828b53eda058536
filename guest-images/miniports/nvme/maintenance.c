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

static DECLSPEC_NOINLINE VOID ReleaseByValue(PNVME_EXTENSION Extension, STOR_LOCK_HANDLE Handle)
{
    StorPortReleaseSpinLock(Extension, &Handle);
}

/* With the interrupt lock held, which comes after every DPC lock. */
static DECLSPEC_NOINLINE VOID CountUnderBoth(PNVME_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->MaintenanceDpc, &Handle);
    Extension->Errors += Extension->Dead;
    StorPortReleaseSpinLock(Extension, &Handle);
}

/* What the messages' locks guard is looked at with a lock that is another one's, or nobody's. */
static DECLSPEC_NOINLINE VOID LookAtMessages(PNVME_EXTENSION Extension)
{
    BOOLEAN Other = HAS_BUG(RELEASE_OTHER_MESSAGE);
    ULONG OldIrql = 0;

    if (Other && Extension->MessageCount < 2) {
        return;
    }
    StorPortAcquireMSISpinLock(Extension, Other ? 0 : Extension->MessageCount, &OldIrql);
    Extension->InterruptsAtFlush = Extension->Queues[0].Interrupts;
    if (Other) {
        StorPortReleaseMSISpinLock(Extension, 1, OldIrql);
        StorPortReleaseMSISpinLock(Extension, 0, OldIrql);
    } else {
        StorPortReleaseMSISpinLock(Extension, Extension->MessageCount, OldIrql);
    }
}

/* From HwBuildIo: no lock held. */
VOID NvmeCountFlush(PNVME_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};
    STOR_LOCK_HANDLE InterruptHandle = {0};

    if (HAS_BUG(RELEASE_OF_REFUSED_MESSAGE) || HAS_BUG(RELEASE_OTHER_MESSAGE)) {
        LookAtMessages(Extension);
    }

    StorPortAcquireSpinLock(Extension, InterruptLock, NULL, &InterruptHandle);
    Extension->InterruptsAtFlush = SumInterrupts(Extension);
    if (HAS_BUG(RELEASE_WRONG_ROUTINE)) {
        StorPortReleaseMSISpinLock(Extension, 0, InterruptHandle.Context.OldIrql);
    }
    if (HAS_BUG(DPC_LOCK_UNDER_INTERRUPT_LOCK)) {
        CountUnderBoth(Extension);
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
    if (HAS_BUG(RELEASE_COPIED_HANDLE)) {
        ReleaseByValue(Extension, Handle);
    }
    StorPortReleaseSpinLock(Extension, &Handle);
    if (HAS_BUG(RELEASE_TWICE)) {
        ReleaseLock(Extension, &Handle);
    }
}

/* From HwBuildIo: no lock held. */
DECLSPEC_NOINLINE VOID NvmeCountSerial(PNVME_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    if (!HAS_BUG(ZEROED_HANDLE_FOR_SERIAL)) {
        StorPortAcquireSpinLock(Extension, InterruptLock, NULL, &Handle);
    }
    Extension->Serials++;
    StorPortReleaseSpinLock(Extension, &Handle);
}

static DECLSPEC_NOINLINE VOID CountTick(PNVME_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, StartIoLock, NULL, &Handle);
    Extension->InterruptsSeen++;
    StorPortReleaseSpinLock(Extension, &Handle);
}

/* Called by the port driver with the StartIo lock held; the interrupt lock may be taken. */
VOID NTAPI NvmeTimer(PVOID DeviceExtension)
{
    PNVME_EXTENSION Extension = DeviceExtension;
    STOR_LOCK_HANDLE Handle = {0};

    if (HAS_BUG(START_IO_LOCK_IN_TIMER) && Extension->Flushes != 0) {
        CountTick(Extension);
    }
    StorPortAcquireSpinLock(Extension, InterruptLock, NULL, &Handle);
    Extension->InterruptsSeen = SumInterrupts(Extension);
    StorPortReleaseSpinLock(Extension, &Handle);
    if (!Extension->Dead && NvmeIsFatal(Extension)) {
        StorPortDebugPrint(0, "nvme: the controller reports a fatal error\n");
        StorPortIssueDpc(Extension, &Extension->ResetDpc, NULL, NULL);
    }
    StorPortNotification(RequestTimerCall, Extension, NvmeTimer, NVME_TIMER_MICROSECONDS);
}
