/*
 * service.c - what the I/O manager offers beside devices and IRPs: interfaces, error log, shutdown notifications,
 * remove locks, cancel-safe queues, further work item forms.
 */
#include "io_internal.h"
#include "ki.h"

#define IOP_LINK_LIMIT 128 /* characters of an interface's symbolic link */
#define IOP_INTERFACE_TAG 'fIoI'
#define IOP_ERROR_LOG_MAXIMUM 240 /* ERROR_LOG_MAXIMUM_SIZE, bytes */

int RtlpPrintWide(WCHAR *Buffer, size_t Count, const WCHAR *Format, ...);

static volatile LONG IopInterfaceCount;

/* The link's name is unique and the caller's to free; no one here can open it, for there are no file objects. */
NTSTATUS IoRegisterDeviceInterface(PDEVICE_OBJECT PhysicalDeviceObject, CONST GUID *InterfaceClassGuid,
                                   PUNICODE_STRING ReferenceString, PUNICODE_STRING SymbolicLinkName)
{
    UNICODE_STRING guid;
    NTSTATUS status;

    if (!PnpIsPdo(PhysicalDeviceObject))
        return STATUS_INVALID_DEVICE_REQUEST;
    status = RtlStringFromGUID(InterfaceClassGuid, &guid);
    if (!NT_SUCCESS(status))
        return status;
    SymbolicLinkName->MaximumLength = IOP_LINK_LIMIT * sizeof(WCHAR);
    SymbolicLinkName->Buffer = ExAllocatePoolWithTag(PagedPool, SymbolicLinkName->MaximumLength, IOP_INTERFACE_TAG);
    if (SymbolicLinkName->Buffer) {
        SymbolicLinkName->Length =
            (USHORT)(RtlpPrintWide(SymbolicLinkName->Buffer, IOP_LINK_LIMIT, L"\\??\\ROOT#STORLOCK#%04u#%wZ",
                                   (ULONG)InterlockedIncrement(&IopInterfaceCount), &guid) *
                     (int)sizeof(WCHAR));
    }
    RtlFreeUnicodeString(&guid);
    return SymbolicLinkName->Buffer ? STATUS_SUCCESS : STATUS_INSUFFICIENT_RESOURCES;
}

NTSTATUS IoSetDeviceInterfaceState(PUNICODE_STRING SymbolicLinkName, BOOLEAN Enable)
{
    return SymbolicLinkName && SymbolicLinkName->Buffer ? STATUS_SUCCESS : STATUS_OBJECT_NAME_NOT_FOUND;
}

/* No interface is registered that a second driver could find. */
NTSTATUS IoGetDeviceInterfaces(CONST GUID *InterfaceClassGuid, PDEVICE_OBJECT PhysicalDeviceObject, ULONG Flags,
                               PWSTR *SymbolicLinkList)
{
    *SymbolicLinkList = ExAllocatePool2(0, 2 * sizeof(WCHAR), IOP_INTERFACE_TAG);
    return *SymbolicLinkList ? STATUS_SUCCESS : STATUS_INSUFFICIENT_RESOURCES;
}

NTSTATUS IoOpenDeviceRegistryKey(PDEVICE_OBJECT DeviceObject, ULONG DevInstKeyType, ACCESS_MASK DesiredAccess,
                                 PHANDLE DevInstRegKey)
{
    return STATUS_OBJECT_NAME_NOT_FOUND;
}

NTSTATUS IoGetDevicePropertyData(PDEVICE_OBJECT Pdo, CONST DEVPROPKEY *PropertyKey, LCID Lcid, ULONG Flags, ULONG Size,
                                 PVOID Data, PULONG RequiredSize, PDEVPROPTYPE Type)
{
    return STATUS_OBJECT_NAME_NOT_FOUND;
}

PVOID IoAllocateErrorLogEntry(PVOID IoObject, UCHAR EntrySize)
{
    if (EntrySize < sizeof(IO_ERROR_LOG_PACKET) || EntrySize > IOP_ERROR_LOG_MAXIMUM)
        return NULL;
    return ExAllocatePool2(0, EntrySize, 'gLoI');
}

VOID IoFreeErrorLogEntry(PVOID ElEntry)
{
    ExFreePoolWithTag(ElEntry, 'gLoI');
}

VOID IoWriteErrorLogEntry(PVOID ElEntry)
{
    PIO_ERROR_LOG_PACKET packet = ElEntry;

    DbgPrint("io: error log: code 0x%08X, unique value 0x%X, final status 0x%08X\n", packet->ErrorCode,
             packet->UniqueErrorValue, packet->FinalStatus);
    IoFreeErrorLogEntry(ElEntry);
}

/* Shutdown here is the end of the power, which the devices' power IRPs announce. */
NTSTATUS IoRegisterShutdownNotification(PDEVICE_OBJECT DeviceObject)
{
    DeviceObject->Flags |= DO_SHUTDOWN_REGISTERED;
    return STATUS_SUCCESS;
}

VOID IoUnregisterShutdownNotification(PDEVICE_OBJECT DeviceObject)
{
    DeviceObject->Flags &= ~(ULONG)DO_SHUTDOWN_REGISTERED;
}

/* Nothing collects WMI data. */
NTSTATUS IoWMIRegistrationControl(PDEVICE_OBJECT DeviceObject, ULONG Action)
{
    return STATUS_SUCCESS;
}

