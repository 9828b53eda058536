/* Counters of rare events and the look for a fault. The bugs that a flush, an unmap or an error reaches are here. */
#include "sas.h"

/* Out of line: its call is in tail position, so that the caller of the port driver is not on the stack. */
static DECLSPEC_NOINLINE VOID ReleaseLock(PSAS_EXTENSION Extension, PSTOR_LOCK_HANDLE Handle)
{
    StorPortReleaseSpinLock(Extension, Handle);
}

static DECLSPEC_NOINLINE VOID ReleaseByValue(PSAS_EXTENSION Extension, STOR_LOCK_HANDLE Handle)
{
    StorPortReleaseSpinLock(Extension, &Handle);
}

static DECLSPEC_NOINLINE VOID CountInterrupts(PSAS_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, InterruptLock, NULL, &Handle);
    Extension->InterruptsAtFlush = Extension->Interrupts;
    if (HAS_BUG(RELEASE_WRONG_ROUTINE)) {
        StorPortReleaseMSISpinLock(Extension, 0, Handle.Context.OldIrql);
    }
    StorPortReleaseSpinLock(Extension, &Handle);
}

/* At DISPATCH_LEVEL. */
static DECLSPEC_NOINLINE VOID NoteFirstFlush(PSAS_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->ResetDpc, &Handle);
    Extension->LinkLooks = 0;
    if (HAS_BUG(RETURN_WITH_LOCK) && Extension->Errors != 0) {
        return;
    }
    StorPortReleaseSpinLock(Extension, &Handle);
}

/* From HwBuildIo: no lock held, at DISPATCH_LEVEL. */
VOID SasCountFlush(PSAS_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0}, Again = {0};
    KIRQL OldIrql;

    CountInterrupts(Extension);
    if (Extension->Flushes == 0) {
        NoteFirstFlush(Extension);
    }
    if (!HAS_BUG(RELEASE_WITHOUT_ACQUIRE)) {
        StorPortAcquireSpinLock(Extension, DpcLock, &Extension->TopologyDpc, &Handle);
    }
    Extension->Flushes++;
    if (HAS_BUG(ACQUIRE_TWICE)) {
        StorPortAcquireSpinLock(Extension, DpcLock, &Extension->TopologyDpc, &Again);
        StorPortReleaseSpinLock(Extension, &Again);
    }
    if (HAS_BUG(HANDLE_FOR_TWO_LOCKS)) {
        StorPortAcquireSpinLock(Extension, DpcLock, &Extension->ResetDpc, &Handle);
        StorPortReleaseSpinLock(Extension, &Handle);
    }
    ReleaseLock(Extension, &Handle);
    OldIrql = SasLockStatistics(Extension);
    Extension->LinkLooks++;
    SasUnlockStatistics(Extension, OldIrql);
    SasQueueWorker(Extension);
}

/* From HwBuildIo: no lock held, at DISPATCH_LEVEL. */
VOID SasNoteShutdown(PSAS_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->TopologyDpc, &Handle);
    Extension->ShutDown = TRUE;
    StorPortReleaseSpinLock(Extension, &Handle);
}

/* From HwBuildIo: no lock held. */
VOID SasCountUnmap(PSAS_EXTENSION Extension)
{
    STOR_LOCK_HANDLE StartIoHandle = {0}, Handle = {0};
    ULONG Uses;

    StorPortAcquireSpinLock(Extension, StartIoLock, NULL, &StartIoHandle);
    Uses = Extension->Uses;
    StorPortReleaseSpinLock(Extension, &StartIoHandle);
    StorPortAcquireSpinLock(Extension, DpcLock, HAS_BUG(DPC_LOCK_WITHOUT_DPC) ? NULL : &Extension->TopologyDpc,
                            &Handle);
    Extension->Unmaps += 1 + Uses / SAS_USE_MASK;
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

DECLSPEC_NOINLINE VOID SasCountError(PSAS_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    if (!HAS_BUG(RELEASE_ON_ERROR_PATH)) {
        StorPortAcquireSpinLock(Extension, DpcLock, &Extension->TopologyDpc, &Handle);
    }
    Extension->Errors++;
    StorPortReleaseSpinLock(Extension, &Handle);
}

/* From the work item, at PASSIVE_LEVEL. */
VOID SasCountTopology(PSAS_EXTENSION Extension)
{
    KIRQL OldIrql = SasLockStatistics(Extension);

    Extension->Topologies++;
    SasUnlockStatistics(Extension, OldIrql);
}

/* From the work item, at PASSIVE_LEVEL. */
DECLSPEC_NOINLINE VOID SasCountLinkErrors(PSAS_EXTENSION Extension, ULONG Errors)
{
    STOR_LOCK_HANDLE Handle = {0};
    KIRQL OldIrql;

    if (HAS_BUG(RELEASE_AFTER_REFUSAL)) {
        /* DpcLevelLock is for DISPATCH_LEVEL: it is refused here, and nobody looks. */
        StorPortAcquireSpinLockEx(Extension, DpcLevelLock, &Extension->TopologyDpc, &Handle);
        Extension->LinkErrors = Errors;
        StorPortReleaseSpinLock(Extension, &Handle);
        return;
    }
    OldIrql = SasLockStatistics(Extension);
    Extension->LinkErrors = Errors;
    SasUnlockStatistics(Extension, OldIrql);
}

/* Called by the port driver with the StartIo lock held. */
VOID NTAPI SasTimer(PVOID DeviceExtension)
{
    PSAS_EXTENSION Extension = DeviceExtension;

    SasCountMissing(Extension);
    if (!Extension->Dead && !Extension->ShutDown && SasIsFault(Extension)) {
        StorPortDebugPrint(0, "sas: the IOC is in FAULT state, code 0x%x\n",
                           SasRead(Extension, MPI_DOORBELL_OFFSET) & MPI_DOORBELL_DATA_MASK);
        StorPortIssueDpc(Extension, &Extension->ResetDpc, NULL, NULL);
    }
    StorPortNotification(RequestTimerCall, Extension, SasTimer, SAS_TIMER_MICROSECONDS);
}
