/*
 * irp.c - I/O request packets: allocation, sending down, completion.
 */
#include "ki.h"
#include "io_internal.h"

#define IOP_BUFFER_TAG 'fubI'

VOID IoInitializeIrp(PIRP Irp, USHORT PacketSize, CCHAR StackSize)
{
    RtlZeroMemory(Irp, PacketSize);
    Irp->Type = IO_TYPE_IRP;
    Irp->Size = PacketSize;
    Irp->StackCount = StackSize;
    Irp->CurrentLocation = StackSize + 1;
    InitializeListHead(&Irp->ThreadListEntry);
    Irp->Tail.Overlay.CurrentStackLocation = (PIO_STACK_LOCATION)(Irp + 1) + StackSize;
}

PIRP IoAllocateIrp(CCHAR StackSize, BOOLEAN ChargeQuota)
{
    USHORT size = IoSizeOfIrp(StackSize);
    PIRP irp = ExAllocatePoolWithTag(NonPagedPoolNx, size, ' prI');

    if (irp)
        IoInitializeIrp(irp, size, StackSize);
    return irp;
}

VOID IoFreeIrp(PIRP Irp)
{
    Irp->Type = 0;
    ExFreePoolWithTag(Irp, ' prI');
}

VOID IoReuseIrp(PIRP Irp, NTSTATUS Status)
{
    IoInitializeIrp(Irp, (USHORT)Irp->Size, Irp->StackCount);
    Irp->IoStatus.Status = Status;
}

NTSTATUS IofCallDriver(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PIO_STACK_LOCATION stack;

    if (--Irp->CurrentLocation <= 0)
        KeBugCheckEx(0x35, (ULONG_PTR)Irp, 0, 0, 0); /* NO_MORE_IRP_STACK_LOCATIONS */
    stack = IoGetNextIrpStackLocation(Irp);
    Irp->Tail.Overlay.CurrentStackLocation = stack;
    stack->DeviceObject = DeviceObject;
    return DeviceObject->DriverObject->MajorFunction[stack->MajorFunction](DeviceObject, Irp);
}

/* Whether the completion routine of this location wants to see this outcome. */
static BOOLEAN IopWantsCompletion(PIRP Irp, PIO_STACK_LOCATION Stack)
{
    if (!Stack->CompletionRoutine)
        return FALSE;
    if (NT_SUCCESS(Irp->IoStatus.Status))
        return (Stack->Control & SL_INVOKE_ON_SUCCESS) != 0;
    return (Stack->Control & SL_INVOKE_ON_ERROR) || (Irp->Cancel && (Stack->Control & SL_INVOKE_ON_CANCEL));
}

/* The answer to a buffered control goes from the packet's buffer to the sender's, as much of it as the driver said. */
static VOID IopReturnBuffers(PIRP Irp)
{
    if ((Irp->Flags & IRP_INPUT_OPERATION) && !NT_ERROR(Irp->IoStatus.Status))
        RtlCopyMemory(Irp->UserBuffer, Irp->AssociatedIrp.SystemBuffer, Irp->IoStatus.Information);
    if (Irp->Flags & IRP_DEALLOCATE_BUFFER)
        ExFreePoolWithTag(Irp->AssociatedIrp.SystemBuffer, IOP_BUFFER_TAG);
    Irp->Flags &= ~(ULONG)(IRP_INPUT_OPERATION | IRP_DEALLOCATE_BUFFER);
}

static VOID IopFreeMdls(PIRP Irp)
{
    while (Irp->MdlAddress) {
        PMDL next = Irp->MdlAddress->Next;
        IoFreeMdl(Irp->MdlAddress);
        Irp->MdlAddress = next;
    }
}

