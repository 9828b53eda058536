/*
 * vdisk: a virtual Storport miniport with a RAM disk, worker threads, a completion DPC and a timer DPC.
 *
 * A virtual miniport may use the kernel's spin locks itself. It uses four routines: KeAcquireSpinLock (RaiseToDpc) and
 * KeReleaseSpinLock in threads, KeAcquireSpinLockAtDpcLevel and KeReleaseSpinLockFromDpcLevel in DPCs and nested.
 * Lock order: UnmapLock, then MapLock, StripeLock or FirstNoteLock. The others are taken alone.
 */
#ifndef VDISK_H
#define VDISK_H

#include "bug.h"
#include "disk_scsi.h"

#define VDISK_TAG 0x6b736956 /* "Visk" */
#define VDISK_BLOCKS (32ull * 1024 * 1024 / BLOCK_SIZE)
#define VDISK_CHUNK_SIZE 4096u
#define VDISK_CHUNK_BLOCKS (VDISK_CHUNK_SIZE / BLOCK_SIZE)
#define VDISK_CHUNKS (VDISK_BLOCKS / VDISK_CHUNK_BLOCKS)
#define VDISK_STRIPES 4
#define VDISK_WORKERS 2
#define VDISK_FIRST_NOTES 4 /* of each kind */
#define VDISK_TIMER_MILLISECONDS 2
#define VDISK_MAXIMUM_TRANSFER (64u * 1024)

typedef struct _VDISK_REQUEST {
    LIST_ENTRY Link;
    PSCSI_REQUEST_BLOCK Srb;
    DISK_COMMAND Command;
    DISK_RANGE Range;
} VDISK_REQUEST, *PVDISK_REQUEST;

typedef struct _VDISK_STATISTICS {
    ULONG64 Reads;
    ULONG64 Writes;
    ULONG64 Blocks;
    ULONG64 Flushes;
    ULONG64 Completed;
    ULONG64 Ticks;
    ULONG64 LongestQueue;
} VDISK_STATISTICS;

typedef struct _VDISK_EXTENSION {
    DISK_GEOMETRY Geometry;

    KSPIN_LOCK QueueLock; /* Queue, QueueLength: HwStartIo, workers, timer DPC */
    LIST_ENTRY Queue;
    ULONG QueueLength;
    KSEMAPHORE QueueSemaphore;

    KSPIN_LOCK DoneLock; /* Done: workers, completion DPC */
    LIST_ENTRY Done;
    KDPC CompletionDpc;

    KSPIN_LOCK StatisticsLock; /* Statistics: workers, both DPCs */
    VDISK_STATISTICS Statistics;
    KSPIN_LOCK FlushLock; /* FlushGeneration */
    ULONG64 FlushGeneration;

    KSPIN_LOCK UnmapLock; /* one unmap at a time */
    KSPIN_LOCK MapLock;   /* UnmappedChunks */
    ULONG64 UnmappedChunks;
    KSPIN_LOCK StripeLock[VDISK_STRIPES]; /* the chunks whose number modulo VDISK_STRIPES is the index */
    PUCHAR *Chunks;                       /* NULL: never written or unmapped, reads as zero */

    KSPIN_LOCK NoteLock;                             /* Notes */
    KSPIN_LOCK FirstNoteLock[2 * VDISK_FIRST_NOTES]; /* UnmapNotes: the lock of the note's number, under UnmapLock */
    ULONG64 Notes;
    ULONG64 UnmapNotes;
    volatile BOOLEAN HandedOver;

    KTIMER Timer;
    KDPC TimerDpc;
    PKTHREAD Workers[VDISK_WORKERS];
    volatile BOOLEAN Stopping;
} VDISK_EXTENSION, *PVDISK_EXTENSION;

/* media.c: called by workers at PASSIVE_LEVEL; true if the SRB is to end with success. */
BOOLEAN VdiskTransfer(PVDISK_EXTENSION Extension, PVDISK_REQUEST Request);
VOID VdiskFlush(PVDISK_EXTENSION Extension);
BOOLEAN VdiskUnmap(PVDISK_EXTENSION Extension, PVDISK_REQUEST Request);
VOID VdiskFreeChunks(PVDISK_EXTENSION Extension);

/* notes.c: the first at PASSIVE_LEVEL, the second with UnmapLock held, the third from the completion DPC. */
VOID VdiskNoteFlush(PVDISK_EXTENSION Extension);
VOID VdiskNoteUnmap(PVDISK_EXTENSION Extension);
VOID VdiskTakeOver(PVDISK_EXTENSION Extension);

/* worker.c */
BOOLEAN VdiskStartWorkers(PVDISK_EXTENSION Extension);
VOID VdiskStopWorkers(PVDISK_EXTENSION Extension);
VOID VdiskEnqueue(PVDISK_EXTENSION Extension, PVDISK_REQUEST Request);

#endif
