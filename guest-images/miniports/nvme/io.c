/* From SRB to NVMe command (HwBuildIo, no lock held), to a queue (HwStartIo, StartIo lock held), and the SRB's status.
 */
#include "nvme.h"

static PVOID ListOf(PNVME_REQUEST Request)
{
    ULONG Alignment = NVME_PRP_ENTRIES * 8;

    return (PVOID)(((ULONG_PTR)Request->Lists + Alignment - 1) & ~(ULONG_PTR)(Alignment - 1));
}

/* Section 4.3. The port driver's elements begin and end at page boundaries, but for the first and the last. */
static BOOLEAN DescribeData(PNVME_EXTENSION Extension, PNVME_REQUEST Request)
{
    PSTOR_SCATTER_GATHER_LIST List = StorPortGetScatterGatherList(Extension, Request->Srb);
    ULONG64 *Prps = ListOf(Request);
    ULONG Count = 0;

    if (List == NULL) {
        return FALSE;
    }
    for (ULONG Element = 0; Element < List->NumberOfElements; Element++) {
        ULONG64 Address = (ULONG64)List->List[Element].PhysicalAddress.QuadPart;
        ULONG64 End = Address + List->List[Element].Length;

        while (Address < End) {
            if (Count == 0) {
                Request->Command.Prp1 = Address;
            } else if (Count <= NVME_PRP_ENTRIES) {
                Prps[Count - 1] = Address;
            } else {
                return FALSE;
            }
            Count++;
            Address = (Address & ~(ULONG64)(PAGE_SIZE - 1)) + PAGE_SIZE;
        }
    }
    if (Count == 2) {
        Request->Command.Prp2 = Prps[0];
    } else if (Count > 2) {
        Request->Command.Prp2 = NvmePhysical(Extension, Prps);
    }
    return TRUE;
}

static BOOLEAN BuildTransfer(PNVME_EXTENSION Extension, PNVME_REQUEST Request, const DISK_RANGE *Range, BOOLEAN Write)
{
    Request->Command.Opcode = Write ? NVME_IO_WRITE : NVME_IO_READ;
    Request->Command.Dword10 = (ULONG)Range->Lba;
    Request->Command.Dword11 = (ULONG)(Range->Lba >> 32);
    Request->Command.Dword12 = Range->Blocks - 1;
    return DescribeData(Extension, Request);
}

static BOOLEAN BuildUnmap(PNVME_EXTENSION Extension, PNVME_REQUEST Request)
{
    DISK_RANGE Ranges[MAX_UNMAP_RANGES];
    LONG Count = DiskUnmapRanges(&Extension->Geometry, Request->Srb, Ranges);
    NVME_DSM_RANGE *List = ListOf(Request);

    if (Count < 0) {
        DiskFail(Request->Srb, SCSI_SENSE_ILLEGAL_REQUEST, SCSI_ADSENSE_INVALID_FIELD_PARAMETER_LIST);
        return FALSE;
    }
    if (Count == 0) {
        DiskSucceed(Request->Srb);
        return FALSE;
    }
    for (LONG Index = 0; Index < Count; Index++) {
        List[Index].Attributes = 0;
        List[Index].Blocks = Ranges[Index].Blocks;
        List[Index].Lba = Ranges[Index].Lba;
    }
    Request->Command.Opcode = NVME_IO_DATASET_MANAGEMENT;
    Request->Command.Prp1 = NvmePhysical(Extension, List);
    Request->Command.Dword10 = (ULONG)Count - 1;
    Request->Command.Dword11 = NVME_DSM_DEALLOCATE;
    NvmeCountUnmap(Extension, (ULONG)Count);
    return TRUE;
}

static BOOLEAN BuildFlush(PNVME_EXTENSION Extension, PNVME_REQUEST Request)
{
    Request->Command.Opcode = NVME_IO_FLUSH;
    NvmeCountFlush(Extension);
    return TRUE;
}

