/* Notes of rare requests, under locks of their own: here is most of what the miniport can do wrong (bug.h). */
#include "vdisk.h"

static DECLSPEC_NOINLINE VOID TakeNoteLock(PVDISK_EXTENSION Extension)
{
    KeAcquireSpinLockAtDpcLevel(&Extension->NoteLock);
}

static DECLSPEC_NOINLINE VOID NoteWithTwoAcquires(PVDISK_EXTENSION Extension)
{
    KIRQL OldIrql, Again;

    KeAcquireSpinLock(&Extension->NoteLock, &OldIrql);
    Extension->Notes++;
    KeAcquireSpinLock(&Extension->NoteLock, &Again);
    KeReleaseSpinLock(&Extension->NoteLock, OldIrql);
}

static DECLSPEC_NOINLINE VOID NoteByHelper(PVDISK_EXTENSION Extension)
{
    KIRQL OldIrql;

    KeRaiseIrql(DISPATCH_LEVEL, &OldIrql);
    TakeNoteLock(Extension);
    Extension->Notes++;
    TakeNoteLock(Extension);
    KeReleaseSpinLockFromDpcLevel(&Extension->NoteLock);
    KeLowerIrql(OldIrql);
}

static DECLSPEC_NOINLINE VOID NoteAndLower(PVDISK_EXTENSION Extension)
{
    KIRQL OldIrql;

    /* Nobody else takes this lock, so that the guest can go on. */
    KeAcquireSpinLock(&Extension->FirstNoteLock[VDISK_FIRST_NOTES + Extension->Notes % VDISK_FIRST_NOTES], &OldIrql);
    Extension->Notes++;
    KeLowerIrql(OldIrql);
}

static DECLSPEC_NOINLINE VOID NoteInHelper(PVDISK_EXTENSION Extension)
{
    KIRQL OldIrql;

    KeAcquireSpinLock(&Extension->NoteLock, &OldIrql);
    Extension->Notes++;
    KeReleaseSpinLock(&Extension->NoteLock, OldIrql);
}

static DECLSPEC_NOINLINE VOID NoteAndCallHelper(PVDISK_EXTENSION Extension)
{
    KIRQL OldIrql;

    KeAcquireSpinLock(&Extension->NoteLock, &OldIrql);
    NoteInHelper(Extension);
    KeReleaseSpinLock(&Extension->NoteLock, OldIrql);
}

static DECLSPEC_NOINLINE VOID NoteInLoop(PVDISK_EXTENSION Extension)
{
    for (ULONG Index = 0; Index < 2; Index++) {
        KIRQL OldIrql;

        KeAcquireSpinLock(&Extension->NoteLock, &OldIrql);
        Extension->Notes++;
        KeLowerIrql(OldIrql);
    }
}

static DECLSPEC_NOINLINE VOID NoteAtDispatchLevelAfterwards(PVDISK_EXTENSION Extension)
{
    KIRQL OldIrql;

    KeAcquireSpinLock(&Extension->NoteLock, &OldIrql);
    Extension->Notes++;
    KeReleaseSpinLock(&Extension->NoteLock, DISPATCH_LEVEL);
    KeLowerIrql(OldIrql);
}

static DECLSPEC_NOINLINE VOID NoteWithoutRaising(PVDISK_EXTENSION Extension)
{
    KeAcquireSpinLockAtDpcLevel(&Extension->NoteLock);
    Extension->Notes++;
    KeReleaseSpinLockFromDpcLevel(&Extension->NoteLock);
}

static DECLSPEC_NOINLINE VOID NoteUnderCopy(PVDISK_EXTENSION Extension)
{
    KSPIN_LOCK Copy = Extension->NoteLock;
    KIRQL OldIrql;

    KeAcquireSpinLock(&Copy, &OldIrql);
    Extension->Notes++;
    KeReleaseSpinLock(&Copy, OldIrql);
}

static DECLSPEC_NOINLINE VOID NoteAndInitialize(PVDISK_EXTENSION Extension)
{
    KIRQL OldIrql;

    KeAcquireSpinLock(&Extension->NoteLock, &OldIrql);
    Extension->Notes++;
    KeInitializeSpinLock(&Extension->NoteLock);
    KeReleaseSpinLock(&Extension->NoteLock, OldIrql);
}

static DECLSPEC_NOINLINE VOID NoteInOtherOrder(PVDISK_EXTENSION Extension)
{
    KIRQL OldIrql;

    KeAcquireSpinLock(&Extension->MapLock, &OldIrql);
    KeAcquireSpinLockAtDpcLevel(&Extension->UnmapLock);
    Extension->Notes++;
    KeReleaseSpinLockFromDpcLevel(&Extension->UnmapLock);
    KeReleaseSpinLock(&Extension->MapLock, OldIrql);
}

static DECLSPEC_NOINLINE VOID ReleaseByValue(KLOCK_QUEUE_HANDLE Handle)
{
    KeReleaseInStackQueuedSpinLock(&Handle);
}

static DECLSPEC_NOINLINE VOID NoteQueued(PVDISK_EXTENSION Extension)
{
    KLOCK_QUEUE_HANDLE Handle;

    KeAcquireInStackQueuedSpinLock(&Extension->NoteLock, &Handle);
    Extension->Notes++;
    if (HAS_BUG(QUEUED_HANDLE_COPIED)) {
        ReleaseByValue(Handle);
        return;
    }
    if (HAS_BUG(PLAIN_RELEASE_OF_QUEUED)) {
        KeReleaseSpinLock(&Extension->NoteLock, Handle.OldIrql);
        return;
    }
    KeReleaseInStackQueuedSpinLock(&Handle);
    if (HAS_BUG(QUEUED_RELEASED_TWICE)) {
        KeReleaseInStackQueuedSpinLock(&Handle);
    }
}

