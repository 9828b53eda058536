/*
 * The Storport DDI as current Windows has it, on top of mingw-w64's headers, which stop at Windows Server 2003.
 *
 * Used by the port driver (which defines _STORPORT_) and by the miniports. Types, values and offsets are those
 * of the DDI reference pages (storport.h, srb.h); the offsets that a binary depends on are asserted below.
 */
#ifndef STORPORT_DDK_H
#define STORPORT_DDK_H

#include <ntddk.h>

/* mingw's structures lack what was added after 2003: rename them away, define the current ones below. */
#define _PORT_CONFIGURATION_INFORMATION OLD_PORT_CONFIGURATION_INFORMATION_TAG
#define PORT_CONFIGURATION_INFORMATION OLD_PORT_CONFIGURATION_INFORMATION
#define PPORT_CONFIGURATION_INFORMATION OLD_PPORT_CONFIGURATION_INFORMATION
#define _HW_INITIALIZATION_DATA OLD_HW_INITIALIZATION_DATA_TAG
#define HW_INITIALIZATION_DATA OLD_HW_INITIALIZATION_DATA
#define PHW_INITIALIZATION_DATA OLD_PHW_INITIALIZATION_DATA
#define PHW_FIND_ADAPTER OLD_PHW_FIND_ADAPTER
#include <srb.h>
#undef _PORT_CONFIGURATION_INFORMATION
#undef PORT_CONFIGURATION_INFORMATION
#undef PPORT_CONFIGURATION_INFORMATION
#undef _HW_INITIALIZATION_DATA
#undef HW_INITIALIZATION_DATA
#undef PHW_INITIALIZATION_DATA
#undef PHW_FIND_ADAPTER

typedef enum _STOR_SYNCHRONIZATION_MODEL {
    StorSynchronizeHalfDuplex,
    StorSynchronizeFullDuplex
} STOR_SYNCHRONIZATION_MODEL;

typedef enum _INTERRUPT_SYNCHRONIZATION_MODE {
    InterruptSupportNone,
    InterruptSynchronizeAll,
    InterruptSynchronizePerMessage
} INTERRUPT_SYNCHRONIZATION_MODE;

typedef struct _MEMORY_REGION {
    PUCHAR VirtualBase;
    PHYSICAL_ADDRESS PhysicalBase;
    ULONG Length;
} MEMORY_REGION, *PMEMORY_REGION;

typedef BOOLEAN(NTAPI *PHW_MESSAGE_SIGNALED_INTERRUPT_ROUTINE)(PVOID HwDeviceExtension, ULONG MessageId);

