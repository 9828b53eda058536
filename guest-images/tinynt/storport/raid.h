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
#define RAID_VIRTUAL_QUEUE_DEPTH 250
#define RAID_CONTROL_TYPES 30      /* ScsiAdapterControlMax of current Windows */
#define RAID_UNIT_CONTROL_TYPES 16 /* ScsiUnitControlMax */
#define RAID_MAX_TAGS 256
#define RAID_MAX_POWER_SETTINGS 16
#define RAID_MAX_QUEUE_DEPTH 254 /* of StorPortSetDeviceQueueDepth */

typedef enum _RAID_OBJECT_TYPE { RaidAdapterObject = 1, RaidUnitObject } RAID_OBJECT_TYPE;

typedef struct _RAID_DRIVER {
    PDRIVER_OBJECT DriverObject;
    UNICODE_STRING RegistryPath;
    ULONG InitDataCount;
    HW_INITIALIZATION_DATA InitData[RAID_MAX_INIT_DATA];
} RAID_DRIVER, *PRAID_DRIVER;

struct _RAID_ADAPTER;
struct _RAID_REQUEST;

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
    ULONG PauseSeconds;       /* until the pause ends by itself; 0: it does not */
    volatile LONG Recovering; /* from a request that timed out: nothing new is started */
    PIO_WORKITEM RecoveryWork;
    ULONG64 Tags[RAID_MAX_TAGS / 64];                     /* bit set: in use */
    struct _RAID_REQUEST *volatile Tagged[RAID_MAX_TAGS]; /* by tag; read without the lock */
    PVOID LuExtension;
} RAID_UNIT, *PRAID_UNIT;

typedef enum _RAID_REQUEST_STATE { RaidRequestPending, RaidRequestStarted, RaidRequestCompleted } RAID_REQUEST_STATE;

