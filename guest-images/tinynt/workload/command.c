/* SRBs and IRPs to a logical unit, as a class driver builds them. */
#include "workload.h"

static VOID Put32(UCHAR *Bytes, ULONG Value)
{
    for (ULONG Index = 0; Index < 4; Index++) {
        Bytes[Index] = (UCHAR)(Value >> (24 - 8 * Index));
    }
}

BOOLEAN CommandInitialize(PWORKLOAD_COMMAND Command, PWORKLOAD_DISK Disk)
{
    RtlZeroMemory(Command, sizeof(*Command));
    Command->Disk = Disk;
    Command->Irp = IoAllocateIrp(Disk->Unit->StackSize, FALSE);
    return Command->Irp != NULL;
}

VOID CommandFree(PWORKLOAD_COMMAND Command)
{
    if (Command->Mdl != NULL) {
        IoFreeMdl(Command->Mdl);
    }
    IoFreeIrp(Command->Irp);
}

static VOID DescribeBuffer(PWORKLOAD_COMMAND Command, PVOID Buffer, ULONG Length)
{
    if (Command->Mdl != NULL) {
        IoFreeMdl(Command->Mdl);
        Command->Mdl = NULL;
    }
    if (Length != 0) {
        Command->Mdl = IoAllocateMdl(Buffer, Length, FALSE, FALSE, NULL);
        if (Command->Mdl != NULL) {
            MmBuildMdlForNonPagedPool(Command->Mdl);
        }
    }
}

VOID CommandPrepare(PWORKLOAD_COMMAND Command, UCHAR Function, PVOID Buffer, ULONG Length, BOOLEAN Write)
{
    PSCSI_REQUEST_BLOCK Srb = &Command->Srb;

    RtlZeroMemory(Srb, sizeof(*Srb));
    Srb->Length = sizeof(*Srb);
    Srb->Function = Function;
    Srb->QueueTag = SP_UNTAGGED;
    Srb->QueueAction = SRB_SIMPLE_TAG_REQUEST;
    Srb->SrbFlags = SRB_FLAGS_QUEUE_ACTION_ENABLE | SRB_FLAGS_NO_QUEUE_FREEZE;
    Srb->TimeOutValue = WorkloadSettings.TimeOutSeconds;
    Srb->SenseInfoBuffer = &Command->Sense;
    Srb->SenseInfoBufferLength = sizeof(Command->Sense);
    Srb->DataBuffer = Buffer;
    Srb->DataTransferLength = Length;
    Command->Length = Length;
    Command->Retries = 0;
    if (Length != 0) {
        Srb->SrbFlags |= Write ? SRB_FLAGS_DATA_OUT : SRB_FLAGS_DATA_IN;
    }
    DescribeBuffer(Command, Buffer, Length);
}

/* READ/WRITE(10), or (16) every other time, if the unit knows them, and where the address needs it. */
VOID CommandPrepareTransfer(PWORKLOAD_COMMAND Command, ULONG64 Block, ULONG Blocks, PVOID Buffer, BOOLEAN Write)
{
    UCHAR *Cdb = Command->Srb.Cdb;

    CommandPrepare(Command, SRB_FUNCTION_EXECUTE_SCSI, Buffer, Blocks * BLOCK_SIZE, Write);
    if (Block > 0xffffffff || Blocks > 0xffff || ((Block & 1) && !Command->Disk->ShortCommands)) {
        Command->Srb.CdbLength = 16;
        Cdb[0] = Write ? SCSIOP_WRITE16 : SCSIOP_READ16;
        Put32(&Cdb[2], (ULONG)(Block >> 32));
        Put32(&Cdb[6], (ULONG)Block);
        Put32(&Cdb[10], Blocks);
    } else {
        Command->Srb.CdbLength = 10;
        Cdb[0] = Write ? SCSIOP_WRITE : SCSIOP_READ;
        Put32(&Cdb[2], (ULONG)Block);
        Cdb[7] = (UCHAR)(Blocks >> 8);
        Cdb[8] = (UCHAR)Blocks;
    }
}

ULONG64 CommandBlock(PWORKLOAD_COMMAND Command)
{
    const UCHAR *Cdb = Command->Srb.Cdb;
    ULONG64 Block = 0;
    ULONG Bytes = Command->Srb.CdbLength == 16 ? 8 : 4;

    for (ULONG Index = 0; Index < Bytes; Index++) {
        Block = Block << 8 | Cdb[2 + Index];
    }
    return Block;
}

static NTSTATUS NTAPI IrpDone(PDEVICE_OBJECT DeviceObject, PIRP Irp, PVOID Context)
{
    PWORKLOAD_COMMAND Command = Context;

    UNREFERENCED_PARAMETER(DeviceObject);
    UNREFERENCED_PARAMETER(Irp);
    Command->Done(Command->Context);
    return STATUS_MORE_PROCESSING_REQUIRED;
}

VOID CommandSend(PWORKLOAD_COMMAND Command, WORKLOAD_DONE Done, PVOID Context)
{
    PIRP Irp = Command->Irp;
    PIO_STACK_LOCATION Stack;

    IoReuseIrp(Irp, STATUS_NOT_SUPPORTED);
    Command->Done = Done;
    Command->Context = Context;
    Irp->MdlAddress = Command->Mdl;
    Stack = IoGetNextIrpStackLocation(Irp);
    Stack->MajorFunction = IRP_MJ_SCSI;
    Stack->Parameters.Scsi.Srb = &Command->Srb;
    IoSetCompletionRoutine(Irp, IrpDone, Command, TRUE, TRUE, TRUE);
    IoCallDriver(Command->Disk->Unit, Irp);
}

