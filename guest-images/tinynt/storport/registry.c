/*
 * The miniport's parameters: StorPortRegistryRead and what goes with it. Values lie under the service key, in
 * Parameters\Device for all adapters and in Parameters\DeviceN for the one of that port number.
 */
#include "raid.h"

#define PATH_CHARACTERS 200
#define NAME_CHARACTERS 64

typedef struct _RAID_VALUE {
    KEY_VALUE_PARTIAL_INFORMATION Information;
    UCHAR Rest[512];
} RAID_VALUE;

static VOID Append(PUNICODE_STRING Path, PCSTR Text)
{
    for (; *Text != 0 && Path->Length + sizeof(WCHAR) <= Path->MaximumLength; Text++) {
        Path->Buffer[Path->Length / sizeof(WCHAR)] = (UCHAR)*Text;
        Path->Length += sizeof(WCHAR);
    }
}

static NTSTATUS OpenKey(PRAID_ADAPTER Adapter, PCSTR SubKey, BOOLEAN Create, PHANDLE Key)
{
    WCHAR Buffer[PATH_CHARACTERS];
    UNICODE_STRING Path = {0, sizeof(Buffer), Buffer};
    OBJECT_ATTRIBUTES Attributes;

    RtlCopyUnicodeString(&Path, &Adapter->RegistryPath);
    Append(&Path, SubKey);
    InitializeObjectAttributes(&Attributes, &Path, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE, NULL, NULL);
    return Create ? ZwCreateKey(Key, KEY_ALL_ACCESS, &Attributes, 0, NULL, 0, NULL)
                  : ZwOpenKey(Key, KEY_READ, &Attributes);
}

static NTSTATUS QueryValue(PRAID_ADAPTER Adapter, PCSTR SubKey, PCSTR Name, RAID_VALUE *Value)
{
    WCHAR Buffer[NAME_CHARACTERS];
    UNICODE_STRING ValueName = {0, sizeof(Buffer), Buffer};
    ULONG Length;
    NTSTATUS Status;
    HANDLE Key;

    Append(&ValueName, Name);
    Status = OpenKey(Adapter, SubKey, FALSE, &Key);
    if (NT_SUCCESS(Status)) {
        Status = ZwQueryValueKey(Key, &ValueName, KeyValuePartialInformation, Value, sizeof(*Value), &Length);
        ZwClose(Key);
    }
    return Status;
}

ULONG RaidRegistryNumber(PRAID_ADAPTER Adapter, PCSTR ValueName, ULONG Default)
{
    RAID_VALUE Value;

    if (!NT_SUCCESS(QueryValue(Adapter, "\\Parameters", ValueName, &Value)) || Value.Information.Type != REG_DWORD ||
        Value.Information.DataLength != sizeof(ULONG)) {
        return Default;
    }
    return *(ULONG UNALIGNED *)Value.Information.Data;
}

static PCSTR DeviceKey(PRAID_ADAPTER Adapter, ULONG Global, PCHAR Buffer)
{
    static const CHAR Device[] = "\\Parameters\\Device";

    if (Global) {
        return Device;
    }
    RtlCopyMemory(Buffer, Device, sizeof(Device) - 1);
    Buffer[sizeof(Device) - 1] = (CHAR)('0' + Adapter->PortNumber % 10);
    Buffer[sizeof(Device)] = 0;
    return Buffer;
}

PUCHAR NTAPI StorPortAllocateRegistryBuffer(PVOID HwDeviceExtension, PULONG Length)
{
    UNREFERENCED_PARAMETER(HwDeviceExtension);
    return *Length != 0 ? ExAllocatePoolWithTag(NonPagedPool, *Length, RAID_TAG) : NULL;
}

VOID NTAPI StorPortFreeRegistryBuffer(PVOID HwDeviceExtension, PUCHAR Buffer)
{
    UNREFERENCED_PARAMETER(HwDeviceExtension);
    ExFreePoolWithTag(Buffer, RAID_TAG);
}

/* Strings are given back in ASCII. FALSE with a length says how large the buffer must be. */
static BOOLEAN ReturnValue(RAID_VALUE *Value, PUCHAR Buffer, PULONG BufferLength)
{
    BOOLEAN Text = Value->Information.Type == REG_SZ;
    ULONG Length = Text ? Value->Information.DataLength / sizeof(WCHAR) : Value->Information.DataLength;
    BOOLEAN Fits = Length <= *BufferLength;

    *BufferLength = Length;
    for (ULONG Index = 0; Fits && Index < Length; Index++) {
        Buffer[Index] = Value->Information.Data[Text ? Index * sizeof(WCHAR) : Index];
    }
    return Fits;
}

BOOLEAN NTAPI StorPortRegistryRead(PVOID HwDeviceExtension, PUCHAR ValueName, ULONG Global, ULONG Type, PUCHAR Buffer,
                                   PULONG BufferLength)
{
    PRAID_ADAPTER Adapter = RaidAdapterOf(HwDeviceExtension);
    CHAR SubKey[32];
    RAID_VALUE Value;

    if (KeGetCurrentIrql() != PASSIVE_LEVEL ||
        !NT_SUCCESS(QueryValue(Adapter, DeviceKey(Adapter, Global, SubKey), (PCSTR)ValueName, &Value)) ||
        Value.Information.Type != Type) {
        *BufferLength = 0;
        return FALSE;
    }
    return ReturnValue(&Value, Buffer, BufferLength);
}

BOOLEAN NTAPI StorPortRegistryWrite(PVOID HwDeviceExtension, PUCHAR ValueName, ULONG Global, ULONG Type, PUCHAR Buffer,
                                    ULONG BufferLength)
{
    PRAID_ADAPTER Adapter = RaidAdapterOf(HwDeviceExtension);
    WCHAR NameBuffer[NAME_CHARACTERS];
    UNICODE_STRING Name = {0, sizeof(NameBuffer), NameBuffer};
    CHAR SubKey[32];
    NTSTATUS Status;
    HANDLE Key;

    if (KeGetCurrentIrql() != PASSIVE_LEVEL ||
        !NT_SUCCESS(OpenKey(Adapter, DeviceKey(Adapter, Global, SubKey), TRUE, &Key))) {
        return FALSE;
    }
    Append(&Name, (PCSTR)ValueName);
    Status = ZwSetValueKey(Key, &Name, 0, Type, Buffer, BufferLength);
    ZwClose(Key);
    return NT_SUCCESS(Status);
}

/* StorPortRegistryReadAdapterKey: a value of the adapter's own key, which no registry file can name here. */
ULONG RaidReadAdapterKey(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    UNREFERENCED_PARAMETER(Arguments);
    return STOR_STATUS_UNSUCCESSFUL;
}
