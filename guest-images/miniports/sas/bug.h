/*
 * The bugs that the SAS miniport may be built with: -DBUG=BUG_RELEASE_TWICE and so on. Without it, none.
 *
 * Each is reached a few times in a run of the workload, never on every request. Where the guest cannot go on, that is
 * said: the lock is then taken for ever.
 */
#ifndef BUG_H
#define BUG_H

#include "built_with.h"

#define BUG_RELEASE_WITHOUT_ACQUIRE 1 /* a flush releases by a handle that nothing was acquired with */
#define BUG_RELEASE_TWICE 2           /* an unmap releases its lock twice */
#define BUG_RELEASE_ON_ERROR_PATH 3   /* a failed command jumps to a release of what it never acquired */
#define BUG_RELEASE_OTHER_LOCK 4      /* an unmap releases a lock that it held before, beside the one that it holds */
#define BUG_RELEASE_WRONG_ROUTINE 5   /* a flush takes the interrupt lock and releases the message's */
#define BUG_RELEASE_COPIED_HANDLE 6   /* an unmap hands its lock handle on by value */
#define BUG_HANDLE_FOR_TWO_LOCKS 7    /* a flush takes two locks by one handle: the guest hangs */
#define BUG_DPC_LOCK_WITHOUT_DPC 8    /* an unmap acquires a DPC lock and does not say which */
#define BUG_RELEASE_AFTER_REFUSAL 9   /* the work item does not look at the status of its acquire */
#define BUG_AT_DPC_LEVEL_IN_WORKER 10 /* the work item takes a lock by the routine for DISPATCH_LEVEL */
#define BUG_RELEASE_FROM_DPC_LEVEL 11 /* a release that does not lower the IRQL, for an acquire that raised it */
#define BUG_RELEASE_TO_DISPATCH_LEVEL 12   /* the work item releases to the IRQL of another time */
#define BUG_RELEASE_AFTER_TOPOLOGY 13      /* where there is no event, the events' lock is released once more */
#define BUG_RETURN_WITH_LOCK 14            /* the first flush returns early with a lock held */
#define BUG_ACQUIRE_TWICE 15               /* a flush acquires what it holds: the guest hangs */
#define BUG_INTERRUPT_LOCK_IN_INTERRUPT 16 /* an interrupt routine takes the interrupt lock: the guest hangs */
#define BUG_START_IO_LOCK_IN_START_IO 17   /* HwStartIo takes the StartIo lock: the guest hangs */

#endif