static VOID SignalEvent(PVOID Context)
{
    KeSetEvent(Context, IO_DISK_INCREMENT, FALSE);
}

UCHAR CommandSendAndWait(PWORKLOAD_COMMAND Command)
{
    KEVENT Event;

    KeInitializeEvent(&Event, NotificationEvent, FALSE);
    CommandSend(Command, SignalEvent, &Event);
    KeWaitForSingleObject(&Event, Executive, KernelMode, FALSE, NULL);
    return SRB_STATUS(Command->Srb.SrbStatus);
}

static ULONG SenseOf(PWORKLOAD_COMMAND Command)
{
    if (!(Command->Srb.SrbStatus & SRB_STATUS_AUTOSENSE_VALID)) {
        return 0;
    }
    return (ULONG)Command->Sense.SenseKey << 8 | Command->Sense.AdditionalSenseCode;
}

/* A failure of the medium or the hardware may go away; a command that a reset or another event has ended is sent again.
 */
static BOOLEAN SenseMayChange(UCHAR SenseKey)
{
    switch (SenseKey) {
    case SCSI_SENSE_MEDIUM_ERROR:
    case SCSI_SENSE_HARDWARE_ERROR:
    case SCSI_SENSE_UNIT_ATTENTION:
    case SCSI_SENSE_ABORTED_COMMAND:
        return TRUE;
    default:
        return FALSE;
    }
}

/* What may go well another time. */
static BOOLEAN MayRetry(PWORKLOAD_COMMAND Command)
{
    switch (SRB_STATUS(Command->Srb.SrbStatus)) {
    case SRB_STATUS_BUS_RESET:
    case SRB_STATUS_TIMEOUT:
    case SRB_STATUS_COMMAND_TIMEOUT:
    case SRB_STATUS_ABORTED:
        return TRUE;
    case SRB_STATUS_ERROR:
        return SenseMayChange((UCHAR)(SenseOf(Command) >> 8));
    default:
        return FALSE;
    }
}

/* Sends a command that has ended again, as long as that may help; returns its last status. */
UCHAR CommandRetry(PWORKLOAD_COMMAND Command)
{
    PSCSI_REQUEST_BLOCK Srb = &Command->Srb;

    while (SRB_STATUS(Srb->SrbStatus) == SRB_STATUS_BUSY || (MayRetry(Command) && Command->Retries < MAX_RETRIES)) {
        if (SRB_STATUS(Srb->SrbStatus) != SRB_STATUS_BUSY) {
            Command->Retries++;
        }
        InterlockedIncrement64(&WorkloadTotals.Retries);
        Srb->SrbStatus = SRB_STATUS_PENDING;
        Srb->DataTransferLength = Command->Length;
        CommandSendAndWait(Command);
    }
    return SRB_STATUS(Srb->SrbStatus);
}

static const char *Explain(PWORKLOAD_COMMAND Command)
{
    switch (SRB_STATUS(Command->Srb.SrbStatus)) {
    case SRB_STATUS_BUS_RESET:
    case SRB_STATUS_TIMEOUT:
    case SRB_STATUS_COMMAND_TIMEOUT:
        return "the device never completed it";
    case SRB_STATUS_ERROR:
        break;
    default:
        return "the driver refused it";
    }
    switch (SenseOf(Command) >> 8) {
    case SCSI_SENSE_MEDIUM_ERROR:
        return "medium error";
    case SCSI_SENSE_HARDWARE_ERROR:
        return "hardware error";
    case SCSI_SENSE_DATA_PROTECT:
        return "the medium is write protected";
    case SCSI_SENSE_ILLEGAL_REQUEST:
        return "illegal request";
    default:
        return "the device failed it";
    }
}

/* Whether the miniport or the unit does not know the command, which a class driver takes for a limit and not an error.
 */
BOOLEAN CommandIsRefused(PWORKLOAD_COMMAND Command)
{
    UCHAR Status = SRB_STATUS(Command->Srb.SrbStatus);

    if (Status == SRB_STATUS_INVALID_REQUEST || Status == SRB_STATUS_BAD_FUNCTION) {
        return TRUE;
    }
    return Status == SRB_STATUS_ERROR &&
           SenseOf(Command) == (SCSI_SENSE_ILLEGAL_REQUEST << 8 | SCSI_ADSENSE_ILLEGAL_COMMAND);
}

VOID CommandBugCheck(PWORKLOAD_COMMAND Command)
{
    PSCSI_REQUEST_BLOCK Srb = &Command->Srb;
    ULONG64 Block = CommandBlock(Command);
    BOOLEAN Lost = (Srb->SrbFlags & SRB_FLAGS_DATA_OUT) != 0;

    DbgPrint("workload: %s: command 0x%x, block %llu, %lu bytes: %s (SRB status 0x%x, sense 0x%lx) after %lu retries\n",
             Lost ? "LOST" : "FAILED", Srb->Cdb[0], Block, Command->Length, Explain(Command), Srb->SrbStatus,
             SenseOf(Command), Command->Retries);
    KeBugCheckEx(WORKLOAD_IO_FAILED, Srb->Cdb[0], Block, Srb->SrbStatus, SenseOf(Command));
}
