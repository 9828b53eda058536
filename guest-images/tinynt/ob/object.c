/*
 * object.c - reference-counted objects, names, handles. The header is in front of the body; offsets are private.
 */
#include "io_internal.h"
#include "ki.h"

#define OB_HANDLES 512
#define OB_FIRST_HANDLE 4

typedef struct __attribute__((aligned(16))) _OBJECT_HEADER {
    volatile LONG64 PointerCount;
    OBJECT_TYPE *Type;
    LIST_ENTRY NameLinks; /* empty: unnamed */
    UNICODE_STRING Name;
} OBJECT_HEADER;

typedef struct _OB_LINK {
    LIST_ENTRY Links;
    UNICODE_STRING Name, Target;
} OB_LINK;

static OBJECT_TYPE ObpDriverType = {&ObpDriverType, "Driver", NULL};
static OBJECT_TYPE ObpDeviceType = {&ObpDeviceType, "Device", NULL};
static OBJECT_TYPE ObpThreadType = {&ObpThreadType, "Thread", NULL};
static OBJECT_TYPE ObpProcessType = {&ObpProcessType, "Process", NULL};
static OBJECT_TYPE ObpEventType = {&ObpEventType, "Event", NULL};
POBJECT_TYPE IoDriverObjectType = &ObpDriverType;
POBJECT_TYPE IoDeviceObjectType = &ObpDeviceType;
POBJECT_TYPE PsThreadType = &ObpThreadType;
POBJECT_TYPE PsProcessType = &ObpProcessType;
POBJECT_TYPE ExEventObjectType = &ObpEventType;

static ULONG_PTR ObpLock;
static LIST_ENTRY ObpNames = {&ObpNames, &ObpNames};
static LIST_ENTRY ObpLinks = {&ObpLinks, &ObpLinks};
static PVOID ObpHandles[OB_HANDLES];

static OBJECT_HEADER *ObpHeader(PVOID Object)
{
    return (OBJECT_HEADER *)Object - 1;
}

static BOOLEAN ObpDuplicate(UNICODE_STRING *To, const UNICODE_STRING *From)
{
    To->Buffer = ExAllocatePoolWithTag(NonPagedPoolNx, From->Length + sizeof(WCHAR), 'mNbO');
    if (!To->Buffer)
        return FALSE;
    memcpy(To->Buffer, From->Buffer, From->Length);
    To->Buffer[From->Length / sizeof(WCHAR)] = 0;
    To->Length = From->Length;
    To->MaximumLength = From->Length + sizeof(WCHAR);
    return TRUE;
}

NTSTATUS ObCreateObject(KPROCESSOR_MODE ProbeMode, POBJECT_TYPE ObjectType, POBJECT_ATTRIBUTES Attributes,
                        KPROCESSOR_MODE OwnershipMode, PVOID ParseContext, ULONG ObjectBodySize, ULONG PagedPoolCharge,
                        ULONG NonPagedPoolCharge, PVOID *Object)
{
    OBJECT_HEADER *header = ExAllocatePool2(0, sizeof(OBJECT_HEADER) + ObjectBodySize, 'jbOo');

    if (!header)
        return STATUS_INSUFFICIENT_RESOURCES;
    header->PointerCount = 1;
    header->Type = ObjectType;
    InitializeListHead(&header->NameLinks);
    *Object = header + 1;
    if (Attributes && Attributes->ObjectName)
        return ObpSetName(*Object, Attributes->ObjectName);
    return STATUS_SUCCESS;
}

NTSTATUS ObpSetName(PVOID Object, const UNICODE_STRING *Name)
{
    OBJECT_HEADER *header = ObpHeader(Object);
    KIRQL old;

    if (!ObpDuplicate(&header->Name, Name))
        return STATUS_INSUFFICIENT_RESOURCES;
    old = KxLockRaise(&ObpLock);
    InsertTailList(&ObpNames, &header->NameLinks);
    KxUnlockLower(&ObpLock, old);
    return STATUS_SUCCESS;
}

