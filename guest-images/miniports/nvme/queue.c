/* One queue pair: rings, slots and doorbells (section 4.1; shadow doorbells: section 7.13). */
#include "nvme.h"

static VOID WriteDoorbell(PNVME_EXTENSION Extension, ULONG Index, ULONG Value)
{
    PULONG Register = (PULONG)(Extension->Registers + NVME_REGISTER_DOORBELLS + Index * Extension->DoorbellStride);

    StorPortWriteRegisterUlong(Register, Value);
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
    Request->Command.CommandId = (USHORT)Slot;
    Queue->Submission[Queue->Tail] = Request->Command;
    Queue->Tail = Next;
    Ring(Extension, 2u * Queue->Id, Queue->Tail);
    return TRUE;
}

/* Takes every new completion; returns the requests in the order in which they were completed. */
PNVME_REQUEST NvmeReap(PNVME_EXTENSION Extension, PNVME_QUEUE Queue)
{
    PNVME_REQUEST First = NULL, *Link = &First;
    BOOLEAN Moved = FALSE;

    while ((Queue->Completion[Queue->Head].Status & 1) == Queue->Phase) {
        volatile NVME_COMPLETION *Entry = &Queue->Completion[Queue->Head];
        USHORT Slot;
        PNVME_REQUEST Request;

        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        Slot = Entry->CommandId;
        Queue->SubmissionHead = Entry->SubmissionHead % Queue->Entries;
        Request = Slot < Queue->Entries ? Queue->Slots[Slot] : NULL;
        if (Request != NULL) {
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