typedef struct _PORT_CONFIGURATION_INFORMATION {
    ULONG Length;
    ULONG SystemIoBusNumber;
    INTERFACE_TYPE AdapterInterfaceType;
    ULONG BusInterruptLevel;
    ULONG BusInterruptVector;
    KINTERRUPT_MODE InterruptMode;
    ULONG MaximumTransferLength;
    ULONG NumberOfPhysicalBreaks;
    ULONG DmaChannel;
    ULONG DmaPort;
    DMA_WIDTH DmaWidth;
    DMA_SPEED DmaSpeed;
    ULONG AlignmentMask;
    ULONG NumberOfAccessRanges;
    ACCESS_RANGE (*AccessRanges)[];
    PVOID MiniportDumpData;
    UCHAR NumberOfBuses;
    CCHAR InitiatorBusId[8];
    BOOLEAN ScatterGather;
    BOOLEAN Master;
    BOOLEAN CachesData;
    BOOLEAN AdapterScansDown;
    BOOLEAN AtdiskPrimaryClaimed;
    BOOLEAN AtdiskSecondaryClaimed;
    BOOLEAN Dma32BitAddresses;
    BOOLEAN DemandMode;
    UCHAR MapBuffers;
    BOOLEAN NeedPhysicalAddresses;
    BOOLEAN TaggedQueuing;
    BOOLEAN AutoRequestSense;
    BOOLEAN MultipleRequestPerLu;
    BOOLEAN ReceiveEvent;
    BOOLEAN RealModeInitialized;
    BOOLEAN BufferAccessScsiPortControlled;
    UCHAR MaximumNumberOfTargets;
    UCHAR SrbType;
    UCHAR AddressType;
    ULONG SlotNumber;
    ULONG BusInterruptLevel2;
    ULONG BusInterruptVector2;
    KINTERRUPT_MODE InterruptMode2;
    ULONG DmaChannel2;
    ULONG DmaPort2;
    DMA_WIDTH DmaWidth2;
    DMA_SPEED DmaSpeed2;
    ULONG DeviceExtensionSize;
    ULONG SpecificLuExtensionSize;
    ULONG SrbExtensionSize;
    UCHAR Dma64BitAddresses;
    BOOLEAN ResetTargetSupported;
    UCHAR MaximumNumberOfLogicalUnits;
    BOOLEAN WmiDataProvider;
    STOR_SYNCHRONIZATION_MODEL SynchronizationModel;
    PHW_MESSAGE_SIGNALED_INTERRUPT_ROUTINE HwMSInterruptRoutine;
    INTERRUPT_SYNCHRONIZATION_MODE InterruptSynchronizationMode;
    MEMORY_REGION DumpRegion;
    ULONG RequestedDumpBufferSize;
    BOOLEAN VirtualDevice;
    UCHAR DumpMode;
    UCHAR DmaAddressWidth;
    ULONG ExtendedFlags1;
    ULONG MaxNumberOfIO;
    ULONG MaxIOsPerLun;
    ULONG InitialLunQueueDepth;
    ULONG BusResetHoldTime;
    ULONG FeatureSupport;
} PORT_CONFIGURATION_INFORMATION, *PPORT_CONFIGURATION_INFORMATION;

_Static_assert(FIELD_OFFSET(PORT_CONFIGURATION_INFORMATION, SynchronizationModel) == 0x94, "SynchronizationModel");
_Static_assert(FIELD_OFFSET(PORT_CONFIGURATION_INFORMATION, HwMSInterruptRoutine) == 0x98, "HwMSInterruptRoutine");
_Static_assert(FIELD_OFFSET(PORT_CONFIGURATION_INFORMATION, DumpRegion) == 0xa8, "DumpRegion");
_Static_assert(FIELD_OFFSET(PORT_CONFIGURATION_INFORMATION, VirtualDevice) == 0xc4, "VirtualDevice");
_Static_assert(FIELD_OFFSET(PORT_CONFIGURATION_INFORMATION, FeatureSupport) == 0xdc, "FeatureSupport");
_Static_assert(FIELD_OFFSET(SCSI_REQUEST_BLOCK, Cdb) == 0x48, "Cdb");

typedef ULONG(NTAPI *PHW_FIND_ADAPTER)(PVOID DeviceExtension, PVOID HwContext, PVOID BusInformation,
                                       PCHAR ArgumentString, PPORT_CONFIGURATION_INFORMATION ConfigInfo,
                                       PBOOLEAN Reserved3);
typedef ULONG(NTAPI *PVIRTUAL_HW_FIND_ADAPTER)(PVOID DeviceExtension, PVOID HwContext, PVOID BusInformation,
                                               PVOID LowerDevice, PCHAR ArgumentString,
                                               PPORT_CONFIGURATION_INFORMATION ConfigInfo, PBOOLEAN Again);
typedef BOOLEAN(NTAPI *PHW_BUILDIO)(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb);
typedef VOID(NTAPI *PHW_FREE_ADAPTER_RESOURCES)(PVOID DeviceExtension);
typedef VOID(NTAPI *PHW_PROCESS_SERVICE_REQUEST)(PVOID DeviceExtension, PVOID Irp);
typedef VOID(NTAPI *PHW_COMPLETE_SERVICE_IRP)(PVOID DeviceExtension);
typedef VOID(NTAPI *PHW_INITIALIZE_TRACING)(PVOID Arg1, PVOID Arg2);
typedef VOID(NTAPI *PHW_CLEANUP_TRACING)(PVOID Arg1);
typedef VOID(NTAPI *PHW_TRACING_ENABLED)(PVOID HwDeviceExtension, BOOLEAN Enabled);
typedef SCSI_ADAPTER_CONTROL_STATUS(NTAPI *PHW_UNIT_CONTROL)(PVOID DeviceExtension, ULONG ControlType,
                                                             PVOID Parameters);
