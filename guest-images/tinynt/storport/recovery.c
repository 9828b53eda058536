/*
 * What happens to a request that is not completed in time: a reset of the logical unit, of the target, of the bus, each
 * followed by some seconds of patience; a miniport that still keeps the request ends in bug check 0xF0.
 */
#include "raid.h"

#define STORAGE_MINIPORT_ERROR 0xF0
#define NOT_COMPLETED_AFTER_RESET 1
#define RESET_SECONDS 5      /* for a reset's own SRB, and for the requests to come back after it */
#define BUS_RESET_SECONDS 30 /* for the requests to come back after the last resort: a controller may start anew */
#define SECOND (1000 * 1000 * 10LL)

/* A reset that the miniport may keep for ever: then this is never freed. */
typedef struct _RAID_RESET {
    SCSI_REQUEST_BLOCK Srb;
    KEVENT Done;
    PIRP Irp;
} RAID_RESET, *PRAID_RESET;

static NTSTATUS NTAPI ResetDone(PDEVICE_OBJECT DeviceObject, PIRP Irp, PVOID Context)
{
    PRAID_RESET Reset = Context;

    UNREFERENCED_PARAMETER(DeviceObject);
    UNREFERENCED_PARAMETER(Irp);
    KeSetEvent(&Reset->Done, IO_NO_INCREMENT, FALSE);
    return STATUS_MORE_PROCESSING_REQUIRED;
}

static VOID SendReset(PRAID_UNIT Unit, UCHAR Function)
{
    PRAID_RESET Reset = ExAllocatePoolWithTag(NonPagedPool, sizeof(*Reset), RAID_TAG);
    LARGE_INTEGER Patience = {.QuadPart = -RESET_SECONDS * SECOND};
    PIO_STACK_LOCATION Stack;

    if (Reset == NULL) {
        return;
    }
    Reset->Irp = IoAllocateIrp(Unit->DeviceObject->StackSize, FALSE);
    if (Reset->Irp == NULL) {
        ExFreePoolWithTag(Reset, RAID_TAG);
        return;
    }
    RaidInitializeSrb(&Reset->Srb, Function, 0);
    KeInitializeEvent(&Reset->Done, NotificationEvent, FALSE);
    Stack = IoGetNextIrpStackLocation(Reset->Irp);
    Stack->MajorFunction = IRP_MJ_SCSI;
    Stack->Parameters.Scsi.Srb = &Reset->Srb;
    IoSetCompletionRoutine(Reset->Irp, ResetDone, Reset, TRUE, TRUE, TRUE);
    IoCallDriver(Unit->DeviceObject, Reset->Irp);
    if (KeWaitForSingleObject(&Reset->Done, Executive, KernelMode, FALSE, &Patience) != STATUS_SUCCESS) {
        DbgPrint("storport: the miniport keeps the SRB of a reset (function 0x%x)\n", Function);
        return;
    }
    DbgPrint("storport: reset (function 0x%x) completed with SRB status 0x%x\n", Function, Reset->Srb.SrbStatus);
    IoFreeIrp(Reset->Irp);
    ExFreePoolWithTag(Reset, RAID_TAG);
}

/* Calls HwResetBus with the StartIo lock held, as documented; the miniport completes what it had. */
static VOID ResetBus(PRAID_ADAPTER Adapter, ULONG PathId)
{
    STOR_LOCK_HANDLE Handle;

    DbgPrint("storport: reset of bus %lu\n", PathId);
    if (Adapter->Virtual) {
        Adapter->Hw.HwResetBus(Adapter->HwExtension, PathId);
        return;
    }
    RaidAcquireLock(Adapter, StartIoLock, NULL, &Handle);
    Adapter->Hw.HwResetBus(Adapter->HwExtension, PathId);
    RaidReleaseLock(Adapter, &Handle);
}

/* The first request that is past its time and not completed; NULL if all have come back. */
static PRAID_REQUEST FindLate(PRAID_UNIT Unit)
{
    KLOCK_QUEUE_HANDLE Handle;
    PRAID_REQUEST Late = NULL;

    RaidAcquireQueueLock(&Unit->QueueLock, &Handle);
    for (PLIST_ENTRY Entry = Unit->Outstanding.Flink; Entry != &Unit->Outstanding; Entry = Entry->Flink) {
        PRAID_REQUEST Request = CONTAINING_RECORD(Entry, RAID_REQUEST, Link);

        if (Request->TimedOut && Request->State == RaidRequestStarted) {
            Late = Request;
            break;
        }
    }
    RaidReleaseQueueLock(&Handle);
    return Late;
}

static BOOLEAN AllCameBack(PRAID_UNIT Unit, ULONG Seconds)
{
    LARGE_INTEGER Interval = {.QuadPart = -SECOND / 10};

    for (ULONG Tenth = 0; Tenth < Seconds * 10; Tenth++) {
        if (FindLate(Unit) == NULL) {
            return TRUE;
        }
        KeDelayExecutionThread(KernelMode, FALSE, &Interval);
    }
    return FALSE;
}

static BOOLEAN Recover(PRAID_UNIT Unit)
{
    SendReset(Unit, SRB_FUNCTION_RESET_LOGICAL_UNIT);
    if (AllCameBack(Unit, RESET_SECONDS)) {
        return TRUE;
    }
    if (Unit->Adapter->Config.ResetTargetSupported) {
        SendReset(Unit, SRB_FUNCTION_RESET_DEVICE);
        if (AllCameBack(Unit, RESET_SECONDS)) {
            return TRUE;
        }
    }
    ResetBus(Unit->Adapter, Unit->PathId);
    return AllCameBack(Unit, BUS_RESET_SECONDS);
}

static VOID NTAPI RecoveryRoutine(PDEVICE_OBJECT DeviceObject, PVOID Context)
{
    PRAID_UNIT Unit = Context;

    UNREFERENCED_PARAMETER(DeviceObject);
    if (!Recover(Unit)) {
        PRAID_REQUEST Late = FindLate(Unit);

        KeBugCheckEx(STORAGE_MINIPORT_ERROR, NOT_COMPLETED_AFTER_RESET,
                     (ULONG_PTR)&Unit->Adapter->DeviceObject->DriverObject->DriverName,
                     (ULONG_PTR)(Late != NULL ? Late->HwSrb : NULL), (ULONG_PTR)Unit->DeviceObject);
    }
    InterlockedExchange(&Unit->Recovering, FALSE);
    RaidUnitRestart(Unit);
}

/* At DISPATCH_LEVEL; what is left to do is done by a work item. */
VOID RaidRecoverUnit(PRAID_UNIT Unit)
{
    if (InterlockedExchange(&Unit->Recovering, TRUE) == FALSE) {
        IoQueueWorkItem(Unit->RecoveryWork, RecoveryRoutine, CriticalWorkQueue, Unit);
    }
}
