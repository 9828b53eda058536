#include "adapter.h"

SCSI_ADAPTER_CONTROL_STATUS AdapterControl(PVOID DeviceExtension, SCSI_ADAPTER_CONTROL_TYPE ControlType,
                                           PVOID Parameters, STOP_ADAPTER Stop)
{
    PSCSI_SUPPORTED_CONTROL_TYPE_LIST List = Parameters;

    switch (ControlType) {
    case ScsiQuerySupportedControlTypes:
        if (List->MaxControlType > ScsiStopAdapter) {
            ((PBOOLEAN)List->SupportedTypeList)[ScsiQuerySupportedControlTypes] = TRUE;
            ((PBOOLEAN)List->SupportedTypeList)[ScsiStopAdapter] = TRUE;
        }
        return ScsiAdapterControlSuccess;
    case ScsiStopAdapter:
        Stop(DeviceExtension);
        return ScsiAdapterControlSuccess;
    default:
        return ScsiAdapterControlUnsuccessful;
    }
}

VOID AdapterData(PHW_INITIALIZATION_DATA Data, ULONG DeviceExtensionSize, ULONG SrbExtensionSize)
{
    RtlZeroMemory(Data, sizeof(*Data));
    Data->HwInitializationDataSize = sizeof(*Data);
    Data->DeviceExtensionSize = DeviceExtensionSize;
    Data->SrbExtensionSize = SrbExtensionSize;
    Data->TaggedQueuing = TRUE;
    Data->AutoRequestSense = TRUE;
    Data->MultipleRequestPerLu = TRUE;
}
