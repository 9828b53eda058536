/* Entry points: the port driver's own DriverEntry, StorPortInitialize for the miniports, and AddDevice. */
#include "raid.h"

#include <ntddscsi.h>

#define IOCTL_MINIPORT_PROCESS_SERVICE_IRP CTL_CODE(0x04, 0x040e, METHOD_BUFFERED, FILE_READ_ACCESS | FILE_WRITE_ACCESS)

static const CHAR RaidDriverKey;
static volatile LONG RaidPortCount;

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    UNREFERENCED_PARAMETER(DriverObject);
    UNREFERENCED_PARAMETER(RegistryPath);
    return STATUS_SUCCESS;
}

static NTSTATUS NTAPI DispatchSucceed(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    UNREFERENCED_PARAMETER(DeviceObject);
    Irp->IoStatus.Status = STATUS_SUCCESS;
    IoCompleteRequest(Irp, IO_NO_INCREMENT);
    return STATUS_SUCCESS;
}

static NTSTATUS NTAPI DispatchUnsupported(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    UNREFERENCED_PARAMETER(DeviceObject);
    Irp->IoStatus.Status = STATUS_INVALID_DEVICE_REQUEST;
    IoCompleteRequest(Irp, IO_NO_INCREMENT);
    return STATUS_INVALID_DEVICE_REQUEST;
}

#define DEFAULT_TRANSFER_LENGTH 0x00100000u /* where the miniport sets no limit, bytes */

/* IOCTL_SCSI_GET_CAPABILITIES: what class drivers keep their transfers to. */
static NTSTATUS GetCapabilities(PRAID_ADAPTER Adapter, PIRP Irp)
{
    PIO_SCSI_CAPABILITIES Capabilities = Irp->AssociatedIrp.SystemBuffer;
    PPORT_CONFIGURATION_INFORMATION Config = &Adapter->Config;
    ULONG Limit = Config->MaximumTransferLength, Breaks = Config->NumberOfPhysicalBreaks;

    if (IoGetCurrentIrpStackLocation(Irp)->Parameters.DeviceIoControl.OutputBufferLength < sizeof(*Capabilities)) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    RtlZeroMemory(Capabilities, sizeof(*Capabilities));
    Capabilities->Length = sizeof(*Capabilities);
    Capabilities->MaximumTransferLength =
        Limit == 0 || Limit > DEFAULT_TRANSFER_LENGTH ? DEFAULT_TRANSFER_LENGTH : Limit;
    Capabilities->MaximumPhysicalPages = Breaks == SP_UNINITIALIZED_VALUE ? 0 : Breaks;
    Capabilities->AlignmentMask = Config->AlignmentMask;
    Capabilities->TaggedQueuing = Config->TaggedQueuing;
    Capabilities->AdapterScansDown = Config->AdapterScansDown;
    Irp->IoStatus.Information = sizeof(*Capabilities);
    return STATUS_SUCCESS;
}

/* IOCTL_MINIPORT_PROCESS_SERVICE_IRP of an adapter is the miniport's; it completes it when it likes. */
static NTSTATUS NTAPI DispatchDeviceControl(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PRAID_ADAPTER Adapter = DeviceObject->DeviceExtension;
    ULONG Code = IoGetCurrentIrpStackLocation(Irp)->Parameters.DeviceIoControl.IoControlCode;
    NTSTATUS Status;

    if (Adapter->Type == RaidAdapterObject && Code == IOCTL_SCSI_GET_CAPABILITIES && Adapter->Started) {
        Irp->IoStatus.Status = GetCapabilities(Adapter, Irp);
        Status = Irp->IoStatus.Status;
        IoCompleteRequest(Irp, IO_NO_INCREMENT);
        return Status;
    }
    if (Adapter->Type != RaidAdapterObject || Code != IOCTL_MINIPORT_PROCESS_SERVICE_IRP || !Adapter->Started ||
        Adapter->Stopped || Adapter->Hw.HwProcessServiceRequest == NULL) {
        return DispatchUnsupported(DeviceObject, Irp);
    }
    IoMarkIrpPending(Irp);
    Adapter->Hw.HwProcessServiceRequest(Adapter->HwExtension, Irp);
    return STATUS_PENDING;
}

static PRAID_DRIVER GetOrCreateDriver(PDRIVER_OBJECT DriverObject)
{
    PRAID_DRIVER Driver = IoGetDriverObjectExtension(DriverObject, (PVOID)&RaidDriverKey);
    PVOID Extension = NULL;

    if (Driver != NULL) {
        return Driver;
    }
    if (!NT_SUCCESS(
            IoAllocateDriverObjectExtension(DriverObject, (PVOID)&RaidDriverKey, sizeof(RAID_DRIVER), &Extension))) {
        return NULL;
    }
    Driver = Extension;
    RtlZeroMemory(Driver, sizeof(*Driver));
    Driver->DriverObject = DriverObject;
    DriverObject->DriverExtension->AddDevice = RaidAddDevice;
    DriverObject->MajorFunction[IRP_MJ_CREATE] = DispatchSucceed;
    DriverObject->MajorFunction[IRP_MJ_CLOSE] = DispatchSucceed;
    DriverObject->MajorFunction[IRP_MJ_DEVICE_CONTROL] = DispatchDeviceControl;
    DriverObject->MajorFunction[IRP_MJ_SCSI] = RaidDispatchScsi;
    DriverObject->MajorFunction[IRP_MJ_PNP] = RaidDispatchPnp;
    DriverObject->MajorFunction[IRP_MJ_POWER] = RaidDispatchPower;
    return Driver;
}

