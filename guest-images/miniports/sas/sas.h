/*
 * sas: a physical Storport miniport for the LSI SAS1068 (Fusion-MPT 1), written against the Storport DDI only.
 *
 * Locks:
 *   StartIo lock               held by the port driver in HwStartIo and HwTimer; nothing of ours is guarded by it alone
 *   DpcLock of CompletionDpc   the adapter queue: the slots, the frames of requests and replies
 *   DpcLock of TopologyDpc     events on their way to the work item, which targets are there,
 *                              work items under way, whether the system goes down
 *   DpcLock of ResetDpc        the counter of looks at the links, at its beginning
 *   Interrupt lock             the interrupt mask and the flag that HwInterrupt sets
 *   StatisticsLock             a spin lock of the kernel's: the counters
 * Order: StartIo, CompletionDpc's, TopologyDpc's or ResetDpc's, Interrupt; StatisticsLock last and at DISPATCH_LEVEL at
 * most.
 */
#ifndef SAS_H
#define SAS_H

#include "bug.h"
#include "mpi_spec.h"

#define SAS_SLOTS 128u
#define SAS_REPLY_FRAMES 64u
#define SAS_REPLY_FRAME_SIZE 128u
#define SAS_SENSE_SIZE 128u
#define SAS_TARGETS 16u
#define SAS_BLOCK_SIZE 512u
#define SAS_MAXIMUM_TRANSFER (256u * 1024)
#define SAS_SEGMENTS (SAS_MAXIMUM_TRANSFER / PAGE_SIZE + 1)
#define SAS_FRAME_SEGMENTS 5u /* that fit into a request's frame with a chain element behind them */
#define SAS_EVENTS 32u
#define SAS_TIMER_MICROSECONDS 100000
#define SAS_MISSING_TICKS 100u /* of the timer, until a target that is missing is given up */
#define SAS_POLLS 500000u      /* of 10 microseconds each */

/* A context: the slot, and a number that is another one the next time that the slot is used. */
#define SAS_SLOT_MASK 0xffu
#define SAS_USE_SHIFT 8
#define SAS_USE_MASK 0xfffffu
#define SAS_EVENT_CONTEXT 0x1f0000ffu /* no slot's */

typedef struct _SAS_EXTENSION *PSAS_EXTENSION;

/* In the SRB extension. */
typedef struct _SAS_REQUEST {
    struct _SAS_REQUEST *Next; /* on a list of completed ones */
    PSCSI_REQUEST_BLOCK Srb;   /* NULL: the driver's own */
    BOOLEAN Answered;
    BOOLEAN Lost; /* in a reset */
    USHORT IocStatus;
    UCHAR ScsiStatus;
    UCHAR ScsiState;
    UCHAR ResponseCode;
    ULONG TransferCount;
    ULONG SenseCount;
    union {
        UCHAR Bytes[MPI_FRAME_SIZE];
        MPI_SCSI_IO_REQUEST ScsiIo;
        MPI_SCSI_TASK_MGMT TaskManagement;
        MPI_CONFIG Config;
    } Message;
    MPI_SGE64 Chain[SAS_SEGMENTS];
} SAS_REQUEST, *PSAS_REQUEST;

typedef struct _SAS_SLOT {
    PSAS_REQUEST Request; /* NULL: free */
    ULONG Context;
} SAS_SLOT;

/* An event that the work item has to look at: a target has come or gone. */
typedef struct _SAS_EVENT {
    UCHAR Target;
    UCHAR Reason;
} SAS_EVENT;

typedef struct _SAS_TARGET {
    BOOLEAN Present;
    BOOLEAN Known; /* it was there once */
    ULONG MissingTicks;
} SAS_TARGET;

/* The uncached extension. */
typedef struct _SAS_COMMON {
    UCHAR Requests[SAS_SLOTS][MPI_FRAME_SIZE];
    UCHAR Sense[SAS_SLOTS][SAS_SENSE_SIZE];
    UCHAR Replies[SAS_REPLY_FRAMES][SAS_REPLY_FRAME_SIZE];
    UCHAR Page[1024]; /* of the configuration, read at the start and by the work item */
} SAS_COMMON, *PSAS_COMMON;

typedef struct _SAS_EXTENSION {
    PUCHAR Registers;
    BOOLEAN Messages; /* interrupts are messages */
    UCHAR MaxDevices;

    PSAS_COMMON Common;
    ULONG64 CommonPhysical;
    SAS_SLOT Slots[SAS_SLOTS]; /* under CompletionDpc's lock */
    ULONG NextSlot;
    ULONG Uses;
    volatile BOOLEAN Operational;
    volatile BOOLEAN Dead; /* the last reset failed */

    volatile BOOLEAN InterruptPending; /* under the interrupt lock */
    ULONG64 Interrupts;

    SAS_EVENT Events[SAS_EVENTS]; /* under TopologyDpc's lock */
    ULONG EventCount;
    SAS_TARGET Targets[SAS_TARGETS];
    PVOID Worker;
    SAS_REQUEST WorkerRequest; /* the work item's own */
    ULONG Workers;             /* queued or running */
    PSAS_REQUEST Shutdown;     /* that waits for their end */
    volatile BOOLEAN ShutDown; /* under TopologyDpc's lock: the system goes down, the IOC is not reset any more */

    STOR_DPC CompletionDpc;
    STOR_DPC ResetDpc;
    STOR_DPC TopologyDpc; /* only its lock is used */
    KSPIN_LOCK StatisticsLock;
    ULONG64 Flushes;
    ULONG64 Unmaps;
    ULONG64 InterruptsAtFlush;
    ULONG64 Errors;
    ULONG64 LinkErrors;
    ULONG64 Topologies;
    ULONG64 LinkLooks;
} SAS_EXTENSION;