typedef BOOLEAN(NTAPI *PHW_PASSIVE_INITIALIZE_ROUTINE)(PVOID DeviceExtension);

/* The union of HW_INITIALIZATION_DATA and VIRTUAL_HW_INITIALIZATION_DATA: they differ in HwFindAdapter's type only. */
typedef struct _HW_INITIALIZATION_DATA {
    ULONG HwInitializationDataSize;
    INTERFACE_TYPE AdapterInterfaceType;
    PHW_INITIALIZE HwInitialize;
    PHW_STARTIO HwStartIo;
    PHW_INTERRUPT HwInterrupt;
    union {
        PHW_FIND_ADAPTER HwFindAdapter;
        PVIRTUAL_HW_FIND_ADAPTER VirtualHwFindAdapter;
    };
    PHW_RESET_BUS HwResetBus;
    PHW_DMA_STARTED HwDmaStarted;
    PHW_ADAPTER_STATE HwAdapterState;
    ULONG DeviceExtensionSize;
    ULONG SpecificLuExtensionSize;
    ULONG SrbExtensionSize;
    ULONG NumberOfAccessRanges;
    PVOID Reserved;
    UCHAR MapBuffers;
    BOOLEAN NeedPhysicalAddresses;
    BOOLEAN TaggedQueuing;
    BOOLEAN AutoRequestSense;
    BOOLEAN MultipleRequestPerLu;
    BOOLEAN ReceiveEvent;
    USHORT VendorIdLength;
    PVOID VendorId;
    USHORT PortVersionFlags;
    USHORT DeviceIdLength;
    PVOID DeviceId;
    PHW_ADAPTER_CONTROL HwAdapterControl;
    PHW_BUILDIO HwBuildIo;
    PHW_FREE_ADAPTER_RESOURCES HwFreeAdapterResources;
    PHW_PROCESS_SERVICE_REQUEST HwProcessServiceRequest;
    PHW_COMPLETE_SERVICE_IRP HwCompleteServiceIrp;
    PHW_INITIALIZE_TRACING HwInitializeTracing;
    PHW_CLEANUP_TRACING HwCleanupTracing;
    PHW_TRACING_ENABLED HwTracingEnabled;
    ULONG FeatureSupport;
    ULONG SrbTypeFlags;
    ULONG AddressTypeFlags;
    ULONG Reserved1;
    PHW_UNIT_CONTROL HwUnitControl;
} HW_INITIALIZATION_DATA, *PHW_INITIALIZATION_DATA;

/*
 * The sizes that Storport takes: the whole structure; VIRTUAL_HW_INITIALIZATION_DATA, which ends before
 * HwTracingEnabled; that of a physical miniport before Windows 8; and, for HwBuildIo is optional, ScsiPort's.
 */
#define VIRTUAL_HW_INITIALIZATION_DATA_SIZE FIELD_OFFSET(HW_INITIALIZATION_DATA, HwTracingEnabled)
#define HW_INITIALIZATION_DATA_MINIMUM FIELD_OFFSET(HW_INITIALIZATION_DATA, HwBuildIo)

#define STOR_FEATURE_VIRTUAL_MINIPORT 0x00000001
#define STOR_FEATURE_FULL_PNP_DEVICE_CAPABILITIES 0x00000004

_Static_assert(FIELD_OFFSET(HW_INITIALIZATION_DATA, HwAdapterControl) == 0x78, "HwAdapterControl");
_Static_assert(FIELD_OFFSET(HW_INITIALIZATION_DATA, HwFreeAdapterResources) == 0x88, "HwFreeAdapterResources");
_Static_assert(FIELD_OFFSET(HW_INITIALIZATION_DATA, HwTracingEnabled) == 0xb0, "HwTracingEnabled");
_Static_assert(FIELD_OFFSET(HW_INITIALIZATION_DATA, FeatureSupport) == 0xb8, "FeatureSupport");
_Static_assert(FIELD_OFFSET(HW_INITIALIZATION_DATA, HwUnitControl) == 0xc8, "HwUnitControl");

