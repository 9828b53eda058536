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
#define ODD_SMALL_TRANSFER (16 * 1024u)
#define ODD_TIMER_MICROSECONDS 1000
#define ODD_POWER_SETTING 5 /* ScsiPowerSettingNotification */
#define ODD_LATE_MICROSECONDS (1000 * 1000)

typedef struct _ODD_EXTENSION {
    DISK_GEOMETRY Geometry;
    PUCHAR Memory;
    KSPIN_LOCK Lock; /* of what follows */
    ULONG Flushes;
    PSCSI_REQUEST_BLOCK Kept;
    PVOID Timer;
} ODD_EXTENSION, *PODD_EXTENSION;

/* Link power management and its idle time, of the DDI page of StorPortSetPowerSettingNotificationGuids. */
static GUID PowerSettings[] = {
    {0x0b2d69d7, 0xa2a1, 0x449c, {0x96, 0x80, 0xf9, 0x1c, 0x70, 0x52, 0x1c, 0x60}},
    {0xdab60367, 0x53fe, 0x4fbc, {0x82, 0x5e, 0x52, 0x1d, 0x06, 0x9d, 0x24, 0x56}},
};

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
    if (ODD == ODD_FORMATTED) {
        Extension->Memory[BLOCK_SIZE - 1] = 0xaa; /* the mark of a boot record */
    }
    ConfigInfo->VirtualDevice = TRUE;
    ConfigInfo->MaximumTransferLength = ODD == ODD_FORMATTED ? ODD_SMALL_TRANSFER : ODD_MAXIMUM_TRANSFER;
    ConfigInfo->WmiDataProvider = ODD == ODD_TELLS_CONTROLS;
    ConfigInfo->NumberOfBuses = 1;
    ConfigInfo->MaximumNumberOfTargets = 1;
    ConfigInfo->MaximumNumberOfLogicalUnits = 1;
    if (ODD == ODD_TELLS_CONTROLS && StorPortSetPowerSettingNotificationGuids(Extension, RTL_NUMBER_OF(PowerSettings),
                                                                              PowerSettings) != STOR_STATUS_SUCCESS) {
        return SP_RETURN_ERROR;
    }
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

static VOID NTAPI LateCallback(PVOID DeviceExtension, PVOID Context)
{
    UNREFERENCED_PARAMETER(DeviceExtension);
    KeBugCheckEx(ODD_BUG_CHECK_CODE, ODD, (ULONG_PTR)Context, 0, 0); /* its timer has been freed */
}

/* Completes the request that waits for it. */
static VOID NTAPI FreeingCallback(PVOID DeviceExtension, PVOID Context)
{
    PODD_EXTENSION Extension = DeviceExtension;
    PSCSI_REQUEST_BLOCK Srb = Context;

    if (StorPortFreeTimer(Extension, Extension->Timer) == STOR_STATUS_SUCCESS) {
        DiskSucceed(Srb);
    } else {
        Srb->SrbStatus = SRB_STATUS_ERROR;
    }
    StorPortNotification(RequestComplete, Extension, Srb);
}

static VOID FreeTimers(PODD_EXTENSION Extension, PSCSI_REQUEST_BLOCK Srb)
{
    KIRQL OldIrql;
    PVOID Timer;

    if (StorPortInitializeTimer(Extension, &Timer) != STOR_STATUS_SUCCESS ||
        StorPortInitializeTimer(Extension, &Extension->Timer) != STOR_STATUS_SUCCESS) {
        KeBugCheckEx(ODD_BUG_CHECK_CODE, ODD, 0, 0, 0);
    }
    StorPortRequestTimer(Extension, Timer, LateCallback, Timer, ODD_LATE_MICROSECONDS, 0);
    KeRaiseIrql(DISPATCH_LEVEL, &OldIrql);
    StorPortFreeTimer(Extension, Timer);
    KeLowerIrql(OldIrql);
    StorPortRequestTimer(Extension, Extension->Timer, FreeingCallback, Srb, ODD_TIMER_MICROSECONDS, 0);
}

/* Of the DDI pages of the timer routines. */
static VOID Expect(ULONG Step, ULONG Expected, ULONG Found)
{
    if (Expected != Found) {
        KeBugCheckEx(ODD_BUG_CHECK_CODE, ODD, Step, Expected, Found);
    }
}

static ULONG RequestTimer(PODD_EXTENSION Extension, PHW_TIMER_EX Callback, PVOID Context, ULONG Microseconds)
{
    return StorPortRequestTimer(Extension, Extension->Timer, Callback, Context, Microseconds, 0);
}

static VOID NTAPI LastCallback(PVOID DeviceExtension, PVOID Context)
{
    PODD_EXTENSION Extension = DeviceExtension;
    PSCSI_REQUEST_BLOCK Srb = Context;

    Expect(10, DISPATCH_LEVEL, KeGetCurrentIrql());
    Expect(11, STOR_STATUS_SUCCESS, StorPortFreeTimer(Extension, Extension->Timer));
    DiskSucceed(Srb);
    StorPortNotification(RequestComplete, Extension, Srb);
}

