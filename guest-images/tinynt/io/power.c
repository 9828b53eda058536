/*
 * power.c - the power manager's requests. The machine is on until it is off: device power changes only at the end.
 */
#include "io_internal.h"

POWER_STATE PoSetPowerState(PDEVICE_OBJECT DeviceObject, POWER_STATE_TYPE Type, POWER_STATE State)
{
    POWER_STATE before;

    before.SystemState = PowerSystemWorking;
    if (Type == DevicePowerState)
        before.DeviceState = PowerDeviceD0;
    return before;
}

NTSTATUS PoRequestPowerIrp(PDEVICE_OBJECT DeviceObject, UCHAR MinorFunction, POWER_STATE PowerState,
                           PREQUEST_POWER_COMPLETE CompletionFunction, PVOID Context, PIRP *Irp)
{
    return STATUS_NOT_SUPPORTED;
}

NTSTATUS PoRegisterPowerSettingCallback(PDEVICE_OBJECT DeviceObject, LPCGUID SettingGuid,
                                        PPOWER_SETTING_CALLBACK Callback, PVOID Context, PVOID *Handle)
{
    if (Handle)
        *Handle = (PVOID)SettingGuid;
    return STATUS_SUCCESS;
}

NTSTATUS PoUnregisterPowerSettingCallback(PVOID Handle)
{
    return STATUS_SUCCESS;
}

/* Idle detection is off: a NULL is what the routine returns where it is not in use. */
PULONG PoRegisterDeviceForIdleDetection(PDEVICE_OBJECT DeviceObject, ULONG ConservationIdleTime,
                                        ULONG PerformanceIdleTime, DEVICE_POWER_STATE State)
{
    return NULL;
}
