/*
 * csq.c - cancel-safe IRP queues: the driver's list and lock, the I/O manager's cancel routine.
 *
 * While an IRP is queued, DriverContext[3] leads to its queue, or to its IO_CSQ_IRP_CONTEXT, which leads there.
 */
#include "ki.h"

#define CSQ_TYPE_INSERT_EX 3 /* IO_TYPE_CSQ_EX; IO_TYPE_CSQ is 2, IO_TYPE_CSQ_IRP_CONTEXT 1 */
#define CSQ_TYPE 2
#define CSQ_TYPE_CONTEXT 1

static PIO_CSQ IopCsqOf(PIRP Irp, PIO_CSQ_IRP_CONTEXT *Context)
{
    PIO_CSQ csq = Irp->Tail.Overlay.DriverContext[3];

    *Context = NULL;
    if (csq && csq->Type == CSQ_TYPE_CONTEXT) {
        *Context = (PIO_CSQ_IRP_CONTEXT)csq;
        csq = (*Context)->Csq;
    }
    return csq;
}

/* With the queue's lock held: the IRP leaves the queue. */
static VOID IopCsqTake(PIO_CSQ Csq, PIRP Irp)
{
    PIO_CSQ_IRP_CONTEXT context;

    IopCsqOf(Irp, &context);
    if (context)
        context->Irp = NULL;
    Irp->Tail.Overlay.DriverContext[3] = NULL;
    Csq->CsqRemoveIrp(Csq, Irp);
}

static VOID IopCsqCancel(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PIO_CSQ_IRP_CONTEXT context;
    PIO_CSQ csq;
    KIRQL irql;

    IoReleaseCancelSpinLock(Irp->CancelIrql);
    csq = IopCsqOf(Irp, &context);
    csq->CsqAcquireLock(csq, &irql);
    IopCsqTake(csq, Irp);
    csq->CsqReleaseLock(csq, irql);
    csq->CsqCompleteCanceledIrp(csq, Irp);
}

NTSTATUS IoCsqInitialize(PIO_CSQ Csq, PIO_CSQ_INSERT_IRP CsqInsertIrp, PIO_CSQ_REMOVE_IRP CsqRemoveIrp,
                         PIO_CSQ_PEEK_NEXT_IRP CsqPeekNextIrp, PIO_CSQ_ACQUIRE_LOCK CsqAcquireLock,
                         PIO_CSQ_RELEASE_LOCK CsqReleaseLock, PIO_CSQ_COMPLETE_CANCELED_IRP CsqCompleteCanceledIrp)
{
    Csq->Type = CSQ_TYPE;
    Csq->CsqInsertIrp = CsqInsertIrp;
    Csq->CsqRemoveIrp = CsqRemoveIrp;
    Csq->CsqPeekNextIrp = CsqPeekNextIrp;
    Csq->CsqAcquireLock = CsqAcquireLock;
    Csq->CsqReleaseLock = CsqReleaseLock;
    Csq->CsqCompleteCanceledIrp = CsqCompleteCanceledIrp;
    Csq->ReservePointer = NULL;
    return STATUS_SUCCESS;
}

NTSTATUS IoCsqInitializeEx(PIO_CSQ Csq, PIO_CSQ_INSERT_IRP_EX CsqInsertIrp, PIO_CSQ_REMOVE_IRP CsqRemoveIrp,
                           PIO_CSQ_PEEK_NEXT_IRP CsqPeekNextIrp, PIO_CSQ_ACQUIRE_LOCK CsqAcquireLock,
                           PIO_CSQ_RELEASE_LOCK CsqReleaseLock, PIO_CSQ_COMPLETE_CANCELED_IRP CsqCompleteCanceledIrp)
{
    IoCsqInitialize(Csq, (PIO_CSQ_INSERT_IRP)(PVOID)CsqInsertIrp, CsqRemoveIrp, CsqPeekNextIrp, CsqAcquireLock,
                    CsqReleaseLock, CsqCompleteCanceledIrp);
    Csq->Type = CSQ_TYPE_INSERT_EX;
    return STATUS_SUCCESS;
}

NTSTATUS IoCsqInsertIrpEx(PIO_CSQ Csq, PIRP Irp, PIO_CSQ_IRP_CONTEXT Context, PVOID InsertContext)
{
    NTSTATUS status = STATUS_SUCCESS;
    BOOLEAN cancelled = FALSE;
    KIRQL irql;

    if (Context) {
        Context->Type = CSQ_TYPE_CONTEXT;
        Context->Irp = Irp;
        Context->Csq = Csq;
    }
    Irp->Tail.Overlay.DriverContext[3] = Context ? (PVOID)Context : (PVOID)Csq;
    IoMarkIrpPending(Irp);
    Csq->CsqAcquireLock(Csq, &irql);
    if (Csq->Type == CSQ_TYPE_INSERT_EX)
        status = ((PIO_CSQ_INSERT_IRP_EX)(PVOID)Csq->CsqInsertIrp)(Csq, Irp, InsertContext);
    else
        Csq->CsqInsertIrp(Csq, Irp);
    if (!NT_SUCCESS(status)) {
        Irp->Tail.Overlay.DriverContext[3] = NULL;
    } else {
        IoSetCancelRoutine(Irp, IopCsqCancel);
        cancelled = Irp->Cancel && IoSetCancelRoutine(Irp, NULL) != NULL;
        if (cancelled)
            IopCsqTake(Csq, Irp);
    }
    Csq->CsqReleaseLock(Csq, irql);
    if (cancelled)
        Csq->CsqCompleteCanceledIrp(Csq, Irp);
    return status;
}

VOID IoCsqInsertIrp(PIO_CSQ Csq, PIRP Irp, PIO_CSQ_IRP_CONTEXT Context)
{
    IoCsqInsertIrpEx(Csq, Irp, Context, NULL);
}

/* The next IRP that matches and is not being cancelled, or NULL. */
PIRP IoCsqRemoveNextIrp(PIO_CSQ Csq, PVOID PeekContext)
{
    PIRP irp = NULL;
    KIRQL irql;

    Csq->CsqAcquireLock(Csq, &irql);
    while ((irp = Csq->CsqPeekNextIrp(Csq, irp, PeekContext)) != NULL) {
        if (IoSetCancelRoutine(irp, NULL)) {
            IopCsqTake(Csq, irp);
            break;
        }
    }
    Csq->CsqReleaseLock(Csq, irql);
    return irp;
}

PIRP IoCsqRemoveIrp(PIO_CSQ Csq, PIO_CSQ_IRP_CONTEXT Context)
{
    PIRP irp;
    KIRQL irql;

    Csq->CsqAcquireLock(Csq, &irql);
    irp = Context->Irp;
    if (irp && IoSetCancelRoutine(irp, NULL))
        IopCsqTake(Csq, irp);
    else
        irp = NULL;
    Csq->CsqReleaseLock(Csq, irql);
    return irp;
}
