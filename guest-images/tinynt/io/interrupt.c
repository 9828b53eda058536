/*
 * interrupt.c - interrupt objects: line-based (I/O APIC) and message-based (MSI-X), and the interrupt spin lock.
 */
#include "hal.h"
#include "io_internal.h"
#include "lockcall.h"

typedef struct _KINTERRUPT {
    CSHORT Type;
    CSHORT Size;
    PKSERVICE_ROUTINE ServiceRoutine;
    PKMESSAGE_SERVICE_ROUTINE MessageRoutine; /* not NULL: MessageId is passed to it */
    PVOID ServiceContext;
    ULONG MessageId;
    ULONG Vector;
    KIRQL SynchronizeIrql;
    PKSPIN_LOCK ActualLock;
    KSPIN_LOCK OwnLock;
    ULONG Pin; /* I/O APIC pin of a line interrupt, ~0 of a message */
} KINTERRUPT;

typedef struct _IOP_MESSAGES {
    PDEVICE_OBJECT Pdo;
    volatile ULONG *Table;
    KINTERRUPT *Interrupts;
    IO_INTERRUPT_MESSAGE_INFO Info; /* last: its array is longer */
} IOP_MESSAGES;

#define KI_INTERRUPT_OBJECT 22
#define IOP_MAXIMUM_MESSAGES 72
#define MSI_ADDRESS_BASE 0xFEE00000ull

/* On the vector, at its IRQL: raise to the level all of the device's interrupts agree on, take the lock, call. */
static VOID IopServiceInterrupt(ULONG Vector, PVOID Context)
{
    KINTERRUPT *interrupt = Context;
    KIRQL irql = (KIRQL)KiReadCr8();

    if (interrupt->SynchronizeIrql > irql)
        KiWriteCr8(interrupt->SynchronizeIrql);
    KxLock(interrupt->ActualLock);
    if (interrupt->MessageRoutine)
        interrupt->MessageRoutine(interrupt, interrupt->ServiceContext, interrupt->MessageId);
    else
        interrupt->ServiceRoutine(interrupt, interrupt->ServiceContext);
    KxUnlock(interrupt->ActualLock);
    if (interrupt->SynchronizeIrql > irql)
        KiWriteCr8(irql);
}

static BOOLEAN IopInitializeInterrupt(KINTERRUPT *Interrupt, PKSPIN_LOCK Lock)
{
    Interrupt->Type = KI_INTERRUPT_OBJECT;
    Interrupt->Size = sizeof(KINTERRUPT);
    Interrupt->ActualLock = Lock ? Lock : &Interrupt->OwnLock;
    Interrupt->Pin = ~0u;
    Interrupt->Vector = KiAllocateVector(NULL, NULL);
    return Interrupt->Vector != 0;
}

static ULONG IopApicIdOf(ULONG Processor)
{
    return KiPrcbOf(Processor)->ApicId;
}

/* PCI line interrupts only; vector and IRQL are chosen here, as there is no resource arbiter. */
static NTSTATUS IopConnectLine(PDEVICE_OBJECT Pdo, PKSERVICE_ROUTINE Routine, PVOID Context, PKSPIN_LOCK Lock,
                               KIRQL SynchronizeIrql, PKINTERRUPT *Object)
{
    KINTERRUPT *interrupt;
    PDO_EXTENSION *extension;

    if (!PnpIsPdo(Pdo) || !((PDO_EXTENSION *)Pdo->DeviceExtension)->IsPci)
        return STATUS_INVALID_PARAMETER;
    interrupt = ExAllocatePool2(0, sizeof(*interrupt), 'tnIK');
    if (!interrupt || !IopInitializeInterrupt(interrupt, Lock))
        return STATUS_INSUFFICIENT_RESOURCES;
    extension = Pdo->DeviceExtension;
    interrupt->ServiceRoutine = Routine;
    interrupt->ServiceContext = Context;
    interrupt->SynchronizeIrql = SynchronizeIrql;
    interrupt->Pin = HalpReadPci32(extension->Bus, extension->Slot, 0x3C) & 0xFF;
    if (interrupt->SynchronizeIrql < interrupt->Vector >> 4)
        interrupt->SynchronizeIrql = (KIRQL)(interrupt->Vector >> 4);
    KiSetVectorHandler(interrupt->Vector, IopServiceInterrupt, interrupt);
    HalpRouteIoApicPin(interrupt->Pin, (UCHAR)interrupt->Vector, IopApicIdOf(0), TRUE, TRUE);
    *Object = interrupt;
    return STATUS_SUCCESS;
}

