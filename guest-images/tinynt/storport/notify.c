/* StorPortNotification: the export behind the miniport's lock, DPC, timer and completion calls. */
#include "raid.h"

static VOID NotifyIssueDpc(va_list Arguments)
{
    PSTOR_DPC Dpc = va_arg(Arguments, PSTOR_DPC);
    PVOID Argument1 = va_arg(Arguments, PVOID);
    PVOID Argument2 = va_arg(Arguments, PVOID);
    PLONG Succeeded = va_arg(Arguments, PLONG);

    *Succeeded = KeInsertQueueDpc(&Dpc->Dpc, Argument1, Argument2);
}

static VOID NotifyInitializeDpc(PVOID HwDeviceExtension, va_list Arguments)
{
    PSTOR_DPC Dpc = va_arg(Arguments, PSTOR_DPC);
    PHW_DPC_ROUTINE Routine = va_arg(Arguments, PHW_DPC_ROUTINE);

    KeInitializeDpc(&Dpc->Dpc, (PKDEFERRED_ROUTINE)(PVOID)Routine, HwDeviceExtension);
    KeInitializeSpinLock(&Dpc->Lock);
}

static KDPC_IMPORTANCE ImportanceOf(ULONG Importance)
{
    return Importance <= HighImportance ? (KDPC_IMPORTANCE)Importance : MediumImportance;
}

static VOID NotifyInitializeDpcWithContext(BOOLEAN Threaded, va_list Arguments)
{
    PSTOR_DPC Dpc = va_arg(Arguments, PSTOR_DPC);
    PHW_DPC_ROUTINE Routine = va_arg(Arguments, PHW_DPC_ROUTINE);
    PVOID Context = va_arg(Arguments, PVOID);
    ULONG Importance = va_arg(Arguments, ULONG);

    if (Threaded) {
        KeInitializeThreadedDpc(&Dpc->Dpc, (PKDEFERRED_ROUTINE)(PVOID)Routine, Context);
    } else {
        KeInitializeDpc(&Dpc->Dpc, (PKDEFERRED_ROUTINE)(PVOID)Routine, Context);
        KeSetImportanceDpc(&Dpc->Dpc, ImportanceOf(Importance));
    }
    KeInitializeSpinLock(&Dpc->Lock);
}

static VOID NotifySetTargetProcessor(va_list Arguments)
{
    PSTOR_DPC Dpc = va_arg(Arguments, PSTOR_DPC);
    PPROCESSOR_NUMBER Processor = va_arg(Arguments, PPROCESSOR_NUMBER);

    KeSetTargetProcessorDpcEx(&Dpc->Dpc, Processor);
}

static VOID NotifyTickCount(va_list Arguments)
{
    KeQueryTickCount(va_arg(Arguments, PLARGE_INTEGER));
}

/* A status change of a unit: nobody here has asked to be told. */
static VOID NotifyAsync(va_list Arguments)
{
    PVOID Address = va_arg(Arguments, PVOID);
    ULONGLONG Flags = va_arg(Arguments, ULONGLONG);
    PULONG Status = va_arg(Arguments, PULONG);

    UNREFERENCED_PARAMETER(Address);
    UNREFERENCED_PARAMETER(Flags);
    *Status = STOR_STATUS_SUCCESS;
}

static VOID NotifyAcquire(PRAID_ADAPTER Adapter, va_list Arguments)
{
    STOR_SPINLOCK Kind = va_arg(Arguments, STOR_SPINLOCK);
    PVOID LockContext = va_arg(Arguments, PVOID);
    PSTOR_LOCK_HANDLE Handle = va_arg(Arguments, PSTOR_LOCK_HANDLE);

    RaidCount(RaidCountAcquireSpinLock);
    if (Kind <= InterruptLock && Handle != NULL) {
        RaidAcquireLock(Adapter, Kind, LockContext, Handle);
    }
}

