/* Extended functions for requests and for the devices that they come through. */
#include "raid.h"

#define NORMAL_PRIORITY 2 /* StorIoPriorityNormal */

/* Where the buffer is in system space; all buffers are mapped here. */
ULONG RaidGetSystemAddress(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PRAID_REQUEST Request = RaidRequestOf(va_arg(Arguments, PSCSI_REQUEST_BLOCK));
    PVOID *Address = va_arg(Arguments, PVOID *);

    UNREFERENCED_PARAMETER(Adapter);
    if (Request == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    *Address = Request->Srb->DataBuffer;
    return *Address != NULL ? STOR_STATUS_SUCCESS : STOR_STATUS_UNSUCCESSFUL;
}

ULONG RaidGetOriginalMdl(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PRAID_REQUEST Request = RaidRequestOf(va_arg(Arguments, PSCSI_REQUEST_BLOCK));
    PVOID *Mdl = va_arg(Arguments, PVOID *);

    UNREFERENCED_PARAMETER(Adapter);
    if (Request == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    *Mdl = Request->Irp->MdlAddress;
    return *Mdl != NULL ? STOR_STATUS_SUCCESS : STOR_STATUS_UNSUCCESSFUL;
}

ULONG RaidCompleteServiceIrp(PRAID_ADAPTER Adapter, va_list Arguments)
{
    UNREFERENCED_PARAMETER(Adapter);
    IoCompleteRequest(va_arg(Arguments, PIRP), IO_NO_INCREMENT);
    return STOR_STATUS_SUCCESS;
}

ULONG RaidGetDeviceObjects(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PVOID *AdapterDevice = va_arg(Arguments, PVOID *);
    PVOID *PhysicalDevice = va_arg(Arguments, PVOID *);
    PVOID *LowerDevice = va_arg(Arguments, PVOID *);

    *AdapterDevice = Adapter->DeviceObject;
    *PhysicalDevice = Adapter->PhysicalDevice;
    *LowerDevice = Adapter->LowerDevice;
    return STOR_STATUS_SUCCESS;
}

ULONG RaidGetRequestInfo(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PRAID_REQUEST Request = RaidRequestOf(va_arg(Arguments, PSCSI_REQUEST_BLOCK));
    PSTOR_REQUEST_INFO Information = va_arg(Arguments, PSTOR_REQUEST_INFO);

    UNREFERENCED_PARAMETER(Adapter);
    if (Request == NULL || Information == NULL || Information->Size < sizeof(*Information)) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    Information->PriorityHint = NORMAL_PRIORITY;
    Information->Flags = 0;
    Information->Key = 0;
    Information->Length = Request->Srb->DataTransferLength;
    Information->IsWriteRequest = (Request->Srb->SrbFlags & SRB_FLAGS_DATA_OUT) != 0;
    return STOR_STATUS_SUCCESS;
}

/* No tracing session gives requests an activity. */
ULONG RaidGetActivityId(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PSCSI_REQUEST_BLOCK Srb = va_arg(Arguments, PSCSI_REQUEST_BLOCK);
    LPGUID Activity = va_arg(Arguments, LPGUID);

    UNREFERENCED_PARAMETER(Adapter);
    UNREFERENCED_PARAMETER(Srb);
    RtlZeroMemory(Activity, sizeof(*Activity));
    return STOR_STATUS_UNSUCCESSFUL;
}

ULONG RaidGetPortNumber(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PSTOR_ADDR_BTL8 Address = va_arg(Arguments, PSTOR_ADDR_BTL8);

    if (Address == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    Address->Port = (USHORT)Adapter->PortNumber;
    return STOR_STATUS_SUCCESS;
}

ULONG RaidGetPfns(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PRAID_REQUEST Request = RaidRequestOf(va_arg(Arguments, PSCSI_REQUEST_BLOCK));
    PMDL Mdl = va_arg(Arguments, PMDL);
    PVOID *Pfns = va_arg(Arguments, PVOID *);
    PULONG Count = va_arg(Arguments, PULONG);
    PULONG Offset = va_arg(Arguments, PULONG);

    UNREFERENCED_PARAMETER(Adapter);
    if (Mdl == NULL && Request != NULL) {
        Mdl = Request->Irp->MdlAddress;
    }
    if (Mdl == NULL) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    *Pfns = MmGetMdlPfnArray(Mdl);
    *Count = ADDRESS_AND_SIZE_TO_SPAN_PAGES(MmGetMdlVirtualAddress(Mdl), MmGetMdlByteCount(Mdl));
    *Offset = MmGetMdlByteOffset(Mdl);
    return STOR_STATUS_SUCCESS;
}

ULONG RaidUpdateMaxIo(PRAID_ADAPTER Adapter, va_list Arguments)
{
    Adapter->Config.MaxNumberOfIO = va_arg(Arguments, ULONG);
    return STOR_STATUS_SUCCESS;
}
