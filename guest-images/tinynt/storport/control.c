/* What a miniport says about its adapter or a unit: pause, busy, queue depth, errors; and whom it asks for. */
#include "raid.h"

PRAID_UNIT RaidFindUnit(PRAID_ADAPTER Adapter, UCHAR PathId, UCHAR TargetId, UCHAR Lun)
{
    for (ULONG Index = 0; Index < Adapter->UnitCount; Index++) {
        PRAID_UNIT Unit = Adapter->Units[Index];

        if (Unit->PathId == PathId && Unit->TargetId == TargetId && Unit->Lun == Lun) {
            return Unit;
        }
    }
    return NULL;
}

PVOID NTAPI StorPortGetLogicalUnit(PVOID HwDeviceExtension, UCHAR PathId, UCHAR TargetId, UCHAR Lun)
{
    PRAID_UNIT Unit = RaidFindUnit(RaidAdapterOf(HwDeviceExtension), PathId, TargetId, Lun);

    return Unit != NULL ? Unit->LuExtension : NULL;
}

/*
 * A request of the unit that the miniport has and has not completed, by its tag; NULL if there is none. At any IRQL:
 * the miniport holds what it may ask for. Every request has a tag here, so none is found for SP_UNTAGGED.
 */
PSCSI_REQUEST_BLOCK NTAPI StorPortGetSrb(PVOID DeviceExtension, UCHAR PathId, UCHAR TargetId, UCHAR Lun, LONG QueueTag)
{
    PRAID_UNIT Unit = RaidFindUnit(RaidAdapterOf(DeviceExtension), PathId, TargetId, Lun);
    PRAID_REQUEST Request;

    if (Unit == NULL || QueueTag < 0 || QueueTag >= RAID_MAX_TAGS || QueueTag == SP_UNTAGGED) {
        return NULL;
    }
    Request = Unit->Tagged[QueueTag];
    return Request != NULL && Request->State == RaidRequestStarted ? Request->HwSrb : NULL;
}

BOOLEAN NTAPI StorPortSetDeviceQueueDepth(PVOID HwDeviceExtension, UCHAR PathId, UCHAR TargetId, UCHAR Lun, ULONG Depth)
{
    PRAID_UNIT Unit = RaidFindUnit(RaidAdapterOf(HwDeviceExtension), PathId, TargetId, Lun);

    if (Unit == NULL || Depth == 0 || Depth > RAID_MAX_QUEUE_DEPTH) {
        return FALSE;
    }
    Unit->QueueDepth = Depth;
    return TRUE;
}

static VOID QueueRestart(PRAID_ADAPTER Adapter)
{
    KeInsertQueueDpc(&Adapter->RestartDpc, NULL, NULL);
}

/* TimeOut: seconds until the port driver resumes by itself. */
BOOLEAN NTAPI StorPortPause(PVOID HwDeviceExtension, ULONG TimeOut)
{
    PRAID_ADAPTER Adapter = RaidAdapterOf(HwDeviceExtension);

    Adapter->PauseSeconds = TimeOut;
    InterlockedExchange(&Adapter->Paused, TRUE);
    return TRUE;
}

BOOLEAN NTAPI StorPortResume(PVOID HwDeviceExtension)
{
    PRAID_ADAPTER Adapter = RaidAdapterOf(HwDeviceExtension);

    InterlockedExchange(&Adapter->Paused, FALSE);
    QueueRestart(Adapter);
    return TRUE;
}

BOOLEAN NTAPI StorPortPauseDevice(PVOID HwDeviceExtension, UCHAR PathId, UCHAR TargetId, UCHAR Lun, ULONG TimeOut)
{
    PRAID_UNIT Unit = RaidFindUnit(RaidAdapterOf(HwDeviceExtension), PathId, TargetId, Lun);

    if (Unit == NULL) {
        return FALSE;
    }
    Unit->PauseSeconds = TimeOut;
    Unit->Paused = TRUE;
    return TRUE;
}

BOOLEAN NTAPI StorPortResumeDevice(PVOID HwDeviceExtension, UCHAR PathId, UCHAR TargetId, UCHAR Lun)
{
    PRAID_UNIT Unit = RaidFindUnit(RaidAdapterOf(HwDeviceExtension), PathId, TargetId, Lun);

    if (Unit == NULL) {
        return FALSE;
    }
    Unit->Paused = FALSE;
    QueueRestart(Unit->Adapter);
    return TRUE;
}

static VOID SetUnitBusy(PRAID_UNIT Unit, ULONG RequestsToComplete)
{
    Unit->BusyCount = RequestsToComplete < Unit->OutstandingCount ? RequestsToComplete : Unit->OutstandingCount;
}