NTSTATUS ObpCreateHandle(PVOID Object, PHANDLE Handle)
{
    KIRQL old = KxLockRaise(&ObpLock);
    NTSTATUS status = STATUS_INSUFFICIENT_RESOURCES;

    for (ULONG i = 0; i < OB_HANDLES; i++) {
        if (!ObpHandles[i]) {
            ObpHandles[i] = Object;
            *Handle = (HANDLE)(ULONG_PTR)((i + 1) * OB_FIRST_HANDLE);
            status = STATUS_SUCCESS;
            break;
        }
    }
    KxUnlockLower(&ObpLock, old);
    if (NT_SUCCESS(status))
        ObfReferenceObject(Object);
    return status;
}

/* Consumes the creator's reference unless a referenced object is asked for; the handle holds one of its own. */
NTSTATUS ObInsertObject(PVOID Object, PACCESS_STATE AccessState, ACCESS_MASK DesiredAccess, ULONG AdditionalReferences,
                        PVOID *ReferencedObject, PHANDLE Handle)
{
    NTSTATUS status = STATUS_SUCCESS;

    if (Handle)
        status = ObpCreateHandle(Object, Handle);
    for (ULONG i = 0; i < AdditionalReferences; i++)
        ObfReferenceObject(Object);
    if (ReferencedObject)
        *ReferencedObject = Object;
    if (Handle)
        ObfDereferenceObject(Object);
    return status;
}

LONG_PTR ObfReferenceObject(PVOID Object)
{
    return (LONG_PTR)__atomic_add_fetch(&ObpHeader(Object)->PointerCount, 1, __ATOMIC_ACQ_REL);
}

LONG_PTR ObfDereferenceObject(PVOID Object)
{
    OBJECT_HEADER *header = ObpHeader(Object);
    LONG64 left = __atomic_sub_fetch(&header->PointerCount, 1, __ATOMIC_ACQ_REL);

    if (left == 0) {
        KIRQL old = KxLockRaise(&ObpLock);
        RemoveEntryList(&header->NameLinks);
        KxUnlockLower(&ObpLock, old);
        if (header->Type && header->Type->Delete)
            header->Type->Delete(Object);
        if (header->Name.Buffer)
            ExFreePoolWithTag(header->Name.Buffer, 'mNbO');
        ExFreePoolWithTag(header, 'jbOo');
    }
    return (LONG_PTR)left;
}

NTSTATUS ObReferenceObjectByPointer(PVOID Object, ACCESS_MASK DesiredAccess, POBJECT_TYPE ObjectType,
                                    KPROCESSOR_MODE AccessMode)
{
    if (ObjectType && ObpHeader(Object)->Type != ObjectType)
        return STATUS_OBJECT_TYPE_MISMATCH;
    ObfReferenceObject(Object);
    return STATUS_SUCCESS;
}

static PVOID *ObpHandleSlot(HANDLE Handle)
{
    ULONG_PTR index = (ULONG_PTR)Handle / OB_FIRST_HANDLE - 1;

    return index < OB_HANDLES ? &ObpHandles[index] : NULL;
}

NTSTATUS ObReferenceObjectByHandle(HANDLE Handle, ACCESS_MASK DesiredAccess, POBJECT_TYPE ObjectType,
                                   KPROCESSOR_MODE AccessMode, PVOID *Object,
                                   POBJECT_HANDLE_INFORMATION HandleInformation)
{
    PVOID *slot = ObpHandleSlot(Handle);
    NTSTATUS status = STATUS_INVALID_HANDLE;
    KIRQL old = KxLockRaise(&ObpLock);

    if (slot && *slot) {
        status = ObReferenceObjectByPointer(*slot, DesiredAccess, ObjectType, AccessMode);
        *Object = *slot;
    }
    KxUnlockLower(&ObpLock, old);
    return status;
}

