/*
 * workitem.c - work items, run in order of queueing by a few system threads.
 */
#include "ki.h"
#include "io_internal.h"

#define IO_WORKER_THREADS 2

typedef struct _IO_WORKITEM {
    LIST_ENTRY Links;
    PDEVICE_OBJECT DeviceObject;
    PIO_WORKITEM_ROUTINE Routine;
    PIO_WORKITEM_ROUTINE_EX RoutineEx; /* instead of it, if not NULL */
    PVOID Context;
} IO_WORKITEM;

static ULONG_PTR IopWorkLock;
static LIST_ENTRY IopWork = {&IopWork, &IopWork};
static KSEMAPHORE IopWorkCount;

static VOID IopWorker(PVOID Context)
{
    for (;;) {
        IO_WORKITEM *item;
        KIRQL old;

        KeWaitForSingleObject(&IopWorkCount, Executive, KernelMode, FALSE, NULL);
        old = KxLockRaise(&IopWorkLock);
        item = CONTAINING_RECORD(RemoveHeadList(&IopWork), IO_WORKITEM, Links);
        KxUnlockLower(&IopWorkLock, old);
        if (item->RoutineEx)
            item->RoutineEx(item->DeviceObject, item->Context, item);
        else
            item->Routine(item->DeviceObject, item->Context);
    }
}

VOID IopStartWorkers(VOID)
{
    KeInitializeSemaphore(&IopWorkCount, 0, 0x7FFFFFFF);
    for (ULONG i = 0; i < IO_WORKER_THREADS; i++)
        KiCreateThread(IopWorker, NULL, 12);
}

PIO_WORKITEM IoAllocateWorkItem(PDEVICE_OBJECT DeviceObject)
{
    IO_WORKITEM *item = ExAllocatePool2(0, sizeof(*item), 'krWI');

    if (item)
        item->DeviceObject = DeviceObject;
    return item;
}

VOID IoFreeWorkItem(PIO_WORKITEM IoWorkItem)
{
    ExFreePoolWithTag(IoWorkItem, 'krWI');
}

ULONG IoSizeofWorkItem(VOID)
{
    return sizeof(IO_WORKITEM);
}

VOID IoInitializeWorkItem(PVOID IoObject, PIO_WORKITEM IoWorkItem)
{
    RtlZeroMemory(IoWorkItem, sizeof(*IoWorkItem));
    IoWorkItem->DeviceObject = IoObject;
}

VOID IoUninitializeWorkItem(PIO_WORKITEM IoWorkItem)
{
}

static VOID IopQueue(PIO_WORKITEM Item, PVOID Context)
{
    KIRQL old;

    Item->Context = Context;
    old = KxLockRaise(&IopWorkLock);
    InsertTailList(&IopWork, &Item->Links);
    KxUnlockLower(&IopWorkLock, old);
    KeReleaseSemaphore(&IopWorkCount, 0, 1, FALSE);
}

VOID IoQueueWorkItem(PIO_WORKITEM IoWorkItem, PIO_WORKITEM_ROUTINE WorkerRoutine, WORK_QUEUE_TYPE QueueType,
                     PVOID Context)
{
    IoWorkItem->Routine = WorkerRoutine;
    IoWorkItem->RoutineEx = NULL;
    IopQueue(IoWorkItem, Context);
}

VOID IoQueueWorkItemEx(PIO_WORKITEM IoWorkItem, PIO_WORKITEM_ROUTINE_EX WorkerRoutine, WORK_QUEUE_TYPE QueueType,
                       PVOID Context)
{
    IoWorkItem->RoutineEx = WorkerRoutine;
    IopQueue(IoWorkItem, Context);
}
