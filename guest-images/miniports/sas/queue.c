/* The adapter queue: slots, frames of requests, replies of the FIFO. CompletionDpc's lock is held. */
#include "sas.h"

/* The last frame is that of event notification. */
#define USABLE_SLOTS (SAS_SLOTS - 1)

static BOOLEAN FindFree(PSAS_EXTENSION Extension, PULONG Slot)
{
    for (ULONG Attempt = 0; Attempt < USABLE_SLOTS; Attempt++) {
        *Slot = Extension->NextSlot++ % USABLE_SLOTS;
        if (Extension->Slots[*Slot].Request == NULL) {
            return TRUE;
        }
    }
    return FALSE;
}

/* FALSE: there is no room, or the IOC takes nothing. */
BOOLEAN SasPost(PSAS_EXTENSION Extension, PSAS_REQUEST Request)
{
    UCHAR Function = Request->Message.ScsiIo.Function;
    ULONG Slot, Queue = MPI_REQUEST_QUEUE_OFFSET;

    if (!Extension->Operational || !FindFree(Extension, &Slot)) {
        return FALSE;
    }
    Extension->Uses = (Extension->Uses + 1) & SAS_USE_MASK;
    Extension->Slots[Slot].Request = Request;
    Extension->Slots[Slot].Context = Extension->Uses << SAS_USE_SHIFT | Slot;
    Request->Answered = FALSE;
    Request->Message.ScsiIo.MsgContext = Extension->Slots[Slot].Context;
    if (Function == MPI_FUNCTION_SCSI_IO_REQUEST) {
        Request->Message.ScsiIo.SenseBufferLowAddr = (ULONG)SasPhysical(Extension, Extension->Common->Sense[Slot]);
    } else if (Function == MPI_FUNCTION_SCSI_TASK_MGMT) {
        Queue = MPI_HI_PRI_REQUEST_QUEUE_OFFSET;
    }
    RtlCopyMemory(Extension->Common->Requests[Slot], Request->Message.Bytes, MPI_FRAME_SIZE);
    SasWrite(Extension, Queue, (ULONG)SasPhysical(Extension, Extension->Common->Requests[Slot]));
    return TRUE;
}

/* Takes the request of a context out of its slot; NULL if nothing is outstanding for it. */
static PSAS_REQUEST TakeSlot(PSAS_EXTENSION Extension, ULONG Context)
{
    ULONG Slot = Context & SAS_SLOT_MASK;
    PSAS_REQUEST Request;

    if (Slot >= USABLE_SLOTS || Extension->Slots[Slot].Request == NULL || Extension->Slots[Slot].Context != Context) {
        StorPortDebugPrint(0, "sas: a reply for context 0x%x, which is not outstanding\n", Context);
        return NULL;
    }
    Request = Extension->Slots[Slot].Request;
    Extension->Slots[Slot].Request = NULL;
    Request->Answered = TRUE;
    return Request;
}

VOID SasForget(PSAS_EXTENSION Extension, PSAS_REQUEST Request)
{
    for (ULONG Slot = 0; Slot < USABLE_SLOTS; Slot++) {
        if (Extension->Slots[Slot].Request == Request) {
            Extension->Slots[Slot].Request = NULL;
        }
    }
}

static VOID CopySense(PSAS_EXTENSION Extension, PSAS_REQUEST Request, const MPI_REPLY *Reply)
{
    PSCSI_REQUEST_BLOCK Srb = Request->Srb;
    ULONG Count = Reply->SenseCount;

    if (!(Reply->SCSIState & MPI_SCSI_STATE_AUTOSENSE_VALID) || Srb == NULL || Srb->SenseInfoBuffer == NULL ||
        (Srb->SrbFlags & SRB_FLAGS_DISABLE_AUTOSENSE)) {
        return;
    }
    if (Count > Srb->SenseInfoBufferLength) {
        Count = Srb->SenseInfoBufferLength;
    }
    if (Count > SAS_SENSE_SIZE) {
        Count = SAS_SENSE_SIZE;
    }
    RtlCopyMemory(Srb->SenseInfoBuffer, Extension->Common->Sense[Reply->MsgContext & SAS_SLOT_MASK], Count);
    Request->SenseCount = Count;
}