static VOID NotifyPassiveInitialization(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PHW_PASSIVE_INITIALIZE_ROUTINE Routine = va_arg(Arguments, PHW_PASSIVE_INITIALIZE_ROUTINE);
    PLONG Succeeded = va_arg(Arguments, PLONG);

    *Succeeded = Routine != NULL;
    Adapter->PassiveInitialize = Routine;
}

static VOID NotifyTimer(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PHW_TIMER Routine = va_arg(Arguments, PHW_TIMER);
    ULONG Microseconds = va_arg(Arguments, ULONG);

    RaidRequestHwTimer(Adapter, Routine, Microseconds);
}

/* The types of Storport; FALSE for one that is not known. */
static BOOLEAN NotifyStorport(PRAID_ADAPTER Adapter, PVOID HwDeviceExtension, ULONG Type, va_list Arguments)
{
    switch (Type) {
    case (ULONG)EnablePassiveInitialization:
        NotifyPassiveInitialization(Adapter, Arguments);
        return TRUE;
    case (ULONG)InitializeDpc:
        NotifyInitializeDpc(HwDeviceExtension, Arguments);
        return TRUE;
    case (ULONG)InitializeDpcWithContext:
    case (ULONG)InitializeThreadedDpc:
        NotifyInitializeDpcWithContext(Type == (ULONG)InitializeThreadedDpc, Arguments);
        return TRUE;
    case (ULONG)IssueDpc:
        NotifyIssueDpc(Arguments);
        return TRUE;
    case (ULONG)SetTargetProcessorDpc:
        NotifySetTargetProcessor(Arguments);
        return TRUE;
    case (ULONG)AcquireSpinLock:
        NotifyAcquire(Adapter, Arguments);
        return TRUE;
    case (ULONG)ReleaseSpinLock:
        RaidCount(RaidCountReleaseSpinLock);
        RaidReleaseLock(Adapter, va_arg(Arguments, PSTOR_LOCK_HANDLE));
        return TRUE;
    case (ULONG)RequestDirectComplete:
        RaidRequestComplete(Adapter, va_arg(Arguments, PSCSI_REQUEST_BLOCK));
        return TRUE;
    case (ULONG)AsyncNotificationDetected:
        NotifyAsync(Arguments);
        return TRUE;
    case (ULONG)StateChangeDetectedCall:
    case (ULONG)IoTargetRequestServiceTime:
    case (ULONG)MarkDeviceFailed:
        return TRUE;
    default:
        return FALSE;
    }
}

VOID __cdecl StorPortNotification(SCSI_NOTIFICATION_TYPE NotificationType, PVOID HwDeviceExtension, ...)
{
    PRAID_ADAPTER Adapter = RaidAdapterOf(HwDeviceExtension);
    va_list Arguments;

    RaidCount(RaidCountNotification);
    va_start(Arguments, HwDeviceExtension);
    switch ((ULONG)NotificationType) {
    case RequestComplete:
        RaidRequestComplete(Adapter, va_arg(Arguments, PSCSI_REQUEST_BLOCK));
        break;
    case BusChangeDetected:
        Adapter->Enumerated = FALSE; /* the next query of the bus relations looks again */
        break;
    case NextRequest:
    case NextLuRequest:
    case ResetDetected:
    case WMIEvent:
    case WMIReregister:
    case LinkUp:
    case LinkDown:
    case BufferOverrunDetected:
    case TraceNotification:
        break;
    case QueryTickCount:
        NotifyTickCount(Arguments);
        break;
    case RequestTimerCall:
        NotifyTimer(Adapter, Arguments);
        break;
    default:
        if (!NotifyStorport(Adapter, HwDeviceExtension, (ULONG)NotificationType, Arguments)) {
            DbgPrint("storport: StorPortNotification: type 0x%lx is not supported\n", (ULONG)NotificationType);
        }
        break;
    }
    va_end(Arguments);
}
