/*
 * handle.c - further forms of the object routines, and event objects with handles.
 */
#include "io_internal.h"
#include "ki.h"

LONG_PTR ObfReferenceObjectWithTag(PVOID Object, ULONG Tag)
{
    return ObfReferenceObject(Object);
}

LONG_PTR ObfDereferenceObjectWithTag(PVOID Object, ULONG Tag)
{
    return ObfDereferenceObject(Object);
}

VOID ObDereferenceObjectDeferDelete(PVOID Object)
{
    ObfDereferenceObject(Object);
}

NTSTATUS ObReferenceObjectByHandleWithTag(HANDLE Handle, ACCESS_MASK DesiredAccess, POBJECT_TYPE ObjectType,
                                          KPROCESSOR_MODE AccessMode, ULONG Tag, PVOID *Object,
                                          POBJECT_HANDLE_INFORMATION HandleInformation)
{
    return ObReferenceObjectByHandle(Handle, DesiredAccess, ObjectType, AccessMode, Object, HandleInformation);
}

NTSTATUS ObReferenceObjectByPointerWithTag(PVOID Object, ACCESS_MASK DesiredAccess, POBJECT_TYPE ObjectType,
                                           KPROCESSOR_MODE AccessMode, ULONG Tag)
{
    return ObReferenceObjectByPointer(Object, DesiredAccess, ObjectType, AccessMode);
}

NTSTATUS ObOpenObjectByPointer(PVOID Object, ULONG HandleAttributes, PACCESS_STATE PassedAccessState,
                               ACCESS_MASK DesiredAccess, POBJECT_TYPE ObjectType, KPROCESSOR_MODE AccessMode,
                               PHANDLE Handle)
{
    NTSTATUS status = ObReferenceObjectByPointer(Object, DesiredAccess, ObjectType, AccessMode);

    if (!NT_SUCCESS(status))
        return status;
    status = ObpCreateHandle(Object, Handle);
    ObfDereferenceObject(Object);
    return status;
}

/* By name: what IoCreateNotificationEvent and ZwCreateEvent share; an existing one is opened. */
static NTSTATUS ObpOpenEvent(POBJECT_ATTRIBUTES Attributes, EVENT_TYPE Type, BOOLEAN State, BOOLEAN Create,
                             PHANDLE Handle, PKEVENT *Event)
{
    PVOID object = Attributes && Attributes->ObjectName ? ObpLookupName(Attributes->ObjectName) : NULL;
    NTSTATUS status = STATUS_SUCCESS;

    if (!object && !Create)
        return STATUS_OBJECT_NAME_NOT_FOUND;
    if (object) {
        status = ObReferenceObjectByPointer(object, 0, ExEventObjectType, KernelMode);
        ObfDereferenceObject(object);
    } else {
        status =
            ObCreateObject(KernelMode, ExEventObjectType, Attributes, KernelMode, NULL, sizeof(KEVENT), 0, 0, &object);
        if (NT_SUCCESS(status))
            KeInitializeEvent(object, Type, State);
    }
    if (!NT_SUCCESS(status))
        return status;
    status = ObpCreateHandle(object, Handle);
    if (Event)
        *Event = object;
    ObfDereferenceObject(object);
    return status;
}

NTSTATUS ZwCreateEvent(PHANDLE EventHandle, ACCESS_MASK DesiredAccess, POBJECT_ATTRIBUTES ObjectAttributes,
                       EVENT_TYPE EventType, BOOLEAN InitialState)
{
    return ObpOpenEvent(ObjectAttributes, EventType, InitialState, TRUE, EventHandle, NULL);
}

NTSTATUS ZwOpenEvent(PHANDLE EventHandle, ACCESS_MASK DesiredAccess, POBJECT_ATTRIBUTES ObjectAttributes)
{
    return ObpOpenEvent(ObjectAttributes, NotificationEvent, FALSE, FALSE, EventHandle, NULL);
}

static PKEVENT ObpNamedEvent(PUNICODE_STRING Name, EVENT_TYPE Type, PHANDLE Handle)
{
    OBJECT_ATTRIBUTES attributes;
    PKEVENT event = NULL;

    InitializeObjectAttributes(&attributes, Name, OBJ_KERNEL_HANDLE, NULL, NULL);
    return NT_SUCCESS(ObpOpenEvent(&attributes, Type, TRUE, TRUE, Handle, &event)) ? event : NULL;
}

PKEVENT IoCreateNotificationEvent(PUNICODE_STRING EventName, PHANDLE EventHandle)
{
    return ObpNamedEvent(EventName, NotificationEvent, EventHandle);
}

PKEVENT IoCreateSynchronizationEvent(PUNICODE_STRING EventName, PHANDLE EventHandle)
{
    return ObpNamedEvent(EventName, SynchronizationEvent, EventHandle);
}

static NTSTATUS ObpChangeEvent(HANDLE Handle, BOOLEAN Set, PLONG PreviousState)
{
    PVOID object;
    NTSTATUS status = ObReferenceObjectByHandle(Handle, 0, ExEventObjectType, KernelMode, &object, NULL);
    LONG before;

    if (!NT_SUCCESS(status))
        return status;
    before = Set ? KeSetEvent(object, 0, FALSE) : KeResetEvent(object);
    if (PreviousState)
        *PreviousState = before;
    ObfDereferenceObject(object);
    return STATUS_SUCCESS;
}

NTSTATUS ZwSetEvent(HANDLE EventHandle, PLONG PreviousState)
{
    return ObpChangeEvent(EventHandle, TRUE, PreviousState);
}

NTSTATUS ZwResetEvent(HANDLE EventHandle, PLONG PreviousState)
{
    return ObpChangeEvent(EventHandle, FALSE, PreviousState);
}

NTSTATUS ZwClearEvent(HANDLE EventHandle)
{
    return ObpChangeEvent(EventHandle, FALSE, NULL);
}

/* Events and threads can be waited for: their bodies begin with a dispatcher header. */
NTSTATUS ZwWaitForSingleObject(HANDLE Handle, BOOLEAN Alertable, PLARGE_INTEGER Timeout)
{
    PVOID object;
    NTSTATUS status = ObReferenceObjectByHandle(Handle, 0, ExEventObjectType, KernelMode, &object, NULL);

    if (status == STATUS_OBJECT_TYPE_MISMATCH)
        status = ObReferenceObjectByHandle(Handle, 0, PsThreadType, KernelMode, &object, NULL);
    if (!NT_SUCCESS(status))
        return status == STATUS_OBJECT_TYPE_MISMATCH ? STATUS_OBJECT_TYPE_MISMATCH : status;
    status = KeWaitForSingleObject(object, UserRequest, KernelMode, Alertable, Timeout);
    ObfDereferenceObject(object);
    return status;
}
