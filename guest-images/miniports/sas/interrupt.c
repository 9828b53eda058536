/* The interrupt routines and the DPCs: completion, and reset of the adapter. */
#include "sas.h"

/* With the interrupt lock held: no more interrupts until the DPC has been there. */
static BOOLEAN TakeInterrupt(PSAS_EXTENSION Extension)
{
    ULONG Status = SasRead(Extension, MPI_HOST_INTERRUPT_STATUS_OFFSET);

    if (!Extension->Operational || Extension->InterruptPending || !(Status & MPI_HIS_REPLY_MESSAGE_INTERRUPT)) {
        return FALSE;
    }
    SasWrite(Extension, MPI_HOST_INTERRUPT_MASK_OFFSET, MPI_HIM_RIM | MPI_HIM_DIM);
    Extension->InterruptPending = TRUE;
    Extension->Interrupts++;
    StorPortIssueDpc(Extension, &Extension->CompletionDpc, NULL, NULL);
    return TRUE;
}

/* The port driver has called with the lock that this takes. */
static DECLSPEC_NOINLINE VOID CountInterrupt(PSAS_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, InterruptLock, NULL, &Handle);
    Extension->Interrupts++;
    StorPortReleaseSpinLock(Extension, &Handle);
}

BOOLEAN NTAPI SasInterrupt(PVOID HwDeviceExtension)
{
    return TakeInterrupt(HwDeviceExtension);
}

BOOLEAN NTAPI SasMessageInterrupt(PVOID HwDeviceExtension, ULONG MessageId)
{
    UNREFERENCED_PARAMETER(MessageId);
    if (HAS_BUG(INTERRUPT_LOCK_IN_INTERRUPT) && ((PSAS_EXTENSION)HwDeviceExtension)->Flushes != 0) {
        CountInterrupt(HwDeviceExtension);
    }
    TakeInterrupt(HwDeviceExtension);
    return TRUE;
}

/* Interrupts again, for what comes after the DPC has looked; a reply that is there already gives one at once. */
static VOID AllowInterrupts(PSAS_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, InterruptLock, NULL, &Handle);
    Extension->InterruptPending = FALSE;
    if (Extension->Operational) {
        SasWrite(Extension, MPI_HOST_INTERRUPT_MASK_OFFSET, MPI_HIM_DIM);
    }
    StorPortReleaseSpinLock(Extension, &Handle);
}

VOID NTAPI SasCompletionDpc(PSTOR_DPC Dpc, PVOID HwDeviceExtension, PVOID Argument1, PVOID Argument2)
{
    PSAS_EXTENSION Extension = HwDeviceExtension;
    STOR_LOCK_HANDLE Handle = {0};
    PSAS_REQUEST Done;

    UNREFERENCED_PARAMETER(Argument1);
    UNREFERENCED_PARAMETER(Argument2);
    StorPortAcquireSpinLock(Extension, DpcLock, Dpc, &Handle);
    Done = SasReap(Extension);
    StorPortReleaseSpinLock(Extension, &Handle);
    AllowInterrupts(Extension);
    SasCompleteAll(Extension, Done);
}

/* Asked for by HwResetBus and the timer, which may not take these locks themselves. */
VOID NTAPI SasResetDpc(PSTOR_DPC Dpc, PVOID HwDeviceExtension, PVOID Argument1, PVOID Argument2)
{
    PSAS_EXTENSION Extension = HwDeviceExtension;
    STOR_LOCK_HANDLE StartIoHandle = {0}, Handle = {0};
    PSAS_REQUEST Lost;
    BOOLEAN Good;

    UNREFERENCED_PARAMETER(Dpc);
    UNREFERENCED_PARAMETER(Argument1);
    UNREFERENCED_PARAMETER(Argument2);
    StorPortAcquireSpinLock(Extension, StartIoLock, NULL, &StartIoHandle);
    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->CompletionDpc, &Handle);
    Good = SasMakeReady(Extension);
    Lost = SasTakeUnit(Extension, SAS_TARGETS, NULL);
    Good = Good && SasMakeOperational(Extension);
    Extension->Dead = !Good;
    StorPortReleaseSpinLock(Extension, &Handle);
    StorPortReleaseSpinLock(Extension, &StartIoHandle);
    StorPortDebugPrint(0, Good ? "sas: the IOC was reset\n" : "sas: the IOC did not come back\n");
    SasCompleteAll(Extension, Lost);
}
