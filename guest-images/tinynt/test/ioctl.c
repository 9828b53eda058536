/*
 * ioctl.c - the self test's third part: requests that drivers build, seen by the driver they are sent to.
 */
#include "io_internal.h"
#include "ki.h"
#include "selftest.h"

#define TEST_CODE(Method) CTL_CODE(FILE_DEVICE_UNKNOWN, 0x800, Method, FILE_ANY_ACCESS)
#define TEST_INPUT_BYTES 8
#define TEST_OUTPUT_BYTES 16
#define TEST_ANSWER_BYTES 12

NTSTATUS IoCreateDriver(PUNICODE_STRING DriverName, PDRIVER_INITIALIZE InitializationFunction);

static PDRIVER_OBJECT TestDriver;
static ULONG TestNumber;
static UCHAR TestInput[TEST_INPUT_BYTES], TestOutput[TEST_OUTPUT_BYTES];

/* Whether a buffer is one that the sender gave, or a copy. */
static BOOLEAN TestIsOwn(const void *Buffer)
{
    return Buffer != TestInput && Buffer != TestOutput;
}

static PUCHAR TestFindOutput(PIRP Irp, PIO_STACK_LOCATION Stack)
{
    switch (Stack->Parameters.DeviceIoControl.IoControlCode & 3) {
    case METHOD_BUFFERED:
        TestExpect(TestNumber, "a buffer of its own", TRUE, TestIsOwn(Irp->AssociatedIrp.SystemBuffer));
        return Irp->AssociatedIrp.SystemBuffer;
    case METHOD_NEITHER:
        TestExpect(TestNumber, "input as given", (ULONG64)TestInput,
                   (ULONG64)Stack->Parameters.DeviceIoControl.Type3InputBuffer);
        TestExpect(TestNumber, "output as given", (ULONG64)TestOutput, (ULONG64)Irp->UserBuffer);
        return Irp->UserBuffer;
    default:
        TestExpect(TestNumber, "input copied", TRUE, TestIsOwn(Irp->AssociatedIrp.SystemBuffer));
        TestExpect(TestNumber, "output by an MDL", TEST_OUTPUT_BYTES, MmGetMdlByteCount(Irp->MdlAddress));
        return MmGetSystemAddressForMdlSafe(Irp->MdlAddress, NormalPagePriority);
    }
}

static NTSTATUS TestControl(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
    PUCHAR output = TestFindOutput(Irp, stack);
    PUCHAR input = (stack->Parameters.DeviceIoControl.IoControlCode & 3) == METHOD_NEITHER
                       ? stack->Parameters.DeviceIoControl.Type3InputBuffer
                       : Irp->AssociatedIrp.SystemBuffer;

    UNREFERENCED_PARAMETER(DeviceObject);
    TestExpect(TestNumber, "input", 7, input[7]);
    RtlFillMemory(output, TEST_OUTPUT_BYTES, 0x5A);
    Irp->IoStatus.Information = TEST_ANSWER_BYTES;
    Irp->IoStatus.Status = STATUS_SUCCESS;
    IofCompleteRequest(Irp, IO_NO_INCREMENT);
    return STATUS_SUCCESS;
}

static NTSTATUS TestDriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    UNREFERENCED_PARAMETER(RegistryPath);
    TestDriver = DriverObject;
    DriverObject->MajorFunction[IRP_MJ_DEVICE_CONTROL] = TestControl;
    return STATUS_SUCCESS;
}

/* What comes back: as much as the driver said where it answered into a copy, all that it wrote elsewhere. */
static VOID TestSendControl(PDEVICE_OBJECT Device, ULONG Method)
{
    IO_STATUS_BLOCK result;
    KEVENT done;
    PIRP irp;

    for (ULONG i = 0; i < TEST_INPUT_BYTES; i++)
        TestInput[i] = (UCHAR)i;
    RtlZeroMemory(TestOutput, sizeof(TestOutput));
    KeInitializeEvent(&done, NotificationEvent, FALSE);
    irp = IoBuildDeviceIoControlRequest(TEST_CODE(Method), Device, TestInput, sizeof(TestInput), TestOutput,
                                        sizeof(TestOutput), FALSE, &done, &result);
    TestExpect(TestNumber, "built", TRUE, irp != NULL);
    IofCallDriver(Device, irp);
    KeWaitForSingleObject(&done, Executive, KernelMode, FALSE, NULL);
    TestExpect(TestNumber, "status", 0, (ULONG64)result.Status);
    TestExpect(TestNumber, "input untouched", 3, TestInput[3]);
    TestExpect(TestNumber, "answer", 0x5A, TestOutput[TEST_ANSWER_BYTES - 1]);
    TestExpect(TestNumber, "behind it", Method == METHOD_BUFFERED ? 0 : 0x5A, TestOutput[TEST_ANSWER_BYTES]);
}

VOID KiSelfTestControls(VOID)
{
    static UNICODE_STRING name = RTL_CONSTANT_STRING(L"\\Driver\\SelfTest");
    PDEVICE_OBJECT device;

    TestNumber = 22;
    TestExpect(TestNumber, "driver", 0, (ULONG64)IoCreateDriver(&name, TestDriverEntry));
    TestExpect(TestNumber, "device", 0,
               (ULONG64)IoCreateDevice(TestDriver, 0, NULL, FILE_DEVICE_UNKNOWN, 0, FALSE, &device));
    for (ULONG method = METHOD_BUFFERED; method <= METHOD_NEITHER; method++)
        TestSendControl(device, method);
    IoDeleteDevice(device);
}