static BOOLEAN InitDataIsUsable(PHW_INITIALIZATION_DATA Data)
{
    return Data->HwInitializationDataSize >= HW_INITIALIZATION_DATA_MINIMUM && Data->HwFindAdapter != NULL &&
           Data->HwInitialize != NULL && Data->HwStartIo != NULL && Data->HwResetBus != NULL;
}

static BOOLEAN KeepRegistryPath(PRAID_DRIVER Driver, PUNICODE_STRING RegistryPath)
{
    Driver->RegistryPath.Buffer = ExAllocatePoolWithTag(NonPagedPool, RegistryPath->Length, RAID_TAG);
    if (Driver->RegistryPath.Buffer == NULL) {
        return FALSE;
    }
    Driver->RegistryPath.MaximumLength = RegistryPath->Length;
    RtlCopyUnicodeString(&Driver->RegistryPath, RegistryPath);
    return TRUE;
}

ULONG NTAPI StorPortInitialize(PVOID Argument1, PVOID Argument2, PHW_INITIALIZATION_DATA HwInitializationData,
                               PVOID Unused)
{
    PRAID_DRIVER Driver;
    PHW_INITIALIZATION_DATA Copy;
    ULONG Size;

    UNREFERENCED_PARAMETER(Unused);
    if (Argument1 == NULL || Argument2 == NULL || HwInitializationData == NULL) {
        return (ULONG)STATUS_INVALID_PARAMETER;
    }
    if (!InitDataIsUsable(HwInitializationData)) {
        return (ULONG)STATUS_REVISION_MISMATCH;
    }
    Driver = GetOrCreateDriver(Argument1);
    if (Driver == NULL || Driver->InitDataCount == RAID_MAX_INIT_DATA) {
        return (ULONG)STATUS_INSUFFICIENT_RESOURCES;
    }
    if (Driver->RegistryPath.Buffer == NULL && !KeepRegistryPath(Driver, Argument2)) {
        return (ULONG)STATUS_INSUFFICIENT_RESOURCES;
    }
    Copy = &Driver->InitData[Driver->InitDataCount++];
    Size = HwInitializationData->HwInitializationDataSize;
    RtlCopyMemory(Copy, HwInitializationData, Size < sizeof(*Copy) ? Size : sizeof(*Copy));
    return (ULONG)STATUS_SUCCESS;
}

/* The miniport names the bus it drives; what an INF file decides on Windows is decided by that here. */
static PHW_INITIALIZATION_DATA FindInitData(PRAID_DRIVER Driver, PDEVICE_OBJECT PhysicalDevice)
{
    INTERFACE_TYPE Bus = InterfaceTypeUndefined;
    ULONG Length = 0;

    if (!NT_SUCCESS(IoGetDeviceProperty(PhysicalDevice, DevicePropertyLegacyBusType, sizeof(Bus), &Bus, &Length))) {
        return NULL;
    }
    for (ULONG Index = 0; Index < Driver->InitDataCount; Index++) {
        if (Driver->InitData[Index].AdapterInterfaceType == Bus) {
            return &Driver->InitData[Index];
        }
    }
    return NULL;
}

NTSTATUS NTAPI RaidAddDevice(PDRIVER_OBJECT DriverObject, PDEVICE_OBJECT PhysicalDevice)
{
    PRAID_DRIVER Driver = IoGetDriverObjectExtension(DriverObject, (PVOID)&RaidDriverKey);
    PHW_INITIALIZATION_DATA Data = Driver != NULL ? FindInitData(Driver, PhysicalDevice) : NULL;
    PDEVICE_OBJECT DeviceObject;
    PRAID_ADAPTER Adapter;
    NTSTATUS Status;

    if (Data == NULL) {
        return STATUS_NO_SUCH_DEVICE;
    }
    Status = IoCreateDevice(DriverObject, sizeof(RAID_ADAPTER), NULL, FILE_DEVICE_CONTROLLER, 0, FALSE, &DeviceObject);
    if (!NT_SUCCESS(Status)) {
        return Status;
    }
    Adapter = DeviceObject->DeviceExtension;
    RtlZeroMemory(Adapter, sizeof(*Adapter));
    Adapter->Type = RaidAdapterObject;
    Adapter->DeviceObject = DeviceObject;
    Adapter->PhysicalDevice = PhysicalDevice;
    Adapter->Hw = *Data;
    Adapter->RegistryPath = Driver->RegistryPath;
    Adapter->PortNumber = (ULONG)InterlockedIncrement(&RaidPortCount) - 1;
    Adapter->LowerDevice = IoAttachDeviceToDeviceStack(DeviceObject, PhysicalDevice);
    if (Adapter->LowerDevice == NULL) {
        IoDeleteDevice(DeviceObject);
        return STATUS_NO_SUCH_DEVICE;
    }
    DeviceObject->Flags |= DO_DIRECT_IO | DO_POWER_PAGABLE;
    DeviceObject->Flags &= ~DO_DEVICE_INITIALIZING;
    return STATUS_SUCCESS;
}