/* At DISPATCH_LEVEL at most; returns the IRQL to go back to. */
FORCEINLINE KIRQL SasLockStatistics(PSAS_EXTENSION Extension)
{
    KIRQL OldIrql = KeGetCurrentIrql();

    if (HAS_BUG(AT_DPC_LEVEL_IN_WORKER)) {
        KeAcquireSpinLockAtDpcLevel(&Extension->StatisticsLock);
    } else {
        KeAcquireSpinLock(&Extension->StatisticsLock, &OldIrql);
    }
    return OldIrql;
}

FORCEINLINE VOID SasUnlockStatistics(PSAS_EXTENSION Extension, KIRQL OldIrql)
{
    if (HAS_BUG(AT_DPC_LEVEL_IN_WORKER)) {
        KeReleaseSpinLockFromDpcLevel(&Extension->StatisticsLock);
    } else if (HAS_BUG(RELEASE_FROM_DPC_LEVEL)) {
        KeReleaseSpinLockFromDpcLevel(&Extension->StatisticsLock);
        KeLowerIrql(OldIrql);
    } else if (HAS_BUG(RELEASE_TO_DISPATCH_LEVEL)) {
        KeReleaseSpinLock(&Extension->StatisticsLock, DISPATCH_LEVEL);
        KeLowerIrql(OldIrql);
    } else {
        KeReleaseSpinLock(&Extension->StatisticsLock, OldIrql);
    }
}

/* The physical address of something in the uncached extension. */
static inline ULONG64 SasPhysical(PSAS_EXTENSION Extension, PVOID Address)
{
    return Extension->CommonPhysical + (ULONG64)((PUCHAR)Address - (PUCHAR)Extension->Common);
}

/* ioc.c: with every other user of the adapter locked out */
ULONG SasRead(PSAS_EXTENSION Extension, ULONG Register);
VOID SasWrite(PSAS_EXTENSION Extension, ULONG Register, ULONG Value);
BOOLEAN SasIsFault(PSAS_EXTENSION Extension);
BOOLEAN SasMakeReady(PSAS_EXTENSION Extension);
BOOLEAN SasReadFacts(PSAS_EXTENSION Extension);
BOOLEAN SasMakeOperational(PSAS_EXTENSION Extension);
BOOLEAN SasReadPhys(PSAS_EXTENSION Extension);

/* queue.c: with CompletionDpc's lock held */
BOOLEAN SasPost(PSAS_EXTENSION Extension, PSAS_REQUEST Request);
PSAS_REQUEST SasReap(PSAS_EXTENSION Extension);
PSAS_REQUEST SasTakeUnit(PSAS_EXTENSION Extension, ULONG Target, PSAS_REQUEST List);
VOID SasForget(PSAS_EXTENSION Extension, PSAS_REQUEST Request);

/* io.c */
BOOLEAN NTAPI SasBuildIo(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb);
BOOLEAN NTAPI SasStartIo(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb);
VOID SasComplete(PSAS_EXTENSION Extension, PSAS_REQUEST Request);
VOID SasCompleteAll(PSAS_EXTENSION Extension, PSAS_REQUEST List);

/* interrupt.c */
BOOLEAN NTAPI SasInterrupt(PVOID HwDeviceExtension);
BOOLEAN NTAPI SasMessageInterrupt(PVOID HwDeviceExtension, ULONG MessageId);
VOID NTAPI SasCompletionDpc(PSTOR_DPC Dpc, PVOID HwDeviceExtension, PVOID Argument1, PVOID Argument2);
VOID NTAPI SasResetDpc(PSTOR_DPC Dpc, PVOID HwDeviceExtension, PVOID Argument1, PVOID Argument2);

/* topology.c */
VOID SasNoteEvent(PSAS_EXTENSION Extension, const MPI_REPLY *Reply);
VOID SasQueueWorker(PSAS_EXTENSION Extension);
VOID SasCompleteShutdown(PSAS_EXTENSION Extension, PSAS_REQUEST Request);
UCHAR SasStatusOfMissing(PSAS_EXTENSION Extension, ULONG Target);
VOID SasCountMissing(PSAS_EXTENSION Extension);

/* statistics.c */
VOID SasCountFlush(PSAS_EXTENSION Extension);
VOID SasCountUnmap(PSAS_EXTENSION Extension);
VOID SasCountError(PSAS_EXTENSION Extension);
VOID SasCountLinkErrors(PSAS_EXTENSION Extension, ULONG Errors);
VOID SasNoteShutdown(PSAS_EXTENSION Extension);
VOID SasCountTopology(PSAS_EXTENSION Extension);
VOID NTAPI SasTimer(PVOID DeviceExtension);

#endif
