/* The threads: each owns a region of the disk and keeps Depth random operations on it in flight. */
#include "workload.h"

struct _WORKLOAD_THREAD;

typedef struct _WORKLOAD_OPERATION {
    struct _WORKLOAD_THREAD *Thread;
    struct _WORKLOAD_OPERATION *volatile NextDone;
    PUCHAR Buffer;
    ULONG First; /* block in the region */
    ULONG Blocks;
    BOOLEAN Write;
    BOOLEAN Active;
    volatile LONG PiecesLeft;
    ULONG PieceCount;
    WORKLOAD_COMMAND Pieces[MAX_PIECES];
} WORKLOAD_OPERATION, *PWORKLOAD_OPERATION;

typedef struct _WORKLOAD_THREAD {
    PWORKLOAD_DISK Disk;
    ULONG64 FirstBlock;
    ULONG SpanBlocks;
    ULONG MaximumBlocks; /* of one operation */
    ULONG Operations;
    ULONG64 Random;
    PULONG Generations; /* high bit: in use by an operation */
    KSEMAPHORE DoneSemaphore;
    PWORKLOAD_OPERATION volatile DoneHead;
    PWORKLOAD_OPERATION Slots;
    PKTHREAD Object;
} WORKLOAD_THREAD, *PWORKLOAD_THREAD;

#define IN_USE 0x80000000u

static VOID OperationDone(PWORKLOAD_OPERATION Operation)
{
    PWORKLOAD_THREAD Thread = Operation->Thread;
    PWORKLOAD_OPERATION Head;

    do {
        Head = Thread->DoneHead;
        Operation->NextDone = Head;
    } while (InterlockedCompareExchangePointer((PVOID volatile *)&Thread->DoneHead, Operation, Head) != Head);
    KeReleaseSemaphore(&Thread->DoneSemaphore, IO_DISK_INCREMENT, 1, FALSE);
}

static VOID PieceDone(PVOID Context)
{
    PWORKLOAD_OPERATION Operation = Context;

    if (InterlockedDecrement(&Operation->PiecesLeft) == 0) {
        OperationDone(Operation);
    }
}

/* Mostly small; one in sixteen is larger than one command may be. */
static ULONG PickBlocks(PWORKLOAD_THREAD Thread)
{
    ULONG Choice = (ULONG)(WorkloadRandom(&Thread->Random) & 15);
    ULONG Limit = Choice < 8 ? 8 : Choice < 13 ? 32 : Choice < 15 ? Thread->Disk->MaximumBlocks : Thread->MaximumBlocks;
    ULONG Blocks;

    if (Limit > Thread->MaximumBlocks) {
        Limit = Thread->MaximumBlocks;
    }
    Blocks = 1 + (ULONG)(WorkloadRandom(&Thread->Random) % Limit);
    return Choice == 15 ? Limit : Blocks;
}

static BOOLEAN RangeIsFree(PWORKLOAD_THREAD Thread, ULONG First, ULONG Blocks)
{
    for (ULONG Index = 0; Index < Blocks; Index++) {
        if (Thread->Generations[First + Index] & IN_USE) {
            return FALSE;
        }
    }
    return TRUE;
}

static BOOLEAN PickRange(PWORKLOAD_THREAD Thread, PWORKLOAD_OPERATION Operation)
{
    for (ULONG Attempt = 0; Attempt < 4; Attempt++) {
        Operation->Blocks = PickBlocks(Thread);
        Operation->First = (ULONG)(WorkloadRandom(&Thread->Random) % (Thread->SpanBlocks - Operation->Blocks + 1));
        if (RangeIsFree(Thread, Operation->First, Operation->Blocks)) {
            return TRUE;
        }
    }
    return FALSE;
}

static VOID SendPieces(PWORKLOAD_OPERATION Operation)
{
    PWORKLOAD_THREAD Thread = Operation->Thread;
    ULONG64 Block = Thread->FirstBlock + Operation->First;
    ULONG Maximum = Thread->Disk->MaximumBlocks;
    PUCHAR Buffer = Operation->Buffer;
    ULONG Left = Operation->Blocks;

    Operation->PieceCount = (Left + Maximum - 1) / Maximum;
    Operation->PiecesLeft = (LONG)Operation->PieceCount;
    for (ULONG Index = 0; Index < Operation->PieceCount; Index++) {
        ULONG Blocks = Left < Maximum ? Left : Maximum;

        CommandPrepareTransfer(&Operation->Pieces[Index], Block, Blocks, Buffer, Operation->Write);
        Block += Blocks;
        Buffer += Blocks * BLOCK_SIZE;
        Left -= Blocks;
    }
    /* The operation may be over before the last iteration's call returns: the count is read before. */
    for (ULONG Index = 0, Count = Operation->PieceCount; Index < Count; Index++) {
        CommandSend(&Operation->Pieces[Index], PieceDone, Operation);
    }
}