/* mingw's register and port routines lack the first parameter, HwDeviceExtension. */
#define StorPortReadPortUchar OldStorPortReadPortUchar
#define StorPortReadPortUshort OldStorPortReadPortUshort
#define StorPortReadPortUlong OldStorPortReadPortUlong
#define StorPortReadRegisterUchar OldStorPortReadRegisterUchar
#define StorPortReadRegisterUshort OldStorPortReadRegisterUshort
#define StorPortReadRegisterUlong OldStorPortReadRegisterUlong
#define StorPortWritePortUchar OldStorPortWritePortUchar
#define StorPortWritePortUshort OldStorPortWritePortUshort
#define StorPortWritePortUlong OldStorPortWritePortUlong
#define StorPortWriteRegisterUchar OldStorPortWriteRegisterUchar
#define StorPortWriteRegisterUshort OldStorPortWriteRegisterUshort
#define StorPortWriteRegisterUlong OldStorPortWriteRegisterUlong
#define _SCSI_WMI_REQUEST_BLOCK STORPORT_SCSI_WMI_REQUEST_BLOCK_TAG
#define SCSI_WMI_REQUEST_BLOCK STORPORT_SCSI_WMI_REQUEST_BLOCK
#define PSCSI_WMI_REQUEST_BLOCK STORPORT_PSCSI_WMI_REQUEST_BLOCK
#include <storport.h>
#undef _SCSI_WMI_REQUEST_BLOCK
#undef SCSI_WMI_REQUEST_BLOCK
#undef PSCSI_WMI_REQUEST_BLOCK
#undef StorPortReadPortUchar
#undef StorPortReadPortUshort
#undef StorPortReadPortUlong
#undef StorPortReadRegisterUchar
#undef StorPortReadRegisterUshort
#undef StorPortReadRegisterUlong
#undef StorPortWritePortUchar
#undef StorPortWritePortUshort
#undef StorPortWritePortUlong
#undef StorPortWriteRegisterUchar
#undef StorPortWriteRegisterUshort
#undef StorPortWriteRegisterUlong

#include <scsi.h>

#include "storage_request_block.h"

#define STORPORT_REGISTER_ROUTINES(Name, Type)                                                                         \
    STORPORTAPI Type NTAPI StorPortReadRegister##Name(PVOID HwDeviceExtension, Type *Register);                        \
    STORPORTAPI VOID NTAPI StorPortWriteRegister##Name(PVOID HwDeviceExtension, Type *Register, Type Value);

STORPORT_REGISTER_ROUTINES(Uchar, UCHAR)
STORPORT_REGISTER_ROUTINES(Ushort, USHORT)
STORPORT_REGISTER_ROUTINES(Ulong, ULONG)
STORPORT_REGISTER_ROUTINES(Ulong64, ULONG64)

/* SCSI_NOTIFICATION_TYPE, the Storport part. */
#define EnablePassiveInitialization ((SCSI_NOTIFICATION_TYPE)0x1000)
#define InitializeDpc ((SCSI_NOTIFICATION_TYPE)0x1001)
#define IssueDpc ((SCSI_NOTIFICATION_TYPE)0x1002)
#define AcquireSpinLock ((SCSI_NOTIFICATION_TYPE)0x1003)
#define ReleaseSpinLock ((SCSI_NOTIFICATION_TYPE)0x1004)
#define StateChangeDetectedCall ((SCSI_NOTIFICATION_TYPE)0x1005)
#define IoTargetRequestServiceTime ((SCSI_NOTIFICATION_TYPE)0x1006)
#define AsyncNotificationDetected ((SCSI_NOTIFICATION_TYPE)0x1007)
#define RequestDirectComplete ((SCSI_NOTIFICATION_TYPE)0x1008)
#define InitializeDpcWithContext ((SCSI_NOTIFICATION_TYPE)0x1009)
#define InitializeThreadedDpc ((SCSI_NOTIFICATION_TYPE)0x100a)
#define SetTargetProcessorDpc ((SCSI_NOTIFICATION_TYPE)0x100b)
#define MarkDeviceFailed ((SCSI_NOTIFICATION_TYPE)0x100c)

