/*
 * Rare commands, one at a time, in a fixed number: a transfer larger than one command may be, flushes, unmaps that must
 * read back as zero, and reads beyond the end that must fail with the right sense.
 */
#include "workload.h"

#define ROUNDS 3
#define UNMAP_BLOCKS 32
#define LARGE_EXTRA_BLOCKS 9
#define LARGE_MAXIMUM_BLOCKS 2048
#define OPCODE_UNMAP 0x42
#define SENSE_ILLEGAL_REQUEST 0x05
#define ASC_LBA_OUT_OF_RANGE 0x21

static VOID Put16(UCHAR *Bytes, ULONG Value)
{
    Bytes[0] = (UCHAR)(Value >> 8);
    Bytes[1] = (UCHAR)Value;
}

static VOID Put32(UCHAR *Bytes, ULONG Value)
{
    Put16(Bytes, Value >> 16);
    Put16(Bytes + 2, Value);
}

static VOID Expect(PWORKLOAD_COMMAND Command)
{
    CommandSendAndWait(Command);
    if (CommandRetry(Command) != SRB_STATUS_SUCCESS) {
        CommandBugCheck(Command);
    }
}

/* FALSE if the unit does not know the command. */
static BOOLEAN ExpectOrRefusal(PWORKLOAD_COMMAND Command)
{
    CommandSendAndWait(Command);
    if (CommandRetry(Command) == SRB_STATUS_SUCCESS) {
        return TRUE;
    }
    if (!CommandIsRefused(Command)) {
        CommandBugCheck(Command);
    }
    if (WorkloadTotals.Unsupported++ == 0) {
        DbgPrint("workload: operation code 0x%x is refused\n", Command->Srb.Cdb[0]);
    }
    return FALSE;
}

static VOID Flush(PWORKLOAD_COMMAND Command)
{
    CommandPrepare(Command, SRB_FUNCTION_EXECUTE_SCSI, NULL, 0, FALSE);
    Command->Srb.Cdb[0] = SCSIOP_SYNCHRONIZE_CACHE;
    Command->Srb.CdbLength = 10;
    if (ExpectOrRefusal(Command)) {
        WorkloadTotals.Flushes++;
    }
}

static VOID Transfer(PWORKLOAD_COMMAND Command, ULONG64 Block, ULONG Blocks, PVOID Buffer, BOOLEAN Write)
{
    CommandPrepareTransfer(Command, Block, Blocks, Buffer, Write);
    Expect(Command);
}

/* Writes, unmaps the middle, reads back: the middle zero, the edges as written. */
static VOID Unmap(PWORKLOAD_COMMAND Command, PUCHAR Buffer, ULONG64 Block)
{
    ULONG Skip = UNMAP_BLOCKS / 4;
    BOOLEAN Unmapped;

    for (ULONG Index = 0; Index < UNMAP_BLOCKS; Index++) {
        PatternFill(Buffer + Index * BLOCK_SIZE, Block + Index, 1);
    }
    Transfer(Command, Block, UNMAP_BLOCKS, Buffer, TRUE);
    RtlZeroMemory(Buffer, BLOCK_SIZE);
    Put16(&Buffer[0], 22);
    Put16(&Buffer[2], 16);
    Put32(&Buffer[8], (ULONG)((Block + Skip) >> 32));
    Put32(&Buffer[12], (ULONG)(Block + Skip));
    Put32(&Buffer[16], UNMAP_BLOCKS - 2 * Skip);
    CommandPrepare(Command, SRB_FUNCTION_EXECUTE_SCSI, Buffer, 24, TRUE);
    Command->Srb.Cdb[0] = OPCODE_UNMAP;
    Command->Srb.Cdb[8] = 24;
    Command->Srb.CdbLength = 10;
    Unmapped = ExpectOrRefusal(Command);
    Transfer(Command, Block, UNMAP_BLOCKS, Buffer, FALSE);
    for (ULONG Index = 0; Index < UNMAP_BLOCKS; Index++) {
        BOOLEAN Middle = Unmapped && Index >= Skip && Index < UNMAP_BLOCKS - Skip;

        if (!Middle || Command->Disk->UnmapZeroes) {
            PatternVerify(Buffer + Index * BLOCK_SIZE, Block + Index, Middle ? 0 : 1);
        }
    }
    if (Unmapped) {
        WorkloadTotals.Unmaps++;
    }
}