/* FALSE: the SRB has its status already. */
static BOOLEAN BuildScsi(PNVME_EXTENSION Extension, PNVME_REQUEST Request)
{
    DISK_RANGE Range;

    switch (DiskDecode(&Extension->Geometry, Request->Srb, &Range)) {
    case DiskRead:
        return BuildTransfer(Extension, Request, &Range, FALSE);
    case DiskWrite:
        return BuildTransfer(Extension, Request, &Range, TRUE);
    case DiskOutOfRange:
        if (Range.Blocks == 0 || Range.Blocks > Extension->Geometry.MaximumTransferBlocks ||
            Request->Srb->DataTransferLength < Range.Blocks * BLOCK_SIZE) {
            DiskFail(Request->Srb, SCSI_SENSE_ILLEGAL_REQUEST, SCSI_ADSENSE_ILLEGAL_BLOCK);
            return FALSE;
        }
        /* The controller is asked all the same: what is out of range is its to say. */
        return BuildTransfer(Extension, Request, &Range, (Request->Srb->SrbFlags & SRB_FLAGS_DATA_OUT) != 0);
    case DiskFlush:
        return BuildFlush(Extension, Request);
    case DiskUnmap:
        return BuildUnmap(Extension, Request);
    case DiskAnswered:
        if (Request->Srb->Cdb[0] == SCSIOP_INQUIRY && Request->Srb->Cdb[2] == NVME_VPD_SERIAL_NUMBER) {
            NvmeCountSerial(Extension);
        }
        return FALSE;
    default:
        DiskFail(Request->Srb, SCSI_SENSE_ILLEGAL_REQUEST, SCSI_ADSENSE_ILLEGAL_COMMAND);
        return FALSE;
    }
}

static BOOLEAN BuildOther(PNVME_EXTENSION Extension, PNVME_REQUEST Request)
{
    PSCSI_REQUEST_BLOCK Srb = Request->Srb;

    switch (Srb->Function) {
    case SRB_FUNCTION_FLUSH:
    case SRB_FUNCTION_SHUTDOWN:
        return BuildFlush(Extension, Request);
    case SRB_FUNCTION_RESET_DEVICE:
    case SRB_FUNCTION_RESET_LOGICAL_UNIT:
    case SRB_FUNCTION_PNP:
    case SRB_FUNCTION_POWER:
        Srb->SrbStatus = SRB_STATUS_SUCCESS;
        return FALSE;
    default:
        Srb->SrbStatus = SRB_STATUS_INVALID_REQUEST;
        return FALSE;
    }
}

BOOLEAN NTAPI NvmeBuildIo(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb)
{
    PNVME_REQUEST Request = Srb->SrbExtension;
    BOOLEAN Send;

    Request->Srb = Srb;
    Request->Next = NULL;
    RtlZeroMemory(&Request->Command, sizeof(Request->Command));
    Request->Command.NamespaceId = 1;
    Send = Srb->Function == SRB_FUNCTION_EXECUTE_SCSI ? BuildScsi(DeviceExtension, Request)
                                                      : BuildOther(DeviceExtension, Request);
    if (!Send) {
        if (Srb->SrbStatus == SRB_STATUS_PENDING) {
            Srb->SrbStatus = SRB_STATUS_INVALID_REQUEST;
        }
        StorPortNotification(RequestComplete, DeviceExtension, Srb);
    }
    return Send;
}

/* With the StartIo lock held. Tries each queue, the next one first. */
static BOOLEAN SubmitToAnyQueue(PNVME_EXTENSION Extension, PNVME_REQUEST Request)
{
    for (ULONG Attempt = 0; Attempt < Extension->QueueCount; Attempt++) {
        PNVME_QUEUE Queue = &Extension->Queues[Extension->NextQueue++ % Extension->QueueCount];
        STOR_LOCK_HANDLE Handle = {0};
        BOOLEAN Submitted;

        StorPortAcquireSpinLock(Extension, DpcLock, &Queue->Dpc, &Handle);
        Submitted = NvmeSubmit(Extension, Queue, Request);
        StorPortReleaseSpinLock(Extension, &Handle);
        if (Submitted) {
            return TRUE;
        }
    }
    return FALSE;
}

static VOID Wait(PNVME_EXTENSION Extension, PNVME_REQUEST Request)
{
    Request->Next = NULL;
    if (Extension->WaitingHead == NULL) {
        Extension->WaitingHead = Request;
    } else {
        Extension->WaitingTail->Next = Request;
    }
    Extension->WaitingTail = Request;
    Extension->WaitingCount++;
}

