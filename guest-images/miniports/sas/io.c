/* From SRB to message (HwBuildIo, no lock held), to the adapter queue (HwStartIo, StartIo lock held), and the SRB's
 * status. */
#include "sas.h"

#define OPCODE_UNMAP 0x42

static VOID FillElement(PMPI_SGE64 Element, ULONG Flags, ULONG Length, ULONG64 Address)
{
    Element->FlagsLength = Flags | MPI_SGE_64_BIT_ADDRESSING | Length;
    Element->Address = Address;
}

/* The elements in the frame, and where they do not fit the rest in one chain buffer behind it. */
static BOOLEAN DescribeData(PSAS_EXTENSION Extension, PSAS_REQUEST Request)
{
    PMPI_SCSI_IO_REQUEST Message = &Request->Message.ScsiIo;
    PSTOR_SCATTER_GATHER_LIST List = StorPortGetScatterGatherList(Extension, Request->Srb);
    ULONG Flags = MPI_SGE_SIMPLE_ELEMENT | (Message->Control & MPI_SCSIIO_CONTROL_WRITE ? MPI_SGE_HOST_TO_IOC : 0);
    ULONG Length;

    if (List == NULL || List->NumberOfElements == 0 || List->NumberOfElements > SAS_SEGMENTS) {
        return FALSE;
    }
    for (ULONG Index = 0; Index < List->NumberOfElements; Index++) {
        BOOLEAN InFrame = Index < SAS_FRAME_SEGMENTS;
        BOOLEAN Last = Index + 1 == List->NumberOfElements, LastInFrame = Index + 1 == SAS_FRAME_SEGMENTS;

        FillElement(InFrame ? &Message->SGL[Index] : &Request->Chain[Index - SAS_FRAME_SEGMENTS],
                    Flags | (Last || LastInFrame ? MPI_SGE_LAST_ELEMENT : 0) |
                        (Last ? MPI_SGE_END_OF_BUFFER | MPI_SGE_END_OF_LIST : 0),
                    List->List[Index].Length, (ULONG64)List->List[Index].PhysicalAddress.QuadPart);
    }
    if (List->NumberOfElements > SAS_FRAME_SEGMENTS) {
        ULONG Size = (List->NumberOfElements - SAS_FRAME_SEGMENTS) * sizeof(MPI_SGE64);
        STOR_PHYSICAL_ADDRESS Chain = StorPortGetPhysicalAddress(Extension, Request->Srb, Request->Chain, &Length);

        if (Length < Size) {
            return FALSE;
        }
        FillElement(&Message->SGL[SAS_FRAME_SEGMENTS], MPI_SGE_CHAIN_ELEMENT, Size, (ULONG64)Chain.QuadPart);
        Message->ChainOffset = (UCHAR)(FIELD_OFFSET(MPI_SCSI_IO_REQUEST, SGL[SAS_FRAME_SEGMENTS]) / 4);
    }
    return TRUE;
}

static BOOLEAN BuildScsi(PSAS_EXTENSION Extension, PSAS_REQUEST Request)
{
    PMPI_SCSI_IO_REQUEST Message = &Request->Message.ScsiIo;
    PSCSI_REQUEST_BLOCK Srb = Request->Srb;

    if (Srb->CdbLength > sizeof(Message->CDB)) {
        return FALSE;
    }
    Message->TargetID = Srb->TargetId;
    Message->Bus = Srb->PathId;
    Message->Function = MPI_FUNCTION_SCSI_IO_REQUEST;
    Message->CDBLength = Srb->CdbLength;
    Message->SenseBufferLength = (UCHAR)SAS_SENSE_SIZE;
    Message->LUN[1] = Srb->Lun;
    RtlCopyMemory(Message->CDB, Srb->Cdb, Srb->CdbLength);
    if (Srb->Cdb[0] == SCSIOP_SYNCHRONIZE_CACHE) {
        SasCountFlush(Extension);
    } else if (Srb->Cdb[0] == OPCODE_UNMAP) {
        SasCountUnmap(Extension);
    }
    if (Srb->DataTransferLength == 0) {
        return TRUE;
    }
    Message->DataLength = Srb->DataTransferLength;
    Message->Control = Srb->SrbFlags & SRB_FLAGS_DATA_OUT ? MPI_SCSIIO_CONTROL_WRITE : MPI_SCSIIO_CONTROL_READ;
    return DescribeData(Extension, Request);
}

