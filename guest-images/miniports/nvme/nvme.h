/*
 * nvme: a physical Storport miniport for NVM Express controllers, written against the Storport DDI only.
 *
 * Locks, all of them the port driver's:
 *   StartIo lock      held by the port driver in HwStartIo and HwTimer; guards the waiting list and the choice of the
 * queue DpcLock of a queue's DPC   guards the queue pair's rings and slots MSI lock of a message      guards the flags
 * that HwMSInterruptRoutine sets Interrupt lock    all messages at once: the stall check and the flush statistics
 *   DpcLock of MaintenanceDpc  guards the maintenance counters
 * Order: StartIo or DPC, then Interrupt or MSI; StartIo before a queue's DpcLock.
 */
#ifndef NVME_H
#define NVME_H

#include "bug.h"
#include "disk_scsi.h"
#include "nvme_spec.h"

#define NVME_MAX_QUEUES 4
#define NVME_QUEUE_ENTRIES 32u
#define NVME_ADMIN_ENTRIES 16u
#define NVME_MAXIMUM_TRANSFER (256u * 1024)
#define NVME_PRP_ENTRIES (NVME_MAXIMUM_TRANSFER / PAGE_SIZE)
#define NVME_VPD_SERIAL_NUMBER 0x80
#define NVME_TIMER_MICROSECONDS 50000
/* A command identifier: the slot, and a number that is another one the next time that the slot is used. */
#define NVME_SLOT_BITS 5
#define NVME_USE_MASK 0x3ff
#define NVME_COMMAND_STALLS 500000u /* of 10 microseconds each */

typedef struct _NVME_EXTENSION *PNVME_EXTENSION;

/* In the SRB extension. */
typedef struct _NVME_REQUEST {
    struct _NVME_REQUEST *Next; /* on the waiting list or a list of completed ones */
    PSCSI_REQUEST_BLOCK Srb;
    NVME_COMMAND Command;
    USHORT Status;                              /* of the completion, without the phase bit */
    UCHAR Lists[2 * NVME_PRP_ENTRIES * 8 + 16]; /* room for one PRP list or range list that does not cross a page */
} NVME_REQUEST, *PNVME_REQUEST;

typedef struct _NVME_QUEUE {
    USHORT Id;
    ULONG Entries;
    PNVME_COMMAND Submission;
    volatile NVME_COMPLETION *Completion;
    ULONG64 SubmissionPhysical;
    ULONG64 CompletionPhysical;
    ULONG Tail;
    ULONG SubmissionHead; /* as last reported by the controller */
    ULONG Head;
    USHORT Phase;
    ULONG Outstanding;
    ULONG Uses;
    PNVME_REQUEST Slots[NVME_QUEUE_ENTRIES];
    STOR_DPC Dpc;
    ULONG Message;                     /* that its completions are told by; 0 with the line, too */
    volatile BOOLEAN InterruptPending; /* under the MSI lock of that message, or the Interrupt lock */
    ULONG Interrupts;
} NVME_QUEUE, *PNVME_QUEUE;

typedef struct _NVME_EXTENSION {
    PUCHAR Registers;
    ULONG DoorbellStride;
    ULONG MessageCount;    /* 0: the line is used */
    BOOLEAN OneLockForAll; /* instead of a lock a message */
    DISK_GEOMETRY Geometry;
    ULONG OptionalAdminCommands;
    ULONG QueueCount; /* I/O queues */
    ULONG NextQueue;
    NVME_QUEUE Admin;
    NVME_QUEUE Queues[NVME_MAX_QUEUES];

    PUCHAR Common; /* uncached extension */
    PUCHAR IdentifyPage;
    volatile ULONG *ShadowDoorbells; /* NULL: not used */
    volatile ULONG *EventIndexes;

    PNVME_REQUEST WaitingHead; /* under the StartIo lock */
    PNVME_REQUEST WaitingTail;
    volatile ULONG WaitingCount;

    STOR_DPC ResetDpc;
    STOR_DPC MaintenanceDpc; /* only its lock is used */
    STOR_DPC ErrorDpc;       /* so here */
    ULONG64 Flushes;
    ULONG64 Unmaps;
    ULONG64 InterruptsAtFlush;
    ULONG64 InterruptsSeen;
    ULONG64 Errors;
    ULONG64 Serials;
    ULONG64 WriteFaults;
    volatile BOOLEAN Dead; /* the last reset failed */
} NVME_EXTENSION;

_Static_assert(NVME_QUEUE_ENTRIES <= 1 << NVME_SLOT_BITS, "a slot fits into a command identifier");

/* controller.c: at PASSIVE_LEVEL, or with every other user of the rings locked out */
BOOLEAN NvmeAllocateRings(PNVME_EXTENSION Extension, PPORT_CONFIGURATION_INFORMATION ConfigInfo);
BOOLEAN NvmeEnable(PNVME_EXTENSION Extension);
BOOLEAN NvmeDisable(PNVME_EXTENSION Extension);
BOOLEAN NvmeIsFatal(PNVME_EXTENSION Extension);
BOOLEAN NvmeIdentify(PNVME_EXTENSION Extension);
BOOLEAN NvmeCreateQueues(PNVME_EXTENSION Extension);
VOID NvmeShutdown(PNVME_EXTENSION Extension);
ULONG64 NvmePhysical(PNVME_EXTENSION Extension, PVOID Address);

/* queue.c: with the queue's DpcLock held, but for the admin queue */
BOOLEAN NvmeHasCompletion(PNVME_QUEUE Queue); /* with no lock: a hint */
BOOLEAN NvmeSubmit(PNVME_EXTENSION Extension, PNVME_QUEUE Queue, PNVME_REQUEST Request);
PNVME_REQUEST NvmeReap(PNVME_EXTENSION Extension, PNVME_QUEUE Queue);
PNVME_REQUEST NvmeTakeAll(PNVME_QUEUE Queue, PNVME_REQUEST List);
VOID NvmeForget(PNVME_QUEUE Queue, PNVME_REQUEST Request);
VOID NvmeResetQueue(PNVME_QUEUE Queue);

/* io.c */
BOOLEAN NTAPI NvmeBuildIo(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb);
BOOLEAN NTAPI NvmeStartIo(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb);
VOID NvmeStartWaiting(PNVME_EXTENSION Extension);
VOID NvmeComplete(PNVME_EXTENSION Extension, PNVME_REQUEST Request);

/* maintenance.c */
VOID NvmeCountFlush(PNVME_EXTENSION Extension);
VOID NvmeCountUnmap(PNVME_EXTENSION Extension, ULONG Ranges);
VOID NvmeCountSerial(PNVME_EXTENSION Extension);
VOID NTAPI NvmeTimer(PVOID DeviceExtension);

/* interrupt.c */
BOOLEAN NTAPI NvmeLineInterrupt(PVOID HwDeviceExtension);
VOID NvmeMaskLine(PNVME_EXTENSION Extension, BOOLEAN Mask);
BOOLEAN NTAPI NvmeMessageInterrupt(PVOID HwDeviceExtension, ULONG MessageId);
VOID NTAPI NvmeQueueDpc(PSTOR_DPC Dpc, PVOID HwDeviceExtension, PVOID SystemArgument1, PVOID SystemArgument2);
VOID NTAPI NvmeResetDpc(PSTOR_DPC Dpc, PVOID HwDeviceExtension, PVOID SystemArgument1, PVOID SystemArgument2);

#endif