static VOID IopProgramMessage(IOP_MESSAGES *Messages, ULONG Index)
{
    IO_INTERRUPT_MESSAGE_INFO_ENTRY *entry = &Messages->Info.MessageInfo[Index];
    volatile ULONG *slot = Messages->Table + 4 * Index;

    slot[3] = 1; /* masked */
    slot[0] = (ULONG)entry->MessageAddress.QuadPart;
    slot[1] = (ULONG)(entry->MessageAddress.QuadPart >> 32);
    slot[2] = entry->MessageData;
    slot[3] = 0;
}

/* Messages go to the processors in turn. */
static BOOLEAN IopInitializeMessage(IOP_MESSAGES *Messages, ULONG Index,
                                    PIO_CONNECT_INTERRUPT_MESSAGE_BASED_PARAMETERS Parameters)
{
    KINTERRUPT *interrupt = &Messages->Interrupts[Index];
    IO_INTERRUPT_MESSAGE_INFO_ENTRY *entry = &Messages->Info.MessageInfo[Index];
    ULONG processor = Index % (ULONG)KeNumberProcessors;

    if (!IopInitializeInterrupt(interrupt, Parameters->SpinLock))
        return FALSE;
    interrupt->MessageRoutine = Parameters->MessageServiceRoutine;
    interrupt->ServiceContext = Parameters->ServiceContext;
    interrupt->MessageId = Index;
    KiSetVectorHandler(interrupt->Vector, IopServiceInterrupt, interrupt);
    entry->MessageAddress.QuadPart = (LONG64)(MSI_ADDRESS_BASE | (ULONG64)IopApicIdOf(processor) << 12);
    entry->MessageData = interrupt->Vector;
    entry->TargetProcessorSet = 1ull << processor;
    entry->InterruptObject = interrupt;
    entry->Vector = interrupt->Vector;
    entry->Irql = (KIRQL)(interrupt->Vector >> 4);
    entry->Mode = Latched;
    entry->Polarity = InterruptActiveHigh;
    if (entry->Irql > Messages->Info.UnifiedIrql)
        Messages->Info.UnifiedIrql = entry->Irql;
    return TRUE;
}

static IOP_MESSAGES *IopAllocateMessages(PDEVICE_OBJECT Pdo, ULONG Count)
{
    IOP_MESSAGES *messages = ExAllocatePool2(
        0, sizeof(*messages) + Count * (sizeof(IO_INTERRUPT_MESSAGE_INFO_ENTRY) + sizeof(KINTERRUPT)), 'ismI');

    if (!messages)
        return NULL;
    messages->Pdo = Pdo;
    messages->Info.MessageCount = Count;
    messages->Interrupts = (KINTERRUPT *)&messages->Info.MessageInfo[Count + 1];
    messages->Table = IopMapMsixTable(Pdo->DeviceExtension);
    return messages;
}

static NTSTATUS IopConnectMessages(PIO_CONNECT_INTERRUPT_MESSAGE_BASED_PARAMETERS Parameters)
{
    PDEVICE_OBJECT pdo = Parameters->PhysicalDeviceObject;
    ULONG count = PnpIsPdo(pdo) ? IopMsixTableSize(pdo->DeviceExtension) : 0;
    IOP_MESSAGES *messages;

    if (count == 0)
        return STATUS_NOT_FOUND;
    if (count > IOP_MAXIMUM_MESSAGES)
        count = IOP_MAXIMUM_MESSAGES;
    messages = IopAllocateMessages(pdo, count);
    if (!messages || !messages->Table)
        return STATUS_INSUFFICIENT_RESOURCES;
    for (ULONG i = 0; i < count; i++) {
        if (!IopInitializeMessage(messages, i, Parameters))
            return STATUS_INSUFFICIENT_RESOURCES;
    }
    if (Parameters->SynchronizeIrql > messages->Info.UnifiedIrql)
        messages->Info.UnifiedIrql = Parameters->SynchronizeIrql;
    for (ULONG i = 0; i < count; i++) {
        /* A lock shared by all messages needs one IRQL for all; private locks are held at their own vector's. */
        messages->Interrupts[i].SynchronizeIrql =
            Parameters->SpinLock ? messages->Info.UnifiedIrql : messages->Info.MessageInfo[i].Irql;
        IopProgramMessage(messages, i);
    }
    IopEnableMsix(pdo->DeviceExtension, TRUE);
    *Parameters->ConnectionContext.InterruptMessageTable = &messages->Info;
    return STATUS_SUCCESS;
}