NTSTATUS ZwClose(HANDLE Handle)
{
    PVOID *slot = ObpHandleSlot(Handle);
    PVOID object = NULL;
    KIRQL old = KxLockRaise(&ObpLock);

    if (slot) {
        object = *slot;
        *slot = NULL;
    }
    KxUnlockLower(&ObpLock, old);
    if (!object)
        return STATUS_INVALID_HANDLE;
    ObfDereferenceObject(object);
    return STATUS_SUCCESS;
}

PVOID ObpLookupName(const UNICODE_STRING *Name)
{
    KIRQL old = KxLockRaise(&ObpLock);
    PVOID found = NULL;

    for (PLIST_ENTRY at = ObpLinks.Flink; at != &ObpLinks; at = at->Flink) {
        OB_LINK *link = CONTAINING_RECORD(at, OB_LINK, Links);
        if (RtlEqualUnicodeString(&link->Name, Name, TRUE)) {
            Name = &link->Target;
            break;
        }
    }
    for (PLIST_ENTRY at = ObpNames.Flink; at != &ObpNames && !found; at = at->Flink) {
        OBJECT_HEADER *header = CONTAINING_RECORD(at, OBJECT_HEADER, NameLinks);
        if (RtlEqualUnicodeString(&header->Name, Name, TRUE)) {
            found = header + 1;
            ObfReferenceObject(found);
        }
    }
    KxUnlockLower(&ObpLock, old);
    return found;
}

NTSTATUS ObpCreateLink(const UNICODE_STRING *Name, const UNICODE_STRING *Target)
{
    OB_LINK *link = ExAllocatePool2(0, sizeof(*link), 'kLbO');
    KIRQL old;

    if (!link || !ObpDuplicate(&link->Name, Name) || !ObpDuplicate(&link->Target, Target))
        return STATUS_INSUFFICIENT_RESOURCES;
    old = KxLockRaise(&ObpLock);
    InsertTailList(&ObpLinks, &link->Links);
    KxUnlockLower(&ObpLock, old);
    return STATUS_SUCCESS;
}

NTSTATUS ObpDeleteLink(const UNICODE_STRING *Name)
{
    OB_LINK *found = NULL;
    KIRQL old = KxLockRaise(&ObpLock);

    for (PLIST_ENTRY at = ObpLinks.Flink; at != &ObpLinks && !found; at = at->Flink) {
        OB_LINK *link = CONTAINING_RECORD(at, OB_LINK, Links);
        if (RtlEqualUnicodeString(&link->Name, Name, TRUE))
            found = link;
    }
    if (found)
        RemoveEntryList(&found->Links);
    KxUnlockLower(&ObpLock, old);
    if (!found)
        return STATUS_OBJECT_NAME_NOT_FOUND;
    ExFreePoolWithTag(found->Name.Buffer, 'mNbO');
    ExFreePoolWithTag(found->Target.Buffer, 'mNbO');
    ExFreePoolWithTag(found, 'kLbO');
    return STATUS_SUCCESS;
}

/* The name, and room for it behind the structure; an object without one has an empty name. */
NTSTATUS ObQueryNameString(PVOID Object, POBJECT_NAME_INFORMATION ObjectNameInfo, ULONG Length, PULONG ReturnLength)
{
    const UNICODE_STRING *name = &ObpHeader(Object)->Name;
    ULONG needed = sizeof(UNICODE_STRING) + (name->Buffer ? name->Length + sizeof(WCHAR) : 0);
    PUNICODE_STRING result = (PUNICODE_STRING)ObjectNameInfo;

    *ReturnLength = needed;
    if (Length < needed)
        return STATUS_INFO_LENGTH_MISMATCH;
    RtlZeroMemory(result, needed);
    if (name->Buffer) {
        result->Buffer = (PWSTR)(result + 1);
        result->Length = name->Length;
        result->MaximumLength = name->Length + sizeof(WCHAR);
        memcpy(result->Buffer, name->Buffer, name->Length);
    }
    return STATUS_SUCCESS;
}
