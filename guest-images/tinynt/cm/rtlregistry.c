/*
 * rtlregistry.c - the registry as the Rtl routines give it: values by a path relative to a well-known key, and the
 * query table of RtlQueryRegistryValues.
 */
#include "nt.h"

#define CM_ROOT_LIMIT 256u /* characters of a whole key path */
#define CM_VALUE_LIMIT 640u
#define CM_TAG 'qRmC'

/* By RTL_REGISTRY_ABSOLUTE to RTL_REGISTRY_DEVICEMAP. */
static const PCWSTR CmpWellKnown[] = {
    L"",
    L"\\Registry\\Machine\\System\\CurrentControlSet\\Services\\",
    L"\\Registry\\Machine\\System\\CurrentControlSet\\Control\\",
    L"\\Registry\\Machine\\Software\\Microsoft\\Windows NT\\CurrentVersion\\",
    L"\\Registry\\Machine\\Hardware\\DeviceMap\\",
};

static NTSTATUS CmpAppendPath(PUNICODE_STRING Path, PCWSTR Part)
{
    if (Path->Length && Path->Buffer[Path->Length / sizeof(WCHAR) - 1] != '\\' &&
        !NT_SUCCESS(RtlAppendUnicodeToString(Path, L"\\")))
        return STATUS_BUFFER_TOO_SMALL;
    return RtlAppendUnicodeToString(Path, Part);
}

/* RelativeTo with RTL_REGISTRY_HANDLE: Path is a key's handle, which the caller keeps. */
static NTSTATUS CmpOpenRelative(ULONG RelativeTo, PCWSTR Path, PCWSTR Subkey, BOOLEAN Create, PHANDLE Key)
{
    ULONG base = RelativeTo & ~(ULONG)(RTL_REGISTRY_OPTIONAL | RTL_REGISTRY_HANDLE);
    WCHAR buffer[CM_ROOT_LIMIT];
    UNICODE_STRING name = {0, sizeof(buffer), buffer};
    OBJECT_ATTRIBUTES attributes;
    HANDLE root = NULL;
    NTSTATUS status = STATUS_SUCCESS;

    if (RelativeTo & RTL_REGISTRY_HANDLE) {
        root = (HANDLE)Path;
    } else if (base < RTL_NUMBER_OF(CmpWellKnown)) {
        status = RtlAppendUnicodeToString(&name, CmpWellKnown[base]);
        if (NT_SUCCESS(status) && Path)
            status = RtlAppendUnicodeToString(&name, Path);
    } else {
        return STATUS_INVALID_PARAMETER;
    }
    if (NT_SUCCESS(status) && Subkey)
        status = CmpAppendPath(&name, Subkey);
    if (!NT_SUCCESS(status))
        return STATUS_OBJECT_NAME_INVALID;
    InitializeObjectAttributes(&attributes, &name, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE, root, NULL);
    return Create ? ZwCreateKey(Key, KEY_ALL_ACCESS, &attributes, 0, NULL, 0, NULL)
                  : ZwOpenKey(Key, KEY_ALL_ACCESS, &attributes);
}

static NTSTATUS CmpOpenAndClose(ULONG RelativeTo, PCWSTR Path, BOOLEAN Create)
{
    HANDLE key;
    NTSTATUS status = CmpOpenRelative(RelativeTo, Path, NULL, Create, &key);

    if (NT_SUCCESS(status))
        ZwClose(key);
    return status;
}

NTSTATUS RtlCheckRegistryKey(ULONG RelativeTo, PWSTR Path)
{
    return CmpOpenAndClose(RelativeTo, Path, FALSE);
}

NTSTATUS RtlCreateRegistryKey(ULONG RelativeTo, PWSTR Path)
{
    return CmpOpenAndClose(RelativeTo, Path, TRUE);
}

