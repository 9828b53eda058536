/* What the set-up of all miniports here has in common. It knows neither locks nor hardware. */
#ifndef ADAPTER_H
#define ADAPTER_H

#include "storport_ddk.h"

typedef VOID (*STOP_ADAPTER)(PVOID DeviceExtension);

/* HwAdapterControl of a miniport that only knows how to stop. */
SCSI_ADAPTER_CONTROL_STATUS AdapterControl(PVOID DeviceExtension, SCSI_ADAPTER_CONTROL_TYPE ControlType,
                                           PVOID Parameters, STOP_ADAPTER Stop);

/* Begins the initialization data of a miniport whose units take several tagged requests and get their sense at once. */
VOID AdapterData(PHW_INITIALIZATION_DATA Data, ULONG DeviceExtensionSize, ULONG SrbExtensionSize);

#endif
