/*
 * registry.c - the values, and the Zw routines by which drivers read and write them. A key is no more than its path:
 * one exists if a value lies in it or below it, or if a driver has created it. Names are compared without case.
 */
#include "cm_internal.h"
#include "io_internal.h"
#include "ki.h"

#define CM_TAG 'geRC'
#define REGISTRY_ROOT "\\REGISTRY\\MACHINE\\"

typedef struct _CM_VALUE {
    struct _CM_VALUE *Next;
    char Key[CM_PATH_LIMIT];
    char Name[CM_NAME_LIMIT];
    ULONG Type;
    ULONG Length;
    UCHAR Data[CM_DATA_LIMIT];
} CM_VALUE;

typedef struct _CM_KEY {
    char Path[CM_PATH_LIMIT];
} CM_KEY;

static OBJECT_TYPE CmpKeyType = {&CmpKeyType, "Key", NULL};
static CM_VALUE *CmpValues;
static ULONG_PTR CmpLock;

static char CmpLower(char Character)
{
    return Character >= 'A' && Character <= 'Z' ? (char)(Character | 0x20) : Character;
}

/* Windows' link CurrentControlSet leads to ControlSet001. */
static VOID CmpNormalize(char *Path)
{
    static const char link[] = "SYSTEM\\ControlSet001\\";
    static const char current[] = "SYSTEM\\CurrentControlSet\\";
    char rest[CM_PATH_LIMIT];
    ULONG i = 0;

    while (link[i] && CmpLower(Path[i]) == CmpLower(link[i]))
        i++;
    if (link[i] || strlen(Path) - i + sizeof(current) > sizeof(rest))
        return;
    strcpy(rest, Path + i);
    strcpy(Path, current);
    strcpy(Path + sizeof(current) - 1, rest);
}

static CM_VALUE *CmpFind(const char *Key, const char *Name)
{
    CM_VALUE *value = CmpValues;

    while (value && (RtlpCompareNoCase(value->Key, Key) || RtlpCompareNoCase(value->Name, Name)))
        value = value->Next;
    return value;
}

static BOOLEAN CmpKeyExists(const char *Path)
{
    for (CM_VALUE *value = CmpValues; value; value = value->Next) {
        ULONG i = 0;
        while (Path[i] && CmpLower(Path[i]) == CmpLower(value->Key[i]))
            i++;
        if (!Path[i] && (!value->Key[i] || value->Key[i] == '\\'))
            return TRUE;
    }
    return FALSE;
}

BOOLEAN CmSetValue(const char *Key, const char *Name, ULONG Type, const VOID *Data, ULONG Length)
{
    CM_VALUE *fresh = ExAllocatePool2(0, sizeof(*fresh), CM_TAG), *value;
    KIRQL old;

    if (!fresh || Length > CM_DATA_LIMIT || strlen(Key) >= CM_PATH_LIMIT || strlen(Name) >= CM_NAME_LIMIT) {
        if (fresh)
            ExFreePoolWithTag(fresh, CM_TAG);
        return FALSE;
    }
    strcpy(fresh->Key, Key);
    strcpy(fresh->Name, Name);
    CmpNormalize(fresh->Key);
    old = KxLockRaise(&CmpLock);
    value = CmpFind(fresh->Key, Name);
    if (!value) {
        value = fresh;
        fresh = NULL;
        value->Next = CmpValues;
        CmpValues = value;
    }
    value->Type = Type;
    value->Length = Length;
    memcpy(value->Data, Data, Length);
    KxUnlockLower(&CmpLock, old);
    if (fresh)
        ExFreePoolWithTag(fresh, CM_TAG);
    return TRUE;
}

/* Narrows; FALSE if it does not fit. */
static BOOLEAN CmpNarrow(PUNICODE_STRING Text, char *Narrow, ULONG Size)
{
    ULONG length = Text->Length / sizeof(WCHAR);

    if (length >= Size)
        return FALSE;
    for (ULONG i = 0; i < length; i++)
        Narrow[i] = (char)Text->Buffer[i];
    Narrow[length] = 0;
    return TRUE;
}

/* The path under HKEY_LOCAL_MACHINE that the attributes name, from the root directory's key on if there is one. */
static NTSTATUS CmpResolve(POBJECT_ATTRIBUTES Attributes, char *Path)
{
    char name[CM_PATH_LIMIT];
    CM_KEY *root;
    PVOID object;
    ULONG i = 0;

    if (!CmpNarrow(Attributes->ObjectName, name, sizeof(name)))
        return STATUS_OBJECT_NAME_INVALID;
    if (!Attributes->RootDirectory) {
        while (REGISTRY_ROOT[i] && CmpLower(name[i]) == CmpLower(REGISTRY_ROOT[i]))
            i++;
        if (REGISTRY_ROOT[i])
            return STATUS_OBJECT_PATH_SYNTAX_BAD;
        strcpy(Path, name + i);
        CmpNormalize(Path);
        return STATUS_SUCCESS;
    }
    if (!NT_SUCCESS(
            ObReferenceObjectByHandle(Attributes->RootDirectory, KEY_READ, &CmpKeyType, KernelMode, &object, NULL)))
        return STATUS_INVALID_HANDLE;
    root = object;
    strcpy(Path, root->Path);
    ObfDereferenceObject(root);
    if (strlen(Path) + strlen(name) + 2 > CM_PATH_LIMIT)
        return STATUS_OBJECT_NAME_INVALID;
    strcpy(Path + strlen(Path), "\\");
    strcpy(Path + strlen(Path), name);
    return STATUS_SUCCESS;
}