/* After the last driver: give back what the packet was built with, and tell who waits for it (IoBuild... requests). */
static VOID IopFinishIrp(PIRP Irp)
{
    PKEVENT event = Irp->UserEvent;

    IopReturnBuffers(Irp);
    if (Irp->UserIosb)
        *Irp->UserIosb = Irp->IoStatus;
    if (event) {
        IopFreeMdls(Irp);
        IoFreeIrp(Irp);
        KeSetEvent(event, 0, FALSE);
    }
}

VOID IofCompleteRequest(PIRP Irp, CCHAR PriorityBoost)
{
    if (Irp->Type != IO_TYPE_IRP || Irp->CurrentLocation > Irp->StackCount + 1)
        KeBugCheckEx(0x44, (ULONG_PTR)Irp, 0xE2F, 0, 0); /* MULTIPLE_IRP_COMPLETE_REQUESTS */
    while (Irp->CurrentLocation <= Irp->StackCount) {
        PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
        PDEVICE_OBJECT device;

        Irp->PendingReturned = (stack->Control & SL_PENDING_RETURNED) != 0;
        Irp->CurrentLocation++;
        Irp->Tail.Overlay.CurrentStackLocation++;
        device = Irp->CurrentLocation <= Irp->StackCount ? IoGetCurrentIrpStackLocation(Irp)->DeviceObject : NULL;
        if (IopWantsCompletion(Irp, stack)) {
            if (stack->CompletionRoutine(device, Irp, stack->Context) == STATUS_MORE_PROCESSING_REQUIRED)
                return;
        } else if (Irp->PendingReturned && Irp->CurrentLocation <= Irp->StackCount) {
            IoMarkIrpPending(Irp);
        }
    }
    IopFinishIrp(Irp);
}

BOOLEAN IoCancelIrp(PIRP Irp)
{
    PDRIVER_CANCEL cancel;
    KIRQL irql;

    IoAcquireCancelSpinLock(&irql);
    Irp->Cancel = TRUE;
    cancel = (PDRIVER_CANCEL)__atomic_exchange_n((PVOID volatile *)&Irp->CancelRoutine, NULL, __ATOMIC_ACQ_REL);
    if (!cancel) {
        IoReleaseCancelSpinLock(irql);
        return FALSE;
    }
    Irp->CancelIrql = irql;
    cancel(IoGetCurrentIrpStackLocation(Irp)->DeviceObject, Irp); /* it releases the cancel lock */
    return TRUE;
}

/* For METHOD_BUFFERED one buffer for both ways, which no sender and no driver shares with the other; zeroed. */
static BOOLEAN IopBufferControl(PIRP Irp, PVOID Input, ULONG InputLength, PVOID Output, ULONG OutputLength)
{
    ULONG length = InputLength > OutputLength ? InputLength : OutputLength;

    if (!length)
        return TRUE;
    Irp->AssociatedIrp.SystemBuffer = ExAllocatePool2(0, length, IOP_BUFFER_TAG);
    if (!Irp->AssociatedIrp.SystemBuffer)
        return FALSE;
    Irp->Flags |= IRP_BUFFERED_IO | IRP_DEALLOCATE_BUFFER;
    if (InputLength)
        RtlCopyMemory(Irp->AssociatedIrp.SystemBuffer, Input, InputLength);
    if (Output && OutputLength)
        Irp->Flags |= IRP_INPUT_OPERATION;
    return TRUE;
}

/* For METHOD_IN_DIRECT and METHOD_OUT_DIRECT a copy of the input, and an MDL for the other buffer. */
static BOOLEAN IopDirectControl(PIRP Irp, PVOID Input, ULONG InputLength, PVOID Output, ULONG OutputLength)
{
    if (!IopBufferControl(Irp, Input, InputLength, NULL, 0))
        return FALSE;
    if (Output && OutputLength) {
        if (!IoAllocateMdl(Output, OutputLength, FALSE, FALSE, Irp))
            return FALSE;
        MmBuildMdlForNonPagedPool(Irp->MdlAddress);
    }
    return TRUE;
}