typedef enum _STOR_SPINLOCK {
    InvalidLock,
    DpcLock,
    StartIoLock,
    InterruptLock,
    ThreadedDpcLock,
    DpcLevelLock
} STOR_SPINLOCK;

typedef struct _STOR_LOCK_HANDLE {
    STOR_SPINLOCK Lock;
    ULONG Reserved;
    struct {
        struct {
            PVOID Next;
            PVOID Lock;
        } LockQueue;
        KIRQL OldIrql;
    } Context;
} STOR_LOCK_HANDLE, *PSTOR_LOCK_HANDLE;

_Static_assert(FIELD_OFFSET(STOR_LOCK_HANDLE, Context.LockQueue.Lock) == 0x10, "LockQueue.Lock");
_Static_assert(FIELD_OFFSET(STOR_LOCK_HANDLE, Context.OldIrql) == 0x18, "OldIrql");
_Static_assert(sizeof(((STOR_LOCK_HANDLE *)0)->Context) == sizeof(KLOCK_QUEUE_HANDLE), "KLOCK_QUEUE_HANDLE");

typedef struct _STOR_DPC {
    KDPC Dpc;
    KSPIN_LOCK Lock;
} STOR_DPC, *PSTOR_DPC;

typedef VOID(NTAPI *PHW_DPC_ROUTINE)(PSTOR_DPC Dpc, PVOID HwDeviceExtension, PVOID SystemArgument1,
                                     PVOID SystemArgument2);

#include "storport_function.h"

STORPORTAPI ULONG __cdecl StorPortExtendedFunction(STORPORT_FUNCTION_CODE FunctionCode, PVOID HwDeviceExtension, ...);

/* What the WDK's header has as inline functions: thin shells over the two exports. */
#ifndef _STORPORT_
FORCEINLINE BOOLEAN StorPortEnablePassiveInitialization(PVOID DeviceExtension, PHW_PASSIVE_INITIALIZE_ROUTINE Routine)
{
    LONG Succ = FALSE;

    StorPortNotification(EnablePassiveInitialization, DeviceExtension, Routine, &Succ);
    return (BOOLEAN)Succ;
}

FORCEINLINE VOID StorPortInitializeDpc(PVOID DeviceExtension, PSTOR_DPC Dpc, PHW_DPC_ROUTINE HwDpcRoutine)
{
    StorPortNotification(InitializeDpc, DeviceExtension, Dpc, HwDpcRoutine);
}

FORCEINLINE BOOLEAN StorPortIssueDpc(PVOID DeviceExtension, PSTOR_DPC Dpc, PVOID SystemArgument1, PVOID SystemArgument2)
{
    LONG Succ = FALSE;

    StorPortNotification(IssueDpc, DeviceExtension, Dpc, SystemArgument1, SystemArgument2, &Succ);
    return (BOOLEAN)Succ;
}

FORCEINLINE VOID StorPortAcquireSpinLock(PVOID DeviceExtension, STOR_SPINLOCK SpinLock, PVOID LockContext,
                                         PSTOR_LOCK_HANDLE LockHandle)
{
    StorPortNotification(AcquireSpinLock, DeviceExtension, SpinLock, LockContext, LockHandle);
}

FORCEINLINE VOID StorPortReleaseSpinLock(PVOID DeviceExtension, PSTOR_LOCK_HANDLE LockHandle)
{
    StorPortNotification(ReleaseSpinLock, DeviceExtension, LockHandle);
}

FORCEINLINE ULONG StorPortAcquireSpinLockEx(PVOID HwDeviceExtension, STOR_SPINLOCK SpinLock, PVOID LockContext,
                                            PSTOR_LOCK_HANDLE LockHandle)
{
    return StorPortExtendedFunction(ExtFunctionAcquireSpinLock, HwDeviceExtension, SpinLock, LockContext, LockHandle);
}

FORCEINLINE ULONG StorPortAcquireMSISpinLock(PVOID HwDeviceExtension, ULONG MessageId, PULONG OldIrql)
{
    return StorPortExtendedFunction(ExtFunctionAcquireMSISpinLock, HwDeviceExtension, MessageId, OldIrql);
}

