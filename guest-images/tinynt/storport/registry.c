/* The miniport's parameters: StorPortRegistryRead and what goes with it, over the service key's Parameters. */
#include "raid.h"

ULONG RaidRegistryNumber(PRAID_ADAPTER Adapter, PCSTR ValueName, ULONG Default)
{
    return Default;
}

ULONG RaidReadAdapterKey(PRAID_ADAPTER Adapter, va_list Arguments)
{
    return STOR_STATUS_UNSUCCESSFUL;
}

PUCHAR NTAPI StorPortAllocateRegistryBuffer(PVOID HwDeviceExtension, PULONG Length)
{
    return ExAllocatePoolWithTag(NonPagedPool, *Length, RAID_TAG);
}

VOID NTAPI StorPortFreeRegistryBuffer(PVOID HwDeviceExtension, PUCHAR Buffer)
{
    ExFreePoolWithTag(Buffer, RAID_TAG);
}

BOOLEAN NTAPI StorPortRegistryRead(PVOID HwDeviceExtension, PUCHAR ValueName, ULONG Global, ULONG Type, PUCHAR Buffer,
                                   PULONG BufferLength)
{
    *BufferLength = 0;
    return FALSE;
}

BOOLEAN NTAPI StorPortRegistryWrite(PVOID HwDeviceExtension, PUCHAR ValueName, ULONG Global, ULONG Type, PUCHAR Buffer,
                                    ULONG BufferLength)
{
    return FALSE;
}
