/*
 * A virtual miniport, a RAM disk of 1 MiB served in HwStartIo, that goes wrong in the way its image is named after. It
 * shows what the port driver, and who watches the machine, make of a driver that does not keep its side.
 */
#include "disk_scsi.h"
#include "variant.h"

#define ODD_TAG 0x2064644f /* "Odd " */
#define ODD_BLOCKS 2048u
#define ODD_MAXIMUM_TRANSFER (64 * 1024u)
#define ODD_BUG_CHECK_CODE 0x0D15C0DDu
#define ODD_FUNCTION_CODE 0xee

typedef struct _ODD_EXTENSION {
    DISK_GEOMETRY Geometry;
    PUCHAR Memory;
    KSPIN_LOCK Lock; /* of what follows */
    ULONG Flushes;
    PSCSI_REQUEST_BLOCK Kept;
} ODD_EXTENSION, *PODD_EXTENSION;

static ULONG NTAPI HwFindAdapter(PVOID DeviceExtension, PVOID HwContext, PVOID BusInformation, PVOID LowerDevice,
                                 PCHAR ArgumentString, PPORT_CONFIGURATION_INFORMATION ConfigInfo, PBOOLEAN Again)
{
    PODD_EXTENSION Extension = DeviceExtension;

    UNREFERENCED_PARAMETER(HwContext);
    UNREFERENCED_PARAMETER(BusInformation);
    UNREFERENCED_PARAMETER(LowerDevice);
    UNREFERENCED_PARAMETER(ArgumentString);
    Extension->Memory = ExAllocatePoolWithTag(NonPagedPool, ODD_BLOCKS * BLOCK_SIZE, ODD_TAG);
    if (Extension->Memory == NULL) {
        return SP_RETURN_ERROR;
    }
    RtlZeroMemory(Extension->Memory, ODD_BLOCKS * BLOCK_SIZE);
    KeInitializeSpinLock(&Extension->Lock);
    Extension->Geometry.Blocks = ODD_BLOCKS;
    Extension->Geometry.MaximumTransferBlocks = ODD_MAXIMUM_TRANSFER / BLOCK_SIZE;
    Extension->Geometry.Product = "Odd disk";
    ConfigInfo->VirtualDevice = TRUE;
    ConfigInfo->MaximumTransferLength = ODD_MAXIMUM_TRANSFER;
    ConfigInfo->NumberOfBuses = 1;
    ConfigInfo->MaximumNumberOfTargets = 1;
    ConfigInfo->MaximumNumberOfLogicalUnits = 1;
    *Again = FALSE;
    return SP_RETURN_FOUND;
}

static BOOLEAN NTAPI HwInitialize(PVOID DeviceExtension)
{
    UNREFERENCED_PARAMETER(DeviceExtension);
    return TRUE;
}

static ULONG CountFlush(PODD_EXTENSION Extension)
{
    ULONG Number;
    KIRQL OldIrql;

    KeAcquireSpinLock(&Extension->Lock, &OldIrql);
    Number = ++Extension->Flushes;
    KeReleaseSpinLock(&Extension->Lock, OldIrql);
    return Number;
}

static DECLSPEC_NORETURN VOID LoopAtDispatch(VOID)
{
    KIRQL OldIrql;

    KeRaiseIrql(DISPATCH_LEVEL, &OldIrql);
    for (;;) {
        __asm__ volatile("pause");
    }
}

/* FALSE: the request is not to be completed. */
static BOOLEAN GoWrong(PODD_EXTENSION Extension, PSCSI_REQUEST_BLOCK Srb)
{
    switch (ODD) {
    case ODD_UNKNOWN_FUNCTION:
        for (ULONG Time = 0; Time < 3; Time++) {
            if (StorPortExtendedFunction((STORPORT_FUNCTION_CODE)ODD_FUNCTION_CODE, Extension, Srb) !=
                STOR_STATUS_NOT_IMPLEMENTED) {
                KeBugCheckEx(ODD_BUG_CHECK_CODE, ODD, 0, 0, 0);
            }
        }
        return TRUE;
    case ODD_NEVER_COMPLETES:
    case ODD_COMPLETES_AT_RESET:
        Extension->Kept = Srb;
        return FALSE;
    case ODD_BUG_CHECKS:
        KeBugCheckEx(ODD_BUG_CHECK_CODE, ODD, (ULONG_PTR)Srb, 0, 0);
    case ODD_LOOPS_AT_DISPATCH:
        LoopAtDispatch();
    default:
        return TRUE;
    }
}

