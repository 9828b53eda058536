/*
 * Requests and their completion: RequestComplete may be called at any IRQL up to the interrupt's, so it only puts the
 * request on its processor's list; a DPC of that processor completes the IRPs and starts what waits.
 */
#include "raid.h"

static PSTOR_SCATTER_GATHER_LIST BuildScatterGather(PSCSI_REQUEST_BLOCK Srb)
{
    ULONG Pages = ADDRESS_AND_SIZE_TO_SPAN_PAGES(Srb->DataBuffer, Srb->DataTransferLength);
    PSTOR_SCATTER_GATHER_LIST List;

    List = ExAllocatePoolWithTag(NonPagedPool, sizeof(*List) + Pages * sizeof(STOR_SCATTER_GATHER_ELEMENT), RAID_TAG);
    if (List != NULL) {
        RaidFillScatterGather(List, Srb->DataBuffer, Srb->DataTransferLength);
    }
    return List;
}

PRAID_REQUEST RaidCreateRequest(PRAID_UNIT Unit, PIRP Irp, PSCSI_REQUEST_BLOCK Srb)
{
    SIZE_T HwSrbSize = RaidHwSrbSize(Unit->Adapter);
    SIZE_T Size = sizeof(RAID_REQUEST) + HwSrbSize + 16 + Unit->Adapter->Config.SrbExtensionSize;
    PRAID_REQUEST Request = ExAllocatePoolWithTag(NonPagedPool, Size, RAID_TAG);

    if (Request == NULL) {
        return NULL;
    }
    RtlZeroMemory(Request, Size);
    Request->Srb = Srb;
    Request->Irp = Irp;
    Request->Unit = Unit;
    Request->SecondsLeft = Srb->TimeOutValue;
    if (Unit->Adapter->IoTimeout != 0 && Srb->Function == SRB_FUNCTION_EXECUTE_SCSI) {
        Request->SecondsLeft = Unit->Adapter->IoTimeout;
    }
    Request->SrbExtension = (PVOID)(((ULONG_PTR)(Request + 1) + HwSrbSize + 15) & ~(ULONG_PTR)15);
    if (Srb->DataTransferLength != 0 && Srb->DataBuffer != NULL && !Unit->Adapter->Virtual) {
        Request->ScatterGather = BuildScatterGather(Srb);
        if (Request->ScatterGather == NULL) {
            ExFreePoolWithTag(Request, RAID_TAG);
            return NULL;
        }
    }
    Irp->Tail.Overlay.DriverContext[0] = Request;
    RaidDescribeSrb(Request, Request + 1);
    return Request;
}

VOID RaidFreeRequest(PRAID_REQUEST Request)
{
    if (Request->ScatterGather != NULL) {
        ExFreePoolWithTag(Request->ScatterGather, RAID_TAG);
    }
    ExFreePoolWithTag(Request, RAID_TAG);
}

VOID RaidRequestComplete(PRAID_ADAPTER Adapter, PSCSI_REQUEST_BLOCK Srb)
{
    PRAID_REQUEST Request = RaidRequestOf(Srb);
    PRAID_COMPLETION_QUEUE Queue;
    RAID_REQUEST *Head;

    if (Request == NULL || Request->HwSrb != Srb ||
        InterlockedCompareExchange(&Request->State, RaidRequestCompleted, RaidRequestStarted) != RaidRequestStarted) {
        DbgPrint("storport: RequestComplete of SRB %p, which is not outstanding\n", Srb);
        return;
    }
    Queue = &Adapter->Completion[Adapter->DpcRedirection ? Request->Processor : KeGetCurrentProcessorNumberEx(NULL)];
    do {
        Head = Queue->Head;
        Request->NextCompleted = Head;
    } while (InterlockedCompareExchangePointer((PVOID volatile *)&Queue->Head, Request, Head) != Head);
    KeInsertQueueDpc(&Queue->Dpc, NULL, NULL);
}

static NTSTATUS StatusOfSrb(UCHAR SrbStatus)
{
    switch (SRB_STATUS(SrbStatus)) {
    case SRB_STATUS_SUCCESS:
        return STATUS_SUCCESS;
    case SRB_STATUS_INVALID_REQUEST:
    case SRB_STATUS_BAD_FUNCTION:
        return STATUS_INVALID_DEVICE_REQUEST;
    case SRB_STATUS_NO_DEVICE:
    case SRB_STATUS_INVALID_LUN:
    case SRB_STATUS_INVALID_TARGET_ID:
    case SRB_STATUS_INVALID_PATH_ID:
    case SRB_STATUS_SELECTION_TIMEOUT:
        return STATUS_DEVICE_DOES_NOT_EXIST;
    case SRB_STATUS_TIMEOUT:
    case SRB_STATUS_COMMAND_TIMEOUT:
    case SRB_STATUS_BUS_RESET:
        return STATUS_IO_TIMEOUT;
    case SRB_STATUS_BUSY:
        return STATUS_DEVICE_BUSY;
    case SRB_STATUS_DATA_OVERRUN:
        return STATUS_DATA_OVERRUN;
    default:
        return STATUS_IO_DEVICE_ERROR;
    }
}

static VOID FinishRequest(PRAID_REQUEST Request)
{
    PRAID_UNIT Unit = Request->Unit;
    PIRP Irp = Request->Irp;
    PSCSI_REQUEST_BLOCK Srb = Request->Srb;
    KLOCK_QUEUE_HANDLE Handle;

    RaidReturnSrb(Request);
    RaidAcquireQueueLock(&Unit->QueueLock, &Handle);
    RemoveEntryList(&Request->Link);
    Unit->Tagged[Request->Tag] = NULL;
    Unit->Tags[Request->Tag / 64] &= ~(1ull << Request->Tag % 64);
    Unit->OutstandingCount--;
    if (Unit->BusyCount != 0) {
        Unit->BusyCount--;
    }
    RaidReleaseQueueLock(&Handle);
    Irp->Tail.Overlay.DriverContext[0] = NULL;
    RaidFreeRequest(Request);
    Irp->IoStatus.Status = StatusOfSrb(Srb->SrbStatus);
    Irp->IoStatus.Information = Srb->DataTransferLength;
    InterlockedDecrement(&Unit->Adapter->OutstandingTotal);
    /* Whoever waits for the last request of a unit may delete it. */
    ObReferenceObject(Unit->DeviceObject);
    IoCompleteRequest(Irp, IO_DISK_INCREMENT);
    RaidUnitRestart(Unit);
    ObDereferenceObject(Unit->DeviceObject);
}

VOID NTAPI RaidCompletionDpc(PKDPC Dpc, PVOID Context, PVOID Argument1, PVOID Argument2)
{
    PRAID_COMPLETION_QUEUE Queue = Context;
    PRAID_REQUEST Newest = InterlockedExchangePointer((PVOID volatile *)&Queue->Head, NULL);
    PRAID_REQUEST Oldest = NULL;

    UNREFERENCED_PARAMETER(Dpc);
    UNREFERENCED_PARAMETER(Argument1);
    UNREFERENCED_PARAMETER(Argument2);
    while (Newest != NULL) {
        PRAID_REQUEST Next = Newest->NextCompleted;

        Newest->NextCompleted = Oldest;
        Oldest = Newest;
        Newest = Next;
    }
    while (Oldest != NULL) {
        PRAID_REQUEST Next = Oldest->NextCompleted;

        FinishRequest(Oldest);
        Oldest = Next;
    }
}