static NTSTATUS CmpOpen(PHANDLE Handle, POBJECT_ATTRIBUTES Attributes, BOOLEAN Create)
{
    char path[CM_PATH_LIMIT];
    NTSTATUS status = CmpResolve(Attributes, path);
    PVOID object;

    if (!NT_SUCCESS(status))
        return status;
    if (!Create && !CmpKeyExists(path))
        return STATUS_OBJECT_NAME_NOT_FOUND;
    status = ObCreateObject(KernelMode, &CmpKeyType, NULL, KernelMode, NULL, sizeof(CM_KEY), 0, 0, &object);
    if (!NT_SUCCESS(status))
        return status;
    strcpy(((CM_KEY *)object)->Path, path);
    status = ObpCreateHandle(object, Handle);
    ObfDereferenceObject(object);
    return status;
}

NTSTATUS ZwOpenKey(PHANDLE KeyHandle, ACCESS_MASK DesiredAccess, POBJECT_ATTRIBUTES ObjectAttributes)
{
    return CmpOpen(KeyHandle, ObjectAttributes, FALSE);
}

NTSTATUS ZwCreateKey(PHANDLE KeyHandle, ACCESS_MASK DesiredAccess, POBJECT_ATTRIBUTES ObjectAttributes,
                     ULONG TitleIndex, PUNICODE_STRING Class, ULONG CreateOptions, PULONG Disposition)
{
    if (Disposition)
        *Disposition = REG_OPENED_EXISTING_KEY;
    return CmpOpen(KeyHandle, ObjectAttributes, TRUE);
}

/* KeyValuePartialInformation and KeyValueFullInformation. */
static NTSTATUS CmpReturnValue(const CM_VALUE *Value, PUNICODE_STRING Name, KEY_VALUE_INFORMATION_CLASS Class,
                               PVOID Buffer, ULONG Length, PULONG ResultLength)
{
    PKEY_VALUE_PARTIAL_INFORMATION partial = Buffer;
    PKEY_VALUE_FULL_INFORMATION full = Buffer;
    ULONG offset = FIELD_OFFSET(KEY_VALUE_PARTIAL_INFORMATION, Data);

    if (Class == KeyValueFullInformation)
        offset = (FIELD_OFFSET(KEY_VALUE_FULL_INFORMATION, Name) + Name->Length + 7u) & ~7u;
    else if (Class != KeyValuePartialInformation)
        return STATUS_INVALID_PARAMETER;
    *ResultLength = offset + Value->Length;
    if (Length < offset)
        return STATUS_BUFFER_TOO_SMALL;
    if (Class == KeyValueFullInformation) {
        full->TitleIndex = 0;
        full->Type = Value->Type;
        full->DataOffset = offset;
        full->DataLength = Value->Length;
        full->NameLength = Name->Length;
        memcpy(full->Name, Name->Buffer, Name->Length);
    } else {
        partial->TitleIndex = 0;
        partial->Type = Value->Type;
        partial->DataLength = Value->Length;
    }
    if (Length < *ResultLength)
        return STATUS_BUFFER_OVERFLOW;
    memcpy((PUCHAR)Buffer + offset, Value->Data, Value->Length);
    return STATUS_SUCCESS;
}

NTSTATUS ZwQueryValueKey(HANDLE KeyHandle, PUNICODE_STRING ValueName, KEY_VALUE_INFORMATION_CLASS Class,
                         PVOID KeyValueInformation, ULONG Length, PULONG ResultLength)
{
    char name[CM_NAME_LIMIT];
    CM_VALUE *value;
    NTSTATUS status = STATUS_OBJECT_NAME_NOT_FOUND;
    PVOID key;
    KIRQL old;

    if (!CmpNarrow(ValueName, name, sizeof(name)))
        return STATUS_OBJECT_NAME_NOT_FOUND;
    if (!NT_SUCCESS(ObReferenceObjectByHandle(KeyHandle, KEY_READ, &CmpKeyType, KernelMode, &key, NULL)))
        return STATUS_INVALID_HANDLE;
    old = KxLockRaise(&CmpLock);
    value = CmpFind(((CM_KEY *)key)->Path, name);
    if (value)
        status = CmpReturnValue(value, ValueName, Class, KeyValueInformation, Length, ResultLength);
    KxUnlockLower(&CmpLock, old);
    ObfDereferenceObject(key);
    return status;
}

