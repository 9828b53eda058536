/* Bringing the controller up and down (section 7.6), with admin commands that are polled. */
#include "nvme.h"

/* The uncached extension: a page each for the rings, Identify data and the two doorbell buffers. */
#define COMMON_PAGES (2 + 2 * NVME_MAX_QUEUES + 3)

static ULONG Read(PNVME_EXTENSION Extension, ULONG Register)
{
    return StorPortReadRegisterUlong(Extension, (PULONG)(Extension->Registers + Register));
}

static VOID Write(PNVME_EXTENSION Extension, ULONG Register, ULONG Value)
{
    StorPortWriteRegisterUlong(Extension, (PULONG)(Extension->Registers + Register), Value);
}

ULONG64 NvmePhysical(PNVME_EXTENSION Extension, PVOID Address)
{
    ULONG Length;

    return (ULONG64)StorPortGetPhysicalAddress(Extension, NULL, Address, &Length).QuadPart;
}

static VOID PlaceQueue(PNVME_EXTENSION Extension, PNVME_QUEUE Queue, ULONG Id, ULONG Entries, PUCHAR Pages)
{
    Queue->Id = (USHORT)Id;
    Queue->Entries = Entries;
    Queue->Submission = (PNVME_COMMAND)Pages;
    Queue->Completion = (volatile NVME_COMPLETION *)(Pages + PAGE_SIZE);
    Queue->SubmissionPhysical = NvmePhysical(Extension, Pages);
    Queue->CompletionPhysical = NvmePhysical(Extension, Pages + PAGE_SIZE);
}

BOOLEAN NvmeAllocateRings(PNVME_EXTENSION Extension, PPORT_CONFIGURATION_INFORMATION ConfigInfo)
{
    PUCHAR Page;

    Extension->Common = StorPortGetUncachedExtension(Extension, ConfigInfo, COMMON_PAGES * PAGE_SIZE);
    if (Extension->Common == NULL) {
        return FALSE;
    }
    Page = Extension->Common;
    PlaceQueue(Extension, &Extension->Admin, 0, NVME_ADMIN_ENTRIES, Page);
    for (ULONG Index = 0; Index < NVME_MAX_QUEUES; Index++) {
        Page += 2 * PAGE_SIZE;
        PlaceQueue(Extension, &Extension->Queues[Index], Index + 1, NVME_QUEUE_ENTRIES, Page);
    }
    Extension->IdentifyPage = Page + 2 * PAGE_SIZE;
    return TRUE;
}

BOOLEAN NvmeIsFatal(PNVME_EXTENSION Extension)
{
    return (Read(Extension, NVME_REGISTER_CSTS) & NVME_CSTS_FATAL) != 0;
}

/* A fatal error does not end the wait for the controller's being disabled: that is the way out of it. */
static BOOLEAN WaitForReady(PNVME_EXTENSION Extension, ULONG Ready)
{
    for (ULONG Stall = 0; Stall < NVME_COMMAND_STALLS; Stall++) {
        ULONG Status = Read(Extension, NVME_REGISTER_CSTS);

        if ((Status & NVME_CSTS_READY) == Ready) {
            return TRUE;
        }
        if (Ready != 0 && (Status & NVME_CSTS_FATAL)) {
            return FALSE;
        }
        StorPortStallExecution(10);
    }
    return FALSE;
}

BOOLEAN NvmeDisable(PNVME_EXTENSION Extension)
{
    Write(Extension, NVME_REGISTER_CC, Read(Extension, NVME_REGISTER_CC) & ~NVME_CC_ENABLE);
    return WaitForReady(Extension, 0);
}