static BOOLEAN StartOperation(PWORKLOAD_THREAD Thread, PWORKLOAD_OPERATION Operation)
{
    if (!PickRange(Thread, Operation)) {
        return FALSE;
    }
    Operation->Write = (WorkloadRandom(&Thread->Random) & 1) != 0;
    Operation->Active = TRUE;
    for (ULONG Index = 0; Index < Operation->Blocks; Index++) {
        PULONG Generation = &Thread->Generations[Operation->First + Index];

        if (Operation->Write) {
            *Generation += 1;
            PatternFill(Operation->Buffer + Index * BLOCK_SIZE, Thread->FirstBlock + Operation->First + Index,
                        *Generation);
        }
        *Generation |= IN_USE;
    }
    SendPieces(Operation);
    return TRUE;
}

static VOID CheckPieces(PWORKLOAD_OPERATION Operation)
{
    for (ULONG Index = 0; Index < Operation->PieceCount; Index++) {
        PWORKLOAD_COMMAND Piece = &Operation->Pieces[Index];

        if (CommandRetry(Piece) != SRB_STATUS_SUCCESS) {
            CommandBugCheck(Piece);
        }
    }
}

static VOID FinishOperation(PWORKLOAD_OPERATION Operation)
{
    PWORKLOAD_THREAD Thread = Operation->Thread;

    CheckPieces(Operation);
    for (ULONG Index = 0; Index < Operation->Blocks; Index++) {
        PULONG Generation = &Thread->Generations[Operation->First + Index];

        *Generation &= ~IN_USE;
        if (!Operation->Write) {
            PatternVerify(Operation->Buffer + Index * BLOCK_SIZE, Thread->FirstBlock + Operation->First + Index,
                          *Generation);
        }
    }
    InterlockedIncrement64(Operation->Write ? &WorkloadTotals.Writes : &WorkloadTotals.Reads);
    InterlockedExchangeAdd64(&WorkloadTotals.Blocks, Operation->Blocks);
    Operation->Active = FALSE;
}

/* Waits for one operation at least; returns how many have ended. */
static ULONG WaitForDone(PWORKLOAD_THREAD Thread)
{
    PWORKLOAD_OPERATION Operation;
    ULONG Count = 0;

    KeWaitForSingleObject(&Thread->DoneSemaphore, Executive, KernelMode, FALSE, NULL);
    Operation = InterlockedExchangePointer((PVOID volatile *)&Thread->DoneHead, NULL);
    while (Operation != NULL) {
        PWORKLOAD_OPERATION Next = Operation->NextDone;

        FinishOperation(Operation);
        Operation = Next;
        Count++;
    }
    return Count;
}

/* Reads the whole region, or writes zeroes to it. */
static VOID SweepRegion(PWORKLOAD_THREAD Thread, BOOLEAN Clear)
{
    PWORKLOAD_OPERATION Operation = &Thread->Slots[0];
    ULONG Step = Thread->Disk->MaximumBlocks < 32 ? Thread->Disk->MaximumBlocks : 32;

    if (Step > Thread->MaximumBlocks) {
        Step = Thread->MaximumBlocks;
    }
    RtlZeroMemory(Operation->Buffer, Step * BLOCK_SIZE);

    for (ULONG First = 0; First < Thread->SpanBlocks; First += Step) {
        Operation->First = First;
        Operation->Blocks = Thread->SpanBlocks - First < Step ? Thread->SpanBlocks - First : Step;
        Operation->Write = Clear;
        SendPieces(Operation);
        while (WaitForDone(Thread) == 0) {
        }
    }
}