FORCEINLINE ULONG StorPortReleaseMSISpinLock(PVOID HwDeviceExtension, ULONG MessageId, ULONG OldIrql)
{
    return StorPortExtendedFunction(ExtFunctionReleaseMSISpinLock, HwDeviceExtension, MessageId, OldIrql);
}

FORCEINLINE ULONG StorPortGetMSIInfo(PVOID HwDeviceExtension, ULONG MessageId,
                                     PMESSAGE_INTERRUPT_INFORMATION InterruptInfo)
{
    return StorPortExtendedFunction(ExtFunctionGetMessageInterruptInformation, HwDeviceExtension, MessageId,
                                    InterruptInfo);
}

FORCEINLINE ULONG StorPortInitializePerfOpts(PVOID HwDeviceExtension, BOOLEAN Query,
                                             PPERF_CONFIGURATION_DATA PerfConfigData)
{
    return StorPortExtendedFunction(ExtFunctionInitializePerformanceOptimizations, HwDeviceExtension, Query,
                                    PerfConfigData);
}

FORCEINLINE ULONG StorPortAllocatePool(PVOID HwDeviceExtension, ULONG NumberOfBytes, ULONG Tag, PVOID *BufferPointer)
{
    return StorPortExtendedFunction(ExtFunctionAllocatePool, HwDeviceExtension, NumberOfBytes, Tag, BufferPointer);
}

FORCEINLINE ULONG StorPortFreePool(PVOID HwDeviceExtension, PVOID BufferPointer)
{
    return StorPortExtendedFunction(ExtFunctionFreePool, HwDeviceExtension, BufferPointer);
}

FORCEINLINE ULONG StorPortGetSystemAddress(PVOID HwDeviceExtension, PSCSI_REQUEST_BLOCK Srb, PVOID *SystemAddress)
{
    return StorPortExtendedFunction(ExtFunctionGetSystemAddress, HwDeviceExtension, Srb, SystemAddress);
}

FORCEINLINE ULONG StorPortInitializeTimer(PVOID HwDeviceExtension, PVOID *TimerHandle)
{
    return StorPortExtendedFunction(ExtFunctionInitializeTimer, HwDeviceExtension, TimerHandle);
}

/* TimerValue and TolerableDelay in microseconds. */
FORCEINLINE ULONG StorPortRequestTimer(PVOID HwDeviceExtension, PVOID TimerHandle, PHW_TIMER_EX Callback,
                                       PVOID CallbackContext, ULONGLONG TimerValue, ULONGLONG TolerableDelay)
{
    return StorPortExtendedFunction(ExtFunctionRequestTimer, HwDeviceExtension, TimerHandle, Callback, CallbackContext,
                                    TimerValue, TolerableDelay);
}

/* From HwFindAdapter; the miniport is told by HwAdapterControl(ScsiPowerSettingNotification), with a
 * STOR_POWER_SETTING_INFO. */
FORCEINLINE ULONG StorPortSetPowerSettingNotificationGuids(PVOID HwDeviceExtension, ULONG GuidCount, LPGUID Guid)
{
    return StorPortExtendedFunction(ExtFunctionSetPowerSettingNotificationGuids, HwDeviceExtension, GuidCount, Guid);
}

FORCEINLINE ULONG StorPortFreeTimer(PVOID HwDeviceExtension, PVOID TimerHandle)
{
    return StorPortExtendedFunction(ExtFunctionFreeTimer, HwDeviceExtension, TimerHandle);
}
#endif

STORPORTAPI PUCHAR NTAPI StorPortAllocateRegistryBuffer(PVOID HwDeviceExtension, PULONG Length);
STORPORTAPI VOID NTAPI StorPortFreeRegistryBuffer(PVOID HwDeviceExtension, PUCHAR Buffer);
STORPORTAPI BOOLEAN NTAPI StorPortRegistryRead(PVOID HwDeviceExtension, PUCHAR ValueName, ULONG Global, ULONG Type,
                                               PUCHAR Buffer, PULONG BufferLength);
STORPORTAPI BOOLEAN NTAPI StorPortSetDeviceQueueDepth(PVOID HwDeviceExtension, UCHAR PathId, UCHAR TargetId, UCHAR Lun,
                                                      ULONG Depth);

#endif