/* A reply with a frame; NULL if it is an event or nobody's. */
static PSAS_REQUEST TakeFrame(PSAS_EXTENSION Extension, const MPI_REPLY *Reply)
{
    PSAS_REQUEST Request;

    if (Reply->Function == MPI_FUNCTION_EVENT_NOTIFICATION) {
        SasNoteEvent(Extension, Reply);
        return NULL;
    }
    Request = TakeSlot(Extension, Reply->MsgContext);
    if (Request == NULL) {
        return NULL;
    }
    Request->IocStatus = Reply->IOCStatus & MPI_IOCSTATUS_MASK;
    Request->ResponseCode = Reply->ResponseCode;
    if (Reply->Function == MPI_FUNCTION_SCSI_IO_REQUEST) {
        Request->ScsiStatus = Reply->SCSIStatus;
        Request->ScsiState = Reply->SCSIState;
        Request->TransferCount = Reply->TransferCount;
        CopySense(Extension, Request, Reply);
    }
    return Request;
}

static PSAS_REQUEST TakeReply(PSAS_EXTENSION Extension, ULONG Descriptor)
{
    ULONG Base = (ULONG)SasPhysical(Extension, Extension->Common->Replies), Address = Descriptor << 1;
    ULONG Offset = Address - Base;
    PSAS_REQUEST Request;

    if (!(Descriptor & MPI_ADDRESS_REPLY_A_BIT)) {
        Request = TakeSlot(Extension, Descriptor);
        if (Request != NULL) {
            Request->IocStatus = MPI_IOCSTATUS_SUCCESS;
            Request->ScsiStatus = SCSISTAT_GOOD;
            Request->TransferCount = Request->Message.ScsiIo.DataLength;
        }
        return Request;
    }
    if (Offset >= sizeof(Extension->Common->Replies) || Offset % SAS_REPLY_FRAME_SIZE != 0) {
        StorPortDebugPrint(0, "sas: a reply at 0x%x, which is no frame\n", Address);
        return NULL;
    }
    Request = TakeFrame(Extension, (const MPI_REPLY *)Extension->Common->Replies[Offset / SAS_REPLY_FRAME_SIZE]);
    SasWrite(Extension, MPI_REPLY_QUEUE_OFFSET, Address);
    return Request;
}

/* All requests that have their reply, oldest first. The driver's own are only marked. */
PSAS_REQUEST SasReap(PSAS_EXTENSION Extension)
{
    PSAS_REQUEST First = NULL, *Last = &First;
    ULONG Descriptor;

    while (Extension->Operational && (Descriptor = SasRead(Extension, MPI_REPLY_QUEUE_OFFSET)) != MPI_NO_REPLY) {
        PSAS_REQUEST Request = TakeReply(Extension, Descriptor);

        if (Request != NULL && Request->Srb != NULL) {
            Request->Next = NULL;
            *Last = Request;
            Last = &Request->Next;
        }
    }
    return First;
}

static BOOLEAN IsOf(PSAS_REQUEST Request, ULONG Target)
{
    return Target == SAS_TARGETS || (Request->Message.ScsiIo.Function == MPI_FUNCTION_SCSI_IO_REQUEST &&
                                     Request->Message.ScsiIo.TargetID == Target);
}

/* Takes back the commands of a target, or of all with SAS_TARGETS: the IOC will not answer them. */
PSAS_REQUEST SasTakeUnit(PSAS_EXTENSION Extension, ULONG Target, PSAS_REQUEST List)
{
    for (ULONG Slot = 0; Slot < USABLE_SLOTS; Slot++) {
        PSAS_REQUEST Request = Extension->Slots[Slot].Request;

        if (Request == NULL || !IsOf(Request, Target)) {
            continue;
        }
        Extension->Slots[Slot].Request = NULL;
        Request->Lost = TRUE;
        Request->Answered = TRUE;
        if (Request->Srb != NULL) {
            Request->Next = List;
            List = Request;
        }
    }
    return List;
}
