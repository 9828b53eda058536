/*
 * The port driver's own objects: adapter (one per FDO), unit (one per logical unit's PDO), request (one per SRB in
 * flight).
 *
 * It talks to the kernel's exports and to the miniport's callbacks. It knows nothing of who watches its locks.
 */
#ifndef RAID_H
#define RAID_H

#define _STORPORT_
#include "storport_ddk.h"

#define RAID_TAG 0x64696152 /* "Raid" */
#define RAID_MAX_INIT_DATA 2
#define RAID_MAX_RANGES 8
#define RAID_MAX_MAPPINGS 16
#define RAID_MAX_MESSAGES 128
#define RAID_MAX_UNITS 16
#define RAID_MAX_PROCESSORS 64
#define RAID_DEFAULT_QUEUE_DEPTH 20

typedef enum _RAID_OBJECT_TYPE { RaidAdapterObject = 1, RaidUnitObject } RAID_OBJECT_TYPE;

typedef struct _RAID_DRIVER {
    PDRIVER_OBJECT DriverObject;
    ULONG InitDataCount;
    HW_INITIALIZATION_DATA InitData[RAID_MAX_INIT_DATA];
} RAID_DRIVER, *PRAID_DRIVER;

struct _RAID_ADAPTER;

typedef struct _RAID_UNIT {
    RAID_OBJECT_TYPE Type;
    PDEVICE_OBJECT DeviceObject;
    struct _RAID_ADAPTER *Adapter;
    UCHAR PathId;
    UCHAR TargetId;
    UCHAR Lun;
    BOOLEAN Claimed;
    KSPIN_LOCK QueueLock; /* what follows */
    LIST_ENTRY Pending;
    LIST_ENTRY Outstanding;
    ULONG OutstandingCount;
    ULONG QueueDepth;
    ULONG BusyCount; /* completions to wait for before the next start */
    BOOLEAN Paused;
    PVOID LuExtension;
} RAID_UNIT, *PRAID_UNIT;

typedef enum _RAID_REQUEST_STATE { RaidRequestPending, RaidRequestStarted, RaidRequestCompleted } RAID_REQUEST_STATE;

typedef struct _RAID_REQUEST {
    LIST_ENTRY Link;
    struct _RAID_REQUEST *NextCompleted;
    PSCSI_REQUEST_BLOCK Srb;
    PIRP Irp;
    PRAID_UNIT Unit;
    volatile LONG State;
    ULONG SecondsLeft; /* 0: no time limit */
    PSTOR_SCATTER_GATHER_LIST ScatterGather;
    PVOID SrbExtension;
} RAID_REQUEST, *PRAID_REQUEST;

typedef struct _RAID_COMPLETION_QUEUE {
    RAID_REQUEST *volatile Head;
    KDPC Dpc;
} RAID_COMPLETION_QUEUE, *PRAID_COMPLETION_QUEUE;

typedef struct _RAID_MAPPING {
    PVOID Virtual;
    SIZE_T Length;
    BOOLEAN Mapped; /* by MmMapIoSpace, not an I/O port */
} RAID_MAPPING;

typedef struct _RAID_TIMER {
    KTIMER Timer;
    KDPC Dpc;
    struct _RAID_ADAPTER *Adapter;
    PHW_TIMER_EX Callback;
    PVOID Context;
} RAID_TIMER, *PRAID_TIMER;

typedef struct _RAID_WORKER {
    PIO_WORKITEM WorkItem;
    struct _RAID_ADAPTER *Adapter;
    PHW_WORKITEM Routine;
    PVOID Context;
    volatile LONG Queued;
} RAID_WORKER, *PRAID_WORKER;

typedef struct _RAID_ADAPTER {
    RAID_OBJECT_TYPE Type;
    PDEVICE_OBJECT DeviceObject;
    PDEVICE_OBJECT PhysicalDevice;
    PDEVICE_OBJECT LowerDevice;
    HW_INITIALIZATION_DATA Hw;
    PORT_CONFIGURATION_INFORMATION Config;
    ACCESS_RANGE AccessRanges[RAID_MAX_RANGES];
    ULONG MessageCount; /* granted by the PnP manager */
    PVOID HwExtension;
    BOOLEAN Virtual;
    BOOLEAN Started;
    BOOLEAN Stopped;
    BOOLEAN Enumerated;
    volatile LONG Paused;
    PHW_PASSIVE_INITIALIZE_ROUTINE PassiveInitialize;
    ULONG ConcurrentChannels;

    KSPIN_LOCK StartIoSpinLock;
    KSPIN_LOCK InterruptSpinLock;
    PKINTERRUPT Interrupt;                           /* line-based */
    PIO_INTERRUPT_MESSAGE_INFO MessageTable;         /* message-based */
    ULONG LockOrder[RAID_MAX_MESSAGES];              /* message numbers by ascending IRQL */
    KIRQL LockOldIrql[RAID_MAX_MESSAGES];            /* written by the holder of that message's lock */
    volatile ULONG MessageHolder[RAID_MAX_MESSAGES]; /* processor + 1 that took it through the MSI lock routine */

    RAID_MAPPING Mappings[RAID_MAX_MAPPINGS];
    PVOID Uncached;
    ULONG UncachedLength;

    ULONG UnitCount;
    PRAID_UNIT Units[RAID_MAX_UNITS];
    volatile LONG OutstandingTotal;

    KTIMER HwTimer;
    KDPC HwTimerDpc;
    PHW_TIMER HwTimerRoutine;
    KTIMER SecondTimer;
    KDPC SecondDpc;
    RAID_COMPLETION_QUEUE Completion[RAID_MAX_PROCESSORS];
} RAID_ADAPTER, *PRAID_ADAPTER;

