/*
 * device.c - device objects and the stacks they form.
 */
#include "io_internal.h"
#include "ki.h"

static ULONG_PTR IopDeviceLock;

static VOID IopInitializeDevice(PDEVICE_OBJECT Device, PDRIVER_OBJECT Driver, ULONG ExtensionSize,
                                DEVICE_TYPE DeviceType, ULONG Characteristics, BOOLEAN Exclusive)
{
    Device->Type = IO_TYPE_DEVICE;
    Device->Size = (USHORT)(sizeof(DEVICE_OBJECT) + ExtensionSize);
    Device->DriverObject = Driver;
    Device->Flags = DO_DEVICE_INITIALIZING | (Exclusive ? DO_EXCLUSIVE : 0);
    Device->Characteristics = Characteristics;
    Device->DeviceExtension = Device + 1;
    Device->DeviceType = DeviceType;
    Device->StackSize = 1;
    Device->SectorSize = DeviceType == FILE_DEVICE_DISK ? 512 : 0;
    KeInitializeEvent(&Device->DeviceLock, SynchronizationEvent, TRUE);
}

NTSTATUS IoCreateDevice(PDRIVER_OBJECT DriverObject, ULONG DeviceExtensionSize, PUNICODE_STRING DeviceName,
                        DEVICE_TYPE DeviceType, ULONG DeviceCharacteristics, BOOLEAN Exclusive,
                        PDEVICE_OBJECT *DeviceObject)
{
    OBJECT_ATTRIBUTES attributes;
    PVOID object;
    NTSTATUS status;
    KIRQL old;

    InitializeObjectAttributes(&attributes, DeviceName, OBJ_KERNEL_HANDLE, NULL, NULL);
    status = ObCreateObject(KernelMode, IoDeviceObjectType, &attributes, KernelMode, NULL,
                            sizeof(DEVICE_OBJECT) + DeviceExtensionSize, 0, 0, &object);
    if (!NT_SUCCESS(status))
        return status;
    *DeviceObject = object;
    IopInitializeDevice(*DeviceObject, DriverObject, DeviceExtensionSize, DeviceType, DeviceCharacteristics, Exclusive);
    old = KxLockRaise(&IopDeviceLock);
    (*DeviceObject)->NextDevice = DriverObject->DeviceObject;
    DriverObject->DeviceObject = *DeviceObject;
    KxUnlockLower(&IopDeviceLock, old);
    ObfReferenceObject(DriverObject);
    return STATUS_SUCCESS;
}

VOID IoDeleteDevice(PDEVICE_OBJECT DeviceObject)
{
    PDRIVER_OBJECT driver = DeviceObject->DriverObject;
    KIRQL old = KxLockRaise(&IopDeviceLock);

    for (PDEVICE_OBJECT *link = &driver->DeviceObject; *link; link = &(*link)->NextDevice) {
        if (*link == DeviceObject) {
            *link = DeviceObject->NextDevice;
            break;
        }
    }
    KxUnlockLower(&IopDeviceLock, old);
    ObfDereferenceObject(driver);
    ObfDereferenceObject(DeviceObject);
}

static PDEVICE_OBJECT IopTop(PDEVICE_OBJECT Device)
{
    while (Device->AttachedDevice)
        Device = Device->AttachedDevice;
    return Device;
}

/* The device below an attached one is kept in the Reserved field of the source's Vpb slot: it has no documented name.
 */
static PDEVICE_OBJECT *IopLower(PDEVICE_OBJECT Device)
{
    return (PDEVICE_OBJECT *)&Device->Reserved;
}

PDEVICE_OBJECT IoAttachDeviceToDeviceStack(PDEVICE_OBJECT SourceDevice, PDEVICE_OBJECT TargetDevice)
{
    KIRQL old = KxLockRaise(&IopDeviceLock);
    PDEVICE_OBJECT top = IopTop(TargetDevice);

    top->AttachedDevice = SourceDevice;
    *IopLower(SourceDevice) = top;
    SourceDevice->StackSize = top->StackSize + 1;
    SourceDevice->AlignmentRequirement = top->AlignmentRequirement;
    SourceDevice->SectorSize = top->SectorSize;
    KxUnlockLower(&IopDeviceLock, old);
    return top;
}

NTSTATUS IoAttachDeviceToDeviceStackSafe(PDEVICE_OBJECT SourceDevice, PDEVICE_OBJECT TargetDevice,
                                         PDEVICE_OBJECT *AttachedToDeviceObject);
NTSTATUS IoAttachDeviceToDeviceStackSafe(PDEVICE_OBJECT SourceDevice, PDEVICE_OBJECT TargetDevice,
                                         PDEVICE_OBJECT *AttachedToDeviceObject)
{
    *AttachedToDeviceObject = IoAttachDeviceToDeviceStack(SourceDevice, TargetDevice);
    return STATUS_SUCCESS;
}

VOID IoDetachDevice(PDEVICE_OBJECT TargetDevice)
{
    KIRQL old = KxLockRaise(&IopDeviceLock);

    if (TargetDevice->AttachedDevice)
        *IopLower(TargetDevice->AttachedDevice) = NULL;
    TargetDevice->AttachedDevice = NULL;
    KxUnlockLower(&IopDeviceLock, old);
}

PDEVICE_OBJECT IoGetAttachedDevice(PDEVICE_OBJECT DeviceObject)
{
    return IopTop(DeviceObject);
}

PDEVICE_OBJECT IoGetAttachedDeviceReference(PDEVICE_OBJECT DeviceObject)
{
    PDEVICE_OBJECT top = IopTop(DeviceObject);

    ObfReferenceObject(top);
    return top;
}

PDEVICE_OBJECT IoGetLowerDeviceObject(PDEVICE_OBJECT DeviceObject)
{
    PDEVICE_OBJECT lower = *IopLower(DeviceObject);

    if (lower)
        ObfReferenceObject(lower);
    return lower;
}

PDEVICE_OBJECT IoGetRelatedDeviceObject(PFILE_OBJECT FileObject)
{
    return IopTop(FileObject->DeviceObject);
}

/* No file objects here: the device itself stands for one, so that the caller's dereference does the right thing. */
NTSTATUS IoGetDeviceObjectPointer(PUNICODE_STRING ObjectName, ACCESS_MASK DesiredAccess, PFILE_OBJECT *FileObject,
                                  PDEVICE_OBJECT *DeviceObject)
{
    PDEVICE_OBJECT device = ObpLookupName(ObjectName);

    if (!device)
        return STATUS_OBJECT_NAME_NOT_FOUND;
    *DeviceObject = IopTop(device);
    *FileObject = (PFILE_OBJECT)device;
    return STATUS_SUCCESS;
}

NTSTATUS IoCreateSymbolicLink(PUNICODE_STRING SymbolicLinkName, PUNICODE_STRING DeviceName)
{
    return ObpCreateLink(SymbolicLinkName, DeviceName);
}

NTSTATUS IoDeleteSymbolicLink(PUNICODE_STRING SymbolicLinkName)
{
    return ObpDeleteLink(SymbolicLinkName);
}

VOID PoStartNextPowerIrp(PIRP Irp)
{
}

NTSTATUS PoCallDriver(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    return IofCallDriver(DeviceObject, Irp);
}
