/* Finding disks among the started devices, asking for their limits, and stopping them in good order. */
#include "workload.h"

#include <ntddscsi.h>

#define VPD_BLOCK_LIMITS_PAGE 0xb0
#define VPD_PROVISIONING_PAGE 0xb2
#define DEFAULT_MAXIMUM_BLOCKS 128

static ULONG Get32(const UCHAR *Bytes)
{
    return (ULONG)Bytes[0] << 24 | (ULONG)Bytes[1] << 16 | (ULONG)Bytes[2] << 8 | Bytes[3];
}

static NTSTATUS NTAPI SignalCompletion(PDEVICE_OBJECT DeviceObject, PIRP Irp, PVOID Context)
{
    UNREFERENCED_PARAMETER(DeviceObject);
    UNREFERENCED_PARAMETER(Irp);
    KeSetEvent(Context, IO_NO_INCREMENT, FALSE);
    return STATUS_MORE_PROCESSING_REQUIRED;
}

/* Sends one IRP whose first stack location is given, and waits. */
static NTSTATUS SendIrp(PDEVICE_OBJECT Device, const IO_STACK_LOCATION *Location, ULONG_PTR *Information)
{
    PIRP Irp = IoAllocateIrp(Device->StackSize, FALSE);
    PIO_STACK_LOCATION Stack;
    NTSTATUS Status;
    KEVENT Event;

    if (Irp == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    KeInitializeEvent(&Event, NotificationEvent, FALSE);
    Irp->IoStatus.Status = STATUS_NOT_SUPPORTED;
    Stack = IoGetNextIrpStackLocation(Irp);
    Stack->MajorFunction = Location->MajorFunction;
    Stack->MinorFunction = Location->MinorFunction;
    Stack->Parameters = Location->Parameters;
    IoSetCompletionRoutine(Irp, SignalCompletion, &Event, TRUE, TRUE, TRUE);
    IoCallDriver(Device, Irp);
    KeWaitForSingleObject(&Event, Executive, KernelMode, FALSE, NULL);
    Status = Irp->IoStatus.Status;
    *Information = Irp->IoStatus.Information;
    IoFreeIrp(Irp);
    return Status;
}

/* A buffered request that only reads; FALSE if it is refused. */
static BOOLEAN DeviceControl(PDEVICE_OBJECT Device, ULONG Code, PVOID Buffer, ULONG Length)
{
    IO_STATUS_BLOCK Result;
    KEVENT Event;
    PIRP Irp;

    KeInitializeEvent(&Event, NotificationEvent, FALSE);
    Irp = IoBuildDeviceIoControlRequest(Code, Device, NULL, 0, Buffer, Length, FALSE, &Event, &Result);
    if (Irp == NULL) {
        return FALSE;
    }
    if (IoCallDriver(Device, Irp) == STATUS_PENDING) {
        KeWaitForSingleObject(&Event, Executive, KernelMode, FALSE, NULL);
    }
    return NT_SUCCESS(Result.Status);
}

/* Sends a six- to sixteen-byte CDB that reads; bug-checks on failure if Required. */
static BOOLEAN Query(PWORKLOAD_DISK Disk, const UCHAR *Cdb, UCHAR CdbLength, PVOID Buffer, ULONG Length,
                     BOOLEAN Required)
{
    WORKLOAD_COMMAND Command;
    UCHAR Status;

    if (!CommandInitialize(&Command, Disk)) {
        return FALSE;
    }
    CommandPrepare(&Command, SRB_FUNCTION_EXECUTE_SCSI, Buffer, Length, FALSE);
    RtlCopyMemory(Command.Srb.Cdb, Cdb, CdbLength);
    Command.Srb.CdbLength = CdbLength;
    CommandSendAndWait(&Command);
    Status = CommandRetry(&Command);
    if (Status != SRB_STATUS_SUCCESS && Status != SRB_STATUS_DATA_OVERRUN && Required) {
        CommandBugCheck(&Command);
    }
    CommandFree(&Command);
    return Status == SRB_STATUS_SUCCESS || Status == SRB_STATUS_DATA_OVERRUN;
}

/* What the adapter can take, as the port driver has it of the miniport: bytes and pages of one transfer. */
static VOID ReadCapabilities(PWORKLOAD_DISK Disk)
{
    IO_SCSI_CAPABILITIES Capabilities;
    ULONG Bytes;

    RtlZeroMemory(&Capabilities, sizeof(Capabilities));
    if (!DeviceControl(Disk->Adapter, IOCTL_SCSI_GET_CAPABILITIES, &Capabilities, sizeof(Capabilities))) {
        return;
    }
    Bytes = Capabilities.MaximumTransferLength;
    if (Capabilities.MaximumPhysicalPages > 1 && Capabilities.MaximumPhysicalPages - 1 < Bytes / PAGE_SIZE) {
        Bytes = (Capabilities.MaximumPhysicalPages - 1) * PAGE_SIZE; /* buffers need not begin on a page */
    }
    if (Bytes >= BLOCK_SIZE && Bytes / BLOCK_SIZE < Disk->MaximumBlocks) {
        Disk->MaximumBlocks = Bytes / BLOCK_SIZE;
    }
}

/* Windows sends READ(16) and WRITE(16) where an address asks for them, so that a unit may do without. */
static VOID ReadFirstBlock(PWORKLOAD_DISK Disk, PUCHAR Buffer)
{
    const UCHAR Read16[16] = {SCSIOP_READ16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    const UCHAR Read10[10] = {SCSIOP_READ, 0, 0, 0, 0, 0, 0, 0, 1};

    Disk->ShortCommands = !Query(Disk, Read16, sizeof(Read16), Buffer, BLOCK_SIZE, FALSE);
    if (Disk->ShortCommands) {
        DbgPrint("workload: READ(16) is refused, READ(10) and WRITE(10) are used instead\n");
        Query(Disk, Read10, sizeof(Read10), Buffer, BLOCK_SIZE, TRUE);
    }
}

static VOID ReadLimits(PWORKLOAD_DISK Disk, PUCHAR Buffer)
{
    const UCHAR Limits[6] = {SCSIOP_INQUIRY, 1, VPD_BLOCK_LIMITS_PAGE, 0, 64, 0};
    const UCHAR Provisioning[6] = {SCSIOP_INQUIRY, 1, VPD_PROVISIONING_PAGE, 0, 64, 0};

    Disk->MaximumBlocks = DEFAULT_MAXIMUM_BLOCKS;
    RtlZeroMemory(Buffer, 64);
    if (Query(Disk, Limits, sizeof(Limits), Buffer, 64, FALSE) && Get32(&Buffer[8]) != 0) {
        Disk->MaximumBlocks = Get32(&Buffer[8]);
    }
    ReadCapabilities(Disk);
    ReadFirstBlock(Disk, Buffer);
    RtlZeroMemory(Buffer, 64);
    if (Query(Disk, Provisioning, sizeof(Provisioning), Buffer, 64, FALSE)) {
        Disk->UnmapZeroes = (Buffer[5] & 0x84) == 0x84;
    }
}

/* READ CAPACITY(10), and (16) where that does not suffice or for its own sake. */
static VOID ReadCapacity(PWORKLOAD_DISK Disk, PUCHAR Buffer)
{
    const UCHAR Capacity10[10] = {SCSIOP_READ_CAPACITY};
    const UCHAR Capacity16[16] = {SCSIOP_READ_CAPACITY16, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32};

    Query(Disk, Capacity10, sizeof(Capacity10), Buffer, 8, TRUE);
    Disk->Blocks = (ULONG64)Get32(Buffer) + 1;
    if (Get32(&Buffer[4]) != BLOCK_SIZE) {
        KeBugCheckEx(WORKLOAD_IO_FAILED, SCSIOP_READ_CAPACITY, 0, SRB_STATUS_SUCCESS, Get32(&Buffer[4]));
    }
    if (Query(Disk, Capacity16, sizeof(Capacity16), Buffer, 32, FALSE)) {
        Disk->Blocks = ((ULONG64)Get32(Buffer) << 32 | Get32(&Buffer[4])) + 1;
    }
}

/* FALSE if the blocks are all zero. What cannot be read may be anything. */
static BOOLEAN HasData(PWORKLOAD_COMMAND Command, ULONG64 Block, ULONG Blocks, PVOID Buffer)
{
    const ULONG64 *Words = Buffer;

    CommandPrepareTransfer(Command, Block, Blocks, Buffer, FALSE);
    CommandSendAndWait(Command);
    if (CommandRetry(Command) != SRB_STATUS_SUCCESS) {
        return TRUE;
    }
    for (ULONG Index = 0; Index < Blocks * (BLOCK_SIZE / sizeof(ULONG64)); Index++) {
        if (Words[Index] != 0) {
            return TRUE;
        }
    }
    return FALSE;
}

/*
 * Whether the miniport, or an earlier run, has written to what is worked on. One that was killed has left anything
 * anywhere.
 */
VOID DiskLookForData(PWORKLOAD_DISK Disk)
{
    ULONG64 End = (ULONG64)Disk->Threads * Disk->SpanBlocks;
    ULONG Step = Disk->MaximumBlocks < DEFAULT_MAXIMUM_BLOCKS ? Disk->MaximumBlocks : DEFAULT_MAXIMUM_BLOCKS;
    PVOID Buffer = ExAllocatePoolWithTag(NonPagedPool, Step * BLOCK_SIZE, WORKLOAD_TAG);
    WORKLOAD_COMMAND Command;

    if (Buffer == NULL || !CommandInitialize(&Command, Disk)) {
        KeBugCheckEx(WORKLOAD_IO_FAILED, 0, 0, 0, (ULONG)STATUS_INSUFFICIENT_RESOURCES);
    }
    for (ULONG64 Block = 0; Block < End && !Disk->Used; Block += Step) {
        Disk->Used = HasData(&Command, Block, End - Block < Step ? (ULONG)(End - Block) : Step, Buffer);
    }
    CommandFree(&Command);
    ExFreePoolWithTag(Buffer, WORKLOAD_TAG);
}

static BOOLEAN Claim(PWORKLOAD_DISK Disk)
{
    WORKLOAD_COMMAND Command;
    UCHAR Status;

    if (!CommandInitialize(&Command, Disk)) {
        return FALSE;
    }
    CommandPrepare(&Command, SRB_FUNCTION_CLAIM_DEVICE, NULL, 0, FALSE);
    Status = CommandSendAndWait(&Command);
    CommandFree(&Command);
    return Status == SRB_STATUS_SUCCESS;
}

static VOID StartUnit(PDEVICE_OBJECT Unit)
{
    IO_STACK_LOCATION Location = {.MajorFunction = IRP_MJ_PNP, .MinorFunction = IRP_MN_START_DEVICE};
    ULONG_PTR Information;

    SendIrp(Unit, &Location, &Information);
}

static ULONG AddUnits(PDEVICE_OBJECT Adapter, PDEVICE_RELATIONS Relations, PWORKLOAD_DISK Disks, ULONG Maximum)
{
    PUCHAR Buffer = ExAllocatePoolWithTag(NonPagedPool, BLOCK_SIZE, WORKLOAD_TAG);
    ULONG Count = 0;

    for (ULONG Index = 0; Buffer != NULL && Index < Relations->Count && Count < Maximum; Index++) {
        PWORKLOAD_DISK Disk = &Disks[Count];

        RtlZeroMemory(Disk, sizeof(*Disk));
        Disk->Adapter = Adapter;
        Disk->Unit = Relations->Objects[Index];
        StartUnit(Disk->Unit);
        if (!Claim(Disk)) {
            continue;
        }
        ReadCapacity(Disk, Buffer);
        ReadLimits(Disk, Buffer);
        Count++;
    }
    if (Buffer != NULL) {
        ExFreePoolWithTag(Buffer, WORKLOAD_TAG);
    }
    return Count;
}

ULONG DiskFindAll(PWORKLOAD_DISK Disks, ULONG Maximum)
{
    IO_STACK_LOCATION Location = {.MajorFunction = IRP_MJ_PNP, .MinorFunction = IRP_MN_QUERY_DEVICE_RELATIONS};
    NTSTATUS Status = STATUS_SUCCESS;
    PDEVICE_OBJECT Adapter;
    ULONG_PTR Relations;
    ULONG Count = 0, Index;

    Location.Parameters.QueryDeviceRelations.Type = BusRelations;
    for (Index = 0; (Adapter = PnpGetStartedDevice(Index)) != NULL; Index++) {
        Status = SendIrp(Adapter, &Location, &Relations);
        if (NT_SUCCESS(Status) && Relations != 0) {
            Count += AddUnits(Adapter, (PDEVICE_RELATIONS)Relations, &Disks[Count], Maximum - Count);
            ExFreePool((PVOID)Relations);
        }
    }
    if (Count == 0) {
        DbgPrint("workload: NO DISK: %lu devices have started, and no unit answers behind any of them\n", Index);
        KeBugCheckEx(WORKLOAD_NO_DISK, Index, (ULONG)Status, 0, 0);
    }
    return Count;
}

static VOID SendPower(PDEVICE_OBJECT Device)
{
    IO_STACK_LOCATION Location = {.MajorFunction = IRP_MJ_POWER, .MinorFunction = IRP_MN_SET_POWER};
    ULONG_PTR Information;

    Location.Parameters.Power.Type = DevicePowerState;
    Location.Parameters.Power.State.DeviceState = PowerDeviceD3;
    Location.Parameters.Power.ShutdownType = PowerActionShutdownOff;
    SendIrp(Device, &Location, &Information);
}

static VOID SendFunction(PWORKLOAD_DISK Disk, UCHAR Function)
{
    WORKLOAD_COMMAND Command;

    if (!CommandInitialize(&Command, Disk)) {
        return;
    }
    CommandPrepare(&Command, Function, NULL, 0, FALSE);
    CommandSendAndWait(&Command);
    if (CommandRetry(&Command) != SRB_STATUS_SUCCESS && !CommandIsRefused(&Command)) {
        CommandBugCheck(&Command);
    }
    CommandFree(&Command);
}

/* START STOP UNIT, to stop; the outcome does not matter any more. */
static VOID StopUnit(PWORKLOAD_DISK Disk)
{
    WORKLOAD_COMMAND Command;

    if (!CommandInitialize(&Command, Disk)) {
        return;
    }
    CommandPrepare(&Command, SRB_FUNCTION_EXECUTE_SCSI, NULL, 0, FALSE);
    Command.Srb.Cdb[0] = SCSIOP_START_STOP_UNIT;
    Command.Srb.CdbLength = 6;
    CommandSendAndWait(&Command);
    CommandFree(&Command);
}

static BOOLEAN IsFirstOfAdapter(PWORKLOAD_DISK Disks, ULONG Index)
{
    for (ULONG Other = 0; Other < Index; Other++) {
        if (Disks[Other].Adapter == Disks[Index].Adapter) {
            return FALSE;
        }
    }
    return TRUE;
}

/* What class drivers do at system shutdown, then the power manager: first the disks, then their adapters. */
VOID DiskStopAll(PWORKLOAD_DISK Disks, ULONG Count)
{
    for (ULONG Index = 0; Index < Count; Index++) {
        SendFunction(&Disks[Index], SRB_FUNCTION_SHUTDOWN);
        StopUnit(&Disks[Index]);
        SendPower(Disks[Index].Unit);
    }
    for (ULONG Index = 0; Index < Count; Index++) {
        if (IsFirstOfAdapter(Disks, Index)) {
            SendPower(Disks[Index].Adapter);
        }
    }
}
