/* Bringing the IOC up: resets, messages by the doorbell, which are polled, and the first look at the phys. */
#include "sas.h"

ULONG SasRead(PSAS_EXTENSION Extension, ULONG Register)
{
    return StorPortReadRegisterUlong(Extension, (PULONG)(Extension->Registers + Register));
}

VOID SasWrite(PSAS_EXTENSION Extension, ULONG Register, ULONG Value)
{
    StorPortWriteRegisterUlong(Extension, (PULONG)(Extension->Registers + Register), Value);
}

static ULONG State(PSAS_EXTENSION Extension)
{
    return SasRead(Extension, MPI_DOORBELL_OFFSET) & MPI_IOC_STATE_MASK;
}

BOOLEAN SasIsFault(PSAS_EXTENSION Extension)
{
    return State(Extension) == MPI_IOC_STATE_FAULT;
}

static BOOLEAN WaitForStatus(PSAS_EXTENSION Extension, ULONG Mask, ULONG Wanted)
{
    for (ULONG Poll = 0; Poll < SAS_POLLS; Poll++) {
        if ((SasRead(Extension, MPI_HOST_INTERRUPT_STATUS_OFFSET) & Mask) == Wanted) {
            return TRUE;
        }
        if (SasIsFault(Extension)) {
            return FALSE;
        }
        StorPortStallExecution(10);
    }
    return FALSE;
}

static BOOLEAN WaitForReady(PSAS_EXTENSION Extension)
{
    for (ULONG Poll = 0; Poll < SAS_POLLS; Poll++) {
        if (State(Extension) == MPI_IOC_STATE_READY) {
            return WaitForStatus(Extension, MPI_HIS_IOP_DOORBELL_STATUS, 0);
        }
        StorPortStallExecution(10);
    }
    return FALSE;
}

static BOOLEAN DiagnosticReset(PSAS_EXTENSION Extension)
{
    static const UCHAR Keys[] = {0xf, 0x4, 0xb, 0x2, 0x7, 0xd};

    for (ULONG Index = 0; Index < RTL_NUMBER_OF(Keys); Index++) {
        SasWrite(Extension, MPI_WRITE_SEQUENCE_OFFSET, Keys[Index]);
    }
    SasWrite(Extension, MPI_DIAGNOSTIC_OFFSET, MPI_DIAG_DRWE | MPI_DIAG_RESET_ADAPTER);
    SasWrite(Extension, MPI_WRITE_SEQUENCE_OFFSET, 0xf);
    return WaitForReady(Extension);
}

/* To READY state: by the message unit's reset, or where that does not help by that of everything. */
BOOLEAN SasMakeReady(PSAS_EXTENSION Extension)
{
    Extension->Operational = FALSE;
    SasWrite(Extension, MPI_HOST_INTERRUPT_MASK_OFFSET, MPI_HIM_RIM | MPI_HIM_DIM);
    if (State(Extension) == MPI_IOC_STATE_READY) {
        return TRUE;
    }
    if (!SasIsFault(Extension)) {
        SasWrite(Extension, MPI_DOORBELL_OFFSET, MPI_FUNCTION_IOC_MESSAGE_UNIT_RESET << MPI_DOORBELL_FUNCTION_SHIFT);
        if (WaitForReady(Extension)) {
            return TRUE;
        }
    }
    return DiagnosticReset(Extension);
}

static BOOLEAN NextHalf(PSAS_EXTENSION Extension, PUSHORT Half)
{
    if (!WaitForStatus(Extension, MPI_HIS_DOORBELL_INTERRUPT, MPI_HIS_DOORBELL_INTERRUPT)) {
        return FALSE;
    }
    *Half = (USHORT)(SasRead(Extension, MPI_DOORBELL_OFFSET) & MPI_DOORBELL_DATA_MASK);
    SasWrite(Extension, MPI_HOST_INTERRUPT_STATUS_OFFSET, 0);
    return TRUE;
}

/* Reads a reply; what does not fit is dropped. */
static BOOLEAN ReceiveReply(PSAS_EXTENSION Extension, PVOID Reply, ULONG ReplySize)
{
    PUSHORT Halves = Reply;
    ULONG Count = 2;
    USHORT Half;

    for (ULONG Index = 0; Index < Count; Index++) {
        if (!NextHalf(Extension, &Half)) {
            return FALSE;
        }
        if (Index == 1) {
            Count = (Half & 0xff) * 2u; /* MsgLength */
        }
        if (Index < ReplySize / 2) {
            Halves[Index] = Half;
        }
    }
    return NextHalf(Extension, &Half); /* the end is told as well */
}

static BOOLEAN Handshake(PSAS_EXTENSION Extension, const VOID *Message, ULONG Size, PVOID Reply, ULONG ReplySize)
{
    const ULONG *Words = Message;

    RtlZeroMemory(Reply, ReplySize);
    SasWrite(Extension, MPI_HOST_INTERRUPT_STATUS_OFFSET, 0);
    SasWrite(Extension, MPI_DOORBELL_OFFSET,
             MPI_FUNCTION_HANDSHAKE << MPI_DOORBELL_FUNCTION_SHIFT | Size / 4 << MPI_DOORBELL_ADD_DWORDS_SHIFT);
    if (!WaitForStatus(Extension, MPI_HIS_DOORBELL_INTERRUPT, MPI_HIS_DOORBELL_INTERRUPT)) {
        return FALSE;
    }
    SasWrite(Extension, MPI_HOST_INTERRUPT_STATUS_OFFSET, 0);
    for (ULONG Index = 0; Index < Size / 4; Index++) {
        SasWrite(Extension, MPI_DOORBELL_OFFSET, Words[Index]);
        if (!WaitForStatus(Extension, MPI_HIS_IOP_DOORBELL_STATUS, 0)) {
            return FALSE;
        }
    }
    return ReceiveReply(Extension, Reply, ReplySize);
}

