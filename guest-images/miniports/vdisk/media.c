/* The RAM disk: chunks allocated when first written, copied under the lock of their stripe. */
#include "vdisk.h"

/* Out of line, as a helper in a driver would be: its call is in tail position, so that the caller is not on the stack.
 */
static DECLSPEC_NOINLINE VOID VdiskReleaseFlushLock(PVDISK_EXTENSION Extension, KIRQL OldIrql)
{
    KeReleaseSpinLock(&Extension->FlushLock, OldIrql);
}

static VOID CopyChunk(PVDISK_EXTENSION Extension, ULONG64 Chunk, ULONG Offset, PUCHAR Buffer, ULONG Length,
                      BOOLEAN Write)
{
    PUCHAR Data = Extension->Chunks[Chunk];

    if (Write) {
        RtlCopyMemory(Data + Offset, Buffer, Length);
    } else if (Data != NULL) {
        RtlCopyMemory(Buffer, Data + Offset, Length);
    } else {
        RtlZeroMemory(Buffer, Length);
    }
}

static BOOLEAN EnsureChunk(PVDISK_EXTENSION Extension, ULONG64 Chunk)
{
    PUCHAR Data = Extension->Chunks[Chunk];

    if (Data != NULL) {
        return TRUE;
    }
    Data = ExAllocatePoolWithTag(NonPagedPool, VDISK_CHUNK_SIZE, VDISK_TAG);
    if (Data == NULL) {
        return FALSE;
    }
    RtlZeroMemory(Data, VDISK_CHUNK_SIZE);
    Extension->Chunks[Chunk] = Data;
    return TRUE;
}

static BOOLEAN TransferChunk(PVDISK_EXTENSION Extension, ULONG64 Chunk, ULONG Offset, PUCHAR Buffer, ULONG Length,
                             BOOLEAN Write)
{
    PKSPIN_LOCK Lock = &Extension->StripeLock[Chunk % VDISK_STRIPES];
    BOOLEAN Good = TRUE;
    KIRQL OldIrql;

    KeAcquireSpinLock(Lock, &OldIrql);
    if (Write) {
        Good = EnsureChunk(Extension, Chunk);
    }
    if (Good) {
        CopyChunk(Extension, Chunk, Offset, Buffer, Length, Write);
    }
    KeReleaseSpinLock(Lock, OldIrql);
    return Good;
}

static VOID CountTransfer(PVDISK_EXTENSION Extension, PVDISK_REQUEST Request)
{
    KIRQL OldIrql;

    KeAcquireSpinLock(&Extension->StatisticsLock, &OldIrql);
    if (Request->Command == DiskWrite) {
        Extension->Statistics.Writes++;
    } else {
        Extension->Statistics.Reads++;
    }
    Extension->Statistics.Blocks += Request->Range.Blocks;
    KeReleaseSpinLock(&Extension->StatisticsLock, OldIrql);
}

static DECLSPEC_NOINLINE VOID FailOutOfRange(PVDISK_EXTENSION Extension, PVDISK_REQUEST Request)
{
    DiskFail(Request->Srb, SCSI_SENSE_ILLEGAL_REQUEST, SCSI_ADSENSE_ILLEGAL_BLOCK);
    if (HAS_BUG(RELEASE_ON_ERROR_PATH)) {
        KeReleaseSpinLock(&Extension->StripeLock[Request->Range.Lba % VDISK_STRIPES], PASSIVE_LEVEL);
    }
}

BOOLEAN VdiskTransfer(PVDISK_EXTENSION Extension, PVDISK_REQUEST Request)
{
    PUCHAR Buffer = Request->Srb->DataBuffer;
    ULONG64 Position = Request->Range.Lba * BLOCK_SIZE;
    ULONG Left = Request->Range.Blocks * BLOCK_SIZE;

    if (Request->Command == DiskOutOfRange) {
        FailOutOfRange(Extension, Request);
        return FALSE;
    }
    CountTransfer(Extension, Request);
    while (Left != 0) {
        ULONG Offset = (ULONG)(Position % VDISK_CHUNK_SIZE);
        ULONG Length = VDISK_CHUNK_SIZE - Offset < Left ? VDISK_CHUNK_SIZE - Offset : Left;

        if (!TransferChunk(Extension, Position / VDISK_CHUNK_SIZE, Offset, Buffer, Length,
                           Request->Command == DiskWrite)) {
            DiskFail(Request->Srb, SCSI_SENSE_HARDWARE_ERROR, SCSI_ADSENSE_NO_SENSE);
            return FALSE;
        }
        Position += Length;
        Buffer += Length;
        Left -= Length;
    }
    return TRUE;
}

static VOID CountFlush(PVDISK_EXTENSION Extension)
{
    KIRQL OldIrql;

    KeAcquireSpinLock(&Extension->StatisticsLock, &OldIrql);
    Extension->Statistics.Flushes++;
    KeReleaseSpinLock(&Extension->StatisticsLock, OldIrql);
}