NTSTATUS RtlWriteRegistryValue(ULONG RelativeTo, PCWSTR Path, PCWSTR ValueName, ULONG ValueType, PVOID ValueData,
                               ULONG ValueLength)
{
    UNICODE_STRING name;
    HANDLE key = (HANDLE)Path;
    BOOLEAN given = (RelativeTo & RTL_REGISTRY_HANDLE) != 0;
    NTSTATUS status = given ? STATUS_SUCCESS : CmpOpenRelative(RelativeTo, Path, NULL, TRUE, &key);

    if (!NT_SUCCESS(status))
        return status;
    RtlInitUnicodeString(&name, ValueName);
    status = ZwSetValueKey(key, &name, 0, ValueType, ValueData, ValueLength);
    if (!given)
        ZwClose(key);
    return status;
}

NTSTATUS RtlDeleteRegistryValue(ULONG RelativeTo, PCWSTR Path, PCWSTR ValueName)
{
    UNICODE_STRING name;
    HANDLE key = (HANDLE)Path;
    BOOLEAN given = (RelativeTo & RTL_REGISTRY_HANDLE) != 0;
    NTSTATUS status = given ? STATUS_SUCCESS : CmpOpenRelative(RelativeTo, Path, NULL, FALSE, &key);

    if (!NT_SUCCESS(status))
        return status;
    RtlInitUnicodeString(&name, ValueName);
    status = ZwDeleteValueKey(key, &name);
    if (!given)
        ZwClose(key);
    return status;
}

/* A string value goes into the UNICODE_STRING at the context; one without a buffer gets one from pool. */
static NTSTATUS CmpStoreString(PUNICODE_STRING Target, const UCHAR *Data, ULONG Length)
{
    while (Length >= sizeof(WCHAR) && !Data[Length - 1] && !Data[Length - 2])
        Length -= sizeof(WCHAR);
    if (!Target->Buffer) {
        Target->MaximumLength = (USHORT)(Length + sizeof(WCHAR));
        Target->Buffer = ExAllocatePoolWithTag(PagedPool, Target->MaximumLength, 'rtSR');
        if (!Target->Buffer)
            return STATUS_NO_MEMORY;
    }
    if (Length > Target->MaximumLength)
        return STATUS_BUFFER_TOO_SMALL;
    memcpy(Target->Buffer, Data, Length);
    if (Length + sizeof(WCHAR) <= Target->MaximumLength)
        Target->Buffer[Length / sizeof(WCHAR)] = 0;
    Target->Length = (USHORT)Length;
    return STATUS_SUCCESS;
}

/* RTL_QUERY_REGISTRY_DIRECT: numbers are copied, other data fills a buffer whose size its first ULONG tells. */
static NTSTATUS CmpStoreDirect(PVOID Target, ULONG Type, const UCHAR *Data, ULONG Length)
{
    ULONG size;

    if (Type == REG_SZ || Type == REG_EXPAND_SZ || Type == REG_MULTI_SZ)
        return CmpStoreString(Target, Data, Length);
    if (Length <= sizeof(ULONG) || Type == REG_QWORD) {
        memcpy(Target, Data, Length);
        return STATUS_SUCCESS;
    }
    size = *(PULONG)Target;
    if (Length + 2 * sizeof(ULONG) > size)
        return STATUS_BUFFER_TOO_SMALL;
    ((PULONG)Target)[0] = Length;
    ((PULONG)Target)[1] = Type;
    memcpy((PULONG)Target + 2, Data, Length);
    return STATUS_SUCCESS;
}

static NTSTATUS CmpDeliver(PRTL_QUERY_REGISTRY_TABLE Entry, ULONG Type, PVOID Data, ULONG Length, PVOID Context)
{
    if (Entry->Flags & RTL_QUERY_REGISTRY_DIRECT)
        return CmpStoreDirect(Entry->EntryContext, Type, Data, Length);
    return Entry->QueryRoutine
               ? Entry->QueryRoutine((PWSTR)Entry->Name, Type, Data, Length, Context, Entry->EntryContext)
               : STATUS_SUCCESS;
}

