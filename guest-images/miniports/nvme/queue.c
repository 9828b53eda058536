/* One queue pair: rings, slots and doorbells (section 4.1; shadow doorbells: section 7.13). */
#include "nvme.h"

static VOID WriteDoorbell(PNVME_EXTENSION Extension, ULONG Index, ULONG Value)
{
    PULONG Register = (PULONG)(Extension->Registers + NVME_REGISTER_DOORBELLS + Index * Extension->DoorbellStride);

    StorPortWriteRegisterUlong(Extension, Register, Value);
}

/* Index: 2 * queue for the submission tail, 2 * queue + 1 for the completion head. */
static VOID Ring(PNVME_EXTENSION Extension, ULONG Index, ULONG Value)
{
    volatile ULONG *Shadow, *Event;
    USHORT Old;

    if (Extension->ShadowDoorbells == NULL || Index < 2) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        WriteDoorbell(Extension, Index, Value);
        return;
    }
    Shadow = (volatile ULONG *)((PUCHAR)Extension->ShadowDoorbells + Index * Extension->DoorbellStride);
    Event = (volatile ULONG *)((PUCHAR)Extension->EventIndexes + Index * Extension->DoorbellStride);
    Old = (USHORT)*Shadow;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    *Shadow = Value;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if ((USHORT)(Value - *Event - 1) < (USHORT)(Value - Old)) {
        WriteDoorbell(Extension, Index, Value);
    }
}

static ULONG FreeSlot(PNVME_QUEUE Queue)
{
    for (ULONG Slot = 0; Slot < Queue->Entries; Slot++) {
        if (Queue->Slots[Slot] == NULL) {
            return Slot;
        }
    }
    return Queue->Entries;
}

BOOLEAN NvmeSubmit(PNVME_EXTENSION Extension, PNVME_QUEUE Queue, PNVME_REQUEST Request)
{
    ULONG Next = (Queue->Tail + 1) % Queue->Entries;
    ULONG Slot = FreeSlot(Queue);

    if (Next == Queue->SubmissionHead || Slot == Queue->Entries || Queue->Outstanding >= Queue->Entries - 1) {
        return FALSE;
    }
    Queue->Slots[Slot] = Request;
    Queue->Outstanding++;
    Request->Command.CommandId = (USHORT)((Queue->Uses++ & NVME_USE_MASK) << NVME_SLOT_BITS | Slot);
    Queue->Submission[Queue->Tail] = Request->Command;
    Queue->Tail = Next;
    Ring(Extension, 2u * Queue->Id, Queue->Tail);
    return TRUE;
}

BOOLEAN NvmeHasCompletion(PNVME_QUEUE Queue)
{
    return (Queue->Completion[Queue->Head].Status & 1) == Queue->Phase;
}

/* Takes every new completion; returns the requests in the order in which they were completed. */
PNVME_REQUEST NvmeReap(PNVME_EXTENSION Extension, PNVME_QUEUE Queue)
{
    PNVME_REQUEST First = NULL, *Link = &First;
    BOOLEAN Moved = FALSE;

    while (NvmeHasCompletion(Queue)) {
        volatile NVME_COMPLETION *Entry = &Queue->Completion[Queue->Head];
        PNVME_REQUEST Request;
        USHORT Id, Slot;

        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        Id = Entry->CommandId;
        Slot = Id & ((1 << NVME_SLOT_BITS) - 1);
        Queue->SubmissionHead = Entry->SubmissionHead % Queue->Entries;
        Request = Slot < Queue->Entries ? Queue->Slots[Slot] : NULL;
        if (Request == NULL || Request->Command.CommandId != Id) {
            StorPortDebugPrint(0, "nvme: queue %u: completion of command 0x%x, which is not outstanding\n", Queue->Id,
                               Id);
        } else {
            Queue->Slots[Slot] = NULL;
            Queue->Outstanding--;
            Request->Status = Entry->Status >> 1;
            Request->Command.Dword10 = Entry->Result;
            Request->Next = NULL;
            *Link = Request;
            Link = &Request->Next;
        }
        Queue->Head++;
        if (Queue->Head == Queue->Entries) {
            Queue->Head = 0;
            Queue->Phase ^= 1;
        }
        Moved = TRUE;
    }
    if (Moved) {
        Ring(Extension, 2u * Queue->Id + 1, Queue->Head);
    }
    return First;
}

/* Takes every request from the slots and puts it in front of List. */
PNVME_REQUEST NvmeTakeAll(PNVME_QUEUE Queue, PNVME_REQUEST List)
{
    for (ULONG Slot = 0; Slot < Queue->Entries; Slot++) {
        PNVME_REQUEST Request = Queue->Slots[Slot];

        if (Request != NULL) {
            Queue->Slots[Slot] = NULL;
            Queue->Outstanding--;
            Request->Next = List;
            List = Request;
        }
    }
    return List;
}

/* The request will not be waited for any more: what completes it comes too late. */
VOID NvmeForget(PNVME_QUEUE Queue, PNVME_REQUEST Request)
{
    for (ULONG Slot = 0; Slot < Queue->Entries; Slot++) {
        if (Queue->Slots[Slot] == Request) {
            Queue->Slots[Slot] = NULL;
            Queue->Outstanding--;
        }
    }
}

VOID NvmeResetQueue(PNVME_QUEUE Queue)
{
    Queue->Tail = 0;
    Queue->SubmissionHead = 0;
    Queue->Head = 0;
    Queue->Phase = 1;
    Queue->Outstanding = 0;
    RtlZeroMemory(Queue->Slots, sizeof(Queue->Slots));
    RtlZeroMemory((PVOID)Queue->Submission, Queue->Entries * sizeof(NVME_COMMAND));
    RtlZeroMemory((PVOID)Queue->Completion, Queue->Entries * sizeof(NVME_COMPLETION));
}
