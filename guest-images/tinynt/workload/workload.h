/*
 * The test workload: several threads write, read back and compare data through the class driver's side of every disk
 * found.
 *
 * It talks to logical units by IRP_MJ_SCSI, as a disk class driver does, and to the kernel by documented routines and
 * workload_support.h. It knows nothing of miniports, controllers or lock monitors.
 *
 * Command line settings (key=value):
 *   ops=N      operations of each disk, all threads together   (default 160)
 *   threads=N  threads a disk, 1 to 16                         (default 4)
 *   depth=N    operations in flight a thread, 1 to 16          (default 2)
 *   span=N     bytes a thread works on, rounded to 64 KiB      (default 131072; less on a small disk)
 *   timeout=N  seconds that a command may take, 1 to 600       (default 60)
 *   seed=N     seed of the operations                          (default: the loader block's)
 */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#include "workload_support.h"

#include <srb.h>

#include <scsi.h>

/*
 * Bug check 0x0D15C001, WORKLOAD_DATA_MISMATCH:  block, byte offset in it, expected 64-bit word, word found.
 * Bug check 0x0D15C002, WORKLOAD_IO_FAILED:      CDB operation code, block, SRB status, sense key << 8 | additional
 * code. Bug check 0x0D15C003, WORKLOAD_NO_DISK:        started devices, status of the last relations query, 0, 0.
 */
#define WORKLOAD_DATA_MISMATCH 0x0D15C001
#define WORKLOAD_IO_FAILED 0x0D15C002
#define WORKLOAD_NO_DISK 0x0D15C003

#define WORKLOAD_TAG 0x646b6c57 /* "Wlkd" */
#define BLOCK_SIZE 512u
#define MAX_THREADS 16
#define LEAST_SPAN_BLOCKS 8
#define MAX_DEPTH 16
#define MAX_DISKS 4
#define MAX_PIECES 8
#define MAX_RETRIES 4 /* of a command that failed or was lost in a reset, as a disk class driver has them */

VOID WorkloadMain(VOID);

typedef struct _WORKLOAD_SETTINGS {
    ULONG64 Seed;
    ULONG Operations;
    ULONG Threads;
    ULONG Depth;
    ULONG SpanBlocks;
    ULONG TimeOutSeconds;
} WORKLOAD_SETTINGS;

typedef struct _WORKLOAD_DISK {
    PDEVICE_OBJECT Adapter; /* top of the adapter's stack */
    PDEVICE_OBJECT Unit;
    ULONG64 Blocks;
    ULONG MaximumBlocks;   /* of one command */
    ULONG Threads;         /* that work on it */
    ULONG SpanBlocks;      /* of one thread */
    BOOLEAN ShortCommands; /* the unit refuses READ(16) */
    BOOLEAN Used;          /* not all zero: the disk has to be cleared where it is worked on */
    BOOLEAN UnmapZeroes;
} WORKLOAD_DISK, *PWORKLOAD_DISK;

typedef struct _WORKLOAD_TOTALS {
    volatile LONG64 Reads;
    volatile LONG64 Writes;
    volatile LONG64 Blocks;
    volatile LONG64 Retries;
    LONG64 Flushes;
    LONG64 Unmaps;
    LONG64 ExpectedFailures;
    LONG64 Unsupported;
} WORKLOAD_TOTALS;

extern WORKLOAD_SETTINGS WorkloadSettings;
extern WORKLOAD_TOTALS WorkloadTotals;

/* One SRB with its IRP; reused. */
typedef VOID (*WORKLOAD_DONE)(PVOID Context);

typedef struct _WORKLOAD_COMMAND {
    PWORKLOAD_DISK Disk;
    PIRP Irp;
    PMDL Mdl;
    SCSI_REQUEST_BLOCK Srb;
    SENSE_DATA Sense;
    ULONG Length; /* bytes to transfer; the SRB's own is those that were */
    ULONG Retries;
    WORKLOAD_DONE Done; /* called at up to DISPATCH_LEVEL */
    PVOID Context;
} WORKLOAD_COMMAND, *PWORKLOAD_COMMAND;

/* probe.c */
VOID ProbeRun(PWORKLOAD_DISK Disk);

/* command.c */
BOOLEAN CommandInitialize(PWORKLOAD_COMMAND Command, PWORKLOAD_DISK Disk);
VOID CommandFree(PWORKLOAD_COMMAND Command);
VOID CommandPrepare(PWORKLOAD_COMMAND Command, UCHAR Function, PVOID Buffer, ULONG Length, BOOLEAN Write);
VOID CommandPrepareTransfer(PWORKLOAD_COMMAND Command, ULONG64 Block, ULONG Blocks, PVOID Buffer, BOOLEAN Write);
VOID CommandSend(PWORKLOAD_COMMAND Command, WORKLOAD_DONE Done, PVOID Context);
UCHAR CommandSendAndWait(PWORKLOAD_COMMAND Command);
UCHAR CommandRetry(PWORKLOAD_COMMAND Command);
BOOLEAN CommandIsRefused(PWORKLOAD_COMMAND Command);
DECLSPEC_NORETURN VOID CommandBugCheck(PWORKLOAD_COMMAND Command);
ULONG64 CommandBlock(PWORKLOAD_COMMAND Command);

/* disk.c */
ULONG DiskFindAll(PWORKLOAD_DISK Disks, ULONG Maximum);
VOID DiskLookForData(PWORKLOAD_DISK Disk);
VOID DiskStopAll(PWORKLOAD_DISK Disks, ULONG Count);

/* pattern.c: the content of a block that was written Generation times; generation 0 is all zero. */
VOID PatternFill(PVOID Buffer, ULONG64 Block, ULONG Generation);
VOID PatternVerify(const VOID *Buffer, ULONG64 Block, ULONG Generation);
ULONG64 WorkloadRandom(ULONG64 *State);

/* thread.c */
VOID ThreadsRun(PWORKLOAD_DISK Disk);

/* epilogue.c: what is done once a disk, by one thread, after the others have ended. */
VOID EpilogueRun(PWORKLOAD_DISK Disk);

#endif