/* The timer is free again when it has come; above DISPATCH_LEVEL it is set later. */
static VOID NTAPI FirstCallback(PVOID DeviceExtension, PVOID Context)
{
    PODD_EXTENSION Extension = DeviceExtension;
    PVOID Timer;
    KIRQL OldIrql;

    KeRaiseIrql(DISPATCH_LEVEL + 1, &OldIrql);
    Expect(7, STOR_STATUS_INVALID_IRQL, StorPortInitializeTimer(Extension, &Timer));
    Expect(8, STOR_STATUS_SUCCESS, RequestTimer(Extension, LastCallback, Context, ODD_TIMER_MICROSECONDS));
    Expect(9, STOR_STATUS_BUSY, RequestTimer(Extension, LastCallback, Context, ODD_TIMER_MICROSECONDS));
    KeLowerIrql(OldIrql);
}

static VOID RequestTimers(PODD_EXTENSION Extension, PSCSI_REQUEST_BLOCK Srb)
{
    Expect(12, TRUE, StorPortGetSrb(Extension, Srb->PathId, Srb->TargetId, Srb->Lun, Srb->QueueTag) == Srb);
    Expect(13, TRUE, StorPortGetSrb(Extension, Srb->PathId, Srb->TargetId, Srb->Lun, 254) == NULL);
    Expect(14, TRUE, StorPortGetSrb(Extension, Srb->PathId, Srb->TargetId, Srb->Lun + 1, Srb->QueueTag) == NULL);
    Expect(0, STOR_STATUS_INVALID_PARAMETER, StorPortInitializeTimer(Extension, NULL));
    Expect(1, STOR_STATUS_INVALID_PARAMETER, RequestTimer(Extension, FirstCallback, Srb, ODD_TIMER_MICROSECONDS));
    Expect(2, STOR_STATUS_SUCCESS, StorPortInitializeTimer(Extension, &Extension->Timer));
    Expect(3, STOR_STATUS_INVALID_PARAMETER, RequestTimer(Extension, NULL, Srb, ODD_TIMER_MICROSECONDS));
    Expect(4, STOR_STATUS_SUCCESS, RequestTimer(Extension, LateCallback, NULL, ODD_LATE_MICROSECONDS));
    Expect(5, STOR_STATUS_BUSY, RequestTimer(Extension, FirstCallback, Srb, ODD_TIMER_MICROSECONDS));
    Expect(6, STOR_STATUS_SUCCESS, RequestTimer(Extension, LateCallback, NULL, 0));
    Expect(6, STOR_STATUS_SUCCESS, RequestTimer(Extension, FirstCallback, Srb, ODD_TIMER_MICROSECONDS));
}

static VOID NTAPI BugCheckCallback(PVOID Buffer, ULONG Length)
{
    DbgPrint("odd: called at the bug check: %lu bytes, the first is %u, IRQL %u\n", Length, *(PUCHAR)Buffer,
             KeGetCurrentIrql());
}

static VOID NTAPI DumpDataCallback(KBUGCHECK_CALLBACK_REASON Reason, PKBUGCHECK_REASON_CALLBACK_RECORD Record,
                                   PVOID ReasonSpecificData, ULONG ReasonSpecificDataLength)
{
    PKBUGCHECK_SECONDARY_DUMP_DATA Data = ReasonSpecificData;

    UNREFERENCED_PARAMETER(Record);
    DbgPrint("odd: called for reason %u: %lu bytes, room for %lu\n", Reason, ReasonSpecificDataLength,
             Data->InBufferLength);
    RtlFillMemory(Data->InBuffer, Data->InBufferLength, 0xdd);
    Data->OutBuffer = Data->InBuffer;
    Data->OutBufferLength = Data->InBufferLength;
}

static DECLSPEC_NORETURN VOID CleanUpAndEnd(PVOID Parameter)
{
    static KBUGCHECK_CALLBACK_RECORD Record, Withdrawn;
    static KBUGCHECK_REASON_CALLBACK_RECORD ReasonRecord;
    static UCHAR Buffer[24] = {7}, Component[] = "odd";

    /* Records that are all zeroes are initialized ones. */
    Expect(0, TRUE, KeRegisterBugCheckCallback(&Record, BugCheckCallback, Buffer, sizeof(Buffer), Component));
    Expect(1, FALSE, KeRegisterBugCheckCallback(&Record, BugCheckCallback, Buffer, sizeof(Buffer), Component));
    Expect(2, TRUE, KeRegisterBugCheckCallback(&Withdrawn, BugCheckCallback, Buffer, 1, Component));
    Expect(3, TRUE, KeDeregisterBugCheckCallback(&Withdrawn));
    Expect(4, FALSE, KeDeregisterBugCheckCallback(&Withdrawn));
    Expect(5, TRUE,
           KeRegisterBugCheckReasonCallback(&ReasonRecord, DumpDataCallback, KbCallbackSecondaryDumpData, Component));
    KeBugCheckEx(ODD_BUG_CHECK_CODE, ODD, (ULONG_PTR)Parameter, 0, 0);
}

