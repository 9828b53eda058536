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
    Srb->TimeOutValue = IO_SECONDS;
    Srb->SenseInfoBuffer = &Command->Sense;
    Srb->SenseInfoBufferLength = sizeof(Command->Sense);
    Srb->DataBuffer = Buffer;
    Srb->DataTransferLength = Length;
    if (Length != 0) {
        Srb->SrbFlags |= Write ? SRB_FLAGS_DATA_OUT : SRB_FLAGS_DATA_IN;
    }
    DescribeBuffer(Command, Buffer, Length);
}

/* READ/WRITE(10), or (16) every other time and where the address needs it. */
VOID CommandPrepareTransfer(PWORKLOAD_COMMAND Command, ULONG64 Block, ULONG Blocks, PVOID Buffer, BOOLEAN Write)
{
    UCHAR *Cdb = Command->Srb.Cdb;

    CommandPrepare(Command, SRB_FUNCTION_EXECUTE_SCSI, Buffer, Blocks * BLOCK_SIZE, Write);
    if (Block > 0xffffffff || Blocks > 0xffff || (Block & 1)) {
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

VOID CommandBugCheck(PWORKLOAD_COMMAND Command)
{
    ULONG Sense = 0;

    if (Command->Srb.SrbStatus & SRB_STATUS_AUTOSENSE_VALID) {
        Sense = (ULONG)Command->Sense.SenseKey << 8 | Command->Sense.AdditionalSenseCode;
    }
    KeBugCheckEx(WORKLOAD_IO_FAILED, Command->Srb.Cdb[0], CommandBlock(Command), Command->Srb.SrbStatus, Sense);
}
