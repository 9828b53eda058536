/*
 * line.c - the inputs of the I/O APIC: which interrupt objects share one, and their service in turn.
 */
#include "hal.h"
#include "interrupt_object.h"
#include "lockcall.h"

#define IOP_LINES 24

typedef struct _IOP_LINE {
    KINTERRUPT *volatile First; /* connected to this input, in the order in which they were */
    ULONG Vector;
    BOOLEAN Level;
    volatile LONG Active; /* processors that are in the chain */
} IOP_LINE;

static IOP_LINE IopLines[IOP_LINES];
static ULONG_PTR IopLineLock;

/*
 * A level is asserted until the device that asserts it is served, so the first routine that says that the interrupt was
 * its own ends the turn: the input asks again for what is left. An edge is lost for all that are not asked.
 */
static VOID IopServiceLine(ULONG Vector, PVOID Context)
{
    IOP_LINE *line = Context;

    UNREFERENCED_PARAMETER(Vector);
    InterlockedIncrement(&line->Active);
    for (KINTERRUPT *interrupt = line->First; interrupt; interrupt = interrupt->Next) {
        if (IopCallService(interrupt) && line->Level)
            break;
    }
    InterlockedDecrement(&line->Active);
}

NTSTATUS IopConnectToLine(KINTERRUPT *Interrupt, ULONG Pin, BOOLEAN Level)
{
    IOP_LINE *line = &IopLines[Pin < IOP_LINES ? Pin : 0];
    NTSTATUS status = STATUS_SUCCESS;
    BOOLEAN first;
    KIRQL old;

    if (Pin >= IOP_LINES)
        return STATUS_INVALID_PARAMETER;
    old = KxLockRaise(&IopLineLock);
    first = !line->First;
    if (first) {
        line->Level = Level;
        line->Vector = KiAllocateVector(IopServiceLine, line);
    }
    if (!line->Vector)
        status = STATUS_INSUFFICIENT_RESOURCES;
    else if (line->Level != Level)
        status = STATUS_RESOURCE_NOT_OWNED; /* an edge and a level cannot share an input */
    if (NT_SUCCESS(status)) {
        KINTERRUPT *volatile *last = &line->First;
        while (*last)
            last = &(*last)->Next;
        Interrupt->Pin = Pin;
        Interrupt->Vector = line->Vector;
        if (Interrupt->SynchronizeIrql < line->Vector >> 4)
            Interrupt->SynchronizeIrql = (KIRQL)(line->Vector >> 4);
        Interrupt->Next = NULL;
        __atomic_store_n(last, Interrupt, __ATOMIC_RELEASE);
    }
    KxUnlockLower(&IopLineLock, old);
    if (NT_SUCCESS(status) && first) /* the board's level inputs are active high (MADT) */
        HalpRouteIoApicPin(Pin, (UCHAR)line->Vector, KiPrcbOf(0)->ApicId, Level, FALSE);
    return status;
}

/* At PASSIVE_LEVEL: returns when no processor can be in the object's routine any more. */
VOID IopDisconnectFromLine(KINTERRUPT *Interrupt)
{
    IOP_LINE *line = &IopLines[Interrupt->Pin];
    KINTERRUPT *volatile *place = &line->First;
    KIRQL old = KxLockRaise(&IopLineLock);
    ULONG unused = 0;

    while (*place && *place != Interrupt)
        place = &(*place)->Next;
    if (*place)
        *place = Interrupt->Next;
    if (!line->First) {
        unused = line->Vector;
        line->Vector = 0;
    }
    KxUnlockLower(&IopLineLock, old);
    if (unused) {
        HalpMaskIoApicPin(Interrupt->Pin);
        KiFreeVector(unused);
    }
    while (__atomic_load_n(&line->Active, __ATOMIC_ACQUIRE))
        YieldProcessor();
}