static VOID NTAPI ThreadMain(PVOID Context)
{
    PWORKLOAD_THREAD Thread = Context;
    ULONG Started = 0, Ended = 0;

    if (Thread->Disk->Used) {
        SweepRegion(Thread, TRUE);
    }
    while (Ended < Thread->Operations) {
        for (ULONG Slot = 0; Slot < WorkloadSettings.Depth && Started < Thread->Operations; Slot++) {
            if (!Thread->Slots[Slot].Active && StartOperation(Thread, &Thread->Slots[Slot])) {
                Started++;
            }
        }
        if (Started > Ended) {
            Ended += WaitForDone(Thread);
        }
    }
    SweepRegion(Thread, FALSE);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

static BOOLEAN PrepareSlot(PWORKLOAD_THREAD Thread, PWORKLOAD_OPERATION Operation)
{
    Operation->Thread = Thread;
    Operation->Buffer = ExAllocatePoolWithTag(NonPagedPool, Thread->MaximumBlocks * BLOCK_SIZE, WORKLOAD_TAG);
    for (ULONG Piece = 0; Piece < MAX_PIECES; Piece++) {
        if (!CommandInitialize(&Operation->Pieces[Piece], Thread->Disk)) {
            return FALSE;
        }
    }
    return Operation->Buffer != NULL;
}

static BOOLEAN PrepareThread(PWORKLOAD_THREAD Thread, PWORKLOAD_DISK Disk, ULONG Index)
{
    SIZE_T SlotBytes = WorkloadSettings.Depth * sizeof(WORKLOAD_OPERATION);

    Thread->Disk = Disk;
    Thread->SpanBlocks = Disk->SpanBlocks;
    Thread->FirstBlock = (ULONG64)Index * Thread->SpanBlocks;
    Thread->MaximumBlocks = Disk->MaximumBlocks + 16;
    if (Thread->MaximumBlocks > Thread->SpanBlocks / 2) {
        Thread->MaximumBlocks = Thread->SpanBlocks > 1 ? Thread->SpanBlocks / 2 : 1;
    }
    if (Thread->MaximumBlocks > Disk->MaximumBlocks * MAX_PIECES) {
        Thread->MaximumBlocks = Disk->MaximumBlocks * MAX_PIECES;
    }
    Thread->Operations = (WorkloadSettings.Operations + Disk->Threads - 1) / Disk->Threads;
    Thread->Random = WorkloadSettings.Seed ^ (Index + 1) * 0x100000001b3ull;
    Thread->Generations = ExAllocatePoolWithTag(NonPagedPool, Thread->SpanBlocks * sizeof(ULONG), WORKLOAD_TAG);
    Thread->Slots = ExAllocatePoolWithTag(NonPagedPool, SlotBytes, WORKLOAD_TAG);
    if (Thread->Generations == NULL || Thread->Slots == NULL) {
        return FALSE;
    }
    RtlZeroMemory(Thread->Generations, Thread->SpanBlocks * sizeof(ULONG));
    RtlZeroMemory(Thread->Slots, SlotBytes);
    KeInitializeSemaphore(&Thread->DoneSemaphore, 0, MAXLONG);
    for (ULONG Slot = 0; Slot < WorkloadSettings.Depth; Slot++) {
        if (!PrepareSlot(Thread, &Thread->Slots[Slot])) {
            return FALSE;
        }
    }
    return TRUE;
}

static VOID FreeThread(PWORKLOAD_THREAD Thread)
{
    for (ULONG Slot = 0; Slot < WorkloadSettings.Depth; Slot++) {
        for (ULONG Piece = 0; Piece < MAX_PIECES; Piece++) {
            CommandFree(&Thread->Slots[Slot].Pieces[Piece]);
        }
        ExFreePoolWithTag(Thread->Slots[Slot].Buffer, WORKLOAD_TAG);
    }
    ExFreePoolWithTag(Thread->Slots, WORKLOAD_TAG);
    ExFreePoolWithTag(Thread->Generations, WORKLOAD_TAG);
}

static BOOLEAN StartThread(PWORKLOAD_THREAD Thread)
{
    OBJECT_ATTRIBUTES Attributes;
    PVOID Object = NULL;
    HANDLE Handle;

    InitializeObjectAttributes(&Attributes, NULL, OBJ_KERNEL_HANDLE, NULL, NULL);
    if (!NT_SUCCESS(PsCreateSystemThread(&Handle, THREAD_ALL_ACCESS, &Attributes, NULL, NULL, ThreadMain, Thread))) {
        return FALSE;
    }
    ObReferenceObjectByHandle(Handle, THREAD_ALL_ACCESS, NULL, KernelMode, &Object, NULL);
    ZwClose(Handle);
    Thread->Object = Object;
    return TRUE;
}

VOID ThreadsRun(PWORKLOAD_DISK Disk)
{
    ULONG Count = Disk->Threads;
    PWORKLOAD_THREAD Threads = ExAllocatePoolWithTag(NonPagedPool, Count * sizeof(WORKLOAD_THREAD), WORKLOAD_TAG);

    if (Threads == NULL) {
        KeBugCheckEx(WORKLOAD_IO_FAILED, 0, 0, 0, (ULONG)STATUS_INSUFFICIENT_RESOURCES);
    }
    RtlZeroMemory(Threads, Count * sizeof(WORKLOAD_THREAD));
    for (ULONG Index = 0; Index < Count; Index++) {
        if (!PrepareThread(&Threads[Index], Disk, Index) || !StartThread(&Threads[Index])) {
            KeBugCheckEx(WORKLOAD_IO_FAILED, 0, Index, 0, (ULONG)STATUS_INSUFFICIENT_RESOURCES);
        }
    }
    for (ULONG Index = 0; Index < Count; Index++) {
        KeWaitForSingleObject(Threads[Index].Object, Executive, KernelMode, FALSE, NULL);
        ObDereferenceObject(Threads[Index].Object);
        FreeThread(&Threads[Index]);
    }
    ExFreePoolWithTag(Threads, WORKLOAD_TAG);
}
