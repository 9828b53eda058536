/*
 * thread.c - creation and end of kernel threads, priority and affinity.
 */
#include "io_internal.h"
#include "ki.h"

static LIST_ENTRY KiDeadThreads = {&KiDeadThreads, &KiDeadThreads};
static volatile LONG KiNextThreadId;

VOID KiInitializeThread(PKTHREAD Thread, PKSTART_ROUTINE Start, PVOID Context, KPRIORITY Priority)
{
    RtlZeroMemory(Thread, sizeof(*Thread));
    KiInitializeHeader(&Thread->Header, KiThreadObject, sizeof(KTHREAD), 0);
    KeInitializeTimer(&Thread->Timer);
    Thread->Priority = Priority;
    Thread->Affinity = Thread->UserAffinity = KiActiveProcessors;
    Thread->StartRoutine = Start;
    Thread->StartContext = Context;
    Thread->UniqueThread = 4 * (ULONG)__atomic_add_fetch(&KiNextThreadId, 1, __ATOMIC_RELAXED);
}

/*
 * Frees the stacks of ended threads and drops their own references. A thread is put on the list by itself, under the
 * lock that its successor drops, so it is off its stack when it is found here.
 */
static VOID KiReapThreads(VOID)
{
    for (;;) {
        PKTHREAD thread = NULL;
        KIRQL old = KxLockRaise(&KiDispatcherLock);
        if (!IsListEmpty(&KiDeadThreads))
            thread = CONTAINING_RECORD(RemoveHeadList(&KiDeadThreads), KTHREAD, ReadyListEntry);
        KxUnlockLower(&KiDispatcherLock, old);
        if (!thread)
            return;
        MiFreeStack(thread->StackBase);
        ObfDereferenceObject(thread);
    }
}

/* Bytes that KiSwapContext keeps below its return address: eight registers, ten XMM registers, alignment. */
#define KI_SWAP_FRAME (8 * 8 + 168)

/* Prepares the stack for the first switch, which returns to KiThreadStartup. */
static BOOLEAN KiPrepareStack(PKTHREAD Thread)
{
    ULONG_PTR top = MiAllocateStack();
    ULONG_PTR *slot;

    if (!top)
        return FALSE;
    Thread->StackBase = top;
    Thread->StackLimit = top - KI_STACK_SIZE;
    slot = (ULONG_PTR *)(top - 0x40);
    *slot = (ULONG_PTR)KiThreadStartup;
    Thread->KernelStack = (PUCHAR)slot - KI_SWAP_FRAME;
    return TRUE;
}

/* Initialises an allocated KTHREAD and makes it ready; the caller owns the memory. */
static PKTHREAD KiStartThread(PKTHREAD Thread, PKSTART_ROUTINE Start, PVOID Context, KPRIORITY Priority)
{
    KIRQL old;

    KiReapThreads();
    KiInitializeThread(Thread, Start, Context, Priority);
    if (!KiPrepareStack(Thread))
        return NULL;
    old = KxLockRaise(&KiDispatcherLock);
    Thread->LastProcessor = KiProcessorNumber();
    KiReadyThread(Thread);
    KxUnlockLower(&KiDispatcherLock, old);
    return Thread;
}

PKTHREAD KiCreateThread(PKSTART_ROUTINE Start, PVOID Context, KPRIORITY Priority)
{
    PVOID object;

    if (!NT_SUCCESS(ObCreateObject(KernelMode, PsThreadType, NULL, KernelMode, NULL, sizeof(KTHREAD), 0, 0, &object)))
        return NULL;
    ObfReferenceObject(object); /* one for the running thread, one for the creator */
    return KiStartThread(object, Start, Context, Priority);
}

VOID KiThreadEntry(VOID)
{
    PKTHREAD thread = KiCurrentThread();

    KxUnlock(&KiDispatcherLock);
    KiWriteCr8(PASSIVE_LEVEL);
    thread->StartRoutine(thread->StartContext);
    PsTerminateSystemThread(STATUS_SUCCESS);
}

NTSTATUS PsTerminateSystemThread(NTSTATUS ExitStatus)
{
    PKTHREAD thread = KiCurrentThread();

    KxLockRaise(&KiDispatcherLock);
    thread->ExitStatus = ExitStatus;
    thread->Header.SignalState = 1;
    KiSignalObject(thread);
    thread->State = KiThreadTerminated;
    InsertTailList(&KiDeadThreads, &thread->ReadyListEntry);
    KiSwapThread();
    KeBugCheckEx(0x4A, (ULONG_PTR)thread, 0, 0, 0); /* an ended thread ran on */
}

PKTHREAD KiGetCurrentThreadExport(VOID)
{
    return KiCurrentThread();
}

KPRIORITY KeSetPriorityThread(PKTHREAD Thread, KPRIORITY Priority)
{
    KIRQL old = KxLockRaise(&KiDispatcherLock);
    KPRIORITY before = Thread->Priority;

    /* A waiting or running thread only: one in the ready queue keeps its place until it has run. */
    if (Thread->State != KiThreadReady && Priority > 0 && Priority < 32)
        Thread->Priority = Priority;
    KxUnlockLower(&KiDispatcherLock, old);
    return before;
}

KPRIORITY KeQueryPriorityThread(PKTHREAD Thread)
{
    return Thread->Priority;
}

static KAFFINITY KiSetAffinity(KAFFINITY Affinity)
{
    KIRQL old = KxLockRaise(&KiDispatcherLock);
    PKTHREAD thread = KiCurrentThread();
    KAFFINITY before = thread->Affinity;

    thread->Affinity = Affinity & KiActiveProcessors ? Affinity & KiActiveProcessors : KiActiveProcessors;
    if (!(thread->Affinity & KiPrcb()->SetMember)) {
        KiReadyThread(thread);
        KiSwapThread();
    }
    KxUnlockLower(&KiDispatcherLock, old);
    return before;
}

VOID KeSetSystemAffinityThread(KAFFINITY Affinity)
{
    KiSetAffinity(Affinity);
}

KAFFINITY KeSetSystemAffinityThreadEx(KAFFINITY Affinity)
{
    return KiSetAffinity(Affinity);
}

VOID KeRevertToUserAffinityThread(VOID)
{
    KiSetAffinity(KiCurrentThread()->UserAffinity);
}

VOID KeRevertToUserAffinityThreadEx(KAFFINITY Affinity)
{
    KiSetAffinity(Affinity);
}

VOID KeSetSystemGroupAffinityThread(PGROUP_AFFINITY Affinity, PGROUP_AFFINITY PreviousAffinity)
{
    KAFFINITY before = KiSetAffinity(Affinity->Mask);

    if (PreviousAffinity) {
        RtlZeroMemory(PreviousAffinity, sizeof(*PreviousAffinity));
        PreviousAffinity->Mask = before;
    }
}

VOID KeRevertToUserGroupAffinityThread(PGROUP_AFFINITY PreviousAffinity)
{
    KiSetAffinity(PreviousAffinity->Mask);
}

VOID KeEnterCriticalRegion(VOID)
{
    KiCurrentThread()->CriticalRegionDepth++;
}

VOID KeLeaveCriticalRegion(VOID)
{
    KiCurrentThread()->CriticalRegionDepth--;
}

BOOLEAN KeAreApcsDisabled(VOID)
{
    return KiCurrentThread()->CriticalRegionDepth != 0;
}