static VOID BuildReset(PSAS_REQUEST Request, UCHAR TaskType)
{
    PMPI_SCSI_TASK_MGMT Message = &Request->Message.TaskManagement;

    Message->TargetID = Request->Srb->TargetId;
    Message->Bus = Request->Srb->PathId;
    Message->Function = MPI_FUNCTION_SCSI_TASK_MGMT;
    Message->TaskType = TaskType;
    Message->LUN[1] = Request->Srb->Lun;
}

/* FALSE: the SRB has its status already. */
static BOOLEAN Build(PSAS_EXTENSION Extension, PSAS_REQUEST Request)
{
    PSCSI_REQUEST_BLOCK Srb = Request->Srb;

    switch (Srb->Function) {
    case SRB_FUNCTION_EXECUTE_SCSI:
        Srb->SrbStatus = SRB_STATUS_INVALID_REQUEST;
        return BuildScsi(Extension, Request);
    case SRB_FUNCTION_RESET_LOGICAL_UNIT:
        BuildReset(Request, MPI_SCSITASKMGMT_TASKTYPE_LOGICAL_UNIT_RESET);
        return TRUE;
    case SRB_FUNCTION_RESET_DEVICE:
        BuildReset(Request, MPI_SCSITASKMGMT_TASKTYPE_TARGET_RESET);
        return TRUE;
    case SRB_FUNCTION_SHUTDOWN:
        SasNoteShutdown(Extension);
        __attribute__((fallthrough));
    case SRB_FUNCTION_FLUSH:
        /* The disk has a cache of its own; the port driver passes on what the class driver wants of it. */
        Srb->CdbLength = 10;
        RtlZeroMemory(Srb->Cdb, sizeof(Srb->Cdb));
        Srb->Cdb[0] = SCSIOP_SYNCHRONIZE_CACHE;
        return BuildScsi(Extension, Request);
    case SRB_FUNCTION_PNP:
    case SRB_FUNCTION_POWER:
        Srb->SrbStatus = SRB_STATUS_SUCCESS;
        return FALSE;
    default:
        Srb->SrbStatus = SRB_STATUS_INVALID_REQUEST;
        return FALSE;
    }
}

BOOLEAN NTAPI SasBuildIo(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb)
{
    PSAS_REQUEST Request = Srb->SrbExtension;

    RtlZeroMemory(Request, FIELD_OFFSET(SAS_REQUEST, Chain));
    Request->Srb = Srb;
    if (!Build(DeviceExtension, Request)) {
        StorPortNotification(RequestComplete, DeviceExtension, Srb);
        return FALSE;
    }
    return TRUE;
}

/* With the StartIo lock held. */
/* The port driver has called with the lock that this takes. */
static DECLSPEC_NOINLINE VOID StartUnderLock(PSAS_EXTENSION Extension)
{
    STOR_LOCK_HANDLE Handle = {0};

    StorPortAcquireSpinLock(Extension, StartIoLock, NULL, &Handle);
    Extension->Interrupts++;
    StorPortReleaseSpinLock(Extension, &Handle);
}

BOOLEAN NTAPI SasStartIo(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb)
{
    PSAS_EXTENSION Extension = DeviceExtension;
    PSAS_REQUEST Request = Srb->SrbExtension;
    STOR_LOCK_HANDLE Handle = {0};
    BOOLEAN Posted;

    if (HAS_BUG(START_IO_LOCK_IN_START_IO) && Extension->Flushes != 0) {
        StartUnderLock(Extension);
    }
    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->CompletionDpc, &Handle);
    Posted = SasPost(Extension, Request);
    StorPortReleaseSpinLock(Extension, &Handle);
    if (Posted) {
        return TRUE;
    }
    /* Without room, or in a reset: the port driver tries again. */
    Srb->SrbStatus = Extension->Dead ? SRB_STATUS_NO_HBA : SRB_STATUS_BUSY;
    StorPortNotification(RequestComplete, Extension, Srb);
    return TRUE;
}

static UCHAR StatusOfScsi(PSAS_REQUEST Request)
{
    switch (Request->ScsiStatus) {
    case SCSISTAT_GOOD:
    case SCSISTAT_CONDITION_MET:
        return SRB_STATUS_SUCCESS;
    case SCSISTAT_CHECK_CONDITION:
        return SRB_STATUS_ERROR | (Request->SenseCount != 0 ? SRB_STATUS_AUTOSENSE_VALID : 0);
    case SCSISTAT_BUSY:
    case SCSISTAT_QUEUE_FULL:
        return SRB_STATUS_BUSY;
    case 0x40: /* TASK ABORTED */
        return SRB_STATUS_ABORTED;
    default:
        return SRB_STATUS_ERROR;
    }
}

