/*
 * driver.c - driver objects: made, inserted into the object manager, and only then the driver is entered.
 */
#include "io_internal.h"
#include "ki.h"

typedef struct _IOP_CLIENT_EXTENSION {
    struct _IOP_CLIENT_EXTENSION *Next;
    PVOID Identification;
} IOP_CLIENT_EXTENSION;

/* The public driver extension and what the I/O manager adds to it. */
typedef struct _IOP_DRIVER {
    DRIVER_OBJECT Object;
    struct {
        DRIVER_EXTENSION Public;
        IOP_CLIENT_EXTENSION *Clients;
    } Extension;
    WCHAR Name[96];
    WCHAR RegistryPath[160];
    UNICODE_STRING RegistryPathString;
} IOP_DRIVER;

static ULONG_PTR IopDriverLock;
static const UNICODE_STRING IopHardwareDatabase =
    RTL_CONSTANT_STRING(L"\\REGISTRY\\MACHINE\\HARDWARE\\DESCRIPTION\\SYSTEM");

static NTSTATUS IopInvalidRequest(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    Irp->IoStatus.Status = STATUS_INVALID_DEVICE_REQUEST;
    Irp->IoStatus.Information = 0;
    IofCompleteRequest(Irp, IO_NO_INCREMENT);
    return STATUS_INVALID_DEVICE_REQUEST;
}

VOID IopInitializeDispatch(PDRIVER_OBJECT Driver)
{
    for (ULONG i = 0; i <= IRP_MJ_MAXIMUM_FUNCTION; i++)
        Driver->MajorFunction[i] = IopInvalidRequest;
}

/* Prefix and the module's base name without its extension, if there is a module. */
static VOID IopComposeName(WCHAR *Buffer, ULONG Capacity, PCWSTR Prefix, const LDR_DATA_TABLE_ENTRY *Module)
{
    ULONG at = 0;

    while (Prefix[at] && at < Capacity - 1) {
        Buffer[at] = Prefix[at];
        at++;
    }
    for (const char *name = Module ? Module->Name : ""; *name && *name != '.' && at < Capacity - 1; name++)
        Buffer[at++] = (UCHAR)*name;
    Buffer[at] = 0;
}

static IOP_DRIVER *IopCreateDriverObject(LDR_DATA_TABLE_ENTRY *Module, PUNICODE_STRING Name)
{
    PVOID object;
    IOP_DRIVER *driver;

    if (!NT_SUCCESS(
            ObCreateObject(KernelMode, IoDriverObjectType, NULL, KernelMode, NULL, sizeof(IOP_DRIVER), 0, 0, &object)))
        return NULL;
    driver = object;
    driver->Object.Type = IO_TYPE_DRIVER;
    driver->Object.Size = sizeof(DRIVER_OBJECT);
    driver->Object.DriverExtension = &driver->Extension.Public;
    driver->Extension.Public.DriverObject = &driver->Object;
    driver->Object.HardwareDatabase = (PUNICODE_STRING)&IopHardwareDatabase;
    IopInitializeDispatch(&driver->Object);
    if (Module) {
        driver->Object.DriverStart = Module->DllBase;
        driver->Object.DriverSize = Module->SizeOfImage;
        driver->Object.DriverSection = Module;
        driver->Object.DriverInit = (PDRIVER_INITIALIZE)Module->EntryPoint;
        IopComposeName(driver->Name, RTL_NUMBER_OF(driver->Name), L"\\Driver\\", Module);
    } else {
        IopComposeName(driver->Name, RTL_NUMBER_OF(driver->Name), Name ? Name->Buffer : L"\\Driver\\unnamed", NULL);
    }
    RtlInitUnicodeString(&driver->Object.DriverName, driver->Name);
    IopComposeName(driver->RegistryPath, RTL_NUMBER_OF(driver->RegistryPath),
                   L"\\REGISTRY\\MACHINE\\SYSTEM\\ControlSet001\\Services\\", Module);
    RtlInitUnicodeString(&driver->RegistryPathString, driver->RegistryPath);
    driver->Extension.Public.ServiceKeyName = driver->Object.DriverName;
    return driver;
}