DECLSPEC_NOINLINE VOID VdiskFlush(PVDISK_EXTENSION Extension)
{
    KIRQL OldIrql = PASSIVE_LEVEL;

    if (!HAS_BUG(RELEASE_WITHOUT_ACQUIRE)) {
        KeAcquireSpinLock(&Extension->FlushLock, &OldIrql);
    }
    Extension->FlushGeneration++;
    if (HAS_BUG(RELEASE_WRONG_ROUTINE)) {
        KeReleaseSpinLockFromDpcLevel(&Extension->FlushLock);
        KeLowerIrql(OldIrql);
    } else {
        VdiskReleaseFlushLock(Extension, OldIrql);
    }
    CountFlush(Extension);
    VdiskNoteFlush(Extension);
}

static VOID FreeWholeChunk(PVDISK_EXTENSION Extension, ULONG64 Chunk)
{
    PKSPIN_LOCK Lock = &Extension->StripeLock[Chunk % VDISK_STRIPES];
    PUCHAR Data;

    KeAcquireSpinLockAtDpcLevel(Lock);
    Data = Extension->Chunks[Chunk];
    Extension->Chunks[Chunk] = NULL;
    KeReleaseSpinLockFromDpcLevel(Lock);
    if (Data != NULL) {
        ExFreePoolWithTag(Data, VDISK_TAG);
    }
}

static VOID ZeroPartOfChunk(PVDISK_EXTENSION Extension, ULONG64 Chunk, ULONG Offset, ULONG Length)
{
    PKSPIN_LOCK Lock = &Extension->StripeLock[Chunk % VDISK_STRIPES];

    KeAcquireSpinLockAtDpcLevel(Lock);
    if (Extension->Chunks[Chunk] != NULL) {
        RtlZeroMemory(Extension->Chunks[Chunk] + Offset, Length);
    }
    KeReleaseSpinLockFromDpcLevel(Lock);
}

/* At DISPATCH_LEVEL with the unmap lock held. */
static VOID UnmapRange(PVDISK_EXTENSION Extension, const DISK_RANGE *Range)
{
    ULONG64 Position = Range->Lba * BLOCK_SIZE;
    ULONG64 Left = (ULONG64)Range->Blocks * BLOCK_SIZE;

    while (Left != 0) {
        ULONG Offset = (ULONG)(Position % VDISK_CHUNK_SIZE);
        ULONG Length = VDISK_CHUNK_SIZE - Offset < Left ? VDISK_CHUNK_SIZE - Offset : (ULONG)Left;

        if (Length == VDISK_CHUNK_SIZE) {
            FreeWholeChunk(Extension, Position / VDISK_CHUNK_SIZE);
        } else {
            ZeroPartOfChunk(Extension, Position / VDISK_CHUNK_SIZE, Offset, Length);
        }
        Position += Length;
        Left -= Length;
    }
}

static DECLSPEC_NOINLINE VOID CountUnmapped(PVDISK_EXTENSION Extension, const DISK_RANGE *Range)
{
    KeAcquireSpinLockAtDpcLevel(&Extension->MapLock);
    Extension->UnmappedChunks += Range->Blocks / VDISK_CHUNK_BLOCKS;
    if (HAS_BUG(RELEASE_OTHER_LOCK)) {
        KeReleaseSpinLockFromDpcLevel(&Extension->FlushLock);
    }
    if (HAS_BUG(RELEASE_TWICE)) {
        KeReleaseSpinLockFromDpcLevel(&Extension->MapLock);
    }
    KeReleaseSpinLockFromDpcLevel(&Extension->MapLock);
}

BOOLEAN VdiskUnmap(PVDISK_EXTENSION Extension, PVDISK_REQUEST Request)
{
    DISK_RANGE Ranges[MAX_UNMAP_RANGES];
    LONG Count = DiskUnmapRanges(&Extension->Geometry, Request->Srb, Ranges);
    KIRQL OldIrql;

    if (Count < 0) {
        DiskFail(Request->Srb, SCSI_SENSE_ILLEGAL_REQUEST, SCSI_ADSENSE_INVALID_FIELD_PARAMETER_LIST);
        return FALSE;
    }
    KeAcquireSpinLock(&Extension->UnmapLock, &OldIrql);
    for (LONG Index = 0; Index < Count; Index++) {
        UnmapRange(Extension, &Ranges[Index]);
        CountUnmapped(Extension, &Ranges[Index]);
    }
    VdiskNoteUnmap(Extension);
    KeReleaseSpinLock(&Extension->UnmapLock, OldIrql);
    return TRUE;
}

VOID VdiskFreeChunks(PVDISK_EXTENSION Extension)
{
    for (ULONG64 Chunk = 0; Chunk < VDISK_CHUNKS; Chunk++) {
        if (Extension->Chunks[Chunk] != NULL) {
            ExFreePoolWithTag(Extension->Chunks[Chunk], VDISK_TAG);
        }
    }
    ExFreePoolWithTag(Extension->Chunks, VDISK_TAG);
    Extension->Chunks = NULL;
}