/* The port driver has called with the lock that this takes. */
static DECLSPEC_NOINLINE VOID StartUnderLock(PNVME_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, StartIoLock, NULL, &Handle);
    Extension->NextQueue++;
    StorPortReleaseSpinLock(Extension, &Handle);
}

BOOLEAN NTAPI NvmeStartIo(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb)
{
    PNVME_EXTENSION Extension = DeviceExtension;
    PNVME_REQUEST Request = Srb->SrbExtension;

    if (HAS_BUG(START_IO_LOCK_IN_START_IO) && Request->Command.Opcode == NVME_IO_FLUSH) {
        StartUnderLock(Extension);
    }

    if (Extension->WaitingHead != NULL || !SubmitToAnyQueue(Extension, Request)) {
        Wait(Extension, Request);
    }
    return TRUE;
}

/* From a queue's DPC, no lock held. */
VOID NvmeStartWaiting(PNVME_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    if (Extension->WaitingCount == 0 ||
        StorPortAcquireSpinLockEx(Extension, StartIoLock, NULL, &Handle) != STOR_STATUS_SUCCESS) {
        return;
    }
    while (Extension->WaitingHead != NULL) {
        PNVME_REQUEST Request = Extension->WaitingHead;
        PNVME_REQUEST Next = Request->Next;

        if (!SubmitToAnyQueue(Extension, Request)) {
            break;
        }
        Extension->WaitingHead = Next;
        Extension->WaitingCount--;
    }
    StorPortReleaseSpinLock(Extension, &Handle);
}

/* The first of them is told; whoever wrote the return has not seen that it is under the lock. */
static DECLSPEC_NOINLINE VOID CountWriteFault(PNVME_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->ErrorDpc, &Handle);
    if (Extension->WriteFaults++ == 0) {
        StorPortDebugPrint(0, "nvme: the medium has refused a write\n");
        if (HAS_BUG(RETURN_WITH_LOCK)) {
            return;
        }
    }
    StorPortReleaseSpinLock(Extension, &Handle);
}

static DECLSPEC_NOINLINE VOID FailRequest(PNVME_EXTENSION Extension, PNVME_REQUEST Request)
{
    STOR_LOCK_HANDLE Handle = {0};

    if (!HAS_BUG(RELEASE_ON_ERROR_PATH)) {
        StorPortAcquireSpinLock(Extension, DpcLock, &Extension->MaintenanceDpc, &Handle);
    }
    Extension->Errors++;
    StorPortReleaseSpinLock(Extension, &Handle);
    StorPortDebugPrint(0, "nvme: command 0x%x failed: status 0x%x\n", Request->Command.Opcode, Request->Status);
    switch (Request->Status & NVME_STATUS_CODE) {
    case NVME_STATUS_LBA_OUT_OF_RANGE:
        DiskFail(Request->Srb, SCSI_SENSE_ILLEGAL_REQUEST, SCSI_ADSENSE_ILLEGAL_BLOCK);
        break;
    case NVME_STATUS_NAMESPACE_WRITE_PROTECTED:
        DiskFail(Request->Srb, SCSI_SENSE_DATA_PROTECT, SCSI_ADSENSE_WRITE_PROTECT);
        break;
    case NVME_STATUS_WRITE_FAULT:
        CountWriteFault(Extension);
        DiskFail(Request->Srb, SCSI_SENSE_MEDIUM_ERROR, NVME_ASC_WRITE_FAULT);
        break;
    case NVME_STATUS_UNRECOVERED_READ_ERROR:
        DiskFail(Request->Srb, SCSI_SENSE_MEDIUM_ERROR, NVME_ASC_UNRECOVERED_READ);
        break;
    default:
        DiskFail(Request->Srb, SCSI_SENSE_HARDWARE_ERROR, SCSI_ADSENSE_NO_SENSE);
        break;
    }
}

VOID NvmeComplete(PNVME_EXTENSION Extension, PNVME_REQUEST Request)
{
    if (Request->Status != 0) {
        FailRequest(Extension, Request);
    } else {
        DiskSucceed(Request->Srb);
    }
    StorPortNotification(RequestComplete, Extension, Request->Srb);
}