BOOLEAN NTAPI StorPortDeviceBusy(PVOID HwDeviceExtension, UCHAR PathId, UCHAR TargetId, UCHAR Lun,
                                 ULONG RequestsToComplete)
{
    PRAID_UNIT Unit = RaidFindUnit(RaidAdapterOf(HwDeviceExtension), PathId, TargetId, Lun);

    if (Unit == NULL) {
        return FALSE;
    }
    SetUnitBusy(Unit, RequestsToComplete);
    if (RequestsToComplete == 0) {
        QueueRestart(Unit->Adapter);
    }
    return TRUE;
}

BOOLEAN NTAPI StorPortDeviceReady(PVOID HwDeviceExtension, UCHAR PathId, UCHAR TargetId, UCHAR Lun)
{
    return StorPortDeviceBusy(HwDeviceExtension, PathId, TargetId, Lun, 0);
}

BOOLEAN NTAPI StorPortBusy(PVOID HwDeviceExtension, ULONG RequestsToComplete)
{
    PRAID_ADAPTER Adapter = RaidAdapterOf(HwDeviceExtension);

    for (ULONG Index = 0; Index < Adapter->UnitCount; Index++) {
        SetUnitBusy(Adapter->Units[Index], RequestsToComplete);
    }
    if (RequestsToComplete == 0) {
        QueueRestart(Adapter);
    }
    return TRUE;
}

BOOLEAN NTAPI StorPortReady(PVOID HwDeviceExtension)
{
    return StorPortBusy(HwDeviceExtension, 0);
}

static VOID CompleteOutstanding(PRAID_UNIT Unit, UCHAR SrbStatus)
{
    KLOCK_QUEUE_HANDLE Handle;

    RaidAcquireQueueLock(&Unit->QueueLock, &Handle);
    for (PLIST_ENTRY Entry = Unit->Outstanding.Flink; Entry != &Unit->Outstanding; Entry = Entry->Flink) {
        PRAID_REQUEST Request = CONTAINING_RECORD(Entry, RAID_REQUEST, Link);

        if (Request->State == RaidRequestStarted) {
            RaidSetSrbStatus(Request->HwSrb, SrbStatus);
            RaidRequestComplete(Unit->Adapter, Request->HwSrb);
        }
    }
    RaidReleaseQueueLock(&Handle);
}

/* Completes every outstanding request of the address; SP_UNTAGGED stands for all. */
VOID NTAPI StorPortCompleteRequest(PVOID HwDeviceExtension, UCHAR PathId, UCHAR TargetId, UCHAR Lun, UCHAR SrbStatus)
{
    PRAID_ADAPTER Adapter = RaidAdapterOf(HwDeviceExtension);

    for (ULONG Index = 0; Index < Adapter->UnitCount; Index++) {
        PRAID_UNIT Unit = Adapter->Units[Index];

        if ((PathId == SP_UNTAGGED || PathId == Unit->PathId) &&
            (TargetId == SP_UNTAGGED || TargetId == Unit->TargetId) && (Lun == SP_UNTAGGED || Lun == Unit->Lun)) {
            CompleteOutstanding(Unit, SrbStatus);
        }
    }
}

VOID NTAPI StorPortLogError(PVOID HwDeviceExtension, PSCSI_REQUEST_BLOCK Srb, UCHAR PathId, UCHAR TargetId, UCHAR Lun,
                            ULONG ErrorCode, ULONG UniqueId)
{
    UNREFERENCED_PARAMETER(HwDeviceExtension);
    UNREFERENCED_PARAMETER(Srb);
    DbgPrint("storport: error 0x%lx (0x%lx) of %u.%u.%u\n", ErrorCode, UniqueId, PathId, TargetId, Lun);
}

VOID __cdecl StorPortDebugPrint(ULONG DebugPrintLevel, PCCHAR DebugMessage, ...)
{
    va_list Arguments;

    va_start(Arguments, DebugMessage);
    vDbgPrintEx(DPFLTR_STORMINIPORT_ID, DebugPrintLevel, DebugMessage, Arguments);
    va_end(Arguments);
}

VOID NTAPI StorPortStallExecution(ULONG Delay)
{
    KeStallExecutionProcessor(Delay);
}

VOID NTAPI StorPortQuerySystemTime(PLARGE_INTEGER CurrentTime)
{
    KeQuerySystemTime(CurrentTime);
}

VOID NTAPI StorPortSynchronizeAccess(PVOID HwDeviceExtension, PSTOR_SYNCHRONIZED_ACCESS SynchronizedAccessRoutine,
                                     PVOID Context)
{
    PRAID_ADAPTER Adapter = RaidAdapterOf(HwDeviceExtension);
    STOR_LOCK_HANDLE Handle;

    RaidAcquireLock(Adapter, InterruptLock, NULL, &Handle);
    SynchronizedAccessRoutine(HwDeviceExtension, Context);
    RaidReleaseLock(Adapter, &Handle);
}