static BOOLEAN SaysOutOfRange(PWORKLOAD_COMMAND Command)
{
    return SRB_STATUS(Command->Srb.SrbStatus) == SRB_STATUS_ERROR &&
           (Command->Srb.SrbStatus & SRB_STATUS_AUTOSENSE_VALID) &&
           Command->Srb.ScsiStatus == SCSISTAT_CHECK_CONDITION && Command->Sense.SenseKey == SENSE_ILLEGAL_REQUEST &&
           Command->Sense.AdditionalSenseCode == ASC_LBA_OUT_OF_RANGE;
}

/* Must fail, and should say why. */
static VOID ReadBeyondEnd(PWORKLOAD_COMMAND Command, PUCHAR Buffer, ULONG Round)
{
    CommandPrepareTransfer(Command, Command->Disk->Blocks + Round * 8, 8, Buffer, FALSE);
    CommandSendAndWait(Command);
    if (CommandRetry(Command) == SRB_STATUS_SUCCESS) {
        CommandBugCheck(Command);
    }
    if (SaysOutOfRange(Command)) {
        WorkloadTotals.ExpectedFailures++;
    } else {
        DbgPrint("workload: a read beyond the end fails with SRB status 0x%x, not with LBA OUT OF RANGE\n",
                 Command->Srb.SrbStatus);
    }
}

/* One command's worth at the limit and the rest in a second one. */
static VOID TransferInPieces(PWORKLOAD_COMMAND Command, PUCHAR Buffer, ULONG Blocks, BOOLEAN Write)
{
    ULONG Limit = Command->Disk->MaximumBlocks;

    for (ULONG Done = 0; Done < Blocks; Done += Limit) {
        ULONG Piece = Blocks - Done < Limit ? Blocks - Done : Limit;

        Transfer(Command, Done, Piece, Buffer + Done * BLOCK_SIZE, Write);
    }
}

static VOID CrossLimit(PWORKLOAD_COMMAND Command)
{
    ULONG Blocks = Command->Disk->MaximumBlocks + LARGE_EXTRA_BLOCKS;
    PUCHAR Buffer;

    if (Blocks > LARGE_MAXIMUM_BLOCKS || Blocks > Command->Disk->Blocks) {
        return;
    }
    Buffer = ExAllocatePoolWithTag(NonPagedPool, Blocks * BLOCK_SIZE, WORKLOAD_TAG);
    if (Buffer == NULL) {
        return;
    }
    for (ULONG Index = 0; Index < Blocks; Index++) {
        PatternFill(Buffer + Index * BLOCK_SIZE, Index, 1);
    }
    TransferInPieces(Command, Buffer, Blocks, TRUE);
    RtlZeroMemory(Buffer, Blocks * BLOCK_SIZE);
    TransferInPieces(Command, Buffer, Blocks, FALSE);
    for (ULONG Index = 0; Index < Blocks; Index++) {
        PatternVerify(Buffer + Index * BLOCK_SIZE, Index, 1);
    }
    ExFreePoolWithTag(Buffer, WORKLOAD_TAG);
}

VOID EpilogueRun(PWORKLOAD_DISK Disk)
{
    PUCHAR Buffer = ExAllocatePoolWithTag(NonPagedPool, UNMAP_BLOCKS * BLOCK_SIZE, WORKLOAD_TAG);
    WORKLOAD_COMMAND Command;

    if (Buffer == NULL || !CommandInitialize(&Command, Disk)) {
        KeBugCheckEx(WORKLOAD_IO_FAILED, 0, 0, 0, (ULONG)STATUS_INSUFFICIENT_RESOURCES);
    }
    CrossLimit(&Command);
    for (ULONG Round = 0; Round < ROUNDS; Round++) {
        Flush(&Command);
        if (((ULONG64)Round + 1) * UNMAP_BLOCKS <= Disk->Blocks) {
            Unmap(&Command, Buffer, (ULONG64)Round * UNMAP_BLOCKS);
        }
        ReadBeyondEnd(&Command, Buffer, Round);
    }
    CommandFree(&Command);
    ExFreePoolWithTag(Buffer, WORKLOAD_TAG);
}