static BOOLEAN Serve(PODD_EXTENSION Extension, PSCSI_REQUEST_BLOCK Srb)
{
    DISK_RANGE Ranges[MAX_UNMAP_RANGES];
    LONG Count;

    switch (DiskDecode(&Extension->Geometry, Srb, Ranges)) {
    case DiskAnswered:
        return TRUE;
    case DiskOutOfRange:
        DiskFail(Srb, SCSI_SENSE_ILLEGAL_REQUEST, 0x21);
        return TRUE;
    case DiskRead:
        RtlCopyMemory(Srb->DataBuffer, Extension->Memory + Ranges[0].Lba * BLOCK_SIZE, Ranges[0].Blocks * BLOCK_SIZE);
        break;
    case DiskWrite:
        RtlCopyMemory(Extension->Memory + Ranges[0].Lba * BLOCK_SIZE, Srb->DataBuffer, Ranges[0].Blocks * BLOCK_SIZE);
        break;
    case DiskUnmap:
        Count = DiskUnmapRanges(&Extension->Geometry, Srb, Ranges);
        for (LONG Index = 0; Index < Count; Index++) {
            RtlZeroMemory(Extension->Memory + Ranges[Index].Lba * BLOCK_SIZE, Ranges[Index].Blocks * BLOCK_SIZE);
        }
        break;
    case DiskFlush:
        if (CountFlush(Extension) == 1 && !GoWrong(Extension, Srb)) {
            return FALSE;
        }
        break;
    default:
        DiskFail(Srb, SCSI_SENSE_ILLEGAL_REQUEST, SCSI_ADSENSE_ILLEGAL_COMMAND);
        return TRUE;
    }
    DiskSucceed(Srb);
    return TRUE;
}

static BOOLEAN NTAPI HwStartIo(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb)
{
    if (Srb->Function != SRB_FUNCTION_EXECUTE_SCSI) {
        Srb->SrbStatus = SRB_STATUS_SUCCESS;
    } else if (!Serve(DeviceExtension, Srb)) {
        return TRUE;
    }
    StorPortNotification(RequestComplete, DeviceExtension, Srb);
    return TRUE;
}

static BOOLEAN NTAPI HwResetBus(PVOID DeviceExtension, ULONG PathId)
{
    PODD_EXTENSION Extension = DeviceExtension;

    UNREFERENCED_PARAMETER(PathId);
    if (ODD == ODD_COMPLETES_AT_RESET && Extension->Kept != NULL) {
        Extension->Kept->SrbStatus = SRB_STATUS_SUCCESS;
        StorPortNotification(RequestComplete, Extension, Extension->Kept);
        Extension->Kept = NULL;
    }
    return TRUE;
}

static SCSI_ADAPTER_CONTROL_STATUS NTAPI HwAdapterControl(PVOID DeviceExtension, SCSI_ADAPTER_CONTROL_TYPE ControlType,
                                                          PVOID Parameters)
{
    UNREFERENCED_PARAMETER(DeviceExtension);
    UNREFERENCED_PARAMETER(Parameters);
    return ControlType == ScsiQuerySupportedControlTypes ? ScsiAdapterControlSuccess : ScsiAdapterControlUnsuccessful;
}

static VOID NTAPI HwFreeAdapterResources(PVOID DeviceExtension)
{
    ExFreePoolWithTag(((PODD_EXTENSION)DeviceExtension)->Memory, ODD_TAG);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    HW_INITIALIZATION_DATA Data;

    RtlZeroMemory(&Data, sizeof(Data));
    Data.HwInitializationDataSize = VIRTUAL_HW_INITIALIZATION_DATA_SIZE;
    Data.AdapterInterfaceType = Internal;
    Data.HwInitialize = HwInitialize;
    Data.HwStartIo = HwStartIo;
    Data.VirtualHwFindAdapter = HwFindAdapter;
    Data.HwResetBus = HwResetBus;
    Data.HwAdapterControl = HwAdapterControl;
    Data.HwFreeAdapterResources = HwFreeAdapterResources;
    Data.DeviceExtensionSize = sizeof(ODD_EXTENSION);
    Data.MapBuffers = 1;
    Data.TaggedQueuing = TRUE;
    Data.AutoRequestSense = TRUE;
    Data.MultipleRequestPerLu = TRUE;
    return (NTSTATUS)StorPortInitialize(DriverObject, RegistryPath, &Data, NULL);
}