/* The packet frees itself when complete. Buffers by the code's method (Defining I/O Control Codes). */
PIRP IoBuildDeviceIoControlRequest(ULONG IoControlCode, PDEVICE_OBJECT DeviceObject, PVOID InputBuffer,
                                   ULONG InputBufferLength, PVOID OutputBuffer, ULONG OutputBufferLength,
                                   BOOLEAN InternalDeviceIoControl, PKEVENT Event, PIO_STATUS_BLOCK IoStatusBlock)
{
    PIRP irp = IoAllocateIrp(DeviceObject->StackSize, FALSE);
    ULONG method = IoControlCode & 3;
    PIO_STACK_LOCATION stack;
    BOOLEAN good = TRUE;

    if (!irp)
        return NULL;
    stack = IoGetNextIrpStackLocation(irp);
    stack->MajorFunction = InternalDeviceIoControl ? IRP_MJ_INTERNAL_DEVICE_CONTROL : IRP_MJ_DEVICE_CONTROL;
    stack->Parameters.DeviceIoControl.IoControlCode = IoControlCode;
    stack->Parameters.DeviceIoControl.InputBufferLength = InputBufferLength;
    stack->Parameters.DeviceIoControl.OutputBufferLength = OutputBufferLength;
    irp->UserBuffer = OutputBuffer;
    if (method == METHOD_NEITHER)
        stack->Parameters.DeviceIoControl.Type3InputBuffer = InputBuffer;
    else if (method == METHOD_BUFFERED)
        good = IopBufferControl(irp, InputBuffer, InputBufferLength, OutputBuffer, OutputBufferLength);
    else
        good = IopDirectControl(irp, InputBuffer, InputBufferLength, OutputBuffer, OutputBufferLength);
    if (!good) {
        irp->IoStatus.Status = STATUS_INSUFFICIENT_RESOURCES;
        IopReturnBuffers(irp);
        IoFreeIrp(irp);
        return NULL;
    }
    irp->UserEvent = Event;
    irp->UserIosb = IoStatusBlock;
    irp->Tail.Overlay.Thread = (PETHREAD)KiCurrentThread();
    return irp;
}

PIRP IoBuildAsynchronousFsdRequest(ULONG MajorFunction, PDEVICE_OBJECT DeviceObject, PVOID Buffer, ULONG Length,
                                   PLARGE_INTEGER StartingOffset, PIO_STATUS_BLOCK IoStatusBlock)
{
    PIRP irp = IoAllocateIrp(DeviceObject->StackSize, FALSE);
    PIO_STACK_LOCATION stack;

    if (!irp)
        return NULL;
    stack = IoGetNextIrpStackLocation(irp);
    stack->MajorFunction = (UCHAR)MajorFunction;
    irp->UserBuffer = Buffer;
    irp->UserIosb = IoStatusBlock;
    if (MajorFunction == IRP_MJ_READ || MajorFunction == IRP_MJ_WRITE) {
        stack->Parameters.Write.Length = Length;
        stack->Parameters.Write.ByteOffset = *StartingOffset;
        if (!IoAllocateMdl(Buffer, Length, FALSE, FALSE, irp)) {
            IoFreeIrp(irp);
            return NULL;
        }
        MmBuildMdlForNonPagedPool(irp->MdlAddress);
    }
    return irp;
}

/* As the other, and the packet frees itself when complete. */
PIRP IoBuildSynchronousFsdRequest(ULONG MajorFunction, PDEVICE_OBJECT DeviceObject, PVOID Buffer, ULONG Length,
                                  PLARGE_INTEGER StartingOffset, PKEVENT Event, PIO_STATUS_BLOCK IoStatusBlock)
{
    PIRP irp =
        IoBuildAsynchronousFsdRequest(MajorFunction, DeviceObject, Buffer, Length, StartingOffset, IoStatusBlock);

    if (irp) {
        irp->UserEvent = Event;
        irp->Tail.Overlay.Thread = (PETHREAD)KiCurrentThread();
    }
    return irp;
}
