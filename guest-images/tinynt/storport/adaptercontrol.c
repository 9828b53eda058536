/*
 * HwAdapterControl and HwUnitControl: which operations the miniport has, and the operations of start and end; and the
 * requests by which the port driver asks for PnP capabilities and WMI registration once a unit is there.
 */
#include "raid.h"

#define CONTROL_SECONDS 10
#define WMI_REGISTRATION_BYTES 4096
#define STOR_QUERY_CAPABILITIES 0x09 /* STOR_PNP_ACTION */
#define WMI_REGINFO_EX 0x0b          /* IRP_MN_REGINFO_EX */

/* Values of SCSI_ADAPTER_CONTROL_TYPE and SCSI_UNIT_CONTROL_TYPE that mingw lacks. */
#define ADAPTER_POWER_SETTING 5
#define ADAPTER_POWER 6
#define UNIT_START 2
#define UNIT_POWER 3

/* STOR_ADAPTER_CONTROL_POWER and STOR_UNIT_CONTROL_POWER. */
typedef struct _RAID_ADAPTER_POWER {
    ULONG Size;
    STOR_POWER_ACTION PowerAction;
    STOR_DEVICE_POWER_STATE PowerState;
} RAID_ADAPTER_POWER;

typedef struct _RAID_UNIT_POWER {
    PSTOR_ADDR_BTL8 Address;
    STOR_POWER_ACTION PowerAction;
    STOR_DEVICE_POWER_STATE PowerState;
} RAID_UNIT_POWER;

/* STOR_DEVICE_CAPABILITIES_EX: its bits, then the numbers of the slot. */
typedef struct _RAID_CAPABILITIES {
    USHORT Version;
    USHORT Size;
    ULONG Bits;
    ULONG Address;
    ULONG UINumber;
    ULONG Reserved[2];
} RAID_CAPABILITIES;

_Static_assert(sizeof(RAID_CAPABILITIES) == 0x18, "STOR_DEVICE_CAPABILITIES_EX");

typedef struct _RAID_CONTROL_QUERY {
    SCSI_SUPPORTED_CONTROL_TYPE_LIST List;
    BOOLEAN Supported[RAID_CONTROL_TYPES];
} RAID_CONTROL_QUERY;

/* After the adapter has been initialized and before the first request, at PASSIVE_LEVEL. */
VOID RaidQueryControlTypes(PRAID_ADAPTER Adapter)
{
    RAID_CONTROL_QUERY Query;

    if (Adapter->Hw.HwAdapterControl != NULL) {
        RtlZeroMemory(&Query, sizeof(Query));
        Query.List.MaxControlType = RAID_CONTROL_TYPES;
        Adapter->Hw.HwAdapterControl(Adapter->HwExtension, ScsiQuerySupportedControlTypes, &Query.List);
        RtlCopyMemory(Adapter->AdapterControls, Query.List.SupportedTypeList, sizeof(Adapter->AdapterControls));
    }
    if (Adapter->Hw.HwUnitControl != NULL) {
        RtlZeroMemory(&Query, sizeof(Query));
        Query.List.MaxControlType = RAID_UNIT_CONTROL_TYPES;
        Adapter->Hw.HwUnitControl(Adapter->HwExtension, 0, &Query.List);
        RtlCopyMemory(Adapter->UnitControls, Query.List.SupportedTypeList, sizeof(Adapter->UnitControls));
    }
}

