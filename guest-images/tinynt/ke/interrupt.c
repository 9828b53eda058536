/*
 * interrupt.c - what happens on a vector: IRQL, handler, end of interrupt. Vectors are given out here.
 */
#include "hal.h"
#include "ki.h"
#include "lockcall.h"

typedef struct _KI_VECTOR {
    KI_INTERRUPT_HANDLER *volatile Handler;
    PVOID Context;
} KI_VECTOR;

static KI_VECTOR KiVectors[256];
static ULONG_PTR KiVectorLock;

VOID KiRequestDispatch(ULONG Number)
{
    if (Number == KiProcessorNumber())
        HalpSendSelfIpi(KI_DISPATCH_VECTOR);
    else
        HalpSendIpi(KiPrcbOf(Number)->ApicId, KI_DISPATCH_VECTOR);
}

/* DISPATCH_LEVEL software interrupt: ended at once, so that a thread switch inside it leaves nothing in service. */
static VOID KiDispatchInterrupt(KIRQL Old)
{
    HalpEndOfInterrupt();
    KiWriteCr8(DISPATCH_LEVEL);
    KiEnable();
    KiRetireDpcs();
    KiPreemptCheck();
    KiDisable();
    KiWriteCr8(Old);
}

VOID KiInterruptDispatch(ULONG Vector, KI_MACHINE_FRAME *Frame)
{
    KIRQL old = (KIRQL)KiReadCr8();
    ULONG processor = KiProcessorNumber();
    BOOLEAN attempt = old < DISPATCH_LEVEL && KiIsPendingAttempt(Frame->Rip);

    if (attempt)
        KiCountEvent(KiEventInterruptedAttempt);
    KiPrcb()->InterruptCount++;
    if (Vector == KI_DISPATCH_VECTOR) {
        KiDispatchInterrupt(old);
        if (attempt && KiProcessorNumber() != processor)
            KiCountEvent(KiEventMigratedAttempt);
        return;
    }
    if (Vector == KI_SPURIOUS_VECTOR)
        return;
    KiWriteCr8(Vector >> 4);
    KiEnable();
    KI_INTERRUPT_HANDLER *handler = KiVectors[Vector].Handler;
    if (handler)
        handler(Vector, KiVectors[Vector].Context);
    KiDisable();
    HalpEndOfInterrupt();
    KiWriteCr8(old);
}

VOID KiSetVectorHandler(ULONG Vector, KI_INTERRUPT_HANDLER *Handler, PVOID Context)
{
    KiVectors[Vector].Context = Context;
    __atomic_store_n(&KiVectors[Vector].Handler, Handler, __ATOMIC_RELEASE);
}

/* A free device vector, 0 if all are taken. The classes are used in turn, so that devices differ in IRQL. */
ULONG KiAllocateVector(KI_INTERRUPT_HANDLER *Handler, PVOID Context)
{
    ULONG found = 0;
    KIRQL old = KxLockRaise(&KiVectorLock);
    for (ULONG vector = KI_FIRST_DEVICE_VECTOR + 0x20; vector <= KI_LAST_DEVICE_VECTOR && !found; vector++) {
        if (!KiVectors[vector].Handler)
            found = vector;
    }
    if (found)
        KiSetVectorHandler(found, Handler, Context);
    KxUnlockLower(&KiVectorLock, old);
    return found;
}

VOID KiFreeVector(ULONG Vector)
{
    KiSetVectorHandler(Vector, NULL, NULL);
}
