/*
 * Topology events: the DPC notes that a target has come or gone, a work item at PASSIVE_LEVEL acts on it. While a
 * target is missing its requests are kept back for some seconds, as it may only have been plugged elsewhere.
 */
#include "sas.h"

#define MISSING_SECONDS (SAS_MISSING_TICKS * SAS_TIMER_MICROSECONDS / 1000000)
#define CONFIG_POLLS 200u
#define CONFIG_POLL_MICROSECONDS 1000u

/* With CompletionDpc's lock held. */
VOID SasNoteEvent(PSAS_EXTENSION Extension, const MPI_REPLY *Reply)
{
    ULONG Event = Reply->TransferCount;
    STOR_LOCK_HANDLE Handle = {0};

    if (Event != MPI_EVENT_SAS_DEVICE_STATUS_CHANGE) {
        return;
    }
    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->TopologyDpc, &Handle);
    if (Extension->EventCount < SAS_EVENTS) {
        Extension->Events[Extension->EventCount].Target = Reply->EventData[0];
        Extension->Events[Extension->EventCount].Reason = Reply->EventData[2];
        Extension->EventCount++;
    }
    StorPortReleaseSpinLock(Extension, &Handle);
    SasQueueWorker(Extension);
}

/* Takes the oldest event; FALSE if there is none. */
static BOOLEAN TakeEvent(PSAS_EXTENSION Extension, SAS_EVENT *Event)
{
    STOR_LOCK_HANDLE Handle = {0};
    BOOLEAN Found;

    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->TopologyDpc, &Handle);
    Found = Extension->EventCount != 0;
    if (Found) {
        *Event = Extension->Events[0];
        Extension->EventCount--;
        RtlMoveMemory(&Extension->Events[0], &Extension->Events[1], Extension->EventCount * sizeof(*Event));
    }
    StorPortReleaseSpinLock(Extension, &Handle);
    if (HAS_BUG(RELEASE_AFTER_TOPOLOGY) && !Found) {
        StorPortReleaseSpinLock(Extension, &Handle);
    }
    return Found;
}

static VOID SetPresent(PSAS_EXTENSION Extension, UCHAR Target, BOOLEAN Present)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->TopologyDpc, &Handle);
    Extension->Targets[Target].Present = Present;
    Extension->Targets[Target].Known |= Present;
    Extension->Targets[Target].MissingTicks = 0;
    StorPortReleaseSpinLock(Extension, &Handle);
}

static VOID HandleEvent(PSAS_EXTENSION Extension, const SAS_EVENT *Event)
{
    BOOLEAN Added = Event->Reason == MPI_EVENT_SAS_DEV_STAT_RC_ADDED;

    if (Event->Target >= SAS_TARGETS || (!Added && Event->Reason != MPI_EVENT_SAS_DEV_STAT_RC_NOT_RESPONDING)) {
        return;
    }
    StorPortDebugPrint(0, "sas: target %u %s\n", Event->Target, Added ? "is there" : "is missing");
    SetPresent(Extension, Event->Target, Added);
    SasCountTopology(Extension);
    if (Added) {
        StorPortResumeDevice(Extension, 0, Event->Target, 0);
        StorPortNotification(BusChangeDetected, Extension, 0);
    } else {
        StorPortPauseDevice(Extension, 0, Event->Target, 0, MISSING_SECONDS);
    }
}

/* Sends a message of the driver's own and waits for its reply. FALSE: it failed, or there was a reset. */
static BOOLEAN SendAndWait(PSAS_EXTENSION Extension, PSAS_REQUEST Request)
{
    STOR_LOCK_HANDLE Handle = {0};
    BOOLEAN Posted, Answered;

    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->CompletionDpc, &Handle);
    Posted = SasPost(Extension, Request);
    StorPortReleaseSpinLock(Extension, &Handle);
    for (ULONG Poll = 0; Posted && Poll < CONFIG_POLLS && !*(volatile BOOLEAN *)&Request->Answered; Poll++) {
        StorPortExtendedFunction(ExtFunctionDelayExecution, Extension, CONFIG_POLL_MICROSECONDS);
    }
    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->CompletionDpc, &Handle);
    Answered = Posted && Request->Answered && !Request->Lost;
    SasForget(Extension, Request);
    StorPortReleaseSpinLock(Extension, &Handle);
    return Answered && Request->IocStatus == MPI_IOCSTATUS_SUCCESS;
}

