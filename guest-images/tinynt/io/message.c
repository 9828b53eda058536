/*
 * message.c - message-based interrupts: MSI-X where the device has it, else MSI; one interrupt object a message.
 */
#include "hal.h"
#include "interrupt_object.h"

typedef struct _IOP_MESSAGES {
    PDEVICE_OBJECT Pdo;
    volatile ULONG *Table; /* of MSI-X; NULL: MSI */
    KINTERRUPT *Interrupts;
    IO_INTERRUPT_MESSAGE_INFO Info; /* last: its array is longer */
} IOP_MESSAGES;

#define IOP_MAXIMUM_MESSAGES 72
#define MSI_ADDRESS_BASE 0xFEE00000ull

static VOID IopServiceMessage(ULONG Vector, PVOID Context)
{
    UNREFERENCED_PARAMETER(Vector);
    IopCallService(Context);
}

static VOID IopProgramMsixEntry(IOP_MESSAGES *Messages, ULONG Index)
{
    IO_INTERRUPT_MESSAGE_INFO_ENTRY *entry = &Messages->Info.MessageInfo[Index];
    volatile ULONG *slot = Messages->Table + 4 * Index;

    slot[3] = 1; /* masked */
    slot[0] = (ULONG)entry->MessageAddress.QuadPart;
    slot[1] = (ULONG)(entry->MessageAddress.QuadPart >> 32);
    slot[2] = entry->MessageData;
    slot[3] = 0;
}

static VOID IopInitializeMessage(IOP_MESSAGES *Messages, ULONG Index, ULONG Vector, ULONG Processor,
                                 PIO_CONNECT_INTERRUPT_MESSAGE_BASED_PARAMETERS Parameters)
{
    KINTERRUPT *interrupt = &Messages->Interrupts[Index];
    IO_INTERRUPT_MESSAGE_INFO_ENTRY *entry = &Messages->Info.MessageInfo[Index];

    IopInitializeInterrupt(interrupt, Parameters->SpinLock);
    interrupt->MessageRoutine = Parameters->MessageServiceRoutine;
    interrupt->ServiceContext = Parameters->ServiceContext;
    interrupt->MessageId = Index;
    interrupt->Vector = Vector;
    KiSetVectorHandler(Vector, IopServiceMessage, interrupt);
    entry->MessageAddress.QuadPart = (LONG64)(MSI_ADDRESS_BASE | (ULONG64)KiPrcbOf(Processor)->ApicId << 12);
    entry->MessageData = Vector;
    entry->TargetProcessorSet = 1ull << Processor;
    entry->InterruptObject = interrupt;
    entry->Vector = Vector;
    entry->Irql = (KIRQL)(Vector >> 4);
    entry->Mode = Latched;
    entry->Polarity = InterruptActiveHigh;
    if (entry->Irql > Messages->Info.UnifiedIrql)
        Messages->Info.UnifiedIrql = entry->Irql;
}

/* The messages of MSI-X go to the processors in turn; those of MSI have one address and neighbouring vectors. */
static BOOLEAN IopInitializeMessages(IOP_MESSAGES *Messages, PIO_CONNECT_INTERRUPT_MESSAGE_BASED_PARAMETERS Parameters)
{
    ULONG count = Messages->Info.MessageCount;
    ULONG first = Messages->Table ? 0 : KiFindVectors(count);

    for (ULONG i = 0; i < count; i++) {
        ULONG vector = Messages->Table ? KiFindVectors(1) : (first ? first + i : 0);
        if (!vector)
            return FALSE;
        IopInitializeMessage(Messages, i, vector, Messages->Table ? i % (ULONG)KeNumberProcessors : 0, Parameters);
    }
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
    return messages;
}

static VOID IopFreeMessages(IOP_MESSAGES *Messages)
{
    for (ULONG i = 0; i < Messages->Info.MessageCount; i++) {
        if (Messages->Interrupts[i].Vector)
            KiFreeVector(Messages->Interrupts[i].Vector);
    }
    ExFreePoolWithTag(Messages, 'ismI');
}

/* What the device has, and what it has it by. */
ULONG IopMessageCount(PDO_EXTENSION *Pdo)
{
    ULONG count = IopMsixTableSize(Pdo);

    if (!count)
        count = IopMsiMessages(Pdo);
    return count < IOP_MAXIMUM_MESSAGES ? count : IOP_MAXIMUM_MESSAGES;
}

static VOID IopEnableMessages(IOP_MESSAGES *Messages)
{
    PDO_EXTENSION *pdo = Messages->Pdo->DeviceExtension;
    IO_INTERRUPT_MESSAGE_INFO_ENTRY *first = Messages->Info.MessageInfo;

    if (!Messages->Table) {
        IopEnableMsi(pdo, (ULONG64)first->MessageAddress.QuadPart, first->MessageData, Messages->Info.MessageCount);
        return;
    }
    for (ULONG i = 0; i < Messages->Info.MessageCount; i++)
        IopProgramMsixEntry(Messages, i);
    IopEnableMsix(pdo, TRUE);
}

NTSTATUS IopConnectMessages(PIO_CONNECT_INTERRUPT_MESSAGE_BASED_PARAMETERS Parameters)
{
    PDEVICE_OBJECT pdo = Parameters->PhysicalDeviceObject;
    ULONG count = PnpIsPdo(pdo) ? IopMessageCount(pdo->DeviceExtension) : 0;
    IOP_MESSAGES *messages;

    if (count == 0)
        return STATUS_NOT_FOUND;
    messages = IopAllocateMessages(pdo, count);
    if (!messages)
        return STATUS_INSUFFICIENT_RESOURCES;
    if (IopMsixTableSize(pdo->DeviceExtension))
        messages->Table = IopMapMsixTable(pdo->DeviceExtension);
    if ((IopMsixTableSize(pdo->DeviceExtension) && !messages->Table) || !IopInitializeMessages(messages, Parameters)) {
        IopFreeMessages(messages);
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    if (Parameters->SynchronizeIrql > messages->Info.UnifiedIrql)
        messages->Info.UnifiedIrql = Parameters->SynchronizeIrql;
    for (ULONG i = 0; i < count; i++) {
        /* A lock shared by all messages needs one IRQL for all; private locks are held at their own vector's. */
        messages->Interrupts[i].SynchronizeIrql =
            Parameters->SpinLock ? messages->Info.UnifiedIrql : messages->Info.MessageInfo[i].Irql;
    }
    IopEnableMessages(messages);
    *Parameters->ConnectionContext.InterruptMessageTable = &messages->Info;
    return STATUS_SUCCESS;
}

VOID IopDisconnectMessages(PIO_INTERRUPT_MESSAGE_INFO Table)
{
    IOP_MESSAGES *messages = CONTAINING_RECORD(Table, IOP_MESSAGES, Info);

    if (messages->Table)
        IopEnableMsix(messages->Pdo->DeviceExtension, FALSE);
    else
        IopDisableMsi(messages->Pdo->DeviceExtension);
    IopFreeMessages(messages);
}
