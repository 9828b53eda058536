/*
 * resource.c - ERESOURCE: one owner who may write, or several who read. Whoever cannot have it waits on the resource's
 * event and tries again; who gets it shared wakes the next, who may share it too.
 */
#include "ki.h"

#define EX_RESOURCE_TAG 'seRE'

NTSTATUS ExInitializeResourceLite(PERESOURCE Resource)
{
    RtlZeroMemory(Resource, sizeof(*Resource));
    Resource->ExclusiveWaiters = ExAllocatePool2(0, sizeof(KEVENT), EX_RESOURCE_TAG);
    if (!Resource->ExclusiveWaiters)
        return STATUS_INSUFFICIENT_RESOURCES;
    KeInitializeEvent(Resource->ExclusiveWaiters, SynchronizationEvent, FALSE);
    return STATUS_SUCCESS;
}

NTSTATUS ExDeleteResourceLite(PERESOURCE Resource)
{
    ExFreePoolWithTag(Resource->ExclusiveWaiters, EX_RESOURCE_TAG);
    Resource->ExclusiveWaiters = NULL;
    return STATUS_SUCCESS;
}

static BOOLEAN ExpOwns(PERESOURCE Resource)
{
    return (Resource->Flag & ResourceOwnedExclusive) &&
           Resource->OwnerEntry.OwnerThread == (ERESOURCE_THREAD)KiCurrentThread();
}

static BOOLEAN ExpTryExclusive(PERESOURCE Resource)
{
    KIRQL old = KxLockRaise(&Resource->SpinLock);
    BOOLEAN taken = Resource->ActiveCount == 0 || ExpOwns(Resource);

    if (taken) {
        Resource->ActiveCount++;
        Resource->Flag |= ResourceOwnedExclusive;
        Resource->OwnerEntry.OwnerThread = (ERESOURCE_THREAD)KiCurrentThread();
    } else {
        Resource->ContentionCount++;
    }
    KxUnlockLower(&Resource->SpinLock, old);
    return taken;
}

static BOOLEAN ExpTryShared(PERESOURCE Resource)
{
    KIRQL old = KxLockRaise(&Resource->SpinLock);
    BOOLEAN taken = !(Resource->Flag & ResourceOwnedExclusive) || ExpOwns(Resource);

    if (taken)
        Resource->ActiveCount++;
    else
        Resource->ContentionCount++;
    KxUnlockLower(&Resource->SpinLock, old);
    return taken;
}

BOOLEAN ExAcquireResourceExclusiveLite(PERESOURCE Resource, BOOLEAN Wait)
{
    while (!ExpTryExclusive(Resource)) {
        if (!Wait)
            return FALSE;
        KeWaitForSingleObject(Resource->ExclusiveWaiters, Executive, KernelMode, FALSE, NULL);
    }
    return TRUE;
}

BOOLEAN ExAcquireResourceSharedLite(PERESOURCE Resource, BOOLEAN Wait)
{
    while (!ExpTryShared(Resource)) {
        if (!Wait)
            return FALSE;
        KeWaitForSingleObject(Resource->ExclusiveWaiters, Executive, KernelMode, FALSE, NULL);
        KeSetEvent(Resource->ExclusiveWaiters, 0, FALSE);
    }
    return TRUE;
}

VOID ExReleaseResourceLite(PERESOURCE Resource)
{
    KIRQL old = KxLockRaise(&Resource->SpinLock);
    BOOLEAN free;

    if (Resource->ActiveCount == 0)
        KeBugCheckEx(0xE3, (ULONG_PTR)Resource, (ULONG_PTR)KiCurrentThread(), 0, 0); /* RESOURCE_NOT_OWNED */
    free = --Resource->ActiveCount == 0;
    if (free) {
        Resource->Flag &= (USHORT)~ResourceOwnedExclusive;
        Resource->OwnerEntry.OwnerThread = 0;
    }
    KxUnlockLower(&Resource->SpinLock, old);
    if (free)
        KeSetEvent(Resource->ExclusiveWaiters, 0, FALSE);
}

BOOLEAN ExIsResourceAcquiredExclusiveLite(PERESOURCE Resource)
{
    return ExpOwns(Resource);
}