static BOOLEAN Succeeds(PSAS_EXTENSION Extension, const VOID *Message, ULONG Size)
{
    MPI_REPLY Reply;

    if (!Handshake(Extension, Message, Size, &Reply, sizeof(Reply))) {
        StorPortDebugPrint(0, "sas: the IOC does not answer, doorbell 0x%x\n", SasRead(Extension, MPI_DOORBELL_OFFSET));
        return FALSE;
    }
    if ((Reply.IOCStatus & MPI_IOCSTATUS_MASK) != MPI_IOCSTATUS_SUCCESS) {
        StorPortDebugPrint(0, "sas: message 0x%x failed: IOCStatus 0x%x\n", Reply.Function, Reply.IOCStatus);
        return FALSE;
    }
    return TRUE;
}

BOOLEAN SasReadFacts(PSAS_EXTENSION Extension)
{
    ULONG Message[3] = {MPI_FUNCTION_IOC_FACTS << 24};
    UCHAR Facts[0x50];

    if (!Handshake(Extension, Message, sizeof(Message), Facts, sizeof(Facts)) || Facts[0x0e] != 0) {
        return FALSE;
    }
    Extension->MaxDevices = Facts[0x2e];
    if (Extension->MaxDevices == 0 || Extension->MaxDevices > SAS_TARGETS) {
        Extension->MaxDevices = SAS_TARGETS;
    }
    /* RequestFrameSize in dwords, GlobalCredits. */
    return (Facts[0x1a] | Facts[0x1b] << 8) * 4u >= MPI_FRAME_SIZE &&
           (Facts[0x24] | Facts[0x25] << 8) >= (int)SAS_SLOTS;
}

static VOID GiveReplyFrames(PSAS_EXTENSION Extension)
{
    for (ULONG Index = 0; Index < SAS_REPLY_FRAMES; Index++) {
        SasWrite(Extension, MPI_REPLY_QUEUE_OFFSET, (ULONG)SasPhysical(Extension, Extension->Common->Replies[Index]));
    }
}

/* Its replies come by the FIFO, one for each event. */
static VOID TurnEventsOn(PSAS_EXTENSION Extension)
{
    PULONG Frame = (PULONG)Extension->Common->Requests[SAS_SLOTS - 1]; /* which is never a slot's */

    RtlZeroMemory(Frame, MPI_FRAME_SIZE);
    Frame[0] = MPI_FUNCTION_EVENT_NOTIFICATION << 24 | 1; /* Switch */
    Frame[2] = SAS_EVENT_CONTEXT;
    SasWrite(Extension, MPI_REQUEST_QUEUE_OFFSET, (ULONG)SasPhysical(Extension, Frame));
}

/* From READY to OPERATIONAL state, with the port enabled and interrupts on. */
BOOLEAN SasMakeOperational(PSAS_EXTENSION Extension)
{
    ULONG PortEnable[3] = {MPI_FUNCTION_PORT_ENABLE << 24};
    MPI_IOC_INIT Init = {
        .WhoInit = MPI_WHOINIT_HOST_DRIVER,
        .Function = MPI_FUNCTION_IOC_INIT,
        .MaxDevices = Extension->MaxDevices,
        .MaxBuses = 1,
        .ReplyFrameSize = SAS_REPLY_FRAME_SIZE,
        .HostMfaHighAddr = (ULONG)(Extension->CommonPhysical >> 32),
        .SenseBufferHighAddr = (ULONG)(Extension->CommonPhysical >> 32),
    };

    if (!Succeeds(Extension, &Init, sizeof(Init)) || !Succeeds(Extension, PortEnable, sizeof(PortEnable))) {
        return FALSE;
    }
    GiveReplyFrames(Extension);
    TurnEventsOn(Extension);
    Extension->Operational = TRUE;
    SasWrite(Extension, MPI_HOST_INTERRUPT_MASK_OFFSET, MPI_HIM_DIM);
    return TRUE;
}

/* SAS IO Unit page 0: which phys a disk is attached to. A target has its phy's number. */
BOOLEAN SasReadPhys(PSAS_EXTENSION Extension)
{
    const UCHAR *Page = Extension->Common->Page;
    MPI_CONFIG Config = {
        .Action = MPI_CONFIG_ACTION_PAGE_READ_CURRENT,
        .Function = MPI_FUNCTION_CONFIG,
        .ExtPageType = MPI_CONFIG_EXTPAGETYPE_SAS_IO_UNIT,
        .PageType = MPI_CONFIG_PAGETYPE_EXTENDED,
        .PageBuffer = {MPI_SGE_SIMPLE_ELEMENT | MPI_SGE_LAST_ELEMENT | MPI_SGE_END_OF_BUFFER | MPI_SGE_END_OF_LIST |
                           MPI_SGE_64_BIT_ADDRESSING | sizeof(Extension->Common->Page),
                       SasPhysical(Extension, Extension->Common->Page)},
    };

    if (!Succeeds(Extension, &Config, sizeof(Config))) {
        return FALSE;
    }
    for (ULONG Phy = 0; Phy < SAS_TARGETS && Phy < Page[12]; Phy++) {
        const UCHAR *Entry = &Page[16 + 16 * Phy];

        /* AttachedDeviceHandle */
        Extension->Targets[Phy].Present = Extension->Targets[Phy].Known = (Entry[8] | Entry[9]) != 0;
    }
    return TRUE;
}
