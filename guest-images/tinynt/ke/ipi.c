/*
 * ipi.c - work on all processors at once (KeIpiGenericCall) and stopping them for a bug check.
 */
#include "hal.h"
#include "ki.h"
#include "ipi.h"

static ULONG_PTR KiIpiLock;
static PKIPI_BROADCAST_WORKER KiIpiWorker;
static ULONG_PTR KiIpiContext;
static volatile LONG KiIpiPending;
static volatile LONG KiFrozen;

static VOID KiIpiInterrupt(ULONG Vector, PVOID Context)
{
    while (KiFrozen)
        __asm__ volatile("cli\n\thlt");
    if (KiIpiWorker) {
        KiIpiWorker(KiIpiContext);
        __atomic_fetch_sub(&KiIpiPending, 1, __ATOMIC_ACQ_REL);
    }
}

VOID KiInitializeIpi(VOID)
{
    KiSetVectorHandler(KI_IPI_VECTOR, KiIpiInterrupt, NULL);
}

VOID KiFreezeOthers(VOID)
{
    KiFrozen = 1;
    if (KeNumberProcessors > 1)
        HalpSendIpiToOthers(KI_IPI_VECTOR);
}

/* IRQL below IPI level; the caller's share runs at IPI level like the others'. */
ULONG_PTR KeIpiGenericCall(PKIPI_BROADCAST_WORKER BroadcastFunction, ULONG_PTR Context)
{
    KIRQL old = KxLockRaise(&KiIpiLock);
    ULONG_PTR result;

    KiIpiContext = Context;
    KiIpiPending = KeNumberProcessors - 1;
    __atomic_store_n(&KiIpiWorker, BroadcastFunction, __ATOMIC_RELEASE);
    if (KeNumberProcessors > 1)
        HalpSendIpiToOthers(KI_IPI_VECTOR);
    KiWriteCr8(KI_IPI_VECTOR >> 4);
    result = BroadcastFunction(Context);
    KiWriteCr8(DISPATCH_LEVEL);
    while (__atomic_load_n(&KiIpiPending, __ATOMIC_ACQUIRE) > 0)
        __asm__ volatile("pause");
    KiIpiWorker = NULL;
    KxUnlockLower(&KiIpiLock, old);
    return result;
}
