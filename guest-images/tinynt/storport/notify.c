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

    Adapter->PassiveInitialize = Routine;
    *Succeeded = TRUE;
}

static VOID NotifyTimer(PRAID_ADAPTER Adapter, va_list Arguments)
{
    PHW_TIMER Routine = va_arg(Arguments, PHW_TIMER);
    ULONG Microseconds = va_arg(Arguments, ULONG);

    RaidRequestHwTimer(Adapter, Routine, Microseconds);
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
    case NextRequest:
    case NextLuRequest:
    case ResetDetected:
    case BusChangeDetected:
    case LinkUp:
    case LinkDown:
        break;
    case RequestTimerCall:
        NotifyTimer(Adapter, Arguments);
        break;
    case (ULONG)EnablePassiveInitialization:
        NotifyPassiveInitialization(Adapter, Arguments);
        break;
    case (ULONG)InitializeDpc:
        NotifyInitializeDpc(HwDeviceExtension, Arguments);
        break;
    case (ULONG)IssueDpc:
        NotifyIssueDpc(Arguments);
        break;
    case (ULONG)AcquireSpinLock:
        NotifyAcquire(Adapter, Arguments);
        break;
    case (ULONG)ReleaseSpinLock:
        RaidCount(RaidCountReleaseSpinLock);
        RaidReleaseLock(Adapter, va_arg(Arguments, PSTOR_LOCK_HANDLE));
        break;
    default:
        DbgPrint("storport: StorPortNotification: type 0x%lx is not supported\n", (ULONG)NotificationType);
        break;
    }
    va_end(Arguments);
}
