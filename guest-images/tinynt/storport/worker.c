/* StorPortInitializeWorker and its companions: a miniport's routine at PASSIVE_LEVEL. */
#include "raid.h"

/* The routine may free its worker: nothing of it is touched afterwards. */
static VOID NTAPI WorkerRoutine(PDEVICE_OBJECT DeviceObject, PVOID Context)
{
    PRAID_WORKER Worker = Context;

    UNREFERENCED_PARAMETER(DeviceObject);
    InterlockedExchange(&Worker->Queued, 0);
    Worker->Routine(Worker->Adapter->HwExtension, Worker->Context, Worker);
}

ULONG RaidInitializeWorker(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PVOID *Result = va_arg(Arguments, PVOID *);
    PRAID_WORKER Worker = ExAllocatePoolWithTag(NonPagedPool, sizeof(*Worker), RAID_TAG);

    if (Worker == NULL) {
        return STOR_STATUS_INSUFFICIENT_RESOURCES;
    }
    RtlZeroMemory(Worker, sizeof(*Worker));
    Worker->Adapter = Adapter;
    Worker->WorkItem = IoAllocateWorkItem(Adapter->DeviceObject);
    if (Worker->WorkItem == NULL) {
        ExFreePoolWithTag(Worker, RAID_TAG);
        return STOR_STATUS_INSUFFICIENT_RESOURCES;
    }
    *Result = Worker;
    return STOR_STATUS_SUCCESS;
}

ULONG RaidQueueWorkItem(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PHW_WORKITEM Routine = va_arg(Arguments, PHW_WORKITEM);
    PRAID_WORKER Worker = va_arg(Arguments, PRAID_WORKER);
    PVOID Context = va_arg(Arguments, PVOID);

    UNREFERENCED_PARAMETER(Adapter);
    if (Routine == NULL || Worker == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    if (KeGetCurrentIrql() > DISPATCH_LEVEL) {
        return STOR_STATUS_INVALID_IRQL;
    }
    if (InterlockedExchange(&Worker->Queued, 1) != 0) {
        return STOR_STATUS_BUSY;
    }
    Worker->Routine = Routine;
    Worker->Context = Context;
    IoQueueWorkItem(Worker->WorkItem, WorkerRoutine, DelayedWorkQueue, Worker);
    return STOR_STATUS_SUCCESS;
}

ULONG RaidFreeWorker(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PRAID_WORKER Worker = va_arg(Arguments, PRAID_WORKER);

    UNREFERENCED_PARAMETER(Adapter);
    if (Worker == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    IoFreeWorkItem(Worker->WorkItem);
    ExFreePoolWithTag(Worker, RAID_TAG);
    return STOR_STATUS_SUCCESS;
}