/* As Windows does: the object is inserted, then the driver's entry point is called. */
static NTSTATUS IopEnterDriver(IOP_DRIVER *Driver)
{
    HANDLE handle;
    NTSTATUS status;

    ObfReferenceObject(Driver);
    status = ObInsertObject(Driver, NULL, FILE_READ_DATA, 0, NULL, &handle);
    if (!NT_SUCCESS(status))
        return status;
    ZwClose(handle);
    status = Driver->Object.DriverInit(&Driver->Object, &Driver->RegistryPathString);
    for (ULONG i = 0; i <= IRP_MJ_MAXIMUM_FUNCTION; i++) {
        if (!Driver->Object.MajorFunction[i])
            Driver->Object.MajorFunction[i] = IopInvalidRequest;
    }
    Driver->Object.Flags |= DRVO_INITIALIZED;
    return status;
}

PDRIVER_OBJECT IopInitializeDriverModule(LDR_DATA_TABLE_ENTRY *Module)
{
    IOP_DRIVER *driver = IopCreateDriverObject(Module, NULL);
    NTSTATUS status = driver ? IopEnterDriver(driver) : STATUS_INSUFFICIENT_RESOURCES;

    if (!NT_SUCCESS(status)) {
        DbgPrint("io: %s: DriverEntry failed with status 0x%08X\n", Module->Name, status);
        return NULL;
    }
    return &driver->Object;
}

NTSTATUS IoCreateDriver(PUNICODE_STRING DriverName, PDRIVER_INITIALIZE InitializationFunction);
NTSTATUS IoCreateDriver(PUNICODE_STRING DriverName, PDRIVER_INITIALIZE InitializationFunction)
{
    IOP_DRIVER *driver = IopCreateDriverObject(NULL, DriverName);

    if (!driver)
        return STATUS_INSUFFICIENT_RESOURCES;
    driver->Object.DriverInit = InitializationFunction;
    driver->Object.Flags = DRVO_BUILTIN_DRIVER;
    return IopEnterDriver(driver);
}

static IOP_CLIENT_EXTENSION *IopFindClient(IOP_DRIVER *Driver, PVOID Identification)
{
    IOP_CLIENT_EXTENSION *client = Driver->Extension.Clients;

    while (client && client->Identification != Identification)
        client = client->Next;
    return client;
}

NTSTATUS IoAllocateDriverObjectExtension(PDRIVER_OBJECT DriverObject, PVOID ClientIdentificationAddress,
                                         ULONG DriverObjectExtensionSize, PVOID *DriverObjectExtension)
{
    IOP_DRIVER *driver = CONTAINING_RECORD(DriverObject, IOP_DRIVER, Object);
    IOP_CLIENT_EXTENSION *client = ExAllocatePool2(0, sizeof(IOP_CLIENT_EXTENSION) + DriverObjectExtensionSize, 'virD');
    BOOLEAN collision;
    KIRQL old;

    *DriverObjectExtension = NULL;
    if (!client)
        return STATUS_INSUFFICIENT_RESOURCES;
    client->Identification = ClientIdentificationAddress;
    old = KxLockRaise(&IopDriverLock);
    collision = IopFindClient(driver, ClientIdentificationAddress) != NULL;
    if (!collision) {
        client->Next = driver->Extension.Clients;
        driver->Extension.Clients = client;
    }
    KxUnlockLower(&IopDriverLock, old);
    if (collision) {
        ExFreePoolWithTag(client, 'virD');
        return STATUS_OBJECT_NAME_COLLISION;
    }
    *DriverObjectExtension = client + 1;
    return STATUS_SUCCESS;
}

PVOID IoGetDriverObjectExtension(PDRIVER_OBJECT DriverObject, PVOID ClientIdentificationAddress)
{
    IOP_DRIVER *driver = CONTAINING_RECORD(DriverObject, IOP_DRIVER, Object);
    KIRQL old = KxLockRaise(&IopDriverLock);
    IOP_CLIENT_EXTENSION *client = IopFindClient(driver, ClientIdentificationAddress);

    KxUnlockLower(&IopDriverLock, old);
    return client ? client + 1 : NULL;
}
