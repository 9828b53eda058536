/*
 * pnp.c - the PnP manager's part: offers each physical device to the drivers, starts the stacks that form.
 */
#include "hal.h"
#include "io_internal.h"
#include "ki.h"
#include "workload_support.h"

#define PNP_DEVICES 16
#define PNP_BARS 6

static PDEVICE_OBJECT PnpStarted[PNP_DEVICES];
static ULONG PnpStartedCount;

PDEVICE_OBJECT PnpGetStartedDevice(ULONG Index)
{
    return Index < PnpStartedCount ? IoGetAttachedDevice(PnpStarted[Index]) : NULL;
}

static PCM_PARTIAL_RESOURCE_DESCRIPTOR PnpAddBars(PDO_EXTENSION *Pdo, PCM_PARTIAL_RESOURCE_DESCRIPTOR At)
{
    for (ULONG i = 0; i < PNP_BARS; i++) {
        ULONG64 base, length;
        BOOLEAN io;
        ULONG bar = HalpReadPci32(Pdo->Bus, Pdo->Slot, 0x10 + 4 * i);
        if (!PnpQueryBar(Pdo, i, &base, &length, &io))
            continue;
        At->Type = io ? CmResourceTypePort : CmResourceTypeMemory;
        At->ShareDisposition = CmResourceShareDeviceExclusive;
        At->Flags = io ? CM_RESOURCE_PORT_IO : CM_RESOURCE_MEMORY_READ_WRITE;
        At->u.Memory.Start.QuadPart = (LONG64)base;
        At->u.Memory.Length = (ULONG)length;
        At++;
        if ((bar & 7) == 4) /* the next register is the upper half */
            i++;
    }
    return At;
}

static PCM_PARTIAL_RESOURCE_DESCRIPTOR PnpAddInterrupt(PDO_EXTENSION *Pdo, PCM_PARTIAL_RESOURCE_DESCRIPTOR At)
{
    ULONG messages = IopMessageCount(Pdo), line;

    if (!messages && !PnpQueryInterruptLine(Pdo, &line))
        return At;
    At->Type = CmResourceTypeInterrupt;
    if (messages) {
        At->ShareDisposition = CmResourceShareDeviceExclusive;
        At->Flags = CM_RESOURCE_INTERRUPT_LATCHED | CM_RESOURCE_INTERRUPT_MESSAGE;
        At->u.MessageInterrupt.Raw.MessageCount = (USHORT)messages;
    } else {
        At->ShareDisposition = CmResourceShareShared;
        At->Flags = CM_RESOURCE_INTERRUPT_LEVEL_SENSITIVE;
        At->u.Interrupt.Level = At->u.Interrupt.Vector = line;
    }
    At->u.Interrupt.Affinity = KiActiveProcessors;
    return At + 1;
}

/* Zeroed memory for the list and its descriptors; NULL for a software device, which has none. */
static PCM_RESOURCE_LIST PnpBuildResources(PDO_EXTENSION *Pdo)
{
    PCM_RESOURCE_LIST list;
    PCM_PARTIAL_RESOURCE_DESCRIPTOR first, end;

    if (!Pdo->IsPci)
        return NULL;
    list = ExAllocatePool2(0, sizeof(*list) + (PNP_BARS + 1) * sizeof(*first), 'csRP');
    if (!list)
        return NULL;
    first = list->List[0].PartialResourceList.PartialDescriptors;
    end = PnpAddInterrupt(Pdo, PnpAddBars(Pdo, first));
    list->Count = 1;
    list->List[0].InterfaceType = PCIBus;
    list->List[0].BusNumber = Pdo->Bus;
    list->List[0].PartialResourceList.Version = 1;
    list->List[0].PartialResourceList.Revision = 1;
    list->List[0].PartialResourceList.Count = (ULONG)(end - first);
    return list;
}

static NTSTATUS PnpIrpDone(PDEVICE_OBJECT DeviceObject, PIRP Irp, PVOID Context)
{
    KeSetEvent(Context, 0, FALSE);
    return STATUS_MORE_PROCESSING_REQUIRED;
}

static NTSTATUS PnpSend(PDEVICE_OBJECT Top, UCHAR MinorFunction, PCM_RESOURCE_LIST Resources)
{
    PIRP irp = IoAllocateIrp(Top->StackSize, FALSE);
    PIO_STACK_LOCATION stack;
    NTSTATUS status;
    KEVENT done;

    if (!irp)
        return STATUS_INSUFFICIENT_RESOURCES;
    KeInitializeEvent(&done, NotificationEvent, FALSE);
    irp->IoStatus.Status = STATUS_NOT_SUPPORTED;
    stack = IoGetNextIrpStackLocation(irp);
    stack->MajorFunction = IRP_MJ_PNP;
    stack->MinorFunction = MinorFunction;
    stack->Parameters.StartDevice.AllocatedResources = Resources;
    stack->Parameters.StartDevice.AllocatedResourcesTranslated = Resources;
    IoSetCompletionRoutine(irp, PnpIrpDone, &done, TRUE, TRUE, TRUE);
    IofCallDriver(Top, irp);
    KeWaitForSingleObject(&done, Executive, KernelMode, FALSE, NULL);
    status = irp->IoStatus.Status;
    IoFreeIrp(irp);
    return status;
}

static BOOLEAN PnpStartStack(PDEVICE_OBJECT Pdo, PDRIVER_OBJECT Driver)
{
    PDO_EXTENSION *extension = Pdo->DeviceExtension;
    NTSTATUS status = PnpSend(IoGetAttachedDevice(Pdo), IRP_MN_START_DEVICE, PnpBuildResources(extension));

    DbgPrint("pnp: %wZ: %s device started with status 0x%08X\n", &Driver->DriverName,
             extension->IsPci ? "PCI" : "software", status);
    if (!NT_SUCCESS(status))
        return FALSE;
    PnpStarted[PnpStartedCount++] = Pdo;
    return TRUE;
}

/*
 * A device belongs to the first driver that takes it and can start it. What an INF file decides on Windows, drivers
 * decide here: one whose device does not start is removed from it, and the next one is asked.
 */
static VOID PnpOfferDevice(PDEVICE_OBJECT Pdo, PDRIVER_OBJECT *Drivers, ULONG Count)
{
    for (ULONG i = 0; i < Count; i++) {
        PDRIVER_ADD_DEVICE add = Drivers[i]->DriverExtension->AddDevice;
        if (!add || !NT_SUCCESS(add(Drivers[i], Pdo)) || !Pdo->AttachedDevice)
            continue;
        if (PnpStartStack(Pdo, Drivers[i]))
            return;
        PnpSend(IoGetAttachedDevice(Pdo), IRP_MN_REMOVE_DEVICE, NULL);
        if (Pdo->AttachedDevice)
            return; /* its driver does not let it go */
    }
}

VOID PnpStartDevices(PDRIVER_OBJECT *Drivers, ULONG Count)
{
    PDEVICE_OBJECT pdos[PNP_DEVICES];
    ULONG devices = PnpEnumerate(pdos, PNP_DEVICES);

    for (ULONG i = 0; i < devices; i++)
        PnpOfferDevice(pdos[i], Drivers, Count);
}
