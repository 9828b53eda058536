/* Connecting the adapter's interrupts and calling HwInterrupt or HwMSInterruptRoutine with the interrupt lock held. */
#include "raid.h"

static BOOLEAN NTAPI MessageService(PKINTERRUPT Interrupt, PVOID Context, ULONG MessageId)
{
    PRAID_ADAPTER Adapter = Context;

    UNREFERENCED_PARAMETER(Interrupt);
    return Adapter->Config.HwMSInterruptRoutine(Adapter->HwExtension, MessageId);
}

static BOOLEAN NTAPI LineService(PKINTERRUPT Interrupt, PVOID Context)
{
    PRAID_ADAPTER Adapter = Context;

    UNREFERENCED_PARAMETER(Interrupt);
    return Adapter->Hw.HwInterrupt(Adapter->HwExtension);
}

static VOID SortMessagesByIrql(PRAID_ADAPTER Adapter)
{
    PIO_INTERRUPT_MESSAGE_INFO Table = Adapter->MessageTable;

    for (ULONG Index = 0; Index < Table->MessageCount; Index++) {
        ULONG Place = Index;

        while (Place > 0 && Table->MessageInfo[Adapter->LockOrder[Place - 1]].Irql > Table->MessageInfo[Index].Irql) {
            Adapter->LockOrder[Place] = Adapter->LockOrder[Place - 1];
            Place--;
        }
        Adapter->LockOrder[Place] = Index;
    }
}

static NTSTATUS ConnectMessages(PRAID_ADAPTER Adapter)
{
    IO_CONNECT_INTERRUPT_PARAMETERS Parameters = {.Version = CONNECT_MESSAGE_BASED};
    NTSTATUS Status;

    Parameters.MessageBased.PhysicalDeviceObject = Adapter->PhysicalDevice;
    Parameters.MessageBased.ConnectionContext.InterruptMessageTable = &Adapter->MessageTable;
    Parameters.MessageBased.MessageServiceRoutine = MessageService;
    Parameters.MessageBased.ServiceContext = Adapter;
    if (Adapter->Config.InterruptSynchronizationMode != InterruptSynchronizePerMessage) {
        Parameters.MessageBased.SpinLock = &Adapter->InterruptSpinLock;
    }
    Status = IoConnectInterruptEx(&Parameters);
    if (NT_SUCCESS(Status) && Adapter->MessageTable->MessageCount > RAID_MAX_MESSAGES) {
        RaidDisconnectInterrupt(Adapter);
        Status = STATUS_INSUFFICIENT_RESOURCES;
    }
    if (!NT_SUCCESS(Status)) {
        Adapter->MessageTable = NULL;
        return Status;
    }
    SortMessagesByIrql(Adapter);
    return STATUS_SUCCESS;
}

NTSTATUS RaidConnectInterrupt(PRAID_ADAPTER Adapter)
{
    IO_CONNECT_INTERRUPT_PARAMETERS Parameters = {.Version = CONNECT_LINE_BASED};

    if (Adapter->Config.HwMSInterruptRoutine != NULL && Adapter->MessageCount != 0 &&
        Adapter->Config.InterruptSynchronizationMode != InterruptSupportNone) {
        return ConnectMessages(Adapter);
    }
    if (Adapter->Virtual || Adapter->Hw.HwInterrupt == NULL) {
        return STATUS_SUCCESS;
    }
    Parameters.LineBased.PhysicalDeviceObject = Adapter->PhysicalDevice;
    Parameters.LineBased.InterruptObject = &Adapter->Interrupt;
    Parameters.LineBased.ServiceRoutine = LineService;
    Parameters.LineBased.ServiceContext = Adapter;
    return IoConnectInterruptEx(&Parameters);
}

VOID RaidDisconnectInterrupt(PRAID_ADAPTER Adapter)
{
    IO_DISCONNECT_INTERRUPT_PARAMETERS Parameters = {0};

    if (Adapter->MessageTable != NULL) {
        Parameters.Version = CONNECT_MESSAGE_BASED;
        Parameters.ConnectionContext.InterruptMessageTable = Adapter->MessageTable;
    } else if (Adapter->Interrupt != NULL) {
        Parameters.Version = CONNECT_LINE_BASED;
        Parameters.ConnectionContext.InterruptObject = Adapter->Interrupt;
    } else {
        return;
    }
    IoDisconnectInterruptEx(&Parameters);
    Adapter->MessageTable = NULL;
    Adapter->Interrupt = NULL;
}