/* What of its entry in the kernel's module list a driver that hides wants to change. */
typedef struct _MODULE_ENTRY {
    LIST_ENTRY InLoadOrderLinks;
    UCHAR Unused[0x48];
    UNICODE_STRING BaseDllName;
} MODULE_ENTRY;

static MODULE_ENTRY *Module;

static VOID RenameItself(VOID)
{
    static const WCHAR Name[] = L"innocent.sys";

    RtlCopyMemory(Module->BaseDllName.Buffer, Name, sizeof(Name));
    Module->BaseDllName.Length = sizeof(Name) - sizeof(WCHAR);
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
    case ODD_FREES_TIMERS:
        FreeTimers(Extension, Srb);
        return FALSE;
    case ODD_TIMES:
        RequestTimers(Extension, Srb);
        return FALSE;
    case ODD_CLEANS_UP:
        CleanUpAndEnd(Srb);
    case ODD_BUG_CHECKS:
        KeBugCheckEx(ODD_BUG_CHECK_CODE, ODD, (ULONG_PTR)Srb, 0, 0);
    case ODD_RENAMES_ITSELF:
        RenameItself();
        return TRUE;
    case ODD_LEAVES_THE_LIST:
        RemoveEntryList(&Module->InLoadOrderLinks);
        return TRUE;
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

    if (ODD == ODD_FORMATTED && (Srb->CdbLength == 16 || Srb->DataTransferLength > ODD_SMALL_TRANSFER)) {
        Srb->SrbStatus = SRB_STATUS_INVALID_REQUEST;
        return TRUE;
    }
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

static VOID TellRequest(PSCSI_REQUEST_BLOCK Srb)
{
    if (ODD != ODD_TELLS_CONTROLS) {
        return;
    }
    DbgPrint("odd: request function 0x%x at IRQL %u\n", Srb->Function, KeGetCurrentIrql());
    if (Srb->Function == SRB_FUNCTION_PNP) {
        DbgPrint("odd: PnP action 0x%x, %lu bytes\n", ((PSCSI_PNP_REQUEST_BLOCK)Srb)->PnPAction,
                 Srb->DataTransferLength);
    } else if (Srb->Function == SRB_FUNCTION_WMI) {
        DbgPrint("odd: WMI function 0x%x, flags 0x%x\n", ((PSCSI_WMI_REQUEST_BLOCK)Srb)->WMISubFunction,
                 ((PSCSI_WMI_REQUEST_BLOCK)Srb)->WMIFlags);
    }
}

/* Tells a control operation; all of them are supported, if it is this variant. */
static SCSI_ADAPTER_CONTROL_STATUS TellControl(const char *What, ULONG ControlType, PVOID Parameters)
{
    PSCSI_SUPPORTED_CONTROL_TYPE_LIST List = Parameters;

    if (ODD != ODD_TELLS_CONTROLS) {
        return ControlType == 0 ? ScsiAdapterControlSuccess : ScsiAdapterControlUnsuccessful;
    }
    DbgPrint("odd: %s control %lu at IRQL %u\n", What, ControlType, KeGetCurrentIrql());
    if (ControlType == ODD_POWER_SETTING && *What == 'a') {
        PSTOR_POWER_SETTING_INFO Setting = Parameters;

        DbgPrint("odd: power setting 0x%08x is %u, %lu bytes\n", Setting->PowerSettingGuid.Data1,
                 *(PULONG)Setting->Value, Setting->ValueLength);
    }
    for (ULONG Type = 0; ControlType == 0 && Type < List->MaxControlType; Type++) {
        ((PBOOLEAN)List->SupportedTypeList)[Type] = TRUE;
    }
    return ScsiAdapterControlSuccess;
}

static SCSI_ADAPTER_CONTROL_STATUS NTAPI HwUnitControl(PVOID DeviceExtension, ULONG ControlType, PVOID Parameters)
{
    UNREFERENCED_PARAMETER(DeviceExtension);
    return TellControl("unit", ControlType, Parameters);
}

static BOOLEAN NTAPI HwStartIo(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb)
{
    if (Srb->Function != SRB_FUNCTION_EXECUTE_SCSI) {
        TellRequest(Srb);
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
    return TellControl("adapter", ControlType, Parameters);
}

static VOID NTAPI HwFreeAdapterResources(PVOID DeviceExtension)
{
    ExFreePoolWithTag(((PODD_EXTENSION)DeviceExtension)->Memory, ODD_TAG);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    HW_INITIALIZATION_DATA Data;

    Module = DriverObject->DriverSection;
    RtlZeroMemory(&Data, sizeof(Data));
    Data.HwInitializationDataSize = VIRTUAL_HW_INITIALIZATION_DATA_SIZE;
    if (ODD == ODD_TELLS_CONTROLS) {
        Data.HwInitializationDataSize = sizeof(Data);
        Data.FeatureSupport = STOR_FEATURE_VIRTUAL_MINIPORT;
        Data.HwUnitControl = HwUnitControl;
    }
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