static NTSTATUS CmpDeliverDefault(PRTL_QUERY_REGISTRY_TABLE Entry, PVOID Context)
{
    ULONG length = Entry->DefaultLength;

    if (Entry->Flags & RTL_QUERY_REGISTRY_REQUIRED)
        return STATUS_OBJECT_NAME_NOT_FOUND;
    if (Entry->DefaultType == REG_NONE || !Entry->DefaultData)
        return STATUS_SUCCESS;
    if (!length && (Entry->DefaultType == REG_SZ || Entry->DefaultType == REG_EXPAND_SZ))
        length = (ULONG)((wcslen(Entry->DefaultData) + 1) * sizeof(WCHAR));
    return CmpDeliver(Entry, Entry->DefaultType, Entry->DefaultData, length, Context);
}

static NTSTATUS CmpQueryEntry(HANDLE Key, PRTL_QUERY_REGISTRY_TABLE Entry, PVOID Context)
{
    PKEY_VALUE_PARTIAL_INFORMATION value = ExAllocatePoolWithTag(PagedPool, CM_VALUE_LIMIT, CM_TAG);
    UNICODE_STRING name;
    NTSTATUS status;
    ULONG length;

    if (!value)
        return STATUS_NO_MEMORY;
    RtlInitUnicodeString(&name, Entry->Name);
    status = Key ? ZwQueryValueKey(Key, &name, KeyValuePartialInformation, value, CM_VALUE_LIMIT, &length)
                 : STATUS_OBJECT_NAME_NOT_FOUND;
    if (status == STATUS_OBJECT_NAME_NOT_FOUND)
        status = CmpDeliverDefault(Entry, Context);
    else if (NT_SUCCESS(status))
        status = CmpDeliver(Entry, value->Type, value->Data, value->DataLength, Context);
    if (NT_SUCCESS(status) && Key && (Entry->Flags & RTL_QUERY_REGISTRY_DELETE))
        ZwDeleteValueKey(Key, &name);
    ExFreePoolWithTag(value, CM_TAG);
    return status;
}

/* Key: NULL if there is no such key and that is allowed, so that all values are the defaults. */
static NTSTATUS CmpOpenForQuery(ULONG RelativeTo, PCWSTR Path, PCWSTR Subkey, BOOLEAN Required, PHANDLE Key)
{
    NTSTATUS status = CmpOpenRelative(RelativeTo, Path, Subkey, FALSE, Key);

    if (status == STATUS_OBJECT_NAME_NOT_FOUND && !Required) {
        *Key = NULL;
        return STATUS_SUCCESS;
    }
    return status;
}

NTSTATUS RtlQueryRegistryValues(ULONG RelativeTo, PCWSTR Path, PRTL_QUERY_REGISTRY_TABLE QueryTable, PVOID Context,
                                PVOID Environment)
{
    HANDLE key;
    NTSTATUS status = CmpOpenForQuery(RelativeTo, Path, NULL, !(RelativeTo & RTL_REGISTRY_OPTIONAL), &key);

    for (PRTL_QUERY_REGISTRY_TABLE entry = QueryTable; NT_SUCCESS(status) && (entry->QueryRoutine || entry->Name);
         entry++) {
        BOOLEAN down = (entry->Flags & RTL_QUERY_REGISTRY_SUBKEY) != 0;

        if (down || (entry->Flags & RTL_QUERY_REGISTRY_TOPKEY)) {
            if (key)
                ZwClose(key);
            key = NULL;
            status = CmpOpenForQuery(RelativeTo, Path, down ? entry->Name : NULL,
                                     (entry->Flags & RTL_QUERY_REGISTRY_REQUIRED) != 0, &key);
        }
        if (NT_SUCCESS(status) && !down && entry->Name)
            status = CmpQueryEntry(key, entry, Context);
    }
    if (key)
        ZwClose(key);
    return status;
}