/* Message-based; the documented fall back to the line where the device has no MSI-X. */
static NTSTATUS IopConnectMessageBased(PIO_CONNECT_INTERRUPT_PARAMETERS Parameters)
{
    PIO_CONNECT_INTERRUPT_MESSAGE_BASED_PARAMETERS based = &Parameters->MessageBased;
    NTSTATUS status = IopConnectMessages(based);

    if (status != STATUS_NOT_FOUND || !based->FallBackServiceRoutine)
        return status;
    status = IopConnectLine(based->PhysicalDeviceObject, based->FallBackServiceRoutine, based->ServiceContext,
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
        return IopConnectLine(line->PhysicalDeviceObject, line->ServiceRoutine, line->ServiceContext, line->SpinLock,
                              line->SynchronizeIrql, line->InterruptObject);
    default:
        return STATUS_NOT_SUPPORTED;
    }
}

static VOID IopDisconnect(KINTERRUPT *Interrupt)
{
    if (Interrupt->Pin != ~0u)
        HalpMaskIoApicPin(Interrupt->Pin);
    KiFreeVector(Interrupt->Vector);
}

VOID IoDisconnectInterruptEx(PIO_DISCONNECT_INTERRUPT_PARAMETERS Parameters)
{
    IOP_MESSAGES *messages;

    if (Parameters->Version != CONNECT_MESSAGE_BASED) {
        IoDisconnectInterrupt(Parameters->ConnectionContext.InterruptObject);
        return;
    }
    messages = CONTAINING_RECORD(Parameters->ConnectionContext.InterruptMessageTable, IOP_MESSAGES, Info);
    IopEnableMsix(messages->Pdo->DeviceExtension, FALSE);
    for (ULONG i = 0; i < messages->Info.MessageCount; i++)
        IopDisconnect(&messages->Interrupts[i]);
    ExFreePoolWithTag(messages, 'ismI');
}

/* The old form names a vector that the caller got from its resources: here it is the PCI interrupt line. */
NTSTATUS IoConnectInterrupt(PKINTERRUPT *InterruptObject, PKSERVICE_ROUTINE ServiceRoutine, PVOID ServiceContext,
                            PKSPIN_LOCK SpinLock, ULONG Vector, KIRQL Irql, KIRQL SynchronizeIrql,
                            KINTERRUPT_MODE InterruptMode, BOOLEAN ShareVector, KAFFINITY ProcessorEnableMask,
                            BOOLEAN FloatingSave)
{
    KINTERRUPT *interrupt = ExAllocatePool2(0, sizeof(*interrupt), 'tnIK');

    if (!interrupt || !IopInitializeInterrupt(interrupt, SpinLock))
        return STATUS_INSUFFICIENT_RESOURCES;
    interrupt->ServiceRoutine = ServiceRoutine;
    interrupt->ServiceContext = ServiceContext;
    interrupt->SynchronizeIrql = (KIRQL)(interrupt->Vector >> 4);
    interrupt->Pin = Vector;
    KiSetVectorHandler(interrupt->Vector, IopServiceInterrupt, interrupt);
    HalpRouteIoApicPin(Vector, (UCHAR)interrupt->Vector, IopApicIdOf(0), InterruptMode == LevelSensitive,
                       InterruptMode == LevelSensitive);
    *InterruptObject = interrupt;
    return STATUS_SUCCESS;
}

VOID IoDisconnectInterrupt(PKINTERRUPT InterruptObject)
{
    IopDisconnect(InterruptObject);
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