/* StorPortSetPowerSettingNotificationGuids, from HwFindAdapter; each call replaces what was registered before. */
ULONG RaidSetPowerSettingGuids(PRAID_ADAPTER Adapter, va_list Arguments)
{
    ULONG Count = va_arg(Arguments, ULONG);
    const GUID *Guids = va_arg(Arguments, const GUID *);

    if (Count > RAID_MAX_POWER_SETTINGS) {
        return STOR_STATUS_INSUFFICIENT_RESOURCES;
    }
    if (Count != 0 && Guids == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    RtlCopyMemory(Adapter->PowerSettings, Guids, Count * sizeof(*Guids));
    Adapter->PowerSettingCount = Count;
    return STOR_STATUS_SUCCESS;
}

/*
 * Whoever registers for a setting is told its value at once; after that nothing changes here, for nobody sets power
 * options. All are at index 0, which for those of the DDI page means no link power management. At PASSIVE_LEVEL.
 */
VOID RaidTellPowerSettings(PRAID_ADAPTER Adapter)
{
    for (ULONG Index = 0; Index < Adapter->PowerSettingCount && Adapter->AdapterControls[ADAPTER_POWER_SETTING];
         Index++) {
        ULONG Value = 0;
        STOR_POWER_SETTING_INFO Setting = {Adapter->PowerSettings[Index], &Value, sizeof(Value)};

        Adapter->Hw.HwAdapterControl(Adapter->HwExtension, (SCSI_ADAPTER_CONTROL_TYPE)ADAPTER_POWER_SETTING, &Setting);
    }
}

static STOR_ADDR_BTL8 AddressOf(PRAID_UNIT Unit)
{
    STOR_ADDR_BTL8 Address = {.Type = STOR_ADDRESS_TYPE_BTL8, .AddressLength = STOR_ADDR_BTL8_ADDRESS_LENGTH};

    Address.Port = (USHORT)Unit->Adapter->PortNumber;
    Address.Path = Unit->PathId;
    Address.Target = Unit->TargetId;
    Address.Lun = Unit->Lun;
    return Address;
}

VOID RaidUnitStart(PRAID_UNIT Unit)
{
    STOR_ADDR_BTL8 Address = AddressOf(Unit);

    if (Unit->Adapter->UnitControls[UNIT_START]) {
        Unit->Adapter->Hw.HwUnitControl(Unit->Adapter->HwExtension, UNIT_START, &Address);
    }
}

/* A miniport that has the control operation gets no request for it. */
VOID RaidUnitPowerDown(PRAID_UNIT Unit)
{
    STOR_ADDR_BTL8 Address = AddressOf(Unit);
    RAID_UNIT_POWER Power = {&Address, StorPowerActionShutdownOff, StorPowerDeviceD3};

    if (Unit->Adapter->UnitControls[UNIT_POWER] && Unit->Adapter->Started && !Unit->Adapter->Stopped) {
        Unit->Adapter->Hw.HwUnitControl(Unit->Adapter->HwExtension, UNIT_POWER, &Power);
    }
}

VOID RaidAdapterPowerDown(PRAID_ADAPTER Adapter)
{
    RAID_ADAPTER_POWER Power = {sizeof(Power), StorPowerActionShutdownOff, StorPowerDeviceD3};
    SCSI_REQUEST_BLOCK Srb;
    PSCSI_POWER_REQUEST_BLOCK Request = (PSCSI_POWER_REQUEST_BLOCK)&Srb;

    if (Adapter->AdapterControls[ADAPTER_POWER]) {
        Adapter->Hw.HwAdapterControl(Adapter->HwExtension, (SCSI_ADAPTER_CONTROL_TYPE)ADAPTER_POWER, &Power);
        return;
    }
    if (Adapter->UnitCount == 0 || Adapter->Virtual) {
        return;
    }
    RaidInitializeSrb(&Srb, SRB_FUNCTION_POWER, CONTROL_SECONDS);
    Srb.SrbFlags |= SRB_FLAGS_BYPASS_LOCKED_QUEUE;
    Request->SrbPowerFlags = SRB_POWER_FLAGS_ADAPTER_REQUEST;
    Request->DevicePowerState = StorPowerDeviceD3;
    Request->PowerAction = StorPowerActionShutdownOff;
    RaidSendSrb(Adapter->Units[0], &Srb);
}

/* With the interrupt lock held, as documented, where the adapter has interrupts. */
VOID RaidStopMiniport(PRAID_ADAPTER Adapter)
{
    KIRQL OldIrql;

    if (!Adapter->AdapterControls[ScsiStopAdapter]) {
        return;
    }
    if (Adapter->Virtual) {
        Adapter->Hw.HwAdapterControl(Adapter->HwExtension, ScsiStopAdapter, NULL);
        return;
    }
    OldIrql = RaidAcquireInterruptLock(Adapter);
    Adapter->Hw.HwAdapterControl(Adapter->HwExtension, ScsiStopAdapter, NULL);
    RaidReleaseInterruptLock(Adapter, OldIrql);
}

/* What may be told of a unit beside its INQUIRY data; a miniport that has nothing to tell refuses. */
VOID RaidQueryCapabilities(PRAID_UNIT Unit)
{
    RAID_CAPABILITIES Capabilities = {.Version = 1, .Size = sizeof(Capabilities)};
    SCSI_REQUEST_BLOCK Srb;
    PSCSI_PNP_REQUEST_BLOCK Pnp = (PSCSI_PNP_REQUEST_BLOCK)&Srb;

    RaidInitializeSrb(&Srb, SRB_FUNCTION_PNP, CONTROL_SECONDS);
    Srb.SrbFlags |= SRB_FLAGS_DATA_IN;
    Pnp->PnPAction = STOR_QUERY_CAPABILITIES;
    Pnp->DataBuffer = &Capabilities;
    Pnp->DataTransferLength = sizeof(Capabilities);
    RaidSendSrb(Unit, &Srb);
}

/* A miniport that says it provides WMI data is asked which; what it answers is not collected. */
VOID RaidRegisterWmi(PRAID_ADAPTER Adapter)
{
    SCSI_REQUEST_BLOCK Srb;
    PSCSI_WMI_REQUEST_BLOCK Wmi = (PSCSI_WMI_REQUEST_BLOCK)&Srb;
    PVOID Buffer;

    if (!Adapter->Config.WmiDataProvider || Adapter->UnitCount == 0) {
        return;
    }
    Buffer = ExAllocatePoolWithTag(NonPagedPool, WMI_REGISTRATION_BYTES, RAID_TAG);
    if (Buffer == NULL) {
        return;
    }
    RtlZeroMemory(Buffer, WMI_REGISTRATION_BYTES);
    RaidInitializeSrb(&Srb, SRB_FUNCTION_WMI, CONTROL_SECONDS);
    Srb.SrbFlags |= SRB_FLAGS_DATA_IN;
    Wmi->WMISubFunction = WMI_REGINFO_EX;
    Wmi->WMIFlags = SRB_WMI_FLAGS_ADAPTER_REQUEST;
    Wmi->DataPath = NULL; /* WMIREGISTER */
    Wmi->DataBuffer = Buffer;
    Wmi->DataTransferLength = WMI_REGISTRATION_BYTES;
    RaidSendSrb(Adapter->Units[0], &Srb);
    ExFreePoolWithTag(Buffer, RAID_TAG);
}