/* SAS PHY page 1: the errors of a link. */
static ULONG ReadLinkErrors(PSAS_EXTENSION Extension, ULONG Phy)
{
    PSAS_REQUEST Request = &Extension->WorkerRequest;
    const ULONG *Page = (const ULONG *)Extension->Common->Page;
    PMPI_CONFIG Config = &Request->Message.Config;

    RtlZeroMemory(Request, sizeof(*Request));
    Config->Action = MPI_CONFIG_ACTION_PAGE_READ_CURRENT;
    Config->Function = MPI_FUNCTION_CONFIG;
    Config->ExtPageType = MPI_CONFIG_EXTPAGETYPE_SAS_PHY;
    Config->PageNumber = 1;
    Config->PageType = MPI_CONFIG_PAGETYPE_EXTENDED;
    Config->PageAddress = Phy;
    Config->PageBuffer.FlagsLength = MPI_SGE_SIMPLE_ELEMENT | MPI_SGE_LAST_ELEMENT | MPI_SGE_END_OF_BUFFER |
                                     MPI_SGE_END_OF_LIST | MPI_SGE_64_BIT_ADDRESSING | sizeof(Extension->Common->Page);
    Config->PageBuffer.Address = SasPhysical(Extension, Extension->Common->Page);
    if (!SendAndWait(Extension, Request)) {
        return 0;
    }
    /* InvalidDwordCount, RunningDisparityErrorCount, LossDwordSynchCount, PhyResetProblemCount */
    return Page[3] + Page[4] + Page[5] + Page[6];
}

/* With TopologyDpc's lock held. */
static PSAS_REQUEST TakeShutdown(PSAS_EXTENSION Extension)
{
    PSAS_REQUEST Request = Extension->Workers == 0 ? Extension->Shutdown : NULL;

    if (Request != NULL) {
        Extension->Shutdown = NULL;
    }
    return Request;
}

/* A work item has ended, or was not queued. */
static VOID WorkerEnded(PSAS_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};
    PSAS_REQUEST Shutdown;

    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->TopologyDpc, &Handle);
    Extension->Workers--;
    Shutdown = TakeShutdown(Extension);
    StorPortReleaseSpinLock(Extension, &Handle);
    if (Shutdown != NULL) {
        StorPortNotification(RequestComplete, Extension, Shutdown->Srb);
    }
}

/* The shutdown is complete when no work item is under way any more: none begins after it. */
VOID SasCompleteShutdown(PSAS_EXTENSION Extension, PSAS_REQUEST Request)
{
    STOR_LOCK_HANDLE Handle = {0};
    PSAS_REQUEST Shutdown;

    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->TopologyDpc, &Handle);
    Extension->Shutdown = Request;
    Shutdown = TakeShutdown(Extension);
    StorPortReleaseSpinLock(Extension, &Handle);
    if (Shutdown != NULL) {
        StorPortNotification(RequestComplete, Extension, Shutdown->Srb);
    }
}

static VOID NTAPI TopologyWorker(PVOID HwDeviceExtension, PVOID Context, PVOID Worker)
{
    PSAS_EXTENSION Extension = HwDeviceExtension;
    ULONG Errors = 0;
    SAS_EVENT Event;

    UNREFERENCED_PARAMETER(Context);
    UNREFERENCED_PARAMETER(Worker);
    while (TakeEvent(Extension, &Event)) {
        HandleEvent(Extension, &Event);
    }
    for (ULONG Phy = 0; Phy < Extension->MaxDevices && !Extension->ShutDown; Phy++) {
        Errors += ReadLinkErrors(Extension, Phy);
    }
    SasCountLinkErrors(Extension, Errors);
    WorkerEnded(Extension);
}

/* At DISPATCH_LEVEL at most. One that is queued already sees what is new as well. */
VOID SasQueueWorker(PSAS_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};
    BOOLEAN Begins;

    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->TopologyDpc, &Handle);
    Begins = !Extension->ShutDown;
    if (Begins) {
        Extension->Workers++;
    }
    StorPortReleaseSpinLock(Extension, &Handle);
    if (Begins && StorPortExtendedFunction(ExtFunctionQueueWorkItem, Extension, TopologyWorker, Extension->Worker,
                                           NULL) != STOR_STATUS_SUCCESS) {
        WorkerEnded(Extension);
    }
}

/* What becomes of a request whose target the IOC does not know. */
UCHAR SasStatusOfMissing(PSAS_EXTENSION Extension, ULONG Target)
{
    STOR_LOCK_HANDLE Handle = {0};
    BOOLEAN Wait;

    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->TopologyDpc, &Handle);
    Wait = Target < SAS_TARGETS && Extension->Targets[Target].Known &&
           Extension->Targets[Target].MissingTicks < SAS_MISSING_TICKS;
    StorPortReleaseSpinLock(Extension, &Handle);
    return Wait ? SRB_STATUS_BUSY : SRB_STATUS_NO_DEVICE;
}

/* From the timer: those that are missing are so one tick longer. */
VOID SasCountMissing(PSAS_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->TopologyDpc, &Handle);
    for (ULONG Target = 0; Target < SAS_TARGETS; Target++) {
        SAS_TARGET *Missing = &Extension->Targets[Target];

        if (Missing->Known && !Missing->Present && Missing->MissingTicks < SAS_MISSING_TICKS) {
            Missing->MissingTicks++;
        }
    }
    StorPortReleaseSpinLock(Extension, &Handle);
}