static DECLSPEC_NOINLINE VOID NoteAndReleaseAsQueued(PVDISK_EXTENSION Extension)
{
    KLOCK_QUEUE_HANDLE Handle = {.LockQueue = {.Next = NULL, .Lock = &Extension->NoteLock}};

    KeAcquireSpinLock(&Extension->NoteLock, &Handle.OldIrql);
    Extension->Notes++;
    KeReleaseInStackQueuedSpinLock(&Handle);
}

static DECLSPEC_NOINLINE VOID NoteAfterTry(PVDISK_EXTENSION Extension)
{
    KIRQL OldIrql;

    KeAcquireSpinLock(&Extension->NoteLock, &OldIrql);
    /* Whoever wrote this thought that the lock can be taken twice. */
    KeTryToAcquireSpinLockAtDpcLevel(&Extension->NoteLock);
    Extension->Notes++;
    KeReleaseSpinLockFromDpcLevel(&Extension->NoteLock);
    KeReleaseSpinLock(&Extension->NoteLock, OldIrql);
}

static DECLSPEC_NOINLINE VOID NoteUnderCancelLock(PVDISK_EXTENSION Extension)
{
    KIRQL OldIrql;

    IoAcquireCancelSpinLock(&OldIrql);
    Extension->Notes++;
    IoReleaseCancelSpinLock(OldIrql);
    IoReleaseCancelSpinLock(OldIrql);
}

static DECLSPEC_NOINLINE VOID NoteForDpc(PVDISK_EXTENSION Extension)
{
    KIRQL OldIrql;

    KeAcquireSpinLock(&Extension->NoteLock, &OldIrql);
    Extension->Notes++;
    Extension->HandedOver = TRUE;
    KeLowerIrql(OldIrql);
}

static VOID NoteRightly(PVDISK_EXTENSION Extension)
{
    KIRQL OldIrql;

    KeAcquireSpinLock(&Extension->NoteLock, &OldIrql);
    Extension->Notes++;
    KeReleaseSpinLock(&Extension->NoteLock, OldIrql);
}

VOID VdiskNoteFlush(PVDISK_EXTENSION Extension)
{
    switch (BUG) {
    case BUG_LOWER_WITH_LOCK:
        NoteAndLower(Extension);
        break;
    case BUG_ACQUIRE_TWICE:
        NoteWithTwoAcquires(Extension);
        break;
    case BUG_ACQUIRE_TWICE_BY_HELPER:
        NoteByHelper(Extension);
        break;
    case BUG_ACQUIRE_AGAIN_IN_HELPER:
        NoteAndCallHelper(Extension);
        break;
    case BUG_LOWER_IN_LOOP:
        NoteInLoop(Extension);
        break;
    case BUG_RELEASE_TO_DISPATCH_LEVEL:
        NoteAtDispatchLevelAfterwards(Extension);
        break;
    case BUG_AT_DPC_LEVEL_IN_THREAD:
        NoteWithoutRaising(Extension);
        break;
    case BUG_LOCK_COPIED_TO_STACK:
        NoteUnderCopy(Extension);
        break;
    case BUG_INITIALIZE_HELD_LOCK:
        NoteAndInitialize(Extension);
        break;
    case BUG_ORDER_INVERTED:
        NoteInOtherOrder(Extension);
        break;
    case BUG_QUEUED_HANDLE_COPIED:
    case BUG_PLAIN_RELEASE_OF_QUEUED:
    case BUG_QUEUED_RELEASED_TWICE:
        NoteQueued(Extension);
        break;
    case BUG_QUEUED_RELEASE_OF_PLAIN:
        NoteAndReleaseAsQueued(Extension);
        break;
    case BUG_TRY_NOT_LOOKED_AT:
        NoteAfterTry(Extension);
        break;
    case BUG_CANCEL_LOCK_TWICE:
        NoteUnderCancelLock(Extension);
        break;
    case BUG_HANDED_TO_DPC:
        NoteForDpc(Extension);
        break;
    default:
        NoteRightly(Extension);
        break;
    }
}

/* An early return that was forgotten when the lock came in. The lock of each is another one, so that the guest can go
 * on. */
DECLSPEC_NOINLINE VOID VdiskNoteUnmap(PVDISK_EXTENSION Extension)
{
    PKSPIN_LOCK Lock = &Extension->FirstNoteLock[Extension->UnmapNotes % VDISK_FIRST_NOTES];

    KeAcquireSpinLockAtDpcLevel(Lock);
    Extension->UnmapNotes++;
    if (HAS_BUG(RETURN_WITH_LOCK) && Extension->UnmapNotes <= VDISK_FIRST_NOTES) {
        return;
    }
    KeReleaseSpinLockFromDpcLevel(Lock);
}

/* The other end of a lock that was handed over. */
VOID VdiskTakeOver(PVDISK_EXTENSION Extension)
{
    if (Extension->HandedOver) {
        Extension->HandedOver = FALSE;
        KeReleaseSpinLockFromDpcLevel(&Extension->NoteLock);
    }
}