NTSTATUS ZwSetValueKey(HANDLE KeyHandle, PUNICODE_STRING ValueName, ULONG TitleIndex, ULONG Type, PVOID Data,
                       ULONG DataSize)
{
    char name[CM_NAME_LIMIT];
    BOOLEAN good;
    PVOID key;

    if (!CmpNarrow(ValueName, name, sizeof(name)))
        return STATUS_INVALID_PARAMETER;
    if (!NT_SUCCESS(ObReferenceObjectByHandle(KeyHandle, KEY_WRITE, &CmpKeyType, KernelMode, &key, NULL)))
        return STATUS_INVALID_HANDLE;
    good = CmSetValue(((CM_KEY *)key)->Path, name, Type, Data, DataSize);
    ObfDereferenceObject(key);
    return good ? STATUS_SUCCESS : STATUS_INSUFFICIENT_RESOURCES;
}

NTSTATUS ZwDeleteValueKey(HANDLE KeyHandle, PUNICODE_STRING ValueName)
{
    char name[CM_NAME_LIMIT];
    CM_VALUE *found = NULL;
    PVOID key;
    KIRQL old;

    if (!CmpNarrow(ValueName, name, sizeof(name)))
        return STATUS_OBJECT_NAME_NOT_FOUND;
    if (!NT_SUCCESS(ObReferenceObjectByHandle(KeyHandle, KEY_WRITE, &CmpKeyType, KernelMode, &key, NULL)))
        return STATUS_INVALID_HANDLE;
    old = KxLockRaise(&CmpLock);
    for (CM_VALUE **link = &CmpValues; *link && !found; link = &(*link)->Next) {
        if (!RtlpCompareNoCase((*link)->Key, ((CM_KEY *)key)->Path) && !RtlpCompareNoCase((*link)->Name, name)) {
            found = *link;
            *link = found->Next;
            break;
        }
    }
    KxUnlockLower(&CmpLock, old);
    ObfDereferenceObject(key);
    if (!found)
        return STATUS_OBJECT_NAME_NOT_FOUND;
    ExFreePoolWithTag(found, CM_TAG);
    return STATUS_SUCCESS;
}

NTSTATUS ZwEnumerateValueKey(HANDLE KeyHandle, ULONG Index, KEY_VALUE_INFORMATION_CLASS Class,
                             PVOID KeyValueInformation, ULONG Length, PULONG ResultLength)
{
    WCHAR buffer[CM_NAME_LIMIT];
    UNICODE_STRING name = {0, sizeof(buffer), buffer};
    CM_VALUE *value;
    NTSTATUS status = STATUS_NO_MORE_ENTRIES;
    PVOID key;
    KIRQL old;

    if (!NT_SUCCESS(ObReferenceObjectByHandle(KeyHandle, KEY_READ, &CmpKeyType, KernelMode, &key, NULL)))
        return STATUS_INVALID_HANDLE;
    old = KxLockRaise(&CmpLock);
    for (value = CmpValues; value; value = value->Next) {
        if (!RtlpCompareNoCase(value->Key, ((CM_KEY *)key)->Path) && !Index--)
            break;
    }
    if (value) {
        for (ULONG i = 0; value->Name[i]; i++, name.Length += sizeof(WCHAR))
            buffer[i] = (UCHAR)value->Name[i];
        status = CmpReturnValue(value, &name, Class, KeyValueInformation, Length, ResultLength);
    }
    KxUnlockLower(&CmpLock, old);
    ObfDereferenceObject(key);
    return status;
}

/* Nothing is kept over a run. */
NTSTATUS ZwFlushKey(HANDLE KeyHandle)
{
    return STATUS_SUCCESS;
}

/* Where REG_ROOT is a driver's service key, its Parameters. */
NTSTATUS IoOpenDriverRegistryKey(PDRIVER_OBJECT DriverObject, ULONG RegKeyType, ACCESS_MASK DesiredAccess, ULONG Flags,
                                 PHANDLE DriverRegKey)
{
    static const WCHAR services[] = L"\\Registry\\Machine\\System\\CurrentControlSet\\Services\\";
    WCHAR buffer[CM_PATH_LIMIT];
    UNICODE_STRING path = {0, sizeof(buffer), buffer}, *name = &DriverObject->DriverName;
    UNICODE_STRING tail = {name->Length, name->Length, name->Buffer};
    OBJECT_ATTRIBUTES attributes;

    if (RegKeyType != 0) /* DriverRegKeyParameters; there is no persistent state directory */
        return STATUS_NOT_SUPPORTED;
    for (ULONG i = name->Length / sizeof(WCHAR); i > 0 && name->Buffer[i - 1] != '\\'; i--) {
        tail.Buffer = &name->Buffer[i - 1];
        tail.Length = (USHORT)(name->Length - (i - 1) * sizeof(WCHAR));
    }
    if (!NT_SUCCESS(RtlAppendUnicodeToString(&path, services)) ||
        !NT_SUCCESS(RtlAppendUnicodeStringToString(&path, &tail)) ||
        !NT_SUCCESS(RtlAppendUnicodeToString(&path, L"\\Parameters")))
        return STATUS_OBJECT_NAME_INVALID;
    InitializeObjectAttributes(&attributes, &path, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE, NULL, NULL);
    return ZwOpenKey(DriverRegKey, DesiredAccess, &attributes);
}