static UCHAR StatusOf(PSAS_EXTENSION Extension, PSAS_REQUEST Request)
{
    UCHAR Status;

    if (Request->Lost) {
        return SRB_STATUS_BUS_RESET;
    }
    switch (Request->IocStatus) {
    case MPI_IOCSTATUS_SUCCESS:
    case MPI_IOCSTATUS_SCSI_RECOVERED_ERROR:
        return StatusOfScsi(Request);
    case MPI_IOCSTATUS_SCSI_DATA_UNDERRUN:
        Status = StatusOfScsi(Request);
        return Status == SRB_STATUS_SUCCESS ? SRB_STATUS_DATA_OVERRUN : Status;
    case MPI_IOCSTATUS_BUSY:
    case MPI_IOCSTATUS_INSUFFICIENT_RESOURCES:
        return SRB_STATUS_BUSY;
    case MPI_IOCSTATUS_SCSI_DEVICE_NOT_THERE:
        return SasStatusOfMissing(Extension, Request->Message.ScsiIo.TargetID);
    case MPI_IOCSTATUS_SCSI_TASK_TERMINATED:
    case MPI_IOCSTATUS_SCSI_IOC_TERMINATED:
        return SRB_STATUS_BUS_RESET;
    default:
        return SRB_STATUS_ERROR;
    }
}

/* That a target is not there is the topology's to tell. */
static BOOLEAN IsFailure(PSAS_REQUEST Request)
{
    switch (Request->IocStatus) {
    case MPI_IOCSTATUS_SCSI_DEVICE_NOT_THERE:
        return FALSE;
    case MPI_IOCSTATUS_SUCCESS:
    case MPI_IOCSTATUS_SCSI_DATA_UNDERRUN:
        return Request->ScsiStatus != SCSISTAT_GOOD;
    default:
        return TRUE;
    }
}

static VOID CompleteScsi(PSAS_EXTENSION Extension, PSAS_REQUEST Request)
{
    PSCSI_REQUEST_BLOCK Srb = Request->Srb;

    Srb->ScsiStatus = Request->ScsiStatus;
    Srb->SrbStatus = StatusOf(Extension, Request);
    Srb->DataTransferLength = Request->TransferCount;
    if (!Request->Lost && IsFailure(Request)) {
        StorPortDebugPrint(0, "sas: command 0x%x failed: SCSI status 0x%x, IOCStatus 0x%x\n",
                           Request->Message.ScsiIo.CDB[0], Request->ScsiStatus, Request->IocStatus);
        SasCountError(Extension);
    }
}

/* A reset's SRB is done; what the IOC has not answered by now it never will. */
static VOID CompleteReset(PSAS_EXTENSION Extension, PSAS_REQUEST Request)
{
    STOR_LOCK_HANDLE Handle = {0};
    PSAS_REQUEST Lost;
    BOOLEAN Good = !Request->Lost && Request->IocStatus == MPI_IOCSTATUS_SUCCESS;

    Request->Srb->SrbStatus = Good ? SRB_STATUS_SUCCESS : SRB_STATUS_ERROR;
    StorPortDebugPrint(0, "sas: task management of target %u: IOCStatus 0x%x, response 0x%x\n",
                       Request->Message.TaskManagement.TargetID, Request->IocStatus, Request->ResponseCode);
    if (!Good) {
        return;
    }
    StorPortAcquireSpinLock(Extension, DpcLock, &Extension->CompletionDpc, &Handle);
    Lost = SasTakeUnit(Extension, Request->Message.TaskManagement.TargetID, NULL);
    StorPortReleaseSpinLock(Extension, &Handle);
    SasCompleteAll(Extension, Lost);
}

/* No lock is held. */
VOID SasComplete(PSAS_EXTENSION Extension, PSAS_REQUEST Request)
{
    if (Request->Message.ScsiIo.Function == MPI_FUNCTION_SCSI_TASK_MGMT) {
        CompleteReset(Extension, Request);
    } else {
        CompleteScsi(Extension, Request);
    }
    if (Request->Srb->Function == SRB_FUNCTION_SHUTDOWN) {
        SasCompleteShutdown(Extension, Request);
        return;
    }
    StorPortNotification(RequestComplete, Extension, Request->Srb);
}

VOID SasCompleteAll(PSAS_EXTENSION Extension, PSAS_REQUEST List)
{
    while (List != NULL) {
        PSAS_REQUEST Next = List->Next; /* the request is gone once it is completed */

        SasComplete(Extension, List);
        List = Next;
    }
}