NTSTATUS IoWMIWriteEvent(PVOID WnodeEventItem)
{
    return STATUS_UNSUCCESSFUL; /* the caller keeps the item */
}

/* No plug and play event will ever come. */
NTSTATUS IoRegisterPlugPlayNotification(IO_NOTIFICATION_EVENT_CATEGORY EventCategory, ULONG EventCategoryFlags,
                                        PVOID EventCategoryData, PDRIVER_OBJECT DriverObject,
                                        PDRIVER_NOTIFICATION_CALLBACK_ROUTINE CallbackRoutine, PVOID Context,
                                        PVOID *NotificationEntry)
{
    *NotificationEntry = DriverObject;
    return STATUS_SUCCESS;
}

NTSTATUS IoUnregisterPlugPlayNotification(PVOID NotificationEntry)
{
    return STATUS_SUCCESS;
}

NTSTATUS IoUnregisterPlugPlayNotificationEx(PVOID NotificationEntry)
{
    return STATUS_SUCCESS;
}

/* The bus is asked for its devices once, when it starts. */
VOID IoInvalidateDeviceRelations(PDEVICE_OBJECT DeviceObject, DEVICE_RELATION_TYPE Type)
{
}

VOID IoInvalidateDeviceState(PDEVICE_OBJECT PhysicalDeviceObject)
{
}

BOOLEAN IoIsWdmVersionAvailable(UCHAR MajorVersion, UCHAR MinorVersion)
{
    return MajorVersion < 6 || (MajorVersion == 6 && MinorVersion == 0);
}

ULONG IoGetRequestorProcessId(PIRP Irp)
{
    return 4; /* every request is the system's own */
}

PEPROCESS IoGetRequestorProcess(PIRP Irp)
{
    return IoGetCurrentProcess();
}

BOOLEAN IoIs32bitProcess(PIRP Irp)
{
    return FALSE;
}

VOID IoGetStackLimits(PULONG_PTR LowLimit, PULONG_PTR HighLimit)
{
    *LowLimit = KiCurrentThread()->StackLimit;
    *HighLimit = KiCurrentThread()->StackBase;
}

PDEVICE_OBJECT IoGetDeviceAttachmentBaseRef(PDEVICE_OBJECT DeviceObject)
{
    PDEVICE_OBJECT lower, base = DeviceObject;

    ObfReferenceObject(base);
    while ((lower = IoGetLowerDeviceObject(base)) != NULL) {
        ObfDereferenceObject(base);
        base = lower;
    }
    return base;
}

/* There are no bus masters with map registers: a driver that wants an adapter object is told that none can be had. */
PDMA_ADAPTER IoGetDmaAdapter(PDEVICE_OBJECT PhysicalDeviceObject, PDEVICE_DESCRIPTION DeviceDescription,
                             PULONG NumberOfMapRegisters)
{
    return NULL;
}

typedef struct _IOP_REMOVE_LOCK {
    BOOLEAN Removed;
    BOOLEAN Reserved[3];
    volatile LONG IoCount;
    KEVENT RemoveEvent;
} IOP_REMOVE_LOCK;

_Static_assert(sizeof(IOP_REMOVE_LOCK) == sizeof(IO_REMOVE_LOCK_COMMON_BLOCK), "IO_REMOVE_LOCK");

VOID IoInitializeRemoveLockEx(PIO_REMOVE_LOCK Lock, ULONG AllocateTag, ULONG MaxLockedMinutes, ULONG HighWatermark,
                              ULONG RemlockSize)
{
    IOP_REMOVE_LOCK *lock = (IOP_REMOVE_LOCK *)&Lock->Common;

    lock->Removed = FALSE;
    lock->IoCount = 1;
    KeInitializeEvent(&lock->RemoveEvent, SynchronizationEvent, FALSE);
}

NTSTATUS IoAcquireRemoveLockEx(PIO_REMOVE_LOCK RemoveLock, PVOID Tag, PCSTR File, ULONG Line, ULONG RemlockSize)
{
    IOP_REMOVE_LOCK *lock = (IOP_REMOVE_LOCK *)&RemoveLock->Common;

    InterlockedIncrement(&lock->IoCount);
    if (!lock->Removed)
        return STATUS_SUCCESS;
    if (InterlockedDecrement(&lock->IoCount) == 0)
        KeSetEvent(&lock->RemoveEvent, 0, FALSE);
    return STATUS_DELETE_PENDING;
}

VOID IoReleaseRemoveLockEx(PIO_REMOVE_LOCK RemoveLock, PVOID Tag, ULONG RemlockSize)
{
    IOP_REMOVE_LOCK *lock = (IOP_REMOVE_LOCK *)&RemoveLock->Common;

    if (InterlockedDecrement(&lock->IoCount) == 0)
        KeSetEvent(&lock->RemoveEvent, 0, FALSE);
}

VOID IoReleaseRemoveLockAndWaitEx(PIO_REMOVE_LOCK RemoveLock, PVOID Tag, ULONG RemlockSize)
{
    IOP_REMOVE_LOCK *lock = (IOP_REMOVE_LOCK *)&RemoveLock->Common;

    lock->Removed = TRUE;
    InterlockedDecrement(&lock->IoCount);
    if (InterlockedDecrement(&lock->IoCount) > 0)
        KeWaitForSingleObject(&lock->RemoveEvent, Executive, KernelMode, FALSE, NULL);
}
