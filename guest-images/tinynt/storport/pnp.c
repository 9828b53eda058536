/* IRP_MJ_PNP and IRP_MJ_POWER of adapters (FDO) and logical units (PDO). */
#include "raid.h"

static NTSTATUS NTAPI SignalEvent(PDEVICE_OBJECT DeviceObject, PIRP Irp, PVOID Context)
{
    UNREFERENCED_PARAMETER(DeviceObject);
    UNREFERENCED_PARAMETER(Irp);
    KeSetEvent(Context, IO_NO_INCREMENT, FALSE);
    return STATUS_MORE_PROCESSING_REQUIRED;
}

/* Sends the IRP to the lower driver and waits until that has completed it; the caller still owns it. */
NTSTATUS RaidForwardAndWait(PDEVICE_OBJECT Lower, PIRP Irp)
{
    KEVENT Event;
    NTSTATUS Status;

    KeInitializeEvent(&Event, NotificationEvent, FALSE);
    IoCopyCurrentIrpStackLocationToNext(Irp);
    IoSetCompletionRoutine(Irp, SignalEvent, &Event, TRUE, TRUE, TRUE);
    Status = IoCallDriver(Lower, Irp);
    if (Status == STATUS_PENDING) {
        KeWaitForSingleObject(&Event, Executive, KernelMode, FALSE, NULL);
        Status = Irp->IoStatus.Status;
    }
    return Status;
}

static NTSTATUS Complete(PIRP Irp, NTSTATUS Status)
{
    Irp->IoStatus.Status = Status;
    IoCompleteRequest(Irp, IO_NO_INCREMENT);
    return Status;
}

/* The adapter's device is gone afterwards. */
static NTSTATUS RemoveAdapter(PRAID_ADAPTER Adapter, PIRP Irp)
{
    PDEVICE_OBJECT Lower = Adapter->LowerDevice;
    BOOLEAN Started = Adapter->Started;
    NTSTATUS Status;

    RaidAdapterStop(Adapter);
    Irp->IoStatus.Status = STATUS_SUCCESS;
    IoSkipCurrentIrpStackLocation(Irp);
    Status = IoCallDriver(Lower, Irp);
    if (!Started) {
        /* The miniport did not take it; nothing has a reference to it but the stack. */
        IoDetachDevice(Lower);
        RaidAdapterFree(Adapter);
        IoDeleteDevice(Adapter->DeviceObject);
    }
    return Status;
}

static NTSTATUS AdapterPnp(PRAID_ADAPTER Adapter, PIRP Irp)
{
    PIO_STACK_LOCATION Stack = IoGetCurrentIrpStackLocation(Irp);
    NTSTATUS Status;

    switch (Stack->MinorFunction) {
    case IRP_MN_START_DEVICE:
        Status = RaidForwardAndWait(Adapter->LowerDevice, Irp);
        if (NT_SUCCESS(Status)) {
            Status = RaidAdapterStart(Adapter, Stack->Parameters.StartDevice.AllocatedResourcesTranslated);
        }
        return Complete(Irp, Status);
    case IRP_MN_QUERY_DEVICE_RELATIONS:
        if (Stack->Parameters.QueryDeviceRelations.Type == BusRelations) {
            return Complete(Irp, RaidEnumerate(Adapter, Irp));
        }
        break;
    case IRP_MN_REMOVE_DEVICE:
        return RemoveAdapter(Adapter, Irp);
    case IRP_MN_STOP_DEVICE:
    case IRP_MN_SURPRISE_REMOVAL:
        RaidAdapterStop(Adapter);
        Irp->IoStatus.Status = STATUS_SUCCESS;
        break;
    default:
        break;
    }
    IoSkipCurrentIrpStackLocation(Irp);
    return IoCallDriver(Adapter->LowerDevice, Irp);
}

NTSTATUS NTAPI RaidDispatchPnp(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PRAID_ADAPTER Adapter = DeviceObject->DeviceExtension;

    if (Adapter->Type == RaidAdapterObject) {
        return AdapterPnp(Adapter, Irp);
    }
    switch (IoGetCurrentIrpStackLocation(Irp)->MinorFunction) {
    case IRP_MN_START_DEVICE:
        RaidUnitStart(DeviceObject->DeviceExtension);
        return Complete(Irp, STATUS_SUCCESS);
    case IRP_MN_STOP_DEVICE:
    case IRP_MN_REMOVE_DEVICE:
    case IRP_MN_QUERY_STOP_DEVICE:
    case IRP_MN_QUERY_REMOVE_DEVICE:
        return Complete(Irp, STATUS_SUCCESS);
    default:
        return Complete(Irp, Irp->IoStatus.Status);
    }
}

NTSTATUS NTAPI RaidDispatchPower(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PRAID_ADAPTER Adapter = DeviceObject->DeviceExtension;
    PIO_STACK_LOCATION Stack = IoGetCurrentIrpStackLocation(Irp);

    if (Adapter->Type != RaidAdapterObject) {
        if (Stack->MinorFunction == IRP_MN_SET_POWER && Stack->Parameters.Power.Type == DevicePowerState &&
            Stack->Parameters.Power.State.DeviceState == PowerDeviceD3) {
            RaidUnitPowerDown(DeviceObject->DeviceExtension);
        }
        return Complete(Irp, STATUS_SUCCESS);
    }
    if (Stack->MinorFunction == IRP_MN_SET_POWER && Stack->Parameters.Power.Type == DevicePowerState &&
        Stack->Parameters.Power.State.DeviceState == PowerDeviceD3) {
        RaidAdapterStop(Adapter);
    }
    Irp->IoStatus.Status = STATUS_SUCCESS;
    IoSkipCurrentIrpStackLocation(Irp);
    return IoCallDriver(Adapter->LowerDevice, Irp);
}