/* What lies before the miniport's device extension. */
typedef struct _RAID_HW_HEADER {
    PRAID_ADAPTER Adapter;
    ULONG_PTR Reserved;
} RAID_HW_HEADER, *PRAID_HW_HEADER;

static inline PRAID_ADAPTER RaidAdapterOf(PVOID HwDeviceExtension)
{
    return ((PRAID_HW_HEADER)HwDeviceExtension - 1)->Adapter;
}

/* driver.c, pnp.c, start.c, enumerate.c, power.c */
DRIVER_ADD_DEVICE RaidAddDevice;
DRIVER_DISPATCH RaidDispatchPnp;
DRIVER_DISPATCH RaidDispatchPower;
DRIVER_DISPATCH RaidDispatchScsi;
NTSTATUS RaidAdapterStart(PRAID_ADAPTER Adapter, PCM_RESOURCE_LIST Resources);
VOID RaidAdapterStop(PRAID_ADAPTER Adapter);
NTSTATUS RaidConnectInterrupt(PRAID_ADAPTER Adapter);
VOID RaidDisconnectInterrupt(PRAID_ADAPTER Adapter);
NTSTATUS RaidEnumerate(PRAID_ADAPTER Adapter, PIRP Irp);
NTSTATUS RaidForwardAndWait(PDEVICE_OBJECT Lower, PIRP Irp);

/* queue.c, complete.c */
VOID RaidUnitSubmit(PRAID_REQUEST Request);
VOID RaidUnitRestart(PRAID_UNIT Unit);
VOID RaidAdapterRestart(PRAID_ADAPTER Adapter);
PRAID_REQUEST RaidRequestOf(PSCSI_REQUEST_BLOCK Srb);
PRAID_REQUEST RaidCreateRequest(PRAID_UNIT Unit, PIRP Irp, PSCSI_REQUEST_BLOCK Srb);
VOID RaidFreeRequest(PRAID_REQUEST Request);
VOID RaidRequestComplete(PRAID_ADAPTER Adapter, PSCSI_REQUEST_BLOCK Srb);
KDEFERRED_ROUTINE RaidCompletionDpc;
PRAID_UNIT RaidFindUnit(PRAID_ADAPTER Adapter, UCHAR PathId, UCHAR TargetId, UCHAR Lun);

/* lock.c */
VOID RaidAcquireQueueLock(PKSPIN_LOCK Lock, PKLOCK_QUEUE_HANDLE Handle);
VOID RaidReleaseQueueLock(PKLOCK_QUEUE_HANDLE Handle);
ULONG RaidAcquireLock(PRAID_ADAPTER Adapter, STOR_SPINLOCK Kind, PVOID LockContext, PSTOR_LOCK_HANDLE Handle);
VOID RaidReleaseLock(PRAID_ADAPTER Adapter, PSTOR_LOCK_HANDLE Handle);
KIRQL RaidAcquireInterruptLock(PRAID_ADAPTER Adapter);
VOID RaidReleaseInterruptLock(PRAID_ADAPTER Adapter, KIRQL OldIrql);
ULONG RaidAcquireMessageLock(PRAID_ADAPTER Adapter, ULONG MessageId, PULONG OldIrql);
ULONG RaidReleaseMessageLock(PRAID_ADAPTER Adapter, ULONG MessageId, ULONG OldIrql);

/* timer.c */
VOID RaidInitializeTimers(PRAID_ADAPTER Adapter);
VOID RaidRequestHwTimer(PRAID_ADAPTER Adapter, PHW_TIMER Routine, ULONG Microseconds);
VOID RaidResetBus(PRAID_ADAPTER Adapter, ULONG PathId);
ULONG RaidInitializeTimerEx(PRAID_ADAPTER Adapter, PVOID *Handle);
ULONG RaidRequestTimerEx(PVOID Handle, PHW_TIMER_EX Callback, PVOID Context, ULONGLONG Microseconds);
ULONG RaidFreeTimerEx(PVOID Handle);

/* counters.c */
typedef enum _RAID_COUNTER {
    RaidCountNotification,
    RaidCountAcquireSpinLock,
    RaidCountReleaseSpinLock,
    RaidCountExtendedFunction,
    RaidCountAcquireMsiSpinLock,
    RaidCountReleaseMsiSpinLock,
    RaidCountAcquireSpinLockEx,
    RaidCountIgnoredRelease,
    RaidCounterMaximum
} RAID_COUNTER;

VOID RaidCount(RAID_COUNTER Counter);
VOID RaidPrintCounters(VOID);

#endif