BOOLEAN NvmeEnable(PNVME_EXTENSION Extension)
{
    PNVME_QUEUE Admin = &Extension->Admin;

    Extension->DoorbellStride = 4u << (Read(Extension, NVME_REGISTER_CAP_HIGH) & 0xf);
    Extension->ShadowDoorbells = NULL;
    NvmeResetQueue(Admin);
    Write(Extension, NVME_REGISTER_AQA, (NVME_ADMIN_ENTRIES - 1) << 16 | (NVME_ADMIN_ENTRIES - 1));
    Write(Extension, NVME_REGISTER_ASQ, (ULONG)Admin->SubmissionPhysical);
    Write(Extension, NVME_REGISTER_ASQ + 4, (ULONG)(Admin->SubmissionPhysical >> 32));
    Write(Extension, NVME_REGISTER_ACQ, (ULONG)Admin->CompletionPhysical);
    Write(Extension, NVME_REGISTER_ACQ + 4, (ULONG)(Admin->CompletionPhysical >> 32));
    Write(Extension, NVME_REGISTER_CC, NVME_CC_ENTRY_SIZES | NVME_CC_ENABLE);
    return WaitForReady(Extension, NVME_CSTS_READY);
}

static BOOLEAN SendAndPoll(PNVME_EXTENSION Extension, PNVME_REQUEST Request, PULONG Result)
{
    if (!NvmeSubmit(Extension, &Extension->Admin, Request)) {
        return FALSE;
    }
    for (ULONG Stall = 0; Stall < NVME_COMMAND_STALLS; Stall++) {
        if (NvmeReap(Extension, &Extension->Admin) == Request) {
            if (Result != NULL) {
                *Result = Request->Command.Dword10;
            }
            return Request->Status == 0;
        }
        StorPortStallExecution(10);
    }
    NvmeForget(&Extension->Admin, Request);
    StorPortDebugPrint(0, "nvme: admin command 0x%x was not completed\n", Request->Command.Opcode);
    return FALSE;
}

/*
 * Sends one admin command and polls for it. Result may be NULL. The line is masked meanwhile: nobody serves the admin
 * queue's interrupt, and the level would keep a processor, perhaps this one, in the interrupt routine.
 */
static BOOLEAN Execute(PNVME_EXTENSION Extension, PNVME_REQUEST Request, PULONG Result)
{
    BOOLEAN Good;

    NvmeMaskLine(Extension, TRUE);
    Good = SendAndPoll(Extension, Request, Result);
    NvmeMaskLine(Extension, FALSE);
    return Good;
}

static VOID PrepareAdmin(PNVME_REQUEST Request, UCHAR Opcode, ULONG64 Prp1, ULONG Dword10, ULONG Dword11)
{
    RtlZeroMemory(&Request->Command, sizeof(Request->Command));
    Request->Command.Opcode = Opcode;
    Request->Command.Prp1 = Prp1;
    Request->Command.Dword10 = Dword10;
    Request->Command.Dword11 = Dword11;
}

static ULONG64 Get64(const UCHAR *Bytes)
{
    ULONG64 Value;

    RtlCopyMemory(&Value, Bytes, sizeof(Value));
    return Value;
}

BOOLEAN NvmeIdentify(PNVME_EXTENSION Extension)
{
    const UCHAR *Data = Extension->IdentifyPage;
    ULONG64 Physical = NvmePhysical(Extension, Extension->IdentifyPage);
    ULONG Limit = NVME_MAXIMUM_TRANSFER, Format;
    NVME_REQUEST Request;

    PrepareAdmin(&Request, NVME_ADMIN_IDENTIFY, Physical, 1, 0);
    if (!Execute(Extension, &Request, NULL)) {
        return FALSE;
    }
    Extension->OptionalAdminCommands = (ULONG)Data[NVME_IDENTIFY_OACS] | (ULONG)Data[NVME_IDENTIFY_OACS + 1] << 8;
    if (Data[NVME_IDENTIFY_MDTS] != 0 && Data[NVME_IDENTIFY_MDTS] < 8 &&
        (ULONG)PAGE_SIZE << Data[NVME_IDENTIFY_MDTS] < Limit) {
        Limit = (ULONG)PAGE_SIZE << Data[NVME_IDENTIFY_MDTS];
    }
    PrepareAdmin(&Request, NVME_ADMIN_IDENTIFY, Physical, 0, 0);
    Request.Command.NamespaceId = 1;
    if (!Execute(Extension, &Request, NULL)) {
        return FALSE;
    }
    Format = Data[NVME_NAMESPACE_FORMATTED_SIZE] & 0xf;
    if (Data[NVME_NAMESPACE_FORMATS + 4 * Format + 2] != 9) {
        StorPortDebugPrint(0, "nvme: the namespace's blocks are not 512 bytes long\n");
        return FALSE;
    }
    Extension->Geometry.Blocks = Get64(&Data[NVME_NAMESPACE_SIZE]);
    Extension->Geometry.MaximumTransferBlocks = Limit / BLOCK_SIZE;
    Extension->Geometry.Product = "NVMe disk";
    return Extension->Geometry.Blocks != 0;
}

