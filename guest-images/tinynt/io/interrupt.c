/*
 * interrupt.c - connecting interrupt objects, to a line or to messages, and the interrupt spin lock.
 */
#include "hal.h"
#include "interrupt_object.h"
#include "lockcall.h"

#define KI_INTERRUPT_OBJECT 22

/* Raises to the level that all of the device's interrupts agree on, takes the lock, calls. */
BOOLEAN IopCallService(KINTERRUPT *Interrupt)
{
    KIRQL irql = (KIRQL)KiReadCr8();
    BOOLEAN own;

    if (Interrupt->SynchronizeIrql > irql)
        KiWriteCr8(Interrupt->SynchronizeIrql);
    KxLock(Interrupt->ActualLock);
    if (Interrupt->MessageRoutine)
        own = Interrupt->MessageRoutine(Interrupt, Interrupt->ServiceContext, Interrupt->MessageId);
    else
        own = Interrupt->ServiceRoutine(Interrupt, Interrupt->ServiceContext);
    KxUnlock(Interrupt->ActualLock);
    if (Interrupt->SynchronizeIrql > irql)
        KiWriteCr8(irql);
    return own;
}

VOID IopInitializeInterrupt(KINTERRUPT *Interrupt, PKSPIN_LOCK Lock)
{
    Interrupt->Type = KI_INTERRUPT_OBJECT;
    Interrupt->Size = sizeof(KINTERRUPT);
    Interrupt->ActualLock = Lock ? Lock : &Interrupt->OwnLock;
    Interrupt->Pin = ~0u;
}

static NTSTATUS IopConnectLine(ULONG Pin, BOOLEAN Level, PKSERVICE_ROUTINE Routine, PVOID Context, PKSPIN_LOCK Lock,
                               KIRQL SynchronizeIrql, PKINTERRUPT *Object)
{
    KINTERRUPT *interrupt = ExAllocatePool2(0, sizeof(*interrupt), 'tnIK');
    NTSTATUS status;

    if (!interrupt)
        return STATUS_INSUFFICIENT_RESOURCES;
    IopInitializeInterrupt(interrupt, Lock);
    interrupt->ServiceRoutine = Routine;
    interrupt->ServiceContext = Context;
    interrupt->SynchronizeIrql = SynchronizeIrql;
    status = IopConnectToLine(interrupt, Pin, Level);
    if (!NT_SUCCESS(status)) {
        ExFreePoolWithTag(interrupt, 'tnIK');
        return status;
    }
    *Object = interrupt;
    return STATUS_SUCCESS;
}

/* PCI pins only; vector and IRQL are chosen here, as there is no resource arbiter. */
static NTSTATUS IopConnectPciPin(PDEVICE_OBJECT Pdo, PKSERVICE_ROUTINE Routine, PVOID Context, PKSPIN_LOCK Lock,
                                 KIRQL SynchronizeIrql, PKINTERRUPT *Object)
{
    ULONG line;

    if (!PnpIsPdo(Pdo) || !PnpQueryInterruptLine(Pdo->DeviceExtension, &line))
        return STATUS_INVALID_PARAMETER;
    return IopConnectLine(line, TRUE, Routine, Context, Lock, SynchronizeIrql, Object);
}

/* Message-based; the documented fall back to the line where the device has no messages. */
static NTSTATUS IopConnectMessageBased(PIO_CONNECT_INTERRUPT_PARAMETERS Parameters)
{
    PIO_CONNECT_INTERRUPT_MESSAGE_BASED_PARAMETERS based = &Parameters->MessageBased;
    NTSTATUS status = IopConnectMessages(based);

    if (status != STATUS_NOT_FOUND || !based->FallBackServiceRoutine)
        return status;
    status = IopConnectPciPin(based->PhysicalDeviceObject, based->FallBackServiceRoutine, based->ServiceContext,
                              based->SpinLock, based->SynchronizeIrql, based->ConnectionContext.InterruptObject);
    if (NT_SUCCESS(status))
        Parameters->Version = CONNECT_LINE_BASED;
    return status;
}

NTSTATUS IoConnectInterruptEx(PIO_CONNECT_INTERRUPT_PARAMETERS Parameters)
{
    PIO_CONNECT_INTERRUPT_LINE_BASED_PARAMETERS line = &Parameters->LineBased;

    switch (Parameters->Version) {
    case CONNECT_MESSAGE_BASED:
        return IopConnectMessageBased(Parameters);
    case CONNECT_LINE_BASED:
        return IopConnectPciPin(line->PhysicalDeviceObject, line->ServiceRoutine, line->ServiceContext, line->SpinLock,
                                line->SynchronizeIrql, line->InterruptObject);
    default:
        return STATUS_NOT_SUPPORTED;
    }
}

VOID IoDisconnectInterruptEx(PIO_DISCONNECT_INTERRUPT_PARAMETERS Parameters)
{
    if (Parameters->Version == CONNECT_MESSAGE_BASED)
        IopDisconnectMessages(Parameters->ConnectionContext.InterruptMessageTable);
    else
        IoDisconnectInterrupt(Parameters->ConnectionContext.InterruptObject);
}

/* The old form names a vector that the caller got from its resources: here it is the PCI interrupt line. */
NTSTATUS IoConnectInterrupt(PKINTERRUPT *InterruptObject, PKSERVICE_ROUTINE ServiceRoutine, PVOID ServiceContext,
                            PKSPIN_LOCK SpinLock, ULONG Vector, KIRQL Irql, KIRQL SynchronizeIrql,
                            KINTERRUPT_MODE InterruptMode, BOOLEAN ShareVector, KAFFINITY ProcessorEnableMask,
                            BOOLEAN FloatingSave)
{
    return IopConnectLine(Vector, InterruptMode == LevelSensitive, ServiceRoutine, ServiceContext, SpinLock,
                          SynchronizeIrql, InterruptObject);
}

VOID IoDisconnectInterrupt(PKINTERRUPT InterruptObject)
{
    IopDisconnectFromLine(InterruptObject);
    ExFreePoolWithTag(InterruptObject, 'tnIK');
}

static KIRQL KxAcquireInterrupt(KINTERRUPT *Interrupt)
{
    KIRQL old = (KIRQL)KiReadCr8();

    if (Interrupt->SynchronizeIrql > old)
        KiWriteCr8(Interrupt->SynchronizeIrql);
    KxLock(Interrupt->ActualLock);
    return old;
}

KIRQL KeAcquireInterruptSpinLock(PKINTERRUPT Interrupt)
{
    KiCountCall(KiRoutineKeAcquireInterruptSpinLock);
    return KxAcquireInterrupt(Interrupt);
}

VOID KeReleaseInterruptSpinLock(PKINTERRUPT Interrupt, KIRQL OldIrql)
{
    KiCountCall(KiRoutineKeReleaseInterruptSpinLock);
    KxUnlock(Interrupt->ActualLock);
    KiWriteCr8(OldIrql & 15);
}

BOOLEAN KeSynchronizeExecution(PKINTERRUPT Interrupt, PKSYNCHRONIZE_ROUTINE SynchronizeRoutine,
                               PVOID SynchronizeContext)
{
    KIRQL old = KxAcquireInterrupt(Interrupt);
    BOOLEAN result = SynchronizeRoutine(SynchronizeContext);

    KxUnlock(Interrupt->ActualLock);
    KiWriteCr8(old);
    return result;
}
