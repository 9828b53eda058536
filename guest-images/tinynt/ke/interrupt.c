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

static BOOLEAN KiAreVectorsFree(ULONG First, ULONG Count)
{
    for (ULONG vector = First; vector < First + Count; vector++) {
        if (KiVectors[vector].Handler)
            return FALSE;
    }
    return TRUE;
}

/*
 * The first of Count free device vectors in a row, 0 if there are none. Count is a power of two up to 16, and so are
 * the vectors aligned, as MSI wants it: they have one IRQL. Called for one device at a time; taken by
 * KiSetVectorHandler.
 */
ULONG KiFindVectors(ULONG Count)
{
    for (ULONG vector = KI_FIRST_DEVICE_VECTOR + 0x20; vector + Count - 1 <= KI_LAST_DEVICE_VECTOR; vector += Count) {
        if (KiAreVectorsFree(vector, Count))
            return vector;
    }
    return 0;
}

/* A free device vector, 0 if all are taken. */
ULONG KiAllocateVector(KI_INTERRUPT_HANDLER *Handler, PVOID Context)
{
    KIRQL old = KxLockRaise(&KiVectorLock);
    ULONG found = KiFindVectors(1);

    if (found)
        KiSetVectorHandler(found, Handler, Context);
    KxUnlockLower(&KiVectorLock, old);
    return found;
}

VOID KiFreeVector(ULONG Vector)
{
    KiSetVectorHandler(Vector, NULL, NULL);
}