static BOOLEAN CreatePair(PNVME_EXTENSION Extension, PNVME_QUEUE Queue)
{
    ULONG Size = (Queue->Entries - 1) << 16 | Queue->Id;
    NVME_REQUEST Request;

    NvmeResetQueue(Queue);
    /* Physically contiguous, interrupts enabled. */
    PrepareAdmin(&Request, NVME_ADMIN_CREATE_COMPLETION_QUEUE, Queue->CompletionPhysical, Size,
                 Queue->Message << 16 | 3);
    if (!Execute(Extension, &Request, NULL)) {
        return FALSE;
    }
    PrepareAdmin(&Request, NVME_ADMIN_CREATE_SUBMISSION_QUEUE, Queue->SubmissionPhysical, Size,
                 (ULONG)Queue->Id << 16 | 1);
    return Execute(Extension, &Request, NULL);
}

static VOID UseShadowDoorbells(PNVME_EXTENSION Extension)
{
    PUCHAR Shadow = Extension->IdentifyPage + PAGE_SIZE;
    PUCHAR Event = Shadow + PAGE_SIZE;
    NVME_REQUEST Request;

    if (!(Extension->OptionalAdminCommands & NVME_OACS_DOORBELL_BUFFER)) {
        return;
    }
    RtlZeroMemory(Shadow, 2 * PAGE_SIZE);
    PrepareAdmin(&Request, NVME_ADMIN_DOORBELL_BUFFER_CONFIG, NvmePhysical(Extension, Shadow), 0, 0);
    Request.Command.Prp2 = NvmePhysical(Extension, Event);
    if (Execute(Extension, &Request, NULL)) {
        Extension->EventIndexes = (volatile ULONG *)Event;
        Extension->ShadowDoorbells = (volatile ULONG *)Shadow;
    }
}

BOOLEAN NvmeCreateQueues(PNVME_EXTENSION Extension)
{
    ULONG Wanted = Extension->MessageCount > NVME_MAX_QUEUES ? NVME_MAX_QUEUES : Extension->MessageCount - 1;
    ULONG Granted = 0;
    NVME_REQUEST Request;

    if (Extension->MessageCount < 2) {
        Wanted = 1;
    }
    PrepareAdmin(&Request, NVME_ADMIN_SET_FEATURES, 0, NVME_FEATURE_NUMBER_OF_QUEUES,
                 (Wanted - 1) << 16 | (Wanted - 1));
    if (!Execute(Extension, &Request, &Granted)) {
        return FALSE;
    }
    Granted = (Granted & 0xffff) < Granted >> 16 ? Granted & 0xffff : Granted >> 16;
    Extension->QueueCount = Granted + 1 < Wanted ? Granted + 1 : Wanted;
    for (ULONG Index = 0; Index < Extension->QueueCount; Index++) {
        if (!CreatePair(Extension, &Extension->Queues[Index])) {
            return FALSE;
        }
    }
    UseShadowDoorbells(Extension);
    return TRUE;
}

VOID NvmeShutdown(PNVME_EXTENSION Extension)
{
    ULONG Configuration = Read(Extension, NVME_REGISTER_CC) & ~NVME_CC_SHUTDOWN_MASK;

    Write(Extension, NVME_REGISTER_CC, Configuration | NVME_CC_SHUTDOWN_NORMAL);
    for (ULONG Stall = 0; Stall < NVME_COMMAND_STALLS; Stall++) {
        if ((Read(Extension, NVME_REGISTER_CSTS) & NVME_CSTS_SHUTDOWN_MASK) == NVME_CSTS_SHUTDOWN_COMPLETE) {
            return;
        }
        StorPortStallExecution(10);
    }
}