typedef struct _RAID_REQUEST {
    LIST_ENTRY Link;
    struct _RAID_REQUEST *NextCompleted;
    PSCSI_REQUEST_BLOCK Srb;   /* the sender's */
    PSCSI_REQUEST_BLOCK HwSrb; /* the miniport's: the same one, or a STORAGE_REQUEST_BLOCK made of it */
    PIRP Irp;
    PRAID_UNIT Unit;
    volatile LONG State;
    ULONG SecondsLeft; /* 0: no time limit */
    BOOLEAN TimedOut;
    ULONG Tag;
    ULONG Processor; /* that started it */
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
    ULONG Signature;
    KTIMER Timer;
    KDPC Dpc;
    KDPC ScheduleDpc; /* sets or cancels the timer for who asked above DISPATCH_LEVEL */
    struct _RAID_ADAPTER *Adapter;
    PHW_TIMER_EX Callback;
    PVOID Context;
    ULONGLONG Microseconds;
    volatile LONG Active; /* requested, and the callback has not been called yet */
    PIO_WORKITEM FreeWork;
    volatile BOOLEAN Freed;
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
    BOOLEAN Initializing; /* inside HwInitialize or HwPassiveInitializeRoutine */
    BOOLEAN ExtendedSrb;  /* the miniport takes STORAGE_REQUEST_BLOCKs */
    BOOLEAN DpcRedirection;
    volatile LONG Paused;
    ULONG PauseSeconds;
    UNICODE_STRING RegistryPath;
    ULONG IoTimeout; /* seconds, instead of what requests ask for; 0: not set */
    ULONG PortNumber;
    ULONG FirstMessage; /* of the messages that requests are spread over */
    ULONG LastMessage;
    PHW_PASSIVE_INITIALIZE_ROUTINE PassiveInitialize;
    ULONG ConcurrentChannels;
    BOOLEAN AdapterControls[RAID_CONTROL_TYPES]; /* that HwAdapterControl has */
    BOOLEAN UnitControls[RAID_UNIT_CONTROL_TYPES];

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
    KDPC HwTimerScheduleDpc; /* for who asked above DISPATCH_LEVEL */
    PHW_TIMER HwTimerRoutine;
    volatile ULONG HwTimerMicroseconds;
    ULONG PowerSettingCount;
    GUID PowerSettings[RAID_MAX_POWER_SETTINGS]; /* that the miniport wants to be told of */
    KTIMER SecondTimer;
    KDPC SecondDpc;
    KDPC RestartDpc;
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
VOID RaidAdapterFree(PRAID_ADAPTER Adapter);
NTSTATUS RaidConnectInterrupt(PRAID_ADAPTER Adapter);
VOID RaidDisconnectInterrupt(PRAID_ADAPTER Adapter);
NTSTATUS RaidEnumerate(PRAID_ADAPTER Adapter, PIRP Irp);
NTSTATUS RaidForwardAndWait(PDEVICE_OBJECT Lower, PIRP Irp);

/* adaptercontrol.c */
VOID RaidQueryControlTypes(PRAID_ADAPTER Adapter);
VOID RaidTellPowerSettings(PRAID_ADAPTER Adapter);
VOID RaidAdapterPowerDown(PRAID_ADAPTER Adapter);
VOID RaidStopMiniport(PRAID_ADAPTER Adapter);
VOID RaidUnitStart(PRAID_UNIT Unit);
VOID RaidUnitPowerDown(PRAID_UNIT Unit);
VOID RaidQueryCapabilities(PRAID_UNIT Unit);
VOID RaidRegisterWmi(PRAID_ADAPTER Adapter);

/* queue.c, complete.c */
VOID RaidUnitSubmit(PRAID_REQUEST Request);
VOID RaidUnitRestart(PRAID_UNIT Unit);
VOID RaidAdapterRestart(PRAID_ADAPTER Adapter);
KDEFERRED_ROUTINE RaidRestartDpc;
PRAID_REQUEST RaidCreateRequest(PRAID_UNIT Unit, PIRP Irp, PSCSI_REQUEST_BLOCK Srb);
VOID RaidFreeRequest(PRAID_REQUEST Request);
VOID RaidRequestComplete(PRAID_ADAPTER Adapter, PSCSI_REQUEST_BLOCK Srb);
KDEFERRED_ROUTINE RaidCompletionDpc;
PRAID_UNIT RaidFindUnit(PRAID_ADAPTER Adapter, UCHAR PathId, UCHAR TargetId, UCHAR Lun);

/* srb.c */
SIZE_T RaidHwSrbSize(PRAID_ADAPTER Adapter);
VOID RaidDescribeSrb(PRAID_REQUEST Request, PVOID Storage);
VOID RaidTagSrb(PRAID_REQUEST Request, ULONG Tag);
VOID RaidReturnSrb(PRAID_REQUEST Request);
PRAID_REQUEST RaidRequestOf(PSCSI_REQUEST_BLOCK Srb);
VOID RaidSetSrbStatus(PSCSI_REQUEST_BLOCK Srb, UCHAR SrbStatus);
VOID RaidInitializeSrb(PSCSI_REQUEST_BLOCK Srb, UCHAR Function, ULONG Seconds);
UCHAR RaidSendSrb(PRAID_UNIT Unit, PSCSI_REQUEST_BLOCK Srb);

/* memory.c */
VOID RaidFillScatterGather(PSTOR_SCATTER_GATHER_LIST List, PVOID Buffer, ULONG Length);

/* recovery.c */
VOID RaidRecoverUnit(PRAID_UNIT Unit);

/* registry.c */
ULONG RaidRegistryNumber(PRAID_ADAPTER Adapter, PCSTR ValueName, ULONG Default);

/* extended functions: one file a subject, by code in extended.c */
typedef ULONG RAID_EXTENDED_FUNCTION(PRAID_ADAPTER Adapter, va_list Arguments);
RAID_EXTENDED_FUNCTION RaidAllocatePool, RaidFreePool, RaidAllocateMdl, RaidFreeMdl, RaidBuildMdl,
    RaidAllocateContiguous, RaidFreeContiguous, RaidAllocateDmaMemory, RaidFreeDmaMemory, RaidBuildScatterGatherList,
    RaidPutScatterGatherList, RaidInitializeSList, RaidFlushSList, RaidPopSList, RaidPushSList, RaidQueryDepthSList,
    RaidInsertHeadList, RaidInsertTailList, RaidRemoveHeadList;
RAID_EXTENDED_FUNCTION RaidGetMessageInformation, RaidPerformanceOptimizations, RaidStartIoParameters,
    RaidGetProcessorNumber, RaidGetGroupCount, RaidGetGroupAffinity, RaidGetNodeCount, RaidGetNodeAffinity,
    RaidGetHighestNode, RaidGetProcessorIndex, RaidGetProcessorCount, RaidGetIndexFromNumber, RaidGetIrql,
    RaidQueryPerformanceCounter, RaidDelayExecution;
RAID_EXTENDED_FUNCTION RaidGetSystemAddress, RaidGetOriginalMdl, RaidCompleteServiceIrp, RaidGetDeviceObjects,
    RaidGetRequestInfo, RaidGetActivityId, RaidGetPortNumber, RaidGetPfns, RaidUpdateMaxIo;
RAID_EXTENDED_FUNCTION RaidReadAdapterKey;
RAID_EXTENDED_FUNCTION RaidSetPowerSettingGuids;
RAID_EXTENDED_FUNCTION RaidInitializeWorker, RaidQueueWorkItem, RaidFreeWorker;

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
RAID_EXTENDED_FUNCTION RaidInitializeTimerEx, RaidRequestTimerEx, RaidFreeTimerEx;

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
