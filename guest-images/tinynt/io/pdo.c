/*
 * pdo.c - the bus driver's part: physical device objects of PCI mass storage functions and one software device.
 */
#include "hal.h"
#include "io_internal.h"

#define PCI_DEVICES 32
#define PCI_FUNCTIONS 8
#define PCI_CLASS_MASS_STORAGE 1

static PDRIVER_OBJECT PnpBusDriver;

BOOLEAN PnpIsPdo(PDEVICE_OBJECT Device)
{
    return Device && Device->DriverObject == PnpBusDriver;
}

static NTSTATUS PnpComplete(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
    NTSTATUS status = STATUS_SUCCESS;

    /* Requests that a bus driver does not know keep the status they came with. */
    if (stack->MajorFunction == IRP_MJ_PNP && stack->MinorFunction != IRP_MN_START_DEVICE &&
        stack->MinorFunction != IRP_MN_REMOVE_DEVICE && stack->MinorFunction != IRP_MN_QUERY_REMOVE_DEVICE)
        status = Irp->IoStatus.Status;
    Irp->IoStatus.Status = status;
    IofCompleteRequest(Irp, IO_NO_INCREMENT);
    return status;
}

static NTSTATUS PnpBusDriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    PnpBusDriver = DriverObject;
    DriverObject->MajorFunction[IRP_MJ_PNP] = PnpComplete;
    DriverObject->MajorFunction[IRP_MJ_POWER] = PnpComplete;
    return STATUS_SUCCESS;
}

/* Base and length of a memory or port BAR; FALSE for one that is not there. */
BOOLEAN PnpQueryBar(PDO_EXTENSION *Pdo, ULONG Index, ULONG64 *Base, ULONG64 *Length, BOOLEAN *Io)
{
    ULONG offset = 0x10 + 4 * Index;
    ULONG low = HalpReadPci32(Pdo->Bus, Pdo->Slot, offset), high = 0, mask;
    BOOLEAN wide = (low & 7) == 4;
    ULONG64 size;

    *Io = (low & 1) != 0;
    HalpWritePci32(Pdo->Bus, Pdo->Slot, offset, 0xFFFFFFFF);
    mask = HalpReadPci32(Pdo->Bus, Pdo->Slot, offset);
    HalpWritePci32(Pdo->Bus, Pdo->Slot, offset, low);
    size = 0xFFFFFFFF00000000ull | (mask & (*Io ? ~3u : ~15u));
    if (wide) {
        high = HalpReadPci32(Pdo->Bus, Pdo->Slot, offset + 4);
        HalpWritePci32(Pdo->Bus, Pdo->Slot, offset + 4, 0xFFFFFFFF);
        size = (ULONG64)HalpReadPci32(Pdo->Bus, Pdo->Slot, offset + 4) << 32 | (mask & ~15u);
        HalpWritePci32(Pdo->Bus, Pdo->Slot, offset + 4, high);
    }
    if (!mask)
        return FALSE;
    *Base = (ULONG64)high << 32 | (low & (*Io ? ~3u : ~15u));
    *Length = ~size + 1;
    return *Length != 0;
}

/* Firmware notes in the Interrupt Line register where the pin leads (PCI 6.2.4); without a pin there is nothing to
 * note. */
BOOLEAN PnpQueryInterruptLine(PDO_EXTENSION *Pdo, PULONG Line)
{
    ULONG interrupt = Pdo->IsPci ? HalpReadPci32(Pdo->Bus, Pdo->Slot, 0x3C) : 0;

    *Line = interrupt & 0xFF;
    return (interrupt >> 8 & 0xFF) != 0 && *Line != 0xFF;
}

static PDEVICE_OBJECT PnpCreatePdo(BOOLEAN IsPci, ULONG Slot, ULONG ClassCode)
{
    PDEVICE_OBJECT device;
    PDO_EXTENSION *extension;

    if (!NT_SUCCESS(
            IoCreateDevice(PnpBusDriver, sizeof(PDO_EXTENSION), NULL, FILE_DEVICE_BUS_EXTENDER, 0, FALSE, &device)))
        return NULL;
    device->Flags &= ~(ULONG)DO_DEVICE_INITIALIZING;
    extension = device->DeviceExtension;
    extension->IsPci = IsPci;
    extension->Slot = Slot;
    extension->ClassCode = ClassCode;
    return device;
}

static ULONG PnpScanPci(PDEVICE_OBJECT *Pdos, ULONG Capacity)
{
    ULONG count = 0;

    for (ULONG i = 0; i < PCI_DEVICES * PCI_FUNCTIONS && count < Capacity; i++) {
        PCI_SLOT_NUMBER slot = {.u.bits = {.DeviceNumber = i / PCI_FUNCTIONS, .FunctionNumber = i % PCI_FUNCTIONS}};
        ULONG id = HalpReadPci32(0, slot.u.AsULONG, 0), class;
        if ((id & 0xFFFF) == 0xFFFF) {
            if (i % PCI_FUNCTIONS == 0)
                i += PCI_FUNCTIONS - 1;
            continue;
        }
        class = HalpReadPci32(0, slot.u.AsULONG, 8) >> 8;
        if (class >> 16 == PCI_CLASS_MASS_STORAGE && (Pdos[count] = PnpCreatePdo(TRUE, slot.u.AsULONG, class)))
            count++;
        /* A function 0 without the multi-function bit has no siblings. */
        if (i % PCI_FUNCTIONS == 0 && !(HalpReadPci32(0, slot.u.AsULONG, 0xC) & 0x800000))
            i += PCI_FUNCTIONS - 1;
    }
    return count;
}

ULONG PnpEnumerate(PDEVICE_OBJECT *Pdos, ULONG Capacity)
{
    static UNICODE_STRING name = RTL_CONSTANT_STRING(L"\\Driver\\PnpManager");
    extern NTSTATUS IoCreateDriver(PUNICODE_STRING DriverName, PDRIVER_INITIALIZE InitializationFunction);
    ULONG count;

    if (!NT_SUCCESS(IoCreateDriver(&name, PnpBusDriverEntry)))
        return 0;
    count = PnpScanPci(Pdos, Capacity - 1);
    Pdos[count] = PnpCreatePdo(FALSE, 0, 0);
    return Pdos[count] ? count + 1 : count;
}

NTSTATUS IoGetDeviceProperty(PDEVICE_OBJECT DeviceObject, DEVICE_REGISTRY_PROPERTY DeviceProperty, ULONG BufferLength,
                             PVOID PropertyBuffer, PULONG ResultLength)
{
    PDO_EXTENSION *pdo = DeviceObject->DeviceExtension;
    PCI_SLOT_NUMBER slot;
    ULONG value;

    if (!PnpIsPdo(DeviceObject))
        return STATUS_INVALID_DEVICE_REQUEST;
    slot.u.AsULONG = pdo->Slot;
    switch (DeviceProperty) {
    case DevicePropertyLegacyBusType:
        value = pdo->IsPci ? PCIBus : Internal;
        break;
    case DevicePropertyBusNumber:
        value = pdo->Bus;
        break;
    case DevicePropertyAddress:
        value = (ULONG)slot.u.bits.DeviceNumber << 16 | (ULONG)slot.u.bits.FunctionNumber;
        break;
    default:
        return STATUS_OBJECT_NAME_NOT_FOUND;
    }
    *ResultLength = sizeof(value);
    if (BufferLength < sizeof(value))
        return STATUS_BUFFER_TOO_SMALL;
    *(ULONG *)PropertyBuffer = value;
    return STATUS_SUCCESS;
}
